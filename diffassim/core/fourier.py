"""Real Fourier transforms of fields, whole or in parts on several devices, with adjoints as cheap as themselves."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Complex, Float

from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.core.linear import linear_map
from diffassim.core.sharding import mapped_over

__all__ = ["Split", "frequencies", "to_grid", "to_modes", "transformed"]


@dataclasses.dataclass(frozen=True)
class Split:
    r"""Where the parts of fields lie, one axis of them over one axis of a mesh, and how they are transformed there.

    Devices transform along the axes that they have whole, turn their parts by an all-to-all, and transform along the
    one that was split. The coefficients stay turned: those of a field of several axes are split along the last of
    them, filled up with zeros to a multiple of the devices. A field on a line of \(n = n_1 D\) points on D devices is
    turned first: device r gets every D-th point,

    .. math:: \hat x_{k_1 + n_1 k_2} = \sum_{r < D} e^{-2 \pi i r k_2 / D}\, e^{-2 \pi i r k_1 / n}
        \sum_{j < n_1} x_{j D + r} e^{-2 \pi i j k_1 / n_1}

    makes the real transform of \(n_1\) points (the last sum), and after one more turn the D-point transforms of its
    share of \(0 \le k_1 \le n_1 / 2\). One message of all-to-all for each transform of a field that is split along
    another axis than its last; two where it is split along the last, and on a line.

    It is a hashable value, a static field of the models and covariances that transform: `da.models.in_parts` and
    `da.covariances.in_parts` put it there.

    Args:
        mesh: the devices.
        name: of the mesh's axis over which fields are split.
        axis: of the fields, counted from the end.

    Source: Bailey (1990), section 2, for the line; Gupta and Kumar (1993), section 3, for the turned parts.
    """

    mesh: Mesh
    name: str
    axis: int

    @property
    def devices(self) -> int:
        """Number of parts."""
        return int(self.mesh.shape[self.name])

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise an error that names `name`, unless fields of this shape can be transformed in parts.

        Args:
            name: who asks.
            shape: of one field, all axes that are transformed.

        Raises:
            ConfigurationError: if the split axis is none of them.
            ShapeError: if the devices do not divide an axis as often as they have to.
        """
        ndim, D = len(shape), self.devices
        if not -ndim <= self.axis < 0:
            raise ConfigurationError(
                f"{name}: fields are transformed along their last {ndim} axes, and were split along axis {self.axis}; "
                f"split one of {list(range(-ndim, 0))}"
            )
        if ndim == 1:
            (n,) = shape
            if n % (D * D):
                fit = [d for d in range(1, math.isqrt(n) + 1) if n % (d * d) == 0]
                raise ShapeError(
                    f"{name}: a line of {n} points cannot be transformed in {D} parts, because their square {D * D} "
                    f"does not divide it; take {D * D * -(-n // (D * D))} points, or one of {fit[-8:]} devices"
                )
            return
        for axis in {self.axis, -2} if self.axis == -1 else {self.axis}:
            n = shape[axis]
            if n % D:
                fit = [d for d in range(1, n + 1) if n % d == 0]
                raise ShapeError(
                    f"{name}: the {D} devices along {self.name!r} do not divide the {n} points of axis {axis} (fields "
                    f"of {shape}); take {D * -(-n // D)} points, or one of {fit[:8]} devices"
                )

    def over(self, function: Callable[..., Any], before: Sequence[int | None], after: int, *arrays: Array) -> Array:
        """Return function(*parts) of every device.

        Args:
            function: of the parts; its result has as many axes as the first array.
            before: for each array the axis along which it is in parts, counted from the end; None: it is whole.
            after: the same for the result.
            *arrays: the arguments.
        """
        places = tuple(self.spec(x, axis) for x, axis in zip(arrays, before, strict=True))
        return mapped_over(function, self.mesh, {self.name}, places, self.spec(arrays[0], after))(*arrays)

    def spec(self, x: Array, axis: int | None) -> PartitionSpec:
        """Return the layout of an array in parts along an axis, counted from the end; None: it is whole."""
        return PartitionSpec() if axis is None else PartitionSpec(*(None,) * (x.ndim + axis), self.name)

    def turned(self, part: Array, whole: int, split: int) -> Array:
        """Return this device's part of an array that was split along `whole` and is then along `split`."""
        return lax.all_to_all(part, self.name, split_axis=part.ndim + split, concat_axis=part.ndim + whole, tiled=True)

    def padded(self, part: Array, axis: int) -> Array:
        """Return a part with zeros up to a multiple of the devices along an axis."""
        widths = [(0, 0)] * part.ndim
        widths[axis] = (0, -part.shape[axis] % self.devices)
        return jnp.pad(part, widths)

    def count(self, n: int) -> int:
        """Return how many frequencies are kept of a real axis of n points, zeros included."""
        return self.devices * -(-(n // 2 + 1) // self.devices)


def to_modes(x: Float[Array, ...], ndim: int, split: Split | None = None) -> Complex[Array, ...]:
    r"""Return the Fourier coefficients of real fields, those of non-negative frequency along the last axis.

    .. math:: \hat x_k = \sum_j x_j e^{-2 \pi i j \cdot k / n}, \qquad
        \bar x = N\,F^{-1}(\bar x_k^* / w_k), \quad w_k = 1 \text{ where } k_D \in \{0, n_D / 2\}, \text{ else } 2

    The derived transpose is a complex transform of twice the size; this one is the inverse real transform.

    Args:
        x: fields on the last `ndim` axes; leading ones are transformed in one call.
        ndim: number of axes to transform (static).
        split: where fields in parts lie (static); None: whole.

    Returns:
        Complex array, the last axis with n // 2 + 1 entries; `frequencies` says what they are. In parts the last axis
        has some zeros more, and on a line all frequencies are on it in an order of their own (`Split`).

    Example:
        >>> to_modes(jnp.array([1.0, 0.0, -1.0, 0.0]), 1).real.round(12).tolist()
        [0.0, 2.0, 0.0]
    """
    if split is not None:
        split.check("to_modes", x.shape[x.ndim - ndim :])
        if ndim == 1:
            return split.over(lambda part: _line_to_modes(part, split), [-1], -1, x)
        return split.over(lambda part: _fields_to_modes(part, ndim, split), [split.axis], -1, x)
    axes, shape = tuple(range(-ndim, 0)), x.shape[x.ndim - ndim :]

    def transpose(bar: Any) -> Any:
        index = jnp.arange(shape[-1] // 2 + 1)  # made here: a map must not close over traced arrays
        single = (index == 0) | (2 * index == shape[-1])
        factor = jnp.where(single, math.prod(shape), math.prod(shape) / 2).astype(bar.dtype)
        return jnp.fft.irfftn(factor.reshape((1,) * (bar.ndim - 1) + (-1,)) * bar.conj(), shape, axes)

    return linear_map(lambda x: jnp.fft.rfftn(x, axes=axes), transpose, x)


def to_grid(modes: Complex[Array, ...], shape: tuple[int, ...], split: Split | None = None) -> Float[Array, ...]:
    """Return the real fields with these Fourier coefficients, the inverse of `to_modes`.

    Args:
        modes: coefficients, as `to_modes` gives them.
        shape: of a field.
        split: where fields in parts lie (static); None: whole.

    Returns:
        Real array, trailing axes of the given shape.

    Example:
        >>> to_grid(jnp.array([4.0 + 0j, 0, 0]), (4,)).tolist()
        [1.0, 1.0, 1.0, 1.0]
    """
    if split is None:
        return jnp.fft.irfftn(modes, shape, tuple(range(-len(shape), 0)))
    split.check("to_grid", shape)
    if len(shape) == 1:
        return split.over(lambda part: _line_to_grid(part, shape[0], split), [-1], -1, modes)
    return split.over(lambda part: _modes_to_fields(part, shape, split), [-1], split.axis, modes)


def frequencies(shape: tuple[int, ...], split: Split | None = None) -> list[Array]:
    """Return the integer frequencies of the coefficients that `to_modes` gives.

    Args:
        shape: of a field.
        split: where fields in parts lie (static); None: whole.

    Returns:
        One array for each axis, broadcastable against each other; the shortest wave has a positive frequency.

    Example:
        >>> [k.shape for k in frequencies((4, 6))], frequencies((4, 6))[0][:, 0].tolist()
        ([(4, 1), (1, 4)], [0, 1, 2, -1])
    """
    result = []
    for axis, n in enumerate(shape):
        if axis < len(shape) - 1:
            index = _signed(jnp.arange(n), n)
        elif split is None:
            index = jnp.arange(n // 2 + 1)
        elif len(shape) > 1:
            index = jnp.arange(split.count(n))
        else:
            D = split.devices
            place = jnp.arange(D * split.count(n // D))
            index = _signed(place // D + n // D * (place % D), n)
        result.append(index.reshape(tuple(-1 if a == axis else 1 for a in range(len(shape)))))
    return result


def transformed(transform: Callable[[Array], Array], part: Array, *axes: int) -> Array:
    """Return a transform of some axes of an array that several devices have a part in.

    Args:
        transform: of trailing axes, as many as are given.
        part: what a device has.
        *axes: counted from the end; default: the last.
    """
    axes = axes or (-1,)
    last = tuple(range(-len(axes), 0))
    return jnp.moveaxis(_in_order(transform(_in_order(jnp.moveaxis(part, axes, last)))), last, axes)


def _in_order(x: Array) -> Array:
    """Return an array whose rows lie one after the other in memory, as the transforms of XLA on CPUs demand.

    XLA lets messages and transpositions choose another order, and then fails to run the program.
    """
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))


def _signed(index: Array, n: int) -> Array:
    return jnp.where(2 * index <= n, index, index - n)


def _fields_to_modes(part: Array, ndim: int, split: Split) -> Array:
    axis = split.axis
    if axis == -1:  # the real transform needs the last axis whole
        part, axis = split.turned(part, whole=-1, split=-2), -2
    modes = transformed(partial(to_modes, ndim=1), part)
    for other in range(-ndim, -1):
        if other != axis:
            modes = transformed(jnp.fft.fft, modes, other)
    return transformed(jnp.fft.fft, split.turned(split.padded(modes, -1), whole=axis, split=-1), axis)


def _modes_to_fields(part: Array, shape: tuple[int, ...], split: Split) -> Array:
    axis = -2 if split.axis == -1 else split.axis
    n = shape[-1]
    modes = split.turned(transformed(jnp.fft.ifft, part, axis), whole=-1, split=axis)[..., : n // 2 + 1]
    for other in range(-len(shape), -1):
        if other != axis:
            modes = transformed(jnp.fft.ifft, modes, other)
    field = transformed(partial(jnp.fft.irfft, n=n), modes)
    return split.turned(field, whole=-2, split=-1) if split.axis == -1 else field


def _line_to_modes(part: Array, split: Split) -> Array:
    D, lead = split.devices, part.shape[:-1]
    rows = part.reshape((*lead, part.shape[-1] // D, D))
    points = split.turned(rows, whole=-2, split=-1)[..., 0]  # every D-th one, all of its n_1 points
    modes = split.padded(_twisted(transformed(partial(to_modes, ndim=1), points), points.shape[-1], split, -1), -1)
    turned = split.turned(modes[..., None], whole=-1, split=-2)
    return transformed(jnp.fft.fft, turned).reshape((*lead, -1))


def _line_to_grid(part: Array, n: int, split: Split) -> Array:
    D, lead = split.devices, part.shape[:-1]
    turned = transformed(jnp.fft.ifft, part.reshape((*lead, -1, D)))
    modes = split.turned(turned, whole=-2, split=-1)[..., : n // D // 2 + 1, 0]
    points = transformed(partial(jnp.fft.irfft, n=n // D), _twisted(modes, n // D, split, 1))
    return split.turned(points[..., None], whole=-1, split=-2).reshape((*lead, -1))


def _twisted(modes: Array, n: int, split: Split, sign: int) -> Array:
    """Return the modes of every D-th point, as if they began at the first point of all."""
    k = jnp.arange(modes.shape[-1], dtype=jnp.int32) * lax.axis_index(split.name)
    phase = k.astype(modes.real.dtype) * (sign * 2 * math.pi / (n * split.devices))
    return modes * jnp.exp(lax.complex(jnp.zeros_like(phase), phase)).reshape((1,) * (modes.ndim - 1) + (-1,))
