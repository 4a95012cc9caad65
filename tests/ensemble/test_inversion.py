"""Ensemble Kalman inversion: closed form of a linear map, Tikhonov, steps, bad input."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.ensemble import ensemble_inversion

RNG = np.random.default_rng(2)
G, y = RNG.normal(size=(5, 3)), RNG.normal(size=(1, 5))
PRIOR = jnp.asarray(RNG.normal(size=(12, 3)))
R = np.diag(np.linspace(0.5, 1.0, 5) ** 2)
OBS = da.Observations(y, [0], da.observations.Linear(G), da.covariances.Diagonal(std=np.linspace(0.5, 1.0, 5)))
KEY = jax.random.key(1)


def closed_form(P, x, time=1.0):
    K = P @ G.T @ np.linalg.inv(G @ P @ G.T + R / time)
    return x + K @ (y[0] - G @ x), P - K @ G @ P


@pytest.mark.parametrize("step", [1.0, 0.25, 20.0, None])
def test_a_linear_map_gives_the_closed_form(step):
    found = ensemble_inversion(PRIOR, OBS, iterations=20 if step is None else 4, method=da.ETKF(), step=step)
    time = 1.0 if step is None else 4 * step
    np.testing.assert_allclose(found.time, time, rtol=1e-12)
    mean, covariance = closed_form(np.cov(PRIOR.T), np.mean(PRIOR, 0), time)
    np.testing.assert_allclose(np.mean(found.ensemble, 0), mean, rtol=1e-10)
    np.testing.assert_allclose(np.cov(found.ensemble.T), covariance, rtol=1e-9, atol=1e-13)
    assert found.result == da.Result.CONVERGED and np.all(np.diff(found.misfit) < 1e-9)


@pytest.mark.slow
def test_perturbed_observations_reach_it_at_the_monte_carlo_rate():
    root = np.random.default_rng(0).normal(size=(3, 3))
    mean, covariance = closed_form(root @ root.T, np.zeros(3))
    errors = []
    for members in (200, 3200):
        prior = jax.random.normal(KEY, (8, members, 3)) @ root.T
        run = jax.vmap(lambda key, prior: ensemble_inversion(prior, OBS, iterations=4, key=key, step=0.25).ensemble)
        found = np.asarray(run(jax.random.split(KEY, 8), prior))
        errors.append(np.sqrt(np.mean((found.mean(1) - mean) ** 2)))
        spread = np.mean([np.cov(E.T) for E in found], 0)
        assert np.linalg.norm(spread - covariance) < 10 * members**-0.5 * np.linalg.norm(covariance)
    # Sixteen times the members: a quarter of the error, uncertain by a quarter with 24 numbers each.
    assert 2.2 < errors[0] / errors[1] < 7.2, errors


def test_the_prior_as_a_stream_is_tikhonov():
    center, std = np.array([[1.0, -1.0, 0.5]]), 0.4
    prior = da.Observations(center, [0], error=da.covariances.Diagonal(std=std))
    found = ensemble_inversion(PRIOR, (OBS, prior), iterations=40, method=da.ETKF(), step=1e6)
    normal = G.T @ np.linalg.inv(R) @ G + np.eye(3) / std**2
    expected = np.linalg.solve(normal, G.T @ np.linalg.inv(R) @ y[0] + center[0] / std**2)
    np.testing.assert_allclose(np.mean(found.ensemble, 0), expected, rtol=1e-6)


@pytest.mark.slow
def test_derivatives_and_missing_values():
    obs = OBS.replace(values=jnp.where(jnp.arange(5) < 3, y, jnp.nan))
    std = np.linspace(0.5, 1.0, 5)[:3]
    removed = da.Observations(y[:, :3], [0], da.observations.Linear(G[:3]), da.covariances.Diagonal(std=std))

    def mean(s, obs=obs):
        return jnp.sum(jnp.mean(ensemble_inversion(s * PRIOR, obs, iterations=6, method=da.ETKF()).ensemble ** 2, 0))

    np.testing.assert_allclose(mean(1.0), mean(1.0, removed), rtol=1e-11)
    h = 1e-5
    np.testing.assert_allclose(jax.grad(mean)(1.1), (mean(1.1 + h) - mean(1.1 - h)) / (2 * h), rtol=1e-7)
    nothing = ensemble_inversion(PRIOR, OBS.replace(mask=False), iterations=2, method=da.ETKF(), step=1.0)
    assert np.array_equal(nothing.ensemble, PRIOR)


def test_bad_input_is_named_or_coded():
    for options, message in (
        ({"step": 0.0}, "step must be finite and positive"),
        ({"iterations": 0}, "at least 1"),
        ({"method": da.LETKF(localization=da.ensemble.GaspariCohn(1.0))}, "LETKF has no weights"),
        ({}, "draws random numbers"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            ensemble_inversion(PRIOR, OBS, **({"iterations": 2} | options))
    with pytest.raises(ShapeError, match="at least two members"):
        ensemble_inversion(PRIOR[:1], OBS, iterations=1, method=da.ETKF())
    far = OBS.replace(values=y + 1e4)
    assert ensemble_inversion(PRIOR, far, iterations=1, method=da.ETKF()).result == da.Result.MAX_ITERATIONS
    broken = PRIOR.at[0, 0].set(jnp.nan)
    assert ensemble_inversion(broken, OBS, iterations=1, method=da.ETKF()).result == da.Result.DIVERGED
