"""Statistics of an ensemble and its transformation in the space of its members."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from diffassim.core import tree
from diffassim.core.checks import real_state
from diffassim.core.errors import ShapeError
from diffassim.core.linalg import safe_sqrt

__all__ = [
    "anomalies",
    "check_ensemble",
    "finite_members",
    "mean",
    "recombine",
    "spread",
    "total_spread",
    "transformed",
    "without_failed",
]


def mean(ensemble: Any) -> Any:
    """Return the mean over the leading (member) axis, leaf by leaf."""
    return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), ensemble)


def anomalies(ensemble: Any) -> Any:
    """Return the departures from the ensemble mean, X, leaf by leaf (not divided by sqrt(N - 1))."""
    return jax.tree.map(lambda leaf: leaf - jnp.mean(leaf, axis=0, keepdims=True), ensemble)


def recombine(center: Any, X: Any) -> Any:
    """Return the ensemble with the given mean and anomalies."""
    return jax.tree.map(lambda m, departures: m[None] + departures, center, X)


def transformed(ensemble: Any, W: Float[Array, "N N"]) -> Any:
    r"""Return the ensemble \(\bar x + \sum_j W_{ij} x_j'\).

    Args:
        ensemble: pytree with a leading member axis.
        W: one row of weights for each new member, shape (N, N).

    Returns:
        The new ensemble.

    Example:
        >>> transformed(jnp.array([1.0, 3.0]), jnp.array([[0.5, 0.0], [0.0, 0.5]])).tolist()
        [1.5, 2.5]
    """
    X = jax.tree.map(lambda leaf: jnp.tensordot(W.astype(leaf.dtype), leaf, 1), anomalies(ensemble))
    return recombine(mean(ensemble), X)


def spread(ensemble: Any) -> Any:
    """Return the sample standard deviation of every component, with derivative zero where it is zero."""
    return jax.tree.map(lambda leaf: safe_sqrt(jnp.var(leaf, axis=0, ddof=1)), ensemble)


def total_spread(ensemble: Any) -> Float[Array, ""]:
    """Return the root of the sample variance averaged over all components of the state."""
    norm = tree.norm(anomalies(ensemble))
    N = jax.tree.leaves(ensemble)[0].shape[0]
    return norm / ((N - 1) * (tree.size(ensemble) // N)) ** 0.5


def finite_members(ensemble: Any) -> Bool[Array, " N"]:
    """Return for each member whether all of its components are finite."""
    flags = [jnp.all(jnp.isfinite(leaf), axis=tuple(range(1, leaf.ndim))) for leaf in jax.tree.leaves(ensemble)]
    return jnp.all(jnp.stack(flags), axis=0)


def without_failed(key: Any, ensemble: Any) -> Any:
    r"""Return the ensemble in which members that are not finite are replaced by draws from the others' distribution.

    With n_s survivors of mean \(\bar x_s\) and anomalies \(x_j'\), a failed member becomes
    \(\bar x_s + \sum_j \xi_j x_j' / \sqrt{n_s - 1}\), \(\xi_j \sim N(0, 1)\): in their span, with their spread. Where
    fewer than two survive, the ensemble is left as it is.

    Args:
        key: random key.
        ensemble: pytree with a leading member axis.

    Example:
        >>> members = without_failed(jax.random.key(0), jnp.array([1.0, jnp.nan, 1.0]))
        >>> members.tolist()
        [1.0, 1.0, 1.0]
    """
    finite = finite_members(ensemble)
    survivors = jnp.sum(finite)
    enough = survivors >= 2
    draws = jax.random.normal(key, (finite.shape[0],) * 2)

    def repaired(leaf: Any) -> Any:
        kept = finite.reshape((-1,) + (1,) * (leaf.ndim - 1))
        count = jnp.maximum(survivors, 2).astype(leaf.dtype)
        center = jnp.sum(jnp.where(kept, leaf, 0), axis=0, keepdims=True) / count
        X = jnp.where(kept, jnp.where(kept, leaf, 0) - center, 0)
        new = center + jnp.tensordot(draws.astype(leaf.dtype), X, 1) / jnp.sqrt(count - 1)
        return jnp.where(kept | ~enough, leaf, new)

    return jax.tree.map(repaired, ensemble)


def check_ensemble(name: str, ensemble: Any) -> Any:
    """Return the ensemble as arrays; raise `ShapeError` unless it is one.

    Args:
        name: who asks, for the message.
        ensemble: pytree with a leading member axis.

    Raises:
        ShapeError: if there are fewer than two members, the leaves disagree on how many, or a leaf holds no floats.
    """
    ensemble = real_state(f"{name}: the ensemble", ensemble)
    leaves = jax.tree.leaves(ensemble)
    counts = {leaf.shape[0] if leaf.ndim else 0 for leaf in leaves}
    if len(counts) != 1 or counts.pop() < 2:
        raise ShapeError(
            f"{name}: every leaf of the ensemble needs the same leading member axis with at least two members, found "
            f"shapes {tree.describe_shapes(ensemble)}"
        )
    if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
        raise ShapeError(f"{name}: the members must be of floating-point numbers, found {[x.dtype for x in leaves]}")
    return ensemble
