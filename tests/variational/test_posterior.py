"""Second-order products against dense algebra on linear-Gaussian problems."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import diffassim as da
from diffassim.core.krylov import lanczos
from diffassim.covariances import Diagonal
from diffassim.variational import (
    ForecastError,
    observation_impact,
    observation_influence,
    posterior,
    randomized_solutions,
)
from diffassim.variational.products.influence import _influence
from diffassim.variational.products.posterior import _optimize

from .problems import kalman_smoother, linear_gaussian
from .zoo import COSTS

TIGHT = da.GaussNewton(tolerance=1e-11, inner=da.variational.PrimalCG(1e-10))
COST, P = linear_gaussian(n=6, m=2, times=2)  # four numbers: less than the state has
SOLUTION = da.minimize(COST, TIGHT)
G = np.concatenate([P["H"] @ np.linalg.matrix_power(P["A"], k) for k in range(2)])
R = np.kron(np.eye(2), P["R"])
GAIN = P["B"] @ G.T @ np.linalg.inv(G @ P["B"] @ G.T + R)
P_A = P["B"] - GAIN @ G @ P["B"]
D = P["y"].ravel() - G @ P["x_b"]


def test_covariance_is_that_of_the_smoother():
    found = posterior(COST, SOLUTION)
    assert found.values.shape == (4,)
    np.testing.assert_allclose(jax.vmap(found.covariance)(jnp.eye(6)), P_A, atol=1e-10)
    np.testing.assert_allclose(P_A, kalman_smoother(**P)[1][0], atol=1e-10)
    np.testing.assert_allclose(found.variance(), np.diag(P_A), atol=1e-10)
    np.testing.assert_allclose(found.variance_reduction(), np.diag(P["B"] - P_A), atol=1e-10)


def test_draws_have_the_posterior_covariance_exactly():
    found = posterior(COST, SOLUTION)
    images = jax.vmap(lambda e: COST.state(found.control_from({"state": e})))(jnp.eye(6)) - SOLUTION.state[None]
    np.testing.assert_allclose(images.T @ images, P_A, atol=1e-10)  # the sum over unit noises is the covariance
    draws = found.draw(jax.random.key(0), 20000)
    np.testing.assert_allclose(np.cov(draws.T), P_A, atol=5 * np.diag(P_A).max() / np.sqrt(10000))


@pytest.mark.slow
def test_randomized_solutions_have_the_posterior_covariance_exactly():
    # Solve for each unit perturbation of the residuals: the solution is linear in the noise.
    like = COST.residuals(SOLUTION.control)
    flat, unravel = ravel_pytree(like)
    noise = jax.vmap(unravel)(jnp.eye(flat.size))
    v, codes = _optimize(COST, SOLUTION.control, noise, TIGHT)
    images = jax.vmap(COST.state)(v) - SOLUTION.state[None]
    assert not np.any(codes)
    np.testing.assert_allclose(images.T @ images, P_A, atol=1e-9)
    draws, codes = randomized_solutions(COST, SOLUTION, jax.random.key(1), 3, TIGHT)
    assert draws["state"].shape == (3, 6) and codes.shape == (3,)
    assert np.std(draws["state"], axis=0).min() > 0


@pytest.mark.slow
def test_repeated_eigenvalues_are_found():
    # All eigenvalues are one: a Krylov space from one vector has a single dimension.
    one = Diagonal(std=1.0)
    cost = da.ThreeDVar(jnp.zeros(5), one, da.Observations(np.array([[1.0, 2, 3, np.nan, 4]]), [0], error=one))
    found = posterior(cost, da.minimize(cost, TIGHT))
    np.testing.assert_allclose(found.variance(), [0.5, 0.5, 0.5, 1.0, 0.5], atol=1e-12)
    assert float(found.degrees_of_freedom()) == pytest.approx(2.0, abs=1e-10)
    A = jnp.diag(jnp.array([2.0, 2.0, 5.0, 5.0, 0.0]))
    again = lanczos(
        lambda x: A @ x, jnp.array([1.0, 0, 1, 0, 0]), 5, lambda k: jnp.cos((k.astype(float) + 1) * jnp.arange(5.0))
    )
    np.testing.assert_allclose(again.ritz()[0], [0, 2, 2, 5, 5], atol=1e-12)


@pytest.mark.slow
def test_a_truncated_posterior_is_never_too_small_and_converges():
    cost, p = linear_gaussian(n=12, m=12, times=2)
    solution = da.minimize(cost, TIGHT)
    exact = posterior(cost, solution)
    matrices = [jax.vmap(exact.replace(values=exact.values[-k:], vectors={"state": exact.vectors["state"][-k:]})
                         .covariance)(jnp.eye(12)) for k in (1, 4, 12)]  # fmt: skip
    for matrix in matrices:
        assert np.linalg.eigvalsh(matrix - matrices[-1]).min() > -1e-10
    few = posterior(cost, solution, rank=8)
    # Pairs pass with a relative residual below 1e-3; the covariance errs by its square.
    assert np.linalg.eigvalsh(jax.vmap(few.covariance)(jnp.eye(12)) - matrices[-1]).min() > -1e-6
    assert 1 <= int(jnp.sum(few.values > 0)) < 8
    H = np.concatenate([p["H"], p["H"] @ p["A"]])
    precision = np.linalg.inv(p["B"]) + H.T @ np.linalg.solve(np.kron(np.eye(2), p["R"]), H)
    np.testing.assert_allclose(matrices[-1], np.linalg.inv(precision), atol=1e-8)


@pytest.mark.slow
def test_degrees_of_freedom_and_the_terms_of_the_cost():
    streams = tuple(
        da.Observations(P["y"][k : k + 1], [k], COST.observations[0].operator, COST.observations[0].error)
        for k in range(2)
    )
    cost = COST.replace(observations=streams)
    solution = da.minimize(cost, TIGHT)
    found = posterior(cost, solution)
    influence = G @ GAIN  # H K, whose trace by blocks is the degrees of freedom by stream
    assert float(found.degrees_of_freedom()) == pytest.approx(np.trace(influence), abs=1e-10)
    by_stream = [np.trace(influence[i : i + 2, i : i + 2]) for i in (0, 2)]
    np.testing.assert_allclose(found.degrees_of_freedom_by_stream(), by_stream, atol=1e-10)
    report = found.consistency()
    x_a = P["x_b"] + GAIN @ D
    departures = P["y"].ravel() - G @ x_a
    np.testing.assert_allclose(
        report.background["state"], (x_a - P["x_b"]) @ np.linalg.solve(P["B"], x_a - P["x_b"]), rtol=1e-9
    )
    expected = [departures[i : i + 2] @ np.linalg.solve(P["R"], departures[i : i + 2]) for i in (0, 2)]
    np.testing.assert_allclose(report.observations, expected, rtol=1e-9)
    np.testing.assert_allclose(report.background_expected["state"], np.trace(influence), atol=1e-10)
    np.testing.assert_allclose(report.observations_expected, 2 - np.array(by_stream), atol=1e-10)
    assert float(report.total) == pytest.approx(2 * float(solution.cost), rel=1e-12)
    assert int(report.count) == 4
    assert "observations 1" in str(report) and "standard deviations" in str(report)


@pytest.mark.slow
def test_weak_constraint_terms_are_reported_apart():
    cost = da.WeakConstraint4DVar(COST.model, P["x_b"], COST.B, Diagonal(std=0.5), COST.observations)
    found = posterior(cost, da.minimize(cost, TIGHT))
    report = found.consistency()
    assert set(report.background) == {"state", "model_error"}
    used = float(sum(report.background_expected.values()))
    assert used == pytest.approx(float(found.degrees_of_freedom()), abs=1e-10)
    smoothed = kalman_smoother(**P, Q=0.25 * np.eye(6))[1][0]
    np.testing.assert_allclose(jax.vmap(found.covariance)(jnp.eye(6)), smoothed, atol=1e-10)


def test_the_impact_of_observations_is_the_change_of_a_quadratic_score():
    x_true = np.arange(6.0)

    def score(v):
        return jnp.sum((COST.trajectory(v, 5)[-1] - x_true) ** 2)  # of a forecast beyond the window

    found = observation_impact(COST, SOLUTION, score, tolerance=1e-9)
    F = np.linalg.matrix_power(P["A"], 5)
    x_a = P["x_b"] + GAIN @ D
    slopes = [2 * F.T @ (F @ x - x_true) for x in (x_a, P["x_b"])]
    np.testing.assert_allclose(np.ravel(found.sensitivity[0]), GAIN.T @ slopes[0], rtol=1e-7)
    np.testing.assert_allclose(np.ravel(found.impact[0]), D * (GAIN.T @ sum(slopes)) / 2, rtol=1e-7)
    change = np.sum((F @ x_a - x_true) ** 2) - np.sum((F @ P["x_b"] - x_true) ** 2)
    assert float(found.total) == pytest.approx(change, rel=1e-8)
    assert float(found.change) == pytest.approx(change, rel=1e-8)


@pytest.mark.slow
def test_missing_observations_have_no_impact():
    obs = da.Observations(
        np.where([[True, True], [False, True]], P["y"], np.nan),
        [0, 1],
        COST.observations[0].operator,
        Diagonal(std=1.0),
    )
    cost = COST.replace(observations=(obs,))
    found = observation_impact(cost, da.minimize(cost, TIGHT), lambda v: jnp.sum(cost.state(v) ** 2))
    assert found.impact[0][1, 0] == 0 and found.sensitivity[0][1, 0] == 0
    assert np.abs(np.delete(np.ravel(found.impact[0]), 2)).min() > 0


@pytest.mark.slow
def test_the_impact_of_a_nonlinear_window_is_the_derivative():
    cost = {entry.name: entry.cost for entry in COSTS}["4D-Var missing values"]

    def forecast(cost, v):
        return jnp.mean((cost.trajectory(v)[-1] - 2.0) ** 2)

    def through(values):
        changed = cost.replace(observations=(cost.observations[0].replace(values=values),))
        return forecast(changed, da.minimize(changed, TIGHT).control)

    found = observation_impact(cost, da.minimize(cost, TIGHT), lambda v: forecast(cost, v), tolerance=1e-9)
    np.testing.assert_allclose(found.sensitivity[0], jax.grad(through)(cost.observations[0].values), atol=1e-8)


def test_a_rank_must_be_positive():
    with pytest.raises(da.ConfigurationError, match="rank must be positive, found 0"):
        posterior(COST, SOLUTION, rank=0)


def test_a_rank_must_fit_the_control_vector():
    with pytest.raises(da.ConfigurationError, match="rank = 7 is larger than the control vector, which has 6"):
        posterior(COST, SOLUTION, rank=7)


def test_the_influence_of_each_value_is_the_diagonal_of_HK():
    found = observation_influence(posterior(COST, SOLUTION))  # R is full: not the same as the whitened diagonal
    np.testing.assert_allclose(np.ravel(found[0]), np.diag(G @ GAIN), atol=1e-10)


@pytest.mark.slow
def test_probes_estimate_what_a_truncated_posterior_leaves_out():
    few = posterior(COST, SOLUTION, rank=3)
    known, missing = observation_influence(few)[0], np.diag(G @ GAIN) - np.ravel(observation_influence(few)[0])
    assert np.abs(missing).max() > 1e-2
    found = observation_influence(few, probes=400)[0]
    # A probe errs by the off-diagonal rest of its row; the matrix is small, so that bound is computed.
    np.testing.assert_allclose(np.ravel(found), np.diag(G @ GAIN), atol=5 * np.linalg.norm(G @ GAIN) / np.sqrt(400))
    assert np.abs(np.ravel(found - known) - missing).max() < 0.5 * np.abs(missing).max()
    # With all signs once, the mean of z z^T is the identity, and so the estimate is exact.
    signs = (jnp.asarray([[[1.0, 1], [1, 1]], [[1, -1], [1, -1]], [[1, 1], [-1, -1]], [[1, -1], [-1, 1]]]),)
    np.testing.assert_allclose(np.ravel(_influence(few, signs, 4)[0]), np.diag(G @ GAIN), atol=1e-7)


@pytest.mark.slow
def test_influences_by_stream_sum_to_the_degrees_of_freedom_where_values_are_missing():
    cost = {entry.name: entry.cost for entry in COSTS}["4D-Var several streams"]
    found = posterior(cost, da.minimize(cost, TIGHT))
    influence = observation_influence(found)
    np.testing.assert_allclose([i.sum() for i in influence], found.degrees_of_freedom_by_stream(), atol=1e-10)
    assert sum(float(i.sum()) for i in influence) == pytest.approx(float(found.degrees_of_freedom()), abs=1e-10)
    for values in influence:
        assert values.min() >= -1e-12 and values.max() <= 1 + 1e-12


def test_pairs_that_are_left_out_add_nothing_to_any_stream():
    cost, _ = linear_gaussian(n=12, m=12, times=2)
    few = posterior(cost, da.minimize(cost, TIGHT), rank=8)
    assert int(jnp.sum(few.values == 0)) > 0
    assert float(sum(few.degrees_of_freedom_by_stream())) == pytest.approx(float(few.degrees_of_freedom()), rel=1e-3)


VERIFYING = da.Observations(np.arange(12.0).reshape(2, 6), [3, 5], error=Diagonal(std=np.linspace(0.5, 2, 6)))


def test_the_impacts_on_a_forecast_error_sum_to_its_change():
    score = ForecastError(COST, VERIFYING)
    assert score.steps == 5
    found = observation_impact(COST, SOLUTION, score, tolerance=1e-12)
    x_a = P["x_b"] + GAIN @ D

    def error(x):
        forecasts = [np.linalg.matrix_power(P["A"], k) @ x for k in (3, 5)]
        return sum(
            np.sum(((f - z) / np.linspace(0.5, 2, 6)) ** 2)
            for f, z in zip(forecasts, np.asarray(VERIFYING.values), strict=True)
        )

    assert float(score(SOLUTION.control)) == pytest.approx(error(x_a), rel=1e-10)
    assert float(found.change) == pytest.approx(error(x_a) - error(P["x_b"]), rel=1e-10)
    assert float(found.total) == pytest.approx(error(x_a) - error(P["x_b"]), rel=1e-10)
    assert float(sum(found.by_stream)) == pytest.approx(float(found.total), rel=1e-12)
    assert float(found.beneficial[0]) == np.mean(np.ravel(found.impact[0]) < 0)
    assert "observations 0" in str(found) and "beneficial" in str(found)


def test_missing_values_of_a_verifying_analysis_do_not_count():
    gappy = VERIFYING.values.at[:, 2].set(jnp.nan)
    score = ForecastError(COST, da.Observations(gappy, VERIFYING.steps, error=Diagonal(std=1.0)))
    seen = da.observations.Subset(jnp.array([0, 1, 3, 4, 5]))
    removed = da.Observations(np.delete(VERIFYING.values, 2, 1), VERIFYING.steps, seen, Diagonal(std=1.0))
    assert float(score(SOLUTION.control)) == pytest.approx(float(ForecastError(COST, removed)(SOLUTION.control)))


def test_a_forecast_needs_a_model_and_steps_within_it():
    envar = {entry.name: entry.cost for entry in COSTS}["4DEnVar"]
    with pytest.raises(da.ConfigurationError, match="FourDEnVar has no model to forecast with"):
        ForecastError(envar, VERIFYING)
    with pytest.raises(da.ShapeError, match="verifying step 5 lies outside of 0 to 4"):
        ForecastError(COST, VERIFYING, steps=4)


def test_products_at_a_point_that_is_no_minimum_say_so():
    def ended(code):
        return SOLUTION.replace(search=SOLUTION.search.replace(result=jnp.asarray(int(code))))

    with pytest.warns(da.AssimilationWarning, match=r"posterior: the solution is not a minimum.* MAX_ITERATIONS"):
        posterior(COST, ended(da.Result.MAX_ITERATIONS))
    with pytest.raises(da.DataError, match=r"observation_impact: the solution is not a minimum.* NON_FINITE"):
        observation_impact(COST, ended(da.Result.NON_FINITE), lambda v: COST(v))
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), SOLUTION)
    with pytest.raises(da.ShapeError, match="posterior: found a batch of 2 solutions"):
        posterior(COST, batch)


@pytest.mark.parametrize("values", [np.full((1, 6), np.nan), np.zeros((0, 6))], ids=["all missing", "none"])
@pytest.mark.slow
def test_without_observations_the_posterior_is_the_prior(values):
    y = da.Observations(values, np.zeros(len(values), int), error=Diagonal(std=1.0))
    cost = da.ThreeDVar(P["x_b"], COST.B, y)
    found = posterior(cost, da.minimize(cost))
    np.testing.assert_allclose(found.variance(), np.diag(P["B"]), rtol=1e-12)
    assert float(found.degrees_of_freedom()) == 0
    assert [i.shape for i in observation_influence(found, probes=1)] == [values.shape]
