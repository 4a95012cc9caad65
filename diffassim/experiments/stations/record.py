"""Values of a network of stations on regular times."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd

from diffassim.core.errors import DataError
from diffassim.grids.sphere import EARTH
from diffassim.models.base import Variable

__all__ = ["SHORT", "Record", "great_circle", "lead_text", "lead_unit", "require_places"]


SHORT = {"days": "d", "hours": "h", "minutes": "min"}


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """What stations of a network have observed.

    Args:
        times: regular, UTC, shape (time,).
        names: of the stations, shape (station,).
        places: longitude and latitude (degrees) and elevation (m), shape (station, 3); NaN where unknown.
        variables: names and units.
        values: NaN where missing, shape (time, station, variable).
    """

    times: pd.DatetimeIndex
    names: tuple[str, ...]
    places: np.ndarray
    variables: tuple[Variable, ...]
    values: np.ndarray

    @property
    def step(self) -> pd.Timedelta:
        """Time from one row to the next."""
        return self.times[1] - self.times[0]

    @property
    def components(self) -> np.ndarray:
        """Values with stations and variables on one axis, shape (time, station * variable), variables fastest."""
        return self.values.reshape(len(self.times), -1)

    def stations(self, chosen: np.ndarray) -> Record:
        """Return the record of some stations.

        Args:
            chosen: their indices.
        """
        names = tuple(self.names[i] for i in chosen)
        return dataclasses.replace(self, names=names, places=self.places[chosen], values=self.values[:, chosen])

    def without(self, hidden: np.ndarray, first: int) -> Record:
        """Return the record in which some stations report nothing from a row on.

        Args:
            hidden: indices of stations.
            first: the row.
        """
        values = self.values.copy()
        values[first:, hidden] = np.nan
        return dataclasses.replace(self, values=values)

    def row(self, time: object) -> int:
        """Return the number of the first row at or after a time, which may lie beyond the record's end."""
        stamp = pd.Timestamp(time)  # type: ignore[arg-type]
        stamp = stamp.tz_localize("UTC") if stamp.tzinfo is None else stamp.tz_convert("UTC")
        return int(self.times.searchsorted(stamp))


def lead_unit(step: pd.Timedelta) -> tuple[str, pd.Timedelta]:
    """Return the unit in which leads are told, and its length."""
    for name, length in (("days", pd.Timedelta("1D")), ("hours", pd.Timedelta("1h"))):
        if step >= length:
            return name, length
    return "minutes", pd.Timedelta("1min")


def lead_text(steps: int, step: pd.Timedelta) -> str:
    """Return a lead in the unit in which leads are told.

    Example:
        >>> lead_text(24, pd.Timedelta("1h")), lead_text(2, pd.Timedelta("15min")), lead_text(3, pd.Timedelta("1D"))
        ('24 hours', '30 minutes', '3 days')
    """
    unit, length = lead_unit(step)
    return f"{steps * step / length:g} {unit}"


def require_places(*places: np.ndarray) -> None:
    """Raise `DataError` if a longitude or a latitude is not known.

    Args:
        places: longitude and latitude first, shape (place, 2 or more).
    """
    if not all(np.isfinite(each[:, :2]).all() for each in places):
        raise DataError("the places of all stations are needed here: give longitude and latitude of each")


def great_circle(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return great-circle distances in km, shape (first, second); longitude and latitude in degrees come first.

    In NumPy and double precision, whatever that of the experiment is; otherwise as `diffassim.grids.Sphere`.
    """
    a, b = np.deg2rad(first[:, None, :2]), np.deg2rad(second[None, :, :2])
    half = np.sin((a - b) / 2) ** 2
    h = half[..., 1] + np.cos(a[..., 1]) * np.cos(b[..., 1]) * half[..., 0]
    return 2 * EARTH * np.arcsin(np.sqrt(np.clip(h, 0, 1)))
