"""Functions of one small problem that take another way when many come together under `jax.vmap`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

__all__ = ["vectorized"]


def vectorized(one: Callable[..., Any], many: Callable[..., Any], limit: int) -> Callable[..., Any]:
    """Return the function `one`, in whose place `jax.vmap` calls `many` with all problems on the leading axis.

    A branch that `many` takes is then taken for a batch as a whole, where `jax.vmap` would turn it into computing both
    sides. Nested batches come as one, and on a CPU in chunks.

    Args:
        one: function of arrays, for one problem; the result is a pytree of arrays.
        many: the same for problems on the leading axis of all arrays.
        limit: bytes of the first argument that a chunk may have.

    Returns:
        A function that can be batched and traced. It has no derivative: wrap it in `jax.custom_jvp`.

    Example:
        >>> double = vectorized(lambda x: 2 * x, lambda x: x + x, limit=1024)
        >>> jax.vmap(jax.vmap(double))(jnp.ones((2, 3))).shape
        (2, 3)
    """
    single = jax.custom_batching.custom_vmap(one)
    batch = jax.custom_batching.custom_vmap(partial(_in_chunks, many, limit))

    @single.def_vmap
    def _(size: int, batched: Any, *arrays: Any) -> Any:
        found = batch(*_leading(size, batched, arrays))
        return found, jax.tree.map(lambda _: True, found)

    @batch.def_vmap
    def _(size: int, batched: Any, *arrays: Any) -> Any:
        arrays = _leading(size, batched, arrays)
        found = batch(*(a.reshape(-1, *a.shape[2:]) for a in arrays))
        found = jax.tree.map(lambda x: x.reshape(size, arrays[0].shape[1], *x.shape[1:]), found)
        return found, jax.tree.map(lambda _: True, found)

    return single  # type: ignore[no-any-return]


def _leading(size: int, batched: Any, arrays: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a if b else jnp.broadcast_to(a[None], (size, *a.shape)) for a, b in zip(arrays, batched, strict=True))


def _in_chunks(many: Callable[..., Any], limit: int, *arrays: Any) -> Any:
    count, chunk = arrays[0].shape[0], _chunk(arrays[0], limit)
    if count <= chunk:
        return many(*arrays)
    # Equal chunks; where their number cannot divide the problems, copies of the last one fill up the last chunk.
    fewest = -(-count // chunk)
    parts = next((number for number in range(fewest, 2 * fewest) if count % number == 0), fewest)
    chunk = -(-count // parts)
    filling = parts * chunk - count
    split = [
        jnp.pad(a, [(0, filling)] + [(0, 0)] * (a.ndim - 1), mode="edge").reshape(parts, chunk, *a.shape[1:])
        for a in arrays
    ]
    found = lax.map(lambda chosen: many(*chosen), split)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], found)


def _chunk(array: Any, limit: int) -> int:
    """Return how many problems are solved together."""
    if jax.default_backend() != "cpu":
        return array.shape[0]  # type: ignore[no-any-return]
    return max(16, limit // max(1, array[0].size * array.dtype.itemsize))
