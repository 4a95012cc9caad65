"""Convolutions of lines in blocks, and the solver of learned steps that is made of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.diagnostics import check_gradient
from diffassim.learned import ConvolutionalSteps, LineAutoencoder, LineConvolution, UnrolledSolver
from diffassim.learned.line_convolution import banded
from diffassim.training import fit

RNG = np.random.default_rng(0)


def by_hand(x, kernel):
    """The sum of the definition, one output after the other."""
    edge = len(kernel) // 2
    found = np.zeros((len(x), kernel.shape[2]))
    for t in range(len(x)):
        for k in range(-edge, edge + 1):
            if 0 <= t + k < len(x):
                found[t] += x[t + k] @ kernel[k + edge]
    return found


@pytest.mark.parametrize(
    ("width", "inputs", "outputs", "n", "block"),
    [(1, 2, 3, 6, 3), (3, 1, 2, 12, 1), (3, 2, 1, 12, 4), (5, 3, 2, 12, 6), (5, 2, 2, 12, 2), (7, 1, 1, 12, 2),
     (9, 2, 1, 12, 3), (5, 3, 8, 16, None), (3, 40, 2, 7, None), (5, 1, 1, 2, None)],
)  # fmt: skip
def test_a_convolution_is_its_sum_in_any_blocks(width, inputs, outputs, n, block):
    kernel, x = RNG.normal(size=(width, inputs, outputs)), RNG.normal(size=(2, n, inputs))
    layer = LineConvolution(jnp.asarray(kernel), block)
    expected = np.stack([by_hand(each, kernel) for each in x])
    np.testing.assert_allclose(layer(x), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(jax.vmap(banded(layer, n))(x), expected, rtol=1e-12, atol=1e-12)
    assert jax.jit(layer)(jnp.asarray(x, jnp.float64)).dtype == jnp.float64


def test_the_gradient_in_the_kernel_does_not_depend_on_blocks():
    kernel, x, dual = (jnp.asarray(RNG.normal(size=s)) for s in ((3, 2, 4), (12, 2), (12, 4)))
    found = [jax.grad(lambda k, b=b: jnp.sum(dual * LineConvolution(k, b)(x)))(kernel) for b in (1, 2, 6)]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-12)


def test_bad_convolutions_say_so():
    with pytest.raises(ConfigurationError, match="odd width"):
        LineConvolution(jnp.ones((4, 1, 1)))
    with pytest.raises(ConfigurationError, match="odd width"):
        LineConvolution(jnp.ones((3, 1)))
    with pytest.raises(ConfigurationError, match="block=0"):
        LineConvolution(jnp.ones((3, 1, 1)), 0)
    with pytest.raises(ShapeError, match="blocks of 4"):
        LineConvolution(jnp.ones((3, 1, 1)), 4)(jnp.ones((10, 1)))
    with pytest.raises(ShapeError, match=r"expected \(..., 10, 2\)"):
        LineConvolution(jnp.ones((3, 2, 1)))(jnp.ones((10, 3)))


def solver(dtype=jnp.float64, steps=2):
    keys = jax.random.split(jax.random.key(0))
    prior = LineAutoencoder.drawn(keys[0], 2, 3, dtype=dtype)
    return UnrolledSolver(prior, ConvolutionalSteps.drawn(keys[1], 2, 4, dtype=dtype), jnp.asarray(0.3, dtype), steps)


def windows(count, n=12, dtype=np.float64):
    """Waves of any phase, and what is seen of them."""
    rng = np.random.default_rng(1)
    phase = rng.uniform(0, 2 * np.pi, (count, 1)) + 0.5 * np.arange(n)[None]
    truth = np.stack([np.sin(phase), np.cos(phase)], axis=-1).astype(dtype)
    return truth, np.where(rng.random(truth.shape) < 0.4, truth, dtype(np.nan))


@pytest.mark.slow
def test_the_solver_is_the_loop_of_its_steps():
    ours, (_, (y,)) = solver(), windows(1)
    seen = np.isfinite(y).astype(float)
    values = jnp.asarray(np.nan_to_num(y))
    x, memory = values, ours.cell.memory(12)

    def cost(x):
        hidden = jnp.maximum(by_parts(x, ours.prior.first.kernel), 0)
        return jnp.sum(seen * (x - values) ** 2) + 0.09 * jnp.sum((x - by_parts(hidden, ours.prior.second.kernel)) ** 2)

    def by_parts(x, kernel):
        edge = len(kernel) // 2
        padded = jnp.concatenate([jnp.zeros((edge, x.shape[1])), x, jnp.zeros((edge, x.shape[1]))])
        return sum(padded[k : k + len(x)] @ kernel[k] for k in range(len(kernel)))

    h, c = memory
    for _ in range(2):
        gates = by_parts(jnp.concatenate([jax.grad(cost)(x), h], axis=1), ours.cell.gates.kernel)
        i, f, o, n = jnp.split(gates, 4, axis=1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(n)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        x = x - h @ ours.cell.out
    np.testing.assert_allclose(ours(y), x, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_gradients_through_all_steps():
    truth, y = windows(2)

    def misfit(ours):
        return jnp.mean((jax.vmap(ours)(jnp.asarray(y)) - truth) ** 2)

    check_gradient(misfit, solver())
    nothing = jax.grad(lambda ours: jnp.sum(ours(jnp.full((12, 2), jnp.nan))))(solver())
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(nothing))


@pytest.mark.slow
def test_it_learns_what_waves_look_like_in_single_precision():
    truth, y = windows(64, dtype=np.float32)

    def loss(ours, batch, key):
        return jnp.mean((jax.vmap(ours)(batch[1]) - batch[0]) ** 2)

    start = solver(jnp.float32, 5)
    found = fit(loss, start, (truth, y), optimizer=optax.adam(1e-2), steps=150, batch_size=16, key=jax.random.key(0))
    test, seen = windows(96, dtype=np.float32)
    errors = [float(jnp.mean((jax.vmap(each)(seen[64:]) - test[64:]) ** 2)) for each in (start, found.trained)]
    assert errors[1] < 0.3 * errors[0]
    assert jax.tree.leaves(found.trained)[0].dtype == jnp.float32


def test_bad_solvers_say_so():
    with pytest.raises(ConfigurationError, match="steps=0"):
        solver(steps=0)
    with pytest.raises(ShapeError, match=r"expected \(time, channel\)"):
        solver()(jnp.ones((2, 12, 2)))
