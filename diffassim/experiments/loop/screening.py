"""Gross errors of a table's columns, seen without a model."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from diffassim.io.screening import flag_bounds, flag_spikes, flag_stuck
from diffassim.observations.flags import QCFlag

__all__ = ["ColumnChecks", "connected", "screened"]


class ColumnChecks(NamedTuple):
    """What the values of a column must not do.

    Args:
        bounds: least and greatest possible value.
        spike: height above both neighbors that is an error; None: whatever comes.
        stuck: number of equal values one after another that is an error; None: as many as come.
        allowed: values that may stay.
    """

    bounds: tuple[float, float]
    spike: float | None = None
    stuck: int | None = None
    allowed: tuple[float, ...] = ()


def screened(table: pd.DataFrame, checks: dict[str, ColumnChecks]) -> pd.DataFrame:
    """Return flags like the table, `QCFlag` numbers; missing values pass.

    Example:
        >>> table = pd.DataFrame({"q": [1.0, 2.0, 2.0, 2.0, 99.0]}, pd.date_range("2001-01-01", periods=5))
        >>> screened(table, {"q": ColumnChecks((0.0, 50.0), stuck=3)})["q"].tolist()
        [0, 103, 103, 103, 12]
    """
    flags = pd.DataFrame(0, index=table.index, columns=table.columns, dtype=np.uint8)
    for name, check in checks.items():
        values = table[name].to_numpy()
        here = np.where(np.isnan(values), QCFlag.MISSING, QCFlag.PASS).astype(np.uint8)
        order, station = np.arange(len(values)), np.zeros(len(values), int)
        flag_bounds(values, here, check.bounds)
        if check.stuck is not None:
            flag_stuck(order, station, values, here, check.stuck, check.allowed)
        if check.spike is not None:
            flag_spikes(order, station, table.index.to_numpy(), values, here, check.spike)
        flags[name] = np.where(here == QCFlag.MISSING, QCFlag.PASS, here).astype(np.uint8)
    return flags


def connected(strong: np.ndarray, weak: np.ndarray) -> np.ndarray:
    """Return what is strong, and what is weak and hangs together with it along the first axis (hysteresis).

    Args:
        strong: True where a value stands out alone, shape (time, column).
        weak: True where it stands out beside one that does, likewise.

    Example:
        >>> strong, weak = np.array([[0, 0, 1, 0, 0, 0]], bool).T, np.array([[1, 1, 1, 1, 0, 1]], bool).T
        >>> connected(strong, weak)[:, 0].astype(int).tolist()
        [1, 1, 1, 1, 0, 0]

    Source: thresholds with hysteresis, Canny (1986).
    """
    found = strong.copy()
    for rows in (found, found[::-1]):
        also = weak if rows is found else weak[::-1]
        for k in range(1, len(rows)):
            rows[k] |= also[k] & rows[k - 1]
    return found
