"""Daily catchment records: discharge, precipitation, temperature from a CSV file."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from diffassim.core.errors import DataError

__all__ = ["CatchmentRecord", "fulda_file", "oudin_evaporation", "read_catchment"]

SECONDS_PER_DAY = 86400.0


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
    try:
        found = [f for f in files("spotpy") or [] if f.name == "fulda_climate.csv"]
    except PackageNotFoundError:
        raise DataError("the Fulda record comes with the package spotpy: pip install 'diffassim[data]'") from None
    if not found:
        raise DataError("this version of spotpy carries no fulda_climate.csv: pip install 'spotpy>=1.6'")
    return Path(str(found[0].locate()))


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
    units_row: bool = True,
) -> CatchmentRecord:
    """Read and check a daily record.

    Args:
        path: CSV file with a header row.
        area: catchment area, km2.
        latitude: degrees north, for the potential evaporation.
        date: name of the column of dates ...
        discharge: ... of discharge in m3/s (empty or NaN: missing) ...
        precipitation: ... of precipitation in mm per day ...
        temperature: ... and of mean air temperature in degrees Celsius.
        date_format: how dates are written.
        units_row: whether the second row holds units instead of data.

    Returns:
        The record, discharge converted to mm per day.

    Raises:
        DataError: if the file or a column is missing, a date cannot be read, is repeated or left out, or a number that
            the model needs is missing, not a number, or out of range.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        table = pd.read_csv(path, encoding="latin-1", skiprows=[1] if units_row else None)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(f"{path.name}: not a CSV table: {error}") from None
    wanted = (date, discharge, precipitation, temperature)
    missing = [name for name in wanted if name not in table.columns]
    if missing:
        raise DataError(f"{path.name}: column {missing[0]!r} is missing; the file has {', '.join(table.columns)}")
    dates = _dates(path.name, table[date], date_format)
    columns = {name: _numbers(path.name, table[name], dates) for name in wanted[1:]}
    for name, least in ((precipitation, 0.0), (temperature, -80.0)):
        bad = ~(columns[name] >= least)
        if bad.any():
            day = dates[int(np.argmax(bad))].date()
            raise DataError(
                f"{path.name}: {name} on {day} is {columns[name][bad][0]}; the model needs a value >= {least} for "
                "every day: fill gaps before, for example from a neighbouring station"
            )
    flow = columns[discharge]
    if (flow < 0).any():
        day = dates[int(np.argmax(flow < 0))].date()
        raise DataError(f"{path.name}: {discharge} on {day} is negative; leave it empty if it is unknown")
    evaporation = oudin_evaporation(columns[temperature], dates.day_of_year.to_numpy(), latitude)
    depth = flow * SECONDS_PER_DAY / (area * 1e3)
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


def _dates(name: str, column: pd.Series, date_format: str) -> pd.DatetimeIndex:
    dates = pd.DatetimeIndex(pd.to_datetime(column, format=date_format, errors="coerce"))
    if dates.isna().any():
        row = int(np.argmax(dates.isna()))
        raise DataError(
            f"{name}: data row {row + 1} has the date {column.iloc[row]!r}, expected the form {date_format}"
        )
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


def _numbers(name: str, column: pd.Series, dates: pd.DatetimeIndex) -> np.ndarray:
    numbers = pd.to_numeric(column, errors="coerce")
    bad = numbers.isna() & column.notna() & (column.astype(str).str.strip() != "")
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(f"{name}: {column.name} on {dates[row].date()} is {column.iloc[row]!r}, not a number")
    return numbers.to_numpy(dtype=float)
