"""Domain localization: an analysis of its own at every grid point, of the observations nearby."""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from diffassim.core.errors import ConfigurationError, ShapeError, concrete
from diffassim.core.layout import Layout
from diffassim.core.loops import in_blocks
from diffassim.core.pytree import static
from diffassim.ensemble.local.localized import LocalizedMethod
from diffassim.ensemble.local.own_parts import partition_own
from diffassim.ensemble.local.parts import analyze_in_parts, partition
from diffassim.ensemble.local.search import sets_of_record, values_at_a_time, within_reach
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
        parts: which points each device analyses, and what it is sent for them; made from `nearest` where the ensemble
            lies in parts (by name only).

    Raises:
        ConfigurationError: if there is no localization, or `neighbors` or `batch` is not positive.
    """

    unlocalized: ClassVar[str]  # name of the filter without localization

    neighbors: int | None = static(default=None)
    batch: int = static(default=128)
    parts: Any = dataclasses.field(default=None, kw_only=True)

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
        places, points = self.stream_places(streams, shape), self.grid.points(shape)
        columns = jax.tree.map(lambda leaf: to_columns(leaf, self.grid.ndim), ensemble)
        rows = departures.S.T, departures.d, places, departures.observed
        self._check_nearest(points.shape[0])
        if self.layout is not None:
            posterior = analyze_in_parts(self, self.parts, points, columns, rows, shape)
        else:
            posterior = self.analyzed(points, columns, self.nearest, rows, shape)
        return jax.tree.map(from_columns, posterior, ensemble)

    def analyzed(
        self, points: Any, columns: Any, nearest: Any, rows: Any, shape: tuple[int, ...], widths: tuple[int, ...] = ()
    ) -> Any:
        """Return the posterior members at some points, leaves of shape (points, N, channels).

        Args:
            points: their coordinates, shape (points, D).
            columns: the members there.
            nearest: numbers of the values that each may use, shape (points, count); None: all.
            rows: whitened anomalies (values, N), innovations, places and masks of the values.
            shape: of the grid's axes.
            widths: ascending counts, of which a block of points takes the least that holds its own (static).
        """

        def analyze_point(point: Any) -> Any:
            place, members, near = point
            S, d, there, seen = rows if near is None else near
            S, taper = S.T, self.taper(place[None], there, shape, S.dtype)
            taper = jnp.where(seen, taper, 0)
            if self.neighbors is not None and self.neighbors < d.shape[0]:
                taper, chosen = lax.top_k(taper, self.neighbors)
                S, d = S[:, chosen], d[chosen]
            return recombine(mean(members), self.moved(S, d, taper, anomalies(members)))

        # Reverse mode recomputes each batch, so that the weights of all points never exist together.
        local = jax.checkpoint(analyze_point)

        def analyze_points(points: Any) -> Any:
            place, members, found = points
            near = None if found is None else _near(found, *rows)
            points = place, members, near
            if place.shape[0] <= self.batch:
                return jax.vmap(local)(points)
            return lax.map(local, points, batch_size=self.batch)

        if nearest is None:
            return analyze_points((points, columns, None))
        if widths:
            analyze_points = _by_width(analyze_points, widths, rows[1].shape[0])
        # Looked up for many batches at a time, as the adjoint of every look-up writes a cotangent of everything.
        return in_blocks(jax.checkpoint(analyze_points), (points, columns, nearest), MANY * self.batch)

    def prepared(self, ensemble: Any, streams: tuple[Any, ...], rows: Any = None, real: Any = None) -> Any:
        """Return the method that knows which observations each point, and each device, needs."""
        layout = Layout.of(ensemble) if self.layout is None else self.layout
        if layout is not None and layout.processes > 1 and self.nearest is None and self.parts is None:
            shape = self.grid_shape(ensemble)
            sets, which = sets_of_record(self, shape, streams, rows, real)
            parts = partition_own(self, shape, sets, values_at_a_time(streams, rows), layout)
            numbers = jnp.asarray(which, jnp.int32) if len(sets) > 1 and parts is not None else None
            return self.replace(layout=layout, parts=parts), numbers
        prepared, numbers = super().prepared(ensemble, streams, rows, real)
        nearest = concrete(prepared.nearest)
        if prepared.layout is None or nearest is None or prepared.parts is not None:
            return prepared, numbers
        parts = partition(nearest, values_at_a_time(streams, rows), prepared.layout)
        return prepared.replace(nearest=None, parts=parts), numbers

    def at(self, number: Any) -> Any:
        """Return the method for a time that has the set of places of this number."""
        if self.parts is None:
            return super().at(number)
        near, values = jax.tree.map(lambda leaf: leaf[number], (self.parts.near, self.parts.values))
        return self.replace(parts=self.parts.replace(near=near, values=values))

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
    S, d, observed = (a.at[found].get(mode="fill", fill_value=0) for a in (S, d, observed))
    return S, d, places.at[found].get(mode="clip"), observed


def _by_width(analyze: Any, widths: tuple[int, ...], values: int) -> Any:
    """Return the analysis of points that looks at as many columns of their numbers as are filled."""

    def narrowed(width: int, points: Any) -> Any:
        place, members, found = points
        if width == 0:
            return jax.vmap(lambda x: recombine(mean(x), anomalies(x)))(members)
        return analyze((place, members, found[:, :width]))

    def chosen(points: Any) -> Any:
        longest = jnp.max(jnp.sum(points[2] < values, axis=1))
        number = jnp.searchsorted(jnp.asarray(widths, longest.dtype), longest)
        return lax.switch(number, [partial(narrowed, width) for width in widths], points)

    return chosen
