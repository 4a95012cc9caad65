"""Which observations a point of the grid may use: a search tree instead of all pairs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from diffassim.core.errors import ConfigurationError, ShapeError, concrete, require_positive
from diffassim.ensemble.local.search import CHUNK
from diffassim.grids.grid import Grid
from diffassim.grids.sphere import Sphere

__all__ = ["nearest_observations"]


def nearest_observations(
    grid: Grid | Sphere, shape: tuple[int, ...], places: Any, count: int, mask: Any = None
) -> Int[Array, "points count"]:
    """Return for each point of a grid the numbers of the nearest observations, for `LETKF(nearest=...)`.

    The search runs outside of compiled code, in the time of points times log observations. Its result is an array of
    fixed shape: observations that move are searched anew, and nothing compiles again. Distances and tapers are then
    computed for these pairs alone, so that gradients pass through them as before.

    Args:
        grid: `Grid` or `Sphere` of the state.
        shape: shape of a field's trailing axes, those of the grid.
        places: coordinates of the observations, shape (m, D).
        count: observations for each point; choose it so that the taper is zero beyond them.
        mask: which are observed, shape (m,); missing ones take no place. Default: all.

    Returns:
        Numbers of observations, the nearest first, shape (points, count). Where there are fewer than `count`, m stands
        for none.

    Raises:
        ConfigurationError: if `count` is not positive, or the places are traced.
        ShapeError: if places or mask do not fit.

    Example:
        >>> found = nearest_observations(Grid(), (6,), jnp.array([[0.2], [5.4]]), count=1)
        >>> found.ravel().tolist()  # around the end of the line as well
        [0, 0, 0, 1, 1, 1]
    """
    from scipy.spatial import cKDTree  # here, because it takes a while to import

    require_positive("nearest_observations: count", count)
    known, observed = concrete(places), None if mask is None else concrete(mask)
    if known is None or (mask is not None and observed is None):
        raise ConfigurationError(
            "nearest_observations: the places must be known outside of traced code; search there, and pass the result"
        )
    if known.ndim != 2 or known.shape[1] != grid.coordinates:
        raise ShapeError(f"nearest_observations: places have shape {known.shape}, expected (m, {grid.coordinates})")
    numbers = np.arange(len(known)) if observed is None else np.flatnonzero(observed.reshape(len(known)))
    grid.check_places("nearest_observations", known[numbers])
    points = np.asarray(grid.points(shape))
    if not len(numbers):
        return jnp.full((len(points), count), len(known), jnp.int32)
    coordinates, lengths = grid.embedding(known[numbers], shape)
    tree = cKDTree(coordinates, boxsize=lengths)
    wanted = min(count, len(numbers))
    nearest = np.full((len(points), count), len(known), np.int32)
    for first in range(0, len(points), CHUNK):
        piece = slice(first, first + CHUNK)
        _, found = tree.query(grid.embedding(points[piece], shape)[0], k=np.arange(1, wanted + 1), workers=-1)
        nearest[piece, :wanted] = numbers[found]
    with jax.ensure_compile_time_eval():
        return jnp.asarray(nearest)
