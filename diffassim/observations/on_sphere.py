"""Linear interpolation from a grid of latitudes and longitudes to run-time places on the sphere."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffassim.core.checks import real_array
from diffassim.core.errors import ConfigurationError, DataError, ShapeError, concrete
from diffassim.core.pytree import static
from diffassim.observations.operators import Field, Operator, PlacesUnknownError

__all__ = ["InterpolateOnSphere"]

ROUNDING = 1e-3  # degrees, of longitudes in single precision


class InterpolateOnSphere(Operator):
    r"""Interpolation that is linear between latitudes, which may be unevenly spaced, and around circles of longitude.

    With the rows \(\varphi_i \le \varphi < \varphi_{i+1}\) around a place and the columns \(\lambda_j \le \lambda <
    \lambda_{j+1}\), counted around the circle,

    .. math::
        H(x) = \sum_{a, b \in \{0, 1\}} w_a(f)\, w_b(g)\, x_{i+a,\, j+b}, \quad
        f = \frac{\varphi - \varphi_i}{\varphi_{i+1} - \varphi_i},\;
        g = \frac{\lambda - \lambda_j}{\Delta\lambda},\; w_0(f) = 1 - f,\; w_1(f) = f

    A place between the last latitude and the pole is read at the last latitude. Places may be traced: moving
    instruments compile once, and the value is differentiable by the place inside of a cell. Local filters find the
    places here; give them the `Sphere` of the same grid.

    Values have shape (fields, m), or (..., m) for a state that is one array of shape (..., rows, columns).

    Args:
        latitude: of the rows, degrees, increasing, shape (rows,).
        longitude: of the columns, degrees eastward, evenly spaced around the whole circle, shape (columns,).
        fields: names of the state's fields (see `Field`) that are observed at every place (static); None: the state is
            one array.
        places: latitude and longitude, degrees, shape (m, 2); None where `Observations.where` gives them.

    Raises:
        DataError: if latitudes do not increase, or longitudes are not evenly spaced around the circle.
        ShapeError: if a field does not have these rows and columns.
        ConfigurationError: if there are no places.

    Example:
        >>> H = InterpolateOnSphere(np.array([-45.0, 0.0, 45.0]), np.array([0.0, 90.0, 180.0, 270.0]))
        >>> H(jnp.arange(12.0).reshape(3, 4), jnp.array([[0.0, 45.0], [22.5, 315.0]])).tolist()
        [4.5, 7.5]
    """

    latitude: Any
    longitude: Any
    fields: tuple[str, ...] | None = static(default=None)
    places: Float[Array, "m 2"] | None = None

    def __post_init__(self) -> None:
        # With windows the axes have a leading axis of windows, like every array of the observations.
        latitude, longitude = concrete(self.latitude), concrete(self.longitude)
        if latitude is not None and not (latitude.ndim and latitude.shape[-1] > 1 and (np.diff(latitude) > 0).all()):
            raise DataError(
                f"InterpolateOnSphere: at least two latitudes that increase are needed, found shape {latitude.shape}; "
                "turn grid and fields around where they go from north to south"
            )
        if longitude is not None:
            count = longitude.shape[-1] if longitude.ndim else 1
            if count < 2 or not np.allclose(np.diff(longitude), 360 / count, rtol=0, atol=ROUNDING):
                raise DataError(
                    "InterpolateOnSphere: the longitudes must go eastward around the whole circle in even steps, "
                    f"found shape {longitude.shape} from {longitude.flat[0]:g} to {longitude.flat[-1]:g} degrees"
                )
        if self.places is not None and not hasattr(self.places, "dtype"):
            self._set(places=jnp.asarray(real_array("InterpolateOnSphere: places", self.places)))

    def check(self, name: str, x: Any, where: Any = None) -> None:
        """Raise `ShapeError` if a field does not lie on the grid, `DataError` if a place of the operator is missing."""
        known = concrete(self.places) if where is None else None
        if known is not None and not np.isfinite(known).all():
            raise DataError(
                f"{name}: places of InterpolateOnSphere are not finite; leave them out, or give the places of each "
                "time as `where` of the observations, where such a place is missing"
            )
        for field in self._fields(x):
            self._check_field(name, jnp.shape(field))

    def __call__(self, x: Any, where: Any = None) -> Float[Array, "... m"]:
        """Return the fields at the places."""
        places = self.places if where is None else where
        if places is None:
            raise ConfigurationError("InterpolateOnSphere needs `places`, or Observations needs `where`")
        fields = self._fields(x)
        for field in fields:
            self._check_field("InterpolateOnSphere", jnp.shape(field))
        stacked = fields[0] if self.fields is None else jnp.stack(fields)
        dtype = stacked.dtype
        latitude, longitude = (jnp.asarray(axis) for axis in (self.latitude, self.longitude))
        phi, turn = jnp.asarray(places)[..., 0].astype(latitude.dtype), 360 / longitude.shape[0]
        row = jnp.clip(jnp.searchsorted(latitude, phi, side="right") - 1, 0, latitude.shape[0] - 2)
        f = jnp.clip((phi - latitude[row]) / (latitude[row + 1] - latitude[row]), 0, 1).astype(dtype)
        column = (jnp.asarray(places)[..., 1].astype(longitude.dtype) - longitude[0]) / turn
        west = jnp.floor(column)
        g = (column - west).astype(dtype)
        west = west.astype(jnp.int32) % longitude.shape[0]
        east = (west + 1) % longitude.shape[0]

        def along(row: Array) -> Array:
            return _weight(1 - g, stacked) * stacked[..., row, west] + _weight(g, stacked) * stacked[..., row, east]

        return _weight(1 - f, stacked) * along(row) + _weight(f, stacked) * along(row + 1)

    def value_places(self, points: Float[Array, "*grid D"], where: Any = None) -> Float[Array, "m 2"]:
        """Return the places."""
        places = self.places if where is None else where
        if places is None or points.shape[-1] != 2:
            raise PlacesUnknownError(
                "InterpolateOnSphere has places of latitude and longitude, but the points of the grid have "
                f"{points.shape[-1]} coordinates: give the method grid=Sphere(...)"
            )
        return jnp.asarray(places)

    def _fields(self, x: Any) -> list[Any]:
        return [x] if self.fields is None else [Field(name)(x) for name in self.fields]

    def _check_field(self, name: str, shape: tuple[int, ...]) -> None:
        grid = (jnp.shape(self.latitude)[-1], jnp.shape(self.longitude)[-1])
        if shape[-2:] != grid:
            raise ShapeError(f"{name}: InterpolateOnSphere has a grid of shape {grid}, but a field has shape {shape}")


def _weight(w: Array, stacked: Array) -> Array:
    return w.reshape((1,) * (stacked.ndim - 2) + w.shape)
