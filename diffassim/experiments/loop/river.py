"""The loop on a river: a catchment model that assimilates discharge, calibrated anew and corrected in every round."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pandas as pd
from pydantic import BeforeValidator, Field

from diffassim.experiments.framework.base import quantity
from diffassim.experiments.loop.base import LoopExperiment
from diffassim.experiments.loop.comparison import losses_of
from diffassim.experiments.loop.learner import Departures, Learner, Training
from diffassim.experiments.loop.river_model import (
    FEATURES,
    analyzed,
    corrected,
    dressing_of,
    fitted_correction,
    fitted_dressings,
    forecast_crps,
    raw_features,
)
from diffassim.experiments.loop.river_record import LoopRecord, loop_record
from diffassim.experiments.loop.screening import ColumnChecks, screened
from diffassim.experiments.loop.settings import LoopConfiguration
from diffassim.experiments.loop.store import SourceRows
from diffassim.experiments.rivers.catchment_settings import BasinConfiguration, area_of
from diffassim.experiments.rivers.discharge_analysis import ErrorStatistics
from diffassim.experiments.rivers.discharge_calibration import calibrate
from diffassim.io.basin import read_basin_days
from diffassim.io.catchment import fulda_file

__all__ = ["RiverLearner", "RiverLoop", "RiverLoopConfiguration"]

WARM_UP = 180  # days of the model before the first that counts
STUCK = 15  # days with the very same discharge
SPIKE = 1.5  # of log discharge above both neighbors: a factor of 4.5
BEYOND = 1.5  # times the largest departure ever seen: an error
LEAST_LIMIT = 5.0  # standard deviations
MEMORY = 0.6  # of an unexplained departure from one day to the next, before anything is known
DOUBT = 2.0  # factor of the parameters' standard deviations after a drift


class RiverLoopConfiguration(LoopConfiguration, BasinConfiguration):
    """Settings of a loop on a river: the basin and its table, and the rounds; the defaults are the Fulda.

    Args:
        first_months: calendar months of rows that the first round collects ...
        period_months: ... and each round after it.
        rounds: how many there are; a table that grows has its next round when its rows are there.
        file: table of another catchment; default: the Fulda.
        area: of the catchment, km2, or with its unit.
        latitude: of the catchment, degrees north.
        date_format: how dates are written.
        precipitation: column.
        temperature: column.
        discharge: column; missing days are normal.
        duplicates: of rows with one time: "error", or the "first", "last" or "mean" counts.
        window: days of discharge that each analysis assimilates.
        leads: forecast leads in days.
    """

    first_months: Annotated[int, Field(ge=12, le=1200)] = 36
    period_months: Annotated[int, Field(ge=1, le=1200)] = 24
    rounds: Annotated[int, Field(ge=1, le=999)] = 4
    area: Annotated[float, BeforeValidator(area_of), Field(gt=0, lt=5.1e8)] = 2976.41
    latitude: Annotated[float, quantity("degrees_north"), Field(ge=-66, le=66)] = 50.6
    date_format: str = "%d.%m.%Y"
    precipitation: str = "Prec"
    temperature: str = "tmean"
    discharge: str = "Q"
    duplicates: Literal["error", "first", "last", "mean"] = "last"
    window: Annotated[int, quantity("days"), Field(ge=1, le=60)] = 3
    leads: Annotated[tuple[Annotated[int, Field(ge=1, le=30)], ...], Field(min_length=1)] = (1, 2, 3, 5)

    def source(self) -> Path:
        """Return the file of the record."""
        return fulda_file() if self.file is None else self.file

    def discharge_is_depth(self) -> bool:
        """Return whether discharge is stored in mm per day."""
        return "mm" in self.discharge_unit or "inch" in self.discharge_unit


class RiverLearner(Learner):
    """A catchment model with the assimilation of `diffassim run catchment`, and a regression of its forecasts' errors.

    A round calibrates the parameters around the incumbent's on all trusted days, scales the observation error by what
    innovations were against what they should be, fits the regression of what analyses leave unexplained (from the
    incumbent's weights), and then the predictive distributions. Observed weather drives the forecasts.
    """

    variable, unit, block = "discharge", "m3/s", 30

    def source(self, config: RiverLoopConfiguration) -> SourceRows:
        """Return the days of the table as they are, with all their gaps."""
        found = read_basin_days(config.source(), config.columns(), area=config.area)
        frame = pd.DataFrame(found.days.values, index=pd.DatetimeIndex(found.days.dates, name="time"))
        return SourceRows(frame, found.table.file, found.notes)

    def screen(self, config: RiverLoopConfiguration, table: pd.DataFrame) -> pd.DataFrame:
        """Flag discharge below zero, that is stuck, or that stands out from the days before and after it."""
        flags = screened(table, {"discharge": ColumnChecks((0.0, np.inf), stuck=STUCK, allowed=(0.0,))})
        usable = table["discharge"].where(flags["discharge"] == 0)
        log = np.log(usable + 0.1 * usable.mean()).to_frame()
        spikes = screened(log, {"discharge": ColumnChecks((-np.inf, np.inf), spike=SPIKE)})
        flags["discharge"] = np.maximum(flags["discharge"], spikes["discharge"])
        return flags

    def observed_columns(self, table: pd.DataFrame) -> list[str]:
        """Return that it is discharge which is forecast."""
        return ["discharge"]

    def departures(
        self,
        config: RiverLoopConfiguration,
        model: Mapping[str, Any],
        table: pd.DataFrame,
        since: pd.Timestamp,
        values: pd.DataFrame,
    ) -> Departures:
        """Return departures of log discharge from the model without assimilation, which wrong values do not pull.

        The statistic is that of the forecasts for the next day.
        """
        record = self._record(config, table)
        raw = self._record(config, values)
        since_day = max(record.day(since), config.window)
        issued = np.arange(since_day - 1, len(record.dates) - 1)
        dates = record.dates[issued + 1]
        found = analyzed(config, model, record, issued)
        known = model["departure"]
        log = _log_departure(raw.discharge, found.simulated, known["offset"])[issued + 1]
        normalized = pd.DataFrame({"discharge": (log - known["center"]) / known["std"]}, index=dates)
        normalized.index.name = "time"
        forecast = corrected(found, self._scaled(record, model["scaling"])[issued], np.asarray(model["correction"]))
        scale = dressing_of(model["dressings"][0]).scale_at(forecast[:, 0])
        statistic = ((record.discharge[issued + 1] - forecast[:, 0]) / scale) ** 2
        limit = max(BEYOND * known["largest"], LEAST_LIMIT)
        return Departures(normalized, limit, pd.Series(statistic, dates))

    def scaling(self, config: RiverLoopConfiguration, table: pd.DataFrame, until: pd.Timestamp) -> dict[str, Any]:
        """Return mean and standard deviation of each feature."""
        raw = raw_features(self._record(config, table[table.index < until]))
        return {"mean": raw.mean().to_dict(), "std": raw.std().replace(0.0, 1.0).to_dict()}

    def features(self, config: RiverLoopConfiguration, training: Training) -> pd.DataFrame:
        """Return the scaled features of each day."""
        record = self._record(config, training.table[training.table.index < training.until])
        index = pd.DatetimeIndex(record.dates, name="time")
        return pd.DataFrame(self._scaled(record, training.scaling), index=index, columns=list(FEATURES))

    def train(self, config: RiverLoopConfiguration, training: Training) -> dict[str, Any]:
        """Return parameters, error statistics, correction and predictive distributions."""
        record = self._record(config, training.table[training.table.index < training.until])
        before = training.incumbent
        last = len(record.dates)
        # Of the padded record, so that no round compiles anew.
        counted = np.where((np.arange(len(record.discharge)) >= WARM_UP), record.discharge, np.nan)
        start = before["parameters"] if before else None
        doubt = DOUBT if training.feedback["drift"] else 1.0
        catchment = calibrate(record.forcing, counted, 0, len(counted), start, doubt)
        statistics = dict(before["statistics"] if before else vars(ErrorStatistics()))
        statistics["discharge_share"] = float(statistics["discharge_share"] * training.feedback["spread"] ** 0.5)
        model: dict[str, Any] = {
            "parameters": {name: float(getattr(catchment, name)) for name in catchment.parameters},
            "statistics": {name: float(value) for name, value in statistics.items()},
            "scaling": dict(training.scaling),
        }
        issued = np.arange(WARM_UP, last - max(config.leads))
        found = analyzed(config, model, record, issued)
        observed = np.stack([record.discharge[issued + lead] for lead in config.leads], axis=1)
        features = training.features.to_numpy()[issued]
        weights = np.zeros((len(config.leads), len(FEATURES) + 2))
        weights[:, 0] = MEMORY ** np.array(config.leads)
        weights = fitted_correction(found, features, observed, np.asarray(before["correction"]) if before else weights)
        model["correction"] = weights.tolist()
        model["dressings"] = fitted_dressings(corrected(found, features, weights), observed)
        offset = 0.1 * float(np.nanmean(counted))
        log = _log_departure(record.discharge, found.simulated, offset)[WARM_UP:last]
        center, std = float(np.nanmean(log)), float(np.nanstd(log))
        largest = float(np.nanmax(np.abs(log - center)) / std)
        model["departure"] = {"offset": offset, "center": center, "std": std, "largest": largest}
        return model

    def forecast(
        self,
        config: RiverLoopConfiguration,
        model: Mapping[str, Any],
        table: pd.DataFrame,
        since: pd.Timestamp,
        number: int,
    ) -> pd.DataFrame:
        """Return losses in m3/s."""
        record = self._record(config, table)
        first, last = record.day(since), len(record.dates)
        longest = max(config.leads)
        issued = np.arange(max(first - longest, config.window - 1), last - min(config.leads))
        found = analyzed(config, model, record, issued)
        features = self._scaled(record, model["scaling"])[issued]
        forecast = corrected(found, features, np.asarray(model["correction"]))
        valid = issued[:, None] + np.array(config.leads)
        padded = np.append(record.discharge, np.nan)
        observed = padded[np.minimum(valid, len(padded) - 1)]
        scores = forecast_crps(model["dressings"], forecast, observed)
        days = np.arange(first, last)
        shape = (len(days), len(config.leads), 1)
        centers, losses = np.full(shape, np.nan), np.full(shape, np.nan)
        for k, lead in enumerate(config.leads):
            place = days - lead - issued[0]
            inside = (place >= 0) & (place < len(issued))
            centers[inside, k, 0] = record.factor * forecast[place[inside], k]
            losses[inside, k, 0] = record.factor * scores[place[inside], k]
        return losses_of(
            number, record.dates[days], config.leads, record.factor * record.discharge[days, None], centers, losses
        )

    def describe(self, model: Mapping[str, Any]) -> dict[str, float]:
        """Return the catchment's parameters."""
        return dict(model["parameters"])

    def _record(self, config: RiverLoopConfiguration, table: pd.DataFrame) -> LoopRecord:
        return loop_record(config, table, "mm day-1" if config.discharge_is_depth() else "m3 s-1")

    def _scaled(self, record: LoopRecord, scaling: Mapping[str, Any]) -> np.ndarray:
        raw = raw_features(record)
        mean, std = ([scaling[part][name] for name in FEATURES] for part in ("mean", "std"))
        return np.asarray((raw.to_numpy() - np.array(mean)) / np.array(std))


class RiverLoop(LoopExperiment):
    """A river's forecasts that get better with every collection of rows, or stay what they were.

    The catchment model is calibrated anew in every round, from the incumbent's parameters, with an assimilation of
    discharge and a regression of its forecasts' errors; the newest part of the rows is held back from all of it and
    decides. Observed precipitation and temperature drive the forecasts.
    """

    name = "river-loop"
    summary = "A closed loop on the discharge of a river: collect, train, compare, promote, feed back."
    configuration: ClassVar[type[RiverLoopConfiguration]] = RiverLoopConfiguration
    learner = RiverLearner()


def _log_departure(discharge: np.ndarray, simulated: np.ndarray, offset: float) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.log(discharge + offset) - np.log(np.maximum(simulated[: len(discharge)], 0) + offset)
