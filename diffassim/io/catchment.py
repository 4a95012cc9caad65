"""Daily catchment records: discharge, precipitation, temperature from a CSV file."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from diffassim.core.errors import ConfigurationError, DataError
from diffassim.io.cells import missing_markers, numbers
from diffassim.io.clock import local_times
from diffassim.io.columns import TextFormat, TimeColumns
from diffassim.io.layout import MISSING
from diffassim.io.messages import shortened
from diffassim.io.packaged import packaged_file
from diffassim.io.table_source import open_table

__all__ = [
    "CatchmentLimits",
    "CatchmentRecord",
    "fulda_file",
    "oudin_evaporation",
    "read_catchment",
    "refuse_fill_value",
]

SECONDS_PER_DAY = 86400.0
ROWS = 1_000_000  # read at a time, and more than there are days
EARTH = 5.1e8  # km2
FILL_FACTOR = 3.0  # no flood is so many times as large as the second largest
UNKNOWN = missing_markers(MISSING)
TEXT = TextFormat()
GAPS = "fill gaps before, for example from a neighbouring station"


class CatchmentRecord(NamedTuple):
    """A gap-free daily record; missing discharge is NaN.

    dates (days,), discharge, precipitation and potential evaporation in mm per day, temperature in degrees
    Celsius, and the catchment's area in square kilometers.
    """

    dates: pd.DatetimeIndex
    discharge: np.ndarray
    precipitation: np.ndarray
    evaporation: np.ndarray
    temperature: np.ndarray
    area: float

    def cubic_meters_per_second(self, depth: np.ndarray) -> np.ndarray:
        """Convert mm per day over the catchment to m3/s."""
        return np.asarray(depth) * self.area * 1e3 / SECONDS_PER_DAY

    def day(self, date: str) -> int:
        """Return the index of a date.

        Raises:
            DataError: if the record does not hold it.
        """
        stamp = pd.Timestamp(date)
        if stamp not in self.dates:
            first, last = self.dates[0].date(), self.dates[-1].date()
            raise DataError(f"the record runs from {first} to {last} and does not hold {stamp.date()}")
        return int((stamp - self.dates[0]).days)


def fulda_file() -> Path:
    """Return the path of the Fulda record (gauge Grebenau, 1979 to 1988) that the package spotpy carries.

    The package is not imported.

    Raises:
        DataError: if spotpy is not installed or does not carry the file.
    """
    return packaged_file("spotpy", "fulda_climate.csv", "pip install 'diffassim[data]'")


@dataclasses.dataclass(frozen=True)
class CatchmentLimits:
    """Bounds (lowest, highest) of what a record may hold; a number outside of them is refused by name, never clipped.

    Args:
        temperature: of daily means, degrees Celsius; tighter than any mistake of unit (Kelvin, tenths) or fill value.
        precipitation: mm per day; most ever measured within a day are 1,825.
        depth: of discharge, mm per day over the catchment.

    Example:
        >>> CatchmentLimits(precipitation=(0.0, 300.0)).temperature
        (-90.0, 60.0)
    """

    temperature: tuple[float, float] = (-90.0, 60.0)
    precipitation: tuple[float, float] = (0.0, 2000.0)
    depth: tuple[float, float] = (0.0, 2000.0)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            lowest, highest = getattr(self, field.name)
            if not (math.isfinite(lowest) and math.isfinite(highest) and lowest < highest):
                raise ConfigurationError(f"{field.name}: limits {lowest} to {highest} must be finite and increase")


def read_catchment(
    path: str | Path,
    *,
    area: float,
    latitude: float,
    date: str = "date",
    discharge: str = "Q",
    precipitation: str = "Prec",
    temperature: str = "tmean",
    date_format: str = "%d.%m.%Y",
    units_row: bool | None = None,
    limits: CatchmentLimits | None = None,
) -> CatchmentRecord:
    """Read and check a daily record.

    Args:
        path: CSV file with a header row, which may be compressed (.gz, .bz2, .xz, .zip), or parquet.
        area: catchment area, km2.
        latitude: degrees north, for the potential evaporation.
        date: name of the column of dates ...
        discharge: ... of discharge in m3/s (empty or NaN: missing) ...
        precipitation: ... of precipitation in mm per day ...
        temperature: ... and of mean air temperature in degrees Celsius.
        date_format: how dates are written.
        units_row: whether the second row holds units instead of data; default: it does if none of its cells is a date
            or a number.
        limits: bounds of the numbers.

    Returns:
        The record, discharge converted to mm per day.

    Raises:
        ConfigurationError: if area or latitude is impossible, or a column is not there.
        DataError: if the file is missing or damaged, a date cannot be read, is repeated or left out, or a
            number that the model needs is missing, not a number, not finite, or outside of the limits.
    """
    limits = CatchmentLimits() if limits is None else limits
    if not (math.isfinite(area) and 0 < area < EARTH):
        raise ConfigurationError(f"area: {area} km2; the catchment's area is above 0 and below {EARTH:g} km2")
    if not -90 <= latitude <= 90:
        raise ConfigurationError(f"latitude: {latitude}; degrees north lie between -90 and 90")
    source = open_table(path, TEXT)
    name, wanted = source.name, (date, discharge, precipitation, temperature)
    chunks = list(source.chunks(wanted, (), (), ROWS))
    first_row = chunks[0].first_row if chunks else 2
    table = pd.concat([chunk.frame for chunk in chunks], ignore_index=True) if chunks else pd.DataFrame(columns=wanted)
    table = table[list(wanted)].fillna("")
    if _has_units(name, table, date_format, units_row):
        table, first_row = table.iloc[1:].reset_index(drop=True), first_row + 1
    dates = _dates(name, table, date, date_format, first_row)
    columns = {column: numbers(name, table[column], first_row, UNKNOWN, TEXT) for column in wanted[1:]}
    for column, bounds in ((precipitation, limits.precipitation), (temperature, limits.temperature)):
        _require(name, column, columns[column], dates, bounds, "the model needs a value {bounds} for every day: ", GAPS)
    flow = columns[discharge]
    depth = flow * SECONDS_PER_DAY / (area * 1e3)
    unit = area * 1e3 / SECONDS_PER_DAY  # of a mm per day, in m3/s
    bounds = (limits.depth[0] * unit, limits.depth[1] * unit)
    known = np.isfinite(flow) | np.isinf(flow)
    _require(
        name, discharge, np.where(known, flow, bounds[0]), dates, bounds,
        f"for {area:g} km2 {{bounds}} m3/s is possible: ", "leave it empty if it is unknown",
    )  # fmt: skip
    refuse_fill_value(name, discharge, flow, dates)
    evaporation = oudin_evaporation(columns[temperature], dates.day_of_year.to_numpy(), latitude)
    return CatchmentRecord(dates, depth, columns[precipitation], evaporation, columns[temperature], area)


def oudin_evaporation(temperature: np.ndarray, day_of_year: np.ndarray, latitude: float) -> np.ndarray:
    r"""Return potential evaporation from temperature, mm per day.

    \(E = R_e / (\lambda\rho) \cdot (T + 5)/100\) for T > -5 degrees Celsius, else 0, with extraterrestrial radiation
    R_e (MJ m-2 per day) and latent heat 2.45 MJ/kg.

    Args:
        temperature: mean air temperature, degrees Celsius, shape (days,).
        day_of_year: 1 to 366, shape (days,).
        latitude: degrees north.

    Source: Oudin et al. (2005), equation 3; radiation: Allen et al. (1998), equation 21.
    """
    phi = np.deg2rad(latitude)
    angle = 2 * np.pi * np.asarray(day_of_year) / 365
    distance = 1 + 0.033 * np.cos(angle)
    declination = 0.409 * np.sin(angle - 1.39)
    sunset = np.arccos(np.clip(-np.tan(phi) * np.tan(declination), -1, 1))
    geometry = sunset * np.sin(phi) * np.sin(declination) + np.cos(phi) * np.cos(declination) * np.sin(sunset)
    radiation = 24 * 60 / np.pi * 0.0820 * distance * geometry
    return np.where(temperature > -5, radiation / 2.45 * (temperature + 5) / 100, 0.0)


def _has_units(name: str, table: pd.DataFrame, date_format: str, units_row: bool | None) -> bool:
    """Return whether the first row holds units, and make sure that no day is taken for one."""
    if table.empty:
        return False
    first = table.iloc[0]
    stamp = pd.to_datetime(first.iloc[:1], format=date_format, errors="coerce")
    is_date = bool(stamp.notna().iloc[0])
    is_number = bool(pd.to_numeric(first.iloc[1:], errors="coerce").notna().any())
    if units_row is None:
        return not is_date and not is_number
    if units_row and is_date and is_number:
        raise DataError(
            f"{name}: the row after the header is the day {shortened(first.iloc[0])}, not a row of units; give "
            "units_row=False"
        )
    return units_row


def _dates(name: str, table: pd.DataFrame, column: str, date_format: str, first_row: int) -> pd.DatetimeIndex:
    dates = pd.DatetimeIndex(local_times(name, table, first_row, TimeColumns(column, date_format), TEXT).times)
    if dates.isna().any():
        raise DataError(f"{name}: column {column}, row {first_row + int(np.argmax(dates.isna()))}: the date is missing")
    if dates.has_duplicates:
        raise DataError(f"{name}: {dates[dates.duplicated()][0].date()} appears twice; keep one row for each day")
    if len(dates) < 2:
        raise DataError(f"{name}: holds {len(dates)} day(s) of data")
    steps = np.diff(dates.to_numpy()).astype("timedelta64[D]").astype(int)
    if (steps != 1).any():
        at = int(np.argmax(steps != 1))
        problem = "is out of order" if steps[at] < 0 else f"follows {dates[at].date()}: days are left out"
        raise DataError(f"{name}: {dates[at + 1].date()} {problem}; the record needs one row for every day, in order")
    return dates


def _require(
    name: str,
    column: str,
    values: np.ndarray,
    dates: pd.DatetimeIndex,
    bounds: tuple[float, float],
    need: str,
    advice: str,
) -> None:
    """Raise for the first value that is not between the bounds (NaN never is)."""
    bad = ~((values >= bounds[0]) & (values <= bounds[1]))
    if bad.any():
        row = int(np.argmax(bad))
        wanted = need.format(bounds=f"between {bounds[0]:g} and {bounds[1]:g}")
        raise DataError(
            f"{name}: {column} on {dates[row].date()} is {values[row]:g}{_guess(values[row])}; {wanted}{advice} "
            f"({int(bad.sum())} such value(s); the limits can be set)"
        )


def _guess(value: float) -> str:
    if _is_fill_value(value):
        return " (a fill value?)"
    return " (in Kelvin?)" if 180 < value < 340 else ""


def _is_fill_value(value: float) -> bool:
    digits = f"{abs(value):.12g}".replace(".", "") if math.isfinite(value) else ""
    return len(digits) >= 3 and set(digits) == {"9"}


def refuse_fill_value(name: str, column: str, flow: np.ndarray, dates: pd.DatetimeIndex) -> None:
    """Raise where the largest discharge is written in nines only and far above all others: `missing`, in many files."""
    known = np.flatnonzero(np.isfinite(flow))
    if not known.size:
        return
    largest = flow[known].max()
    others = flow[known][flow[known] < largest]
    if _is_fill_value(float(largest)) and largest > FILL_FACTOR * (others.max() if others.size else 0.0):
        row = int(known[np.argmax(flow[known])])
        raise DataError(
            f"{name}: {column} on {dates[row].date()} is {largest:g}, more than {FILL_FACTOR:g} times all other "
            "values: probably a fill value; leave it empty if it is unknown"
        )
