"""Gridded fields from netCDF and zarr with CF attributes, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from diffassim.grids import Sphere
from diffassim.io.columns import Region
from diffassim.models.base import Variable

__all__ = ["Fields", "read_fields", "write_fields"]


@dataclasses.dataclass(frozen=True, eq=False)
class Fields:
    """Fields on latitude and longitude in the order the package uses: (time, level, latitude, longitude), ascending.

    Args:
        values: by variable, floating point, NaN where missing.
        variables: name, dimensions, unit, long name.
        latitude: degrees north, ascending, shape (latitude,).
        longitude: degrees east, ascending, shape (longitude,).
        times: datetime64, or cftime dates of another calendar; None without an axis of time.
        coordinates: of further axes (levels), by name.
        origin: the dataset without its values: attributes, calendar, order and convention of the file.
    """

    values: Mapping[str, np.ndarray]
    variables: tuple[Variable, ...]
    latitude: np.ndarray
    longitude: np.ndarray
    times: np.ndarray | None
    coordinates: Mapping[str, np.ndarray]
    origin: xr.Dataset

    def grid(self) -> Sphere:
        """Return the grid of the two trailing axes."""
        raise NotImplementedError

    def to_dataset(self, values: Mapping[str, Any] | None = None) -> xr.Dataset:
        """Return a dataset with the coordinates, order, units and calendar of the file that was read."""
        raise NotImplementedError


def read_fields(
    paths: str | Path | Sequence[str | Path],
    variables: Sequence[str] | Mapping[str, str] | None = None,
    *,
    region: Region | None = None,
    start: Any = None,
    end: Any = None,
    longitudes: str = "file",
) -> Fields:
    """Read fields from one file, or from several that follow each other in time.

    Args:
        paths: netCDF files or zarr stores.
        variables: names, or a mapping from name to the unit wanted; None: all with latitude and longitude.
        region: part that is read.
        start: first time that is read (text or date of the file's calendar).
        end: last time that is read.
        longitudes: "file", or "-180..180" or "0..360".
    """
    raise NotImplementedError


def write_fields(fields: Fields, path: str | Path, values: Mapping[str, Any] | None = None) -> None:
    """Write fields as netCDF (.nc) or zarr (.zarr), with the coordinates of the file they came from."""
    raise NotImplementedError
