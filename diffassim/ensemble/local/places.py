"""Where the observations are: the coordinates that a local method needs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.covariances import Blocks, Diagonal
from diffassim.covariances.combined import Scaled
from diffassim.grids.grid import Grid
from diffassim.grids.sphere import Sphere
from diffassim.observations import Field, Identity, Interpolate, Subsample, Subset

__all__ = ["is_uncorrelated", "observation_places"]


def observation_places(
    stream: Any, grid: Grid | Sphere, shape: tuple[int, ...], given: Any = None
) -> Float[Array, "m D"]:
    """Return the coordinates of all values of a stream, in the order of its ravelled values.

    Known for `Identity`, `Field`, `Interpolate` and, on a line, `Subset` and `Subsample`; run-time places (`where`)
    included. For other operators they have to be given.

    Args:
        stream: `Observations` of one time.
        grid: `Grid` or `Sphere` of the state.
        shape: shape of the state's trailing axes, which are those of the grid.
        given: coordinates on the last axis, in front of it the shape of the values of one time (or one that broadcasts
            to it), for every time.

    Returns:
        Shape (m, D).

    Raises:
        ConfigurationError: if the places are not known.
        ShapeError: if they do not fit the values.

    Example:
        >>> import diffassim as da
        >>> H, R = da.observations.Subsample(every=2), da.covariances.Diagonal(std=1.0)
        >>> y = da.Observations(jnp.zeros((1, 3)), [0], operator=H, error=R)
        >>> observation_places(y, Grid(spacing=0.5), (6,)).ravel().tolist()
        [0.0, 1.0, 2.0]
    """
    found = []
    for value in jax.tree.leaves(stream.values):
        places = _of_operator(stream, grid, shape) if given is None else jnp.asarray(given)[None]
        missing = value.ndim + 1 - places.ndim
        places = places.reshape(places.shape[:1] + (1,) * missing + places.shape[1:])
        try:
            places = jnp.broadcast_to(places, (*value.shape, grid.coordinates))
        except ValueError:
            raise ShapeError(
                f"the places of the observations have shape {places.shape[1:]}, which does not fit values of shape "
                f"{value.shape[1:]} (one time) and {grid.coordinates} coordinates"
            ) from None
        found.append(places.reshape(-1, grid.coordinates))
    return jnp.concatenate(found)


def _of_operator(stream: Any, grid: Grid | Sphere, shape: tuple[int, ...]) -> Any:
    """Return coordinates of shape (times or 1, ..., D)."""
    operator, where = stream.operator, stream.where
    points = grid.points(shape).reshape(*shape, grid.coordinates)
    if isinstance(operator, Identity | Field):
        return points[None]
    if isinstance(operator, Interpolate) and isinstance(grid, Grid):
        places = jnp.asarray(operator.places)[None] if where is None else where
        return places if operator.origin is None else places - jnp.asarray(operator.origin).reshape(1, 1, -1)
    if isinstance(operator, Subsample) and grid.ndim == 1:
        return points[None, operator.offset :: operator.every]
    if isinstance(operator, Subset) and grid.ndim == 1:
        indices = jnp.asarray(operator.indices)[None] if where is None else where
        return points[indices]
    raise ConfigurationError(
        f"where observations of the operator {type(operator).__name__} are is not known; give `places`, coordinates of "
        f"shape (m, {grid.coordinates})"
    )


def is_uncorrelated(error: Any) -> bool:
    """Return whether an observation-error covariance is known to be diagonal."""
    if isinstance(error, Scaled):
        return is_uncorrelated(error.covariance)
    if isinstance(error, Blocks):
        parts = jax.tree.leaves(error.blocks, is_leaf=lambda node: isinstance(node, Diagonal | Scaled))
        return all(is_uncorrelated(part) for part in parts)
    return isinstance(error, Diagonal)
