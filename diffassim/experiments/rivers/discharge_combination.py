"""Combine the forecasts of the assimilation with those that it has to beat, without losing their variability."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["Combination", "fit_persistence"]

EQUAL = 0.5  # the weight of both


def fit_persistence(forecast: np.ndarray, unexplained: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Return by lead what part of the departure that an analysis leaves is still there: least squares.

    Args:
        forecast: from the analyses alone, shape (n, leads).
        unexplained: observation minus analysis on the issue day, zero where missing, shape (n, leads).
        observed: on the forecast day, NaN where missing, shape (n, leads).

    Returns:
        The slopes, shape (leads,); zero where no departure is known.
    """
    left = observed - forecast
    known = np.isfinite(left)
    products = np.where(known, unexplained * np.where(known, left, 0), 0).sum(axis=0)
    squares = np.where(known, unexplained**2, 0).sum(axis=0)
    return products / np.where(squares > 0, squares, 1)


class Combination(NamedTuple):
    r"""Forecasts g combined of those of the assimilation, f, and those of a reference, r, for each lead.

    .. math:: c = r + w\,(f - r), \qquad g = \max(0,\; m + s\,(c - m))

    The weight w is that of least squares on days that neither forecast was fitted to, halfway to equal weights: a few
    floods decide on the estimate, and equal weights are hard to beat (the "combination puzzle"). A conditional mean
    varies less than the river, and an average of two forecasts less than either. The stretch s about the mean m gives
    back what was lost: c is made to vary as the reference does, and left alone where it varies more. What was lost is
    measured against the reference and not against the river, because how far a model's variability is from the river's
    changes from period to period with the weather, and what an assimilation takes from its model does not.

    The combination is a forecast of single values. As the center of a predictive distribution the assimilation's own
    forecast is better, being a conditional mean.

    Args:
        weight: w, shape (leads,).
        center: m, mm per day, shape (leads,).
        stretch: s, at least one, shape (leads,).

    Source: combination: Bates and Granger (1969); weights shrunk to equal ones: Stock and Watson (2004); maintained
    variance of streamflow estimates: Hirsch (1982).
    """

    weight: np.ndarray
    center: np.ndarray
    stretch: np.ndarray

    @classmethod
    def fit(cls, forecast: np.ndarray, reference: np.ndarray, observed: np.ndarray) -> Combination:
        """Fit to forecasts of days that they were not fitted to.

        Args:
            forecast: of the assimilation, shape (n, leads).
            reference: of the method to compare with, shape (n, leads).
            observed: NaN where missing, shape (n, leads).
        """
        rows = []
        for f, r, y in zip(forecast.T, reference.T, observed.T, strict=True):
            known = np.isfinite(f) & np.isfinite(r) & np.isfinite(y)
            f, r, y = f[known], r[known], y[known]
            apart = np.sum((f - r) ** 2)
            best = np.clip(np.sum((f - r) * (y - r)) / apart, 0, 1) if apart > 0 else EQUAL
            weight = (best + EQUAL) / 2
            combined = r + weight * (f - r)
            varied = combined.std()
            rows.append((weight, combined.mean(), max(r.std() / varied, 1.0) if varied > 0 else 1.0))
        return cls(*np.array(rows).T)

    def __call__(self, forecast: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """Return the combined forecasts, shape (n, leads)."""
        combined = reference + self.weight * (forecast - reference)
        return np.maximum(self.center + self.stretch * (combined - self.center), 0)
