"""Covariances from data: patterns, likelihood, and consistency of innovations."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffassim.core.errors import ConfigurationError, DataError, ShapeError
from diffassim.core.results import Result
from diffassim.covariances import (
    Dense,
    Diagonal,
    Gaussian,
    LowRank,
    Matern,
    NotAvailableError,
    departure_statistics,
    fit_parameters,
    forecast_differences,
    negative_log_likelihood,
    tune_factors,
)
from diffassim.grids import Grid

CIRCLE = Grid(1.0, True)
N = 20


def matrix(B, n=N):
    return np.asarray(B.apply(jnp.eye(n)))


def draws(covariance, count, seed):
    return np.random.default_rng(seed).normal(size=(count, len(covariance))) @ np.linalg.cholesky(covariance).T


# --- patterns


def test_all_patterns_are_the_sample_covariance_and_fewer_the_best_approximation():
    samples = np.random.default_rng(0).normal(size=(8, 6)) * np.arange(1.0, 7)
    exact = np.cov(samples.T)
    complete = LowRank.from_samples(samples, 6, residual=False)
    np.testing.assert_allclose(matrix(complete, 6), exact, rtol=0, atol=1e-12 * exact.max())
    few = LowRank.from_samples(samples, 2, residual=False)
    eigenvalues = np.linalg.eigvalsh(exact)
    np.testing.assert_allclose(np.linalg.norm(matrix(few, 6) - exact, 2), eigenvalues[-3], rtol=1e-12)
    full_rank = LowRank.from_samples(samples, 2)
    np.testing.assert_allclose(np.diag(matrix(full_rank, 6)), np.diag(exact), rtol=1e-12)
    np.testing.assert_allclose(full_rank.solve(full_rank.apply(jnp.ones(6))), np.ones(6), rtol=1e-11)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: LowRank(jnp.ones(())), ShapeError, "at least one pattern"),
        (lambda: LowRank(jnp.full((1, 2), jnp.nan)), DataError, "modes holds 2 non-finite"),
        (lambda: LowRank.from_samples(np.ones((1, 3)), 1), ShapeError, "at least two samples"),
        (lambda: LowRank.from_samples(np.eye(4), 4), ConfigurationError, "rank=4 must lie between 1 and 3"),
        (lambda: LowRank.from_samples(np.ones((5, 3)), 1), DataError, "span 0 directions, fewer than rank=1"),
        (lambda: LowRank.from_samples(np.array([[1.0, np.nan], [0, 0]]), 1), DataError, "Leave incomplete samples out"),
        (lambda: LowRank.from_samples(np.array([[1.0, 0.0], [0, 0]]), 1), DataError, "leave no variance"),
        (lambda: LowRank(jnp.ones((1, 2))).check("B", jnp.ones(3)), ShapeError, r"B: the patterns have shape \(2,\)"),
        (lambda: LowRank(jnp.ones((1, 2))).solve(jnp.ones(2)), NotAvailableError, "with a residual it has one"),
    ],
)
def test_what_holds_no_patterns_is_named(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_forecast_differences_of_independent_errors_have_their_covariance():
    B = matrix(Gaussian(1.0, 2.0, CIRCLE, nugget=1e-3))
    longer, shorter = draws(B, 4000, 1), draws(B, 4000, 2)
    found = forecast_differences(longer + 5.0, shorter)
    np.testing.assert_allclose(np.mean(found, axis=0), 0, atol=1e-13)
    # five standard errors of a covariance of 4000 pairs
    assert np.abs(found.T @ found / 4000 - B).max() < 5 * (2 / 4000) ** 0.5
    longer[3, 0] = np.nan
    gap = forecast_differences(longer, shorter)
    assert np.isnan(gap[3, 0])
    assert np.isfinite(gap).sum() == gap.size - 1
    with pytest.raises(ShapeError, match="same shapes"):
        forecast_differences(longer, shorter[1:])
    with pytest.raises(ConfigurationError, match="factor must be finite and positive"):
        forecast_differences(longer, shorter, factor=0.0)


# --- likelihood


def every_second(x):
    return x[::2]


@pytest.mark.slow
def test_the_likelihood_is_that_of_the_normal_distribution():
    B, R = Matern(1.3, 2.0, CIRCLE), Diagonal(0.7)
    d = np.random.default_rng(0).normal(size=(5, N // 2))
    S = matrix(B)[::2, ::2] + 0.49 * np.eye(N // 2)

    def exact(d, S):
        return 0.5 * (np.sum(d * np.linalg.solve(S, d.T).T) + len(d) * np.linalg.slogdet(2 * np.pi * S)[1])

    found = negative_log_likelihood(d, B, R, every_second, jnp.ones(N))
    np.testing.assert_allclose(found, exact(d, S), rtol=1e-12)
    # missing values are the same as removed ones
    gaps = d.copy()
    gaps[1, 3] = gaps[2] = np.nan
    keep = np.arange(N // 2) != 3
    rest = exact(d[[0, 3, 4]], S) + exact(d[1:2, keep], S[np.ix_(keep, keep)])
    np.testing.assert_allclose(negative_log_likelihood(gaps, B, R, every_second, jnp.ones(N)), rest, rtol=1e-12)
    # without observation error: the operations of B, or its matrix where something is missing
    samples = np.random.default_rng(1).normal(size=(3, N))
    np.testing.assert_allclose(negative_log_likelihood(samples, B), exact(samples, matrix(B)), rtol=1e-12)
    samples[0, 0] = np.nan
    rest = exact(samples[1:], matrix(B)) + exact(samples[:1, 1:], matrix(B)[1:, 1:])
    np.testing.assert_allclose(negative_log_likelihood(samples, B), rest, rtol=1e-12)


def test_the_gradient_survives_gaps_and_equals_differences():
    d = np.random.default_rng(0).normal(size=(4, N // 2))
    d[0, 2] = np.nan

    @jax.jit
    def of(p):
        return negative_log_likelihood(d, Matern(p[0], p[1], CIRCLE), Diagonal(p[2]), every_second, jnp.ones(N))

    p, h = jnp.array([1.3, 2.0, 0.7]), 1e-5
    differences = [(of(p + h * e) - of(p - h * e)) / (2 * h) for e in jnp.eye(3)]
    np.testing.assert_allclose(jax.grad(of)(p), np.array(differences), rtol=1e-7)


@pytest.mark.slow
def test_parameters_of_a_twin_are_recovered_within_their_standard_errors():
    truth = {"std": 1.2, "length": 2.5, "error": 0.6}
    S = matrix(Gaussian(1.2, 2.5, CIRCLE)) + 0.36 * np.eye(N)
    d = draws(S, 400, 3)
    d[np.random.default_rng(4).uniform(size=d.shape) < 0.1] = np.nan

    def of(p):
        return negative_log_likelihood(d, Gaussian(p["std"], p["length"], CIRCLE), Diagonal(p["error"]))

    found = fit_parameters(of, {"std": 0.5, "length": 1.0, "error": 1.0})
    assert found.result == Result.CONVERGED
    for name, true in truth.items():
        assert 0 < found.relative_error[name] < 0.1
        assert abs(np.log(found.parameters[name] / true)) < 4 * found.relative_error[name], name


@pytest.mark.slow
def test_what_cannot_be_fitted_is_named():
    with pytest.raises(ConfigurationError, match="start must be finite and positive"):
        fit_parameters(lambda p: p, -1.0)
    with pytest.raises(DataError, match="not finite at the first guess"):
        fit_parameters(lambda p: jnp.log(p - 2.0), 1.0)
    # two factors of which only the product matters: the Hessian is singular, and the report says so
    found = fit_parameters(lambda p: jnp.square(jnp.log(p["a"] * p["b"])), {"a": 2.0, "b": 3.0})
    assert np.isnan(found.relative_error["a"])
    singular = LowRank(np.ones((1, 3)))
    with pytest.raises(ConfigurationError, match="is not positive definite; give R"):
        negative_log_likelihood(np.array([[1.0, 2.0, np.nan]]), singular)
    assert np.isnan(jax.jit(lambda B: negative_log_likelihood(np.array([[1.0, 2.0, np.nan]]), B))(singular))
    with pytest.raises(ShapeError, match=r"shape \(cases, m\)"):
        negative_log_likelihood(np.ones(3), Diagonal(1.0), Diagonal(1.0))
    with pytest.raises(ShapeError, match="give `x`"):
        negative_log_likelihood(np.ones((1, 3)), Diagonal(1.0), Diagonal(1.0), every_second)
    with pytest.raises(ShapeError, match=r"H\(x\) has shape \(10,\)"):
        negative_log_likelihood(np.ones((1, 3)), Diagonal(1.0), Diagonal(1.0), every_second, jnp.ones(N))


# --- consistency of departures


def test_departures_of_a_right_analysis_return_its_covariances():
    B, R = matrix(Gaussian(1.0, 2.0, CIRCLE)), 0.5 * np.eye(N)
    d_ob = N**0.5 * np.linalg.cholesky(B + R).T  # innovations whose second moment is exactly B + R
    d_oa = d_ob @ np.linalg.solve(B + R, R)
    found = departure_statistics(d_ob, d_oa)
    for estimate, exact in ((found.R, R), (found.HBH, B), (found.innovation, B + R)):
        np.testing.assert_allclose(estimate, exact, rtol=0, atol=1e-12)
    d_ob[0, 1] = np.nan
    assert departure_statistics(d_ob, d_oa).cases[1, :2].tolist() == [N - 1, N - 1]
    with pytest.raises(ShapeError, match="both need shape"):
        departure_statistics(d_ob, d_oa[1:])


def test_tuned_factors_are_the_true_ones_where_the_moments_are_exact_and_near_them_for_samples():
    B, R = Gaussian(1.0, 2.0, CIRCLE), Dense.from_matrix(matrix(Diagonal(0.5 + np.arange(N) / N)))
    S = 2.0 * matrix(B) + 0.5 * matrix(R)
    exact = tune_factors(N**0.5 * np.linalg.cholesky(S).T, B, R)
    assert exact.converged
    np.testing.assert_allclose([exact.B, exact.R], [2.0, 0.5], rtol=1e-6)
    d = draws(S, 500, 5)
    d[np.random.default_rng(6).uniform(size=d.shape) < 0.2] = np.nan
    sampled = tune_factors(d, B, R)
    # at most a few hundred independent numbers per factor: standard errors of a few percent
    np.testing.assert_allclose([sampled.B, sampled.R], [2.0, 0.5], rtol=0.1)
    through_operator = tune_factors(d[:, ::2], B, Diagonal(1.0), every_second, jnp.ones(N))
    direct = tune_factors(d[:, ::2], Dense.from_matrix(matrix(B)[::2, ::2]), Diagonal(1.0))
    np.testing.assert_allclose(through_operator.history[-1], direct.history[-1], rtol=1e-6)


def test_what_innovations_cannot_tell_apart_is_named():
    d = np.ones((3, N))
    with pytest.raises(ConfigurationError, match="H B H\\^T is a multiple of R"):
        tune_factors(d, Diagonal(1.0), Diagonal(2.0))
    with pytest.raises(DataError, match="no innovation is observed"):
        tune_factors(np.nan * d, Diagonal(1.0), Diagonal(2.0))
    with pytest.raises(ConfigurationError, match="R is not positive definite"):
        tune_factors(d, Gaussian(1.0, 2.0, CIRCLE), LowRank(np.ones((1, N))))
    with pytest.raises(ShapeError, match=r"shape \(cases, m\)"):
        tune_factors(d[0], Diagonal(1.0), Diagonal(2.0))
