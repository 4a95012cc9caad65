"""A loop that is quick to test: its model is a level and a spread, its table a CSV file of one column."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from diffassim.diagnostics import normal_crps
from diffassim.experiments.loop.base import LoopExperiment
from diffassim.experiments.loop.comparison import losses_of
from diffassim.experiments.loop.learner import Departures, Learner
from diffassim.experiments.loop.screening import ColumnChecks, screened
from diffassim.experiments.loop.settings import LoopConfiguration
from diffassim.experiments.loop.store import SourceRows

LOCATION = "tests.experiments.loop.level:LevelLoop"
LEADS = (1, 2)


class LevelConfiguration(LoopConfiguration):
    """Settings: those of every loop, and the table."""

    file: Path = Path("table.csv")
    first_months: int = 4
    period_months: int = 4
    rounds: int = 3
    patience: float = 1.0


class LevelLearner(Learner):
    """The last month's mean, with the spread of all months."""

    variable, unit, block = "y", "1", 5

    def source(self, config: Any) -> SourceRows:
        frame = pd.read_csv(config.file, index_col=0, parse_dates=True).astype(float)
        frame.index = pd.DatetimeIndex(frame.index)
        return SourceRows(frame, config.file.name)

    def screen(self, config: Any, table: Any) -> Any:
        return screened(table, {"y": ColumnChecks((-1000.0, 1000.0), stuck=5)})

    def departures(self, config: Any, model: Any, table: Any, since: Any, values: Any) -> Departures:
        normalized = (values[values.index >= since] - model["level"]) / model["spread"]
        used = normalized.where(table.loc[normalized.index].notna())
        return Departures(normalized, 20.0, (used["y"] ** 2).rename("statistic"))

    def scaling(self, config: Any, table: Any, until: Any) -> Any:
        return {"spread": float(table.loc[table.index < until, "y"].std())}

    def features(self, config: Any, training: Any) -> Any:
        return training.table[training.table.index < training.until].dropna()

    def train(self, config: Any, training: Any) -> Any:
        return {"level": float(training.features["y"].iloc[-30:].mean()), "spread": training.scaling["spread"]}

    def forecast(self, config: Any, model: Any, table: Any, since: Any, number: int) -> Any:
        part = table[table.index >= since]
        y = part[["y"]].to_numpy()
        forecast = np.full((len(y), len(LEADS), 1), model["level"])
        crps = np.stack([np.asarray(normal_crps(model["level"], model["spread"], y))] * len(LEADS), axis=1)
        return losses_of(number, part.index, LEADS, y, forecast, crps)

    def describe(self, model: Any) -> dict[str, float]:
        return {"level": model["level"]}


class LevelLoop(LoopExperiment):
    """A level that moves."""

    name = "level-loop"
    summary = "The level of a series."
    configuration: ClassVar[type[LoopConfiguration]] = LevelConfiguration
    learner = LevelLearner()


def write_table(path: Path, days: int = 400, drift: float = 0.05, seed: int = 0) -> pd.DataFrame:
    """Write rows of a level that drifts from day to day, and return them."""
    rng = np.random.default_rng(seed)
    index = pd.date_range("2001-01-01", periods=days, name="time")
    frame = pd.DataFrame({"y": 10 + drift * np.arange(days) + rng.normal(size=days)}, index=index)
    frame.to_csv(path)
    return frame
