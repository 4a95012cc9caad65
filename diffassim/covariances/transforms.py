"""The basis in which convolutions on a regular grid are diagonal: Fourier on periodic axes, cosines on bounded ones.

On a bounded axis the field is continued by its mirror image (half a cell beyond the last points), which is the
zero-flux boundary of diffusion. Both bases are orthonormal up to a common factor, and functions of the wavenumber that
are even make symmetric operators.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import lax
from jax.scipy import fft as cosine
from jaxtyping import Array, Float

__all__ = ["angles", "filtered", "mode_sum", "variance"]


def angles(shape: tuple[int, ...], periodic: tuple[bool, ...], dtype: jnp.dtype) -> list[Array]:
    """Return the phase advance per grid cell of all modes, one array per axis, broadcastable against each other."""
    result = []
    half = _half_axis(periodic)
    for axis, (n, wraps) in enumerate(zip(shape, periodic, strict=True)):
        if not wraps:
            theta = jnp.arange(n, dtype=dtype) * (math.pi / n)
        elif axis == half:
            theta = jnp.arange(n // 2 + 1, dtype=dtype) * (2 * math.pi / n)
        else:
            k = jnp.arange(n, dtype=dtype)
            theta = jnp.where(k <= n // 2, k, k - n) * (2 * math.pi / n)
        result.append(theta.reshape(_along(axis, len(shape))))
    return result


def filtered(x: Array, multiplier: Array, periodic: tuple[bool, ...]) -> Array:
    """Multiply every mode of the trailing axes of x by a real number: a symmetric operator."""
    first = x.ndim - len(periodic)
    bounded = [first + axis for axis, wraps in enumerate(periodic) if not wraps]
    wrapping = tuple(first + axis for axis, wraps in enumerate(periodic) if wraps)
    for axis in bounded:
        x = cosine.dct(x, axis=axis, norm="ortho")
    multiplier = multiplier.reshape((1,) * first + multiplier.shape)
    if wrapping:
        sizes = [x.shape[axis] for axis in wrapping]
        modes = jnp.fft.rfftn(x, axes=wrapping)
        x = jnp.fft.irfftn(modes * multiplier.astype(modes.dtype), s=sizes, axes=wrapping)
    else:
        x = x * multiplier
    for axis in bounded:
        x = cosine.idct(x, axis=axis, norm="ortho")
    return x


def variance(spectrum: Array, shape: tuple[int, ...], periodic: tuple[bool, ...]) -> Array:
    r"""Return the diagonal of the operator with this spectrum, \(\sum_k s_k \phi_k(i)^2\), in O(N log N).

    It is constant along periodic axes, where the result has length one.
    """
    field = _mean_over(spectrum, shape, periodic, [axis for axis, wraps in enumerate(periodic) if wraps])
    for axis, (n, wraps) in enumerate(zip(shape, periodic, strict=True)):
        if wraps:
            continue
        # phi_k(i)^2 = (1 + cos(2 pi k (i + 1/2) / n)) / n, for k = 0 only the first term
        k = jnp.arange(n, dtype=field.dtype).reshape(_along(axis, len(shape)))
        phase = k * (math.pi / n)
        weighted = jnp.where(k > 0, field, 0)
        turning = jnp.fft.ifft(lax.complex(weighted * jnp.cos(phase), weighted * jnp.sin(phase)), axis=axis).real
        field = jnp.mean(field, axis=axis, keepdims=True) + turning
    return field


def mode_sum(values: Array, shape: tuple[int, ...], periodic: tuple[bool, ...]) -> Float[Array, ""]:
    """Return the sum over all modes, each counted as often as it occurs."""
    mean = _mean_over(values, shape, periodic, list(range(len(shape))))
    return math.prod(shape) * mean.reshape(())


def _mean_over(values: Array, shape: tuple[int, ...], periodic: tuple[bool, ...], axes: list[int]) -> Array:
    half = _half_axis(periodic)
    for axis in axes:
        n = shape[axis]
        if axis == half:  # the modes between the first and the Nyquist frequency stand for two
            k = jnp.arange(n // 2 + 1, dtype=jnp.int32).reshape(_along(axis, len(shape)))
            weight = jnp.where((k == 0) | (2 * k == n), 1, 2).astype(values.dtype)
            values = jnp.sum(values * weight, axis=axis, keepdims=True) / n
        else:
            values = jnp.mean(values, axis=axis, keepdims=True)
    return values


def _half_axis(periodic: tuple[bool, ...]) -> int:
    """Return the axis of which the real transform keeps the non-negative frequencies only: the last periodic one."""
    return max((axis for axis, wraps in enumerate(periodic) if wraps), default=-1)


def _along(axis: int, ndim: int) -> tuple[int, ...]:
    return tuple(-1 if a == axis else 1 for a in range(ndim))
