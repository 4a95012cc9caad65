"""How departures at stations go on from step to step, learned from their record."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from diffassim.experiments.stations.covariance import pairwise_covariance
from diffassim.experiments.stations.regions import columns_of
from diffassim.experiments.stations.ridge import PENALTIES, choose_penalties, fit_ridge, predict_left_out
from diffassim.models.base import Model

__all__ = [
    "LAGS",
    "LinearEvolution",
    "fit_evolution",
    "lagged",
    "nearest_stations",
    "persisting",
    "regressors_of",
]

LAGS = 3
NEIGHBORS = 8  # of a station, itself included
JUDGED = 100


class LinearEvolution(Model):
    r"""Every component goes on from the last steps of the components near it.

    .. math:: x_{k+1, i} = \sum_j A_{ij}\, (x_k, x_{k-1}, \dots)_{n_{ij}}

    The state holds the last steps, the latest first, shape (lag, component).

    Args:
        coefficients: A, shape (component, regressor).
        regressors: n, indices into the flattened state, shape (component, regressor).
    """

    coefficients: Any
    regressors: Any
    dt: Any = 1.0

    def step(self, x: Any, t: Any) -> Any:
        """Return the state one step later."""
        following = jnp.sum(self.coefficients * x.reshape(-1)[self.regressors], axis=1)
        return jnp.concatenate([following[None], x[:-1]])


def judged_stations(stations: int) -> np.ndarray:
    """Return the stations by which penalties are chosen: all, or a hundred of them."""
    return np.linspace(0, stations - 1, min(stations, JUDGED)).astype(int)


def nearest_stations(departures: np.ndarray, stations: int) -> np.ndarray:
    """Return for each station those whose departures are most like its own, itself first.

    Args:
        departures: NaN where missing, shape (time, component), variables fastest.
        stations: how many there are.

    Returns:
        Indices, shape (station, neighbor).
    """
    S = pairwise_covariance(departures)
    std = np.sqrt(np.maximum(np.diag(S), 1e-12))
    blocks = (S / np.outer(std, std)).reshape(stations, -1, stations, departures.shape[1] // stations)
    likeness = np.abs(np.einsum("svtv->st", blocks)) + 1e6 * np.eye(stations)
    return np.argsort(-likeness, axis=1, kind="stable")[:, : min(NEIGHBORS, stations)]


def persisting(departures: np.ndarray) -> LinearEvolution:
    """Return the evolution in which every component decays with one rate, that of all."""
    before, after = departures[:-1], departures[1:]
    both = np.isfinite(before) & np.isfinite(after)
    product, square = np.where(both, before * after, 0.0).sum(), np.where(both, before**2, 0.0).sum()
    count = departures.shape[1]
    rate = float(np.clip(product / max(square, 1e-12), 0.0, 0.999))
    return LinearEvolution(jnp.full((count, 1), rate), jnp.arange(count)[:, None])


def lagged(filled: np.ndarray) -> np.ndarray:
    """Return the flattened states of a record without gaps, from the first that has all lags, shape (time, state)."""
    last = len(filled) - LAGS + 1
    return np.concatenate([filled[LAGS - 1 - lag : LAGS - 1 - lag + last] for lag in range(LAGS)], axis=1)


def regressors_of(near: np.ndarray, variables: int) -> np.ndarray:
    """Return where the last steps of each station's neighbors are in the flattened state, by station."""
    columns = np.stack([columns_of(each, variables) for each in near])
    return np.concatenate([lag * len(near) * variables + columns for lag in range(LAGS)], axis=1)


def fit_evolution(
    filled: np.ndarray, observed: np.ndarray, near: np.ndarray, rate: float
) -> tuple[LinearEvolution, np.ndarray]:
    """Fit the coefficients to one step ahead; the penalty draws them towards decay.

    Args:
        filled: departures without gaps, shape (time, component).
        observed: where the values to be met are taken from, NaN where missing, likewise.
        near: for each station its neighbors.
        rate: of the decay, see `persisting`.

    Returns:
        The evolution, and what it misses in parts of the record that it does not know, NaN where missing.
    """
    stations, count = len(near), filled.shape[1]
    variables = count // stations
    flat, indices = lagged(filled)[:-1], regressors_of(near, variables)
    following = observed[LAGS:] - rate * flat[:, :count]
    own = [s * variables + np.arange(variables) for s in range(stations)]
    # One penalty for each variable: what is chosen for a single station hangs on chance.
    errors = sum(choose_penalties(flat[:, indices[s]], following[:, own[s]]) for s in judged_stations(stations))
    penalties = PENALTIES[np.argmin(errors, axis=0)]
    coefficients, missed = [], np.full(observed.shape, np.nan)
    for index, each in zip(indices, own, strict=True):
        X, Y = flat[:, index], following[:, each]
        decay = rate * (index == each[:, None])  # of the latest step, whose place in the state has no offset
        coefficients.append(fit_ridge(X, Y, penalties).T + decay)
        missed[LAGS:, each] = Y - predict_left_out(X, Y, penalties)
    regressors = np.repeat(indices, variables, axis=0)
    return LinearEvolution(jnp.asarray(np.concatenate(coefficients)), jnp.asarray(regressors)), missed
