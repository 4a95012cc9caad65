"""Reports collected from the chunks of a file, long or wide, in compact arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from diffassim.core.errors import ConfigurationError, DataError
from diffassim.io.cells import Missing, missing_markers, numbers, texts
from diffassim.io.clock import LocalTimes, local_times
from diffassim.io.columns import TableVariable
from diffassim.io.layout import LongLayout, WideLayout
from diffassim.io.messages import shortened
from diffassim.io.places import degrees, places_as_names
from diffassim.io.stations import Stations
from diffassim.io.table_source import TableSource, require_columns

__all__ = ["Reports", "collect_long", "collect_wide"]

SAME_PLACE = 1e-6  # degrees


@dataclasses.dataclass
class Reports:
    """Columns of reports in the order of the file, as lists of chunks; values still in the unit of the file.

    Args:
        times: of each report, as in the file.
        is_utc: whether they are UTC already.
        station: index into the names.
        row: in the file.
        values: by variable.
        std: by variable that has a column of errors.
        flags: by variable that has a column of flags: numbers of the different texts in it.
        marks: by variable, the different texts in its column of flags.
        places: longitude, latitude, elevation by report; empty where stations do not move.
        names: index by name of a station.
        fixed: place by index of a station, with the row that gave it.
    """

    times: list[np.ndarray] = dataclasses.field(default_factory=list)
    is_utc: list[np.ndarray] = dataclasses.field(default_factory=list)
    station: list[np.ndarray] = dataclasses.field(default_factory=list)
    row: list[np.ndarray] = dataclasses.field(default_factory=list)
    values: dict[str, list[np.ndarray]] = dataclasses.field(default_factory=dict)
    std: dict[str, list[np.ndarray]] = dataclasses.field(default_factory=dict)
    flags: dict[str, list[np.ndarray]] = dataclasses.field(default_factory=dict)
    marks: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    places: list[np.ndarray] = dataclasses.field(default_factory=list)
    names: dict[str, int] = dataclasses.field(default_factory=dict)
    fixed: dict[int, tuple[float, float, float, int]] = dataclasses.field(default_factory=dict)

    def count(self) -> int:
        """Return how many reports there are."""
        return sum(len(part) for part in self.row)

    def joined(self, name: str, dtype: Any) -> np.ndarray:
        """Return one column as an array, and forget its chunks."""
        parts, empty = getattr(self, name), np.zeros(0, dtype)
        found = np.concatenate(parts) if parts else empty
        parts.clear()
        return found.astype(dtype, copy=False)

    def local(self) -> LocalTimes:
        """Return the times, and forget their chunks."""
        return LocalTimes(self.joined("times", "datetime64[us]"), self.joined("is_utc", bool))


def collect_long(source: TableSource, layout: LongLayout) -> Reports:
    """Read a table with a row for each report.

    Raises:
        ConfigurationError: if a column is not there.
        DataError: with file, column and row, if a cell cannot be read, or a station is at two places.
    """
    places = [column for column in (layout.longitude, layout.latitude) if column is not None]
    heights = [] if layout.elevation is None else [layout.elevation]
    stations = [] if layout.station is None else [layout.station]
    errors = [v.std for v in layout.variables if isinstance(v.std, str)]
    marks = [v.flag for v in layout.variables if v.flag is not None]
    measured = [v.column or v.name for v in layout.variables]
    single = isinstance(layout.time.columns, str)
    labels = [*(layout.time.names if single else ()), *stations, *marks]
    numeric = [*(() if single else layout.time.names), *measured, *errors, *heights]
    everywhere = missing_markers(layout.missing)
    own = {v.name: missing_markers([*layout.missing, *v.missing]) for v in layout.variables}
    reports = Reports()
    for chunk in source.chunks(labels, [*numeric, *places], everywhere.texts, layout.chunk):
        frame, first = chunk
        local = local_times(source.name, frame, first, layout.time, layout.text)
        for variable in layout.variables:
            _add_values(reports, source.name, frame, first, variable, own[variable.name], layout)
        reports.station.append(_stations_of(reports, source.name, frame, first, layout))
        reports.row.append(np.arange(first, first + len(frame), dtype=np.int32))
        reports.times.append(local.times)
        reports.is_utc.append(local.is_utc)
    return reports


def collect_wide(source: TableSource, layout: WideLayout, stations: Stations | None) -> tuple[Reports, dict[str, str]]:
    """Read a table with a row for each time, and return with the reports the column of each station.

    Raises:
        ConfigurationError: if a column is not there, or columns and stations do not belong together.
        DataError: with file, column and row, if a cell cannot be read.
    """
    columns = _station_columns(source, layout, stations)
    single = isinstance(layout.time.columns, str)
    labels, numeric = (layout.time.names, ()) if single else ((), layout.time.names)
    missing = missing_markers([*layout.missing, *layout.variable.missing])
    reports = Reports(names={name: k for k, name in enumerate(columns.values())})
    values = reports.values.setdefault(layout.variable.name, [])
    rows = max(1, layout.chunk // len(columns))
    for frame, first in source.chunks([*labels], [*numeric, *columns], missing.texts, rows):
        local = local_times(source.name, frame, first, layout.time, layout.text)
        cells = [numbers(source.name, frame[column], first, missing, layout.text) for column in columns]
        matrix = np.stack(cells, axis=-1)
        blank = np.isnat(local.times) & np.isnan(matrix).all(axis=-1)
        kept = np.flatnonzero(~blank)
        values.append(matrix[kept].ravel())
        reports.times.append(np.repeat(local.times[kept], len(columns)))
        reports.is_utc.append(np.repeat(local.is_utc[kept], len(columns)))
        reports.row.append(np.repeat((first + kept).astype(np.int32), len(columns)))
        reports.station.append(np.tile(np.arange(len(columns), dtype=np.int32), len(kept)))
    return reports, {name: column for column, name in columns.items()}


def _station_columns(source: TableSource, layout: WideLayout, stations: Stations | None) -> dict[str, str]:
    """Return the name of the station that each column of values belongs to."""
    others = [name for name in source.names if name not in layout.time.names]
    require_columns(source.name, layout.time.names, source.names)
    if layout.columns == "order":
        known = [] if stations is None else [str(name) for name in stations.names]
        if len(known) != len(others):
            raise ConfigurationError(
                f"{source.name}: has {len(others)} columns of values, but the table of stations has {len(known)} rows; "
                "columns='order' needs as many"
            )
        return dict(zip(others, known, strict=True))
    if isinstance(layout.columns, Mapping):
        chosen = {str(column): str(name) for column, name in layout.columns.items()}
    else:
        chosen = {str(column): str(column) for column in (others if layout.columns is None else layout.columns)}
    if not chosen:
        raise ConfigurationError(f"{source.name}: has no columns of stations beside {', '.join(layout.time.names)}")
    twice = [name for k, name in enumerate(chosen.values()) if name in list(chosen.values())[:k]]
    if twice:
        raise ConfigurationError(f"{source.name}: two columns are of the station {shortened(repr(twice[0]))}")
    return chosen


def _add_values(
    reports: Reports, file: str, frame: pd.DataFrame, first: int, variable: TableVariable, missing: Missing,
    layout: LongLayout,
) -> None:  # fmt: skip
    name = variable.name
    found = numbers(file, frame[variable.column or name], first, missing, layout.text)
    reports.values.setdefault(name, []).append(found)
    if isinstance(variable.std, str):
        found = numbers(file, frame[variable.std], first, missing, layout.text)
        if (found < 0).any():
            at = int(np.argmax(found < 0))
            raise DataError(f"{file}: column {variable.std}, row {first + at}: {found[at]:g} is no standard deviation")
        reports.std.setdefault(name, []).append(found)
    if variable.flag is not None:
        codes, marks = texts(frame[variable.flag])
        known = reports.marks.setdefault(name, {})
        numbered = np.array([known.setdefault(str(mark), len(known)) for mark in marks], dtype=np.int32)
        reports.flags.setdefault(name, []).append(_taken(numbered, codes))


def _stations_of(reports: Reports, file: str, frame: pd.DataFrame, first: int, layout: LongLayout) -> np.ndarray:
    """Return the index of each report's station, -1 where there is none, and note its place."""
    place = None
    if layout.longitude is not None and layout.latitude is not None:
        place = np.full((len(frame), 3), np.nan)
        for k, column in enumerate((layout.longitude, layout.latitude)):
            place[:, k] = degrees(file, frame[column], first, layout.text)
        if layout.elevation is not None:
            place[:, 2] = numbers(file, frame[layout.elevation], first, missing_markers(layout.missing), layout.text)
    if layout.station is not None:
        codes, names = texts(frame[layout.station])
    elif layout.only is not None:
        codes, names = np.zeros(len(frame), int), np.array([layout.only], dtype=object)
    else:
        assert place is not None  # the layout has seen to it
        codes, names = places_as_names(place[:, 0], place[:, 1])
    numbered = np.array([reports.names.setdefault(str(name), len(reports.names)) for name in names], dtype=np.int32)
    station = _taken(numbered, codes)
    if place is not None and layout.moving:
        reports.places.append(place)
    elif place is not None:
        _fix_places(reports, file, station, place, first)
    return station


