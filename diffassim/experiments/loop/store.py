"""Collect: new rows of a table that grows are appended to a store; what was stored before is compared, never lost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from diffassim.core.errors import DataError
from diffassim.experiments.loop.artifacts import from_csv
from diffassim.io.messages import shortened

__all__ = ["CORRECTION_COLUMNS", "Collected", "SourceRows", "collect", "read_store", "require_same_table"]

CORRECTION_COLUMNS = ("column", "before", "now")
MOST_CORRECTED = 0.2  # of the rows that store and table share; beyond it the table is another one


class SourceRows(NamedTuple):
    """What a table holds now.

    Args:
        frame: values by time, in any order of rows; NaN where missing.
        name: of the table, for messages.
        notes: what reading it has changed or left out, one line each.
    """

    frame: pd.DataFrame
    name: str
    notes: tuple[str, ...] = ()


class Collected(NamedTuple):
    """What a collection brings.

    Args:
        rows: to append: new ones, and those that were corrected, as they are now.
        corrections: index time, columns `CORRECTION_COLUMNS`.
        summary: counts of new, late, repeated and corrected rows, of those that the table no longer has although it
            begins before them (the store keeps them), first and last time, and notes.
    """

    rows: pd.DataFrame
    corrections: pd.DataFrame
    summary: dict[str, Any]


def collect(source: SourceRows, stored: pd.DataFrame | None, until: pd.Timestamp) -> Collected:
    """Return what is new in a table before a time, and what has changed.

    Args:
        source: the table.
        stored: rows collected so far, by time; None before the first collection.
        until: rows from here on belong to a later collection.

    Raises:
        DataError: if the table has other columns than the store, ends before it, no longer is the same table, or is
            empty.

    Example:
        >>> days = pd.date_range("2001-01-01", periods=4)
        >>> table = pd.DataFrame({"q": [1.0, 2.0, 3.0, 4.0]}, index=days)
        >>> found = collect(SourceRows(table, "t.csv"), table[:2], days[3])
        >>> found.rows["q"].tolist(), found.summary["new"], found.summary["unchanged"]
        ([3.0], 1, 2)
    """
    frame = source.frame.sort_index(kind="stable")
    out_of_order = int((np.diff(source.frame.index.to_numpy()) < np.timedelta64(0)).sum())
    repeated = frame.index.duplicated(keep="last")
    frame = frame[~repeated]
    require_same_table(source, stored)
    frame = frame[frame.index < until]
    known = frame.index.isin(stored.index) if stored is not None else np.zeros(len(frame), bool)
    old, new = frame[known], frame[~known]
    corrections = _corrections(source.name, old, stored)
    withdrawn = 0
    if stored is not None:  # a table may begin later than the store; what is missing within it was taken out
        withdrawn = int((~stored.index[stored.index >= source.frame.index.min()].isin(frame.index)).sum())
    late = int((new.index < stored.index[-1]).sum()) if stored is not None else 0
    rows = pd.concat([old.loc[old.index.isin(corrections.index)], new]).sort_index()
    rows.index.name = "time"
    summary = {
        "new": len(new),
        "late": late,
        "unchanged": len(old) - corrections.index.nunique(),
        "corrected": int(corrections.index.nunique()),
        "repeated": int(repeated.sum()),
        "withdrawn": withdrawn,
        "out_of_order": out_of_order,
        "missing": {str(name): int(new[name].isna().sum()) for name in new.columns},
        "first": str(new.index[0]) if len(new) else None,
        "last": str(new.index[-1]) if len(new) else None,
        "until": str(until),
        "notes": list(source.notes),
    }
    return Collected(rows, corrections, summary)


def read_store(segments: Sequence[Path]) -> pd.DataFrame:
    """Return all rows that segments hold; of several rows of one time, that of the last segment."""
    frame = pd.concat([from_csv(path.read_bytes()) for path in segments])
    return frame[~frame.index.duplicated(keep="last")].sort_index().astype(float)


def require_same_table(source: SourceRows, stored: pd.DataFrame | None) -> None:
    """Raise `DataError` if a table is empty, has other columns than the store, or ends before it."""
    frame = source.frame
    if frame.empty:
        raise DataError(f"{source.name}: holds no rows; nothing was collected")
    if stored is None:
        return
    _require_columns(source.name, frame.columns, stored.columns)
    if frame.index.max() < stored.index[-1]:
        raise DataError(
            f"{source.name}: its clock goes backwards: it ends at {frame.index.max()}, but rows until "
            f"{stored.index[-1]} were collected already; nothing was changed"
        )


def _require_columns(name: str, found: Any, expected: Any) -> None:
    for column in expected:
        if column not in found:
            raise DataError(f"{name}: the column {shortened(column)!r} is in the store, but no longer in the table")
    for column in found:
        if column not in expected:
            raise DataError(
                f"{name}: the column {shortened(column)!r} is not in the store; begin a new lineage with it"
            )


def _corrections(name: str, old: pd.DataFrame, stored: pd.DataFrame | None) -> pd.DataFrame:
    if stored is None or old.empty:
        return pd.DataFrame(columns=list(CORRECTION_COLUMNS), index=pd.DatetimeIndex([], name="time"))
    before, now = stored.loc[old.index], old[stored.columns]
    changed = ~((before == now) | (before.isna() & now.isna()))
    share = float(changed.any(axis=1).mean())
    if share > MOST_CORRECTED:
        at = changed.any(axis=1).idxmax()
        raise DataError(
            f"{name}: {share:.0%} of the rows collected before are now others, the first at {at}: it is another table; "
            "begin a new lineage in another --out directory"
        )
    rows = [
        (time, column, before.at[time, column], now.at[time, column])
        for column in changed.columns
        for time in changed.index[changed[column]]
    ]
    table = pd.DataFrame(rows, columns=["time", *CORRECTION_COLUMNS]).set_index("time")
    table.index = pd.DatetimeIndex(table.index, name="time")
    return table.sort_index(kind="stable")
