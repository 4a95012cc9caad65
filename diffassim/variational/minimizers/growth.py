"""How much of a long window is searched at once: quasi-static growth, governed by where the linearization holds."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from diffassim.core.errors import ConfigurationError, concrete
from diffassim.core.pytree import Pytree

__all__ = ["Linearization", "QuasiStatic", "Stage", "judge", "last_time_before", "next_time"]

FAR_OFF = 3.0  # observation standard deviations by which the linearized equivalents may miss the others anywhere
FAR_OFF_SHARE = 0.5  # of the linear change itself; both must be exceeded (precise observations, large first steps)
CLOSE, CLOSE_SHARE = 0.5, 0.1  # alike, where one of the two has to hold for the window to grow
NEVER = 2**31 - 1  # a row number that no window has
FINER = 0.5  # factor to all of these in the second attempt
OUTLIER = 5.0  # standard deviations of a whitened innovation that make a minimum doubtful


class QuasiStatic(Pytree):
    r"""When a minimum is doubted, and how a long window grows to avoid the wrong one: `GaussNewton(growth=...)`.

    Over long windows of chaotic models J has many minima. Where a step's linear prediction of the whitened innovations
    is far off at some time, at any single place, the window is cut back to the time before, and grows again from the
    solution there, as fast as the linearization permits: quasi-static variational assimilation, started only where it
    is needed. A stage ends as soon as the linearization is close, not when its minimum is found, so that this costs
    less than most plain searches that succeed. If the minimum at the end is doubtful, the window grows once more, one
    observation time after the other, and the lower minimum is returned. A minimum is doubtful if an innovation is
    beyond all likelihood, or if

    .. math:: 2 J > m + c \sqrt{2 m}

    for m observed values: the search then ends `INCONSISTENT`.

    Args:
        consistency: c, standard deviations of the chi-square test; infinity leaves the test out.

    Raises:
        ConfigurationError: if `consistency` is not positive.

    Example:
        >>> import diffassim as da
        >>> obs = da.Observations(jnp.array([[30.0]]), [0], error=da.covariances.Diagonal(std=1.0))
        >>> cost = da.ThreeDVar(jnp.array([1.0]), da.covariances.Diagonal(std=1.0), obs)
        >>> method = da.GaussNewton(growth=QuasiStatic(consistency=float("inf")))
        >>> [da.Result(int(da.minimize(cost, m).result)).name for m in (None, method)]  # 20 standard deviations
        ['INCONSISTENT', 'CONVERGED']

    Source: Pires, Vautard and Talagrand (1996); Jaervinen et al. (1996); the expectation of 2 J: Bennett et al. (1993).
    """

    consistency: Any = 5.0

    def __post_init__(self) -> None:
        known = concrete(self.consistency)
        if known is not None and not np.all(known > 0):
            raise ConfigurationError(f"QuasiStatic: consistency={self.consistency} must be positive")

    def threshold(self, count: Any) -> Any:
        """Return the largest plausible J at a minimum with a number of observed values."""
        return 0.5 * (count + jnp.asarray(self.consistency, count.dtype) * jnp.sqrt(2 * jnp.maximum(count, 1)))

    def outlying(self, innovations: Any) -> Any:
        """Return whether a whitened innovation is so large that some place may be in a wrong basin.

        The sum of all of them cannot tell.
        """
        largest = [jnp.max(jnp.abs(leaf), initial=0) for leaf in jax.tree.leaves(innovations)]
        return jnp.max(jnp.asarray(largest), initial=0) > OUTLIER


class Linearization(NamedTuple):
    """How well the step's linear prediction of the innovations held.

    Args:
        off_at: earliest observation time (last row) at which it was far off; the largest integer where nowhere.
        close: whether it was close at all times.
    """

    off_at: Int[Array, ""]
    close: Bool[Array, ""]

    @classmethod
    def good(cls) -> Linearization:
        """Return that of a step that is not judged."""
        return cls(jnp.asarray(NEVER, jnp.int32), jnp.asarray(True))


class Stage(NamedTuple):
    """A part of the window that is being searched.

    Args:
        horizon: its length.
        stable_v: solution of the stage before.
        stable_horizon: length of that stage; -1 before the first.
        increment: by how much it grew last.
        attempt: 0 with growth as fast as the linearization permits, 1 by one observation time after the other.
    """

    horizon: Int[Array, ""]
    stable_v: Any
    stable_horizon: Int[Array, ""]
    increment: Int[Array, ""]
    attempt: Int[Array, ""]

    @classmethod
    def first(cls, v: Any, horizon: Any, attempt: Any = 0) -> Stage:
        """Return the stage with which a search begins."""
        horizon, zero = jnp.asarray(horizon, jnp.int32), jnp.asarray(0, jnp.int32)
        return cls(horizon, v, zero - 1, zero, zero + attempt)

    def shorter(self, streams: tuple[Any, ...], off_at: Any) -> Stage:
        """Return the stage that ends before the linearization fails, and no earlier than one observation time on."""
        least = next_time(streams, self.stable_horizon, self.horizon)
        halfway = self.stable_horizon + (self.horizon - self.stable_horizon) // 2
        wanted = jnp.where(off_at <= self.horizon, last_time_before(streams, off_at), halfway)
        horizon = jnp.clip(wanted, least, self.horizon - 1)
        return self._replace(horizon=horizon, increment=horizon - self.stable_horizon)

    def longer(self, streams: tuple[Any, ...], v: Any, window: Any) -> Stage:
        """Return the next stage, from the solution of this one; what it adds doubles each time."""
        increment = jnp.where(self.attempt > 0, 0, 2 * self.increment)
        horizon = jnp.maximum(next_time(streams, self.horizon, window), self.horizon + increment)
        horizon = jnp.where((self.attempt == 0) & (window - horizon <= window // 10), window, horizon)
        return Stage(jnp.minimum(horizon, window), v, self.horizon, increment, self.attempt)


def judge(streams: tuple[Any, ...], linear: Any, error: Any, attempt: Any) -> Linearization:
    r"""Return where a linear prediction of the whitened innovations holds.

    The largest component of a row counts, not a mean: in a large domain the window must not be too long anywhere.

    Args:
        streams: tuple of `Observations`.
        linear: predicted changes A p of the whitened innovations, one pytree with a leading axis of times a stream.
        error: their difference from the true changes, alike.
        attempt: number of the attempt; the second one is stricter.
    """
    strictness = jnp.where(attempt > 0, FINER, 1.0)
    off_at, close = jnp.asarray(NEVER, jnp.int32), jnp.asarray(True)
    for stream, changes, misses in zip(streams, linear, error, strict=True):
        change, miss = _largest_by_row(changes), _largest_by_row(misses)
        strict = strictness.astype(miss.dtype)
        off = ~((miss <= strict * FAR_OFF) | (miss <= strict * FAR_OFF_SHARE * change)) | ~jnp.isfinite(miss)
        times = stream.last_rows.astype(jnp.int32)
        off_at = jnp.minimum(off_at, jnp.min(jnp.where(off, times, NEVER), initial=NEVER))
        most = strict * jnp.maximum(CLOSE, CLOSE_SHARE * jnp.max(change, initial=0))
        close = close & (jnp.max(miss, initial=0) <= most) & jnp.all(jnp.isfinite(miss))
    return Linearization(off_at, close)


def next_time(streams: tuple[Any, ...], horizon: Any, window: Any) -> Int[Array, ""]:
    """Return the first observation time after a horizon, or the window's end where there is none."""
    found = jnp.asarray(window, jnp.int32)
    for stream in streams:
        times = stream.last_rows.astype(jnp.int32)
        found = jnp.minimum(found, jnp.min(jnp.where(times > horizon, times, window), initial=found))
    return found


def last_time_before(streams: tuple[Any, ...], time: Any) -> Int[Array, ""]:
    """Return the last observation time before another time, or -1."""
    found = jnp.asarray(-1, jnp.int32)
    for stream in streams:
        times = stream.last_rows.astype(jnp.int32)
        found = jnp.maximum(found, jnp.max(jnp.where(times < time, times, -1), initial=-1))
    return found


def _largest_by_row(x: Any) -> Float[Array, " time"]:
    """Return the largest absolute value in each row of a pytree with a common leading axis, infinite where none is."""
    rows = [jnp.max(jnp.abs(leaf), axis=tuple(range(1, leaf.ndim)), initial=0) for leaf in jax.tree.leaves(x)]
    largest = rows[0]
    for row in rows[1:]:
        largest = jnp.maximum(largest, row)
    return jnp.where(jnp.isnan(largest), jnp.inf, largest)
