"""Interpolation on the sphere: exact cases, seams, poles, local filters, bad input."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.core.errors import ConfigurationError, DataError, ShapeError
from diffassim.observations import InterpolateOnSphere

LATITUDE = np.array([-60.0, -20.0, 5.0, 50.0])
LONGITUDE = 5.0 + 30.0 * np.arange(12)
FIELD = jnp.asarray(np.random.default_rng(0).normal(size=(4, 12)))


def test_at_the_points_of_the_grid_it_returns_the_field():
    places = np.stack(np.broadcast_arrays(LATITUDE[:, None], LONGITUDE), axis=-1).reshape(-1, 2)
    H = InterpolateOnSphere(LATITUDE, LONGITUDE)
    np.testing.assert_allclose(H(FIELD, jnp.asarray(places)), FIELD.ravel(), rtol=1e-13)
    np.testing.assert_allclose(H(FIELD, jnp.asarray(places + np.array([0.0, 720.0]))), FIELD.ravel(), rtol=1e-12)


def test_it_is_linear_between_them_across_the_seam_and_constant_towards_the_poles():
    H = InterpolateOnSphere(LATITUDE, LONGITUDE)
    at = lambda latitude, longitude: float(H(FIELD, jnp.array([[latitude, longitude]]))[0])  # noqa: E731
    np.testing.assert_allclose(at(-60, -10), (FIELD[0, -1] + FIELD[0, 0]) / 2, rtol=1e-13)
    np.testing.assert_allclose(at(-40, 35), (FIELD[0, 1] + FIELD[1, 1]) / 2, rtol=1e-13)
    np.testing.assert_allclose(at(88, 65), FIELD[-1, 2], rtol=1e-13)
    np.testing.assert_allclose(at(-90, 80), (FIELD[0, 2] + FIELD[0, 3]) / 2, rtol=1e-13)
    tilted = jnp.asarray(2.0 + 0.1 * LATITUDE[:, None] + 0 * LONGITUDE)
    np.testing.assert_allclose(H(tilted, jnp.array([[11.3, 77.0]])), [3.13], rtol=1e-13)
    slope = jax.grad(lambda phi: H(tilted, jnp.array([[0.0, 77.0]]).at[0, 0].set(phi))[0])(11.3)
    np.testing.assert_allclose(slope, 0.1, rtol=1e-12)


def test_windows_and_a_local_filter_take_places_of_each_time():
    sphere = da.grids.Sphere(LATITUDE[:, None], LONGITUDE)
    rng = np.random.default_rng(1)
    where = np.stack([rng.uniform(-60, 50, (4, 3)), rng.uniform(0, 360, (4, 3))], axis=-1)
    where[2, 1] = np.nan  # this one has no place
    y = da.Observations(
        rng.normal(size=(4, 3)), [1, 2, 3, 4], InterpolateOnSphere(LATITUDE, LONGITUDE),
        da.covariances.Diagonal(std=0.5), where=where,
    )  # fmt: skip
    assert int(y.count()) == 11
    ensemble = jax.random.normal(jax.random.key(0), (5, 4, 12))
    letkf = da.LETKF(localization=da.ensemble.GaspariCohn(3000.0), grid=sphere)
    still = da.models.FunctionModel(lambda x, t: x)
    windows = da.split_windows(y, 2, 2)
    found, history = da.cycle(da.AsynchronousFilter(letkf), still, ensemble, windows, steps=2)
    first = y.replace(values=y.values[:1], mask=y.mask[:1], where=y.where[:1], steps=y.steps[:1])
    alone, _ = da.cycle(letkf.replace(places=jnp.asarray(where[0])), still, ensemble, first)
    moving, _ = da.cycle(letkf, still, ensemble, first)
    np.testing.assert_allclose(moving, alone, rtol=1e-12)
    assert bool(jnp.isfinite(found).all()) and history.info.count.tolist() == [6, 5]


def test_bad_input_is_named():
    with pytest.raises(DataError, match="turn grid and fields around"):
        InterpolateOnSphere(LATITUDE[::-1], LONGITUDE)
    with pytest.raises(DataError, match="whole circle"):
        InterpolateOnSphere(LATITUDE, LONGITUDE[:-1])
    with pytest.raises(DataError, match="whole circle"):
        InterpolateOnSphere(LATITUDE, LONGITUDE[::-1])
    with pytest.raises(ShapeError, match=r"grid of shape \(4, 12\)"):
        InterpolateOnSphere(LATITUDE, LONGITUDE)(FIELD.T, jnp.zeros((1, 2)))
    with pytest.raises(ConfigurationError, match="needs `places`"):
        InterpolateOnSphere(LATITUDE, LONGITUDE)(FIELD)
    with pytest.raises(DataError, match="not finite"):
        InterpolateOnSphere(LATITUDE, LONGITUDE, places=jnp.array([[np.nan, 0.0]])).check("y", FIELD)
