"""Times between model steps: steps and fractions from real times, and the state in between."""

from __future__ import annotations

import datetime
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.core.errors import ConfigurationError, DataError, require_positive

__all__ = ["between", "last_rows", "steps_and_fractions"]


def steps_and_fractions(times: Any, dt: Any, origin: Any = None, rounding: float = 1e-6) -> tuple[Any, Any]:
    r"""Return the model steps k and the fractions f of real times, \(t = t_0 + (k + f)\,\Delta t\), 0 <= f < 1.

    A time that lies within `rounding` of a step is put on it: 0.3 / 0.1 is a little more than 3, and would otherwise
    need the row after step 3.

    Args:
        times: times of the observations, any shape: numbers in the unit of `dt`, or datetime64.
        dt: length of a model step: a number, or timedelta64 (or `datetime.timedelta`) where the times are datetime64.
        origin: time of step 0; default 0, needed for datetime64.
        rounding: fraction of a step below which a time is on a step.

    Returns:
        Steps (integers) and fractions, both shaped like the times, as `Observations` takes them.

    Raises:
        ConfigurationError: if dt is not positive, or dates are mixed with numbers.
        DataError: if a time is missing (NaN, NaT).

    Example:
        >>> steps, fractions = steps_and_fractions([0.0, 0.3, 0.35], dt=0.1)
        >>> steps.tolist(), fractions.round(6).tolist()
        ([0, 3, 3], [0.0, 0.0, 0.5])
        >>> days = np.array(["2024-02-28T06:00", "2024-03-01T00:00"], "datetime64[m]")
        >>> start = np.datetime64("2024-02-28")
        >>> [part.tolist() for part in steps_and_fractions(days, np.timedelta64(12, "h"), start)]
        [[0, 4], [0.5, 0.0]]
    """
    if not isinstance(times, jax.Array):
        times = np.asarray(times)
    dated = np.issubdtype(times.dtype, np.datetime64)
    if isinstance(dt, datetime.timedelta):
        dt = np.timedelta64(dt)
    if isinstance(origin, datetime.datetime):
        origin = np.datetime64(origin)
    if dated != isinstance(dt, np.timedelta64) or dated != isinstance(origin, np.datetime64):
        raise ConfigurationError(
            "steps_and_fractions: times, dt and origin must be numbers of one unit, or datetime64, timedelta64 and "
            f"datetime64; found {times.dtype}, {type(dt).__name__} and {type(origin).__name__}"
        )
    if dated:
        require_positive("steps_and_fractions: dt", dt / np.timedelta64(1, "s"))
        if np.isnat(times).any():
            raise DataError(f"steps_and_fractions: {np.isnat(times).sum()} of {times.size} times are missing (NaT)")
        position = (times - origin) / dt
    else:
        require_positive("steps_and_fractions: dt", dt)
        position = (times - (0.0 if origin is None else origin)) / dt
    xp: Any = jnp if isinstance(position, jax.Array) else np
    if xp is np and np.isnan(position).any():
        raise DataError(f"steps_and_fractions: {np.isnan(position).sum()} of {position.size} times are missing (NaN)")
    steps = xp.floor(position + rounding)
    fractions = position - steps
    fractions = xp.where(fractions < rounding, xp.zeros_like(fractions), fractions)
    return steps.astype(np.int32), fractions


def last_rows(steps: Any, fraction: Any) -> Any:
    """Return the last row of a trajectory that each time needs: `steps`, or the row after it between two steps.

    Args:
        steps: shape (*time).
        fraction: None, or fractions with these leading axes.
    """
    if fraction is None:
        return steps
    later = fraction > 0
    if fraction.ndim > steps.ndim:
        later = later.any(axis=tuple(range(steps.ndim, fraction.ndim)))
    return steps + later.astype(steps.dtype)


def between(first: Any, second: Any, fraction: Any) -> Any:
    """Return (1 - f) first + f second, leaf by leaf; exactly `first` at f = 0. Integers are those of `first`."""

    def blend(a: Any, b: Any) -> Any:
        if not jnp.issubdtype(a.dtype, jnp.inexact):
            return a
        f = fraction.astype(a.dtype).reshape(fraction.shape + (1,) * (a.ndim - fraction.ndim))
        return a + f * (b - a)

    return jax.tree.map(blend, first, second)
