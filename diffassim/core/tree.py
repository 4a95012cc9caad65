"""Vector-space operations on pytrees, without raveling them."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from diffassim.core.linalg import safe_sqrt

__all__ = [
    "add",
    "all_finite",
    "axpy",
    "describe_shapes",
    "dot",
    "flat_rows",
    "moved",
    "norm",
    "same_shapes",
    "scale",
    "select",
    "size",
    "squared_norm",
    "state_rows",
    "subtract",
    "zeros_like",
]


def add(x: Any, y: Any) -> Any:
    """Return x + y, leaf by leaf."""
    return jax.tree.map(jnp.add, x, y)


def moved(x: Any, increment: Any) -> Any:
    """Return x + increment where x holds floating-point numbers, and x where it does not (a counter, a mask).

    Example:
        >>> moved({"x": jnp.ones(()), "day": jnp.array(3)}, {"x": 0.5, "day": 0.0})["day"].item()
        3
    """
    return jax.tree.map(lambda a, d: a + d if jnp.issubdtype(a.dtype, jnp.inexact) else a, x, increment)


def subtract(x: Any, y: Any) -> Any:
    """Return x - y, leaf by leaf."""
    return jax.tree.map(jnp.subtract, x, y)


def scale(a: Any, x: Any) -> Any:
    """Return a x for a scalar a; the dtype of x is kept."""
    return jax.tree.map(lambda leaf: jnp.asarray(a, leaf.dtype) * leaf, x)


def axpy(a: Any, x: Any, y: Any) -> Any:
    """Return a x + y for a scalar a; the dtype of x is kept."""
    return jax.tree.map(lambda xi, yi: jnp.asarray(a, xi.dtype) * xi + yi, x, y)


def dot(x: Any, y: Any) -> Float[Array, ""]:
    """Return the Euclidean inner product of two pytrees of the same structure.

    Args:
        x: pytree of real arrays.
        y: pytree of the same structure and shapes.

    Returns:
        sum_i x_i y_i over all leaves and entries.

    Example:
        >>> float(dot({"a": jnp.ones(2)}, {"a": jnp.full(2, 3.0)}))
        6.0
    """
    # Not raveled: of an array in parts on several devices the compiler would make a whole first.
    products = jax.tree.leaves(jax.tree.map(lambda a, b: jnp.tensordot(a, b, jnp.ndim(a)), x, y))
    if not products:
        return jnp.zeros(())
    return sum(products[1:], products[0])


def squared_norm(x: Any) -> Float[Array, ""]:
    """Return |x|^2 = sum_i x_i^2."""
    return dot(x, x)


def norm(x: Any) -> Float[Array, ""]:
    """Return |x|, with derivative zero (not NaN) at x = 0."""
    return safe_sqrt(squared_norm(x))


def size(x: Any) -> int:
    """Return the number of scalar entries in a pytree."""
    return sum(math.prod(jnp.shape(leaf)) for leaf in jax.tree.leaves(x))


def flat_rows(x: Any) -> Float[Array, "k n"]:
    """Return a pytree with a leading axis as a matrix, one flattened state a row.

    Example:
        >>> flat_rows({"a": jnp.ones(2), "b": jnp.zeros((2, 2))}).tolist()
        [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    """
    return jnp.concatenate([leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(x)], axis=1)


def state_rows(rows: Float[Array, "k n"], x: Any) -> Any:
    """Return the inverse of `flat_rows`: states like `x` with a leading axis."""
    return jax.vmap(ravel_pytree(x)[1])(rows)


def zeros_like(x: Any) -> Any:
    """Return a pytree of zeros with the structure, shapes and dtypes of x."""
    return jax.tree.map(jnp.zeros_like, x)


def all_finite(x: Any) -> Bool[Array, ""]:
    """Return whether every entry of every leaf is finite."""
    flags = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(x)]
    return jnp.all(jnp.stack(flags)) if flags else jnp.asarray(True)


def select(condition: Bool[Array, ""], if_true: Any, if_false: Any) -> Any:
    """Return one of two pytrees by a scalar condition, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), if_true, if_false)


def same_shapes(x: Any, y: Any) -> bool:
    """Return whether two pytrees have the same structure and leaves of the same shapes."""
    ours, theirs = jax.tree.leaves(x), jax.tree.leaves(y)
    return jax.tree.structure(x) == jax.tree.structure(y) and all(map(_same_shape, ours, theirs))


def _same_shape(a: Any, b: Any) -> bool:
    return jnp.shape(a) == jnp.shape(b)


def describe_shapes(x: Any) -> str:
    """Return the shapes of a pytree as text, for messages.

    Example:
        >>> describe_shapes(jnp.ones(3)), describe_shapes({"a": 1.0, "b": jnp.ones(2)})
        ('(3,)', "['a'] (), ['b'] (2,)")
    """
    return ", ".join(
        f"{jax.tree_util.keystr(path)} {jnp.shape(leaf)}".strip()
        for path, leaf in jax.tree_util.tree_leaves_with_path(x)
    )
