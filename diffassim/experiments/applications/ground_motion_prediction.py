"""Ground motion where nothing was recorded, and magnitude, from the stations that did record."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.scipy.stats import norm
from jaxtyping import Array

from diffassim.core.pytree import Pytree
from diffassim.covariances import Dense, Diagonal
from diffassim.experiments.applications.ground_motion_mean import inputs
from diffassim.experiments.applications.ground_motion_stations import StationTerms, event_covariance
from diffassim.experiments.applications.ground_motion_terms import Records, TermCovariances
from diffassim.gaussian import OptimalInterpolation
from diffassim.gaussian.belief import Gaussian
from diffassim.io.ground_motion import GroundMotion
from diffassim.observations import Function, Observations
from diffassim.variational import GaussNewton, ThreeDVar, minimize

__all__ = ["EventPrior", "GutenbergRichter", "Magnitudes", "estimate_magnitudes", "predict"]

SMALLEST_SIZE = 64


class EventPrior(NamedTuple):
    """What is known of an event's records before any of them: mean and covariance of the terms that are shared.

    Args:
        rows: numbers of the records, shape (n,).
        mean: of station and path terms, shape (n,).
        covariance: of all terms but the rest of each record, shape (n, n).
    """

    rows: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def of(cls, terms: TermCovariances, stations: StationTerms, data: GroundMotion, event: int) -> EventPrior:
        """Return it for one event."""
        rows = np.flatnonzero(data.event == event)
        r = Records.of(data, rows)
        mean, P = (np.asarray(value) for value in stations.at(r.basis[0]))
        return cls(rows, mean[r.station], P[np.ix_(r.station, r.station)] + event_covariance(terms, r))


def predict(
    terms: TermCovariances, prior: EventPrior, residual: np.ndarray, reported: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance of the residuals of an event's records, from those that were reported.

    Args:
        terms: the covariances.
        prior: of the event.
        residual: y - f of the event's records, shape (n,).
        reported: which of them are known, shape (n,).

    Returns:
        Mean and predictive variance of all of them, a record's own rest included.
    """
    n = len(prior.rows)
    size = max(SMALLEST_SIZE, 1 << (n - 1).bit_length())
    mean, P = np.pad(prior.mean, (0, size - n)), np.zeros((size, size))
    P[:n, :n] = prior.covariance
    values = np.full(size, np.nan)
    values[:n] = np.where(reported, residual, np.nan)
    found, spread = _analyzed(jnp.asarray(mean), jnp.asarray(P), jnp.asarray(values), jnp.asarray(terms.record))
    return np.asarray(found)[:n], np.square(np.asarray(spread)[:n]) + float(terms.record) ** 2


@jax.jit
def _analyzed(mean: Array, P: Array, values: Array, std: Array) -> tuple[Array, Array]:
    filled = P + 1e-9 * jnp.eye(P.shape[0])
    prior = Gaussian.from_covariance(mean, Dense.from_matrix(filled))
    y = Observations(values[None], [0], error=Diagonal(std=std))
    posterior, _ = OptimalInterpolation(prior).analyze(None, mean, y)
    return posterior.mean, posterior.spread()


class Magnitudes(NamedTuple):
    """Estimates of the magnitudes of events, and their standard deviations, by the number of stations used.

    Args:
        estimate: shape (numbers, events).
        std: likewise.
    """

    estimate: np.ndarray
    std: np.ndarray


