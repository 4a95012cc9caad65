"""Real Fourier transforms of fields on a periodic line or square, with adjoints as cheap as themselves."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from diffassim.core.linear import linear_map

__all__ = ["kept_modes", "to_grid", "to_modes", "wavenumbers"]


def to_modes(x: Float[Array, ...], ndim: int) -> Complex[Array, ...]:
    r"""Return the Fourier coefficients of real fields, those of non-negative frequency along the last axis.

    .. math:: \hat x_k = \sum_j x_j e^{-2 \pi i j \cdot k / n}, \qquad
        \bar x = N\,F^{-1}(\bar x_k^* / w_k), \quad w_k = 1 \text{ where } k_D \in \{0, n_D / 2\}, \text{ else } 2

    The derived transpose is a complex transform of twice the size; this one is the inverse real transform.

    Args:
        x: fields on the last `ndim` axes; leading ones are transformed in one call.
        ndim: number of axes to transform (static).

    Returns:
        Complex array, the last axis with n // 2 + 1 entries.

    Example:
        >>> to_modes(jnp.array([1.0, 0.0, -1.0, 0.0]), 1).real.round(12).tolist()
        [0.0, 2.0, 0.0]
    """
    axes, shape = tuple(range(-ndim, 0)), x.shape[x.ndim - ndim :]

    def transpose(bar: Any) -> Any:
        index = jnp.arange(shape[-1] // 2 + 1)  # made here: a map must not close over traced arrays
        single = (index == 0) | (2 * index == shape[-1])
        factor = jnp.where(single, math.prod(shape), math.prod(shape) / 2).astype(bar.dtype)
        return jnp.fft.irfftn(factor.reshape((1,) * (bar.ndim - 1) + (-1,)) * bar.conj(), shape, axes)

    return linear_map(lambda x: jnp.fft.rfftn(x, axes=axes), transpose, x)


def to_grid(modes: Complex[Array, ...], shape: tuple[int, ...]) -> Float[Array, ...]:
    """Return the real fields with these Fourier coefficients, the inverse of `to_modes`.

    Args:
        modes: coefficients, as `to_modes` gives them.
        shape: of a field.

    Returns:
        Real array, trailing axes of the given shape.

    Example:
        >>> to_grid(jnp.array([4.0 + 0j, 0, 0]), (4,)).tolist()
        [1.0, 1.0, 1.0, 1.0]
    """
    return jnp.fft.irfftn(modes, shape, tuple(range(-len(shape), 0)))


def wavenumbers(shape: tuple[int, ...], length: Any, dtype: Any) -> list[Float[Array, ...]]:
    """Return the angular wavenumbers of all modes, one array for each axis, broadcastable against each other.

    Args:
        shape: of a field.
        length: period of all axes.
        dtype: of the result.

    Returns:
        2 pi / length times the integer frequency.
    """
    unit = 2 * math.pi / jnp.asarray(length, dtype)
    return [unit * index.astype(dtype) for index in _indices(shape)]


def kept_modes(shape: tuple[int, ...], dtype: Any) -> Float[Array, ...]:
    """Return 1 for the modes whose products are free of aliases, 0 for the others (Orszag, 1971: the 2/3 rule)."""
    kept = True
    for index, n in zip(_indices(shape), shape, strict=True):
        kept = kept & (3 * jnp.abs(index) < n)
    return jnp.asarray(kept).astype(dtype)


def _indices(shape: tuple[int, ...]) -> list[Array]:
    result = []
    for axis, n in enumerate(shape):
        last = axis == len(shape) - 1
        index = jnp.arange(n // 2 + 1 if last else n)
        index = index if last else jnp.where(2 * index <= n, index, index - n)
        result.append(index.reshape(tuple(-1 if a == axis else 1 for a in range(len(shape)))))
    return result
