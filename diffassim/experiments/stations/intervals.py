"""Intervals of forecasts that hold their coverage."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import lax
from jaxtyping import Array

from diffassim.core.normal import NORMAL_90
from diffassim.learned.uncertainty import AdaptiveConformal, ConformalState

__all__ = ["LEVEL", "Intervals"]

LEVEL = 0.9
LEAST = 20  # errors from which on an hour of the day has a spread of its own


class Intervals(NamedTuple):
    """Spread of the errors of every lead, and what the half width of an interval is in its units.

    spread, by hour of the day at which a forecast is valid (one row where a day has few steps), shape (hour, lead,
    component); factor and size, the state of `AdaptiveConformal`, shape (lead, component).
    """

    spread: np.ndarray
    factor: np.ndarray
    size: np.ndarray

    @classmethod
    def learn(cls, times: pd.DatetimeIndex, missed: np.ndarray, leads: tuple[int, ...]) -> Intervals:
        """Return the intervals that the errors in parts of the training period ask for.

        Args:
            times: of issue, regular.
            missed: the errors, NaN where missing, shape (time, lead, component).
            leads: in steps.
        """
        whole = np.sqrt(np.nanmean(np.where(np.isfinite(missed).any(0), missed, 0.0) ** 2, axis=0))
        spread = np.maximum(whole, 1e-6)[None]
        step = times[1] - times[0]
        if step < pd.Timedelta("12h") and pd.Timedelta("1D") % step == pd.Timedelta(0):
            hours = int(pd.Timedelta("1D") / step)
            spread = np.repeat(spread, hours, axis=0)
            for k, lead in enumerate(leads):
                at = _hours(times + lead * step, hours)
                for hour in range(hours):
                    found = missed[at == hour, k]
                    enough = np.isfinite(found).sum(0) >= LEAST
                    std = np.sqrt(np.nanmean(np.where(enough, found, 1.0) ** 2, axis=0))
                    spread[hour, k] = np.where(enough, np.maximum(std, 1e-6), spread[hour, k])
        one = cls(spread, np.ones(missed.shape[1:]), np.ones(missed.shape[1:]))
        sizes = np.abs(missed) / one.spreads(times, leads)
        known = np.isfinite(sizes).any(0)
        sizes = np.where(known, sizes, NORMAL_90)
        return one._replace(factor=np.nanquantile(sizes, LEVEL, axis=0), size=np.nanmean(sizes, axis=0))

    def spreads(self, times: pd.DatetimeIndex, leads: tuple[int, ...]) -> np.ndarray:
        """Return the spread of the errors of forecasts issued at some times, shape (time, lead, component)."""
        step = times[1] - times[0]
        return np.stack(
            [self.spread[_hours(times + lead * step, len(self.spread)), k] for k, lead in enumerate(leads)], axis=1
        )

    def follow(
        self, times: pd.DatetimeIndex, centers: np.ndarray, values: np.ndarray, leads: tuple[int, ...]
    ) -> np.ndarray:
        """Return the half widths of the intervals issued at each time, shape (time, lead, component).

        A forecast's interval knows the values up to its issue: those of earlier forecasts whose time has come.

        Args:
            times: of issue, regular.
            centers: forecasts by time of issue, shape (time, lead, component).
            values: what was observed at these times, NaN where missing, shape (time, component).
            leads: in steps.
        """
        spreads = self.spreads(times, leads)
        conformal = AdaptiveConformal(level=LEVEL)

        def seen(state: ConformalState, item: tuple[Array, ...]) -> tuple[ConformalState, Array]:
            state = conformal.update(state, *item)
            return state, state.factor

        halves = []
        for k, lead in enumerate(leads):
            due = values[lead:], centers[: len(centers) - lead, k], spreads[: len(spreads) - lead, k]
            start = ConformalState(jnp.asarray(self.factor[k]), jnp.asarray(self.size[k]))
            _, later = lax.scan(seen, start, tuple(map(jnp.asarray, due)))
            factors = np.concatenate([np.repeat(self.factor[k][None], lead, axis=0), np.asarray(later)])
            halves.append(np.maximum(factors[: len(values)], 0) * spreads[:, k])
        return np.stack(halves, axis=1)


def _hours(times: pd.DatetimeIndex, count: int) -> np.ndarray:
    if count == 1:
        return np.zeros(len(times), int)
    seconds = times.hour * 3600 + times.minute * 60 + times.second
    return np.asarray(seconds * count // 86400, int)
