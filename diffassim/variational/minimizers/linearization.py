"""Whether the linearized model's coefficients fit in memory, or have to be computed again in every product."""

from __future__ import annotations

import math
from typing import Any

import jax

from diffassim.variational.costs.base import as_cost

__all__ = ["MEMORY", "stored"]

MEMORY = 2**28  # bytes
CERTAINLY_ENOUGH = 1000  # states: what the derivative of one step keeps, even with a network in it


def stored(cost: Any, v: Any, memory: float = MEMORY) -> Any | None:
    """Return the cost without checkpoints in its adjoint, or None where it has none or they are needed.

    Products with derivatives of this cost need no recomputation of the trajectory, at the price of the intermediates
    of every step.

    Args:
        cost: a cost; only one with a `window` has checkpoints.
        v: control vector (shapes only).
        memory: bytes that the intermediates may take; a lower limit of the cost itself holds.

    Returns:
        The changed cost, or None: no window, checkpoints chosen by the user, or not enough memory.

    Example:
        >>> import diffassim as da
        >>> import jax.numpy as jnp
        >>> B = da.covariances.Diagonal(std=1.0)
        >>> obs = da.Observations(jnp.zeros((1, 40)), [20], error=B)
        >>> cost = da.StrongConstraint4DVar(da.models.Lorenz96(), jnp.ones(40), B, obs)
        >>> stored(cost, cost.control()).segment, stored(cost, cost.control(), memory=1e3)
        (20, None)
    """
    cost = as_cost(cost)
    window = cost.window()
    if window is None or not window.steps or window.segment is not None:
        return None
    memory = memory if window.memory is None else min(memory, window.memory)
    whole = cost.with_window(segment=window.steps, memory=None)
    if CERTAINLY_ENOUGH * window.steps * _bytes(window.background) <= memory:
        return whole
    kept = jax.eval_shape(lambda v: jax.vjp(whole.residuals, v)[1], v)
    return whole if _bytes(kept) <= memory else None


def _bytes(x: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(x))
