"""Domain localization: an analysis of its own at every grid point, of the observations nearby."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.core.pytree import static
from diffassim.ensemble.local.localized import LocalizedMethod
from diffassim.methods.departures import Departures
from diffassim.methods.members import anomalies, mean, recombine

__all__ = ["DomainFilter"]


class DomainFilter(LocalizedMethod):
    """Base of the filters that analyse every grid point on its own, with observations that count less with distance.

    A subclass defines `local_weights`, or `moved` if its members are no weighted sums, the same in all channels.

    Args:
        inflation: an `Inflation`, or a number that multiplies the posterior anomalies.
        rotation: whether the posterior anomalies are rotated at random, the same at all points (static).
        localization: taper, for example `GaspariCohn(radius)`: a function of distance.
        grid: `Grid`, `Sphere` or `ProductGrid` of the state; default: a periodic line of unit spacing.
        places: coordinates of the observations, shape (m, D), or a tuple with one entry (or None) for each stream;
            None where the operator knows them.
        neighbors: observations used at a point, the nearest ones (static); None: all with a coefficient above zero.
            Bounds memory and time where observations are many.
        nearest: numbers of the observations used at each point, from `nearest_observations`, in place of `neighbors`:
            without them every analysis takes the distances of all points and observations.
        batch: grid points that are worked on together (static).

    Raises:
        ConfigurationError: if there is no localization, or `neighbors` or `batch` is not positive.
    """

    unlocalized: ClassVar[str]  # name of the filter without localization

    neighbors: int | None = static(default=None)
    batch: int = static(default=128)
    nearest: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        self.require_localization(self.unlocalized)
        if self.batch < 1 or (self.neighbors is not None and self.neighbors < 1):
            raise ConfigurationError(
                f"{name}: batch={self.batch} and neighbors={self.neighbors} must be at least 1 (neighbors may be None)"
            )
        if self.neighbors is not None and self.nearest is not None:
            raise ConfigurationError(f"{name}: give `neighbors` (a number) or `nearest` (what was found), not both")

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
        columns = jax.tree.map(lambda leaf: _to_columns(leaf, self.grid.ndim), ensemble)
        S, d = departures.S, departures.d
        observed = departures.observed

        def analyze_point(point: Any) -> Any:
            place, members, found = point
            if found is None:
                near, innovation, there, seen = S, d, places, observed
            else:  # none is the number beyond the last
                near, innovation, seen = (a.at[..., found].get(mode="fill", fill_value=0) for a in (S, d, observed))
                there = places.at[found].get(mode="clip")
            taper = self.taper(place[None], there, shape, S.dtype)
            taper = jnp.where(seen, taper, 0)
            if self.neighbors is not None and self.neighbors < d.shape[0]:
                taper, chosen = lax.top_k(taper, self.neighbors)
                near, innovation = S[:, chosen], d[chosen]
            return recombine(mean(members), self.moved(near, innovation, taper, anomalies(members)))

        points = self.grid.points(shape)
        self._check_nearest(points.shape[0])
        # Reverse mode recomputes each batch, so that the weights of all points never exist together.
        local = jax.checkpoint(analyze_point)
        everything = (points, columns, self.nearest)
        if points.shape[0] <= self.batch:
            posterior = jax.vmap(local)(everything)
        else:
            posterior = lax.map(local, everything, batch_size=self.batch)
        return jax.tree.map(_from_columns, posterior, ensemble)

    def _check_nearest(self, points: int) -> None:
        if self.nearest is not None and (jnp.ndim(self.nearest) != 2 or jnp.shape(self.nearest)[0] != points):
            raise ShapeError(
                f"{type(self).__name__}: nearest has shape {jnp.shape(self.nearest)}, but the grid has {points} "
                "points; search with nearest_observations for this grid"
            )


def _to_columns(leaf: Any, ndim: int) -> Any:
    """Reshape (N, ..., grid) to (points, N, channels)."""
    N, split = leaf.shape[0], leaf.ndim - ndim
    flat = leaf.reshape(N, math.prod(leaf.shape[1:split]), math.prod(leaf.shape[split:]))
    return jnp.transpose(flat, (2, 0, 1))


def _from_columns(column: Any, leaf: Any) -> Any:
    return jnp.transpose(column, (1, 2, 0)).reshape(leaf.shape)
