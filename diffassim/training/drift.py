"""Has the law of the innovations changed? A sequential test with a known rate of false alarms."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
from jax import lax

from diffassim.core.errors import ConfigurationError
from diffassim.core.pytree import Pytree

__all__ = ["DriftDetector", "innovation_statistic"]

OVERSHOOT = 1.166  # of a discrete sum over its threshold: Siegmund (1985)


def innovation_statistic(chi_square: Any, count: Any) -> Any:
    r"""Return how many standard deviations a mean square of whitened innovations lies above one.

    .. math:: z = \sqrt{m / 2}\, (|d|^2 / m - 1)

    Args:
        chi_square: \(|d|^2 / m\) of an analysis, as `AnalysisInfo.chi_square` has it, with innovations whitened by
            their own covariance H P H' + R.
        count: m.

    Example:
        >>> float(innovation_statistic(jnp.array(3.0), jnp.array(2)))
        2.0
    """
    return jnp.sqrt(count / 2) * (chi_square - 1)


class DriftDetector(Pytree):
    r"""Cumulative sum of a statistic that has mean 0 and variance 1 while nothing changes.

    .. math:: S_t = \max(0,\, S_{t-1} + z_t - k),\qquad \text{alarm if } S_t > h

    It is the fastest test for a shift of the mean by 2 k at a given rate of false alarms, whose mean distance is, for
    independent normal statistics,

    .. math:: \mathrm{ARL} \approx \frac{e^{2 k b} - 2 k b - 1}{2 k^2},\qquad b = h + 1.166

    Correlated statistics, as a filter that is not optimal has them, alarm more often.

    Args:
        slack: k, half of the shift that is to be found.
        threshold: h.

    Raises:
        ConfigurationError: if slack or threshold are not positive.

    Example:
        >>> detector = DriftDetector.with_false_alarms(every=1000.0)
        >>> round(detector.threshold, 2), round(detector.mean_distance())
        (5.06, 1000)

    Source: Page (1954); run length: Siegmund (1985), equation 2.56.
    """

    slack: Any = 0.5
    threshold: Any = 5.0

    def __post_init__(self) -> None:
        for name, value in (("slack", self.slack), ("threshold", self.threshold)):
            if isinstance(value, int | float) and not value > 0:
                raise ConfigurationError(f"DriftDetector: {name}={value} must be positive")

    @classmethod
    def with_false_alarms(cls, every: float, slack: float = 0.5) -> DriftDetector:
        """Build with the threshold at which false alarms are `every` steps apart in the mean.

        Raises:
            ConfigurationError: if that is not more than what a threshold of zero gives.
        """
        low, high = 0.0, 1.0
        if not every > _distance(slack, 0.0):
            raise ConfigurationError(
                f"DriftDetector: every={every} is too often; the least is {_distance(slack, 0.0):.3g} with this slack"
            )
        while _distance(slack, high) < every:
            high *= 2
        for _ in range(60):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if _distance(slack, middle) < every else (low, middle)
        return cls(slack, 0.5 * (low + high))

    def mean_distance(self) -> float:
        """Return the mean number of steps between false alarms."""
        return _distance(float(self.slack), float(self.threshold))

    def update(self, total: Any, z: Any) -> tuple[Any, Any]:
        """Return the sum after a step, and whether it alarms; after an alarm the sum starts again.

        Args:
            total: the sum before; zero at the start.
            z: statistic; NaN (nothing was observed) changes nothing.
        """
        moved = jnp.maximum(total + jnp.where(jnp.isfinite(z), z - self.slack, 0), 0)
        alarm = moved > self.threshold
        return jnp.where(alarm, 0, moved), alarm

    def run(self, statistics: Any) -> Any:
        """Return at which steps of a record it alarms, shape (time,)."""
        z = jnp.asarray(statistics)
        return lax.scan(self.update, jnp.zeros((), z.dtype), z)[1]


def _distance(k: float, h: float) -> float:
    b = h + OVERSHOOT
    return (math.exp(2 * k * b) - 2 * k * b - 1) / (2 * k**2)
