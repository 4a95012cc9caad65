"""Point sources between the points of a grid, and their histories: differentiable by place, time and strength."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffassim.core.errors import ConfigurationError, ShapeError, require_finite, require_positive
from diffassim.core.pytree import Pytree

__all__ = ["PointSources", "Ricker", "Sampled", "point_weights"]

WIDTH = 2.0  # of the kernel's Gaussian, in grid spacings


class Ricker(Pytree):
    r"""The history \(a\,(1 - 2 s^2)\, e^{-s^2}\) with \(s = \pi f (t - t_0)\), of one or several sources.

    Args:
        frequency: f, at the peak of the spectrum, in 1 per time unit.
        time: t_0, of the peak.
        strength: a.

    Raises:
        ConfigurationError: if a frequency is not positive.

    Example:
        >>> Ricker(frequency=10.0, time=0.2, strength=3.0)(jnp.array(0.2)).tolist()
        3.0

    Source: Ricker (1953).
    """

    frequency: Any
    time: Any = 0.0
    strength: Any = 1.0

    def __post_init__(self) -> None:
        require_positive("Ricker.frequency", self.frequency)

    def __call__(self, time: Float[Array, ""]) -> Float[Array, ...]:
        """Return the strength at a time."""
        f, t0, a = (jnp.asarray(value, time.dtype) for value in (self.frequency, self.time, self.strength))
        squared = jnp.square(jnp.pi * f * (time - t0))
        return a * (1 - 2 * squared) * jnp.exp(-squared)


class Sampled(Pytree):
    """A history given at equal intervals, linear between them and zero outside of them.

    Args:
        values: one row for each time, shape (times,) or (times, sources).
        interval: between the rows.
        time: of the first row.

    Raises:
        ConfigurationError: if the interval is not positive.
        ShapeError: if there are not at least two rows.

    Example:
        >>> float(Sampled(jnp.array([0.0, 2.0, 0.0]), interval=0.1)(jnp.array(0.05)).round(12))
        1.0
    """

    values: Any
    interval: Any
    time: Any = 0.0

    def __post_init__(self) -> None:
        require_positive("Sampled.interval", self.interval)
        if not 1 <= jnp.ndim(self.values) <= 2 or jnp.shape(self.values)[0] < 2:
            raise ShapeError(
                f"Sampled: values must have a row for each of at least two times, found {jnp.shape(self.values)}"
            )

    def __call__(self, time: Float[Array, ""]) -> Float[Array, ...]:
        """Return the strength at a time."""
        interval, first = (jnp.asarray(value, time.dtype) for value in (self.interval, self.time))
        values = jnp.asarray(self.values, time.dtype)
        last = values.shape[0] - 1
        place = (time - first) / interval
        row = jnp.clip(jnp.floor(place), 0, last - 1)
        index, fraction = row.astype(jnp.int32), place - row
        inside = (place >= 0) & (place <= last)
        fraction = jnp.where(inside, fraction, 0)
        return jnp.where(inside, (1 - fraction) * values[index] + fraction * values[index + 1], 0)


class PointSources(Pytree):
    """Sources at places of their own, which need not be points of the grid.

    Args:
        places: coordinates in the order of the grid's axes, shape (sources, axes), or (axes,) for one.
        history: what returns the strengths at a time, shape () for all the same, or (sources,): `Ricker`, `Sampled`,
            any callable pytree.

    Raises:
        ShapeError: if the places have another number of axes.
        DataError: if one is not finite.
        ConfigurationError: if the history cannot be called.

    Example:
        >>> PointSources(jnp.array([20.0, 50.0]), Ricker(frequency=5.0)).count
        1
    """

    places: Any
    history: Any

    def __post_init__(self) -> None:
        if not 1 <= jnp.ndim(self.places) <= 2:
            raise ShapeError(f"PointSources: places must have shape (sources, axes), found {jnp.shape(self.places)}")
        require_finite("PointSources.places", self.places)
        if not callable(self.history):
            raise ConfigurationError(
                f"PointSources: history must be a function of time such as Ricker, found {type(self.history).__name__}"
            )

    @property
    def count(self) -> int:
        """Number of sources."""
        return 1 if jnp.ndim(self.places) == 1 else int(jnp.shape(self.places)[0])

    def strengths(self, time: Float[Array, ""]) -> Float[Array, " sources"]:
        """Return the strength of each source at a time.

        Raises:
            ShapeError: if the history has another number of values.
        """
        found = jnp.asarray(self.history(time), time.dtype)
        if found.shape not in ((), (1,), (self.count,)):
            raise ShapeError(f"PointSources: {self.count} places, but the history has values of shape {found.shape}")
        return jnp.broadcast_to(found.reshape(-1), (self.count,))


def point_weights(
    places: Float[Array, " sources"], n: int, images: tuple[float, float] | None
) -> Float[Array, "sources n"]:
    r"""Return the weights of the cells of one axis for points between them.

    .. math:: w_i = \operatorname{sinc}(d_i)\, e^{-d_i^2 / 2 s^2}

    d is the distance to the center of cell i in spacings. The kernel interpolates: at a center it is one there and zero
    at the others. Its Gaussian makes it infinitely often differentiable in the place and short; its error is 3e-5
    for waves of six points, and 2e-3 for waves of four.

    Args:
        places: in spacings from the first face of the axis.
        n: number of cells.
        images: factor of the mirror image at the first and at the last face, 1 at a wall and -1 at a free surface; None
            for an axis that wraps around.

    Example:
        >>> jnp.abs(point_weights(jnp.array([1.5]), 4, (1.0, 1.0))).round(12).tolist()
        [[0.0, 1.0, 0.0, 0.0]]

    Source: Wei (1999), with the images of Hicks (2002).
    """
    center = jnp.arange(n, dtype=places.dtype) + 0.5
    distance = center[None, :] - places[:, None]
    if images is None:
        return _kernel(distance - n) + _kernel(distance) + _kernel(distance + n)
    first, last = images
    before, behind = center[None, :] + places[:, None], center[None, :] + places[:, None] - 2 * n
    return _kernel(distance) + first * _kernel(before) + last * _kernel(behind)


def _kernel(d: Array) -> Array:
    return jnp.sinc(d) * jnp.exp(-jnp.square(d) / (2 * WIDTH**2))
