"""States of the shallow water to start from: balanced jets with perturbations, or the weather of a day from ERA5."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from diffassim.core.errors import ConfigurationError, DataError
from diffassim.models.spherical_shallow_water import ShallowWaterState, gaussian_grid, perturbed_jet

__all__ = ["MEAN_HEIGHT", "reanalysis_file", "reanalysis_state", "two_jets"]

PACKAGE, FILE = "neuralgcm", "neuralgcm/data/era5_tl31_19590102T00.nc"
GRAVITY = 9.80665  # m/s^2, which turns geopotential into geopotential height
MEAN_HEIGHT = 10_000.0  # m
LEVEL = 500  # hPa
NAMES = {"u_component_of_wind": 1.0, "v_component_of_wind": 1.0, "geopotential": GRAVITY}
SAME = 0.01  # degrees by which latitudes and longitudes may differ from those of the model


def two_jets(key: jax.Array, truncation: int = 21) -> ShallowWaterState:
    """Return a balanced westerly jet on each hemisphere, each with a small bump of the height at a random place.

    The hemispheres do not overlap: outside of its jet each flow is at rest, so that their sum is balanced as well.

    Args:
        key: random key.
        truncation: of the model.
    """
    north, south, *turns = jax.random.split(key, 4)
    parts = []
    for part, turn in zip((north, south), turns, strict=True):
        jet = perturbed_jet(part, truncation)
        shift = jax.random.randint(turn, (), 0, jet.u.shape[-1])
        parts.append(jax.tree.map(lambda field, shift=shift: jnp.roll(field, shift, axis=-1), jet))
    n, s = parts[0], jax.tree.map(lambda field: jnp.flip(field, axis=-2), parts[1])
    return ShallowWaterState(n.u + s.u, n.v - s.v, n.height + s.height - MEAN_HEIGHT)


def reanalysis_file() -> Path | None:
    """Return where the package neuralgcm keeps its sample of ERA5; None if it is not installed, or has none.

    Raises nothing: the package is not imported, so that it may be installed without what it needs itself.
    """
    try:
        path = Path(str(distribution(PACKAGE).locate_file(FILE)))
    except PackageNotFoundError:
        return None
    return path if path.is_file() else None


def reanalysis_state(path: Path, truncation: int = 21) -> ShallowWaterState:
    """Return winds and height of the 500 hPa surface as a state of the shallow water.

    The height is that of the surface, moved to a mean of 10 km: its slopes, which balance the winds, stay.

    Args:
        path: netCDF file with winds (m/s) and geopotential (m^2/s^2) on levels of pressure (hPa).
        truncation: of the model.

    Returns:
        The state on the model's grid; what its truncation cannot represent leaves it with the first step.

    Raises:
        ConfigurationError: if the file lies on another grid.
        DataError: if a variable, the level or a value is missing.
    """
    sphere: Any = gaussian_grid(truncation)
    latitude, longitude = np.asarray(sphere.latitude)[:, 0], np.asarray(sphere.longitude)
    with xr.open_dataset(path) as dataset:
        missing = [name for name in (*NAMES, "level", "latitude", "longitude") if name not in dataset]
        if missing or LEVEL not in dataset["level"]:
            raise DataError(f"{path}: {', '.join(missing) or f'the level {LEVEL} hPa'} is missing")
        chosen = dataset[list(NAMES)].sel(level=LEVEL).sortby("latitude").transpose("latitude", "longitude", ...)
        found = chosen.load()
    for name, expected in (("latitude", latitude), ("longitude", longitude)):
        own = found[name].values
        if own.shape != expected.shape or not np.allclose(own, expected, rtol=0, atol=SAME):
            raise ConfigurationError(
                f"{path}: the {name}s, {own.size} from {own[0]:.2f} to {own[-1]:.2f} degrees, are not those of the "
                f"model with truncation {truncation}: {expected.size} from {expected[0]:.2f} to {expected[-1]:.2f}"
            )
    fields = [np.asarray(found[name].values, float).reshape(latitude.size, -1) / unit for name, unit in NAMES.items()]
    if fields[0].shape[1] != longitude.size or not all(np.isfinite(field).all() for field in fields):
        raise DataError(f"{path}: at {LEVEL} hPa one complete field of each variable is needed")
    u, v, height = fields
    weights = np.polynomial.legendre.leggauss(latitude.size)[1][:, None] / (2 * longitude.size)
    return ShallowWaterState(*map(jnp.asarray, (u, v, height - np.sum(weights * height) + MEAN_HEIGHT)))


def require_reanalysis() -> Path:
    """Return the file, or raise `ConfigurationError` with the command that brings it."""
    path = reanalysis_file()
    if path is None:
        raise ConfigurationError(
            f"globe: start = 'era5' needs the file {FILE}; run: pip install --no-deps {PACKAGE} (or choose 'jets')"
        )
    return path
