"""Pad observations to a few sizes, so that changing counts meet programs that are compiled already."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.covariances import Diagonal
from diffassim.observations.container import as_streams

__all__ = ["bucket_size", "pad_observations"]


def bucket_size(count: int, growth: float = 1.5, smallest: int = 8) -> int:
    """Return the next size of a geometric ladder: at most `growth` times too large, and few sizes in all.

    Args:
        count: what has to find room.
        growth: ratio of a size to the one before it, above 1.
        smallest: the first size.

    Raises:
        ConfigurationError: if the ladder does not rise.

    Example:
        >>> [bucket_size(count) for count in (0, 8, 9, 13, 1000)]
        [8, 8, 12, 18, 1065]
    """
    if not growth > 1 or smallest < 1:
        raise ConfigurationError(f"bucket_size: growth={growth} must be above 1, and smallest={smallest} at least 1")
    size = smallest
    while size < count:
        size = math.ceil(size * growth)
    return size


def pad_observations(observations: Any, *, times: int | None = None, places: int | None = None) -> Any:
    """Pad a stream to more times, and to more places at each time, under a mask that is False.

    What is padded has exactly no influence, on values and gradients. Values, mask, steps, places, fractions and errors
    with a time axis get rows; values of shape (time, place) whose `where` has a place axis too get columns, and their
    R is written out as the `Diagonal` of all values.

    Args:
        observations: `Observations`, or a tuple of them.
        times: number of rows; default: the next `bucket_size`.
        places: number of columns; default: the next `bucket_size`.

    Returns:
        `Observations` of the new sizes.

    Raises:
        ShapeError: if there are more rows or columns than asked for, or the record is split into windows.
        ConfigurationError: if places are padded, but R has correlations.

    Example:
        >>> import diffassim as da
        >>> obs = da.Observations(jnp.ones((3, 2)), [1, 2, 5], error=da.covariances.Diagonal(std=1.0))
        >>> padded = pad_observations(obs)
        >>> padded.values.shape, int(padded.count())
        ((8, 2), 6)
    """
    if isinstance(observations, tuple | list):
        return tuple(pad_observations(stream, times=times, places=places) for stream in observations)
    (observations,) = as_streams(observations)
    if observations.steps.ndim != 1:
        raise ShapeError(
            "pad_observations: these are windows already; pad the record before split_windows, or give that its `rows`"
        )
    count = observations.steps.shape[0]
    rows, real = _slots("times", count, times)

    def take(leaf: Any, fill: float = 0.0) -> Any:
        leaf = jnp.asarray(leaf)
        return leaf[rows] if count else jnp.full((len(rows), *leaf.shape[1:]), fill, leaf.dtype)

    padded = observations.replace(
        values=jax.tree.map(take, observations.values),
        steps=jnp.where(real, take(observations.steps), 0),
        mask=jax.tree.map(lambda m: take(m) & real.reshape(real.shape + (1,) * (m.ndim - 1)), observations.mask),
        where=jax.tree.map(take, observations.where),
        fraction=jax.tree.map(take, observations.fraction),
        error=observations.error.rows(observations.values, lambda leaf: take(leaf, 1.0)),
    )
    return _with_columns(padded, places) if _has_places(padded) else padded


def _slots(name: str, count: int, size: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Return which of `count` entries each slot repeats, and which slots are real."""
    size = bucket_size(count) if size is None else size
    if size < count:
        raise ShapeError(f"pad_observations: {name}={size}, but the stream has {count}")
    real = np.arange(size) < count
    return np.where(real, np.arange(size), 0), real


def _has_places(stream: Any) -> bool:
    """Return whether values and places share a second axis."""
    if not isinstance(stream.values, jax.Array) or stream.values.ndim != 2:
        return False
    leaves = jax.tree.leaves(stream.where)
    return bool(leaves) and all(jnp.shape(leaf)[:2] == stream.values.shape for leaf in leaves)


def _with_columns(stream: Any, places: int | None) -> Any:
    count = stream.values.shape[1]
    columns, real = _slots("places", count, places)

    def take(leaf: Any, fill: float = 0.0) -> Any:
        leaf = jnp.asarray(leaf)
        return leaf[:, columns] if count else jnp.full((len(leaf), len(columns), *leaf.shape[2:]), fill, leaf.dtype)

    if not stream.error.uncorrelated:
        raise ConfigurationError(
            "pad_observations: places can be padded where errors are known to be uncorrelated, as in Diagonal; found "
            f"{type(stream.error).__name__}; fill the record with NaN to a fixed number of places instead"
        )
    fraction = stream.fraction
    return stream.replace(
        values=take(stream.values),
        mask=take(stream.mask) & real[None],
        where=jax.tree.map(take, stream.where),
        fraction=take(fraction) if fraction is not None and fraction.ndim == 2 else fraction,
        error=Diagonal.from_variance(take(stream.error.variance(stream.values), 1.0)),
    )
