"""Transfer of fields between a grid and a coarser one: what models of two resolutions say to each other."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.core.pytree import Pytree, static

__all__ = ["BlockMean", "Truncation"]


class BlockMean(Pytree):
    r"""Means over blocks of cells, and linear interpolation between the centers of the blocks.

    .. math::
        (C x)_b = \frac{1}{f} \sum_{o < f} x_{bf + o}, \qquad
        (P y)_{bf + o} = y_b + |w_o|\,(y_{b \pm 1} - y_b), \quad w_o = \frac{2 o + 1 - f}{2 f}

    axis by axis, the neighbor on the side to which the cell lies. Mass and positivity pass both ways, so that it suits
    models of finite volumes. Beyond the ends of a bounded axis the last block continues.

    Args:
        factor: cells of a block along each axis (static).
        periodic: whether an axis wraps around, one flag for each of the trailing axes that are coarsened (static).

    Raises:
        ConfigurationError: if the factor is less than one.
        ShapeError: (in use) if a field has too few axes, or an axis is no whole number of blocks.

    Example:
        >>> transfer = BlockMean(2)
        >>> transfer.coarsen(jnp.array([1.0, 3.0, 5.0, 7.0])).tolist()
        [2.0, 6.0]
        >>> transfer.refine(jnp.array([2.0, 6.0])).tolist()
        [3.0, 3.0, 5.0, 5.0]

    Source: the transfer operators of cell-centered multigrid, Wesseling (1992), section 5.3.
    """

    factor: int = static(default=2)
    periodic: tuple[bool, ...] = static(default=(True,))

    def __post_init__(self) -> None:
        _check_factor(self.factor)

    def coarsen(self, x: Any) -> Any:
        """Return the state on the coarse grid, leaf by leaf."""
        return jax.tree.map(self._coarsen, x)

    def refine(self, y: Any) -> Any:
        """Return a coarse state on the fine grid, leaf by leaf."""
        return jax.tree.map(self._refine, y)

    def _coarsen(self, x: Array) -> Array:
        first = _first_axis("BlockMean", x, len(self.periodic), self.factor)
        blocks = [(n // self.factor, self.factor) for n in x.shape[first:]]
        inner = tuple(first + 1 + 2 * axis for axis in range(len(blocks)))
        return jnp.mean(x.reshape((*x.shape[:first], *(n for pair in blocks for n in pair))), axis=inner)

    def _refine(self, y: Array) -> Array:
        first = y.ndim - len(self.periodic)
        for axis, periodic in enumerate(self.periodic, start=first):
            y = self._refine_axis(y, axis, periodic)
        return y

    def _refine_axis(self, y: Array, axis: int, periodic: bool) -> Array:
        n, f = y.shape[axis], self.factor
        index = jnp.arange(n)
        before, behind = (index - 1, index + 1)
        before, behind = (before % n, behind % n) if periodic else (jnp.maximum(before, 0), jnp.minimum(behind, n - 1))
        sides = jnp.take(y, before, axis=axis), jnp.take(y, behind, axis=axis)
        cells = []
        for o in range(f):
            w = (2 * o + 1 - f) / (2 * f)
            cells.append((1 - abs(w)) * y + abs(w) * sides[w > 0])
        return jnp.stack(cells, axis=axis + 1).reshape((*y.shape[:axis], n * f, *y.shape[axis + 1 :]))


class Truncation(Pytree):
    r"""The long waves of periodic fields: truncated Fourier series, and the trigonometric interpolation of few points.

    Refining and coarsening again changes nothing but for the shortest wave of the coarse grid, which is dropped because
    its phase is unknown. The points of the coarse grid are every f-th of the fine one.

    Args:
        factor: ratio of the numbers of points along each axis (static).
        axes: how many trailing axes are coarsened (static); all of them are periodic.

    Raises:
        ConfigurationError: if the factor is less than one.
        ShapeError: (in use) if a field has too few axes, or an axis is no multiple of the factor.

    Example:
        >>> transfer, wave = Truncation(2), jnp.cos(2 * jnp.pi / 8 * jnp.arange(8.0))
        >>> bool(jnp.allclose(transfer.coarsen(wave), wave[::2])), bool(jnp.allclose(transfer.refine(wave[::2]), wave))
        (True, True)

    Source: truncation of the increments in multi-resolution incremental 4D-Var, Veerse and Thepaut (1998), section 3.
    """

    factor: int = static(default=2)
    axes: int = static(default=1)

    def __post_init__(self) -> None:
        _check_factor(self.factor)

    def coarsen(self, x: Any) -> Any:
        """Return the state on the coarse grid, leaf by leaf."""
        return jax.tree.map(self._coarsen, x)

    def refine(self, y: Any) -> Any:
        """Return a coarse state on the fine grid, leaf by leaf."""
        return jax.tree.map(self._refine, y)

    def _coarsen(self, x: Array) -> Array:
        for axis in range(_first_axis("Truncation", x, self.axes, self.factor), x.ndim):
            x = _resampled(x, axis, x.shape[axis] // self.factor)
        return x

    def _refine(self, y: Array) -> Array:
        for axis in range(y.ndim - self.axes, y.ndim):
            y = _resampled(y, axis, y.shape[axis] * self.factor)
        return y


def _resampled(x: Array, axis: int, count: int) -> Array:
    """Return a periodic field on `count` points, with the waves that both grids resolve."""
    n = x.shape[axis]
    if n == count:
        return x
    kept = (min(n, count) - 1) // 2 + 1
    modes = jnp.take(jnp.fft.rfft(x, axis=axis), jnp.arange(kept), axis=axis)
    return jnp.fft.irfft(modes, n=count, axis=axis) * (count / n)


def _first_axis(name: str, x: Array, axes: int, factor: int) -> int:
    first = x.ndim - axes
    if first < 0 or any(n % factor for n in x.shape[first:]):
        raise ShapeError(
            f"{name}: a field of shape {x.shape} has no {axes} trailing axes whose lengths are multiples of {factor}"
        )
    return first


def _check_factor(factor: int) -> None:
    if factor < 1 or not math.isfinite(factor):
        raise ConfigurationError(f"factor must be at least 1, found {factor}")
