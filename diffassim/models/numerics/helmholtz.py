"""The discrete Helmholtz equation between four walls, solved directly by fast sine transforms as matrix products."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffassim.core.linear import linear_map

__all__ = ["laplacian", "solve_helmholtz"]


def laplacian(x: Float[Array, "... n m"], spacing: Any) -> Float[Array, "... n m"]:
    r"""Return the five-point Laplacian of fields given at the points between walls on which they vanish.

    Args:
        x: values at the inner points.
        spacing: h, distance of neighbors, the same along both axes.

    Example:
        >>> laplacian(jnp.array([[1.0]]), 0.5).tolist()
        [[-16.0]]
    """
    p = jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(1, 1), (1, 1)])
    around = p[..., 2:, 1:-1] + p[..., :-2, 1:-1] + p[..., 1:-1, 2:] + p[..., 1:-1, :-2]
    return (around - 4 * x) / jnp.square(jnp.asarray(spacing, x.dtype))


def solve_helmholtz(x: Float[Array, "... n m"], spacing: Any, shift: Any) -> Float[Array, "... n m"]:
    r"""Return the \(\psi\) with \(\Delta_h \psi - F \psi = x\) that vanishes on the walls.

    .. math:: \psi = S\, \frac{S x}{-\tfrac{4}{h^2} \big(\sin^2 \tfrac{\pi k}{2 (n + 1)}
        + \sin^2 \tfrac{\pi l}{2 (m + 1)}\big) - F}

    with the orthonormal sine transform S, in which the five-point Laplacian is diagonal: exact to rounding, and
    symmetric, so that it is its own adjoint. The transform is a product with a matrix that the symmetry of sines
    splits into two of half the size; on CPU that is faster than transforms of the mirrored field up to some 200 points.

    Args:
        x: right-hand side at the inner points.
        spacing: h.
        shift: F >= 0.

    Example:
        >>> solve_helmholtz(jnp.array([[-18.0]]), 0.5, 2.0).round(12).tolist()
        [[1.0]]

    Source: Buzbee, Golub and Nielson (1970), section 2.
    """
    h, F = jnp.asarray(spacing, x.dtype), jnp.asarray(shift, x.dtype)
    last, first = (jnp.asarray(_eigenvalues(n), x.dtype) for n in x.shape[:-3:-1])
    inverse = 1 / ((last[:, None] + first[None, :]) / jnp.square(h) - F)

    def solve(x: Any, inverse: Any) -> Any:
        modes = _to_sines(_swapped(_to_sines(x)))  # axes (last, first)
        return _from_sines(_swapped(_from_sines(modes * inverse.reshape((1,) * (x.ndim - 2) + inverse.shape))))

    return linear_map(solve, solve, x, inverse)


def _swapped(x: Array) -> Array:
    return jnp.swapaxes(x, -1, -2)


@functools.lru_cache(maxsize=16)
def _halves(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the sines of odd and even frequency, orthonormal, at the points of the first half."""
    k = np.arange(1, n + 1)
    phase = np.outer(k[: (n + 1) // 2], k) % (2 * (n + 1))
    sines = math.sqrt(2 / (n + 1)) * np.sin(np.pi / (n + 1) * phase)
    return sines[:, ::2].copy(), sines[: n // 2, 1::2].copy()


def _eigenvalues(n: int) -> np.ndarray:
    """Return those of the second difference, in the order of `_to_sines`."""
    k = np.arange(1, n + 1)
    values = -4 * np.sin(np.pi * k / (2 * (n + 1))) ** 2
    return np.concatenate([values[::2], values[1::2]])


def _to_sines(x: Array) -> Array:
    """Return the coefficients along the last axis, the odd frequencies first."""
    n = x.shape[-1]
    odd, even = (jnp.asarray(half, x.dtype) for half in _halves(n))
    low, middle, high = x[..., : n // 2], x[..., n // 2 : n - n // 2], jnp.flip(x[..., n - n // 2 :], axis=-1)
    return jnp.concatenate([jnp.concatenate([low + high, middle], axis=-1) @ odd, (low - high) @ even], axis=-1)


def _from_sines(modes: Array) -> Array:
    n = modes.shape[-1]
    odd, even = (jnp.asarray(half, modes.dtype) for half in _halves(n))
    sums, differences = modes[..., : (n + 1) // 2] @ odd.T, modes[..., (n + 1) // 2 :] @ even.T
    middle, sums = sums[..., n // 2 :], sums[..., : n // 2]
    return jnp.concatenate([sums + differences, middle, jnp.flip(sums - differences, axis=-1)], axis=-1)
