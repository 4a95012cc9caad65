"""What all local methods share: a taper, the grid of the state, and the places of the observations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.ensemble.base import EnsembleMethod
from diffassim.ensemble.local.places import observation_places
from diffassim.ensemble.local.search import search_record
from diffassim.grids.grid import Grid
from diffassim.methods.departures import Departures
from diffassim.methods.likelihood import log_density
from diffassim.observations import Operator
from diffassim.observations.container import as_streams

__all__ = ["LocalizedMethod", "shared_axes"]


class LocalizedMethod(EnsembleMethod):
    """Base of the methods in which the influence of an observation falls with distance.

    All leaves of the state share the grid on their trailing axes; axes in front (levels, variables) are treated alike.
    R has to be uncorrelated, because a whitened value has to have a place.

    Args:
        inflation: an `Inflation`, or a number that multiplies the posterior anomalies.
        rotation: whether the posterior anomalies are rotated at random, the same at all points (static).
        localization: taper, for example `GaspariCohn(radius)`: a function of distance.
        grid: `Grid`, `Sphere` or `ProductGrid` of the state; default: a periodic line of unit spacing.
        places: coordinates of the observations, shape (m, D), or a tuple with one entry (or None) for each stream;
            None where the operator knows them.
        nearest: what lies near what, numbers in place of all pairs. By default they are searched once, outside of
            traced code, where places and radius are known there (by name only).
    """

    localization: Any = None
    grid: Any = Grid()
    places: Any = None
    nearest: Any = dataclasses.field(default=None, kw_only=True)

    def require_localization(self, instead: str) -> None:
        """Raise `ConfigurationError`, naming the method to use `instead`, unless there is a taper."""
        if not callable(self.localization):
            raise ConfigurationError(
                f"{type(self).__name__}: localization must be a taper like GaspariCohn(radius), found "
                f"{self.localization!r}; without one use {instead}"
            )

    def check(self, belief: Any, observations: Any) -> None:
        """Raise an error if known places lie outside of the grid, or operators count in another unit than it."""
        super().check(belief, observations)
        name = type(self).__name__
        streams = as_streams(observations)
        given = self.places if isinstance(self.places, tuple) else (self.places,) * len(streams)
        for stream, places in zip(streams, given, strict=False):  # how many there are is checked with their shapes
            if places is not None:
                self.grid.check_places(f"{name}.places", places)
            elif isinstance(stream.operator, Operator):
                stream.operator.check_grid(name, self.grid)

    def log_likelihood(self, departures: Departures, streams: tuple[Any, ...]) -> Float[Array, ""]:
        """Return the log density of the observed values; with a taper the sum of those of the single values."""
        if self.localization is None:
            return super().log_likelihood(departures, streams)
        ratios = jax.vmap(lambda s, d: self.log_ratio(s[:, None], d[None]), (1, 0))(departures.S, departures.d)
        return log_density(jnp.sum(ratios), streams)

    def grid_shape(self, ensemble: Any) -> tuple[int, ...]:
        """Return the shape of the grid axes that all leaves share; raise `ShapeError` if they do not."""
        return shared_axes(type(self).__name__, self.grid, ensemble)

    def stream_places(self, streams: tuple[Any, ...], shape: tuple[int, ...]) -> Float[Array, "m D"]:
        """Return the coordinates of all observed values.

        Raises:
            ShapeError: if there is not one entry of `places` for each stream, or one does not fit.
            ConfigurationError: if places are not known, or errors are correlated.
        """
        name = type(self).__name__
        given = self.given_places(streams)
        for stream in streams:
            if not stream.error.uncorrelated:
                raise ConfigurationError(
                    f"{name}: a local analysis needs uncorrelated observation errors, found "
                    f"{type(stream.error).__name__}; use Diagonal, or a global filter such as ETKF"
                )
        found = [observation_places(s, self.grid, shape, g) for s, g in zip(streams, given, strict=True)]
        return jnp.concatenate(found)

    def given_places(self, streams: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the entry of `places` of each stream; raise `ShapeError` if there is another number of them."""
        given = self.places if isinstance(self.places, tuple) else (self.places,)
        if len(given) == 1 and given[0] is None:
            given = (None,) * len(streams)
        if len(given) != len(streams):
            raise ShapeError(
                f"{type(self).__name__}: there are {len(streams)} streams of observations, but places for {len(given)}"
            )
        return given

    def finder(self, shape: tuple[int, ...]) -> Callable[[np.ndarray, np.ndarray], Any] | None:
        """Return the search of this method, of places and whether they are observed; None: it uses all pairs."""
        return None

    def prepared(self, ensemble: Any, streams: tuple[Any, ...], rows: Any = None, real: Any = None) -> Any:
        """Return the method that knows what lies near what at each time of a record; see `SequentialMethod`."""
        prepared, _ = super().prepared(ensemble, streams, rows, real)
        if self.nearest is not None or not callable(self.localization):
            return prepared, None
        shape = self.grid_shape(ensemble)
        find = self.finder(shape)
        found = None if find is None else search_record(self, shape, streams, rows, real, find)
        return (prepared, None) if found is None else (prepared.replace(nearest=found[0]), found[1])

    def across(self, ensemble: Any) -> Any:
        """Return an ensemble with all members of a place on one device, split along the first axis of the grid."""
        return ensemble if self.layout is None else self.layout.turned(ensemble, -self.grid.ndim)

    def at(self, number: Any) -> Any:
        """Return the method for a time that has the set of places of this number."""
        return self.replace(nearest=jax.tree.map(lambda leaf: leaf[number], self.nearest))

    def taper(self, a: Any, b: Any, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return the coefficients between places a and b, which broadcast against each other."""
        return self.localization(self.grid.distance(a, b, shape)).astype(dtype)


def shared_axes(name: str, grid: Any, ensemble: Any) -> tuple[int, ...]:
    """Return the shape of the grid's axes that all leaves share; raise `ShapeError`, naming `name`, if they do not."""
    shapes = {leaf.shape[1:][-grid.ndim :] for leaf in jax.tree.leaves(ensemble)}
    if len(shapes) != 1 or len(next(iter(shapes))) != grid.ndim:
        raise ShapeError(
            f"{name}: all leaves of the state need the same {grid.ndim} grid axes at their end, found members of "
            f"shapes {tree.describe_shapes(jax.tree.map(lambda leaf: leaf[0], ensemble))}"
        )
    return shapes.pop()
