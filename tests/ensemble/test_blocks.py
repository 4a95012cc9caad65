"""Analyses whose observations stay on the disk are those of all observations at once, and bad chunks are named."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.core.errors import ConfigurationError, DataError, ShapeError
from diffassim.grids import Cells, Grid, Sphere
from diffassim.io.binned import BinnedObservations, Reports, bin_observations
from diffassim.observations.superobservations import superobservations

N = 6
PLANE = Grid(spacing=(1.0, 0.5), periodic=(True, False))
SHAPE = (18, 20)
TAPER = da.ensemble.GaspariCohn(0.8)
METHODS = {
    "LETKF": da.LETKF(1.05, localization=TAPER, grid=PLANE),
    "LETKF, nearest few": da.LETKF(localization=TAPER, grid=PLANE, neighbors=5),
    "LETKF, rotated": da.LETKF(da.ensemble.RelaxToPriorSpread(0.5), True, TAPER, PLANE),
    "LETKFN": da.ensemble.LETKFN(localization=TAPER, grid=PLANE),
    "LNETF": da.ensemble.LNETF(localization=TAPER, grid=PLANE),
    "LETPF": da.ensemble.LETPF(localization=TAPER, grid=PLANE),
    "LocalEnKF": da.ensemble.LocalEnKF(localization=TAPER, grid=PLANE),
}


def members(dtype=np.float64, shape=SHAPE):
    return jnp.asarray(np.random.default_rng(0).normal(size=(N, *shape)), dtype)


def reports(seed, count, dtype=np.float64):
    """Return observations in and around the domain, most of them in a corner, some missing."""
    rng = np.random.default_rng(seed)
    places = np.concatenate([rng.uniform(0, 3, (count // 2, 2)), rng.uniform(-2, 18, (count - count // 2, 2))])
    values = rng.normal(size=count)
    values[::9] = np.nan
    places[4::11, 1] = np.nan
    return Reports(values.astype(dtype), places, rng.uniform(0.5, 2.0, count).astype(dtype))


def whole(method, ensemble, chunks, key=None):
    """Return the analysis of all chunks at once."""
    values, places, std = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
    H = da.observations.Interpolate(spacing=PLANE.spacing, periodic=PLANE.periodic)
    error = da.covariances.Diagonal(jnp.asarray(std, ensemble.dtype))
    y = da.Observations(jnp.asarray(values)[None], [0], H, error, where=jnp.asarray(places, ensemble.dtype)[None])
    there = np.nan_to_num(places)
    return method.replace(places=jnp.asarray(there)).analyze(key, ensemble, y)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", METHODS)
def test_an_analysis_in_blocks_is_the_whole_one(name, tmp_path):
    method, chunks, key = METHODS[name], [reports(1, 40), reports(2, 1), reports(3, 90)], None
    if method.random:
        key = jax.random.key(3)
    stored = bin_observations(iter(chunks), tmp_path / "y.zarr", PLANE, SHAPE, 5.0)
    found, info = da.ensemble.analyze_in_blocks(method, members(), stored, key)
    wanted, other = whole(method, members(), chunks, key)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)
    for field in ("count", "chi_square", "background_spread", "analysis_spread", "log_likelihood", "non_finite"):
        np.testing.assert_allclose(getattr(info, field), getattr(other, field), rtol=1e-11, err_msg=field)
    assert int(info.result) == int(other.result)
    assert float(jnp.abs(found - members()).max()) > 0.1
