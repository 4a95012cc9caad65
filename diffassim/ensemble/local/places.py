"""Where the observations are: the coordinates that a local method needs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.grids.grid import Grid
from diffassim.grids.sphere import Sphere
from diffassim.observations.operators import PlacesUnknownError, places_of_operator

__all__ = ["observation_places", "places_by_row"]


def observation_places(
    stream: Any, grid: Grid | Sphere, shape: tuple[int, ...], given: Any = None
) -> Float[Array, "m D"]:
    """Return the coordinates of all values of a stream, in the order of its ravelled values.

    The operator tells them (`Operator.value_places`), run-time places (`where`) included; where it does not know, they
    have to be given.

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
    for value, places in zip(jax.tree.leaves(stream.values), places_by_row(stream, grid, shape, given), strict=True):
        whole = jnp.broadcast_to(places, (value.shape[0], *places.shape[1:]))
        found.append(whole.reshape(-1, grid.coordinates))
    return jnp.concatenate(found)


def places_by_row(stream: Any, grid: Grid | Sphere, shape: tuple[int, ...], given: Any = None) -> list[Any]:
    """Return the coordinates of the values of each row, for each leaf of the values.

    Args:
        stream: `Observations`, of one time or a whole record.
        grid: as `observation_places`.
        shape: as `observation_places`.
        given: as `observation_places`.

    Returns:
        Arrays of shape (rows, values, D), or with one row where all have the same places.

    Raises:
        ConfigurationError: if the places are not known.
        ShapeError: if they do not fit the values.
    """
    known = _of_operator(stream, grid, shape) if given is None else jnp.asarray(given)[None]
    found = []
    for value in jax.tree.leaves(stream.values):
        missing, like = value.ndim + 1 - known.ndim, (*value.shape[1:], grid.coordinates)
        places = known.reshape(known.shape[:1] + (1,) * missing + known.shape[1:])
        try:
            np.broadcast_shapes(places.shape, (value.shape[0], *like))
            places = jnp.broadcast_to(places, (places.shape[0], *like))
        except ValueError:
            raise ShapeError(
                f"the places of the observations have shape {known.shape[1:]}, which does not fit values of shape "
                f"{value.shape[1:]} (one time) and {grid.coordinates} coordinates"
            ) from None
        found.append(places.reshape(places.shape[0], -1, grid.coordinates))
    return found


def _of_operator(stream: Any, grid: Grid | Sphere, shape: tuple[int, ...]) -> Any:
    """Return coordinates of shape (times or 1, ..., D)."""
    points = grid.points(shape).reshape(*shape, grid.coordinates)
    try:
        if stream.where is None:
            return places_of_operator(stream.operator, points)[None]
        return jax.vmap(lambda where: places_of_operator(stream.operator, points, where))(stream.where)
    except PlacesUnknownError as unknown:
        raise ConfigurationError(
            f"{unknown}; give `places`, coordinates of shape (m, {grid.coordinates}), or define "
            "`value_places(points, where)` of the operator"
        ) from None
