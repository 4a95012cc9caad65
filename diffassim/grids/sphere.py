"""Places on a sphere: regular in latitude and longitude, or any mesh."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffassim.core.errors import DataError, ShapeError, concrete, require_positive
from diffassim.core.linalg import safe_sqrt
from diffassim.core.pytree import Pytree
from diffassim.grids.grid import check_finite_places

__all__ = ["Sphere"]

EARTH = 6371.0  # mean radius, km


class Sphere(Pytree):
    r"""The points of a field on a sphere, on its trailing axes; places are (latitude, longitude) in degrees.

    Latitude and longitude broadcast against each other to the shape of these axes: `Sphere(lat[:, None], lon)` for
    fields of (latitude, longitude), `Sphere(lat, lon[:, None])` for (longitude, latitude), `Sphere(lat, lon)` with
    equal lengths for a mesh whose points are numbered. The distance of two places is that along the great circle,

    .. math::
        d = 2 r \arcsin \sqrt{h},\quad
        h = \sin^2 \tfrac{\Delta\varphi}{2} + \cos\varphi_1 \cos\varphi_2 \sin^2 \tfrac{\Delta\lambda}{2}

    Args:
        latitude: degrees, -90 to 90.
        longitude: degrees; full turns make no difference.
        radius: of the sphere, which gives distances their unit; default: the Earth's in km.

    Raises:
        ShapeError: if latitude and longitude do not broadcast against each other, or are single numbers.
        DataError: if a latitude lies beyond a pole, or a number is missing.
        ConfigurationError: if the radius is not positive.

    Example:
        >>> sphere = Sphere(np.array([[-45.0], [45.0]]), np.array([0.0, 120.0, 240.0]))
        >>> sphere.ndim, sphere.points((2, 3))[4].tolist()
        (2, [45.0, 120.0])
        >>> float(sphere.distance(jnp.array([0.0, 350.0]), jnp.array([0.0, 10.0]), (2, 3)).round())  # 20 degrees
        2224.0

    Source: Sinnott (1984), in the form that is exact for small and opposite distances alike.
    """

    latitude: Any
    longitude: Any
    radius: Any = EARTH

    def __post_init__(self) -> None:
        require_positive("Sphere.radius", self.radius)
        for name in ("latitude", "longitude"):
            known = concrete(getattr(self, name))
            if known is not None and not np.isfinite(known).all():
                raise DataError(f"Sphere: {name} holds {np.sum(~np.isfinite(known))} entries that are not finite")
        known = concrete(self.latitude)
        if known is not None and np.any(np.abs(known) > 90):
            raise DataError(f"Sphere: latitudes must lie in [-90, 90] degrees, found {np.max(np.abs(known))}")
        try:
            shape = self.shape
        except ValueError:
            shape = ()
        if not shape:
            raise ShapeError(
                f"Sphere: latitude of shape {jnp.shape(self.latitude)} and longitude of shape "
                f"{jnp.shape(self.longitude)} must broadcast against each other to the axes of the field"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a field's trailing axes."""
        return tuple(np.broadcast_shapes(jnp.shape(self.latitude), jnp.shape(self.longitude)))

    @property
    def ndim(self) -> int:
        """Number of axes of a field."""
        return len(self.shape)

    @property
    def coordinates(self) -> int:
        """Number of coordinates of a place."""
        return 2

    def check_places(self, name: str, places: Any) -> None:
        """Raise `DataError`, naming `name`, unless known places are latitudes and longitudes.

        Latitudes lie in [-90, 90]; what lies beyond is a fill value, or longitude and latitude are exchanged. Full
        turns of the longitude make no difference, but more than ten of them are a fill value.
        """
        known = check_finite_places(name, places)
        if known is None or known.shape[-1:] != (2,) or not known.size:
            return
        for part, numbers, limit in (("latitude", known[..., 0], 90.0), ("longitude", known[..., 1], 3600.0)):
            wrong = numbers[np.abs(numbers) > limit]
            if wrong.size:
                raise DataError(
                    f"{name}: the {part} {wrong.flat[0]} of a place lies outside of [{-limit:g}, {limit:g}] degrees; "
                    "places are (latitude, longitude), in this order, and a fill value is no place"
                )

    def points(self, shape: tuple[int, ...]) -> Float[Array, "n 2"]:
        """Return latitude and longitude of all points, in the order of a field's ravelled trailing axes.

        Raises:
            ShapeError: if the trailing axes of `shape` are not those of the sphere's points.
        """
        if shape[len(shape) - self.ndim :] != self.shape:
            raise ShapeError(f"Sphere: its points have shape {self.shape}, but the field has shape {shape}")
        both = jnp.broadcast_arrays(jnp.asarray(self.latitude, float), jnp.asarray(self.longitude, float))
        return jnp.stack([jnp.ravel(part) for part in both], axis=-1)

    def distance(self, a: Float[Array, "... 2"], b: Float[Array, "... 2"], shape: tuple[int, ...]) -> Float[Array, ...]:
        """Return the distance of places along the great circle, in the unit of the radius.

        Args:
            a: latitude and longitude in degrees, on the last axis.
            b: the same, of the same shape, or of one that has axes of length one.
            shape: of the field; not used, a sphere knows its size.

        Returns:
            Distance, with derivative zero (not NaN) between equal and between opposite places.
        """
        a, b = jnp.deg2rad(a), jnp.deg2rad(b)
        half = jnp.sin((a - b) / 2) ** 2
        h = half[..., 0] + jnp.cos(a[..., 0]) * jnp.cos(b[..., 0]) * half[..., 1]
        angle = 2 * jnp.arctan2(safe_sqrt(h), safe_sqrt(jnp.maximum(1 - h, 0)))
        return jnp.asarray(self.radius, angle.dtype) * angle

    def embedding(self, places: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, None]:
        """Return places as unit vectors, whose straight distances are ordered like those along great circles."""
        latitude, longitude = np.deg2rad(np.asarray(places, float)).T
        return np.stack(
            [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)], axis=-1
        ), None

    def straight(self, distance: Any) -> Any:
        """Return the straight distance, in the space of `embedding`, of two places that are so far apart."""
        return 2 * np.sin(np.minimum(np.asarray(distance, float) / float(self.radius), np.pi) / 2)

    def unembedded(self, places: np.ndarray) -> np.ndarray:
        """Return latitude and longitude of places of the space of `embedding`, also of such inside of the sphere."""
        x, y, z = places.T
        return np.rad2deg(np.stack([np.arctan2(z, np.hypot(x, y)), np.arctan2(y, x)], axis=-1))
