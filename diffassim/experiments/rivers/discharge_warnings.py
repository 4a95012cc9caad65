"""Warnings of floods: the probability that discharge exceeds a threshold, from predictive quantiles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from diffassim.core.errors import ShapeError

__all__ = ["default_thresholds", "exceedance", "with_exceedance"]

DEFAULT_SHARES = (0.90, 0.95)  # of the calibration days that stay below a threshold nobody has named
DIGITS = 4  # of these thresholds


def exceedance(quantiles: np.ndarray, probabilities: np.ndarray, threshold: float) -> np.ndarray:
    r"""Return the probability that a value exceeds a threshold.

    Between two quantiles the distribution function is a straight line. Beyond the outermost ones, \(q_n\) of
    probability \(p_n\), the tail is exponential and passes through the two last quantiles:

    .. math:: P(y > c) = (1 - p_n)\,e^{-(c - q_n)/\beta},\qquad
        \beta = (q_n - q_{n-1})\,/\,\ln\frac{1 - p_{n-1}}{1 - p_n}

    and the lower tail is its mirror image. Where the two last quantiles are the same, nothing lies beyond them: no
    spread is known from which a tail could be drawn.

    Args:
        quantiles: of the predictive distribution, not decreasing along the last axis, shape (..., probabilities).
        probabilities: of non-exceedance, increasing, at least two, between 0 and 1, shape (probabilities,).
        threshold: c, in the unit of the quantiles.

    Returns:
        Probabilities, shape (...); NaN where a quantile is NaN.

    Raises:
        ShapeError: if there are fewer than two probabilities, or not as many as quantiles.

    Example:
        >>> exceedance(np.array([[1.0, 2.0, 3.0]]), np.array([0.25, 0.5, 0.75]), 2.5).tolist()
        [0.375]
        >>> p = np.array([0.5, 0.75])  # of an exponential distribution with scale 1
        >>> float(exceedance(-np.log(1 - p), p, 5.0).round(12)), float(np.exp(-5.0).round(12))
        (0.006737946999, 0.006737946999)

    Source: the exponential tail is the generalized Pareto distribution of shape zero (Pickands, 1975).
    """
    q, p = np.asarray(quantiles, float), np.asarray(probabilities, float)
    if p.ndim != 1 or len(p) < 2 or q.shape[-1:] != p.shape:
        raise ShapeError(
            f"exceedance: quantiles of shape {q.shape} and probabilities of shape {p.shape}; the last axis of the "
            "quantiles holds one for each of at least two probabilities"
        )
    below = np.sum(q <= threshold, axis=-1)
    index = np.clip(below, 1, len(p) - 1)[..., None]
    left, right = (np.take_along_axis(q, index - k, axis=-1)[..., 0] for k in (1, 0))
    p_left, p_right = p[index[..., 0] - 1], p[index[..., 0]]
    width = np.where(right > left, right - left, 1)
    inside = p_left + (p_right - p_left) * np.clip((threshold - left) / width, 0, 1)
    upper = (1 - p[-1]) * _tail(threshold - q[..., -1], q[..., -1] - q[..., -2], np.log((1 - p[-2]) / (1 - p[-1])))
    lower = p[0] * _tail(q[..., 0] - threshold, q[..., 1] - q[..., 0], np.log(p[1] / p[0]))
    found = np.where(below == len(p), upper, np.where(below == 0, 1 - lower, 1 - inside))
    return np.where(np.isnan(q).any(axis=-1), np.nan, found)


def default_thresholds(discharge: np.ndarray) -> tuple[float, ...]:
    """Return the discharges that 10 and 5 % of the given days exceed, rounded to four digits.

    Args:
        discharge: of the calibration period, NaN where missing, shape (days,).

    Example:
        >>> default_thresholds(np.append(np.arange(101.0), np.nan))
        (90.0, 95.0)
    """
    quantiles = np.nanquantile(discharge, DEFAULT_SHARES)
    return tuple(dict.fromkeys(float(f"{value:.{DIGITS}g}") for value in quantiles))


def with_exceedance(dataset: xr.Dataset, thresholds: Sequence[float]) -> xr.Dataset:
    """Return the output of a discharge experiment with the probability of exceedance.

    Args:
        dataset: with `quantile` (time, method, lead, probability), m3/s.
        thresholds: m3/s.

    Returns:
        The dataset with `exceedance` (time, method, lead, threshold).
    """
    quantiles, probabilities = dataset["quantile"].values, dataset["probability"].values
    found = np.stack([exceedance(quantiles, probabilities, float(each)) for each in thresholds], axis=-1)
    dataset = dataset.assign_coords(
        threshold=("threshold", np.asarray(thresholds, float), {"units": "m3 s-1", "long_name": "flood threshold"})
    )
    dataset["exceedance"] = (
        ("time", "method", "lead", "threshold"),
        found.astype(np.float32),
        {"units": "1", "long_name": "probability that discharge exceeds the threshold"},
    )
    return dataset


def _tail(distance: np.ndarray, step: np.ndarray, logarithm: float) -> np.ndarray:
    """Return exp(-distance / beta) with beta = step / logarithm; zero beyond a distribution that ends."""
    beta = np.where(step > 0, step, 1) / logarithm
    return np.where(step > 0, np.exp(-np.maximum(distance, 0) / beta), 0.0)
