"""Fourth-order derivatives between the centers and the faces of cells, each the other's negative transpose."""

from __future__ import annotations

import functools
from typing import Literal

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from diffassim.core.kernels import kernel
from diffassim.core.linear import linear_map

__all__ = ["LARGEST_SYMBOL", "SMALLEST_AXIS", "Ends", "divergence", "face_weights", "gradient"]

# What an axis ends with: it wraps around, or both ends are rigid walls, or the first end is a free surface.
Ends = Literal["periodic", "walls", "free"]
NEAR, FAR = 9 / 8, 1 / 24
LARGEST_SYMBOL = 2 * (NEAR + FAR)  # of the difference between neighbors, at the shortest wave of the grid
SMALLEST_AXIS = 4


def gradient(p: Float[Array, ...], axis: int, ends: Ends) -> Float[Array, ...]:
    r"""Return the difference across the faces, \(\tfrac98 (p_i - p_{i-1}) - \tfrac1{24} (p_{i+1} - p_{i-2})\).

    Face i lies between the centers i - 1 and i; the face behind the last center belongs to a rigid wall, where nothing
    flows. Beyond a wall the field is continued evenly, beyond a free surface (p = 0 on face 0) oddly, so that the order
    holds up to the boundary. Divided by the spacing it is a derivative.

    Args:
        p: values at the centers, at least four along the axis.
        axis: counted from the end, negative.
        ends: of the axis.

    Returns:
        Values on the faces, of the same shape.

    Example:
        >>> gradient(jnp.arange(8.0) ** 2, -1, "walls")[2:6].round(12).tolist()  # exact at inner points: 2 x
        [3.0, 5.0, 7.0, 9.0]

    Source: Levander (1988); mirror images as in Robertsson (1996).
    """
    forward = functools.partial(_gradient, axis=axis, ends=ends)
    return linear_map(forward, functools.partial(_gradient_transpose, axis=axis, ends=ends), p)


def divergence(u: Float[Array, ...], axis: int, ends: Ends) -> Float[Array, ...]:
    r"""Return the difference across the cells, of values on the faces: minus the transpose of `gradient`.

    .. math:: \sum_i p_i\, (V u)_i = -\sum_i w_i\, u_i\, (G p)_i

    with the `face_weights` w, whatever the ends, so that energy neither enters nor leaves by rounding alone. What u
    holds on a rigid wall is not read.

    Args:
        u: values on the faces, face i before center i.
        axis: counted from the end, negative.
        ends: of the axis.

    Example:
        >>> divergence(jnp.array([9.0, 0.0, 24.0, 0.0, 0.0]), -1, "walls").round(12).tolist()
        [-1.0, 27.0, -27.0, 1.0, 0.0]
    """
    forward = functools.partial(_divergence, axis=axis, ends=ends)
    return linear_map(forward, functools.partial(_divergence_transpose, axis=axis, ends=ends), u)


def face_weights(n: int, ends: Ends, dtype: object = float) -> Float[Array, " n"]:
    """Return which part of a cell belongs to each face: half at a free surface, nothing at a wall.

    Example:
        >>> face_weights(4, "free").tolist()
        [0.5, 1.0, 1.0, 1.0]
    """
    first = {"periodic": 1.0, "walls": 0.0, "free": 0.5}[ends]
    return jnp.ones(n, dtype).at[0].set(first)  # type: ignore[arg-type]


def _gradient_transpose(y: Array, *, axis: int, ends: Ends) -> Array:
    if ends == "free":
        y = _joined([2 * _cut(y, axis, 0, 1), _cut(y, axis, 1, y.shape[axis])], axis)
    return -_divergence(y, axis=axis, ends=ends)


def _divergence_transpose(y: Array, *, axis: int, ends: Ends) -> Array:
    u = _gradient(y, axis=axis, ends=ends)
    if ends == "free":
        u = _joined([0.5 * _cut(u, axis, 0, 1), _cut(u, axis, 1, u.shape[axis])], axis)
    return -u


def _gradient(p: Array, *, axis: int, ends: Ends) -> Array:
    n = p.shape[axis]
    first, last = _cut(p, axis, 0, 2), _cut(p, axis, n - 1, n)
    if ends == "periodic":
        padded = [_cut(p, axis, n - 2, n), p, _cut(p, axis, 0, 1)]
    else:
        mirrored = lax.rev(first, [first.ndim + axis])
        padded = [mirrored if ends == "walls" else -mirrored, p, last]
    return _difference(_joined(padded, axis), axis=axis)


def _divergence(u: Array, *, axis: int, ends: Ends) -> Array:
    n = u.shape[axis]
    if ends == "periodic":
        padded = [_cut(u, axis, n - 1, n), u, _cut(u, axis, 0, 2)]
    else:
        edge, second, last = _cut(u, axis, 0, 1), _cut(u, axis, 1, 2), _cut(u, axis, n - 1, n)
        inner = _cut(u, axis, 1, n)
        wall = jnp.zeros_like(edge)
        before = [second, edge] if ends == "free" else [-second, wall]
        padded = [*before, inner, wall, -last]
    return _difference(_joined(padded, axis), axis=axis)


@kernel("axis")
def _difference(padded: Array, *, axis: int) -> Array:
    """Return the stencil over a field with three more points along the axis, two of them before or behind."""
    n = padded.shape[axis] - 3
    a, b, c, d = (_cut(padded, axis, k, k + n) for k in range(4))
    return NEAR * (c - b) - FAR * (d - a)


def _cut(x: Array, axis: int, start: int, stop: int) -> Array:
    return lax.slice_in_dim(x, start, stop, axis=x.ndim + axis)


def _joined(parts: list[Array], axis: int) -> Array:
    return jnp.concatenate(parts, axis=axis)
