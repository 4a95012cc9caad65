"""Keep the CPU compiler from evaluating one array again and again inside its readers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax import lax

try:
    from jax.experimental.xla_metadata import set_xla_metadata
except ImportError:  # an experimental module: without it the barrier below has to do
    set_xla_metadata = None

__all__ = ["kernel"]

# Below this size a call of its own costs more than what repeated evaluation wastes.
_WORTH_A_CALL_BYTES = 1024


def kernel(*static: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a function of arrays whose result should be computed once and stored.

    XLA's CPU backend fuses chains of shifted sums into one loop that evaluates every stage anew for every point that
    reads it: four stages of a four-point stencil run two to three times slower than one loop for each stage. For large
    arrays the function is therefore compiled as a call that is not inlined; for small ones, where a call would be the
    larger cost, its result passes an optimization barrier. Values and derivatives do not depend on the choice.

    Args:
        *static: names of the keyword-only arguments that are static (hashable).

    Returns:
        The decorator. The first argument of the function is the array whose size decides.

    Example:
        >>> import jax.numpy as jnp
        >>> @kernel("factor")
        ... def scaled(x, *, factor):
        ...     return factor * x
        >>> scaled(jnp.ones(2), factor=3.0).tolist()
        [3.0, 3.0]
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        compiled = jax.jit(function, static_argnames=static)

        @functools.wraps(function)
        def call(first: Any, *rest: Any, **options: Any) -> Any:
            large = first.size * first.dtype.itemsize >= _WORTH_A_CALL_BYTES
            if large and set_xla_metadata is not None and jax.default_backend() == "cpu":
                with set_xla_metadata(inlineable="false"):
                    return compiled(first, *rest, **options)
            return lax.optimization_barrier(function(first, *rest, **options))

        return call

    return decorate
