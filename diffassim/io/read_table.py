"""Reading tables of observations, in chunks, with every flaw flagged or refused in one line."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from diffassim.core.errors import ConfigurationError, DataError
from diffassim.io.assemble import finished, sorted_table
from diffassim.io.collect import collect_long, collect_wide
from diffassim.io.columns import TableVariable
from diffassim.io.ioda import IODA_SUFFIXES, read_ioda
from diffassim.io.layout import LongLayout, TableLayout, WideLayout
from diffassim.io.messages import shortened
from diffassim.io.observation_table import ObservationTable
from diffassim.io.places import read_stations
from diffassim.io.plausible import plausible_bounds
from diffassim.io.screening import flag_bounds, flag_spikes, flag_stuck, require_single, resolve_duplicates
from diffassim.io.table_source import TableSource, open_table
from diffassim.io.units import converted, require_convertible
from diffassim.models.base import Variable
from diffassim.observations.flags import QCFlag

__all__ = ["read_table"]


def read_table(source: str | Path | Any, layout: TableLayout | None = None) -> ObservationTable:
    r"""Read, convert and check observations.

    Values come back in the unit wanted, times in UTC, in the order of time. What can be read but not used is kept
    with a flag (missing, outside of bounds, a duplicate, a spike, stuck); what cannot be read is an error that names
    file, column and row; what was changed or left out is said in the table's `notes`. Rows count from 1, the row of
    names included, as in an editor; cells that hold line breaks count as one line.

    Args:
        source: path of a CSV file (compressed or not), of a parquet file (.parquet, .pq), or of a netCDF file in the
            layout of IODA (.nc, .nc4); an open file with CSV; or a DataFrame.
        layout: `LongLayout` or `WideLayout`; None for IODA.

    Returns:
        The table.

    Raises:
        ConfigurationError: if the layout does not fit the file, or a unit is unknown.
        DataError: if the file is missing, empty or damaged, or holds what cannot be read.

    Example:
        >>> import io
        >>> from diffassim.io.columns import TableVariable, TextFormat
        >>> file = io.StringIO("time;station;ff\n2021-01-01 06:00;A;10,0\n2021-01-01 07:00;A;NA\n")
        >>> layout = LongLayout(
        ...     variables=(TableVariable("wind", "ff", "knot", "m s-1", bounds="wind_speed"),),
        ...     text=TextFormat(decimal=","),
        ... )
        >>> table = read_table(file, layout)
        >>> table.values["wind"].round(3).tolist(), table.flags["wind"].tolist()
        ([5.144, nan], [0, 10])
    """
    if not hasattr(source, "read") and isinstance(source, str | Path) and Path(source).suffix.lower() in IODA_SUFFIXES:
        return read_ioda(source)
    if not isinstance(layout, LongLayout | WideLayout):
        raise ConfigurationError(
            f"read_table: layout must be a LongLayout or a WideLayout, found {type(layout).__name__}; only netCDF "
            "files of IODA say themselves what they hold"
        )
    opened = open_table(source, layout.text)
    units = {v.name: _unit(opened, v, layout) for v in layout.variables}
    bounds = {v.name: _bounds(v, units[v.name]) for v in layout.variables}
    stations = None if layout.stations is None else read_stations(layout.stations, layout.region)
    if isinstance(layout, WideLayout):
        reports, columns = collect_wide(opened, layout, stations)
    else:
        reports, columns = collect_long(opened, layout), {v.name: v.column or v.name for v in layout.variables}
    if not reports.count():
        raise DataError(f"{opened.name}: is empty; there is no row of data after the names of the columns")
    notes = list(opened.notes)
    table = sorted_table(opened.name, reports, layout, stations, notes)
    table = _in_units(table, layout, units, columns)
    _screen(table, layout, bounds)
    return finished(table, layout, stations, notes)


def _unit(source: TableSource, variable: TableVariable, layout: TableLayout) -> tuple[str, str]:
    """Return the unit in the file and the unit wanted."""
    column = variable.column or variable.name
    said = source.units.get(column, "").strip() if isinstance(layout, LongLayout) else ""
    unit = variable.unit or said
    name = f"{source.name}: column {shortened(column)}"
    if not unit:
        raise ConfigurationError(
            f"{name}: its unit is not known; give TableVariable(unit=...), such as 'm s-1', 'degC', or '1'"
        )
    if variable.unit and said and said != variable.unit:
        try:
            same = bool(np.isclose(converted(name, 1.0, said, variable.unit), 1.0))
        except ConfigurationError:
            same = True  # what stands in a row of units need not be a unit
        if not same:
            raise ConfigurationError(f"{name}: the file says that its unit is {said!r}, the layout {variable.unit!r}")
    wanted = variable.wanted or unit
    require_convertible(name, unit, wanted)
    return unit, wanted


def _bounds(variable: TableVariable, units: tuple[str, str]) -> tuple[float, float] | None:
    if isinstance(variable.bounds, str):
        return plausible_bounds(variable.name, variable.bounds, units[1])
    return variable.bounds


def _in_units(
    table: ObservationTable, layout: TableLayout, units: dict[str, tuple[str, str]], columns: dict[str, str]
) -> ObservationTable:
    """Return the table with scales, offsets and units applied."""
    values, std, variables = {}, dict(table.std), []
    for variable in layout.variables:
        name, (unit, wanted) = variable.name, units[variable.name]
        where = f"{table.file}: column {shortened(variable.column or name)}"
        array = table.values[name]
        if variable.scale != 1 or variable.offset != 0:
            array = array * variable.scale + variable.offset
        values[name] = converted(where, array, unit, wanted)
        if name in std:
            std[name] = converted(where, std[name] * abs(variable.scale), unit, wanted, difference=True)
        elif isinstance(variable.std, int | float):
            std[name] = np.full(len(table), float(variable.std))
        variables.append(Variable(name, ("report",), wanted, variable.long_name))
    return dataclasses.replace(table, values=values, std=std, variables=tuple(variables), columns=columns)


def _screen(table: ObservationTable, layout: TableLayout, bounds: dict[str, tuple[float, float] | None]) -> None:
    """Set, in place, the flags of a table that nobody else has yet."""
    order = np.argsort(table.station, kind="stable")  # times increase already
    if layout.duplicates == "error":
        require_single(table.file, order, table.station, table.time, table.row, table.stations.names)
    for variable in layout.variables:
        values, flags = table.values[variable.name], table.flags[variable.name]
        flags[np.isnan(values)] = QCFlag.MISSING
        flag_bounds(values, flags, bounds[variable.name])
        if layout.duplicates != "error":
            resolve_duplicates(layout.duplicates, order, table.station, table.time, values, flags)
        if variable.spike is not None:
            flag_spikes(order, table.station, table.time, values, flags, variable.spike)
        if variable.stuck is not None:
            flag_stuck(order, table.station, values, flags, variable.stuck, variable.stuck_except)
        if (flags == QCFlag.MISSING).all():
            column = table.columns.get(variable.name, variable.name)
            raise DataError(
                f"{table.file}: all {len(flags)} values of {shortened(column)} are missing (what means missing is said "
                "by `missing` of the layout)"
            )
