"""What the observations of the windows were worth for the forecasts from their analyses."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import xarray as xr

from diffassim.core.errors import AssimilationWarning
from diffassim.covariances import Diagonal
from diffassim.observations import Observations
from diffassim.variational import ForecastError, StrongConstraint4DVar, minimize, observation_impact

__all__ = ["TimesImpact", "impact_of_times"]

TOLERANCE = 1e-4  # of the solves


class TimesImpact(NamedTuple):
    """Impact of the observation times of some windows on the squared error of a forecast of one further window.

    Args:
        steps: of the window at which something was observed.
        impact: of each, mean over the windows; negative: the error became smaller.
        beneficial: share of the observed values of each that made the error smaller.
        change: squared error of the forecast from the analysis minus that from the background, mean over the windows.
        windows: that count.
    """

    steps: np.ndarray
    impact: np.ndarray
    beneficial: np.ndarray
    change: float
    windows: int


def impact_of_times(config: Any, dataset: xr.Dataset, first: int, last: int, count: int) -> TimesImpact | None:
    """Return the impacts of the observations of some windows, evenly spread; None where none can be found.

    The forecast from the analysis runs on to the end of the next window, where the truth verifies it. Windows count
    whose search and solve have converged.

    Args:
        config: settings of the twin.
        dataset: its output.
        first: window from which on one is chosen; the first of all has no analysis before it.
        last: window up to which, exclusive; the one after it verifies.
        count: windows, at most.
    """
    chosen = np.arange(max(first, 1), last - 1)
    if not chosen.size or not count:
        return None
    chosen = chosen[np.unique(np.linspace(0, chosen.size - 1, count).round().astype(int))]
    found = [each for each in (_one(config, dataset, int(j)) for j in chosen) if each is not None]
    if not found:
        return None
    impact, observed, change = (np.stack(parts) for parts in zip(*found, strict=True))
    seen = np.flatnonzero(observed.any(axis=(0, 2)))
    good = ((impact < 0) & observed).sum(axis=(0, 2))[seen] / observed.sum(axis=(0, 2))[seen]
    return TimesImpact(seen + 1, impact.sum(axis=2).mean(axis=0)[seen], good, float(change.mean()), len(found))


def _one(config: Any, dataset: xr.Dataset, j: int) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Return impact and mask of the observations of a window, shape (step, site), and the change of the error."""
    window = config.window
    rows = slice(j * window, (j + 1) * window)
    background = dataset["analysis"].values[j * window - 1]
    truth = dataset["truth"].values[(j + 2) * window - 1]
    R = Diagonal(std=config.observation_std)
    y = Observations(dataset["observation"].values[rows], np.arange(1, window + 1), error=R)
    cost = StrongConstraint4DVar(
        config.model, jnp.asarray(background), Diagonal(std=config.background_std), y, steps=window
    )
    later = Observations(truth[None], [2 * window], error=Diagonal(std=1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AssimilationWarning)
        solution = minimize(cost)
        if not bool(solution.converged):
            return None
        found = observation_impact(cost, solution, ForecastError(cost, later), TOLERANCE)
    impact = np.asarray(found.impact[0])
    return (impact, np.asarray(y.mask), np.asarray(found.change)) if np.isfinite(impact).all() else None
