"""Settings that every loop has: when rows are collected, what is held back, when a challenger is promoted."""

from __future__ import annotations

from typing import Annotated, ClassVar

import pandas as pd
from pydantic import Field

from diffassim.experiments.framework.base import Configuration

__all__ = ["LoopConfiguration", "collection_ends"]


class LoopConfiguration(Configuration):
    """Settings of the rounds.

    Args:
        first_months: calendar months of rows that the first round collects ...
        period_months: ... and each round after it.
        rounds: how many there are; a table that grows has its next round when its rows are there.
        held_back: share of a round's period, its last part, that nothing is fitted to and that compares models.
        confidence: that the challenger is better, at which it is promoted.
        false_alarms: mean number of times between two false alarms of the test for drift.
        fewest: rows that a round must bring to train; with fewer the incumbent stays.
    """

    first_months: Annotated[int, Field(ge=1, le=1200)] = 24
    period_months: Annotated[int, Field(ge=1, le=1200)] = 24
    rounds: Annotated[int, Field(ge=1, le=999)] = 5
    held_back: Annotated[float, Field(gt=0, le=0.8)] = 0.5
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.9
    false_alarms: Annotated[float, Field(ge=50)] = 10_000.0
    fewest: Annotated[int, Field(ge=1)] = 60

    free: ClassVar[frozenset[str]] = frozenset({"rounds", "file"})  # may change from call to call


def collection_ends(config: LoopConfiguration, first: pd.Timestamp, number: int) -> tuple[pd.Timestamp, pd.Timestamp]:
    """Return the time before which a round's rows lie, and the one from which they are held back.

    Example:
        >>> start, end = pd.Timestamp("1979-01-01"), LoopConfiguration()
        >>> [str(time.date()) for time in collection_ends(end, start, 2)]
        ['1983-01-01', '1982-01-01']
    """
    begin = first.normalize()
    after = begin + pd.DateOffset(months=config.first_months + (number - 1) * config.period_months)
    months = config.first_months if number == 1 else config.period_months
    before = after - pd.DateOffset(months=months)
    return after, (after - config.held_back * (after - before)).floor("D")
