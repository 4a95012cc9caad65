"""How often the truth lay in the intervals that were given for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.scipy.stats import norm

from diffassim.core.errors import ConfigurationError

__all__ = ["Calibration", "calibration_table"]


class Calibration(NamedTuple):
    """Coverage of central intervals, one entry for each level.

    Attributes:
        levels: what the intervals promise.
        coverage: share of values that lay in them.
        counts: how many values there were.
    """

    levels: Any
    coverage: Any
    counts: Any

    def __str__(self) -> str:
        rows = [f"{100 * p:5.1f} %  {100 * c:5.1f} %" for p, c in zip(self.levels, self.coverage, strict=True)]
        return "\n".join([f"level    found  ({int(self.counts)} values)", *rows])


def calibration_table(
    errors: Any, spreads: Any = None, *, members: Any = None, levels: Sequence[float] = (0.5, 0.8, 0.9, 0.95)
) -> Calibration:
    r"""Return how often values lay in central intervals, of a normal distribution or of members.

    .. math:: \hat p = \frac1n \sum_i 1\big[\,|e_i| \le \Phi^{-1}((1 + p) / 2)\, s_i\,\big]

    Args:
        errors: value minus mean, or with `members` the values themselves; NaN is missing.
        spreads: standard deviations that broadcast to the errors.
        members: instead of spreads, members with a leading axis; intervals are their quantiles, at the probabilities
            k / (N + 1) of sorted members, which a value of the same law keeps whatever the law is.
        levels: what the intervals promise.

    Raises:
        ConfigurationError: if there are neither spreads nor members, or both; or a level lies outside (0, 1).

    Example:
        >>> print(calibration_table(jnp.array([0.5, 1.0, 3.0, jnp.nan]), jnp.ones(4), levels=[0.9]))
        level    found  (3 values)
         90.0 %   66.7 %
    """
    if (spreads is None) == (members is None):
        raise ConfigurationError("calibration_table: give spreads or members")
    p = jnp.asarray(levels, jnp.result_type(float))
    if not bool(jnp.all((p > 0) & (p < 1))):
        raise ConfigurationError(f"calibration_table: levels={list(levels)} must lie between 0 and 1")
    errors = jnp.asarray(errors)
    seen = jnp.isfinite(errors)
    count = jnp.sum(seen)
    if spreads is not None:
        size = jnp.abs(errors) / spreads
        inside = size[None] <= norm.ppf((1 + p) / 2).reshape(-1, *[1] * errors.ndim)
    else:
        ordered = jnp.sort(jnp.asarray(members), axis=0)
        low, high = (_quantiles(ordered, q) for q in ((1 - p) / 2, (1 + p) / 2))
        inside = (errors[None] >= low) & (errors[None] <= high)
    axes = tuple(range(1, inside.ndim))
    return Calibration(p, jnp.sum(inside & seen[None], axis=axes) / jnp.maximum(count, 1), count)


def _quantiles(ordered: Any, q: Any) -> Any:
    """Return quantiles of sorted members, with a leading axis of probabilities."""
    N = ordered.shape[0]
    place = jnp.clip(q * (N + 1) - 1, 0, N - 1)
    below = jnp.minimum(jnp.floor(place).astype(jnp.int32), max(N - 2, 0))
    share = (place - below.astype(place.dtype)).reshape(-1, *[1] * (ordered.ndim - 1)).astype(ordered.dtype)
    return (1 - share) * ordered[below] + share * ordered[jnp.minimum(below + 1, N - 1)]
