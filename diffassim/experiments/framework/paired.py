"""The difference between two methods that met the same days, with its interval."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from diffassim.core.errors import ConfigurationError

__all__ = ["Difference", "paired_difference"]


class Difference(NamedTuple):
    """A sum of differences, and its central interval of 95 percent.

    Args:
        total: sum over all times.
        low: lower end.
        high: upper end.
    """

    total: float
    low: float
    high: float


def paired_difference(
    first: np.ndarray, second: np.ndarray, block: int, *, seed: int = 0, resamples: int = 2000
) -> Difference:
    """Return the sum of `first` minus `second` over times, with an interval from a block bootstrap.

    Whole blocks of consecutive times are drawn with replacement, the same for both, the record closed to a circle: what
    both have in common cancels, and what depends on the times before stays together.

    Args:
        first: of one method at each time, shape (times,).
        second: of another at the same times.
        block: times in a block; long enough that blocks hardly depend on each other.
        seed: of the draws.
        resamples: number of draws.

    Raises:
        ConfigurationError: if a block is longer than the record, or not positive.

    Example:
        >>> found = paired_difference(np.full(100, 2.0), np.full(100, 1.5), 10)
        >>> found.total, found.low, found.high
        (50.0, 50.0, 50.0)

    Source: Politis and Romano (1992).
    """
    difference = np.asarray(first, float) - np.asarray(second, float)
    count = difference.size
    if not 1 <= block <= count:
        raise ConfigurationError(f"paired_difference: block={block} must lie between 1 and the {count} times")
    starts = np.random.default_rng(seed).integers(0, count, (resamples, -(-count // block)))
    sums = np.concatenate([[0.0], np.cumsum(np.concatenate([difference, difference[:block]]))])
    parts = sums[starts + block] - sums[starts]
    parts[:, -1] = sums[starts[:, -1] + (count - 1) % block + 1] - sums[starts[:, -1]]  # so that all have one length
    low, high = np.quantile(parts.sum(axis=1), [0.025, 0.975])
    return Difference(float(difference.sum()), float(low), float(high))
