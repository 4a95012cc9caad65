"""Gross errors of a table's columns, seen without a model."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from diffassim.io.screening import flag_bounds, flag_spikes, flag_stuck
from diffassim.observations.flags import QCFlag

__all__ = ["ColumnChecks", "screened"]


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
