"""Transfer: parts that stay as they are, low-rank adapters, distillation, the worst observation errors."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import diffassim as da
from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.covariances import Diagonal
from diffassim.learned import LowRankAdapted, Network
from diffassim.learned.networks import MLP
from diffassim.training import (
    Adversarial,
    Distillation,
    Forecast,
    Loss,
    MeanSquare,
    WindowSample,
    fit,
    paths_of,
    training_only,
    worst_errors,
)

KEY = jax.random.key(0)


def net(sizes=(3, 8, 2), seed=0):
    return Network.from_nnx(MLP(sizes, rngs=nnx.Rngs(seed)))


def square(network, batch, key):
    x, y = batch
    return jnp.mean((jax.vmap(network)(x) - y) ** 2)


DATA = (jax.random.normal(KEY, (32, 3)), jax.random.normal(jax.random.fold_in(KEY, 1), (32, 2)))


def test_only_the_named_leaves_move_and_decay_does_not_reach_the_others():
    network = net()
    optimizer = training_only(optax.adamw(1e-2, weight_decay=0.5), network, "*last*")
    trained = fit(square, network, DATA, optimizer=optimizer, steps=5, batch_size=8, key=KEY, chunk=5).trained
    for path, before, after in zip(
        paths_of(network), jax.tree.leaves(network), jax.tree.leaves(trained), strict=True
    ):  # fmt: skip
        assert bool(jnp.array_equal(before, after)) == ("last" not in path), path
    with pytest.raises(ConfigurationError, match="matches no leaf"):
        training_only(optax.sgd(1.0), network, "*lost*")


def test_an_untrained_adapter_changes_nothing_and_a_trained_one_spares_the_network():
    network, x = net(), jnp.ones(3)
    adapted = LowRankAdapted.create(network, rank=1, key=KEY)
    np.testing.assert_allclose(adapted(x), network(x), rtol=1e-14)
    assert adapted.count() == (3 + 8) + (8 + 2)
    trained = fit(square, adapted, DATA, optimizer=optax.adam(1e-2), steps=40, batch_size=32, key=KEY).trained
    assert all(map(np.array_equal, jax.tree.leaves(network), jax.tree.leaves(trained.network)))
    assert float(square(trained, DATA, None)) < 0.98 * float(square(network, DATA, None))
    np.testing.assert_allclose(trained.merged()(x), trained(x), rtol=1e-13)
    for weight, moved in zip(
        jax.tree.leaves(network.weights), jax.tree.leaves(trained.merged().weights), strict=True
    ):  # fmt: skip
        if weight.ndim == 2:
            assert np.linalg.matrix_rank(np.asarray(moved - weight), tol=1e-10) == 1
    with pytest.raises(ConfigurationError, match="at least 1"):
        LowRankAdapted.create(network, rank=0, key=KEY)
    with pytest.raises(ConfigurationError, match="matrix"):
        LowRankAdapted.create(Network(jnp.multiply, jnp.ones(3)), rank=1, key=KEY)


def test_a_stack_of_matrices_gets_a_pair_for_each():
    network = Network(lambda w, x: jnp.einsum("kij,j->ki", w, x), jnp.ones((5, 4, 3)))
    adapted = LowRankAdapted.create(network, rank=2, key=KEY)
    assert adapted.left.shape == (5, 4, 2) and adapted.right.shape == (5, 2, 3)
    assert adapted(jnp.ones(3)).tolist() == network(jnp.ones(3)).tolist()


def test_a_student_in_reach_of_its_teacher_becomes_it():
    teacher = Network(lambda w, x: w @ x, jax.random.normal(KEY, (2, 3)))
    student = teacher.replace(weights=jnp.zeros((2, 3)))
    found = fit(Distillation(teacher), student, DATA[0], optimizer=optax.adam(0.1), steps=300, batch_size=32, key=KEY)
    np.testing.assert_allclose(found.trained.weights, teacher.weights, atol=1e-4)


def test_distillation_mixes_with_targets_and_takes_the_mean_of_teachers():
    x, _ = DATA
    student, teacher = net(seed=1), net(seed=2)
    both = Distillation(teacher, 0.25)(student, DATA)
    apart = Distillation(teacher)(student, x), square(student, DATA, None)
    np.testing.assert_allclose(both, 0.25 * apart[0] + 0.75 * apart[1], rtol=1e-13)
    many = Distillation(lambda s: jnp.stack([teacher(s), student(s)]), ensemble=True)(student, x)
    np.testing.assert_allclose(many, apart[0] / 4, rtol=1e-12)
    slope = jax.grad(lambda t: Distillation(t)(student, x))(teacher)
    assert all(float(jnp.max(jnp.abs(leaf))) == 0 for leaf in jax.tree.leaves(slope))
    members = Distillation(lambda s: jnp.stack([teacher(s), student(s)]), 0.25, ensemble=True)
    once = Distillation(None, 0.25)(student, members.taught(DATA, batch_size=3))
    np.testing.assert_allclose(once, members(student, DATA), rtol=1e-13)
    np.testing.assert_allclose(Distillation(None)(student, Distillation(teacher).taught(x)), apart[0], rtol=1e-13)
    with pytest.raises(ShapeError, match="student returns"):
        Distillation(lambda s: s)(student, x)
    with pytest.raises(ConfigurationError, match="between 0 and 1"):
        Distillation(teacher, 1.5)


def test_the_worst_errors_of_a_linear_function_lie_along_its_slope():
    slope = jnp.array([3.0, 0.0, -4.0])
    options = {"radius": 2.0, "steps": 12, "rate": 0.5, "key": KEY}
    found = worst_errors(lambda e: jnp.sum(slope * e), jnp.zeros(3), 3, **options)
    np.testing.assert_allclose(found, 2 * 3**0.5 * slope / 5, atol=2e-2)
    assert float(jnp.linalg.norm(found)) <= 2 * 3**0.5 * (1 + 1e-12)


def test_observations_with_the_worst_errors_do_more_harm_and_gaps_stay_gaps():
    y = da.Observations(jnp.array([[1.0, jnp.nan], [2.0, 3.0]]), [1, 2], error=Diagonal(std=jnp.array([0.5, 2.0])))
    truth = da.Observations(jnp.ones((1, 2)), [3], error=Diagonal(std=1.0))
    sample = WindowSample(jnp.zeros(2), y, truth)

    def loss(gain, sample, key):
        """The misfit of a gain to the last observation."""
        x = gain * sample.window.values[1]
        return Loss(Forecast(3), MeanSquare())(STILL, sample.replace(background=x))

    worst = Adversarial(loss, share=1.0, steps=8)
    harmed = worst.worst(jnp.array(0.7), sample, KEY).window
    assert harmed.mask.tolist() == y.mask.tolist() and float(harmed.values[0, 1]) == 0
    size = jnp.where(y.mask, (harmed.values - y.values) / jnp.array([[0.5, 2.0]]), 0)
    assert float(jnp.sum(size**2)) <= 3 * (1 + 1e-9)
    clean, bad = loss(jnp.array(0.7), sample, None), worst(jnp.array(0.7), sample, KEY)
    assert float(bad) > 1.5 * float(clean)
    half = Adversarial(loss, steps=8)(jnp.array(0.7), sample, KEY)
    np.testing.assert_allclose(half, (clean + bad) / 2, rtol=1e-12)
    # Danskin: the derivative is that at fixed errors.
    at_fixed = jax.grad(loss)(jnp.array(0.7), sample.replace(window=harmed), None)
    np.testing.assert_allclose(jax.grad(worst)(jnp.array(0.7), sample, KEY), at_fixed, rtol=1e-12)
    for wrong in ({"radius": 0.0}, {"steps": 0}, {"share": 2.0}):
        with pytest.raises(ConfigurationError):
            Adversarial(loss, **wrong)


STILL = da.models.FunctionModel(lambda x, t: x)
