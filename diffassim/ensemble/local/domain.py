"""Domain localization: an analysis of its own at every grid point, of the observations nearby."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.core.loops import in_blocks
from diffassim.core.pytree import static
from diffassim.ensemble.local.localized import LocalizedMethod
from diffassim.ensemble.local.search import within_reach
from diffassim.methods.departures import Departures
from diffassim.methods.members import anomalies, mean, recombine

__all__ = ["DomainFilter", "from_columns", "to_columns"]

MANY = 32  # batches whose observations are looked up together


class DomainFilter(LocalizedMethod):
    """Base of the filters that analyse every grid point on its own, with observations that count less with distance.

    A subclass defines `local_weights`, or `moved` if its members are no weighted sums, the same in all channels.

    Args:
        inflation, rotation, localization, grid, places: as for `LocalizedMethod`.
        neighbors: observations used at a point, the nearest ones (static); None: all with a coefficient above zero.
            Bounds memory and time where observations are many.
        batch: grid points that are worked on together (static).
        nearest: numbers of the observations that may be used at each point, from `nearest_observations` (by name only).
            By default those within reach of the taper are searched once, outside of traced code, if places and radius
            are known there; else every analysis takes the distances of all points and observations.

    Raises:
        ConfigurationError: if there is no localization, or `neighbors` or `batch` is not positive.
    """

    unlocalized: ClassVar[str]  # name of the filter without localization

    neighbors: int | None = static(default=None)
    batch: int = static(default=128)

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        self.require_localization(self.unlocalized)
        if self.batch < 1 or (self.neighbors is not None and self.neighbors < 1):
            raise ConfigurationError(
                f"{name}: batch={self.batch} and neighbors={self.neighbors} must be at least 1 (neighbors may be None)"
            )

    def local_weights(
        self, S: Float[Array, "N m"], d: Float[Array, " m"], taper: Float[Array, " m"]
    ) -> Float[Array, "N N"]:
        r"""Return W with \(x_{a,i} = \bar x_f + \sum_j W_{ij} x_{f,j}'\) at one point.

        Args:
            S: whitened observed anomalies, shape (N, m).
            d: whitened mean innovation, shape (m,).
            taper: coefficient of every value, shape (m,); zero where it was not observed.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define local_weights(S, d, taper)")

    def moved(self, S: Any, d: Any, taper: Any, X: Any) -> Any:
        """Return the members at one point less the prior mean; leaves of the anomalies X have shape (N, channels)."""
        W = self.local_weights(S, d, taper)
        return jax.tree.map(lambda leaf: W.astype(leaf.dtype) @ leaf, X)

    def update(self, key: Any, ensemble: Any, departures: Departures, streams: tuple[Any, ...]) -> Any:
        """Return the posterior ensemble, before inflation and rotation."""
        shape = self.grid_shape(ensemble)
        places = self.stream_places(streams, shape)
        columns = jax.tree.map(lambda leaf: to_columns(leaf, self.grid.ndim), ensemble)
        everything = departures.S, departures.d, places, departures.observed

        def analyze_point(point: Any) -> Any:
            place, members, near = point
            S, d, there, seen = everything if near is None else (near[0].T, *near[1:])
            taper = self.taper(place[None], there, shape, S.dtype)
            taper = jnp.where(seen, taper, 0)
            if self.neighbors is not None and self.neighbors < d.shape[0]:
                taper, chosen = lax.top_k(taper, self.neighbors)
                S, d = S[:, chosen], d[chosen]
            return recombine(mean(members), self.moved(S, d, taper, anomalies(members)))

        # Reverse mode recomputes each batch, so that the weights of all points never exist together.
        local = jax.checkpoint(analyze_point)

        def analyze_points(points: Any) -> Any:
            place, members, found = points
            near = None if found is None else _near(found, *everything)
            points = place, members, near
            if place.shape[0] <= self.batch:
                return jax.vmap(local)(points)
            return lax.map(local, points, batch_size=self.batch)

        points = self.grid.points(shape)
        self._check_nearest(points.shape[0])
        if self.nearest is None:
            posterior = analyze_points((points, columns, None))
        else:  # looked up for many batches at a time, as the adjoint of every look-up writes a cotangent of everything
            posterior = in_blocks(jax.checkpoint(analyze_points), (points, columns, self.nearest), MANY * self.batch)
        return jax.tree.map(from_columns, posterior, ensemble)

    def finder(self, shape: tuple[int, ...]) -> Any:
        """Return the search for the observations within reach of each point."""

        def find(places: Any, seen: Any) -> Any:
            return within_reach(self.localization, self.grid, shape, np.asarray(self.grid.points(shape)), places, seen)

        return find

    def _check_nearest(self, points: int) -> None:
        if self.nearest is not None and (jnp.ndim(self.nearest) != 2 or jnp.shape(self.nearest)[0] != points):
            raise ShapeError(
                f"{type(self).__name__}: nearest has shape {jnp.shape(self.nearest)}, but the grid has {points} "
                "points; search with nearest_observations for this grid"
            )


def to_columns(leaf: Any, ndim: int) -> Any:
    """Reshape (N, ..., grid) to (points, N, channels)."""
    N, split = leaf.shape[0], leaf.ndim - ndim
    flat = leaf.reshape(N, math.prod(leaf.shape[1:split]), math.prod(leaf.shape[split:]))
    return jnp.transpose(flat, (2, 0, 1))


def from_columns(column: Any, leaf: Any) -> Any:
    """Turn columns back into the shape of a leaf."""
    return jnp.transpose(column, (1, 2, 0)).reshape(leaf.shape)


def _near(found: Any, S: Any, d: Any, places: Any, observed: Any) -> Any:
    """Return the observations of these numbers: whitened anomalies (points, values, N), innovations, places, masks."""
    S, d, observed = (a.at[found].get(mode="fill", fill_value=0) for a in (S.T, d, observed))
    return S, d, places.at[found].get(mode="clip"), observed
