"""How often the truth lay in the intervals that were given for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

from diffassim.core.checks import real_array
from diffassim.core.errors import ConfigurationError, DataError, ShapeError, concrete

__all__ = ["Calibration", "calibration_table"]


class Calibration(NamedTuple):
    """Coverage of central intervals, one entry for each level.

    Attributes:
        levels: what the intervals promise.
        coverage: share of values that lay in them; NaN where there is none.
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
            Where a spread or a member is not finite, the value does not count.
        levels: what the intervals promise.

    Raises:
        DataError: if a spread is negative.
        ShapeError: if spreads or members do not fit the errors.
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
    errors = jnp.asarray(real_array("calibration_table: errors", errors))
    if spreads is not None:
        spreads = _fitting("spreads", spreads, errors.shape)
        seen = jnp.isfinite(errors) & jnp.isfinite(spreads)
        inside = jnp.abs(errors)[None] <= spreads[None] * norm.ppf((1 + p) / 2).reshape(-1, *[1] * errors.ndim)
    else:
        given = jnp.asarray(real_array("calibration_table: members", members))
        if given.ndim != errors.ndim + 1 or given.shape[0] < 2:
            raise ShapeError(
                f"calibration_table: members of shape {given.shape} need a leading axis of two or more, and then the "
                f"shape {errors.shape} of the values"
            )
        ordered = jnp.sort(_fitting("members", given, (given.shape[0], *errors.shape)), axis=0)
        seen = jnp.isfinite(errors) & jnp.all(jnp.isfinite(ordered), axis=0)
        low, high = (_quantiles(ordered, q) for q in ((1 - p) / 2, (1 + p) / 2))
        inside = (errors[None] >= low) & (errors[None] <= high)
    axes, count = tuple(range(1, inside.ndim)), jnp.sum(seen)
    return Calibration(
        p, jnp.where(count > 0, jnp.sum(inside & seen[None], axis=axes) / jnp.maximum(count, 1), jnp.nan), count
    )


def _fitting(name: str, given: Any, shape: tuple[int, ...]) -> Any:
    found = jnp.asarray(real_array(f"calibration_table: {name}", given))
    if len(found.shape) > len(shape) or any(
        a not in (1, b) for a, b in zip(found.shape[::-1], shape[::-1], strict=False)
    ):
        raise ShapeError(f"calibration_table: {name} of shape {found.shape} do not fit values of shape {shape}")
    known = concrete(found) if name == "spreads" else None
    if known is not None and np.any(known < 0):
        raise DataError(f"calibration_table: spreads must not be negative, found {known.min()}")
    return jnp.broadcast_to(found, shape)


def _quantiles(ordered: Any, q: Any) -> Any:
    """Return quantiles of sorted members, with a leading axis of probabilities."""
    N = ordered.shape[0]
    place = jnp.clip(q * (N + 1) - 1, 0, N - 1)
    below = jnp.minimum(jnp.floor(place).astype(jnp.int32), max(N - 2, 0))
    share = (place - below.astype(place.dtype)).reshape(-1, *[1] * (ordered.ndim - 1)).astype(ordered.dtype)
    return (1 - share) * ordered[below] + share * ordered[jnp.minimum(below + 1, N - 1)]