class GutenbergRichter(NamedTuple):
    r"""Prior of magnitudes, exponential above the smallest: \(p(m) = \beta e^{-\beta (m - m_0)}\).

    Args:
        smallest: m_0.
        rate: beta, log(10) times the b-value.

    Source: Aki (1965) for the rate of largest likelihood.
    """

    smallest: Any
    rate: Any

    @classmethod
    def fitted(cls, magnitudes: np.ndarray, rounding: float = 0.1) -> GutenbergRichter:
        """Return the prior of largest likelihood of magnitudes that are rounded.

        Example:
            >>> prior = GutenbergRichter.fitted(np.array([4.0, 4.1, 4.5, 5.0]))
            >>> round(prior.smallest, 2), round(prior.rate, 3)
            (3.95, 2.222)
        """
        smallest = float(np.min(magnitudes)) - rounding / 2
        return cls(smallest, 1 / (float(np.mean(magnitudes)) - smallest))

    def posterior(self, found: Magnitudes, factor: float = 1.0) -> Magnitudes:
        """Return mean and standard deviation, given estimates that know no prior: those of a normal cut off below.

        Args:
            found: estimates with Gaussian errors.
            factor: of their standard deviations.

        Example:
            >>> one = Magnitudes(np.array([[5.0]]), np.array([[0.1]]))
            >>> GutenbergRichter(3.0, 2.0).posterior(one).estimate.round(3).tolist()
            [[4.98]]
        """
        std = jnp.asarray(found.std) * factor
        center = jnp.asarray(found.estimate) - self.rate * jnp.square(std)
        cut = (self.smallest - center) / std
        hazard = jnp.exp(norm.logpdf(cut) - norm.logsf(cut))
        variance = jnp.square(std) * (1 + cut * hazard - jnp.square(hazard))
        return Magnitudes(np.asarray(center + std * hazard), np.sqrt(np.maximum(np.asarray(variance), 0)))


class _Motion(Pytree):
    """The mean of records as a function of the magnitude."""

    mean: Any
    distance: Any
    depth: Any
    vs30: Any
    elevation: Any

    def __call__(self, x: Array) -> Array:
        return self.mean(inputs(x, self.distance, self.depth, self.vs30, self.elevation))


def estimate_magnitudes(
    mean: Any, terms: TermCovariances, priors: list[EventPrior], data: GroundMotion, counts: tuple[int, ...],
    prior: tuple[float, float],
) -> Magnitudes:  # fmt: skip
    """Return magnitudes from the nearest stations, by 3D-Var of one number, with the prior's Gaussian.

    Args:
        mean: of ground motion.
        terms: the covariances.
        priors: of the events.
        data: the records.
        counts: how many of the nearest stations are used, all where there are fewer.
        prior: mean and standard deviation of the magnitudes.
    """
    estimates, stds = np.zeros((len(counts), len(priors))), np.zeros((len(counts), len(priors)))
    most = max(len(event.rows) for event in priors)
    for i, count in enumerate(min(count, most) for count in counts):
        parts = [_nearest(event, terms, data, count) for event in priors]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)
        estimates[i], stds[i] = _minimized(mean, jnp.asarray(prior), stacked)
    return Magnitudes(estimates, stds)


def _nearest(event: EventPrior, terms: TermCovariances, data: GroundMotion, count: int) -> dict[str, Array]:
    """Return what is known of the nearest records of an event, padded by records that say nothing."""
    near = np.argsort(data.distance[event.rows], kind="stable")[:count]
    near = np.concatenate([near, np.full(count - len(near), near[-1])])
    real = np.arange(count) < min(count, len(event.rows))
    rows = event.rows[near]
    S = event.covariance[np.ix_(near, near)] + float(terms.record) ** 2 * np.eye(count)
    return {
        "values": jnp.asarray(np.where(real, data.log_pga[rows] - event.mean[near], np.nan)),
        "covariance": jnp.asarray(np.where(real[:, None] & real[None, :], S, np.eye(count))),
        "distance": jnp.asarray(data.distance[rows]), "depth": jnp.asarray(data.event_place[data.event[rows], 2]),
        "vs30": jnp.asarray(data.vs30[data.station[rows]]),
        "elevation": jnp.asarray(data.elevation[data.station[rows]]),
    }  # fmt: skip


@jax.jit
def _minimized(mean: Any, prior: Array, parts: dict[str, Array]) -> tuple[Array, Array]:
    def one(part: dict[str, Array]) -> tuple[Array, Array]:
        motion = _Motion(mean, part["distance"], part["depth"], part["vs30"], part["elevation"])
        error = Dense.from_matrix(part["covariance"])
        y = Observations(part["values"][None], [0], operator=Function(_motion, motion), error=error)
        cost = ThreeDVar(prior[:1], Diagonal(std=prior[1]), y)
        solution = minimize(cost, GaussNewton())
        flat, unravel = ravel_pytree(solution.control)
        curvature = jax.hessian(lambda v: cost(unravel(v)))(flat)
        return solution.state[0], prior[1] / jnp.sqrt(curvature[0, 0])

    return jax.lax.map(one, parts)


def _motion(x: Array, motion: _Motion) -> Array:
    return motion(x)
