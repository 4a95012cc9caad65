"""Very precise observations: what single precision gives is finite and close to what double precision gives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.ensemble import EAKF, LETKF, LETKFN, DEnKF, EnKF, EnKFN, EnSRF, GaspariCohn, LocalEnKF, SerialEnKF
from diffassim.gaussian import EKF, UKF, Gaussian

N, n = 12, 6
TAPER = GaspariCohn(4.0)
FILTERS = [
    da.ETKF(), EnKFN(), EnSRF(), EnKF(), DEnKF(), LETKF(localization=TAPER), LETKFN(localization=TAPER),
    EAKF(localization=TAPER), SerialEnKF(localization=TAPER), LocalEnKF(localization=TAPER),
]  # fmt: skip


def analysed(method, dtype, std, observed):
    members = jax.random.normal(jax.random.key(1), (N, n)).astype(dtype)
    H = da.observations.Subsample(every=n // observed)
    y = da.Observations(
        jnp.ones((1, observed), dtype), [0], operator=H, error=da.covariances.Diagonal(std=jnp.asarray(std, dtype))
    )
    return method.analyze(jax.random.key(0), members, y)


@pytest.mark.parametrize("std", [1e-3, 1e-4])
@pytest.mark.parametrize("method", FILTERS, ids=lambda method: type(method).__name__)
def test_single_precision_is_enough_for_precise_observations(method, std):
    single, info = analysed(method, jnp.float32, std, 3)
    double, _ = analysed(method, jnp.float64, std, 3)
    assert int(info.result) == da.Result.CONVERGED
    assert single.dtype == jnp.float32
    draws = type(method) in (EnKF, SerialEnKF, LocalEnKF)  # other numbers in other precisions
    np.testing.assert_allclose(single.mean(0)[::2], 1, atol=1e-2)
    if not draws:
        np.testing.assert_allclose(single.mean(0), double.mean(0), atol=0.02)
        np.testing.assert_allclose(single.std(0)[1::2], double.std(0)[1::2], rtol=0.02)  # of what was not observed


@pytest.mark.parametrize("method", [EKF(), UKF()], ids=["EKF", "UKF"])
def test_so_it_is_for_gaussians(method):
    found = []
    for dtype in (jnp.float32, jnp.float64):
        prior = Gaussian.from_covariance(jnp.zeros(n, dtype), da.covariances.Diagonal(std=jnp.ones(n, dtype)))
        H, R = da.observations.Subsample(every=2), da.covariances.Diagonal(std=jnp.asarray(1e-4, dtype))
        posterior, _ = method.analyze(None, prior, da.Observations(jnp.ones((1, 3), dtype), [0], operator=H, error=R))
        found.append(posterior)
    np.testing.assert_allclose(found[0].mean, found[1].mean, atol=1e-5)
    np.testing.assert_allclose(found[0].spread(), found[1].spread(), atol=1e-4)


def test_a_gradient_at_precise_observations_is_finite():
    def error(inflation, std):
        members = jax.random.normal(jax.random.key(1), (N, n)).astype(jnp.float32)
        y = da.Observations(jnp.ones((1, n), jnp.float32), [0], error=da.covariances.Diagonal(std=std))
        posterior, _ = da.ETKF(inflation=inflation).analyze(None, members, y)
        return jnp.sum(jnp.square(posterior))

    gradients = jax.grad(error, (0, 1))(jnp.float32(1.1), jnp.float32(1e-3))
    assert all(jnp.isfinite(gradient) for gradient in gradients)
