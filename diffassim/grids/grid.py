"""Regular grids: spacing and boundary of the axes that a field lives on."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffassim.core.checks import real_array
from diffassim.core.errors import ConfigurationError, DataError, ShapeError, require_positive
from diffassim.core.linalg import safe_sqrt
from diffassim.core.pytree import Pytree, static

__all__ = ["Grid", "check_finite_places"]

MAX_DIMENSIONS = 3


def check_finite_places(name: str, places: Any) -> Any:
    """Return known places as an array of NumPy, or None where they are traced.

    Args:
        name: who asks, for the message.
        places: coordinates on the last axis.

    Raises:
        DataError: if one is not finite, or no real number.
    """
    known = None if isinstance(places, jax.core.Tracer) else np.asarray(real_array(name, places))
    if known is not None and not np.isfinite(known).all():
        bad = int((~np.isfinite(known)).reshape(-1, known.shape[-1] if known.ndim else 1).any(axis=1).sum())
        raise DataError(
            f"{name}: {bad} places are not finite; leave these observations out, or give the places of each time as "
            "`where` of the observations, where such a place is missing"
        )
    return known


class Grid(Pytree):
    """A regular grid of one to three dimensions, on the trailing axes of a field.

    It does not hold the number of points: that is the shape of the field.

    Args:
        spacing: distance between neighbors, one number for all axes or a tuple of one per axis.
        periodic: whether an axis wraps around, one flag or a tuple of one per axis (static). The number of axes is the
            length of the longer tuple.

    Raises:
        ShapeError: if the two tuples differ in length, or there are more than three axes.
        ConfigurationError: if a spacing is not finite and positive.

    Example:
        >>> Grid(spacing=(2.0, 0.5), periodic=(True, False)).ndim
        2
        >>> Grid().periodic
        (True,)
    """

    spacing: Any = 1.0
    periodic: Any = static(default=True)

    def __post_init__(self) -> None:
        given = [len(v) for v in (self.spacing, self.periodic) if isinstance(v, tuple | list)]
        ndim = max(given, default=1)
        if any(length != ndim for length in given):
            raise ShapeError(
                f"Grid: spacing and periodic must have one entry per axis, found {given[0]} and {given[1]}"
            )
        if not 1 <= ndim <= MAX_DIMENSIONS:
            raise ShapeError(f"Grid: one to {MAX_DIMENSIONS} axes are possible, found {ndim}")
        require_positive("Grid.spacing", self.spacing)
        if not isinstance(self.spacing, tuple | list) and jnp.ndim(self.spacing):
            raise ShapeError("Grid: give the spacings of several axes as a tuple of numbers, not as an array")
        spacing = tuple(self.spacing) if isinstance(self.spacing, tuple | list) else (self.spacing,) * ndim
        periodic = self.periodic if isinstance(self.periodic, tuple | list) else (self.periodic,) * ndim
        if not all(isinstance(flag, bool) for flag in periodic):
            raise ConfigurationError(f"Grid: periodic must be True or False for each axis, found {self.periodic}")
        self._set(spacing=spacing, periodic=tuple(periodic))

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.periodic)

    @property
    def coordinates(self) -> int:
        """Number of coordinates of a place."""
        return self.ndim

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise `ShapeError`, naming `name`, unless a field of this shape has the grid's axes."""
        if len(shape) < self.ndim:
            raise ShapeError(f"{name}: the grid has {self.ndim} axes, but the field has shape {shape}")

    def check_places(self, name: str, places: Any) -> None:
        """Raise `DataError`, naming `name`, unless known places are finite; see `check_finite_places`."""
        check_finite_places(name, places)

    def points(self, shape: tuple[int, ...]) -> Float[Array, "n D"]:
        """Return the coordinates of all points of a field of this shape, in the order of its ravelled trailing axes.

        Example:
            >>> Grid(spacing=(2.0, 0.5)).points((2, 2)).tolist()
            [[0.0, 0.0], [0.0, 0.5], [2.0, 0.0], [2.0, 0.5]]
        """
        counts = shape[len(shape) - self.ndim :]
        axes = [jnp.arange(n, dtype=float) * h for n, h in zip(counts, self.spacing, strict=True)]
        return jnp.stack([jnp.ravel(axis) for axis in jnp.meshgrid(*axes, indexing="ij")], axis=-1)

    def distance(self, a: Float[Array, "... D"], b: Float[Array, "... D"], shape: tuple[int, ...]) -> Float[Array, ...]:
        """Return the Euclidean distance of places, around the periodic axes where that is shorter.

        Args:
            a: coordinates in the unit of the spacing, on the last axis; they may lie outside of a periodic domain.
            b: coordinates of the same shape, or of one that has axes of length one.
            shape: of the field, which with the spacing says how long the periodic axes are.

        Returns:
            Distance, with derivative zero (not NaN) between equal places.

        Example:
            >>> float(Grid(spacing=0.5).distance(jnp.array([0.5]), jnp.array([4.0]), (10,)))
            1.5
        """
        squared: Any = 0.0
        counts = shape[len(shape) - self.ndim :]
        for axis, (n, h, wraps) in enumerate(zip(counts, self.spacing, self.periodic, strict=True)):
            apart = jnp.abs(a[..., axis] - b[..., axis])
            if wraps:
                apart = jnp.mod(apart, n * h)
                apart = jnp.minimum(apart, n * h - apart)
            squared = squared + jnp.square(apart)
        return safe_sqrt(squared)

    def embedding(self, places: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Return places whose straight distances are those of `distance`, and the lengths of the axes that wrap around.

        Args:
            places: known coordinates, shape (m, D).
            shape: of the field.

        Returns:
            Coordinates inside of the periodic domain, shape (m, D), and its length along each axis, zero where an axis
            does not wrap around: what a search tree on a torus takes.
        """
        counts = shape[len(shape) - self.ndim :]
        lengths = np.array(
            [n * float(h) if wraps else 0.0 for n, h, wraps in zip(counts, self.spacing, self.periodic, strict=True)]
        )
        places = np.asarray(places, float)
        inside = np.mod(places, np.where(lengths > 0, lengths, 1.0))
        # A remainder of a tiny negative number rounds to the length itself.
        inside = np.where(inside >= lengths, 0.0, inside)
        return np.where(lengths > 0, inside, places), lengths

    def straight(self, distance: Any) -> Any:
        """Return the straight distance, in the space of `embedding`, of two places that are so far apart: the same."""
        return distance

    def unembedded(self, places: np.ndarray) -> np.ndarray:
        """Return the coordinates of places of the space of `embedding`: the same."""
        return places
