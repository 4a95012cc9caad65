"""Places made of parts with distances of their own: levels over a horizontal grid, variables at a place."""

from __future__ import annotations

import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffassim.core.checks import check_indices
from diffassim.core.errors import ConfigurationError, ShapeError, concrete
from diffassim.core.pytree import Pytree
from diffassim.grids.grid import check_finite_places

__all__ = ["Categories", "Levels", "ProductGrid"]


class Levels(Pytree):
    """Points along one axis at any coordinates, for instance heights or logarithms of pressure; a place has one.

    Args:
        coordinate: of each point, shape (n,).

    Raises:
        ShapeError: if it is no vector.

    Example:
        >>> levels = Levels(jnp.array([0.0, 0.5, 2.0]))
        >>> levels.distance(levels.points((3,)), jnp.array([[1.0]]), (3,)).tolist()
        [1.0, 0.5, 1.0]
    """

    coordinate: Any

    def __post_init__(self) -> None:
        if jnp.ndim(self.coordinate) != 1:
            raise ShapeError(f"Levels: coordinate must be a vector, found shape {jnp.shape(self.coordinate)}")

    ndim = coordinates = 1

    def check_places(self, name: str, places: Any) -> None:
        """Raise `DataError`, naming `name`, unless known places are finite."""
        check_finite_places(name, places)

    def points(self, shape: tuple[int, ...]) -> Float[Array, "n 1"]:
        """Return the coordinates of all points; raise `ShapeError` unless the axis has as many."""
        n = jnp.shape(self.coordinate)[0]
        if shape[-1:] != (n,):
            raise ShapeError(f"Levels: there are {n} coordinates, but the field has shape {shape}")
        return jnp.asarray(self.coordinate, float)[:, None]

    def distance(self, a: Float[Array, "... 1"], b: Float[Array, "... 1"], shape: tuple[int, ...]) -> Float[Array, ...]:
        """Return |a - b|."""
        return jnp.abs(a[..., 0] - b[..., 0])


class Categories(Pytree):
    """Points that have a number instead of a coordinate, such as the variables along an axis of a state.

    How far two of them are apart is stated, in a unit of one's own; it may be learned like a radius. Infinity means
    that one tells nothing about the other.

    Args:
        apart: distances, shape (n, n), symmetric with a zero diagonal.

    Raises:
        ShapeError: if it is no square matrix.
        ConfigurationError: if it is not symmetric, negative, or not zero on the diagonal.

    Example:
        >>> variables = Categories(jnp.array([[0.0, 1.5], [1.5, 0.0]]))
        >>> variables.distance(variables.points((2,)), jnp.array([[1.0]]), (2,)).tolist()
        [1.5, 0.0]
    """

    apart: Any

    def __post_init__(self) -> None:
        shape = jnp.shape(self.apart)
        if len(shape) != 2 or shape[0] != shape[1]:
            raise ShapeError(f"Categories: apart must be a square matrix, found shape {shape}")
        known = concrete(self.apart)
        if (
            known is not None
            and not ((known == known.T) & (known >= 0) & ((known == 0) | ~np.eye(*shape, dtype=bool))).all()
        ):
            raise ConfigurationError("Categories: apart must be symmetric and not negative, with zeros on the diagonal")

    ndim = coordinates = 1

    def check_places(self, name: str, places: Any) -> None:
        """Raise an error, naming `name`, unless known places are numbers of categories, 0 to n - 1."""
        known = check_finite_places(name, places)
        if known is not None:
            whole = known.astype(int) if np.all(known == np.round(known)) else known
            check_indices(f"{name}: the category", whole, jnp.shape(self.apart)[0])

    def points(self, shape: tuple[int, ...]) -> Float[Array, "n 1"]:
        """Return the numbers of all points; raise `ShapeError` unless the axis has as many."""
        n = jnp.shape(self.apart)[0]
        if shape[-1:] != (n,):
            raise ShapeError(f"Categories: there are {n} of them, but the field has shape {shape}")
        return jnp.arange(n, dtype=float)[:, None]

    def distance(self, a: Float[Array, "... 1"], b: Float[Array, "... 1"], shape: tuple[int, ...]) -> Float[Array, ...]:
        """Return the stated distances of the categories with these numbers."""
        first, second = jnp.broadcast_arrays(a[..., 0], b[..., 0])
        return jnp.asarray(self.apart, float)[first.astype(jnp.int32), second.astype(jnp.int32)]


