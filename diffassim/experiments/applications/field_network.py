"""A Kalman filter of fields that are observed at some points."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from diffassim.covariances import Dense, Diagonal
from diffassim.cycling import cycle
from diffassim.experiments.applications.field_model import FieldModel, PatternEvolution
from diffassim.gaussian import EKF, Gaussian
from diffassim.observations import Linear, Observations

__all__ = ["Filtered", "PointNetwork"]

UNRESOLVED = 0.005  # variance of what a point holds and its surroundings do not, as a share of the remainder's


class Filtered(NamedTuple):
    """State after the analysis of each time.

    mean, shape (time, component), and covariance, shape (time, component, component).
    """

    mean: np.ndarray
    covariance: np.ndarray


class PointNetwork(NamedTuple):
    r"""The model of the fields, as far as some points see it.

    The state holds the amplitudes of the patterns and the remainder at the points. Its correlations in time are the
    same everywhere, so that the remainder elsewhere follows from that at the points at the same time, by kriging:
    nothing is lost against a filter of the whole field.

    Args:
        model: of the fields.
        points: which are observed, indices, shape (m,).
        noise: standard deviation of the observation errors, in the unit of the field.
        field: from the state to the field, shape (component, point).
        left: variance of the remainder that the points tell nothing about, shape (point,).
        start: covariance of the state, before anything is observed.
        matrix: of the evolution in a step.
    """

    model: FieldModel
    points: np.ndarray
    noise: float
    field: np.ndarray
    left: np.ndarray
    start: np.ndarray
    matrix: np.ndarray

    @classmethod
    def build(cls, model: FieldModel, points: np.ndarray, noise: float = 0.0) -> PointNetwork:
        """Build the network of some points."""
        between, across = model.covariance(points, points), model.covariance(points)
        between += UNRESOLVED * np.diag(np.diag(between))
        weights = np.linalg.solve(between, across)
        count, m = len(model.patterns), len(points)
        start, matrix = np.eye(count + m), np.eye(count + m) * model.settings.memory
        start[count:, count:] = between
        matrix[:count, :count] = model.transition
        left = np.maximum(model.std**2 - np.sum(weights * across, axis=0), 0.0)
        field = np.concatenate([model.patterns, weights])
        return cls(model, points, noise, field, left, start, matrix)

    @property
    def error(self) -> np.ndarray:
        """Covariance of what the evolution misses in a step."""
        count, memory = len(self.model.patterns), self.model.settings.memory
        Q = (1 - memory**2) * self.start
        Q[:count, :count] = self.model.error()
        return Q

    def run(self, departures: np.ndarray) -> Filtered:
        """Filter a record.

        Args:
            departures: from the mean cycle at the points, NaN where missing, shape (time, m).
        """
        count, m = len(self.model.patterns), len(self.points)
        H = np.concatenate([self.model.patterns[:, self.points].T, np.eye(m)], axis=1)
        variance = self.noise**2 + UNRESOLVED * self.model.std[self.points] ** 2
        record = Observations(
            departures, np.arange(1, len(departures) + 1), operator=Linear(jnp.asarray(H)),
            error=Diagonal(std=jnp.asarray(np.sqrt(variance))),
        )  # fmt: skip
        belief = Gaussian.from_covariance(jnp.zeros(count + m), Dense.from_matrix(jnp.asarray(self.start)))
        evolution = PatternEvolution(jnp.asarray(self.model.transition), jnp.asarray(self.model.settings.memory))
        method = EKF(Q=Dense.from_matrix(jnp.asarray(self.error)))
        _, history = cycle(method, evolution, belief, record, members=True)
        columns = np.asarray(history.members.columns, float)
        return Filtered(np.asarray(history.members.mean, float), np.einsum("tki,tkj->tij", columns, columns))

    def ahead(self, state: Filtered, lead: int) -> Filtered:
        """Return the state so many steps later, as it is expected."""
        mean, P = state
        for _ in range(lead):
            mean, P = mean @ self.matrix.T, self.matrix @ P @ self.matrix.T + self.error
        return Filtered(mean, P)

    def variance(self, state: Filtered) -> np.ndarray:
        """Return the variance of the field, shape (time, point)."""
        return np.stack([np.sum(self.field * (P @ self.field), axis=0) for P in state.covariance]) + self.left
