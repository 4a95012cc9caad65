"""What an assimilation of discharge needs to be told: the basin, its table, periods, warnings."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
import pandas as pd
from pydantic import BeforeValidator, Field, model_validator

from diffassim.core.errors import ConfigurationError, DataError
from diffassim.experiments.framework.base import Configuration, quantity
from diffassim.io.basin import BasinColumns, BasinRecord, read_basin
from diffassim.io.columns import TextFormat, TimeColumns
from diffassim.io.units import converted

__all__ = ["BasinConfiguration", "CatchmentConfiguration", "Periods", "area_of", "periods_of"]

CALIBRATED = 0.6  # of the record, up to the end of the calibration
WARM_UP, LEAST_WARM_UP_SHARE = 365, 0.1  # days, or this share of a record that is short


def area_of(value: Any) -> Any:
    """Return the km2 of an area that is written with its unit; a number is in km2.

    Example:
        >>> area_of("36000 ha"), area_of(360.0)
        (360.0, 360.0)
    """
    if not isinstance(value, str):
        return value
    number, _, unit = value.strip().partition(" ")
    try:
        return float(converted("area", float(number), unit.strip() or "km2", "km2"))
    except ConfigurationError as error:
        raise ValueError(f"{error}") from None


class BasinConfiguration(Configuration):
    """Settings of a basin and its table.

    Args:
        file: CSV (compressed or not) or parquet, with a row for each day, or for each hour.
        area: of the catchment, km2, or with its unit ("139 mile2", "36000 ha").
        latitude: of the catchment, degrees north, for the potential evaporation.
        date: column of the dates, or columns of their parts (year, month, day, hour).
        date_format: as for strptime; empty: ISO 8601.
        zone: time zone whose days are days, if dates have a time.
        century: is added to years below 100.
        precipitation: column.
        precipitation_unit: an amount ("mm", "inch") or a rate ("mm/hour").
        temperature: column of air temperature; empty if there is `evaporation`, and then there is no snow.
        temperature_unit: such as "degC", "degF" or "K".
        discharge: column; missing days are normal.
        discharge_unit: of volume ("m3 s-1", "l/s", "ft3/s") or of depth ("mm/day").
        evaporation: column of potential evaporation; empty: from temperature and latitude.
        evaporation_unit: as for precipitation.
        separator: between cells; empty: found out.
        decimal: "." or ",".
        encoding: of the characters; empty: found out.
        missing: numbers or texts that mean missing, beside the usual ones.
        duplicates: of rows with one time: "error", or the "first", "last" or "mean" counts.
        gap: longest gap of precipitation, temperature and evaporation that is filled (straight line), days.
    """

    file: Path | None = None
    area: Annotated[float, BeforeValidator(area_of), Field(gt=0, lt=5.1e8)]
    latitude: Annotated[float, quantity("degrees_north"), Field(ge=-66, le=66)]
    date: str | tuple[str, ...] = "date"
    date_format: str = ""
    zone: str = "UTC"
    century: int = 0
    precipitation: str = "precipitation"
    precipitation_unit: str = "mm"
    temperature: str = "temperature"
    temperature_unit: str = "degC"
    discharge: str = "discharge"
    discharge_unit: str = "m3 s-1"
    evaporation: str = ""
    evaporation_unit: str = "mm"
    separator: str = ""
    decimal: Literal[".", ","] = "."
    encoding: str = ""
    missing: tuple[float | str, ...] = ()
    duplicates: Literal["error", "first", "last", "mean"] = "error"
    gap: Annotated[int, quantity("days"), Field(ge=0, le=60)] = 5

    def columns(self) -> BasinColumns:
        """Return what the reader of basins is told.

        Raises:
            ConfigurationError: if a setting is impossible.
        """
        time = TimeColumns(
            self.date, self.date_format or None, zone=self.zone, doubled="order", skipped="shift",
            century=self.century or None,
        )  # fmt: skip
        return BasinColumns(
            time=time, text=TextFormat(self.encoding or None, self.separator or None, self.decimal),
            precipitation=self.precipitation, precipitation_unit=self.precipitation_unit,
            temperature=self.temperature, temperature_unit=self.temperature_unit,
            discharge=self.discharge, discharge_unit=self.discharge_unit,
            evaporation=self.evaporation, evaporation_unit=self.evaporation_unit, missing=self.missing,
            duplicates=self.duplicates,
        )  # fmt: skip

    def source(self) -> Path:
        """Return the file of the record.

        Raises:
            ConfigurationError: if none is named.
        """
        if self.file is None:
            raise ConfigurationError("file: name the table of a catchment; `diffassim new catchment` writes a template")
        return self.file

    def read(self) -> BasinRecord:
        """Return the record.

        Raises:
            ConfigurationError: if the settings do not fit the file, or name none.
            DataError: if the file cannot be read, or a gap is too long.
        """
        return read_basin(
            self.source(), self.columns(), area=self.area, latitude=self.latitude, gap=self.gap
        )  # fmt: skip


class CatchmentConfiguration(BasinConfiguration):
    """Settings of a catchment: those of its basin, the periods, and what is forecast.

    Args:
        calibration_start: first day on which parameters and error statistics are fitted; the days before warm up;
            default: after a year, or after a tenth of a record that is shorter than ten years.
        calibration_end: last one; default: after 60 % of the record, or before the verification.
        verification_start: first day on which forecasts are scored; default: after the calibration.
        verification_end: last one; default: the end of the record.
        window: days of discharge that each analysis assimilates.
        leads: forecast leads in days.
        updates: optimizer steps of the fit of the error statistics through the analysis; 0 keeps the first guess.
        flood_thresholds: discharges in m3/s whose exceedance is warned of; default: those that 10 and 5 % of the
            calibration days exceed.
        warning_probability: of exceedance, at which hits and false alarms count a warning.
    """

    calibration_start: datetime.date | None = None
    calibration_end: datetime.date | None = None
    verification_start: datetime.date | None = None
    verification_end: datetime.date | None = None
    window: Annotated[int, quantity("days"), Field(ge=1, le=60)] = 3
    leads: Annotated[tuple[Annotated[int, Field(ge=1, le=30)], ...], Field(min_length=1)] = (1, 2, 3, 5)
    updates: Annotated[int, Field(ge=0)] = 100
    flood_thresholds: tuple[Annotated[float, Field(gt=0)], ...] = ()
    warning_probability: Annotated[float, Field(gt=0, lt=1)] = 0.5

    @model_validator(mode="after")
    def _periods_are_possible(self) -> Self:
        _require_order(self.calibration_start, self.calibration_end, self.verification_start, self.verification_end)
        if list(self.leads) != sorted(set(self.leads)):
            raise ValueError(f"leads: {self.leads} must increase")
        if list(self.flood_thresholds) != sorted(set(self.flood_thresholds)):
            raise ValueError(f"flood_thresholds: {self.flood_thresholds} must increase")
        return self


class Periods(NamedTuple):
    """First and last day of calibration and verification."""

    calibration_start: datetime.date
    calibration_end: datetime.date
    verification_start: datetime.date
    verification_end: datetime.date


def periods_of(config: Any, dates: pd.DatetimeIndex) -> Periods:
    """Return the periods of a record, those by default where the settings name none.

    Args:
        config: with the four days, each of which may be None.
        dates: all days of the record.

    Raises:
        DataError: if the record leaves no such periods.

    Example:
        >>> from types import SimpleNamespace
        >>> unknown = dict.fromkeys(Periods._fields)
        >>> found = periods_of(SimpleNamespace(**unknown), pd.date_range("2001-01-01", "2010-12-31"))
        >>> [str(day) for day in found]
        ['2002-01-01', '2006-12-31', '2007-01-01', '2010-12-31']
    """
    days, count = [stamp.date() for stamp in dates[[0, -1]]], len(dates)
    one = datetime.timedelta(days=1)
    start = config.calibration_start or days[0] + min(WARM_UP, int(LEAST_WARM_UP_SHARE * count)) * one
    end = config.calibration_end
    if end is None:
        by_share = days[0] + (int(np.floor(CALIBRATED * count)) - 1) * one
        end = by_share if config.verification_start is None else config.verification_start - one
    found = Periods(start, end, config.verification_start or end + one, config.verification_end or days[1])
    try:
        _require_order(*found)
    except ValueError as error:
        raise DataError(f"{error} (the record runs from {days[0]} to {days[1]})") from None
    return found


def _require_order(
    calibration_start: datetime.date | None,
    calibration_end: datetime.date | None,
    verification_start: datetime.date | None,
    verification_end: datetime.date | None,
) -> None:
    """Raise `ValueError` where two days that are known are not in their order."""
    if calibration_start and calibration_end and calibration_end <= calibration_start:
        raise ValueError(f"calibration_end: {calibration_end} is not after {calibration_start}")
    learned = calibration_end or calibration_start
    if learned and verification_start and verification_start <= learned:
        raise ValueError(
            f"verification_start: {verification_start} is not after the calibration ({learned}); "
            "scores count only on days that nothing was fitted to"
        )
    begun = verification_start or learned
    if begun and verification_end and verification_end <= begun:
        raise ValueError(f"verification_end: {verification_end} is not after {begun}")
