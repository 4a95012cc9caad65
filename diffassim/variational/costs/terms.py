"""The terms of a cost: what background, model error, parameters and each stream of observations contribute."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from diffassim.core import tree
from diffassim.variational.costs.base import as_cost

__all__ = ["cost_terms", "observed_counts"]


def cost_terms(residuals: Any, dtype: Any = None) -> dict[str, Any]:
    r"""Return the terms of J, half the squared norms of the parts of the residuals, by name.

    Args:
        residuals: what `cost.residuals(v)` returns: a dict of control vectors, and a tuple with the whitened
            innovations of each stream. Residuals of another form are one term, 'total'.
        dtype: of the terms; default: that of the residuals.

    Returns:
        Scalars: 'state', 'parameters', ... as the control vector has them, 'observations 0', 'observations 1', ...
        Their sum is J.

    Example:
        >>> terms = cost_terms(({"state": jnp.array([2.0])}, (jnp.array([1.0, 3.0]),)))
        >>> {name: float(term) for name, term in terms.items()}
        {'state': 2.0, 'observations 0': 5.0}
    """
    match residuals:
        case (dict(v), tuple(departures)):
            parts = {**v, **{f"observations {i}": d for i, d in enumerate(departures)}}
        case _:
            parts = {"total": residuals}
    terms = {name: 0.5 * tree.squared_norm(part) for name, part in parts.items()}
    return terms if dtype is None else {name: term.astype(dtype) for name, term in terms.items()}


def observed_counts(cost: Any) -> tuple[Int[Array, ""], ...]:
    """Return how many observed values of each stream count within the cost's horizon.

    Args:
        cost: a cost with observations.

    Returns:
        One integer for each stream.
    """
    cost = as_cost(cost)
    window = cost.window()
    last = None if window is None else window.horizon

    def count(stream: Any) -> Any:
        inside = jnp.ones(stream.steps.shape, bool) if last is None else stream.last_rows <= last
        counts = [
            jnp.sum(mask & inside.reshape((-1,) + (1,) * (mask.ndim - 1)), dtype=jnp.int32)
            for mask in jax.tree.leaves(stream.mask)
        ]
        return sum(counts, jnp.asarray(0, jnp.int32))

    return tuple(count(stream) for stream in cost.streams())
