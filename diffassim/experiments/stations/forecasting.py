"""Forecasts at all stations, lead by lead, from the filtered departures of the stations near each and of all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pandas as pd

from diffassim.experiments.stations.evolution import LAGS, judged_stations
from diffassim.experiments.stations.mean_cycle import YEAR, waves
from diffassim.experiments.stations.regions import columns_of
from diffassim.experiments.stations.ridge import PENALTIES, choose_penalties, fit_ridge, predict_left_out

__all__ = ["StationForecasts", "learn_forecasts"]

SLOW = (pd.Timedelta("1D"), pd.Timedelta("7D"))  # over which a running mean is known: of hourly, of daily records
WAVES = 2  # of the day, with which coefficients change
PATTERNS = 8  # of the network, at most
# What a regression knows: the stations near the one to be forecast, patterns of all stations, or both.
KNOWLEDGE = (("near",), ("network",), ("near", "network"))


@dataclasses.dataclass(frozen=True)
class Regressors:
    """What forecasts are made of.

    Args:
        near: for each station its neighbors, shape (station, neighbor).
        patterns: of all stations, in units that give their amplitudes unit variance, shape (component, pattern).
    """

    near: np.ndarray
    patterns: np.ndarray

    @classmethod
    def of(cls, filtered: np.ndarray, near: np.ndarray) -> Regressors:
        """Return them with the leading patterns of filtered departures, shape (time, component)."""
        _, values, vectors = np.linalg.svd(filtered - filtered.mean(0), full_matrices=False)
        count = min(PATTERNS, len(values))
        return cls(near, vectors[:count].T / np.maximum(values[:count], 1e-12) * len(filtered) ** 0.5)

    def __call__(self, times: pd.DatetimeIndex, filtered: np.ndarray) -> Callable[[int, tuple[str, ...]], np.ndarray]:
        """Return those of a station's forecasts as a function of station and knowledge, shape (time, regressor)."""
        variables = filtered.shape[1] // len(self.near)
        season, amplitudes = _season(times).T, filtered @ self.patterns
        network = [amplitudes, _lagged(amplitudes, 1)]

        def of(station: int, knowledge: tuple[str, ...]) -> np.ndarray:
            parts = []
            if "near" in knowledge:
                x = filtered[:, columns_of(self.near[station], variables)]
                parts += [_lagged(x, lag) for lag in range(LAGS)]
                parts += [_running_mean(x, times), *(x * wave[:, None] for wave in season)]
            if "network" in knowledge:
                parts += network
            return np.concatenate(parts, axis=1)

        return of


@dataclasses.dataclass(frozen=True)
class StationForecasts:
    """Damped persistence, and linear regressions of what it misses: one for each lead, station and variable.

    Args:
        leads: in steps.
        regressors: what the regressions know.
        damping: share of a departure that is left, shape (lead, variable).
        knowledge: which regressors serve each lead.
        coefficients: for each lead and station, shape (regressor, variable).
        missed: what parts of the training period that the regressions do not know miss, in units of the departures'
            spread, by time of issue: shape (time, lead, component), NaN where missing.
    """

    leads: tuple[int, ...]
    regressors: Regressors
    damping: np.ndarray
    knowledge: tuple[tuple[str, ...], ...]
    coefficients: tuple[tuple[np.ndarray, ...], ...]
    missed: np.ndarray

    def __call__(self, times: pd.DatetimeIndex, filtered: np.ndarray) -> np.ndarray:
        """Return forecasts of the departures.

        Args:
            times: regular; those of the filtered departures.
            filtered: shape (time, component).

        Returns:
            By time of issue, shape (time, lead, component).
        """
        stations, variables = len(self.regressors.near), self.damping.shape[1]
        x = filtered.reshape(len(times), 1, stations, variables)
        out = (x * self.damping[:, None]).reshape(len(times), len(self.leads), stations * variables)
        regressors = self.regressors(times, filtered)
        for s in range(stations):
            known = {each: regressors(s, each) for each in set(self.knowledge)}
            own = slice(s * variables, (s + 1) * variables)
            for k, each in enumerate(self.knowledge):
                out[:, k, own] += known[each] @ self.coefficients[k][s]
        return out


