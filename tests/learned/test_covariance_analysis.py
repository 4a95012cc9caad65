"""The Kalman update with a covariance that a network gives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import diffassim as da
from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.grids.grid import Grid
from diffassim.learned import LearnedCovarianceAnalysis, Network

N = 6
RNG = np.random.default_rng(0)
X = jnp.asarray(2 + 3 * RNG.normal(size=N))
WEIGHTS = jnp.asarray(RNG.normal(size=(N, 3)))
STILL = da.models.FunctionModel(lambda x, t: x)
VALUES = np.array(X) + RNG.normal(size=(1, N))
COVARIANCES = [
    da.covariances.LocalRoot(WEIGHTS),
    0.5 * da.covariances.LocalRoot(WEIGHTS) + da.covariances.Diagonal(std=0.3),
    da.covariances.Ensemble(RNG.normal(size=(4, N))),
    da.covariances.Gaussian(1.3, 0.8, Grid(1.0, True), nugget=1e-2),
]


def matrix(function, n=N):
    return np.array(jax.vmap(function)(jnp.eye(n))).T


@pytest.mark.parametrize("B", COVARIANCES, ids=["root", "sum", "ensemble", "Gaussian"])
def test_the_update_is_that_of_the_kalman_filter_with_gaps_and_two_kinds(B):
    values = VALUES.copy()
    values[0, 2] = np.nan
    means = da.observations.Linear(jnp.asarray(np.full((2, N), 0.5)))
    first = da.Observations(values, [0], error=da.covariances.Diagonal(std=0.7))
    second = da.Observations(
        np.array([[1.0, 2.0]]), [0], means, da.covariances.Dense.from_matrix([[1.0, 0.3], [0.3, 2.0]])
    )
    method = LearnedCovarianceAnalysis(Network(lambda w, x, g: B, 0.0), tolerance=1e-12)
    found = method.analyze(None, X, (first, second))[0].state
    seen = [0, 1, 3, 4, 5]
    H = np.vstack([np.eye(N)[seen], np.full((2, N), 0.5)])
    R = np.zeros((7, 7))
    R[:5, :5], R[5:, 5:] = 0.49 * np.eye(5), [[1.0, 0.3], [0.3, 2.0]]
    y = np.concatenate([values[0, seen], [1.0, 2.0]])
    P = matrix(B.apply)
    expected = X + P @ H.T @ np.linalg.solve(H @ P @ H.T + R, y - H @ np.array(X))
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_a_nonlinear_operator_is_linearized_at_the_forecast():
    square = da.observations.Function(jnp.square)
    y = da.Observations(VALUES**2, [0], square, da.covariances.Diagonal(std=2.0))
    method = LearnedCovarianceAnalysis(Network(lambda w, x, g: da.covariances.Diagonal(std=w), 0.4))
    found = method.analyze(None, X, y)[0].state
    h = 2 * X
    np.testing.assert_allclose(found, X + 0.16 * h * (VALUES[0] ** 2 - X**2) / (0.16 * h**2 + 4), rtol=1e-4)


def test_nothing_observed_changes_nothing_and_the_memory_stays():
    y = da.Observations(np.full((1, N), np.nan), [0], error=da.covariances.Diagonal(std=1.0))
    network = Network(lambda w, x, g, m: (da.covariances.LocalRoot(w), m + 1), WEIGHTS)
    belief, info = LearnedCovarianceAnalysis(network, jnp.zeros(2)).analyze(None, X, y)
    assert np.array_equal(belief.state, X) and not belief.memory.any() and int(info.count) == 0


def test_losses_pass_through_cycles_to_the_network_and_the_memory():
    y = da.Observations(np.repeat(VALUES, 3, axis=0), [1, 2, 3], error=da.covariances.Diagonal(std=1.0))
    network = Network(
        lambda w, x, g, m: (da.covariances.LocalRoot(w + 0.1 * m + 0.01 * x[:, None]), jnp.tanh(m + g[:, None])),
        WEIGHTS,
    )
    model = da.models.Lorenz96(dt=0.05)

    @jax.jit
    def loss(w):
        method = LearnedCovarianceAnalysis(network.replace(weights=w), jnp.zeros((N, 1)), tolerance=1e-12)
        return jnp.mean(da.cycle(method, model, X, y)[1].analysis.mean ** 2)

    direction = jnp.asarray(RNG.normal(size=WEIGHTS.shape))
    slope, h = jnp.vdot(jax.grad(loss)(WEIGHTS), direction), 1e-5
    np.testing.assert_allclose(
        slope, (loss(WEIGHTS + h * direction) - loss(WEIGHTS - h * direction)) / (2 * h), rtol=1e-6
    )


def test_runs_of_their_own_and_single_precision():
    y = da.Observations(jnp.asarray(VALUES, jnp.float32), [0], error=da.covariances.Diagonal(std=jnp.float32(1.0)))
    method = LearnedCovarianceAnalysis(
        Network(lambda w, x, g: da.covariances.LocalRoot(w), WEIGHTS.astype(jnp.float32))
    )
    states = jnp.stack([X, X + 1]).astype(jnp.float32)
    found = jax.vmap(lambda x: method.analyze(None, x, y)[0].state)(states)
    assert found.dtype == jnp.float32
    for x, state in zip(states, found, strict=True):
        np.testing.assert_allclose(method.analyze(None, x, y)[0].state, state, rtol=1e-5)


def test_states_of_several_fields():
    x = {"wind": X, "rain": X[:2]}
    B = da.covariances.Blocks({"wind": da.covariances.LocalRoot(WEIGHTS), "rain": da.covariances.Diagonal(std=0.5)})
    both = da.observations.Function(lambda x: ravel_pytree(x)[0])
    y = da.Observations(np.ones((1, N + 2)), [0], both, da.covariances.Diagonal(std=1.0))
    found = LearnedCovarianceAnalysis(Network(lambda w, x, g: B, 0.0)).analyze(None, x, y)[0].state
    np.testing.assert_allclose(found["rain"], X[:2] + 0.25 / 1.25 * (1 - X[:2]), rtol=1e-4)


def test_what_is_no_covariance_of_the_state_is_named():
    y = da.Observations(VALUES, [0], error=da.covariances.Diagonal(std=1.0))
    with pytest.raises(ConfigurationError, match="the network of LearnedCovarianceAnalysis"):
        LearnedCovarianceAnalysis(Network(lambda w, x, g: g, 0.0)).analyze(None, X, y)
    with pytest.raises(ShapeError, match="LocalRoot has weights for"):
        LearnedCovarianceAnalysis(Network(lambda w, x, g: da.covariances.LocalRoot(WEIGHTS[:5]), 0.0)).analyze(
            None, X, y
        )


def test_weights_that_are_no_block_of_neighbors_are_refused():
    for shape, axes, said in (((6, 4), 1, "neighbors"), ((6,), 1, "neighbors"), ((2, 3), 1, "do not fit"),
                              ((6, 6, 3), 2, "neighbors")):  # fmt: skip
        with pytest.raises(ShapeError, match=said):
            da.covariances.LocalRoot(jnp.ones(shape), axes)
    with pytest.raises(ConfigurationError, match="axes=0"):
        da.covariances.LocalRoot(jnp.ones((6, 3)), 0)
