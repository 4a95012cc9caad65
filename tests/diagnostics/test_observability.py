"""What observations can see, against dense algebra."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.diagnostics import observability
from tests.variational.problems import linear_gaussian

COST, P = linear_gaussian(n=6, m=2, times=2)
SOLUTION = da.minimize(COST, da.GaussNewton(tolerance=1e-11, inner=da.variational.PrimalCG(1e-10)))
G = np.concatenate([P["H"], P["H"] @ P["A"]])
GAIN = P["B"] @ G.T @ np.linalg.inv(G @ P["B"] @ G.T + np.kron(np.eye(2), P["R"]))
RATIO = np.diag(P["B"] - GAIN @ G @ P["B"]) / np.diag(P["B"])
L = np.linalg.cholesky(P["B"])
HESSIAN = np.eye(6) + L.T @ G.T @ np.linalg.solve(np.kron(np.eye(2), P["R"]), G) @ L


def test_spectrum_signal_and_variances_are_those_of_dense_algebra():
    found = observability(COST, SOLUTION)
    eigenvalues = np.linalg.eigvalsh(HESSIAN)[::-1]
    np.testing.assert_allclose(found.eigenvalues, eigenvalues[:4], rtol=1e-10)
    assert found.condition_number == pytest.approx(np.linalg.cond(HESSIAN), rel=1e-10)
    assert found.degrees_of_freedom == pytest.approx(np.trace(G @ GAIN), abs=1e-10)
    assert float(found.used["state"]) == pytest.approx(np.trace(G @ GAIN), abs=1e-10)
    assert found.above_noise == np.sum(eigenvalues >= 2) and found.unseen == 2 and found.complete
    np.testing.assert_allclose(found.variance_ratio, RATIO, atol=1e-10)
    text = str(found)
    assert "2 not observed" in text and f"{RATIO.mean():.3f}" in text


def test_variances_from_draws_agree_within_their_error():
    found = observability(COST, SOLUTION, draws=4000)
    np.testing.assert_allclose(found.variance_ratio, RATIO, rtol=5 * 2 / np.sqrt(4000))


def test_a_truncated_spectrum_says_so():
    found = observability(COST, SOLUTION, rank=1)
    assert not found.complete and "leading 1" in str(found) and "not observed" not in str(found)


def test_what_is_not_controlled_or_not_observed_is_reported():
    B = da.covariances.Blocks({"seen": da.covariances.Diagonal(std=1.0), "not": da.covariances.Zero()})
    y = da.Observations(np.array([[2.0, np.nan]]), [0], lambda x: x["seen"], da.covariances.Diagonal(std=1.0))
    cost = da.ThreeDVar({"seen": jnp.zeros(2), "not": jnp.zeros(3)}, B, y)
    found = observability(cost, da.minimize(cost))
    np.testing.assert_allclose(found.variance_ratio["seen"], [0.5, 1.0], atol=1e-12)
    assert np.isnan(found.variance_ratio["not"]).all() and "not controlled" in str(found)
    without = observability(cost, da.minimize(cost.replace(observations=y.replace(values=jnp.full((1, 2), jnp.nan)))))
    assert np.isfinite(without.eigenvalues).all()


@pytest.mark.parametrize("values", [np.full((1, 6), np.nan), np.zeros((0, 6))], ids=["all missing", "none"])
def test_without_observations_nothing_is_seen(values):
    y = da.Observations(values, np.zeros(len(values), int), error=da.covariances.Diagonal(std=1.0))
    cost = da.ThreeDVar(P["x_b"], COST.B, y)
    found = observability(cost, da.minimize(cost))
    assert found.condition_number == 1 and found.degrees_of_freedom == 0 and found.unseen == 6
    np.testing.assert_allclose(found.variance_ratio, np.ones(6), atol=1e-14)
    assert "condition number 1" in str(found)


def test_bad_settings_are_named():
    with pytest.raises(da.ConfigurationError, match="draws must not be negative, found -1"):
        observability(COST, SOLUTION, draws=-1)
    with pytest.raises(da.ConfigurationError, match="rank = 7 is larger than the control vector, which has 6"):
        observability(COST, SOLUTION, rank=7)