def _fix_places(reports: Reports, file: str, station: np.ndarray, place: np.ndarray, first: int) -> None:
    """Note where stations are; raise `DataError` if one is at two places."""
    known = np.flatnonzero((station >= 0) & np.isfinite(place[:, :2]).all(axis=1))
    codes, start = np.unique(station[known], return_index=True)
    there = np.full((len(reports.names), 3), np.nan)
    row = np.zeros(len(reports.names), int)
    for code, at in zip(codes.tolist(), known[start].tolist(), strict=True):  # over stations
        *there[code], row[code] = reports.fixed.setdefault(code, (*place[at].tolist(), first + at))
    moved = np.abs(there[station[known], :2] - place[known, :2]).max(axis=1, initial=0) > SAME_PLACE
    if moved.any():
        at = known[int(np.argmax(moved))]
        names = list(reports.names)
        raise DataError(
            f"{file}: the station {shortened(repr(names[station[at]]))} is at longitude and latitude "
            f"{there[station[at], :2].tolist()} in row {row[station[at]]}, but at {place[at, :2].tolist()} in row "
            f"{first + at}; correct it, or say moving=True"
        )


def _taken(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    return (
        np.where(codes >= 0, values[codes], -1).astype(np.int32) if len(values) else np.full(len(codes), -1, np.int32)
    )
