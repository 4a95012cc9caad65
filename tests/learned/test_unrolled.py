"""Convolutions of lines, and the solver of learned steps that is made of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.diagnostics import check_gradient
from diffassim.learned import ConvolutionalSteps, LineAutoencoder, LineConvolution, UnrolledSolver
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
    ("width", "inputs", "outputs", "n"),
    [(1, 2, 3, 6), (3, 1, 2, 12), (3, 2, 1, 12), (5, 2, 2, 12), (9, 2, 1, 12), (5, 3, 8, 16), (3, 40, 2, 7),
     (5, 1, 1, 2), (7, 2, 1, 1), (7, 1, 2, 1)],
)  # fmt: skip
def test_a_convolution_is_its_sum_for_any_axes_of_lines(width, inputs, outputs, n):
    kernel, x = RNG.normal(size=(width, inputs, outputs)), RNG.normal(size=(2, 3, n, inputs))
    layer = LineConvolution(jnp.asarray(kernel))
    expected = np.stack([[by_hand(line, kernel) for line in lines] for lines in x])
    np.testing.assert_allclose(layer(x), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(layer(x[0, 0]), expected[0, 0], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(jax.vmap(layer)(jnp.asarray(x)), expected, rtol=1e-12, atol=1e-12)
    found = layer.channels_first(jnp.moveaxis(jnp.asarray(x), -1, 0))
    np.testing.assert_allclose(jnp.moveaxis(found, 0, -1), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("inputs", "outputs"), [(2, 4), (4, 2)])  # moved before the product, and after it
def test_the_gradient_of_a_convolution_is_that_of_its_sum(inputs, outputs):
    kernel, x, dual = (jnp.asarray(RNG.normal(size=s)) for s in ((3, inputs, outputs), (12, inputs), (12, outputs)))
    found = jax.grad(lambda k, x: jnp.sum(dual * LineConvolution(k)(x)), (0, 1))(kernel, x)
    around = np.pad(x, ((1, 1), (0, 0)))
    np.testing.assert_allclose(found[0], [around[k : k + 12].T @ dual for k in range(3)], rtol=1e-12)
    np.testing.assert_allclose(found[1], by_hand(dual, np.transpose(kernel, (0, 2, 1))[::-1]), rtol=1e-12, atol=1e-12)


def test_bad_convolutions_say_so():
    with pytest.raises(ConfigurationError, match="odd width"):
        LineConvolution(jnp.ones((4, 1, 1)))
    with pytest.raises(ConfigurationError, match="odd width"):
        LineConvolution(jnp.ones((3, 1)))
    for x in (jnp.ones((10, 3)), jnp.ones(2)):
        with pytest.raises(ShapeError, match=r"expected \(..., n, 2\)"):
            LineConvolution(jnp.ones((3, 2, 1)))(x)


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
    x = values

    def cost(x):
        hidden = jnp.maximum(by_parts(x, ours.prior.first.kernel), 0)
        return jnp.sum(seen * (x - values) ** 2) + 0.09 * jnp.sum((x - by_parts(hidden, ours.prior.second.kernel)) ** 2)

    def by_parts(x, kernel):
        edge = len(kernel) // 2
        padded = jnp.concatenate([jnp.zeros((edge, x.shape[1])), x, jnp.zeros((edge, x.shape[1]))])
        return sum(padded[k : k + len(x)] @ kernel[k] for k in range(len(kernel)))

    h = c = jnp.zeros((12, 4))
    for _ in range(2):
        gates = by_parts(jnp.concatenate([jax.grad(cost)(x), h], axis=1), ours.cell.gates.kernel)
        i, f, o, n = jnp.split(gates, 4, axis=1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(n)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        x = x - h @ ours.cell.out
    np.testing.assert_allclose(ours(y), x, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-5)])
def test_windows_at_once_are_windows_one_by_one(dtype, tolerance):
    truth, y = windows(4, dtype=dtype)
    ours = solver(jnp.dtype(dtype))

    def misfit(found):
        return lambda ours: jnp.mean((found(ours)(jnp.asarray(y)) - truth) ** 2)

    one_by_one = jax.jit(jax.value_and_grad(misfit(lambda ours: lambda y: jnp.stack([ours(each) for each in y]))))
    for several in (lambda ours: ours, jax.vmap, lambda ours: lambda y: ours(y.reshape(2, 2, 12, 2)).reshape(y.shape)):
        found, expected = jax.jit(jax.value_and_grad(misfit(several)))(ours), one_by_one(ours)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert a.dtype == dtype
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


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
        return jnp.mean((ours(batch[1]) - batch[0]) ** 2)

    start = solver(jnp.float32, 5)
    found = fit(loss, start, (truth, y), optimizer=optax.adam(1e-2), steps=150, batch_size=16, key=jax.random.key(0))
    test, seen = windows(96, dtype=np.float32)
    errors = [float(jnp.mean((each(seen[64:]) - test[64:]) ** 2)) for each in (start, found.trained)]
    assert errors[1] < 0.3 * errors[0]
    assert jax.tree.leaves(found.trained)[0].dtype == jnp.float32


def test_bad_solvers_say_so():
    with pytest.raises(ConfigurationError, match="steps=0"):
        solver(steps=0)
    with pytest.raises(ShapeError, match=r"expected \(..., time, channel\)"):
        solver()(jnp.ones(12))
