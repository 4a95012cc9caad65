r"""Fields as a mean cycle, patterns with a linear stochastic evolution, and a rough remainder."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pandas as pd

from diffassim.covariances import LowRank
from diffassim.experiments.applications.field_record import distances
from diffassim.experiments.stations.mean_cycle import YEAR, waves
from diffassim.models.base import Model

__all__ = ["FieldModel", "FieldSettings", "PatternEvolution", "annual_waves"]

ASPECT = 3.0  # of zonal and meridional correlation lengths
LEAST_ERROR = 0.01  # of a step, in units of the variance of a pattern's amplitude


class FieldSettings(NamedTuple):
    """What is chosen on parts of the training period.

    Args:
        waves: of the year, in the mean cycle.
        penalty: on these waves, in units of the number of values.
        patterns: how many there are.
        ridge: draws the evolution of their amplitudes towards decay, in units of the number of pairs.
        decay: the factor of that decay in a step.
        memory: the factor of the decay of the remainder.
        share: variance of the remainder, in units of what the patterns leave in the training period.
        length: zonal correlation length of the remainder, degrees.
    """

    waves: int = 2
    penalty: float = 0.1
    patterns: int = 4
    ridge: float = 1.0
    decay: float = 0.9
    memory: float = 0.7
    share: float = 3.0
    length: float = 25.0


class PatternEvolution(Model):
    r"""Amplitudes a of patterns and the remainder r at some points, in a state of both.

    .. math:: a_{k+1} = M a_k, \quad r_{k+1} = \rho\, r_k

    Args:
        transition: M, shape (pattern, pattern).
        memory: \(\rho\).

    Source: Penland and Sardeshmukh (1995), section 2, for the amplitudes.
    """

    transition: Any
    memory: Any
    dt: Any = 1.0

    def step(self, x: Any, t: Any) -> Any:
        """Return the state one step later."""
        count = self.transition.shape[0]
        return jnp.concatenate([self.transition @ x[:count], self.memory * x[count:]])


class FieldModel(NamedTuple):
    r"""How the departures from the mean cycle come about: \(x = E^\top a + r\).

    The amplitudes have unit variance; the remainder has variances of its own and exponential correlations.

    Args:
        settings: what it was learned with.
        cycle: coefficients of the mean cycle, shape (wave, point).
        patterns: E, shape (pattern, point), in the unit of the field.
        transition: of the amplitudes in a step, shape (pattern, pattern).
        std: standard deviations of the remainder, shape (point,).
        places: longitude and latitude, degrees, shape (point, 2).
    """

    settings: FieldSettings
    cycle: np.ndarray
    patterns: np.ndarray
    transition: np.ndarray
    std: np.ndarray
    places: np.ndarray

    @classmethod
    def learn(
        cls, settings: FieldSettings, times: pd.DatetimeIndex, values: np.ndarray, rows: np.ndarray, places: np.ndarray
    ) -> FieldModel:
        """Learn from some of the times.

        Args:
            settings: to learn with.
            times: of the record, regular.
            values: shape (time, point).
            rows: which times are known, increasing; gaps between them are no steps.
            places: longitude and latitude, degrees, shape (point, 2).
        """
        W = annual_waves(times[rows], settings.waves)
        penalty = settings.penalty * len(rows) * np.eye(W.shape[1])
        penalty[0, 0] = 0.0  # the mean itself is free
        cycle = np.linalg.solve(W.T @ W + penalty, W.T @ values[rows])
        A = values[rows] - W @ cycle
        # About the mean cycle, not about the mean of these rows: so the sample is doubled with the opposite sign.
        found = LowRank.from_samples(np.concatenate([A, -A]), settings.patterns, residual=False)
        E = np.asarray(found.modes, float) * np.sqrt((2 * len(A) - 1) / (2 * len(A)))
        a = A @ E.T / np.sum(E**2, axis=1)
        std = np.sqrt(np.mean((A - a @ E) ** 2, axis=0))
        # A few years tell little about the variance of one point: halfway (of its logarithm) to that of all points.
        std = np.sqrt(settings.share * np.maximum(std, 1e-6) * std.mean())
        following = np.flatnonzero(np.diff(rows) == 1)
        M = _transition(a[following], a[following + 1], settings)
        return cls(settings, cycle, E, M, std, places)

    def climatology(self, times: pd.DatetimeIndex) -> np.ndarray:
        """Return the mean cycle, shape (time, point)."""
        return annual_waves(times, self.settings.waves) @ self.cycle

    def covariance(self, first: np.ndarray, second: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return the covariance of the remainder at some points, given by their indices, and at others (or at all)."""
        zonal, meridional = distances(self.places[first], self.places[second])
        length = self.settings.length
        distance = np.sqrt((zonal / length) ** 2 + (meridional * ASPECT / length) ** 2)
        return self.std[first][:, None] * self.std[second][None] * np.exp(-distance)

    def error(self) -> np.ndarray:
        """Return the covariance of what the evolution of the amplitudes misses in a step: their variance stays one."""
        Q = np.eye(len(self.transition)) - self.transition @ self.transition.T
        values, vectors = np.linalg.eigh(Q)
        return (vectors * np.maximum(values, LEAST_ERROR)) @ vectors.T

    def ahead(self, departures: np.ndarray, lead: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the forecast from complete fields, and its variance.

        Args:
            departures: from the mean cycle, shape (time, point).
            lead: in steps.

        Returns:
            Departures that are expected, shape (time, point), and variances, shape (point,).
        """
        E, memory = self.patterns, self.settings.memory**lead
        a = departures @ E.T / np.sum(E**2, axis=1)
        mean = a @ np.linalg.matrix_power(self.transition, lead).T @ E + memory * (departures - a @ E)
        P = np.zeros_like(self.transition)
        for _ in range(lead):
            P = self.transition @ P @ self.transition.T + self.error()
        return mean, np.sum(E * (P @ E), axis=0) + (1 - memory**2) * self.std**2


def annual_waves(times: pd.DatetimeIndex, count: int) -> np.ndarray:
    """Return one and the waves of the year at some times, shape (time, 1 + 2 * count).

    Example:
        >>> annual_waves(pd.DatetimeIndex(["2001-01-01"]), 1).tolist()
        [[1.0, 0.0, 1.0]]
    """
    days = (times - pd.Timestamp("2001-01-01")) / pd.Timedelta("1D")
    return np.concatenate([np.ones((len(times), 1)), waves(np.asarray(days, float), YEAR, count)], axis=1)


def _transition(before: np.ndarray, after: np.ndarray, settings: FieldSettings) -> np.ndarray:
    """Return the regression of amplitudes on those a step earlier, drawn towards decay."""
    gram = before.T @ before + settings.ridge * len(before) * np.eye(before.shape[1])
    missed = after - settings.decay * before
    return settings.decay * np.eye(len(gram)) + np.asarray(np.linalg.solve(gram, before.T @ missed)).T
