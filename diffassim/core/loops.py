"""A scan whose reverse-mode memory grows with the square root of its length."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

__all__ = ["bounded_while", "checkpointed_scan", "in_blocks", "segment_length"]


def segment_length(length: int) -> int:
    """Return the segment length that splits a scan of `length` steps into about sqrt(length) segments.

    A divisor of `length` between sqrt(length)/3 and 2 sqrt(length) is preferred, because then no remainder has to be
    compiled as a loop of its own; memory stays below five times sqrt(length) carries at both ends.

    Args:
        length: number of steps, at least 1.

    Returns:
        Steps per segment.

    Example:
        >>> segment_length(100), segment_length(101)
        (10, 10)
    """
    root = math.sqrt(length)
    divisors = [d for d in range(max(1, math.ceil(root / 3)), math.floor(2 * root) + 1) if length % d == 0]
    return min(divisors, key=lambda d: (abs(math.log(d / root)), d)) if divisors else max(1, round(root))


def checkpointed_scan(
    body: Callable[..., tuple[Any, Any]],
    carry: Any,
    length: int,
    *,
    segment: int | None = None,
    limit: Any = None,
    collect: Callable[[Any, Any, Any], Any] | None = None,
    collected: Any = None,
    inputs: Any = None,
) -> tuple[Any, Any]:
    r"""Scan `body(carry, k)` over k = 0, ..., length - 1 with checkpoints at segment starts and at every step.

    Reverse mode keeps one carry per segment, and one carry per step of the segment in work: about
    \(2\sqrt{\text{length}}\) carries instead of every intermediate of every step, at the price of two more forward
    evaluations (Griewank and Walther, 2008, section 12.3, two levels).

    Args:
        body: (carry, k) -> (carry, output); k is an int32 scalar.
        carry: initial carry, any pytree of arrays.
        length: number of steps (static).
        segment: steps per segment; default `segment_length(length)`. With `length` or more there is no checkpoint at
            all: fastest for short loops, and every intermediate is kept.
        limit: run-time number of steps after which whole segments are skipped (the carry passes through and the
            outputs are zero); None runs all.
        collect: (collected, outputs, first) -> collected, called once per segment with the outputs of its steps
            (leading axis) and the number of its first step. Used instead of returning all outputs, so that they
            never exist together.
        collected: initial value for `collect`.
        inputs: pytree with a leading axis of size `length`, whose row k the body gets as a third argument. (Taken from
            a closure instead, every step's adjoint would write a cotangent of the whole.)

    Returns:
        The last carry, and either what was collected or the outputs with a leading axis of size `length` (None where
        the body returns None).
    """
    segment = min(length, segment_length(length) if segment is None else segment)
    whole = segment >= length
    numbered = body if inputs is None else _with_inputs(body)
    step = numbered if whole else jax.checkpoint(numbered, prevent_cse=False)
    if whole and limit is not None:
        segment = segment_length(length)  # still skipped one by one

    def run(carry: Any, first: Any, rows: Any, count: int) -> tuple[Any, Any]:
        numbers = first + jnp.arange(count, dtype=jnp.int32)
        return lax.scan(step, carry, numbers if inputs is None else (numbers, rows))

    def run_or_skip(carry: Any, first: Any, rows: Any, count: int) -> tuple[Any, Any]:
        if limit is None:
            return run(carry, first, rows, count)
        _, shapes = jax.eval_shape(lambda c, k, r: run(c, k, r, count), carry, first, rows)
        skipped = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        return lax.cond(first < limit, lambda c: run(c, first, rows, count), lambda c: (c, skipped), carry)

    def advance(
        state: tuple[Any, Any], first: Any, rows: Any, count: int, keep: bool = False
    ) -> tuple[tuple[Any, Any], Any]:
        carry, collected = state
        segment_run = partial(run_or_skip, count=count)
        if not (keep or whole):
            segment_run = jax.checkpoint(segment_run, prevent_cse=False)
        carry, outputs = segment_run(carry, first, rows)
        if collect is None:
            return (carry, None), outputs
        return (carry, collect(collected, outputs, first)), None

    if segment >= length:
        start = jnp.asarray(0, jnp.int32)
        (carry, collected), outputs = advance((carry, collected), start, inputs, length, keep=True)
        return carry, collected if collect is not None else outputs

    segments, remainder = divmod(length, segment)
    edge = segments * segment
    firsts = segment * jnp.arange(segments, dtype=jnp.int32)
    rows = jax.tree.map(lambda leaf: leaf[:edge].reshape((segments, segment, *leaf.shape[1:])), inputs)
    state, outputs = lax.scan(lambda s, k: advance(s, k[0], k[1], segment), (carry, collected), (firsts, rows))
    outputs = jax.tree.map(lambda o: o.reshape((edge, *o.shape[2:])), outputs)
    if remainder:  # shorter than a segment: kept instead of computed twice, which saves compiling one more loop
        rest = jax.tree.map(lambda leaf: leaf[edge:], inputs)
        state, tail = advance(state, jnp.asarray(edge, jnp.int32), rest, remainder, keep=True)
        outputs = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), outputs, tail)
    carry, collected = state
    return carry, collected if collect is not None else outputs


def _with_inputs(body: Callable[..., tuple[Any, Any]]) -> Callable[[Any, Any], tuple[Any, Any]]:
    return lambda carry, numbered: body(carry, *numbered)


def in_blocks(function: Callable[[Any], Any], inputs: Any, size: int) -> Any:
    """Apply a function of arrays with a leading axis to blocks of `size` rows, one block after the other.

    Args:
        function: arrays with a leading axis of rows -> arrays with the same leading axis.
        inputs: pytree of arrays with a common leading axis.
        size: rows of a block (static); a shorter one is left for the end.

    Example:
        >>> in_blocks(lambda x: 2 * x, jnp.arange(5), 2).tolist()
        [0, 2, 4, 6, 8]
    """
    count = jax.tree.leaves(inputs)[0].shape[0]
    blocks, rest = divmod(count, size)
    if blocks + (rest > 0) <= 1:
        return function(inputs)
    edge = blocks * size
    whole = jax.tree.map(lambda leaf: leaf[:edge].reshape((blocks, size, *leaf.shape[1:])), inputs)
    found = jax.tree.map(lambda leaf: leaf.reshape((edge, *leaf.shape[2:])), lax.map(function, whole))
    if not rest:
        return found
    last = function(jax.tree.map(lambda leaf: leaf[edge:], inputs))
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), found, last)


def bounded_while(
    condition: Callable[[Any], Any], body: Callable[[Any], Any], state: Any, max_iterations: int, unrolled: bool = False
) -> Any:
    """Run a while loop of at most `max_iterations` turns, on request in a form that reverse mode can pass through.

    Args:
        condition: state -> whether to go on.
        body: state -> state.
        state: initial state, any pytree of arrays.
        max_iterations: upper limit (static).
        unrolled: if True, a scan of `max_iterations` turns whose body is skipped once the condition is false; every
            turn's intermediates are kept for the reverse sweep.

    Returns:
        The last state.
    """
    if unrolled:

        def turn(state: Any, _: Any) -> tuple[Any, None]:
            return lax.cond(condition(state), body, lambda s: s, state), None

        return lax.scan(turn, state, None, length=max_iterations)[0]

    def go_on(counted: tuple[Any, Any]) -> Any:
        return (counted[0] < max_iterations) & condition(counted[1])

    start = (jnp.asarray(0, jnp.int32), state)
    return lax.while_loop(go_on, lambda counted: (counted[0] + 1, body(counted[1])), start)[1]
