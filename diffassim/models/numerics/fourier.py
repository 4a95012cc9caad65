"""Wavenumbers of fields on a periodic line or square, beside the transforms of the core."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffassim.core.fourier import Split, frequencies, to_grid, to_modes

__all__ = ["frequencies", "kept_modes", "to_grid", "to_modes", "wavenumbers"]


def wavenumbers(shape: tuple[int, ...], length: Any, dtype: Any, split: Split | None = None) -> list[Float[Array, ...]]:
    """Return the angular wavenumbers of all modes, one array for each axis, broadcastable against each other.

    Args:
        shape: of a field.
        length: period of all axes.
        dtype: of the result.
        split: where fields in parts lie (static); None: whole.

    Returns:
        2 pi / length times the integer frequency.
    """
    unit = 2 * math.pi / jnp.asarray(length, dtype)
    return [unit * index.astype(dtype) for index in frequencies(shape, split)]


def kept_modes(shape: tuple[int, ...], dtype: Any, split: Split | None = None) -> Float[Array, ...]:
    """Return 1 for the modes whose products are free of aliases, 0 for the others (Orszag, 1971: the 2/3 rule)."""
    kept = True
    for index, n in zip(frequencies(shape, split), shape, strict=True):
        kept = kept & (3 * jnp.abs(index) < n)
    return jnp.asarray(kept).astype(dtype)
