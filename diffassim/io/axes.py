"""Which axes of a dataset are latitude, longitude and time, and in which order a file has them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from diffassim.core.errors import DataError
from diffassim.io.columns import Region
from diffassim.io.messages import shortened

__all__ = ["Axes", "find_axes", "longitude_order"]

UNITS = {
    "latitude": ("degrees_north", "degree_north", "degrees_n", "degree_n", "degreen", "degreesn"),
    "longitude": ("degrees_east", "degree_east", "degrees_e", "degree_e", "degreee", "degreese"),
}
NAMES = {"latitude": ("latitude", "lat", "y"), "longitude": ("longitude", "lon", "long", "x"), "time": ("time",)}
LETTERS = {"latitude": "Y", "longitude": "X", "time": "T"}


class Axes(NamedTuple):
    """Names of the dimensions that hold latitude, longitude and time (None: there is no time)."""

    latitude: str
    longitude: str
    time: str | None


def find_axes(file: str, dataset: xr.Dataset) -> Axes:
    """Return the axes of a dataset, by the conventions of CF (standard name, unit, axis) or else by name.

    Raises:
        DataError: if latitude and longitude are not there, or not vectors.

    Example:
        >>> coordinates = {"y": ("y", [0.0, 1.0], {"units": "degrees_north"}), "lon": [0.0]}
        >>> find_axes("a.nc", xr.Dataset(coords=coordinates))
        Axes(latitude='y', longitude='lon', time=None)
    """
    found = {kind: _find(dataset, kind) for kind in ("latitude", "longitude", "time")}
    for kind in ("latitude", "longitude"):
        if found[kind] is None:
            flat = [
                name
                for name in map(str, dataset.variables)
                if name.lower() in NAMES[kind] or _says(dataset[name], kind)
            ]
            there = shortened(
                ", ".join(f"{name} {dataset[name].dims}" for name in flat) or ", ".join(map(str, dataset.dims))
            )
            problem = "not a vector along an axis of its own" if flat else "not there"
            raise DataError(
                f"{file}: {kind} is {problem} ({there}); fields on other than regular axes must be interpolated before"
            )
    return Axes(str(found["latitude"]), str(found["longitude"]), found["time"])


def longitude_order(longitude: np.ndarray, kind: str, region: Region | None) -> tuple[np.ndarray, np.ndarray]:
    """Return which entries are kept, in ascending order, and their longitudes.

    Args:
        longitude: as in the file, degrees, shape (longitude,).
        kind: "file", "-180..180" or "0..360".
        region: that is kept. Where it crosses the seam of the convention, longitudes count on from its western side.

    Example:
        >>> [part.tolist() for part in longitude_order(np.array([0.0, 120.0, 240.0]), "-180..180", None)]
        [[2, 0, 1], [-120.0, 0.0, 120.0]]
        >>> [part.tolist() for part in longitude_order(np.array([0.0, 10.0, 350.0]), "file", Region(-15, 5))]
        [[2, 0], [-10.0, 0.0]]
    """
    shown = longitude
    if kind == "-180..180":
        shown = np.mod(longitude + 180.0, 360.0) - 180.0
    elif kind == "0..360":
        shown = np.mod(longitude, 360.0)
    kept = np.arange(len(longitude))
    if region is not None:
        kept = kept[region.holds(longitude, np.full(len(longitude), region.south))]
        along = region.west + np.mod(longitude - region.west, 360.0)
        if not np.array_equal(np.argsort(shown[kept], kind="stable"), np.argsort(along[kept], kind="stable")):
            shown = along
    order = kept[np.argsort(shown[kept], kind="stable")]
    return order, shown[order]


def _find(dataset: xr.Dataset, kind: str) -> str | None:
    vectors = [name for name in map(str, dataset.dims) if name in dataset.variables and dataset[name].ndim == 1]
    said = [name for name in vectors if _says(dataset[name], kind)]
    named = [name for name in vectors if name.lower() in NAMES[kind]]
    return next(iter([*said, *named]), None)


def _says(variable: Any, kind: str) -> bool:
    attributes = {key: str(value).strip() for key, value in variable.attrs.items()}
    if kind == "time" and (variable.dtype.kind == "M" or type(variable.values.flat[0]).__module__.startswith("cftime")):
        return variable.size > 0
    return (
        attributes.get("standard_name", "").lower() == kind
        or attributes.get("units", "").lower() in UNITS.get(kind, ())
        or attributes.get("axis", "") == LETTERS[kind]
    )
