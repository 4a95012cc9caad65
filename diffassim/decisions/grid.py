"""Grids in the space of observations: nodes, weights of a point's neighbors, and policies that interpolate."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient
from jaxtyping import Array, Float

from diffassim.core.checks import real_array
from diffassim.core.errors import ConfigurationError, ShapeError, concrete
from diffassim.core.pytree import Pytree

__all__ = ["Axes", "GridPolicy", "checked_axes", "grid_points", "grid_weights", "nearest_node"]

Axes = tuple[Any, ...]
COMPARED = 256  # nodes of an axis up to which all are compared


def checked_axes(name: str, axes: Any) -> Axes:
    """Return axes as arrays; raise unless each holds at least two increasing numbers.

    Example:
        >>> [axis.tolist() for axis in checked_axes("grid", ([0, 1],))]
        [[0.0, 1.0]]
    """
    found = tuple(jnp.asarray(real_array(f"{name}: axes", axis)) for axis in axes)
    for k, axis in enumerate(found):
        known = concrete(axis)
        if axis.ndim != 1 or axis.shape[0] < 2:
            raise ShapeError(f"{name}: axis {k} must be a list of at least two nodes, found shape {axis.shape}")
        if known is not None and not np.all(np.diff(known) > 0):
            raise ConfigurationError(f"{name}: the nodes of axis {k} must increase")
    return found


def grid_points(axes: Axes) -> Float[Array, "nodes d"]:
    """Return the nodes of a grid, the last axis running fastest.

    Example:
        >>> grid_points((jnp.array([0.0, 1.0]), jnp.array([5.0, 6.0]))).tolist()
        [[0.0, 5.0], [0.0, 6.0], [1.0, 5.0], [1.0, 6.0]]
    """
    axes = checked_axes("grid_points", axes)
    return jnp.stack(jnp.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))


def grid_weights(axes: Axes, x: Float[Array, " d"]) -> tuple[Array, Array]:
    """Return numbers and multilinear weights of the nodes around a point; beyond the grid those of its edge.

    Args:
        axes: increasing nodes of each component.
        x: a point.

    Returns:
        Numbers of nodes, and weights that sum to 1, both of shape (2^d,).

    Example:
        >>> index, weights = grid_weights((jnp.array([0.0, 1.0, 3.0]),), jnp.array([2.5]))
        >>> index.tolist(), weights.tolist()
        ([1, 2], [0.25, 0.75])
    """
    index, weights = jnp.zeros(1, jnp.int32), jnp.ones(1, x.dtype)
    for k, axis in enumerate(axes):
        method = "compare_all" if axis.shape[0] <= COMPARED else "scan"  # a loop costs more than many comparisons
        left = jnp.searchsorted(axis, x[k], side="right", method=method).astype(jnp.int32) - 1
        left = jnp.clip(left, 0, axis.shape[0] - 2)
        part = jnp.clip((x[k] - axis[left]) / (axis[left + 1] - axis[left]), 0, 1).astype(x.dtype)
        index = (index[:, None] * axis.shape[0] + jnp.stack([left, left + 1])[None]).reshape(-1)
        weights = (weights[:, None] * jnp.stack([1 - part, part])[None]).reshape(-1)
    return index, weights


def nearest_node(axes: Axes, x: Float[Array, " d"]) -> Array:
    """Return the number of the node nearest to a point.

    Example:
        >>> int(nearest_node((jnp.array([0.0, 1.0, 3.0]),), jnp.array([2.5])))
        2
    """
    index, weights = grid_weights(axes, x)
    return index[jnp.argmax(weights)]


class GridPolicy(Pytree):
    """Actions on the nodes of a grid, interpolated between them. Gradients of a training do not reach the axes.

    Args:
        axes: increasing nodes for each component of the observation.
        actions: action of each node, shape (nodes of the first axis, ..., components).

    Raises:
        ShapeError: if they do not fit together.

    Example:
        >>> policy = GridPolicy((jnp.array([0.0, 10.0]),), jnp.array([[0.0], [5.0]]))
        >>> policy(jnp.array([4.0])).tolist()
        [2.0]
    """

    axes: Axes
    actions: Any

    def __post_init__(self) -> None:
        axes = checked_axes("GridPolicy", self.axes)
        actions = jnp.asarray(real_array("GridPolicy: actions", self.actions))
        sizes = tuple(axis.shape[0] for axis in axes)
        if actions.ndim != len(axes) + 1 or actions.shape[:-1] != sizes:
            raise ShapeError(f"GridPolicy: {sizes} nodes need actions of shape {(*sizes, 'n')}, found {actions.shape}")
        self._set(axes=axes, actions=actions)

    def __call__(self, observation: Any, key: Any = None) -> Any:
        """Return the action; nothing is drawn."""
        index, weights = grid_weights(stop_gradient(self.axes), jnp.asarray(observation))
        return weights.astype(self.actions.dtype) @ self.actions.reshape(-1, self.actions.shape[-1])[index]
