"""The mean at a time of day and of the year."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd

__all__ = ["MeanCycle"]

YEAR = 365.2425  # days
DAILY_WAVES, YEARLY_WAVES = 3, 2
PENALTY = 1e-4  # on all but the mean, in units of the number of values: keeps a part of a year from being extrapolated


@dataclasses.dataclass(frozen=True)
class MeanCycle:
    """Waves of the day and of the year, and daily waves that change with the season, fitted by least squares.

    Only waves that the record can tell apart are used: of the year where it has at least half of one (one wave, or two
    from two years on), of the day where a day has at least two steps, of both together from nine tenths of a year on.

    Args:
        coefficients: shape (wave, component).
        daily: waves of the day.
        yearly: waves of the year.
        together: whether the daily waves change with the season.
    """

    coefficients: np.ndarray
    daily: int
    yearly: int
    together: bool

    @classmethod
    def fit(cls, times: pd.DatetimeIndex, values: np.ndarray) -> MeanCycle:
        """Fit it.

        Args:
            times: regular.
            values: NaN where missing, shape (time, component).
        """
        step = (times[1] - times[0]) / pd.Timedelta("1D")
        years = len(times) * step / YEAR
        daily = min(DAILY_WAVES, int(np.ceil(0.5 / step)) - 1) if step < 0.5 else 0
        yearly = 0 if years < 0.5 else 1 if years < 2 else YEARLY_WAVES
        cycle = cls(np.empty((0, values.shape[1])), daily, yearly, years > 0.9 and daily > 0)
        X = cycle._waves(times)
        coefficients = np.zeros((X.shape[1], values.shape[1]))
        for j, y in enumerate(values.T):
            known = np.isfinite(y)
            if not known.any():
                continue
            penalty = np.full(X.shape[1], PENALTY * known.sum())
            penalty[0] = 0.0
            G = X[known].T @ X[known] + np.diag(penalty)
            coefficients[:, j] = np.linalg.solve(G, X[known].T @ y[known])
        return dataclasses.replace(cycle, coefficients=coefficients)

    def __call__(self, times: pd.DatetimeIndex) -> np.ndarray:
        """Return the means at these times, shape (time, component)."""
        return self._waves(times) @ self.coefficients

    def _waves(self, times: pd.DatetimeIndex) -> np.ndarray:
        days = np.asarray((times - pd.Timestamp("2000-01-01", tz=times.tz)) / pd.Timedelta("1D"), float)
        day, year = waves(days, 1.0, self.daily), waves(days, YEAR, self.yearly)
        parts = [np.ones((len(times), 1)), day, year]
        if self.together:
            season = year[:, :2]
            parts.append((day[:, :4, None] * season[:, None]).reshape(len(times), -1))
        return np.concatenate(parts, axis=1)


def waves(days: np.ndarray, period: float, count: int) -> np.ndarray:
    """Return sines and cosines of a period (days) and its fractions, shape (time, 2 * count)."""
    angle = 2 * np.pi * np.asarray(days, float)[:, None] / period * np.arange(1, count + 1)
    return np.stack([np.sin(angle), np.cos(angle)], axis=-1).reshape(len(angle), 2 * count)
