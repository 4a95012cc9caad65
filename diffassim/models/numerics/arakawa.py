"""The Jacobian of Arakawa between walls: it conserves energy and enstrophy, and is its own adjoint, turned around."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffassim.core.linear import with_adjoint

__all__ = ["arakawa_jacobian"]


def arakawa_jacobian(a: Float[Array, "... n m"], b: Float[Array, "... n m"], spacing: Any) -> Float[Array, "... n m"]:
    r"""Return \(J(a, b) = \partial_x a\, \partial_y b - \partial_y a\, \partial_x b\) at the inner points.

    The mean of the three second-order forms, for which the sum over all points

    .. math:: \langle c, J(a, b) \rangle = \langle a, J(b, c) \rangle = \langle b, J(c, a) \rangle

    holds to rounding: with J(a, a) = 0, advection conserves energy (c = a) and enstrophy (c = b), and the adjoint is
    the same gathering formula, where the derived one would scatter.

    Args:
        a: values at the inner points, axes (y, x); zero on the walls around them.
        b: likewise.
        spacing: distance of neighbors, the same along both axes.

    Example:
        >>> a, b = jnp.array([[0.0, 1.0], [0.0, 0.0]]), jnp.array([[0.0, 0.0], [0.0, 3.0]])
        >>> arakawa_jacobian(a, b, 0.5).tolist()
        [[1.0, 0.0], [1.0, 0.0]]

    Source: Arakawa (1966), equation 46.
    """
    return _bilinear(None, a, b) / (12 * jnp.square(jnp.asarray(spacing, a.dtype)))


def _plain(_: None, a: Array, b: Array) -> Array:
    a, b = (jnp.pad(f, [(0, 0)] * (f.ndim - 2) + [(1, 1), (1, 1)]) for f in (a, b))
    n, m = a.shape[-2] - 2, a.shape[-1] - 2

    def at(f: Array, y: int, x: int) -> Array:
        return f[..., 1 + y : 1 + y + n, 1 + x : 1 + x + m]

    north, south, east, west = at(a, 1, 0), at(a, -1, 0), at(a, 0, 1), at(a, 0, -1)
    north_east, north_west, south_east, south_west = at(a, 1, 1), at(a, 1, -1), at(a, -1, 1), at(a, -1, -1)
    return (
        (east + north_east - west - north_west) * at(b, 1, 0)
        - (east + south_east - west - south_west) * at(b, -1, 0)
        - (north + north_east - south - south_east) * at(b, 0, 1)
        + (north + north_west - south - south_west) * at(b, 0, -1)
        + (east - north) * at(b, 1, 1)
        - (west - north) * at(b, 1, -1)
        - (east - south) * at(b, -1, 1)
        + (west - south) * at(b, -1, -1)
    )


def _adjoint(_: None, bar: Array, a: Array, b: Array) -> tuple[Array, Array]:
    return _plain(None, b, bar), _plain(None, bar, a)


_bilinear = with_adjoint(_plain, _adjoint)
