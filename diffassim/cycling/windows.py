"""Cut a long record of observations into assimilation windows."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.core.checks import count_of, start_step
from diffassim.core.errors import ConfigurationError, ShapeError, concrete
from diffassim.models.base import require_forcing
from diffassim.observations.container import as_streams
from diffassim.observations.operators import check_operator

__all__ = ["split_windows"]


def split_windows(
    observations: Any, steps: int, count: int, *, shift: int | None = None, reuse: bool = False, rows: int | None = None
) -> Any:
    """Cut observations into windows of equal length, padded so that all have the same shapes.

    Window w covers the steps w * shift to w * shift + steps; with a shift below the window length the windows overlap.
    Every observation is used once, in the first window that reaches it (one on a boundary belongs to the window that
    ends there; step 0 belongs to the first window), so that no background knows the observations that correct it. With
    `reuse` a window takes all observations after its start: the same error then counts in several analyses, which a
    static B does not know of. One between two steps belongs to a window in which both lie. Steps become relative to the
    window start.

    Args:
        observations: `Observations` whose steps count from the start of the first window, or a tuple of them.
        steps: window length in model steps.
        count: number of windows; later observations are left out.
        shift: steps from the start of a window to the start of the next; default: the window length. Give `cycle` the
            same.
        reuse: whether overlapping windows use observations again.
        rows: number of rows in each window; default: what the fullest one needs. A larger number (`bucket_size`) lets
            other records, with other counts, reuse what is compiled.

    Returns:
        Observations whose arrays have a leading axis of size `count`, for `cycle`; padding is masked out. `replace`
        changes them like any others (new values of padding stay masked).

    Raises:
        ConfigurationError: if `steps` or `count` is not positive, or the shift is not between 1 and the window length.
        ShapeError: if the observation steps (or fractions) are traced, or a window has more than `rows`.

    Example:
        >>> import diffassim as da
        >>> obs = da.Observations(jnp.arange(4.0)[:, None], [0, 2, 3, 4], error=da.covariances.Diagonal(std=1.0))
        >>> split_windows(obs, steps=2, count=2).steps.tolist()
        [[0, 2], [1, 2]]
        >>> split_windows(obs, steps=3, count=2, shift=1).steps.tolist()
        [[0, 2, 3], [3, 0, 0]]
    """
    steps, count = count_of("split_windows: steps", steps, 1), count_of("split_windows: count", count, 1)
    shift = checked_shift("split_windows", shift, steps)
    if isinstance(observations, tuple | list):
        return tuple(
            split_windows(stream, steps, count, shift=shift, reuse=reuse, rows=rows) for stream in observations
        )
    (observations,) = as_streams(observations)
    if observations.steps.ndim != 1:
        raise ShapeError("split_windows: these are windows already")
    if isinstance(observations.last_rows, jax.core.Tracer):
        raise ShapeError("split_windows: observation steps must be known outside of traced code")
    all_steps, last_rows = np.asarray(observations.steps), np.asarray(observations.last_rows)
    starts = shift * np.arange(count)
    ends = starts + steps
    before = starts.copy() if reuse else ends - shift  # the steps that earlier windows have used
    before[0] = -1  # step 0 belongs to the first window
    members = [np.flatnonzero((last_rows > low) & (last_rows <= high)) for low, high in zip(before, ends, strict=True)]
    fullest = max(1, max(len(found) for found in members))
    size = fullest if rows is None else rows
    if size < fullest:
        raise ShapeError(f"split_windows: a window has {fullest} rows of observations, more than rows={rows}")
    # Padding repeats row 0 of the record under a mask that is False, at the window's step 0.
    taken = np.stack([np.pad(r, (0, size - len(r)), constant_values=0) for r in members])
    real = np.stack([np.arange(size) < len(r) for r in members])
    relative = np.where(real, all_steps[taken] - starts[:, None], 0)

    def take(leaf: Any) -> Any:
        return jnp.asarray(leaf)[taken]

    def take_mask(leaf: Any) -> Any:
        return take(leaf) & real.reshape(real.shape + (1,) * (leaf.ndim - 1))

    def take_fraction(leaf: Any) -> Any:
        return jnp.where(real.reshape(real.shape + (1,) * (leaf.ndim - 1)), take(leaf), 0)

    def repeat(leaf: Any) -> Any:
        return jnp.broadcast_to(leaf, (count, *jnp.shape(leaf)))

    return observations.replace(
        values=jax.tree.map(take, observations.values),
        steps=jnp.asarray(relative, jnp.int32),
        mask=jax.tree.map(take_mask, observations.mask),
        where=jax.tree.map(take, observations.where),
        error=observations.error.rows(observations.values, take, repeat),
        operator=jax.tree.map(repeat, observations.operator),
        loss=jax.tree.map(repeat, observations.loss),
        parameters=jax.tree.map(repeat, observations.parameters),
        fraction=jax.tree.map(take_fraction, observations.fraction),
    )


def check_windows(model: Any, x: Any, streams: tuple[Any, ...], start: Any, steps: int, shift: int) -> Any:
    """Check, where numbers are known, what is asked of a cycle over windows, and return the number of the first step.

    Args:
        model: forward model, which needs forcing for all of the windows.
        x: one state, or its shapes.
        streams: observations cut into windows.
        start: number of the first step.
        steps: window length.
        shift: from window to window.

    Raises:
        ShapeError: if the observations are not cut into windows of this length, all streams into as many, or an
            operator does not fit the state.
        ConfigurationError: if `start` is no whole number.
        DataError: if the model has no forcing for some window.
    """
    first = start_step("cycle", start)
    counts = {stream.steps.shape[0] if stream.steps.ndim == 2 else -1 for stream in streams}
    for stream in streams:
        known = concrete(stream.last_rows)
        if stream.steps.ndim != 2 or (known is not None and known.size and known.max() > steps):
            reach = "" if known is None or not known.size else f" with steps up to {known.max()}"
            raise ShapeError(
                f"cycle: observations of shape {stream.steps.shape}{reach} are not cut into windows of {steps} steps; "
                f"use split_windows(record, {steps}, count, shift={shift})"
            )
        operator = jax.tree.map(lambda leaf: leaf[0], stream.operator)
        check_operator(operator, "cycle", x, stream.where)
    if len(counts) > 1:
        raise ShapeError(f"cycle: the streams are cut into different numbers of windows, {sorted(counts)}")
    require_forcing("cycle", model, first, (max(counts, default=0) - 1) * shift + steps)
    return first


def checked_rows(name: str, at: Any, steps: int) -> Any:
    """Return the rows of a window that are kept, by default the first and the last.

    Raises:
        ConfigurationError: if one is known to lie outside of the window, or is no whole number.
    """
    at = [0, steps] if at is None else at
    known = concrete(at)
    if known is not None and known.size and (known.dtype.kind not in "iu" or known.min() < 0 or known.max() > steps):
        raise ConfigurationError(f"{name}: at must hold steps of the window, integers from 0 to {steps}, found {at}")
    return jnp.asarray(at, jnp.int32)


def checked_shift(name: str, shift: int | None, steps: int) -> int:
    """Return the shift of windows of this length (by default the length), or raise `ConfigurationError`."""
    steps = count_of(f"{name}: steps", steps)
    shift = steps if shift is None else count_of(f"{name}: shift", shift)
    if not 1 <= shift <= steps:
        raise ConfigurationError(
            f"{name}: shift={shift} must lie between 1 and the window's {steps} steps; a longer one would leave "
            "observations between the windows unused"
        )
    return shift
