"""Multilinear interpolation from a regular grid to run-time places."""

from __future__ import annotations

import itertools
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.core.pytree import static
from diffassim.observations.operators import Operator

__all__ = ["Interpolate"]


class Interpolate(Operator):
    r"""Multilinear interpolation H(x) = sum over cell corners of weight times value.

    With the fractional index \(q_d = (p_d - \text{origin}_d)/\text{spacing}_d\), i = floor(q), w = q - i, the weight
    of the corner i + c, c in {0, 1}^D, is \(\prod_d w_d^{c_d} (1 - w_d)^{1 - c_d}\). Places may be traced: moving
    instruments compile once, and the value is differentiable with respect to the place inside a cell.

    Args:
        places: coordinates, shape (m, D), in the unit of the grid; None where `Observations.where` gives them.
        spacing: grid spacing per axis, length D.
        origin: coordinate of the first grid point per axis, length D; default 0.
        periodic: per axis, whether the grid wraps around (static).

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
    periodic: tuple[bool, ...] = static(default=(True,))

    def __post_init__(self) -> None:
        if len(self.spacing) != len(self.periodic):
            raise ConfigurationError(
                f"Interpolate: spacing has {len(self.spacing)} entries, but periodic has {len(self.periodic)}"
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
            indices, product = [], None
            for axis, c in enumerate(corner):
                count = x.shape[x.ndim - dimensions + axis]
                i = lower[axis] + c
                indices.append(i % count if self.periodic[axis] else jnp.clip(i, 0, count - 1))
                factor = weight[axis] if c else 1 - weight[axis]
                product = factor if product is None else product * factor
            total = total + product * x[(..., *indices)]
        return total
