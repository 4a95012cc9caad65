"""A record of fields on a grid of longitudes and latitudes, of which some cells have no values."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from diffassim.core.errors import DataError

__all__ = ["FieldRecord", "distances"]

CIRCLE = 360.0  # degrees


class FieldRecord(NamedTuple):
    """Fields at regular times, where they have values.

    Args:
        times: of the fields.
        latitude: of the grid, degrees north, shape (row,).
        longitude: of the grid, degrees east, shape (column,).
        wet: which cells have values, shape (row, column).
        values: shape (time, point): the points are the wet cells, row by row.
    """

    times: pd.DatetimeIndex
    latitude: np.ndarray
    longitude: np.ndarray
    wet: np.ndarray
    values: np.ndarray

    @classmethod
    def from_array(cls, name: str, field: xr.DataArray) -> FieldRecord:
        """Return the record of an array with the coordinates time, latitude and longitude.

        Cells that lack a value at some time are left out.

        Args:
            name: what to call it in messages.
            field: values, NaN where missing.

        Raises:
            DataError: if no cell has values at all times.
        """
        field = field.transpose("time", "latitude", "longitude")
        values = np.asarray(field.values, float)
        wet = np.isfinite(values).all(axis=0)
        if not wet.any():
            raise DataError(f"{name}: no cell of the grid {wet.shape} has a value at all {len(values)} times")
        latitude, longitude = (np.asarray(field[axis].values, float) for axis in ("latitude", "longitude"))
        return cls(pd.DatetimeIndex(field["time"].values), latitude, longitude, wet, values[:, wet])

    @property
    def places(self) -> np.ndarray:
        """Longitude and latitude of every point, degrees, shape (point, 2)."""
        latitude, longitude = np.meshgrid(self.latitude, self.longitude, indexing="ij")
        return np.stack([longitude[self.wet], latitude[self.wet]], axis=1)

    def on_grid(self, values: np.ndarray) -> np.ndarray:
        """Return values of the points on the grid, NaN elsewhere, shape (..., row, column)."""
        field = np.full((*values.shape[:-1], *self.wet.shape), np.nan)
        field[..., self.wet] = values
        return field


def distances(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the zonal and the meridional distance of places, degrees, each of shape (first, second).

    Example:
        >>> zonal, meridional = distances(np.array([[359.0, 1.0]]), np.array([[2.0, -1.0]]))
        >>> zonal.tolist(), meridional.tolist()
        ([[3.0]], [[2.0]])
    """
    zonal = np.abs(first[:, None, 0] - second[None, :, 0]) % CIRCLE
    return np.minimum(zonal, CIRCLE - zonal), np.abs(first[:, None, 1] - second[None, :, 1])
