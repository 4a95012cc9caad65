"""Stations, their values on regular times, and problems of single reports."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from diffassim.io.messages import shortened
from diffassim.observations.flags import QCFlag

__all__ = ["FLAGS", "Problem", "StationGrid", "Stations", "flag_of"]

FLAGS = {int(flag): flag for flag in QCFlag}


class Stations(NamedTuple):
    """Names and places of stations.

    names, an array of text, shape (station,); longitude and latitude in degrees east and north, elevation in meters
    above the sea, shape (station,), NaN where unknown.
    """

    names: np.ndarray
    longitude: np.ndarray
    latitude: np.ndarray
    elevation: np.ndarray

    def take(self, index: Any) -> Stations:
        """Return some of the stations."""
        return Stations(*(part[index] for part in self))


class Problem(NamedTuple):
    """A value that is not used, and where it stands: the rows of a file count from 1, that of the names included."""

    file: str
    column: str
    row: int
    station: str
    time: pd.Timestamp
    value: float
    unit: str
    flag: QCFlag

    def describe(self) -> str:
        """Return the problem as one line."""
        return (
            f"{self.file}: column {shortened(self.column)}, row {self.row}: {self.value:g} {self.unit} of "
            f"{shortened(self.station)} at {self.time} is flagged {self.flag.name}"
        )


class StationGrid(NamedTuple):
    """Reports on regular times.

    times, datetime64 in UTC, shape (time,); stations; values and mask (True: used), shape (time, station, variable),
    NaN where the mask is False; report, the number of a report in each entry or -1, shape (time, station).
    """

    times: np.ndarray
    stations: Stations
    values: np.ndarray
    mask: np.ndarray
    report: np.ndarray


def flag_of(number: int) -> Any:
    """Return a `QCFlag`, or the number itself where it is none."""
    return FLAGS.get(int(number), int(number))
