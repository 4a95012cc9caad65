"""Ensembles drawn around a state: exact moments where they are possible, draws elsewhere, bad input."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.ensemble import draw_ensemble
from tests.ensemble.zoo import KEY

GRID = da.grids.Grid(1.0)
CENTER = {"t": jnp.linspace(1.0, 2.0, 6), "q": jnp.zeros(3)}
B = da.covariances.Blocks(
    {
        "t": da.covariances.Gaussian(std=2.0, length=1.5, grid=GRID),
        "q": da.covariances.Diagonal(std=0.5),
    }
)


def matrix(covariance, x):
    flat, back = jax.flatten_util.ravel_pytree(x)
    return jax.vmap(lambda u: jax.flatten_util.ravel_pytree(covariance.apply(back(u)))[0])(jnp.eye(flat.size))


@pytest.mark.parametrize("members", [10, 25])
@pytest.mark.slow
def test_mean_and_covariance_are_exact_with_enough_members(members):
    ensemble = draw_ensemble(KEY, CENTER, B, members)
    rows = da.core.tree.flat_rows(ensemble)
    np.testing.assert_allclose(np.mean(rows, 0), jax.flatten_util.ravel_pytree(CENTER)[0], atol=1e-14)
    np.testing.assert_allclose(np.cov(rows.T), matrix(B, CENTER), atol=1e-13)


def test_few_members_have_the_mean_and_draw_the_covariance():
    x, one = jnp.zeros(50), da.covariances.Diagonal(std=3.0)
    ensembles = jax.vmap(lambda key: draw_ensemble(key, x, one, 5))(jax.random.split(KEY, 400))
    np.testing.assert_allclose(np.mean(ensembles, 1), 0, atol=1e-14)
    # 400 x 50 sample variances with four degrees of freedom each: standard error 9 / sqrt(2 x 20,000).
    assert abs(np.mean(np.var(ensembles, axis=1, ddof=1)) - 9) < 5 * 9 / 40_000**0.5


def test_the_first_analysis_has_no_sampling_error():
    x_b, one = jnp.zeros(4), da.covariances.Diagonal(std=1.0)
    obs = da.Observations(jnp.array([[1.0, -1.0]]), [0], da.observations.Subsample(every=2), one)
    posterior, _ = da.ETKF().analyze(None, draw_ensemble(KEY, x_b, one, 6), obs)
    np.testing.assert_allclose(np.mean(posterior, 0), [0.5, 0, -0.5, 0], atol=1e-13)
    np.testing.assert_allclose(np.cov(posterior.T), np.diag([0.5, 1, 0.5, 1]), atol=1e-13)


def test_precision_follows_the_state():
    x = jnp.zeros(3, jnp.float32)
    assert draw_ensemble(KEY, x, da.covariances.Diagonal(std=np.float32(1.0)), 6).dtype == jnp.float32


def test_bad_input_is_named():
    with pytest.raises(da.ConfigurationError, match="members=1 must be at least 2"):
        draw_ensemble(KEY, jnp.zeros(3), da.covariances.Diagonal(std=1.0), 1)
    with pytest.raises(da.ShapeError, match="draw_ensemble: covariance: Diagonal std has shape"):
        draw_ensemble(KEY, jnp.zeros(3), da.covariances.Diagonal(std=jnp.ones(4)), 6)
