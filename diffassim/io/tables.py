"""Tables of text from files that somebody else wrote: read whole, as text, or refused in one line."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pandas as pd

from diffassim.core.errors import DataError
from diffassim.io.messages import shortened, single_line

__all__ = ["read_table"]


def read_table(path: Path) -> pd.DataFrame:
    """Return a CSV file (UTF-8 or else Latin-1; may be compressed) with all cells as text, missing ones as None.

    A byte order mark and spaces around the names of columns are dropped.

    Raises:
        DataError: if the file is missing, damaged, no table, or names a column twice.
    """
    name = shortened(path.name)
    if not path.is_file():
        raise DataError(f"{shortened(path, 300)}: no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows with more cells than the header
            table = _parsed(path)
    except Exception as error:  # whatever the bytes make decompressors, decoders and parsers raise
        kind = f"a whole {path.suffix} file" if path.suffix in _COMPRESSED else "a CSV table"
        problem = single_line(f"{type(error).__name__}: {error}", 200)
        raise DataError(f"{name}: not {kind} ({problem}); restore it from its source") from None
    header, table = table.iloc[0], table.iloc[1:].reset_index(drop=True)  # read as a row: pandas renames twins
    table.columns = pd.Index([str(column).strip() for column in header])
    if any("\x00" in column for column in table.columns):
        raise DataError(f"{name}: not a CSV table (it holds NUL characters; UTF-16 must be saved as UTF-8)")
    if table.columns.has_duplicates:
        twice = shortened(table.columns[table.columns.duplicated()][0])
        raise DataError(f"{name}: the column {twice!r} appears twice; keep one")
    return table


_COMPRESSED = (".gz", ".bz2", ".xz", ".zip", ".tar", ".zst")


def _parsed(path: Path) -> pd.DataFrame:
    settings: dict[str, Any] = {"dtype": str, "keep_default_na": False, "na_values": [], "header": None}
    try:
        return pd.read_csv(path, encoding="utf-8-sig", **settings)
    except UnicodeDecodeError:
        return pd.read_csv(path, encoding="latin-1", **settings)
