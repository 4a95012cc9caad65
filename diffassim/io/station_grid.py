"""A table of reports as arrays of time, station and variable."""

from __future__ import annotations

from typing import Any

import numpy as np

from diffassim.core.errors import ConfigurationError, DataError
from diffassim.io.columns import one_of
from diffassim.io.observation_table import ObservationTable
from diffassim.io.regular import RegularTimes, shown, utc
from diffassim.io.stations import StationGrid

__all__ = ["station_grid"]

MOST_CELLS = 500_000_000


def station_grid(table: ObservationTable, regular: RegularTimes, off_step: str, start: Any, end: Any) -> StationGrid:
    """Return the used values of a table on regular times; see `ObservationTable.to_grid`.

    Raises:
        DataError: if reports lie between the steps, or there are none.
        ConfigurationError: if a setting is unknown, or the step gives too many times.
    """
    one_of("to_grid: off_step", off_step, ("error", "nearest", "mean", "missing"))
    if not len(table):
        raise DataError(f"{table.file}: holds no reports")
    first = regular.usual(table.time) if start is None else utc("start", start)
    index, distance = regular.index(table.time, first)
    count = int(index.max()) + 1 if end is None else int(regular.index(np.array([utc("end", end)]), first)[0][0]) + 1
    before = int(max(-index.min(), 0)) if start is None else 0  # a few reports may lie before the usual place in a step
    index, count = index + before, count + before
    stations, variables = len(table.stations.names), len(table.variables)
    if count < 1 or count * stations * variables > MOST_CELLS:
        raise ConfigurationError(
            f"to_grid: {count} times of {stations} stations and {variables} variables are too many or none; look at "
            "step, start and end"
        )
    inside = (index >= 0) & (index < count)
    off = inside & (distance != 0) & np.any([table.used(name) for name in table.names], axis=0)
    if off.any() and off_step == "error":
        at = int(np.argmax(off))
        raise DataError(
            f"{table.file}: row {table.row[at]}: the time {shown(table.time[at])} UTC lies "
            f"{distance[at] / 6e7:g} minutes off the steps of {regular.microseconds / 6e7:g} minutes that most reports "
            f"keep; say off_step='nearest', 'mean' or 'missing' ({int(off.sum())} such reports)"
        )
    if off_step == "missing":
        inside &= distance == 0
    shape = (count, stations)
    values, report = np.full((*shape, variables), np.nan), np.full(shape, -1)
    for k, name in enumerate(table.names):
        chosen = np.flatnonzero(inside & table.used(name))
        chosen = chosen[np.argsort(-np.abs(distance[chosen]), kind="stable")]  # the nearest is written last
        cell = index[chosen] * stations + table.station[chosen]
        report.ravel()[cell] = chosen
        if off_step == "mean":
            number = np.bincount(cell, minlength=count * stations)
            total = np.bincount(cell, table.values[name][chosen], minlength=count * stations)
            mean = np.divide(total, number, out=np.full(count * stations, np.nan), where=number > 0)
            values[..., k] = mean.reshape(shape)
        else:
            values[index[chosen], table.station[chosen], k] = table.values[name][chosen]
    return StationGrid(
        regular.times(first, np.arange(count) - before), table.stations, values, np.isfinite(values), report
    )
