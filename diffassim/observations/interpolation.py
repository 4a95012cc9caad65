"""Multilinear interpolation from a regular grid to run-time places."""

from __future__ import annotations

import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffassim.core.checks import real_array
from diffassim.core.errors import ConfigurationError, DataError, ShapeError, concrete, require_positive
from diffassim.core.pytree import static
from diffassim.observations.operators import Operator, PlacesUnknownError

__all__ = ["Interpolate"]


class Interpolate(Operator):
    r"""Multilinear interpolation H(x) = sum over cell corners of weight times value.

    With the fractional index \(q_d = (p_d - \text{origin}_d)/\text{spacing}_d\), i = floor(q), w = q - i, the weight
    of the corner i + c, c in {0, 1}^D, is \(\prod_d w_d^{c_d} (1 - w_d)^{1 - c_d}\). Places may be traced: moving
    instruments compile once, and the value is differentiable with respect to the place inside a cell.

    Args:
        places: coordinates, shape (m, D), in the unit of the grid; None where `Observations.where` gives them.
        spacing: grid spacing, one number for all axes or one per axis.
        origin: coordinate of the first grid point per axis, length D; default 0.
        periodic: whether an axis wraps around, one flag for all axes or one per axis (static).

    A place outside a bounded axis is read at the nearest boundary point (its weight is clamped); mask such
    observations if that is not wanted.

    Raises:
        ShapeError: if the state has fewer axes than the grid, or the places another dimension.

    Example:
        >>> H = Interpolate(jnp.array([[0.25]]), spacing=(0.5,), periodic=(False,))
        >>> H(jnp.array([0.0, 1.0, 2.0])).tolist()
        [0.5]
    """

    places: Float[Array, "m D"] | None = None
    spacing: Any = (1.0,)
    origin: Any = None
    periodic: Any = static(default=(True,))

    def __post_init__(self) -> None:
        ndim = max([len(v) for v in (self.spacing, self.periodic) if isinstance(v, tuple | list)], default=1)
        spacing, periodic = (
            tuple(v) if isinstance(v, tuple | list) else (v,) * ndim for v in (self.spacing, self.periodic)
        )
        if getattr(self.spacing, "ndim", 0) == 1:  # an array of one entry per axis
            spacing = tuple(self.spacing)
            periodic = periodic * len(spacing) if not isinstance(self.periodic, tuple | list) else periodic
        if len(spacing) != len(periodic):
            raise ConfigurationError(
                f"Interpolate: spacing has {len(spacing)} entries, but periodic has {len(periodic)}"
            )
        if not all(isinstance(flag, bool) for flag in periodic):
            raise ConfigurationError(
                f"Interpolate: periodic must be True or False for each axis, found {self.periodic}"
            )
        require_positive("Interpolate.spacing", spacing)
        places = self.places
        if places is not None and not hasattr(places, "dtype"):
            places = jnp.asarray(real_array("Interpolate: places", places))
        self._set(spacing=spacing, periodic=periodic, places=places)

    def check(self, name: str, x: Any, where: Any = None) -> None:
        """Raise `DataError` if a place of the operator is not finite."""
        known = concrete(self.places) if where is None else None
        if known is not None and not np.isfinite(known).all():
            bad = int((~np.isfinite(known)).any(axis=-1).sum()) if known.ndim else 1
            raise DataError(
                f"{name}: {bad} places of Interpolate are not finite; leave them out, or give the places of each time "
                "as `where` of the observations, where such a place is missing"
            )

    def check_grid(self, name: str, grid: Any) -> None:
        """Raise `ConfigurationError` unless spacing and number of axes are those of the method's grid."""
        spacing = getattr(grid, "spacing", None)
        if spacing is None:
            return
        pairs = [(concrete(a), concrete(b)) for a, b in zip(self.spacing, spacing, strict=False)]
        same = all(a is None or b is None or np.allclose(a, b, rtol=1e-5) for a, b in pairs)
        if len(spacing) != len(self.spacing) or not same:
            raise ConfigurationError(
                f"{name}: the operator Interpolate has places on a grid with spacing {_numbers(self.spacing)}, but the "
                f"method's grid has {_numbers(spacing)}; give both the same, e.g. "
                f"grid=Grid(spacing={_numbers(self.spacing)}), or the method `places` in the unit of its grid"
            )

    def __call__(self, x: Float[Array, ...], where: Any = None) -> Float[Array, "... m"]:
        """Return the field at the places; grid axes are the last D axes of x."""
        places = self.places if where is None else where
        dimensions = len(self.periodic)
        if places is None:
            raise ConfigurationError("Interpolate needs `places`, or Observations needs `where`")
        if places.shape[-1] != dimensions or x.ndim < dimensions:
            raise ShapeError(
                f"Interpolate: a {dimensions}-dimensional grid was declared, but places have shape {places.shape} "
                f"and the state has shape {x.shape}"
            )
        origin = (0.0,) * dimensions if self.origin is None else self.origin
        lower, weight = [], []
        for axis in range(dimensions):
            count = x.shape[x.ndim - dimensions + axis]
            index = (places[..., axis] - origin[axis]) / self.spacing[axis]
            if not self.periodic[axis]:
                index = jnp.clip(index, 0, count - 1)
            first = jnp.floor(index)
            if not self.periodic[axis]:
                first = jnp.clip(first, 0, max(count - 2, 0))
            lower.append(first.astype(jnp.int32))
            weight.append((index - first).astype(x.dtype))
        total: Any = 0.0
        for corner in itertools.product((0, 1), repeat=dimensions):
            indices: list[Any] = []
            product: Any = None
            for axis, c in enumerate(corner):
                count = x.shape[x.ndim - dimensions + axis]
                i = lower[axis] + c
                indices.append(i % count if self.periodic[axis] else jnp.clip(i, 0, count - 1))
                factor = weight[axis] if c else 1 - weight[axis]
                product = factor if product is None else product * factor
            values = x[(..., *indices)]
            total = total + jnp.reshape(product, (1,) * (values.ndim - product.ndim) + product.shape) * values
        return total

    def value_places(self, points: Float[Array, "*grid D"], where: Any = None) -> Float[Array, "... D"]:
        """Return the places in the coordinates of the grid: H of the coordinates, continued across a seam."""
        places = self.places if where is None else where
        dimensions = len(self.periodic)
        if places is None or points.ndim - 1 != dimensions or points.shape[-1] != dimensions:
            raise PlacesUnknownError(
                f"Interpolate acts on {dimensions} axes, but the grid has {points.ndim - 1}, and its points "
                f"{points.shape[-1]} coordinates: where its values are is not known"
            )
        origin = (0.0,) * dimensions if self.origin is None else self.origin
        found = []
        for axis in range(dimensions):
            along = jnp.moveaxis(points[..., axis], axis, 0).reshape(points.shape[axis], -1)[:, 0]
            count, h = along.shape[0], self.spacing[axis]
            index = (places[..., axis] - origin[axis]) / h
            index = jnp.mod(index, count) if self.periodic[axis] else jnp.clip(index, 0, count - 1)
            if count == 1:
                found.append(jnp.broadcast_to(along[0], index.shape).astype(index.dtype))
                continue
            first = jnp.clip(jnp.floor(index), 0, count - 2)
            i = first.astype(jnp.int32)
            along = along.astype(index.dtype)
            found.append(along[i] + (index - first) * (along[i + 1] - along[i]))
        return jnp.stack(found, axis=-1)


def _numbers(spacing: Any) -> str:
    known = [concrete(h) for h in spacing]
    return str(tuple("?" if h is None else float(h.flat[0]) for h in known))
