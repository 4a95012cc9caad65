"""The record of any river basin, from the table that its owner has: columns, units, dates, gaps, days or hours."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from diffassim.core.errors import ConfigurationError, DataError
from diffassim.io.catchment import CatchmentLimits, CatchmentRecord, oudin_evaporation, refuse_fill_value
from diffassim.io.cells import missing_markers, numbers
from diffassim.io.columns import TableVariable, TextFormat, TimeColumns
from diffassim.io.daily import LEAST_SHARE, Days, daily
from diffassim.io.layout import MISSING, LongLayout
from diffassim.io.messages import shortened
from diffassim.io.observation_table import ObservationTable
from diffassim.io.read_table import read_table
from diffassim.io.table_source import open_table
from diffassim.io.units import converted, require_convertible
from diffassim.observations.flags import QCFlag

__all__ = ["BasinColumns", "BasinDays", "BasinRecord", "basin_record", "read_basin", "read_basin_days"]

MOST_OUTSIDE = 0.1  # of the values of a column: more of them are an error of unit, and not of single values
NO_SNOW = 20.0  # degrees Celsius: all precipitation is rain
FLOW, DEPTH, RATE = "m3 s-1", "mm", "mm day-1"


@dataclasses.dataclass(frozen=True, kw_only=True)
class BasinColumns:
    """Where a basin's table has what, and in which units.

    Args:
        time: column, or columns of parts, and form of the dates.
        precipitation: column.
        precipitation_unit: an amount ("mm", "inch", of each report's interval) or a rate ("mm/hour").
        temperature: column of air temperature; empty if there is an `evaporation`: then there is no snow.
        temperature_unit: such as "degC", "degF", "K".
        discharge: column.
        discharge_unit: of volume ("m3 s-1", "l/s", "ft3/s") or of depth over the basin ("mm/day").
        evaporation: column of potential evaporation; empty: from the temperature.
        evaporation_unit: as for precipitation.
        text: how the file is written; a row of units after that of the names is found out.
        missing: numbers or texts that mean missing, beside the usual ones.
        duplicates: of rows with one time: "error", or the "first", "last" or "mean" counts.

    Raises:
        ConfigurationError: if a column serves twice, or neither temperature nor evaporation is there.

    Example:
        >>> BasinColumns(discharge="Q", discharge_unit="ft3/s").temperature
        'temperature'
    """

    time: TimeColumns = dataclasses.field(default_factory=lambda: TimeColumns("date"))
    precipitation: str = "precipitation"
    precipitation_unit: str = "mm"
    temperature: str = "temperature"
    temperature_unit: str = "degC"
    discharge: str = "discharge"
    discharge_unit: str = FLOW
    evaporation: str = ""
    evaporation_unit: str = "mm"
    text: TextFormat = dataclasses.field(default_factory=TextFormat)
    missing: tuple[float | str, ...] = ()
    duplicates: Literal["error", "first", "last", "mean"] = "error"

    def __post_init__(self) -> None:
        if not self.temperature and not self.evaporation:
            raise ConfigurationError("temperature: name its column, or one of potential evaporation (`evaporation`)")
        columns = [*self.time.names, *(column for _, column, _ in self.measured)]
        if not all(columns):
            raise ConfigurationError("precipitation and discharge: name their columns")
        twice = [column for k, column in enumerate(columns) if column in columns[:k]]
        if twice:
            raise ConfigurationError(f"the column {shortened(repr(twice[0]))} is named twice; each serves once")

    @property
    def measured(self) -> tuple[tuple[str, str, str], ...]:
        """Name, column and unit of each variable that is there."""
        every = ("precipitation", "temperature", "discharge", "evaporation")
        return tuple(
            (name, getattr(self, name), getattr(self, f"{name}_unit")) for name in every if getattr(self, name)
        )


class BasinRecord(NamedTuple):
    """A basin's daily record, the table that it comes from, and what was changed or left out, one line each."""

    record: CatchmentRecord
    table: ObservationTable
    notes: tuple[str, ...]


class BasinDays(NamedTuple):
    """A basin's days with all their gaps.

    Args:
        table: the reports that they come from.
        days: values by day, NaN where missing.
        units: of each variable.
        notes: what was changed or left out, one line each.
    """

    table: ObservationTable
    days: Days
    units: dict[str, str]
    notes: tuple[str, ...]


def read_basin(
    path: str | Path,
    columns: BasinColumns,
    *,
    area: float,
    latitude: float,
    gap: int = 5,
    limits: CatchmentLimits | None = None,
) -> BasinRecord:
    r"""Read a basin's record, as days without gaps in what drives the model.

    Several reports a day become sums (precipitation, evaporation) and means (temperature, discharge). Values outside of
    the limits count as missing and are said. Gaps of precipitation, temperature and evaporation up to `gap` days are
    filled by the straight line between the days around; the record begins and ends with the first and last day on which
    all of them are known. Discharge is never filled. Without a column of it, potential evaporation is that of the
    temperature (`oudin_evaporation`); without temperatures there is no snow.

    Args:
        path: CSV file, which may be compressed, or parquet.
        columns: where it has what.
        area: of the basin, km2.
        latitude: degrees north, for the potential evaporation.
        gap: longest gap of the forcing that is filled, days.
        limits: of values by day.

    Raises:
        ConfigurationError: if a column is not there, or a unit does not fit.
        DataError: if the file cannot be read, with column and row; if a gap is too long, or most values of a column
            are impossible.
    """
    found = read_basin_days(path, columns, area=area, limits=limits)
    table, days = found.table, found.days
    forcing = tuple(name for name in found.units if name != "discharge")
    days, filled = _without_gaps(table, days, forcing, gap, columns)
    flow = days.values["discharge"]
    refuse_fill_value(table.file, table.columns.get("discharge", "discharge"), flow, days.dates)
    record = basin_record(days.dates, days.values, found.units["discharge"], area, latitude)
    return BasinRecord(record, table, (*found.notes, *filled))


def read_basin_days(
    path: str | Path, columns: BasinColumns, *, area: float, limits: CatchmentLimits | None = None
) -> BasinDays:
    """Read a basin's days as they are: nothing is filled, and values outside of the limits count as missing.

    Args:
        path: CSV file, which may be compressed, or parquet.
        columns: where it has what.
        area: of the basin, km2.
        limits: of values by day.

    Raises:
        ConfigurationError: if a column is not there, or a unit does not fit.
        DataError: if the file cannot be read, with column and row; if most values of a column are impossible.
    """
    limits = CatchmentLimits() if limits is None else limits
    units_row = _has_row_of_units(path, columns)
    text = dataclasses.replace(columns.text, units_row=units_row)
    variables = tuple(_variable(columns, *each, area, limits) for each in columns.measured)
    layout = LongLayout(
        variables=variables, station=None, only="basin", time=columns.time, text=text,
        missing=(*MISSING, *columns.missing), duplicates=columns.duplicates,
    )  # fmt: skip
    table = read_table(path, layout)
    table = dataclasses.replace(table, notes=tuple(n for n in table.notes if "holds one station only" not in n))
    _require_plausible(table, columns)
    amounts = tuple(v.name for v in variables if v.wanted == DEPTH)
    days = daily(table, amounts)
    notes = [*_impossible(table), *table.notes]
    if days.per_day > 1:
        notes.append(
            f"{table.file}: {days.per_day} reports a day became sums (precipitation) and means by day of the clock of "
            f"{table.zone}; days with less than {100 * LEAST_SHARE:g} % of them are missing"
        )
    return BasinDays(table, days, {v.name: v.wanted or v.unit or "" for v in variables}, tuple(notes))


def _has_row_of_units(path: str | Path, columns: BasinColumns) -> bool:
    """Return whether no cell of the row after that of the names is a number or missing, which makes it one of units."""
    source = open_table(path, columns.text)
    wanted = [column for _, column, _ in columns.measured]
    chunk = next(source.chunks([*columns.time.names, *wanted], (), (), 1), None)
    if chunk is None or source.units:
        return False
    missing = missing_markers((*MISSING, *columns.missing))
    for column in wanted:
        try:
            numbers(source.name, chunk.frame[column], chunk.first_row, missing, columns.text)
            return False
        except DataError:
            continue
    # Of a day whose numbers cannot be read the date still can; that is an error in this row, and is left to be said.
    dates = chunk.frame[columns.time.names[0]].astype(str)
    form = columns.time.format
    known = pd.to_datetime(dates, format=form if form and " since " not in form else "ISO8601", errors="coerce").notna()
    return not bool(known.iloc[0])


def _variable(
    columns: BasinColumns, name: str, column: str, unit: str, area: float, limits: CatchmentLimits
) -> TableVariable:
    where = f"{name}_unit: column {shortened(column)}"
    if name == "temperature":
        require_convertible(where, unit, "degC")
        return TableVariable(name, column, unit, "degC", bounds=limits.temperature)
    if name == "discharge":
        if _is_convertible(where, unit, RATE):
            return TableVariable(name, column, unit, RATE, bounds=limits.depth)
        require_convertible(where, unit, FLOW)
        low, high = (bound * area * 1e3 / 86400 for bound in limits.depth)
        return TableVariable(name, column, unit, FLOW, bounds=(low, high))
    wanted = DEPTH if _is_convertible(where, unit, DEPTH) else RATE
    require_convertible(where, unit, wanted)
    # Evaporation is below zero where dew falls; a year's fastest rain, as a rate, is above a day's largest amount.
    low, high = limits.precipitation if name == "precipitation" else (-10.0, 100.0)
    return TableVariable(name, column, unit, wanted, bounds=(low, high if wanted == DEPTH else 24 * high))


def _is_convertible(where: str, unit: str, wanted: str) -> bool:
    try:
        converted(where, 1.0, unit, wanted)
    except ConfigurationError:
        return False
    return True


def _require_plausible(table: ObservationTable, columns: BasinColumns) -> None:
    """Raise where many values of a column are impossible: its unit is another."""
    for variable in table.variables:
        flags, values = table.flags[variable.name], table.values[variable.name]
        outside, known = flags == QCFlag.BOUNDS, flags != QCFlag.MISSING
        if outside.sum() > MOST_OUTSIDE * known.sum():
            at = int(np.argmax(outside))
            column = table.columns.get(variable.name, variable.name)
            hint = ", or the area" if variable.name == "discharge" else ""
            unit = getattr(columns, f"{variable.name}_unit")
            raise DataError(
                f"{table.file}: column {shortened(column)}, row {table.row[at]}: {values[at]:g} {variable.units} is "
                f"impossible ({int(outside.sum())} of {int(known.sum())} such values); look at "
                f"{variable.name}_unit, now {unit!r}{hint}, or name it under `missing`"
            )


def _impossible(table: ObservationTable) -> list[str]:
    """Return the first values outside of the limits, and how many there are."""
    lines = []
    for variable in table.variables:
        number = int((table.flags[variable.name] == QCFlag.BOUNDS).sum())
        if number:
            first = next(
                p for p in table.problems(1) if p.flag == QCFlag.BOUNDS and p.unit == variable.units
                and p.column == table.columns.get(variable.name, variable.name)
            )  # fmt: skip
            lines.append(
                f"{first.file}: column {shortened(first.column)}, row {first.row}: {first.value:g} {first.unit} is "
                f"impossible and counts as missing ({number} such value(s))"
            )
    return lines


def _without_gaps(
    table: ObservationTable, days: Days, forcing: tuple[str, ...], gap: int, columns: BasinColumns
) -> tuple[Days, list[str]]:
    """Cut the record to the days from which to which all forcing is known, and fill short gaps."""
    known = np.all([np.isfinite(days.values[name]) for name in forcing], axis=0)
    if known.sum() < 2:
        raise DataError(f"{table.file}: {', '.join(forcing)} are known together on {int(known.sum())} days")
    first, last = int(np.argmax(known)), len(known) - int(np.argmax(known[::-1]))
    notes = []
    if last - first < len(known):
        notes.append(
            f"{table.file}: the record is used from {days.dates[first].date()} to {days.dates[last - 1].date()}; on "
            f"{len(known) - (last - first)} days before or after it {' or '.join(forcing)} is missing"
        )
    inside = slice(first, last)
    days = Days(days.dates[inside], {n: v[inside] for n, v in days.values.items()}, days.row[inside], days.per_day)
    values = dict(days.values)
    for name in forcing:
        column = table.columns.get(name, getattr(columns, name))
        missing = np.isnan(values[name])
        longest = _require_short(table.file, column, days, missing, gap)
        if missing.any():
            at = np.arange(len(missing))
            values[name] = np.where(missing, np.interp(at, at[~missing], values[name][~missing]), values[name])
            start = int(np.argmax(missing))
            notes.append(
                f"{table.file}: column {shortened(column)}: {int(missing.sum())} missing day(s), the first "
                f"{days.dates[start].date()}, in gaps of up to {longest}, were filled by the straight line between the "
                "days around"
            )
    return days._replace(values=values), notes


def _require_short(file: str, column: str, days: Days, missing: np.ndarray, gap: int) -> int:
    """Return the length of the longest gap; raise for the first that is too long."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], missing.astype(int), [0]])))
    starts, ends = edges[::2], edges[1::2]
    lengths = ends - starts
    if (lengths > gap).any():
        k = int(np.argmax(lengths > gap))
        rows = days.row[starts[k] : ends[k]]
        place = f"row {rows[rows > 0][0]}" if (rows > 0).any() else f"after row {days.row[starts[k] - 1]}"
        raise DataError(
            f"{file}: column {shortened(column)}, {place}: no value from {days.dates[starts[k]].date()} to "
            f"{days.dates[ends[k] - 1].date()} ({lengths[k]} days); the model needs one for every day, and gaps of up "
            f"to {gap} days are filled (gap; {int((lengths > gap).sum())} longer ones): fill them before, for example "
            "from a station nearby, or cut the record"
        )
    return int(lengths.max(initial=0))


def basin_record(
    dates: pd.DatetimeIndex, values: dict[str, np.ndarray], unit: str, area: float, latitude: float
) -> CatchmentRecord:
    """Return the record that drives a model from gap-free days.

    Args:
        dates: of the days.
        values: precipitation (mm), discharge, and temperature (degrees Celsius), evaporation (mm) or both.
        unit: of the discharge, of depth per day or of volume.
        area: of the basin, km2.
        latitude: degrees north, for the potential evaporation where there is none.

    Example:
        >>> days = pd.date_range("2001-06-01", periods=2)
        >>> values = {"precipitation": np.ones(2), "temperature": np.full(2, 15.0)}
        >>> values["discharge"] = np.array([1.0, np.nan])
        >>> basin_record(days, values, "m3 s-1", area=86.4, latitude=50.0).discharge.tolist()
        [1.0, nan]
    """
    flow = values["discharge"]
    depth = flow if unit == RATE else flow * 86400.0 / (area * 1e3)
    temperature = values.get("temperature", np.full(len(depth), NO_SNOW))
    evaporation = values.get("evaporation")
    if evaporation is None:
        evaporation = oudin_evaporation(temperature, dates.day_of_year.to_numpy(), latitude)
    return CatchmentRecord(dates, depth, values["precipitation"], np.maximum(evaporation, 0), temperature, area)
