"""The loop on a twin whose forcing drifts: an ensemble filter tracks it, a network learns what the model lacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from pydantic import Field

from diffassim.diagnostics import crps
from diffassim.experiments.framework.twin import random_stream
from diffassim.experiments.loop.base import LoopExperiment
from diffassim.experiments.loop.comparison import losses_of
from diffassim.experiments.loop.drifting_truth import twin_rows
from diffassim.experiments.loop.learner import Departures, Learner, Training
from diffassim.experiments.loop.screening import ColumnChecks, screened
from diffassim.experiments.loop.settings import LoopConfiguration
from diffassim.experiments.loop.store import SourceRows
from diffassim.experiments.loop.twin_filter import (
    INTERVAL,
    filtered,
    forecast_members,
    model_of,
    network_of,
    span,
    tracked_forcing,
)
from diffassim.experiments.loop.twin_training import chosen_inflation, fitted_through_filter

__all__ = ["TwinLearner", "TwinLoop", "TwinLoopConfiguration"]

START = "2001-01-01"
SPIN_UP = 60  # rows of the filter before its first result counts
SETTLED = 60  # last rows, whose mean forcing is that of the model
INFLATION, MOST_INFLATION = 1.1, 1.5  # where a training begins
WALK, WALK_AFTER_DRIFT = 0.01, 0.03  # of the forcing, from row to row
LIMIT, BESIDE = 6.0, 3.0  # standard deviations of a departure, alone and beside one that is an error
GUESS = 8.0  # of the forcing, before anything is known


class TwinLoopConfiguration(LoopConfiguration):
    """Settings of a loop on a twin.

    Args:
        first_months: calendar months of rows that the first round collects ...
        period_months: ... and each round after it.
        forcing: of the truth, at the start.
        drift: its change in a year.
        damping: cubic damping of the truth, which the model lacks.
        sites: of the model.
        std: of the observation errors.
        members: of the filter.
        leads: of the forecasts, in rows of 12 hours.
        updates: optimizer steps of the network in each round.
        memory_months: months before the held-back time from which the network learns.
    """

    first_months: Annotated[int, Field(ge=1, le=1200)] = 6
    period_months: Annotated[int, Field(ge=1, le=1200)] = 6
    forcing: Annotated[float, Field(ge=4, le=20)] = 8.0
    drift: Annotated[float, Field(ge=-10, le=10)] = 0.8
    damping: Annotated[float, Field(ge=0, le=0.01)] = 0.003
    sites: Annotated[int, Field(ge=4, le=1000)] = 40
    std: Annotated[float, Field(gt=0, le=10)] = 1.0
    members: Annotated[int, Field(ge=2, le=1000)] = 30
    leads: Annotated[tuple[Annotated[int, Field(ge=1, le=40)], ...], Field(min_length=1)] = (1, 2, 4, 8)
    updates: Annotated[int, Field(ge=0, le=100_000)] = 100
    memory_months: Annotated[int, Field(ge=1, le=1200)] = 9


class TwinLearner(Learner):
    """Lorenz-96 with a forcing and a network, in an ensemble transform Kalman filter.

    A round tracks the forcing by a filter that has it in its state, trains network and inflation through the filter
    (from the incumbent's), tracks the forcing again with them, and keeps the mean of the last month.
    """

    variable, unit, block = "x", "1", 20

    def source(self, config: TwinLoopConfiguration) -> SourceRows:
        """Return all rows of the twin; every call makes the same ones."""
        return SourceRows(twin_rows(config, INTERVAL, START), "twin")

    def screen(self, config: TwinLoopConfiguration, table: pd.DataFrame) -> pd.DataFrame:
        """Flag values beyond five times the forcing, and sensors that are stuck."""
        wide = 5 * config.forcing
        return screened(table, {str(name): ColumnChecks((-wide, wide), stuck=4) for name in table.columns})

    def departures(
        self,
        config: TwinLoopConfiguration,
        model: Mapping[str, Any],
        table: pd.DataFrame,
        since: pd.Timestamp,
        values: pd.DataFrame,
    ) -> Departures:
        """Return innovations over their standard deviation, background spread and R together."""
        rows, times, before = span(table, since, SPIN_UP)
        priors, _ = filtered(config, model_of(config, model), model["inflation"], rows, 11)
        raw = values.loc[times].to_numpy()
        normalized = (raw - priors.mean(axis=1)) / np.sqrt(priors.var(axis=1, ddof=1) + config.std**2)
        frame = pd.DataFrame(normalized[before:], index=times[before:], columns=table.columns)
        used = frame.where(table.loc[frame.index].notna())
        return Departures(frame, LIMIT, (used**2).mean(axis=1), BESIDE)

    def scaling(self, config: TwinLoopConfiguration, table: pd.DataFrame, until: pd.Timestamp) -> dict[str, Any]:
        """Return center and spread of all observed values."""
        known = table[table.index < until].to_numpy()
        return {"center": float(np.nanmean(known)), "spread": float(np.nanstd(known))}

    def features(self, config: TwinLoopConfiguration, training: Training) -> pd.DataFrame:
        """Return analyses and the forcing at each row, of a filter that has the forcing in its state."""
        incumbent = training.incumbent or _untrained(config, training.scaling)
        return _tracked(config, incumbent, training, 12)

    def train(self, config: TwinLoopConfiguration, training: Training) -> dict[str, Any]:
        """Return forcing, network and inflation."""
        start = training.incumbent or _untrained(config, training.scaling)
        trained = dict(start)
        told = start["inflation"] * training.feedback["spread"] ** 0.5
        trained["inflation"] = float(np.clip(told, 1.0, MOST_INFLATION))
        rows = training.table.loc[training.features.index].to_numpy()
        if config.updates:
            forcing = training.features["forcing"].to_numpy()
            trained = fitted_through_filter(config, trained, rows, forcing, training.number)
        found = _tracked(config, trained, training, 13)
        trained["forcing"] = float(found["forcing"].iloc[-SETTLED:].mean())
        return {**trained, "inflation": chosen_inflation(config, trained, rows)}

    def forecast(
        self,
        config: TwinLoopConfiguration,
        model: Mapping[str, Any],
        table: pd.DataFrame,
        since: pd.Timestamp,
        number: int,
    ) -> pd.DataFrame:
        """Return losses of the ensemble forecasts, against observations with their errors."""
        rows, times, before = span(table, since, SPIN_UP + max(config.leads))
        forward = model_of(config, model)
        _, members = filtered(config, forward, model["inflation"], rows, 14)
        found = np.asarray(forecast_members(forward, jnp.asarray(members), config.leads))
        noise = np.asarray(jax.random.normal(random_stream(config.seed, 15), found.shape[1:2] + found.shape[3:]))
        scores = np.full((len(times), len(config.leads), rows.shape[1]), np.nan)
        centers = np.full_like(scores, np.nan)
        for k, lead in enumerate(config.leads):
            drawn = np.moveaxis(found[:-lead, :, k], 1, 0) + config.std * noise[:, None]
            scores[lead:, k] = crps(jnp.asarray(drawn), jnp.asarray(rows[lead:]))
            centers[lead:, k] = found[:-lead, :, k].mean(axis=1)
        late = slice(before, None)
        return losses_of(number, times[late], config.leads, rows[late], centers[late], scores[late])

    def describe(self, model: Mapping[str, Any]) -> dict[str, float]:
        """Return forcing and inflation."""
        return {"forcing": model["forcing"], "inflation": model["inflation"]}


class TwinLoop(LoopExperiment):
    """A twin whose forcing drifts and whose model lacks a damping: the loop keeps up with both, from noisy rows alone.

    An ensemble filter has the forcing in its state; a small network and the inflation are trained through the filter.
    The model in use has the forcing that was found last, so that innovations tell when it has drifted away. Decisions
    see observations only, never the truth.
    """

    name = "twin-loop"
    summary = "A closed loop on Lorenz-96 with a drifting forcing: collect, train, compare, promote, feed back."
    configuration: ClassVar[type[TwinLoopConfiguration]] = TwinLoopConfiguration
    learner = TwinLearner()


def _untrained(config: TwinLoopConfiguration, scaling: Mapping[str, Any]) -> dict[str, Any]:
    leaves = jax.tree.leaves(network_of(config, scaling))
    network = [np.asarray(leaf).tolist() for leaf in leaves]
    return {"forcing": GUESS, "network": network, "inflation": INFLATION, "scaling": dict(scaling)}


def _tracked(config: TwinLoopConfiguration, model: Mapping[str, Any], training: Training, number: int) -> pd.DataFrame:
    since = training.until - pd.DateOffset(months=config.memory_months)
    rows, times, before = span(training.table[training.table.index < training.until], since, SPIN_UP)
    walk = WALK_AFTER_DRIFT if training.feedback["drift"] else WALK
    states, forcing = tracked_forcing(config, model_of(config, model), model["inflation"], walk, rows, number)
    frame = pd.DataFrame(states, index=times, columns=[str(name) for name in training.table.columns])
    frame.insert(0, "forcing", forcing)
    frame.index.name = "time"
    return frame.iloc[min(before, SPIN_UP // 2) :]
