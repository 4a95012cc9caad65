"""From what the chunks of a file held to one table in the order of time."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from diffassim.core.errors import DataError
from diffassim.io.clock import to_utc
from diffassim.io.collect import Reports
from diffassim.io.columns import TableVariable
from diffassim.io.layout import TableLayout
from diffassim.io.messages import shortened, suggested
from diffassim.io.observation_table import ObservationTable
from diffassim.io.places import check_places
from diffassim.io.regular import RegularTimes
from diffassim.io.stations import FLAGS, Stations
from diffassim.models.base import Variable
from diffassim.observations.flags import QCFlag

__all__ = ["finished", "sorted_table"]

CONSTANT = 10  # values of a station that are all equal are worth a note from so many on


def sorted_table(
    file: str, reports: Reports, layout: TableLayout, known: Stations | None, notes: list[str]
) -> ObservationTable:
    """Return reports in the order of their times, values still as in the file, without what has no time or station.

    Args:
        file: name for messages.
        reports: what was read; its chunks are used up.
        layout: of the file.
        known: places of stations, from a table of them.
        notes: list that what was changed is added to.

    Raises:
        DataError: if a report has no time or station, a station no place, or a place is impossible.
    """
    local, row = reports.local(), reports.joined("row", np.int32)
    station = reports.joined("station", np.int32)
    values = {name: np.concatenate(parts) for name, parts in reports.values.items()}
    std = {name: np.concatenate(parts) for name, parts in reports.std.items()}
    marks = {name: np.concatenate(parts) for name, parts in reports.flags.items()}
    track = np.concatenate(reports.places) if reports.places else None
    none = np.isnat(local.times)
    blank = (none | (station < 0)) & np.all([np.isnan(array) for array in values.values()], axis=0)
    for bad, what in ((none & ~blank, "time"), ((station < 0) & ~blank, "station")):
        if bad.any():
            raise DataError(f"{file}: row {row[np.argmax(bad)]} has values, but no {what} ({int(bad.sum())} such rows)")
    time, said = to_utc(file, local, layout.time, station, row)
    notes += said
    _note_order(file, time, station, row, list(reports.names), notes)
    order = np.flatnonzero(~(blank | np.isnat(time)))
    if (time[order[1:]] < time[order[:-1]]).any():
        order = order[np.argsort(time[order], kind="stable")]
    whole = len(order) == len(time) and bool((order[1:] > order[:-1]).all())
    chosen: Any = slice(None) if whole else order
    flags = {
        name: _file_flags(variable, reports.marks.get(name, {}), marks.get(name), len(time))[chosen]
        for name, variable in ((v.name, v) for v in layout.variables)
    }
    stations = _stations(file, reports, known)
    if track is not None:
        check_places(file, stations.names[station], track[:, 0], track[:, 1], row, layout.region)
    elif known is None:
        given = np.array([reports.fixed[k][3] if k in reports.fixed else 0 for k in range(len(stations.names))])
        check_places(file, stations.names, stations.longitude, stations.latitude, given, layout.region)
    return ObservationTable(
        time=time[chosen], station=station[chosen], stations=stations,
        variables=tuple(Variable(v.name, ("report",), "1", v.long_name) for v in layout.variables),
        values={name: array[chosen] for name, array in values.items()}, flags=flags,
        std={name: array[chosen] for name, array in std.items()}, row=row[chosen], file=file, zone=layout.time.zone,
        track=None if track is None else track[chosen],
    )  # fmt: skip


def finished(
    table: ObservationTable, layout: TableLayout, known: Stations | None, notes: list[str]
) -> ObservationTable:
    """Return the table without stations that never report, and with notes of all that a reader should hear of.

    Args:
        table: the screened table.
        layout: of the file.
        known: places of stations, from a table of them.
        notes: what there is to be said already.
    """
    known_value = np.any([table.flags[name] != QCFlag.MISSING for name in table.names], axis=0)
    reporting = np.bincount(table.station[known_value], minlength=len(table.stations.names)) > 0
    silent = [str(name) for name in table.stations.names[~reporting]]
    if known is not None:
        there = {str(name) for name in table.stations.names}
        silent += [str(name) for name in known.names if str(name) not in there]
    if silent:
        notes.append(f"{table.file}: {len(silent)} station(s) never report and were left out: {_listed(silent)}")
    if not reporting.all():
        kept = reporting[table.station]
        number = np.cumsum(reporting) - 1
        table = table.rows(slice(None) if kept.all() else kept)
        table = dataclasses.replace(
            table, station=number[table.station].astype(np.int32), stations=table.stations.take(reporting)
        )
    if len(table.stations.names) == 1:
        notes.append(f"{table.file}: holds one station only, {shortened(repr(str(table.stations.names[0])))}")
    placed = known is not None or getattr(layout, "longitude", None) is not None
    if placed and table.track is None and np.isnan(table.stations.latitude).any():
        lost = [str(name) for name in table.stations.names[np.isnan(table.stations.latitude)]]
        notes.append(f"{table.file}: the place of {len(lost)} station(s) is not known: {_listed(lost)}")
    _note_constant(table, notes)
    if layout.step is not None:
        _note_steps(table, RegularTimes(layout.step, table.zone), notes)
    return dataclasses.replace(table, notes=tuple(notes))


def _stations(file: str, reports: Reports, known: Stations | None) -> Stations:
    """Return the stations in the order of their numbers."""
    names = np.array(list(reports.names), dtype=object)
    if known is None:
        places = np.full((len(names), 3), np.nan)
        for code, (*place, _) in reports.fixed.items():
            places[code] = place
        return Stations(names, *places.T)
    index = {str(name): k for k, name in enumerate(known.names)}
    lost = [name for name in reports.names if name not in index]
    if lost:
        raise DataError(
            f"{file}: the station {shortened(repr(lost[0]))} is not in the table of stations"
            f"{suggested(lost[0], index)} ({len(lost)} such stations)"
        )
    return known.take([index[name] for name in reports.names])


def _file_flags(variable: TableVariable, marks: dict[str, int], found: np.ndarray | None, count: int) -> np.ndarray:
    """Return the flags that the file itself has, as numbers of `QCFlag`."""
    if found is None:
        return np.zeros(count, np.uint8)
    good = None if variable.good is None else {str(mark) for mark in variable.good}
    numbers = [QCFlag.PRE_QC] * (len(marks) + 1)  # the last one: no flag at all
    for mark, k in marks.items():
        if good is not None:
            numbers[k] = QCFlag.PASS if mark in good else QCFlag.PRE_QC
        elif mark.isdigit() and int(mark) in FLAGS:
            numbers[k] = FLAGS[int(mark)]
    numbers[-1] = QCFlag.PASS if good is not None and "" in good else QCFlag.PRE_QC
    return np.array(numbers, np.uint8)[found]


def _note_order(
    file: str, time: np.ndarray, station: np.ndarray, row: np.ndarray, names: list[str], notes: list[str]
) -> None:
    """Note a station whose rows are not in the order of time."""
    if (time[1:] >= time[:-1]).all():
        return
    order = np.argsort(station, kind="stable")
    back = (station[order[1:]] == station[order[:-1]]) & (time[order[1:]] < time[order[:-1]])
    if back.any():
        report = order[1:][back]
        report = report[np.argmin(row[report])]
        notes.append(
            f"{file}: {int(back.sum())} time(s) are earlier than the one before of their station, the first in row "
            f"{row[report]}, of {shortened(repr(names[station[report]]))}; the reports were sorted"
        )


def _note_constant(table: ObservationTable, notes: list[str]) -> None:
    """Note stations all of whose values are the same."""
    for name in table.names:
        used = np.flatnonzero(table.used(name))
        number = np.bincount(table.station[used], minlength=len(table.stations.names))
        low = np.full(len(number), np.inf)
        np.minimum.at(low, table.station[used], table.values[name][used])
        other = np.bincount(
            table.station[used], table.values[name][used] != low[table.station[used]], minlength=len(number)
        )
        constant = (number >= CONSTANT) & (other == 0)
        if constant.any():
            stations = [str(station) for station in table.stations.names[constant]]
            notes.append(
                f"{table.file}: all values of {name} are the same at {len(stations)} station(s): {_listed(stations)}"
            )


def _note_steps(table: ObservationTable, regular: RegularTimes, notes: list[str]) -> None:
    """Note reports between the steps, and steps without a report."""
    first = regular.usual(table.time)
    index, distance = regular.index(table.time, first)
    off = np.flatnonzero(distance)
    if len(off):
        at = off[np.argmin(table.row[off])]
        notes.append(
            f"{table.file}: {len(off)} report(s) lie between the steps of {regular.microseconds / 6e7:g} minutes, the "
            f"first in row {table.row[at]}"
        )
    steps = np.unique(index[distance == 0])
    missing = int(steps[-1] - steps[0]) + 1 - len(steps)
    if missing:
        notes.append(f"{table.file}: {missing} of {missing + len(steps)} steps hold no report")


def _listed(names: list[str]) -> str:
    return shortened(", ".join(names[:10]), 200) + (", ..." if len(names) > 10 else "")
