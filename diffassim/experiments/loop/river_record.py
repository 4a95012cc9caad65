"""What drives a catchment's model, from stored rows: gaps are filled, and the record is padded to few lengths."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pandas as pd

from diffassim.cycling import bucket_size
from diffassim.io.basin import basin_record
from diffassim.models.gr4j import CatchmentForcing

__all__ = ["LoopRecord", "loop_record"]

SMALLEST = 4096  # days that a record is padded to: its rounds share one compiled program
FORCING = ("precipitation", "temperature", "evaporation")


class LoopRecord(NamedTuple):
    """Days from the first to the last row, and none after them but padding.

    Args:
        dates: of the days, shape (days,).
        forcing: padded, shape (size,).
        discharge: mm per day, NaN where missing, flagged or not trusted, padded with NaN, shape (size,).
        factor: m3/s of a mm per day.
        doubtful: days whose weather was made up, in gaps longer than may be filled, and the month after each.
    """

    dates: pd.DatetimeIndex
    forcing: CatchmentForcing
    discharge: np.ndarray
    factor: float
    doubtful: np.ndarray

    def day(self, time: pd.Timestamp) -> int:
        """Return the index of a time's day; times before and after the record get its ends."""
        return int(np.clip((time - self.dates[0]).days, 0, len(self.dates)))


def loop_record(config: Any, table: pd.DataFrame, unit: str) -> LoopRecord:
    """Return the record of cleaned rows.

    Gaps of the weather up to `gap` days are filled by the straight line between the days around them; in longer ones
    stand the means of the calendar month, and discharge from there on does not count for a month.

    Args:
        config: settings of the basin.
        table: cleaned rows by day.
        unit: of the discharge.
    """
    days = pd.date_range(table.index[0], table.index[-1], freq="D")
    table = table.reindex(days)
    values, doubtful = {}, np.zeros(len(days), bool)
    for name in (name for name in FORCING if name in table):
        column = table[name]
        filled = column.interpolate(limit_area="inside")
        long = _long_gaps(column.isna().to_numpy(), config.gap)
        monthly = column.groupby(days.month).transform("mean").fillna(column.mean()).fillna(0.0)
        values[name] = filled.mask(long | filled.isna(), monthly).to_numpy()
        doubtful |= long
    doubtful = np.convolve(doubtful, np.ones(31), "full")[: len(days)] > 0
    record = basin_record(
        days, {**values, "discharge": table["discharge"].to_numpy()}, unit, config.area, config.latitude
    )
    size = bucket_size(len(days), growth=2.0, smallest=SMALLEST)
    after = (0, size - len(days))
    forcing = CatchmentForcing(
        *(
            jnp.asarray(np.pad(s, after), config.dtype)
            for s in (record.precipitation, record.evaporation, record.temperature)
        )
    )
    discharge = np.where(doubtful, np.nan, record.discharge)
    padded = np.pad(discharge, after, constant_values=np.nan).astype(config.dtype)
    return LoopRecord(days, forcing, padded, float(record.cubic_meters_per_second(np.ones(()))), doubtful)


def _long_gaps(missing: np.ndarray, longest: int) -> np.ndarray:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], missing.astype(int), [0]])))
    found = np.zeros(len(missing), bool)
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        found[start:end] = end - start > longest
    return found
