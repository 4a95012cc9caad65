"""Departures at all stations and times, filtered from what was observed up to each time."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from diffassim.core.pytree import Pytree
from diffassim.covariances import Diagonal, LowRank
from diffassim.cycling import cycle
from diffassim.experiments.stations.covariance import positive, shrunk_covariance
from diffassim.experiments.stations.evolution import LAGS, fit_evolution, persisting
from diffassim.experiments.stations.static_filter import StaticFilter
from diffassim.gaussian import EKF, Gaussian
from diffassim.observations import Observations

__all__ = ["KINDS", "Filtered", "Kind", "StationFilter", "affordable", "densities", "fit_filter", "likeliest"]

KNOWN_SHARE, WARM_UP, JUDGED = 0.7, 100, 1500  # of the record, for the choice of an evolution; steps
DEAREST = 2e11  # operations of a filter that carries all covariances; beyond, those of a step's error are used
ERROR_SHARES = (0.001, 0.01, 0.05, 0.2)  # of the variance of a step's error, for observations


class Filtered(NamedTuple):
    """Departures after the analysis of each time.

    mean and std, their mean and standard deviation, shape (time, component); log_likelihood, the log density of what
    was observed at each time given the times before, shape (time,).
    """

    mean: np.ndarray
    std: np.ndarray
    log_likelihood: np.ndarray


class Latest(Pytree):
    """Observes the latest of the steps that a state holds."""

    def __call__(self, x: Any, where: Any = None) -> Any:
        """Return it."""
        return x[0]


class StationFilter(NamedTuple):
    """A Kalman filter of the departures.

    Args:
        evolution: how they go on, a `Model` of the last steps.
        error: covariance of what it misses in a step, shape (component, component).
        start: covariance of the departures themselves.
        share: of the variances of a step's error, for the errors of observations.
        carried: whether covariances are carried from step to step; otherwise those of a step's error serve always.
    """

    evolution: Any
    error: np.ndarray
    start: np.ndarray
    share: float = ERROR_SHARES[1]
    carried: bool = True

    def run(self, departures: np.ndarray) -> Filtered:
        """Filter a record.

        Args:
            departures: NaN where missing, shape (time, component).
        """
        steps, count = departures.shape
        size = LAGS * count
        R = Diagonal(std=jnp.sqrt(self.share * jnp.diag(jnp.asarray(self.error))))
        mean = jnp.zeros((LAGS, count))
        if self.carried:
            record = Observations(departures, np.arange(1, steps + 1), operator=Latest(), error=R)
            start = np.kron(np.eye(LAGS), self.start)
            belief = Gaussian(mean, jnp.asarray(np.linalg.cholesky(start).T.reshape(size, LAGS, count)))
            _, history = cycle(EKF(Q=LowRank(_columns(self.error))), self.evolution, belief, record)
        else:
            return Filtered(*StaticFilter(self.evolution, jnp.asarray(self.error), R.std**2).run(mean, departures))
        mean, std = history.analysis.mean[:, 0], history.analysis.spread[:, 0]
        return Filtered(np.asarray(mean), np.asarray(std), np.asarray(history.info.log_likelihood))


def _columns(C: np.ndarray) -> Any:
    """Return a square root of the covariance as columns that change the latest step alone."""
    root = np.linalg.cholesky(positive(C)).T
    return jnp.asarray(np.concatenate([root[:, None], np.zeros((len(C), LAGS - 1, len(C)))], axis=1))


class Kind(NamedTuple):
    """What is chosen for a filter.

    Args:
        regressing: whether the evolution is regressions that know lags and neighbors, learned from the record whose
            gaps the simplest evolution has filled. That is a decay with one rate, the covariance of its errors being
            that of the departures; short records of many stations are better off with it.
        share: of the variances of a step's error, for the errors of observations.
    """

    regressing: bool
    share: float


KINDS = tuple(Kind(regressing, share) for regressing in (False, True) for share in ERROR_SHARES)


def affordable(departures: np.ndarray, regions: int) -> bool:
    """Return whether filters of a record can carry covariances, in each of some regions of this size."""
    steps, count = departures.shape
    return regions * steps * (LAGS * count) ** 3 <= DEAREST


def densities(departures: np.ndarray, near: np.ndarray, distances: np.ndarray | None, carried: bool) -> np.ndarray:
    """Return for each of `KINDS` the log density of the last part of a record when only the first is known.

    Args:
        departures: of the training period, NaN where missing.
        near: for each station its neighbors.
        distances: of the stations, or None.
        carried: whether the filter carries covariances.
    """
    known = round(KNOWN_SHARE * len(departures))
    judged = departures[known - min(known, WARM_UP) : known + JUDGED]
    simple = _decaying(departures[:known], distances, carried)
    found = simple, _regressing(departures[:known], near, distances, simple)
    early = (found[kind.regressing]._replace(share=kind.share) for kind in KINDS)
    return np.array([each.run(judged).log_likelihood[min(known, WARM_UP) :].sum() for each in early])


def likeliest(densities: np.ndarray) -> Kind:
    """Return the kind of the largest density that is a number."""
    return KINDS[int(np.argmax(np.nan_to_num(densities, nan=-np.inf)))]


def fit_filter(
    departures: np.ndarray, near: np.ndarray, distances: np.ndarray | None, carried: bool, kind: Kind
) -> StationFilter:
    """Learn evolution and covariances of a kind from a record; see `densities`."""
    simple = _decaying(departures, distances, carried)
    found = _regressing(departures, near, distances, simple) if kind.regressing else simple
    return found._replace(share=kind.share)


def _decaying(departures: np.ndarray, distances: np.ndarray | None, carried: bool) -> StationFilter:
    start = shrunk_covariance(departures, distances)
    evolution = persisting(departures)
    rate = float(evolution.coefficients[0, 0])
    return StationFilter(evolution, (1 - rate**2) * start, start, carried=carried)


def _regressing(
    departures: np.ndarray, near: np.ndarray, distances: np.ndarray | None, simple: StationFilter
) -> StationFilter:
    """Return the filter with regressions, learned from what the simple one makes of the gaps."""
    rate = float(simple.evolution.coefficients[0, 0])
    evolution, missed = fit_evolution(simple.run(departures).mean, departures, near, rate)
    return simple._replace(evolution=evolution, error=shrunk_covariance(missed, distances))
