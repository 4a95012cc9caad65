"""Reliability of ensembles: spread against error, coverage of intervals, frequencies behind probabilities."""

from __future__ import annotations

import numpy as np
from jaxtyping import Array, Float

from diffassim.core.errors import ConfigurationError, DataError, ShapeError
from diffassim.core.pytree import Pytree
from diffassim.diagnostics.ranks import known_pairs

__all__ = [
    "Coverage",
    "Exceedance",
    "SpreadError",
    "binned_spread_error",
    "exceedance_reliability",
    "interval_coverage",
    "spread_error",
]


class SpreadError(Pytree):
    """Result of `spread_error`: spread beside error, over all pairs and in bins of equal numbers by spread.

    Args:
        spread: root-mean-square spread in each bin, times sqrt(1 + 1/N): the error that a reliable ensemble claims.
        error: root-mean-square error of the mean in each bin.
        count: pairs in each bin.
        correlation: between spread and absolute error, over all pairs; even the best ensemble stays far below 1.
    """

    spread: Float[Array, " bins"]
    error: Float[Array, " bins"]
    count: Float[Array, " bins"]
    correlation: float

    @property
    def ratio(self) -> float:
        """Claimed over real error of all pairs: below one, the ensemble is too sure."""
        claimed, real = (np.sum(np.asarray(self.count) * np.square(x)) for x in (self.spread, self.error))
        return float(np.sqrt(claimed / real)) if real > 0 else float("inf")


def spread_error(members: Float[Array, N * shape], value: Float[Array, "*shape"], bins: int = 10) -> SpreadError:
    r"""Compare the spread of an ensemble with the error of its mean, also in bins from small to large spread.

    For a reliable ensemble of N members, \(E (\bar x - y)^2 = (1 + 1/N)\, E s^2\) with the sample variance \(s^2\).
    With few members the bins at both ends differ even so, because there the sample variance itself is off.

    Args:
        members: ensemble, member axis first, N >= 2.
        value: what it is verified against; NaN is missing.
        bins: number of bins, with equal numbers of pairs (fewer if there are fewer pairs).

    Returns:
        `SpreadError`.

    Raises:
        ShapeError: if the shapes do not fit, or there is one member only.
        ConfigurationError: if there is no bin.
        DataError: if no complete pair is left.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> scale = rng.uniform(0.5, 2.0, 5000)
        >>> found = spread_error(scale * rng.normal(size=(20, 5000)), scale * rng.normal(size=5000), bins=4)
        >>> bool(abs(found.ratio - 1) < 0.05), bool(np.all(np.diff(found.error) > 0))
        (True, True)

    Source: Fortin et al. (2014), equation 15; Leutbecher and Palmer (2008), section 4.
    """
    if bins < 1:
        raise ConfigurationError(f"spread_error: bins={bins} must be at least 1")
    E, y, _ = known_pairs("spread_error", members, value)
    N = len(E)
    if N < 2:
        raise ShapeError("spread_error: a single member has no spread; at least two are needed")
    return binned_spread_error(np.std(E, axis=0, ddof=1) * np.sqrt(1 + 1 / N), np.mean(E, axis=0) - y, bins)


def binned_spread_error(spread: Float[Array, "*shape"], error: Float[Array, "*shape"], bins: int = 10) -> SpreadError:
    """Compare the error that is claimed with the real one, where means and spreads are known instead of members.

    Args:
        spread: standard deviation that each error should have; for the mean of N members their sample standard
            deviation times sqrt(1 + 1/N).
        error: what it really was; NaN in either is missing.
        bins: number of bins from small to large spread, with equal numbers of pairs (fewer if there are fewer pairs).

    Returns:
        `SpreadError`.

    Raises:
        ShapeError: if the shapes differ.
        ConfigurationError: if there is no bin.
        DataError: if no complete pair is left.

    Example:
        >>> found = binned_spread_error(np.array([1.0, 2.0, 1.0]), np.array([1.0, -2.0, np.nan]), bins=2)
        >>> found.spread.tolist(), found.error.tolist(), found.ratio
        ([1.0, 2.0], [1.0, 2.0], 1.0)
    """
    if bins < 1:
        raise ConfigurationError(f"binned_spread_error: bins={bins} must be at least 1")
    std, e = np.asarray(spread), np.asarray(error)
    if std.shape != e.shape:
        raise ShapeError(f"binned_spread_error: spread of shape {std.shape} and errors of shape {e.shape} differ")
    known = np.isfinite(std) & np.isfinite(e)
    if not known.any():
        raise DataError(f"binned_spread_error: none of {std.size} pairs of a spread and an error is complete")
    std, apart = std[known], np.abs(e[known])
    parts = np.array_split(np.argsort(std, kind="stable"), min(bins, std.size))
    constant = any(np.ptp(x) <= 1e-12 * np.max(x) for x in (std, apart))  # up to rounding
    return SpreadError(
        np.array([np.sqrt(np.mean(std[part] ** 2)) for part in parts]),
        np.array([np.sqrt(np.mean(apart[part] ** 2)) for part in parts]),
        np.array([part.size for part in parts]),
        float("nan") if constant else float(np.corrcoef(std, apart)[0, 1]),
    )


