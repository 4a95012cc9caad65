"""Where to put the checkpoints of a long scan, so that its adjoint fits into a given memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

__all__ = ["checkpoint_factors", "nested_scan"]


def checkpoint_factors(length: int, carries: float) -> tuple[int, ...] | None:
    r"""Return the loop lengths of the shallowest nest of scans whose adjoint keeps at most `carries` carries.

    A nest of L loops with \(f_1 \cdots f_L \ge\) length keeps \(f_1 + \dots + f_L\) carries and runs the body L + 1
    times forward. Of each depth the balanced nest is taken, whose sum is least, about \(L\,\text{length}^{1/L}\).

    Args:
        length: number of steps, at least 1.
        carries: how many carries fit.

    Returns:
        Lengths from the outermost to the innermost loop, or None where the deepest nest, of loops of length two, does
        not fit either.

    Example:
        >>> checkpoint_factors(1000, 1000), checkpoint_factors(1000, 100), checkpoint_factors(1000, 30)
        ((1000,), (32, 32), (10, 10, 10))
        >>> checkpoint_factors(1000, 10) is None
        True

    Source: multi-level checkpointing, Griewank and Walther (2008), section 12.3.
    """
    for depth in range(1, max(1, math.ceil(math.log2(max(length, 2)))) + 1):
        factors = _balanced(length, depth)
        if sum(factors) <= carries:
            return factors
    return None


def _balanced(length: int, depth: int) -> tuple[int, ...]:
    root = next(f for f in range(max(1, math.floor(length ** (1 / depth)) - 1), length + 1) if f**depth >= length)
    lower = next(k for k in range(depth, -1, -1) if (root - 1) ** k * root ** (depth - k) >= length)
    return (root,) * (depth - lower) + (root - 1,) * lower


def nested_scan(
    body: Callable[..., Any], carry: Any, length: int, factors: tuple[int, ...], *, limit: Any = None,
    inputs: Any = None,
) -> Any:  # fmt: skip
    """Apply `body` length times in nested scans with a checkpoint at the start of every loop and step.

    What the body only adds to a part of the carry (rows that it collects) is not kept at checkpoints: no derivative
    asks for its value.

    Args:
        body: (carry, k) -> carry, or (carry, k, row) -> carry with `inputs`; k is an int32 scalar.
        carry: initial carry, any pytree of arrays.
        length: number of steps (static).
        factors: lengths of the loops, outermost first, whose product is at least `length`; see `checkpoint_factors`.
        limit: run-time number of steps after which the carry passes through; None runs all.
        inputs: pytree with a leading axis of size `length`, whose row k the body gets.

    Returns:
        The last carry.

    Example:
        >>> int(nested_scan(lambda total, k: total + k, jnp.asarray(0, jnp.int32), 5, (2, 3)))
        10
    """
    total = math.prod(factors)
    padded = total > length
    last = length if limit is None else jnp.minimum(jnp.asarray(limit, jnp.int32), length)

    def padded_rows(leaf: Any) -> Any:
        fill = jnp.zeros((total - length, *leaf.shape[1:]), leaf.dtype)
        return (jnp.concatenate([leaf, fill]) if padded else leaf).reshape((*factors, *leaf.shape[1:]))

    def step(carry: Any, k: Any, row: Any) -> Any:
        def run(carry: Any) -> Any:
            return body(carry, k) if inputs is None else body(carry, k, row)

        return lax.cond(k < last, run, lambda c: c, carry) if padded or limit is not None else run(carry)

    def level(depth: int, carry: Any, first: Any, rows: Any) -> Any:
        if depth == len(factors):
            return step(carry, first, rows)
        stride = math.prod(factors[depth + 1 :])

        def turn(carry: Any, numbered: tuple[Any, Any]) -> tuple[Any, None]:
            i, part = numbered
            return level(depth + 1, carry, first + stride * i, part), None

        numbers = jnp.arange(factors[depth], dtype=jnp.int32)
        return lax.scan(jax.checkpoint(turn, prevent_cse=False), carry, (numbers, rows))[0]

    return level(0, carry, jnp.asarray(0, jnp.int32), jax.tree.map(padded_rows, inputs))
