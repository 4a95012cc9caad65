"""The local ensemble transform Kalman filter."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.core.grid import Grid
from diffassim.core.pytree import static
from diffassim.ensemble.base import EnsembleMethod
from diffassim.ensemble.departures import Departures
from diffassim.ensemble.etkf import transformed_columns
from diffassim.ensemble.places import is_uncorrelated, observation_places

__all__ = ["LETKF"]


class LETKF(EnsembleMethod):
    r"""An ETKF at every grid point, in which the error variance of an observation grows with its distance.

    With the taper \(\rho_g = \mathrm{diag}\, \rho(|r_g - r_j|)\) of point g,

    .. math::
        A_g = I + S \rho_g S^\top / (N - 1),\quad w_g = A_g^{-1} S \rho_g d / (N - 1),\quad
        x_{a,i}(g) = \bar x_f(g) + \sum_j (w_{g,j} + (A_g^{-1/2})_{ij}) x_{f,j}'(g)

    All leaves of the state share the grid on their trailing axes; axes in front (levels, variables) are updated with
    the same weights. Places are run-time arrays, taken from the operator (see `observation_places`) or given. R has to
    be uncorrelated. A point without an observation nearby keeps its prior, apart from inflation and rotation.

    Args:
        inflation: an `Inflation`, or a number that multiplies the posterior anomalies.
        rotation: whether the posterior anomalies are rotated at random, the same at all points (static).
        localization: taper, for example `GaspariCohn(radius)`: a function of distance.
        grid: `Grid` or `Sphere` of the state; default: a periodic line of unit spacing.
        places: coordinates of the observations, shape (m, D), or a tuple with one entry (or None) for each stream;
            None where the operator knows them.
        neighbors: observations used at a point, the nearest ones (static); None: all with a coefficient above zero.
            Bounds memory and time where observations are many.
        nearest: numbers of the observations used at each point, from `nearest_observations`, in place of `neighbors`:
            without them every analysis takes the distances of all points and observations.
        batch: grid points that are worked on together (static); a GPU wants tens of thousands.

    Raises:
        ConfigurationError: if there is no localization, or `neighbors` or `batch` is not positive.

    Example:
        >>> import diffassim as da
        >>> y = da.Observations(jnp.full((1, 40), 8.0), [0], error=da.covariances.Diagonal(std=1.0))
        >>> ensemble = 8 + jax.random.normal(jax.random.key(0), (7, 40))
        >>> posterior, info = LETKF(localization=da.ensemble.GaspariCohn(4.0)).analyze(None, ensemble, y)
        >>> bool(info.analysis_spread < info.background_spread)
        True

    Source: Hunt, Kostelich and Szunyogh (2007), section 2.3 and 4.
    """

    localization: Any = None
    grid: Any = Grid()
    places: Any = None
    neighbors: int | None = static(default=None)
    batch: int = static(default=128)
    nearest: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.localization):
            raise ConfigurationError(
                f"LETKF: localization must be a taper like GaspariCohn(radius), found {self.localization!r}; without "
                "one use ETKF"
            )
        if self.batch < 1 or (self.neighbors is not None and self.neighbors < 1):
            raise ConfigurationError(
                f"LETKF: batch={self.batch} and neighbors={self.neighbors} must be at least 1 (neighbors may be None)"
            )
        if self.neighbors is not None and self.nearest is not None:
            raise ConfigurationError("LETKF: give `neighbors` (a number) or `nearest` (what was found), not both")

    def update(self, key: Any, ensemble: Any, departures: Departures, streams: tuple[Any, ...]) -> Any:
        """Return the posterior ensemble, before inflation and rotation."""
        shape = self._grid_shape(ensemble)
        places = self._places(streams, shape)
        S, d = departures.S, departures.d
        columns = _to_columns(ensemble, self.grid.ndim)
        observed = departures.observed

        def analyze_point(point: Any) -> Any:
            place, members, found = point
            if found is None:
                near, innovation, there, seen = S, d, places, observed
            else:  # none is the number beyond the last
                near, innovation, seen = (a.at[..., found].get(mode="fill", fill_value=0) for a in (S, d, observed))
                there = places.at[found].get(mode="clip")
            taper = self.localization(self.grid.distance(place[None], there, shape)).astype(S.dtype)
            taper = jnp.where(seen, taper, 0)
            if self.neighbors is not None and self.neighbors < d.shape[0]:
                taper, chosen = lax.top_k(taper, self.neighbors)
                near, innovation = S[:, chosen], d[chosen]
            center = jnp.mean(members, axis=0, keepdims=True)
            moved = transformed_columns(near, innovation, (members - center).astype(S.dtype), taper)
            return center + moved.astype(members.dtype)

        points = self.grid.points(shape)
        self._check_nearest(points.shape[0])
        # Reverse mode recomputes each batch, so that the weights of all points never exist together.
        local = jax.checkpoint(analyze_point)
        everything = (points, columns, self.nearest)
        if points.shape[0] <= self.batch:
            moved = jax.vmap(local)(everything)
        else:
            moved = lax.map(local, everything, batch_size=self.batch)
        return _from_columns(moved, ensemble)

    def _check_nearest(self, points: int) -> None:
        if self.nearest is not None and (jnp.ndim(self.nearest) != 2 or jnp.shape(self.nearest)[0] != points):
            raise ShapeError(
                f"LETKF: nearest has shape {jnp.shape(self.nearest)}, but the grid has {points} points; search with "
                "nearest_observations for this grid"
            )

    def _grid_shape(self, ensemble: Any) -> tuple[int, ...]:
        shapes = {leaf.shape[1:][-self.grid.ndim :] for leaf in jax.tree.leaves(ensemble)}
        if len(shapes) != 1 or len(next(iter(shapes))) != self.grid.ndim:
            raise ShapeError(
                f"LETKF: all leaves of the state need the same {self.grid.ndim} grid axes at their end, found members "
                f"of shapes {tree.describe_shapes(jax.tree.map(lambda leaf: leaf[0], ensemble))}"
            )
        return shapes.pop()

    def _places(self, streams: tuple[Any, ...], shape: tuple[int, ...]) -> Any:
        given = self.places if isinstance(self.places, tuple) else (self.places,)
        if len(given) == 1 and given[0] is None:
            given = (None,) * len(streams)
        if len(given) != len(streams):
            raise ShapeError(f"LETKF: there are {len(streams)} streams of observations, but places for {len(given)}")
        for stream in streams:
            if not is_uncorrelated(stream.error):
                raise ConfigurationError(
                    f"LETKF: a local analysis needs uncorrelated observation errors, found "
                    f"{type(stream.error).__name__}; use Diagonal, or a global filter such as ETKF"
                )
        found = [observation_places(s, self.grid, shape, g) for s, g in zip(streams, given, strict=True)]
        return jnp.concatenate(found)


def _to_columns(ensemble: Any, ndim: int) -> Any:
    """Return all leaves (N, ..., grid) as one array (points, N, channels)."""

    def columns(leaf: Any) -> Any:
        N, split = leaf.shape[0], leaf.ndim - ndim
        flat = leaf.reshape(N, math.prod(leaf.shape[1:split]), math.prod(leaf.shape[split:]))
        return jnp.transpose(flat, (2, 0, 1))

    leaves = [columns(leaf) for leaf in jax.tree.leaves(ensemble)]
    dtype = max((leaf.dtype for leaf in leaves), key=lambda kind: kind.itemsize)
    return jnp.concatenate([leaf.astype(dtype) for leaf in leaves], axis=2)


def _from_columns(columns: Any, ensemble: Any) -> Any:
    leaves, structure = jax.tree.flatten(ensemble)
    channels = [leaf.size // (columns.shape[0] * columns.shape[1]) for leaf in leaves]
    edges = [sum(channels[:k]) for k in range(1, len(leaves))]
    parts = jnp.split(columns, edges, axis=2)
    return structure.unflatten(
        jnp.transpose(part, (1, 2, 0)).reshape(leaf.shape).astype(leaf.dtype)
        for part, leaf in zip(parts, leaves, strict=True)
    )
