"""Reports of stations: times, places, values with units, and for each value a flag that says why it is not used."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from diffassim.core.errors import ConfigurationError, DataError, ShapeError
from diffassim.io.messages import shortened, suggested
from diffassim.io.regular import RegularTimes, utc
from diffassim.io.stations import Problem, StationGrid, Stations, flag_of
from diffassim.models.base import Variable
from diffassim.observations.flags import QCFlag

__all__ = ["ObservationTable", "Problem", "StationGrid", "Stations"]


@dataclasses.dataclass(frozen=True, eq=False)
class ObservationTable:
    """Reports in the order of their times, and where these are the same in that of the file.

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

    Raises:
        ShapeError: if an array has not one entry for each report.

    Example:
        >>> from diffassim.io.layout import LongLayout
        >>> from diffassim.io.columns import TableVariable
        >>> from diffassim.io.read_table import read_table
        >>> frame = pd.DataFrame({"time": ["2021-01-01", "2021-01-02"], "station": "A", "t": [280.0, 999.0]})
        >>> variable = TableVariable("t", unit="K", bounds="air_temperature")
        >>> table = read_table(frame, LongLayout(variables=(variable,)))
        >>> len(table), table.used("t").tolist(), table.counts()["t"][QCFlag.BOUNDS]
        (2, [True, False], 1)
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

    def __post_init__(self) -> None:
        count = len(self.time)
        parts = {"station": self.station, "row": self.row, "track": self.track}
        for name, arrays in (("values", self.values), ("flags", self.flags), ("std", self.std)):
            parts |= {f"{name} of {variable}": array for variable, array in arrays.items()}
        parts |= {f"effective of {variable}": array for variable, array in (self.effective or {}).items()}
        for name, array in parts.items():
            if array is not None and np.shape(array)[:1] != (count,):
                raise ShapeError(f"ObservationTable: {name} has shape {np.shape(array)}, but there are {count} times")

    def __len__(self) -> int:
        return len(self.time)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the variables."""
        return tuple(variable.name for variable in self.variables)

    def variable(self, name: str) -> Variable:
        """Return name and unit of a variable.

        Raises:
            ConfigurationError: if there is none of this name.
        """
        for variable in self.variables:
            if variable.name == name:
                return variable
        raise ConfigurationError(
            f"{self.file}: there is no variable {shortened(repr(name))}{suggested(name, self.names)}; there are "
            f"{', '.join(self.names)}"
        )

    def final(self, name: str) -> np.ndarray:
        """Return the flags of a variable: those of an analysis where there was one, else those of reading."""
        self.variable(name)
        return self.flags[name] if self.effective is None else self.effective[name]

    def used(self, name: str) -> np.ndarray:
        """Return which reports have a value of the variable that may be assimilated, shape (report,)."""
        return self.final(name) == QCFlag.PASS

    def places(self) -> np.ndarray:
        """Return longitude, latitude and elevation of every report, shape (report, 3)."""
        if self.track is not None:
            return self.track
        return np.stack(self.stations[1:], axis=-1)[self.station]

    def counts(self) -> dict[str, dict[QCFlag, int]]:
        """Return how many values of each variable have each flag (those that do not occur are left out)."""
        found = {}
        for name in self.names:
            numbers = np.bincount(self.final(name), minlength=1)
            found[name] = {flag_of(k): int(numbers[k]) for k in np.flatnonzero(numbers).tolist()}
        return found

    def problems(self, limit: int = 5) -> list[Problem]:
        """Return the first values with each flag but `MISSING`, at most `limit` of a variable and flag."""
        found = []
        for variable in self.variables:
            flags = self.final(variable.name)
            for flag in np.unique(flags[(flags != QCFlag.PASS) & (flags != QCFlag.MISSING)]):
                reports = np.flatnonzero(flags == flag)
                reports = reports[np.argsort(self.row[reports], kind="stable")[:limit]]
                found += [self._problem(variable, report, flag_of(int(flag))) for report in reports.tolist()]
        return found

    def describe(self) -> str:
        """Return what the table holds, counts of the flags, the first offending rows and the notes, as text."""
        first, last = (np.datetime_as_string(self.time[k], "s") for k in (0, -1)) if len(self) else ("-", "-")
        lines = [f"{self.file}: {len(self)} reports of {len(self.stations.names)} stations, {first} to {last} UTC"]
        for variable in self.variables:
            counts = self.counts()[variable.name]
            text = ", ".join(f"{number} {flag.name.lower()}" for flag, number in sorted(counts.items()))
            lines.append(f"  {variable.name} [{variable.units}]: {text}")
        return "\n".join([*lines, *(f"  {p.describe()}" for p in self.problems(2)), *(f"  {n}" for n in self.notes)])

    __str__ = describe

    def require_stations(self, least: int) -> None:
        """Raise `DataError` unless at least so many stations report something that may be used."""
        usable = np.any([self.used(name) for name in self.names], axis=0)
        found = np.unique(self.station[usable])
        if len(found) < least:
            only = ", ".join(str(name) for name in self.stations.names[found[:5]])
            raise DataError(
                f"{self.file}: {len(found)} station(s) report usable values ({shortened(only)}), at least {least} are "
                "needed; see `describe()` for what is flagged"
            )

    def select(self, *, stations: Any = None, start: Any = None, end: Any = None) -> ObservationTable:
        """Return some of the reports; the stations keep their numbers.

        Args:
            stations: names; default: all.
            start: first time, UTC.
            end: time from which on they do not count.

        Raises:
            ConfigurationError: if a station is not in the table, or a time none.
        """
        keep = np.ones(len(self), bool)
        if stations is not None:
            wanted = [str(name) for name in ([stations] if isinstance(stations, str) else stations)]
            known = {str(name): k for k, name in enumerate(self.stations.names)}
            for name in wanted:
                if name not in known:
                    raise ConfigurationError(
                        f"{self.file}: there is no station {shortened(repr(name))}{suggested(name, known)}"
                    )
            keep &= np.isin(self.station, [known[name] for name in wanted])
        if start is not None:
            keep &= self.time >= utc("start", start)
        if end is not None:
            keep &= self.time < utc("end", end)
        return self.rows(keep)

    def with_flags(self, flags: Mapping[str, Any]) -> ObservationTable:
        """Return the table with the flags of an analysis in `effective`.

        Args:
            flags: by variable, shape (report,); -1 where the analysis has not seen a value, whose flag stays. A value
                that reading has flagged keeps that flag.

        Raises:
            ConfigurationError: if a variable is not in the table.
            ShapeError: if there is not a flag for each report.
        """
        found = {name: np.array(self.final(name)) for name in self.names}
        for name, given in flags.items():
            self.variable(name)
            given = np.asarray(given)
            if given.shape != self.time.shape:
                raise ShapeError(f"with_flags: {name} has shape {given.shape}, but there are {len(self)} reports")
            seen = (given >= 0) & (self.flags[name] == QCFlag.PASS)
            found[name][seen] = given[seen]
        return dataclasses.replace(self, effective=found)

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each report: time (with its zone), station, place, and value, std and flag of each variable.

        The units stand in `attrs["units"]` of the frame, by column.
        """
        places = self.places()
        time = pd.DatetimeIndex(self.time).tz_localize("UTC").tz_convert(self.zone)
        columns: dict[str, Any] = {"time": time, "station": self.stations.names[self.station]}
        columns |= {name: places[:, k] for k, name in enumerate(("longitude", "latitude", "elevation"))}
        units = {"longitude": "degrees_east", "latitude": "degrees_north", "elevation": "m"}
        for variable in self.variables:
            name = variable.name
            columns[name], units[name] = self.values[name], variable.units
            if name in self.std:
                columns[f"{name}_std"], units[f"{name}_std"] = self.std[name], variable.units
            columns[f"{name}_flag"] = self.flags[name].astype(np.int32)
            if self.effective is not None:
                columns[f"{name}_effective_flag"] = self.effective[name].astype(np.int32)
        frame = pd.DataFrame(columns)
        frame.attrs["units"] = units
        return frame

    def to_grid(self, step: Any, *, off_step: str = "error", start: Any = None, end: Any = None) -> StationGrid:
        """Return the used values on regular times.

        Args:
            step: of the times, such as "1h" or "1D"; whole days are days of the local clock.
            off_step: what becomes of reports between the steps: "error", or counted at the "nearest" step (of several
                the one nearest to it), as the "mean" of those nearest to a step, or "missing".
            start: first time, UTC; default: the first whose place within the step is the usual one.
            end: last time; default: that of the last report.

        Raises:
            DataError: if reports lie between the steps, or there are none.
            ConfigurationError: if a setting is unknown, or the step gives too many times.

        Example:
            >>> from diffassim.io.layout import WideLayout
            >>> from diffassim.io.columns import TableVariable, TimeColumns
            >>> from diffassim.io.read_table import read_table
            >>> frame = pd.DataFrame({"date": ["2021-01-01", "2021-01-03"], "A": [1.0, 2.0], "B": [np.nan, 4.0]})
            >>> layout = WideLayout(time=TimeColumns("date"), variable=TableVariable("ozone", unit="ppb"))
            >>> read_table(frame, layout).to_grid("1D").values[..., 0].tolist()
            [[1.0, nan], [nan, nan], [2.0, 4.0]]
        """
        from diffassim.io.station_grid import station_grid

        return station_grid(self, RegularTimes(step, self.zone), off_step, start, end)

    def equals(self, other: ObservationTable) -> bool:
        """Return whether two tables hold the same reports: times, stations, places, values, errors and flags."""
        same = len(self) == len(other) and self.variables == other.variables and set(self.std) == set(other.std)
        if not same or (self.effective is None) != (other.effective is None):
            return False
        pairs: list[tuple[Any, Any]] = [(self.time, other.time), (self.places(), other.places())]
        pairs.append((self.stations.names[self.station].astype(str), other.stations.names[other.station].astype(str)))
        for mine, theirs in ((self.values, other.values), (self.flags, other.flags), (self.std, other.std)):
            pairs += [(mine[name], theirs[name]) for name in mine]
        pairs += [(self.final(name), other.final(name)) for name in self.names]
        return all(np.array_equal(a, b, equal_nan=np.asarray(a).dtype.kind == "f") for a, b in pairs)

    def _problem(self, variable: Variable, report: int, flag: QCFlag) -> Problem:
        station = str(self.stations.names[self.station[report]])
        column = self.columns.get(variable.name, self.columns.get(station, variable.name))
        value, time = float(self.values[variable.name][report]), pd.Timestamp(self.time[report])
        return Problem(self.file, column, int(self.row[report]), station, time, value, variable.units, flag)

    def rows(self, keep: Any) -> ObservationTable:
        """Return the reports with these numbers (or where a mask is True); the stations keep their numbers."""

        def some(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {name: array[keep] for name, array in arrays.items()}

        return dataclasses.replace(
            self, time=self.time[keep], station=self.station[keep], row=self.row[keep], values=some(self.values),
            flags=some(self.flags), std=some(self.std), track=None if self.track is None else self.track[keep],
            effective=None if self.effective is None else some(self.effective),
        )  # fmt: skip
