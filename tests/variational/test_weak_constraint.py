"""Weak-constraint 4D-Var is the Kalman smoother with model error, and without error the strong-constraint one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.covariances import Dense, Diagonal, Zero

from .problems import kalman_smoother, linear_gaussian, lorenz96_window

TIGHT = da.GaussNewton(tolerance=1e-11, inner=da.variational.PrimalCG(1e-8))
Q = np.diag([0.5, 1.0, 0.2, 0.7, 0.3, 0.9]) + 0.1


def weakened(cost, Q, **options):
    return da.WeakConstraint4DVar(
        cost.model, cost.background, cost.B, Q, cost.observations, steps=cost.steps, **options
    )


@pytest.mark.slow
def test_linear_gaussian_is_the_smoother_with_model_error():
    strong, p = linear_gaussian()
    cost = weakened(strong, Dense.from_matrix(Q))
    solution = da.minimize(cost, TIGHT)
    expected, _ = kalman_smoother(**p, Q=Q)
    np.testing.assert_allclose(cost.trajectory(solution.control), expected, atol=1e-10)
    differences = expected[1:] - expected[:-1] @ p["A"].T
    np.testing.assert_allclose(cost.model_error(solution.control), differences, atol=1e-10)


@pytest.mark.slow
def test_blocks_are_the_smoother_of_the_blocks():
    # Three steps of the model in one: observations and errors every third step.
    one, p = linear_gaussian()
    root = np.real(np.linalg.matrix_power(p["A"], 3))
    obs = one.observations[0]
    thirds = da.Observations(obs.values, 3 * obs.steps, obs.operator, obs.error)
    cost = da.WeakConstraint4DVar(one.model, one.background, one.B, Dense.from_matrix(Q), thirds, every=3)
    expected, _ = kalman_smoother(**{**p, "A": root}, Q=Q)
    solution = da.minimize(cost, TIGHT)
    np.testing.assert_allclose(cost.trajectory(solution.control)[::3], expected, atol=1e-10)
    assert cost.model_error(solution.control).shape == (3, 6)


def test_steps_after_the_last_block_have_no_error():
    strong, p = linear_gaussian()
    cost = weakened(strong, Diagonal(std=0.7), every=2)
    v = jax.tree.map(lambda leaf: leaf + 1.0, cost.control())
    x = np.asarray(cost.trajectory(v, 5))
    jumps = x[1:] - x[:-1] @ p["A"].T
    np.testing.assert_allclose(jumps, np.array([0, 0.7, 0, 0, 0])[:, None] * np.ones(6), atol=1e-13)


@pytest.mark.slow
def test_without_model_error_it_is_strong_constraint():
    strong, _ = linear_gaussian()
    expected = da.minimize(strong, TIGHT)
    exact = weakened(strong, Zero())
    v = {"state": jnp.ones(6), "model_error": exact.control()["model_error"]}
    assert float(exact(v)) == pytest.approx(float(strong({"state": v["state"]})), rel=1e-13)
    np.testing.assert_allclose(da.minimize(exact, TIGHT).state, expected.state, atol=1e-9)
    # To first order in the variance, the analysis moves in proportion to it.
    distances = [
        np.abs(da.minimize(weakened(strong, Diagonal(std=std)), TIGHT).state - expected.state).max()
        for std in (1e-3, 1e-4)
    ]
    assert distances[1] < 1e-5
    assert distances[0] / distances[1] == pytest.approx(100, rel=0.05)


@pytest.mark.slow
def test_a_long_window_is_grown_from_a_shorter_one():
    strong, truth = lorenz96_window(times=41, seed=0)
    cost = weakened(strong, Diagonal(std=1e-3), every=5)
    solution = da.minimize(cost)
    horizons = np.asarray(solution.search.horizon_history)
    assert int(solution.result) == da.Result.CONVERGED
    horizons = horizons[horizons >= 0]
    assert min(horizons) < 200 == horizons[-1], "no shorter window was tried"
    assert float(jnp.sqrt(jnp.mean((solution.state - truth) ** 2))) < 0.4


@pytest.mark.slow
def test_gradient_in_the_model_error_covariance():
    strong, p = linear_gaussian()

    def analysis(scale):
        return da.minimize(weakened(strong, scale * Dense.from_matrix(Q)), TIGHT).state[0]

    def expected(scale):
        return kalman_smoother(**p, Q=scale * Q)[0][0, 0]

    difference = (expected(1 + 1e-5) - expected(1 - 1e-5)) / 2e-5
    assert float(jax.grad(analysis)(1.0)) == pytest.approx(difference, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"every": 4}, da.ConfigurationError, "every = 4 must lie between 1 and the window's 3 steps"),
        ({"every": 0}, da.ConfigurationError, "every = 0 must lie between"),
        ({"Q": None}, da.ConfigurationError, "give Q; without model error use StrongConstraint4DVar"),
        ({"Q": Diagonal(std=jnp.ones(5))}, da.ShapeError, r"WeakConstraint4DVar.Q.*\(5,\)"),
    ],
)
def test_bad_input_is_named(options, error, message):
    strong, _ = linear_gaussian()
    with pytest.raises(error, match=message):
        weakened(strong, options.pop("Q", Diagonal(std=1.0)), **options)
