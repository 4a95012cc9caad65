"""Forecasts to compare with, and predictive distributions for any forecast, all fitted on calibration years."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["PROBABILITIES", "Dressing", "autoregression", "climatology", "fit_autoregression", "persistence"]

PROBABILITIES = np.round(np.arange(0.05, 0.951, 0.05), 2)  # of non-exceedance, whose quantiles forecasts tell
_BINS = 12  # of forecast flow, for the error's dependence on it
_HALF_WINDOW = 15  # days on each side of a day of the year


def fit_autoregression(errors: np.ndarray) -> float:
    """Return the lag-one coefficient of errors by least squares; missing values (NaN) are left out."""
    before, after = errors[:-1], errors[1:]
    known = np.isfinite(before) & np.isfinite(after)
    return float(np.sum(before[known] * after[known]) / np.sum(before[known] ** 2))


def autoregression(
    simulated: np.ndarray, observed: np.ndarray, issued: np.ndarray, lead: int, rho: float
) -> np.ndarray:
    r"""Return open loop plus decayed error, \(q_{T+L} + \rho^L (y_T - q_T)\) (no correction where y_T is missing).

    Args:
        simulated: open-loop discharge, shape (days,).
        observed: observed discharge, shape (days,).
        issued: days T, indices into the record.
        lead: L in days.
        rho: lag-one coefficient of the errors.
    """
    error = np.nan_to_num(observed[issued] - simulated[issued])
    return np.maximum(_at(simulated, issued + lead) + rho**lead * error, 0)


def persistence(observed: np.ndarray, issued: np.ndarray) -> np.ndarray:
    """Return the last observation at or before each day."""
    days = np.arange(len(observed))
    last = np.maximum.accumulate(np.where(np.isfinite(observed), days, 0))
    return observed[last[issued]]


def climatology(observed: np.ndarray, day_of_year: np.ndarray, known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the mean discharge of the known days within 15 days of the time of year, or of all where there are none.

    Args:
        observed: observed discharge, shape (days,).
        day_of_year: 1 to 366, shape (days,).
        known: days that may be used, indices.
        wanted: day of the year of the days to forecast.
    """
    distance = np.abs(day_of_year[known][:, None] - np.arange(1, 367))
    near = np.minimum(distance, 366 - distance) <= _HALF_WINDOW
    usable = near & np.isfinite(observed[known])[:, None]
    total, count = np.sum(np.where(usable, observed[known][:, None], 0), axis=0), np.sum(usable, axis=0)
    mean = np.nanmean(observed[known])  # of a season that was never observed
    return np.where(count > 0, total / np.maximum(count, 1), mean)[wanted - 1]


class Dressing(NamedTuple):
    r"""Predictive distribution around a forecast f: \(f + s(f) z\), with z as it was in the calibration years.

    The scale s grows with the forecast flow as the mean absolute error did; z are the quantiles of the scaled errors.

    Args:
        level: forecast flows at which the scale is given, increasing.
        scale: the scale there.
        quantiles: of the scaled errors.
        probabilities: of these quantiles.

    Source: error dressing of Roulston and Smith (2003), with a scale that depends on the flow.
    """

    level: np.ndarray
    scale: np.ndarray
    quantiles: np.ndarray
    probabilities: np.ndarray

    @classmethod
    def fit(cls, forecast: np.ndarray, observed: np.ndarray, probabilities: np.ndarray) -> Dressing:
        """Fit to forecasts and observations of the calibration years (missing ones are left out)."""
        known = np.isfinite(forecast) & np.isfinite(observed)
        forecast, error = forecast[known], (observed - forecast)[known]
        order = np.argsort(forecast, kind="stable")
        bins = [b for b in np.array_split(order, _BINS) if b.size]
        level = np.array([forecast[b].mean() for b in bins])
        scale = np.maximum.accumulate(np.maximum([np.abs(error[b]).mean() for b in bins], 1e-6))
        level, first = np.unique(level, return_index=True)  # a constant forecast has one level
        dressing = cls(level, scale[first], np.zeros(0), probabilities)
        return dressing._replace(quantiles=np.quantile(error / dressing.scale_at(forecast), probabilities))

    def scale_at(self, forecast: np.ndarray) -> np.ndarray:
        """Return s(f); beyond the largest level it grows in proportion to the forecast."""
        beyond = np.maximum(forecast / max(self.level[-1], 1e-6), 1)
        return np.interp(forecast, self.level, self.scale) * beyond

    def __call__(self, forecast: np.ndarray) -> np.ndarray:
        """Return the quantiles of the predictive distribution, shape (..., probabilities); never below zero."""
        return np.maximum(forecast[..., None] + self.scale_at(forecast)[..., None] * self.quantiles, 0)


def _at(series: np.ndarray, days: np.ndarray) -> np.ndarray:
    """Return values by day, NaN beyond the end."""
    padded = np.append(series, np.nan)
    return padded[np.minimum(days, len(series))]
