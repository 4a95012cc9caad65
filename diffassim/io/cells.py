"""Cells of a table that should hold numbers: what is missing, what is none, and in which row."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from diffassim.core.errors import DataError
from diffassim.io.columns import TextFormat
from diffassim.io.messages import shortened

__all__ = ["Missing", "missing_markers", "numbers", "texts"]


class Missing(NamedTuple):
    """What means missing: texts as they stand in a cell, and numbers however they are written (-999, -999.0)."""

    texts: tuple[str, ...]
    numbers: tuple[float, ...]


def missing_markers(markers: Iterable[Any]) -> Missing:
    """Sort markers of missing values into texts and numbers.

    Example:
        >>> missing_markers(["NA", -999, "-9.9"])
        Missing(texts=('NA',), numbers=(-999.0, -9.9))
    """
    found, values = [], []
    for marker in markers:
        try:
            number = float(marker)
        except (TypeError, ValueError):
            number = float("nan")
        if np.isfinite(number):
            values.append(number)
        else:
            found.append(str(marker))
    return Missing(tuple(dict.fromkeys(found)), tuple(dict.fromkeys(values)))


def numbers(file: str, column: pd.Series, first_row: int, missing: Missing, text: TextFormat) -> np.ndarray:
    """Return a column as numbers, NaN where missing.

    Args:
        file: name for messages.
        column: cells, numbers or text.
        first_row: number of the first cell's row in the file.
        missing: what means missing.
        text: how numbers are written, where cells are text.

    Raises:
        DataError: for the first cell that is neither a number nor missing, with file, column and row.

    Example:
        >>> cells = pd.Series(["1.5", "NA", " 2 "], name="wind")
        >>> numbers("a.csv", cells, 2, missing_markers(["NA"]), TextFormat()).tolist()
        [1.5, nan, 2.0]
    """
    if pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype):
        values = column.to_numpy(dtype=float, na_value=np.nan)
    else:
        values = _from_text(file, column, first_row, missing, text)
    for marker in missing.numbers:
        there = values == marker
        if there.any():
            values = np.where(there, np.nan, values)
    return values


def texts(column: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Return the different texts of a column, stripped, and the index of each cell's into them (-1: no text).

    Example:
        >>> [part.tolist() for part in texts(pd.Series(["B ", "A", None, "B"]))]
        [[0, 1, -1, 0], ['B', 'A']]
    """
    codes, unique = pd.factorize(column)
    again, names = pd.factorize(_plain(pd.Series(unique)))
    blank = np.flatnonzero(np.asarray(names, dtype=object) == "")
    merged = np.where(codes >= 0, again[codes], -1) if len(again) else np.full(len(codes), -1)
    return np.where(np.isin(merged, blank), -1, merged), np.asarray(names, dtype=object)


def _plain(cells: pd.Series) -> pd.Series:
    """Return text without blanks around it; whole numbers that a frame holds as 7.0 are 7."""
    if pd.api.types.is_float_dtype(cells.dtype) and (cells == cells.round()).all():
        cells = cells.astype(np.int64)
    return cells.astype(str).str.strip()


def _from_text(file: str, column: pd.Series, first_row: int, missing: Missing, text: TextFormat) -> np.ndarray:
    cells = column.astype(object).where(column.notna(), "").astype(str).str.strip()
    plain = cells
    if text.thousands is not None:
        plain = plain.str.replace(text.thousands, "", regex=False)
    if text.decimal != ".":
        plain = plain.str.replace(text.decimal, ".", regex=False)
    gone = cells.isin([*missing.texts, ""]).to_numpy()
    values = pd.to_numeric(plain.where(~gone, "nan"), errors="coerce").to_numpy(dtype=float)
    # "inf" is a number to every parser, and to no instrument; the bounds flag it.
    bad = np.isnan(values) & ~gone
    if bad.any():
        at = int(np.argmax(bad))
        cell = str(cells.iloc[at])
        comma = " (a decimal comma? TextFormat(decimal=','))" if _with_comma(cell) else ""
        raise DataError(
            f"{file}: column {shortened(column.name)}, row {first_row + at}: {shortened(repr(cell))} is not a "
            f"number{comma}; correct it, or name it under `missing` if it means that there is no value "
            f"({int(bad.sum())} such cells near there)"
        )
    return values


def _with_comma(cell: str) -> bool:
    return cell.count(",") == 1 and cell.replace(",", "").lstrip("+-").isdigit()