def learn_forecasts(
    times: pd.DatetimeIndex, filtered: np.ndarray, departures: np.ndarray, near: np.ndarray, leads: tuple[int, ...]
) -> StationForecasts:
    """Fit the regressions on the training period.

    Penalties, and what the regressions know, are chosen for all stations together, by parts of the period that the
    regressions do not know: one for each lead and variable.

    Args:
        times: of the training period.
        filtered: what the filter makes of it, shape (time, component).
        departures: what was observed, NaN where missing, likewise.
        near: for each station its neighbors.
        leads: in steps.
    """
    stations, (steps, count) = len(near), departures.shape
    variables = count // stations
    regressors = Regressors.of(filtered, near)
    later = np.full((steps, len(leads), count), np.nan)
    for k, lead in enumerate(leads):
        later[: steps - lead, k] = departures[lead:]
    damping = _damping(filtered, later, variables)
    persistent = filtered.reshape(steps, 1, stations, variables) * damping[:, None]
    later -= persistent.reshape(later.shape)
    own = [slice(s * variables, (s + 1) * variables) for s in range(stations)]
    known = regressors(times, filtered)

    def targets(s: int) -> np.ndarray:
        return later[:, :, own[s]].reshape(steps, -1)

    errors = np.stack([
        sum(choose_penalties(known(s, each), targets(s)) for s in judged_stations(stations))
        for each in KNOWLEDGE
    ])  # fmt: skip  # (knowledge, penalty, lead * variable)
    errors = errors.reshape(len(KNOWLEDGE), len(PENALTIES), len(leads), variables)
    chosen = np.argmin(errors.min(1).sum(-1), axis=0)  # of each lead
    penalties = [PENALTIES[np.argmin(errors[which, :, k], axis=0)] for k, which in enumerate(chosen)]
    knowledge = tuple(KNOWLEDGE[which] for which in chosen)
    coefficients: tuple[list[np.ndarray], ...] = tuple([] for _ in leads)
    missed = np.full(later.shape, np.nan)
    for s in range(stations):
        seen = {each: known(s, each) for each in set(knowledge)}
        for k, each in enumerate(knowledge):
            X, Y = seen[each], later[:, k, own[s]]
            coefficients[k].append(fit_ridge(X, Y, penalties[k]))
            missed[:, k, own[s]] = Y - predict_left_out(X, Y, penalties[k])
    return StationForecasts(leads, regressors, damping, knowledge, tuple(map(tuple, coefficients)), missed)


def _damping(filtered: np.ndarray, later: np.ndarray, variables: int) -> np.ndarray:
    shape = (len(filtered), later.shape[1], -1, variables)
    x = np.broadcast_to(filtered[:, None], later.shape).reshape(shape)
    y = later.reshape(shape)
    known = np.isfinite(y)
    product = np.where(known, x * y, 0.0).sum((0, 2))
    return product / np.maximum(np.where(known, x**2, 0.0).sum((0, 2)), 1e-12)


def _lagged(x: np.ndarray, lag: int) -> np.ndarray:
    return x if lag == 0 else np.concatenate([np.zeros_like(x[:lag]), x[:-lag]])


def _season(times: pd.DatetimeIndex) -> np.ndarray:
    days = np.asarray((times - pd.Timestamp("2000-01-01", tz=times.tz)) / pd.Timedelta("1D"), float)
    return waves(days, 1.0, WAVES) if times[1] - times[0] < pd.Timedelta("12h") else waves(days, YEAR, 1)


def _running_mean(x: np.ndarray, times: pd.DatetimeIndex) -> np.ndarray:
    step = times[1] - times[0]
    count = max(round((SLOW[0] if step < SLOW[0] else SLOW[1]) / step), 2)
    total = np.cumsum(x, axis=0)
    before = np.concatenate([np.zeros_like(total[:count]), total[:-count]])[: len(x)]
    return (total - before) / np.minimum(np.arange(1, len(x) + 1), count)[:, None]
