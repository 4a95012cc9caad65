"""The basis in which convolutions on a regular grid are diagonal: Fourier on periodic axes, cosines on bounded ones.

On a bounded axis the field is continued by its mirror image (half a cell beyond the last points), which is the
zero-flux boundary of diffusion. Both bases are orthonormal up to a common factor, and functions of the wavenumber that
are even make symmetric operators.

Fields may lie in parts (`split`). Modes of a grid with periodic axes only are then in the order of
`core.fourier.to_modes`; those of other grids in the order that they have on one device.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.scipy import fft as cosine
from jaxtyping import Array, Float

from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.core.fourier import Split, frequencies, to_grid, to_modes, transformed

__all__ = ["angles", "arranged", "check_split", "filtered", "mode_sum", "variance"]


def angles(
    shape: tuple[int, ...], periodic: tuple[bool, ...], dtype: jnp.dtype, split: Split | None = None
) -> list[Array]:
    """Return the phase advance per grid cell of all modes, one array per axis, broadcastable against each other."""
    split = _turning(periodic, split)
    if split is not None:
        return [k.astype(dtype) * (2 * math.pi / n) for k, n in zip(frequencies(shape, split), shape, strict=True)]
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


def arranged(multiplier: Array, shape: tuple[int, ...], periodic: tuple[bool, ...], split: Split | None) -> Array:
    """Return a factor of each mode, as it is on one device, in the order that the modes of fields in parts have."""
    split = _turning(periodic, split)
    if split is None:
        return multiplier
    if len(shape) > 1:
        return jnp.pad(multiplier, [(0, 0)] * (len(shape) - 1) + [(0, split.count(shape[-1]) - multiplier.shape[-1])])
    (k,) = frequencies(shape, split)
    return multiplier[jnp.abs(k)]


def check_split(name: str, shape: tuple[int, ...], periodic: tuple[bool, ...], split: Split) -> None:
    """Raise an error that names `name`, unless fields on this grid can be filtered in parts."""
    if split.axis < -len(periodic):
        return  # every device has whole grids
    if len(periodic) == 1 and not periodic[0]:
        raise ConfigurationError(
            f"{name}: the cosine transform of a line between walls has no parts; split another axis, or take Diffusion"
        )
    if all(periodic):
        split.check(name, shape)
    elif shape[split.axis] % split.devices:
        raise ShapeError(
            f"{name}: the {split.devices} devices along {split.name!r} do not divide the {shape[split.axis]} points of "
            f"axis {split.axis}"
        )


def filtered(x: Array, multiplier: Array, periodic: tuple[bool, ...], split: Split | None = None) -> Array:
    """Multiply every mode of the trailing axes of x by a real number: a symmetric operator."""
    ndim = len(periodic)
    if split is None:
        first = x.ndim - ndim
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
    if split.axis < -ndim:
        return split.over(
            lambda part, factor: filtered(part, factor, periodic), [split.axis, None], split.axis, x, multiplier
        )
    shape = x.shape[x.ndim - ndim :]
    check_split("a covariance", shape, periodic, split)
    if not all(periodic):
        return _filtered_between_walls(x, multiplier, periodic, split)
    modes = to_modes(x, ndim, split)
    factor = multiplier.reshape((1,) * (x.ndim - ndim) + multiplier.shape).astype(modes.dtype)
    return to_grid(modes * factor, shape, split)


def _filtered_between_walls(x: Array, multiplier: Array, periodic: tuple[bool, ...], split: Split) -> Array:
    """Filter fields in parts on a grid that has a bounded axis, and another axis.

    All axes but the split one are transformed where they are, until one of them can take its place: a bounded axis,
    before the transforms along the periodic ones; the last periodic one, after them, where no other axis is bounded.
    """
    ndim, own = len(periodic), split.axis
    others = [axis for axis in range(-ndim, 0) if axis != own]
    bounded = [axis for axis in others if not periodic[axis]]
    wrapping = tuple(axis for axis in range(-ndim, 0) if periodic[axis])
    partner = bounded[-1] if bounded else wrapping[-1]
    last = tuple(range(-len(wrapping), 0))
    forward = partial(jnp.fft.rfftn, axes=last)
    backward = partial(jnp.fft.irfftn, s=[x.shape[axis] for axis in wrapping], axes=last)
    size = x.shape[partner] if bounded else x.shape[partner] // 2 + 1
    multiplier = split.padded(multiplier, partner)

    def filter_part(part: Array, factor: Array) -> Array:
        for axis in bounded:
            part = _cosines(cosine.dct, part, axis)
        if not bounded:
            part = transformed(forward, part, *wrapping)
        part = split.turned(split.padded(part, partner), whole=own, split=partner)
        if not periodic[own]:
            part = _cosines(cosine.dct, part, own)
        factor = factor.reshape((1,) * (part.ndim - ndim) + factor.shape)
        if bounded and wrapping:
            modes = transformed(forward, part, *wrapping)
            part = transformed(backward, modes * factor.astype(modes.dtype), *wrapping)
        else:
            part = part * factor.astype(part.dtype)
        if not periodic[own]:
            part = _cosines(cosine.idct, part, own)
        part = lax.slice_in_dim(split.turned(part, whole=partner, split=own), 0, size, axis=part.ndim + partner)
        if not bounded:
            part = transformed(backward, part, *wrapping)
        for axis in bounded:
            part = _cosines(cosine.idct, part, axis)
        return part

    return split.over(filter_part, [own, partner], own, x, multiplier)


def _cosines(transform: Any, part: Array, axis: int) -> Array:
    """Return the cosine transform of real or complex numbers along an axis."""
    along = partial(transform, norm="ortho")
    if not jnp.iscomplexobj(part):
        return transformed(along, part, axis)
    return lax.complex(*(transformed(along, half, axis) for half in (part.real, part.imag)))


def variance(spectrum: Array, shape: tuple[int, ...], periodic: tuple[bool, ...], split: Split | None = None) -> Array:
    r"""Return the diagonal of the operator with this spectrum, \(\sum_k s_k \phi_k(i)^2\), in O(N log N).

    It is constant along periodic axes, where the result has length one.
    """
    field = _mean_over(spectrum, shape, periodic, [axis for axis, wraps in enumerate(periodic) if wraps], split)
    for axis, (n, wraps) in enumerate(zip(shape, periodic, strict=True)):
        if wraps:
            continue
        # phi_k(i)^2 = (1 + cos(2 pi k (i + 1/2) / n)) / n, for k = 0 only the first term
        k = jnp.arange(n, dtype=field.dtype).reshape(_along(axis, len(shape)))
        phase = k * (math.pi / n)
        weighted = jnp.where(k > 0, field, 0)
        turned = lax.complex(weighted * jnp.cos(phase), weighted * jnp.sin(phase))
        turning = transformed(jnp.fft.ifft, turned, axis - len(shape)).real
        field = jnp.mean(field, axis=axis, keepdims=True) + turning
    return field


def mode_sum(
    values: Array, shape: tuple[int, ...], periodic: tuple[bool, ...], split: Split | None = None
) -> Float[Array, ""]:
    """Return the sum over all modes, each counted as often as it occurs."""
    mean = _mean_over(values, shape, periodic, list(range(len(shape))), split)
    return math.prod(shape) * mean.reshape(())


def _mean_over(
    values: Array, shape: tuple[int, ...], periodic: tuple[bool, ...], axes: list[int], split: Split | None
) -> Array:
    half, split = _half_axis(periodic), _turning(periodic, split)
    for axis in axes:
        n = shape[axis]
        if axis == half:  # the modes between the first and the Nyquist frequency stand for two
            k, points = jnp.arange(values.shape[axis], dtype=jnp.int32), n
            if split is not None and len(shape) == 1:
                k, points = k // split.devices, n // split.devices
            weight = jnp.where((k == 0) | (2 * k == points), 1, jnp.where(2 * k < points, 2, 0)).astype(values.dtype)
            values = jnp.sum(values * weight.reshape(_along(axis, len(shape))), axis=axis, keepdims=True) / n
        else:
            values = jnp.mean(values, axis=axis, keepdims=True)
    return values


def _turning(periodic: tuple[bool, ...], split: Split | None) -> Split | None:
    """Return the split, if modes of fields in parts have another order than those of whole ones."""
    return split if split is not None and all(periodic) and split.axis >= -len(periodic) else None


def _half_axis(periodic: tuple[bool, ...]) -> int:
    """Return the axis of which the real transform keeps the non-negative frequencies only: the last periodic one."""
    return max((axis for axis, wraps in enumerate(periodic) if wraps), default=-1)


def _along(axis: int, ndim: int) -> tuple[int, ...]:
    return tuple(-1 if a == axis else 1 for a in range(ndim))