class ProductGrid(Pytree):
    """The grid of all combinations of the points of its factors, on the trailing axes of a field, in their order.

    A place has the coordinates of all factors one after the other, and two places have one distance in each factor, as
    a tuple: what `ProductTaper` takes. `ProductGrid((Levels(z), Sphere(lat[:, None], lon)))` is the grid of fields of
    (level, latitude, longitude).

    Args:
        factors: tuple of `Grid`, `Sphere`, `Levels`, `Categories`.

    Raises:
        ConfigurationError: if there are not at least two.

    Example:
        >>> from diffassim.grids.grid import Grid
        >>> grid = ProductGrid((Levels(jnp.array([0.0, 3.0])), Grid()))
        >>> grid.points((2, 3))[4].tolist()
        [3.0, 1.0]
        >>> [float(d) for d in grid.distance(jnp.array([3.0, 2.0]), jnp.array([0.0, 0.0]), (2, 3))]
        [3.0, 1.0]
    """

    factors: Any

    def __post_init__(self) -> None:
        if not isinstance(self.factors, tuple) or len(self.factors) < 2:
            raise ConfigurationError(f"ProductGrid: factors must be a tuple of at least two, found {self.factors!r}")

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return sum(factor.ndim for factor in self.factors)

    @property
    def coordinates(self) -> int:
        """Number of coordinates of a place."""
        return sum(factor.coordinates for factor in self.factors)

    def check_places(self, name: str, places: Any) -> None:
        """Check the coordinates of every factor."""
        if jnp.shape(places)[-1:] == (self.coordinates,):
            edges = itertools.pairwise(np.cumsum([0, *(factor.coordinates for factor in self.factors)]))
            for factor, (i, j) in zip(self.factors, edges, strict=True):
                factor.check_places(name, places[..., i:j])

    def points(self, shape: tuple[int, ...]) -> Float[Array, "n D"]:
        """Return the coordinates of all points, in the order of a field's ravelled trailing axes."""
        parts = [factor.points(own) for factor, own in zip(self.factors, self._shapes(shape), strict=True)]
        numbers = jnp.meshgrid(*(jnp.arange(part.shape[0]) for part in parts), indexing="ij")
        return jnp.concatenate([part[n.ravel()] for part, n in zip(parts, numbers, strict=True)], axis=-1)

    def distance(self, a: Float[Array, "... D"], b: Float[Array, "... D"], shape: tuple[int, ...]) -> tuple[Any, ...]:
        """Return the distance of places in each factor."""
        edges = itertools.pairwise(np.cumsum([0, *(factor.coordinates for factor in self.factors)]))
        return tuple(
            factor.distance(a[..., i:j], b[..., i:j], own)
            for factor, (i, j), own in zip(self.factors, edges, self._shapes(shape), strict=True)
        )

    def embedding(self, places: np.ndarray, shape: tuple[int, ...]) -> Any:
        """Raise `ConfigurationError`: there is no one distance by which places could be searched."""
        raise ConfigurationError(
            "ProductGrid: which observations are nearest depends on the tapers; give LETKF(neighbors=...), which goes "
            "by their coefficients, or search in one of the factors"
        )

    def _shapes(self, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        if len(shape) < self.ndim:
            raise ShapeError(f"ProductGrid: the grid has {self.ndim} axes, but the field has shape {shape}")
        edges = len(shape) - self.ndim + np.cumsum([0, *(factor.ndim for factor in self.factors)])
        return [tuple(shape[i:j]) for i, j in itertools.pairwise(edges)]