class Coverage(Pytree):
    """Result of `interval_coverage`.

    Args:
        nominal: probability of each interval, ascending.
        observed: share of the values inside.
        width: mean width of the intervals.
    """

    nominal: Float[Array, " k"]
    observed: Float[Array, " k"]
    width: Float[Array, " k"]


def interval_coverage(members: Float[Array, N * shape], value: Float[Array, "*shape"]) -> Coverage:
    r"""Return how often values lie in the central intervals that the members bound.

    The interval from the k-th lowest to the k-th highest of N members holds the value of a reliable ensemble with
    probability \(1 - 2 k / (N + 1)\), without any assumption about the distribution. A value on a bound is half inside.

    Args:
        members: ensemble, member axis first, N >= 2.
        value: what it is verified against; NaN is missing.

    Returns:
        `Coverage`, of all intervals k = N // 2, ..., 1.

    Raises:
        ShapeError: if the shapes do not fit, or there is one member only.
        DataError: if no complete pair is left.

    Example:
        >>> members = np.arange(1.0, 4.0)[:, None] * np.ones(4)
        >>> found = interval_coverage(members, np.array([0.0, 1.5, 2.5, 9.0]))
        >>> found.nominal.tolist(), found.observed.tolist(), found.width.tolist()
        ([0.5], [0.5], [2.0])
    """
    E, y, _ = known_pairs("interval_coverage", members, value)
    N = len(E)
    if N < 2:
        raise ShapeError("interval_coverage: a single member bounds no interval; at least two are needed")
    E = np.sort(E, axis=0)
    k = np.arange(N // 2, 0, -1)
    low, high = E[k - 1], E[N - k]
    inside = 0.5 * (np.sign(y - low) + np.sign(high - y))  # 1 inside, 1/2 on one bound, 0 outside or on both
    return Coverage(1 - 2 * k / (N + 1), np.mean(inside, axis=1), np.mean(high - low, axis=1))


class Exceedance(Pytree):
    r"""Result of `exceedance_reliability`, for the N + 1 probabilities k / N that N members can give.

    Args:
        probability: share of members above the threshold.
        frequency: how often values were above it then; NaN where that probability never was given.
        count: how often it was given.
        reliability: part of the Brier score by which frequencies differ from probabilities; less is better.
        resolution: part by which frequencies differ from the mean frequency; more is better.
        uncertainty: Brier score of the mean frequency.
    """

    probability: Float[Array, " N+1"]
    frequency: Float[Array, " N+1"]
    count: Float[Array, " N+1"]
    reliability: float
    resolution: float
    uncertainty: float

    @property
    def brier(self) -> float:
        """Brier score: reliability - resolution + uncertainty."""
        return self.reliability - self.resolution + self.uncertainty


def exceedance_reliability(
    members: Float[Array, N * shape], value: Float[Array, "*shape"], threshold: float
) -> Exceedance:
    """Return how often values exceed a threshold, by the probability that the ensemble gives for it.

    Args:
        members: ensemble, member axis first.
        value: what it is verified against; NaN is missing.
        threshold: in their unit.

    Returns:
        `Exceedance`.

    Raises:
        ShapeError: if the shapes do not fit.
        DataError: if no complete pair is left.

    Example:
        >>> members = np.array([[0.0, 2.0, 2.0], [0.0, 0.0, 2.0]])
        >>> found = exceedance_reliability(members, np.array([0.0, 2.0, 2.0]), threshold=1.0)
        >>> found.probability.tolist(), found.frequency.tolist(), round(found.brier, 4)
        ([0.0, 0.5, 1.0], [0.0, 1.0, 1.0], 0.0833)

    Source: Murphy (1973).
    """
    E, y, _ = known_pairs("exceedance_reliability", members, value)
    N = len(E)
    given, above = np.sum(threshold < E, axis=0), y > threshold
    count, hits = np.bincount(given, minlength=N + 1), np.bincount(given, above, N + 1)
    frequency = np.divide(hits, count, out=np.full(N + 1, np.nan), where=count > 0)
    probability, base = np.arange(N + 1) / N, float(np.mean(above))
    weight, seen = count / y.size, np.where(count > 0, frequency, 0)
    return Exceedance(
        probability, frequency, count,
        float(np.sum(weight * (seen - probability) ** 2)), float(np.sum(weight * (seen - base) ** 2)),
        base * (1 - base),
    )  # fmt: skip
