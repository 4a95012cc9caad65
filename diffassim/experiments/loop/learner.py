"""What a loop needs to know of its subject: where rows come from, and how a model is trained and forecasts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import pandas as pd

from diffassim.experiments.loop.store import SourceRows

__all__ = ["Departures", "Learner", "Training"]


class Departures(NamedTuple):
    """How far rows are from what a model expects of them, none of which it has been trained on.

    Args:
        normalized: by time and observed column, in standard deviations that the model claims; NaN where nothing is
            known.
        limit: beyond which a value is an error and not a departure.
        statistic: mean square of the normalized departures at each time, by time.
        beside: limit of a value before or after one that is an error; None: the same. Gross errors come in a row, and
            one of them that passes pulls a filter so far that what is right looks wrong.
    """

    normalized: pd.DataFrame
    limit: float
    statistic: pd.Series
    beside: float | None = None


class Training(NamedTuple):
    """What a training is given.

    Args:
        table: cleaned rows, NaN where flagged or missing.
        until: rows from here on are held back.
        scaling: constants of the features.
        features: by time.
        incumbent: the model to start from, or None.
        feedback: of the round before, or nothing.
        number: of the round.
    """

    table: pd.DataFrame
    until: pd.Timestamp
    scaling: Mapping[str, Any]
    features: pd.DataFrame
    incumbent: Mapping[str, Any] | None
    feedback: Mapping[str, Any]
    number: int


class Learner(ABC):
    """A subject of the loop. Models are nested dicts of numbers and lists, so that they are kept as plain JSON.

    Every method depends on its arguments alone; random numbers come from the seed and the number of the round.
    """

    variable: ClassVar[str]
    unit: ClassVar[str]
    block: ClassVar[int]  # times in a block of the bootstrap, longer than the memory of errors

    @abstractmethod
    def source(self, config: Any) -> SourceRows:
        """Return the rows of the table as it is now."""

    @abstractmethod
    def screen(self, config: Any, table: pd.DataFrame) -> pd.DataFrame:
        """Return flags (`QCFlag` numbers, like the table) of what can be seen without a model."""

    @abstractmethod
    def departures(
        self, config: Any, model: Mapping[str, Any], table: pd.DataFrame, since: pd.Timestamp, values: pd.DataFrame
    ) -> Departures:
        """Return how far `values`, flagged ones too, are from a model that sees the cleaned table, from a time on."""

    @abstractmethod
    def scaling(self, config: Any, table: pd.DataFrame, until: pd.Timestamp) -> dict[str, Any]:
        """Return constants of the features, fitted on the rows before a time."""

    @abstractmethod
    def features(self, config: Any, training: Training) -> pd.DataFrame:
        """Return what the training learns from, by time (its own `features` are empty)."""

    @abstractmethod
    def train(self, config: Any, training: Training) -> dict[str, Any]:
        """Return a model fitted to the rows before `until`."""

    @abstractmethod
    def forecast(
        self, config: Any, model: Mapping[str, Any], table: pd.DataFrame, since: pd.Timestamp, number: int
    ) -> pd.DataFrame:
        """Return losses of forecasts (`comparison.LOSS_COLUMNS`) for all times from `since` on."""

    @abstractmethod
    def describe(self, model: Mapping[str, Any]) -> dict[str, float]:
        """Return the few numbers of a model that are worth reading."""

    def observed_columns(self, table: pd.DataFrame) -> list[str]:
        """Return the columns whose values are forecast."""
        return [str(name) for name in table.columns]
