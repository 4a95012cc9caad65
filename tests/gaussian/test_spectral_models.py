"""Filters that factorize what a Fourier transform gives: its layout is not the factorization's to choose."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da

N, STEPS = 6, 3
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=N), RNG.normal(size=(STEPS, N))
UNIT = da.covariances.Diagonal(std=1.0)


def filtered(model, x, y):
    belief = da.gaussian.Gaussian.from_covariance(x, UNIT)
    observations = da.Observations(y, np.arange(1, len(y) + 1), error=UNIT)
    return da.cycle(da.EKF(), model, belief, observations)[1].analysis


def test_advection_is_the_kalman_filter_of_a_permutation():
    found = filtered(da.models.LinearAdvection(velocity=1.0), jnp.asarray(X), Y)
    M, x, P = np.roll(np.eye(N), 1, axis=0), X, np.eye(N)
    for k, y in enumerate(Y):
        x, P = M @ x, M @ P @ M.T
        K = P @ np.linalg.inv(P + np.eye(N))
        x, P = x + K @ (y - x), P - K @ P
        np.testing.assert_allclose(found.mean[k], x, atol=1e-12)
        np.testing.assert_allclose(found.spread[k], np.sqrt(np.diag(P)), atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (da.models.KuramotoSivashinsky(), (16,)),
        (da.models.NavierStokes(), (10, 10)),
        (da.models.TwoLayerQG(), (2, 8, 8)),
    ],
    ids=["Kuramoto-Sivashinsky", "Navier-Stokes", "two layers"],
)
def test_batches_of_filters_of_spectral_models(model, shape):
    x = 1e-3 * jnp.asarray(np.random.default_rng(1).normal(size=(2, *shape)))
    y = jnp.zeros((STEPS, *shape))
    many = jax.vmap(lambda x: filtered(model, x, y).mean)(x)
    np.testing.assert_allclose(many[1], filtered(model, x[1], y).mean, atol=1e-12)
