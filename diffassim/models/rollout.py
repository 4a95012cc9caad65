"""The one loop that runs a model: all rows, or only the rows that are asked for."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from diffassim.core.linear import linear_map
from diffassim.core.loops import checkpointed_scan

__all__ = ["rollout"]


def rollout(
    model: Any,
    x0: Any,
    steps: int,
    *,
    start: Any = 0,
    at: Any = None,
    limit: Any = None,
    segment: int | None = None,
) -> Any:
    r"""Run a model and return its states, with a reverse-mode memory of about \(2\sqrt{\text{steps}}\) states.

    Row 0 is the initial state: `steps` steps give `steps + 1` rows.

    Args:
        model: object with `step(x, t) -> x`.
        x0: initial state, a pytree of arrays.
        steps: number of steps (static).
        start: number of the first step, passed to the model as t (run-time integer).
        at: rows to return, integers in [0, steps], shape (rows,), in any order and possibly repeated; a run-time
            array, so other rows need no new compilation. A row outside the window comes back as zeros. Default: all.
        limit: run-time number of steps after which whole segments need not be computed; rows after it are undefined.
        segment: steps between checkpoints, default about sqrt(steps); `steps` or more switches checkpoints off.

    Returns:
        The state's pytree with a leading axis: `steps + 1` rows, or one for each entry of `at`.

    Example:
        >>> from diffassim.models.base import FunctionModel
        >>> rollout(FunctionModel(lambda x, t: x + t), jnp.asarray(0), 4).tolist()
        [0, 0, 1, 3, 6]
    """
    x0 = jax.tree.map(jnp.asarray, x0)
    start = jnp.asarray(start, jnp.int32)
    if at is None:

        def body(x: Any, k: Any) -> tuple[Any, Any]:
            x = model.step(x, start + k)
            return x, x

        _, rows = checkpointed_scan(body, x0, steps, segment=segment, limit=limit) if steps else (x0, None)
        first = jax.tree.map(lambda leaf: leaf[None], x0)
        return first if rows is None else jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, rows)

    at = jnp.asarray(at, jnp.int32)
    count = at.shape[0]
    if count == 0:
        return jax.tree.map(lambda leaf: jnp.zeros((0, *leaf.shape), leaf.dtype), x0)
    # The rows of each segment are scattered into a buffer; steps nobody asked for have a slot beyond its end.
    slots = jnp.full(steps + 1, count, jnp.int32).at[at].set(jnp.arange(count, dtype=jnp.int32), mode="drop")
    slots = slots.at[0].set(count)  # row 0 needs no step
    buffer = jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape), leaf.dtype), x0)

    def collect(buffer: Any, rows: Any, first: Any) -> Any:
        length = jax.tree.leaves(rows)[0].shape[0]
        return linear_map(_scatter, _gather, (buffer, rows), lax.dynamic_slice_in_dim(slots, first + 1, length))

    if steps:

        def body_at(x: Any, k: Any) -> tuple[Any, Any]:
            x = model.step(x, start + k)
            return x, x

        _, buffer = checkpointed_scan(
            body_at, x0, steps, segment=segment, limit=limit, collect=collect, collected=buffer
        )
    source = slots[jnp.clip(at, 0, steps)]
    inside = (at > 0) & (at <= steps)

    def assemble(buffer_leaf: Any, x0_leaf: Any) -> Any:
        shape = (count,) + (1,) * x0_leaf.ndim
        rows = jnp.where(inside.reshape(shape), buffer_leaf[jnp.clip(source, 0, count - 1)], 0)
        return jnp.where((at == 0).reshape(shape), x0_leaf, rows)

    return jax.tree.map(assemble, buffer, x0)


# Every slot is written at most once and the buffer starts as a constant, so its cotangent may pass through unchanged:
# without this the reverse sweep would clear, and copy, the whole buffer at every segment.
def _scatter(arguments: Any, slots: Any) -> Any:
    buffer, rows = arguments
    return jax.tree.map(lambda b, r: b.at[slots].set(r, mode="drop", unique_indices=False), buffer, rows)


def _gather(buffer_bar: Any, slots: Any) -> Any:
    return buffer_bar, jax.tree.map(lambda b: b.at[slots].get(mode="fill", fill_value=0), buffer_bar)
