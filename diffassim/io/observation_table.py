"""Reports of stations: times, places, values with units, and for each value a flag that says why it is not used."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from diffassim.models.base import Variable

__all__ = ["ObservationTable", "Problem", "StationGrid", "Stations"]


class Stations(NamedTuple):
    """Names and places of stations.

    names, an array of text, shape (station,); longitude and latitude in degrees east and north, elevation in meters
    above the sea, shape (station,), NaN where unknown.
    """

    names: np.ndarray
    longitude: np.ndarray
    latitude: np.ndarray
    elevation: np.ndarray


class Problem(NamedTuple):
    """A value that is not used, and where it stands: the rows of a file count from 1, that of the names included."""

    file: str
    column: str
    row: int
    station: str
    time: pd.Timestamp
    value: float
    flag: Any


class StationGrid(NamedTuple):
    """Reports on regular times.

    times, datetime64 in UTC, shape (time,); stations; values and mask (True: used), shape (time, station, variable),
    NaN where the mask is False; report, the number of the report in each entry or -1, shape (time, station).
    """

    times: np.ndarray
    stations: Stations
    values: np.ndarray
    mask: np.ndarray
    report: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class ObservationTable:
    """Reports, sorted by time and station.

    Args:
        time: UTC, datetime64[us], shape (report,).
        station: index into `stations`, integers of shape (report,).
        stations: names and places.
        variables: name, unit and long name of each variable.
        values: by name of the variable, in its unit, shape (report,); NaN is missing. What is flagged keeps its value.
        flags: `QCFlag`s by name of the variable, shape (report,): what reading has found.
        std: standard deviations of the errors, by the names of those variables that have them, shape (report,).
        row: of each report in the file, counted from 1, the row of names included.
        file: name of the file, for messages.
        columns: name of the column in the file, by variable (in wide tables, by station).
        zone: time zone of the file, in which times are written back.
        notes: what reading has changed or left out, one line each.
        effective: flags after an analysis's own quality control (`with_flags`), or None.
        track: longitude, latitude and elevation of each report where stations move, shape (report, 3); else None.
    """

    time: np.ndarray
    station: np.ndarray
    stations: Stations
    variables: tuple[Variable, ...]
    values: Mapping[str, np.ndarray]
    flags: Mapping[str, np.ndarray]
    std: Mapping[str, np.ndarray]
    row: np.ndarray
    file: str = "table"
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    zone: str = "UTC"
    notes: tuple[str, ...] = ()
    effective: Mapping[str, np.ndarray] | None = None
    track: np.ndarray | None = None

    def __len__(self) -> int:
        raise NotImplementedError

    def used(self, name: str) -> np.ndarray:
        """Return which reports have a value of the variable that may be assimilated, shape (report,)."""
        raise NotImplementedError

    def places(self) -> np.ndarray:
        """Return longitude, latitude and elevation of every report, shape (report, 3)."""
        raise NotImplementedError

    def counts(self) -> dict[str, dict[Any, int]]:
        """Return how many values of each variable have each flag."""
        raise NotImplementedError

    def problems(self, limit: int = 5) -> list[Problem]:
        """Return the first values of each flag (missing ones left out), at most `limit` of each variable and flag."""
        raise NotImplementedError

    def describe(self) -> str:
        """Return what the table holds, counts of the flags, the first offending rows and the notes, as text."""
        raise NotImplementedError

    def select(self, *, stations: Any = None, start: Any = None, end: Any = None) -> ObservationTable:
        """Return the reports of some stations (names or indices), at times from `start` to before `end` (UTC)."""
        raise NotImplementedError

    def with_flags(self, flags: Mapping[str, Any]) -> ObservationTable:
        """Return the table with the flags of an analysis in `effective`.

        Args:
            flags: by variable, shape (report,); a value that reading has flagged keeps that flag.
        """
        raise NotImplementedError

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each report: time (in `zone`), station, places, and value, flag, std of each variable."""
        raise NotImplementedError

    def to_grid(self, step: str, *, off_step: str = "error", start: Any = None, end: Any = None) -> StationGrid:
        """Return the used values on regular times.

        Args:
            step: of the times, such as "1h" or "1D".
            off_step: what becomes of reports between the steps: "error", "nearest", "mean" (of those nearest to a
                step), or "missing".
            start: first time, UTC; default: that of the first report.
            end: last time; default: that of the last report.
        """
        raise NotImplementedError
