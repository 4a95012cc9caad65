"""Tables of a regulated lake: whole years of daily inflow and demand."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from diffassim.core.errors import DataError
from diffassim.io.cells import missing_markers, numbers
from diffassim.io.columns import TextFormat
from diffassim.io.layout import MISSING
from diffassim.io.table_source import open_table

__all__ = ["LakeYears", "read_lake_years"]

ROWS = 1_000_000  # read at a time, and more than there are days
UNKNOWN = missing_markers(MISSING)
TEXT = TextFormat()


class LakeYears(NamedTuple):
    """Years of a lake.

    Args:
        name: of the table, for messages.
        years: shape (years,).
        inflow: m3/s, shape (years, days).
        demand: m3/s, shape (years, days).
    """

    name: str
    years: np.ndarray
    inflow: np.ndarray
    demand: np.ndarray


def read_lake_years(source: str | Path | Any, days: int = 365) -> LakeYears:
    """Read a table with the columns year, day (from 1), inflow and demand (m3/s); others are not looked at.

    Years need not follow one another, and rows may come in any order; each year must be whole.

    Args:
        source: CSV file with a row of names, which may be compressed, a parquet file, or a DataFrame.
        days: of a year; a leap year's last day is left out by whoever makes the table.

    Raises:
        ConfigurationError: if a column is not there.
        DataError: if the file is missing or damaged, a number is missing, none, not finite or negative, a day comes
            twice or not at all, or a year has another length.

    Example:
        >>> frame = pd.DataFrame({"year": 2001, "day": range(1, 366), "inflow": 100.0, "demand": 80.0})
        >>> read_lake_years(frame).inflow.shape
        (1, 365)
    """
    table = open_table(source, TEXT)
    wanted = ("year", "day", "inflow", "demand")
    chunks = list(table.chunks(wanted, (), (), ROWS))
    if not chunks or not sum(len(chunk.frame) for chunk in chunks):
        raise DataError(f"{table.name}: is empty; there is no row of data after the names of the columns")
    frame, first = pd.concat([chunk.frame for chunk in chunks], ignore_index=True), chunks[0].first_row
    found = {column: numbers(table.name, frame[column].fillna(""), first, UNKNOWN, TEXT) for column in wanted}
    for column in wanted:
        _require_sound(table.name, column, found[column], first)
    year, day = found["year"].astype(int), found["day"].astype(int)
    years = np.unique(year)
    _require_whole(table.name, year, day, years, days)
    order = np.lexsort((day, year))
    inflow, demand = (found[column][order].reshape(len(years), days) for column in ("inflow", "demand"))
    return LakeYears(table.name, years, inflow, demand)


def _require_sound(name: str, column: str, values: np.ndarray, first: int) -> None:
    """Raise for the first number that is missing, not finite, negative, or, of a date, broken."""
    whole = column in ("year", "day")
    good = np.isfinite(values) & (values >= 0) & ((values == np.round(values)) | (not whole))
    if good.all():
        return
    row = int(np.argmin(good))
    value = values[row]
    problem = "is missing" if np.isnan(value) else f"is {value:g}"
    need = "whole numbers that are not negative" if whole else "numbers that are not negative, in m3/s"
    more = int((~good).sum()) - 1
    raise DataError(
        f"{name}: column {column}, row {first + row}: {problem}; {column} must be {need}"
        f"{f' ({more} more such cells)' if more else ''}"
    )


def _require_whole(name: str, year: np.ndarray, day: np.ndarray, years: np.ndarray, days: int) -> None:
    """Raise unless every year has each of its days once."""
    for each in years:
        found = day[year == each]
        numbers_of, counts = np.unique(found, return_counts=True)
        if counts.max() > 1:
            raise DataError(
                f"{name}: day {numbers_of[np.argmax(counts > 1)]} of {each} appears twice; keep one row for each day"
            )
        if numbers_of.min() < 1 or numbers_of.max() > days:
            wrong = numbers_of.max() if numbers_of.max() > days else numbers_of.min()
            raise DataError(
                f"{name}: {each} has a day {wrong}; days run from 1 to {days} (of a leap year, leave out the last one)"
            )
        if len(found) != days:
            left_out = int(np.setdiff1d(np.arange(1, days + 1), found)[0])
            raise DataError(
                f"{name}: {each} has {len(found)} of {days} days; day {left_out} is left out (only whole years count)"
            )
