"""The one loop that runs a model: all rows, or only the rows that are asked for."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from diffassim.core import tree
from diffassim.core.checks import arrays, count_of, real_state, start_step
from diffassim.core.errors import ConfigurationError, ShapeError, concrete
from diffassim.core.loops import checkpointed_scan
from diffassim.core.schedule import checkpoint_factors, nested_scan
from diffassim.models.base import require_forcing

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
    memory: int | None = None,
    forcing: Any = None,
) -> Any:
    r"""Run a model and return its states, with a reverse-mode memory of about \(2\sqrt{\text{steps}}\) states.

    Row 0 is the initial state: `steps` steps give `steps + 1` rows.

    Args:
        model: object with `step(x, t) -> x`. One that has a method `custom_rollout` with the arguments of this function
            runs by itself.
        x0: initial state, a pytree of arrays.
        steps: number of steps (static).
        start: number of the first step, passed to the model as t (run-time integer).
        at: rows to return, integers in [0, steps], shape (rows,), in any order and possibly repeated; a run-time
            array, so other rows need no new compilation. A row outside the window comes back as zeros. Default: all.
        limit: run-time number of steps after which whole segments need not be computed; rows after it are undefined.
        segment: steps between checkpoints, default about sqrt(steps); `steps` or more switches checkpoints off.
        memory: bytes that reverse mode may take (static), the returned rows and the step's own intermediates included:
            what is kept is chosen from everything over one state for each step to nested checkpoints, which need
            1 + depth forward runs. For the memory of compiled code, estimated with a margin.
        forcing: increments added to the state after each step, the state's pytree with a leading axis of size `steps`.

    Returns:
        The state's pytree with a leading axis: `steps + 1` rows, or one for each entry of `at`.

    Raises:
        ShapeError: if a step returns a state of another structure, shape or dtype, or `forcing` does not fit.
        DataError: if the model has no forcing for some of the steps, or x0 holds no numbers.
        ConfigurationError: if `steps` is negative or no whole number, `at` does not hold integers, `memory` is less
            than what the sparsest checkpoints need, or given with `segment`.

    Example:
        >>> from diffassim.models.base import FunctionModel
        >>> rollout(FunctionModel(lambda x, t: 2 * x), jnp.asarray(1.0), 3).tolist()
        [1.0, 2.0, 4.0, 8.0]
    """
    steps = count_of("rollout: steps", steps)
    start = start_step("rollout", start)
    require_forcing("rollout", model, start, _needed(steps, at, limit))
    if hasattr(model, "custom_rollout"):
        return model.custom_rollout(
            x0, steps, start=start, at=at, limit=limit, segment=segment, memory=memory, forcing=forcing
        )  # fmt: skip
    x0 = _floating_if_stepped_so(model, arrays("rollout: x0", x0), start)

    def body(x: Any, k: Any, increment: Any = None) -> tuple[Any, Any]:
        following = model.step(x, start + k)
        _require_same_kind(model, x, following)
        if increment is not None:
            following = tree.add(following, increment)
        return following, following

    if forcing is not None and not tree.same_shapes(forcing, jax.eval_shape(lambda: _rows_like(x0, steps))):
        raise ShapeError(
            f"rollout: forcing has shape {tree.describe_shapes(forcing)}, but {steps} steps of a state of shape "
            f"{tree.describe_shapes(x0)} need one increment each"
        )

    if memory is not None:
        if segment is not None:
            raise ConfigurationError("rollout: give `memory` or `segment`, not both")
        at = jnp.arange(steps + 1, dtype=jnp.int32) if at is None else at

    if at is None:
        first = jax.tree.map(lambda leaf: leaf[None], x0)
        if steps == 0:
            return first
        _, rows = checkpointed_scan(body, x0, steps, segment=segment, limit=limit, inputs=forcing)
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, rows)

    at = jnp.asarray(at)
    if at.ndim != 1 or (at.size and not jnp.issubdtype(at.dtype, jnp.integer)):
        raise ConfigurationError(f"rollout: at must be a list of integers, found shape {at.shape} of {at.dtype}")
    factors = None
    if memory is not None and steps:
        whole = jax.eval_shape(lambda x: jax.vjp(lambda x: model.step(x, start), x)[1], x0)
        factors = _fitting(memory, steps, at.shape[0], _bytes(x0), _bytes(whole), forcing is not None)
        if factors == ():
            segment, factors = steps, None
    return _selected_rows(body, x0, steps, at.astype(jnp.int32), segment, factors, limit, forcing)


def _needed(steps: int, at: Any, limit: Any) -> int:
    """Return how many steps are taken for what is asked for, as far as that is known."""
    for bound in (at, limit):
        known = concrete(bound)
        if known is not None:
            steps = min(steps, max(int(known.max(initial=0)), 0))
    return steps


def _floating_if_stepped_so(model: Any, x0: Any, start: Any) -> Any:
    """Return a state of whole numbers as floating-point, if the model makes such of it: 1 means 1.0."""
    if not all(jnp.issubdtype(leaf.dtype, jnp.integer) for leaf in jax.tree.leaves(x0)):
        return x0
    following = jax.tree.leaves(jax.eval_shape(model.step, x0, start))
    return real_state("rollout: x0", x0) if any(jnp.issubdtype(f.dtype, jnp.floating) for f in following) else x0


ROWS, STATES, STEPS = 3, 6, 2  # what the adjoint of a window holds beside its checkpoints, in copies of each


def _fitting(memory: int, steps: int, rows: int, state: int, step: int, forced: bool) -> tuple[int, ...] | None:
    """Return the nest of loops that fits into `memory` bytes; an empty one where all intermediates do."""
    fixed = (ROWS * rows + STATES) * state + STEPS * step + 3 * forced * steps * state
    if fixed + steps * (step + state) <= memory:  # the rows of all steps exist as well
        return ()
    factors = checkpoint_factors(steps, (memory - fixed) / max(state, 1))
    if factors is None:
        least = fixed + 2 * math.ceil(math.log2(max(steps, 2))) * state
        raise ConfigurationError(
            f"rollout: memory = {memory} bytes are too few for the adjoint of {steps} steps of a state of {state} "
            f"bytes; the least is about {least}, of which {ROWS * rows * state} for {rows} rows and {STEPS * step} for "
            "the intermediates of one step"
        )
    return factors


def _bytes(x: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(x))


def _require_same_kind(model: Any, before: Any, after: Any) -> None:
    def kind(x: Any) -> dict[str, tuple[Any, ...]]:
        leaves = jax.tree_util.tree_leaves_with_path(x)
        return {
            "x" + jax.tree_util.keystr(path): (jnp.shape(leaf), jnp.result_type(leaf).name) for path, leaf in leaves
        }

    if jax.tree.structure(before) != jax.tree.structure(after) or kind(before) != kind(after):
        raise ShapeError(
            f"{type(model).__name__}.step must return a state like the one it was given, {kind(before)}, but it "
            f"returned {kind(after)}"
        )


def _rows_like(x: Any, count: int) -> Any:
    return jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape), leaf.dtype), x)


def _selected_rows(
    body: Any, x0: Any, steps: int, at: Any, segment: int | None, factors: Any, limit: Any, forcing: Any
) -> Any:
    count = at.shape[0]
    if count == 0:
        return _rows_like(x0, 0)
    # The rows of each segment are added to a buffer of zeros; steps nobody asked for have a slot beyond its end. Sums,
    # not assignments: every slot is written once, and the transpose of a sum leaves the buffer's cotangent alone.
    slots = jnp.full(steps + 1, count, jnp.int32).at[at].set(jnp.arange(count, dtype=jnp.int32), mode="drop")
    slots = slots.at[0].set(count)  # row 0 needs no step
    buffer = _rows_like(x0, count)

    def collect(buffer: Any, rows: Any, first: Any) -> Any:
        length = jax.tree.leaves(rows)[0].shape[0]
        place = lax.dynamic_slice_in_dim(slots, first + 1, length)
        return jax.tree.map(partial(_place, place), buffer, rows)

    if steps and factors is not None:

        def turn(carry: Any, k: Any, *increment: Any) -> Any:
            following, row = body(carry[0], k, *increment)
            place = slots[k + 1][None]
            return following, jax.tree.map(lambda b, x: _place(place, b, x[None]), carry[1], row)

        _, buffer = nested_scan(turn, (x0, buffer), steps, factors, limit=limit, inputs=forcing)
    elif steps:
        _, buffer = checkpointed_scan(
            body, x0, steps, segment=segment, limit=limit, collect=collect, collected=buffer, inputs=forcing
        )
    source = slots[jnp.clip(at, 0, steps)]
    inside = (at > 0) & (at <= steps)

    def assemble(buffer_leaf: Any, x0_leaf: Any) -> Any:
        shape = (count,) + (1,) * x0_leaf.ndim
        rows = buffer_leaf[jnp.clip(source, 0, count - 1)]
        rows = jnp.where(inside.reshape(shape), rows, jnp.zeros_like(rows))
        return jnp.where((at == 0).reshape(shape), x0_leaf[None], rows)

    return jax.tree.map(assemble, buffer, x0)


def _place(slots: Any, buffer: Any, rows: Any) -> Any:
    if jnp.issubdtype(buffer.dtype, jnp.inexact):
        return buffer.at[slots].add(rows, mode="drop")
    return buffer.at[slots].set(rows, mode="drop")
