"""Times between model steps: steps and fractions from real times, and the state in between."""

from __future__ import annotations

import datetime
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.core.checks import real_array
from diffassim.core.errors import ConfigurationError, DataError, concrete, require_positive

__all__ = ["between", "last_rows", "steps_and_fractions"]

MOST_BLURRED = 0.25  # of a step: what the precision of the times may leave open


def steps_and_fractions(times: Any, dt: Any, origin: Any = None, rounding: float = 1e-6) -> tuple[Any, Any]:
    r"""Return the model steps k and the fractions f of real times, \(t = t_0 + (k + f)\,\Delta t\), 0 <= f < 1.

    A time that lies within `rounding` of a step is put on it: 0.3 / 0.1 is a little more than 3, and would otherwise
    need the row after step 3. Times in single precision, as files hold them, are exact to a relative 6e-8 only, which
    may be more: then that much counts.

    Args:
        times: times of the observations, any shape: numbers in the unit of `dt`, or datetime64.
        dt: length of a model step: a number, or timedelta64 (or `datetime.timedelta`) where the times are datetime64.
        origin: time of step 0; default 0, needed for datetime64.
        rounding: fraction of a step below which a time is on a step.

    Returns:
        Steps (integers) and fractions, both shaped like the times, as `Observations` takes them.

    Raises:
        ConfigurationError: if dt is not positive, or dates are mixed with numbers.
        DataError: if a time is missing (NaN, NaT, masked), no number, or the precision of the times does not tell steps
            apart.

    Example:
        >>> steps, fractions = steps_and_fractions([0.0, 0.3, 0.35], dt=0.1)
        >>> steps.tolist(), fractions.round(6).tolist()
        ([0, 3, 3], [0.0, 0.0, 0.5])
        >>> days = np.array(["2024-02-28T06:00", "2024-03-01T00:00"], "datetime64[m]")
        >>> start = np.datetime64("2024-02-28")
        >>> [part.tolist() for part in steps_and_fractions(days, np.timedelta64(12, "h"), start)]
        [[0, 4], [0.5, 0.0]]
    """
    times = _known_times(times)
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
    tolerance: Any = rounding
    if dated:
        require_positive("steps_and_fractions: dt", dt / np.timedelta64(1, "s"))
        if np.isnat(times).any():
            raise DataError(f"steps_and_fractions: {np.isnat(times).sum()} of {times.size} times are missing (NaT)")
        position = (times - origin) / dt
    else:
        require_positive("steps_and_fractions: dt", dt)
        origin = 0.0 if origin is None else origin
        if isinstance(times, np.ndarray) and concrete(dt) is not None and concrete(origin) is not None:
            position, tolerance = _position(times, dt, origin, rounding)
        else:
            position = (times - origin) / dt
    xp: Any = jnp if isinstance(position, jax.Array) else np
    if xp is np and not np.all(np.abs(position) < 2**31):
        wrong = position[~(np.abs(position) < 2**31)]
        raise DataError(
            f"steps_and_fractions: {wrong.size} of {position.size} times are missing (NaN), infinite, or more than "
            "2^31 steps away"
        )
    steps = xp.floor(position + tolerance)
    fractions = position - steps
    fractions = xp.where(fractions < tolerance, xp.zeros_like(fractions), fractions)
    return steps.astype(np.int32), fractions


def _known_times(times: Any) -> Any:
    """Return times as an array of NumPy where they are known, refusing what is no time."""
    if isinstance(times, jax.core.Tracer):
        return times
    if np.ma.is_masked(times):
        raise DataError(f"steps_and_fractions: {np.ma.count_masked(times)} of {np.size(times)} times are masked")
    known = np.asarray(times)
    if known.dtype.kind in "fiuM" or known.size == 0:
        return known
    if known.dtype.kind == "O" and all(isinstance(time, datetime.date) for time in known.flat):
        return known.astype("datetime64[us]")
    real_array("steps_and_fractions: times", times)
    raise DataError(f"steps_and_fractions: times must be numbers or datetime64, found {known.dtype}")


def _position(times: Any, dt: Any, origin: Any, rounding: float) -> tuple[Any, Any]:
    """Return times in steps, in double precision, and by how much their own precision may have moved them."""
    start, step = np.asarray(origin), np.asarray(dt)
    position = (times.astype(float) - start.astype(float)) / step.astype(float)
    largest = np.maximum(np.abs(times.astype(float)), np.abs(start.astype(float))) / step.astype(float)
    moved = _rounding(times) * largest + _rounding(step) * np.abs(position) + _rounding(start) * largest
    tolerance = np.maximum(rounding, np.where(np.isfinite(moved), 1.01 * moved, 0))
    if tolerance.size and np.nanmax(tolerance, initial=0) > MOST_BLURRED:
        raise DataError(
            f"steps_and_fractions: times in {times.dtype} (dt in {step.dtype}) tell apart only what is more than "
            f"{np.nanmax(tolerance):.2g} of a step of dt = {step}; read them in double precision, or count them from "
            "an origin nearer by"
        )
    return position, tolerance


def _rounding(array: Any) -> float:
    """Return a bound of the relative error of numbers computed in the array's precision: two roundings."""
    return float(np.finfo(array.dtype).eps) if array.dtype.kind == "f" else 0.0


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
