"""The records with their parts, and everything that is known before an event."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.core.errors import DataError
from diffassim.experiments.applications.ground_motion_mean import record_inputs
from diffassim.experiments.applications.ground_motion_prediction import (
    EventPrior,
    Magnitudes,
    estimate_magnitudes,
    predict,
)
from diffassim.experiments.applications.ground_motion_stations import StationTerms
from diffassim.experiments.applications.ground_motion_terms import TermCovariances
from diffassim.io.ground_motion import GroundMotion, read_ground_motion, ridgecrest_file

__all__ = ["KnownBefore", "SplitRecords"]

FITTING = 2 / 3  # of the training events; the rest is for cross-validation
WIDE = (4.5, 10.0)  # mean and standard deviation of a prior of the magnitude that says nothing


class SplitRecords:
    """The records, what is fitted to, and which stations are withheld.

    Args:
        config: settings with `file`, `training_events`, `withheld` and `seed`.

    Raises:
        DataError: if the file cannot be used, or leaves too few events to be scored.
    """

    def __init__(self, config: Any) -> None:
        self.table: GroundMotion = read_ground_motion(config.file or ridgecrest_file())
        count = len(self.table.events)
        if count <= config.training_events + 1:
            raise DataError(
                f"training_events: {config.training_events} of {count} events leave too few to be scored; take fewer"
            )
        rng = np.random.default_rng(config.seed)
        stations = len(self.table.stations)
        held = np.zeros(stations, bool)
        held[rng.permutation(stations)[: round(config.withheld * stations)]] = True
        self.held = held
        self.inner = round(FITTING * config.training_events)

    def records(self, first: int, last: int) -> np.ndarray:
        """Return the numbers of the records of events first <= event < last."""
        return np.flatnonzero((self.table.event >= first) & (self.table.event < last))


class KnownBefore(NamedTuple):
    """Everything that is known before an event.

    Args:
        mean: of ground motion.
        terms: covariances of its terms.
        stations: posterior of the terms of all stations.
        table: the records.
        residual: records minus mean.
    """

    mean: Any
    terms: TermCovariances
    stations: StationTerms
    table: GroundMotion
    residual: np.ndarray

    @classmethod
    def given(cls, mean: Any, terms: TermCovariances, data: SplitRecords, chosen: np.ndarray) -> KnownBefore:
        """Return what chosen records say."""
        terms = jax.tree.map(jnp.asarray, terms)
        residual = data.table.log_pga - np.asarray(mean(record_inputs(data.table)))
        return cls(mean, terms, StationTerms.given(terms, data.table, chosen, residual), data.table, residual)

    def prior(self, event: int) -> EventPrior:
        """Return what is known of an event's terms before it."""
        return EventPrior.of(self.terms, self.stations, self.table, event)

    def predict(
        self, event: EventPrior, reporting: np.ndarray, first: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """Return predicted log10 PGA and variance of an event's records, from the (first) reporting stations."""
        reported = reporting[self.table.station[event.rows]]
        if first:  # waves reach the nearest stations first
            order = np.argsort(np.where(reported, self.table.distance[event.rows], np.inf), kind="stable")
            reported = reported & np.isin(np.arange(len(reported)), order[:first])
        residual = self.residual[event.rows]
        found, variance = predict(self.terms, event, residual, reported)
        return self.table.log_pga[event.rows] - residual + found, variance

    def magnitudes(self, priors: list[EventPrior], counts: tuple[int, ...]) -> Magnitudes:
        """Return the magnitudes of events that their nearest stations alone speak for."""
        return estimate_magnitudes(self.mean, self.terms, priors, self.table, counts, WIDE)
