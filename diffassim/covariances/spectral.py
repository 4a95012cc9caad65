"""Homogeneous correlations on a regular grid, as a multiplication in spectral space."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffassim.core.errors import ConfigurationError, ShapeError, concrete, require_positive
from diffassim.core.fourier import Split
from diffassim.core.pytree import static
from diffassim.covariances import transforms
from diffassim.covariances.base import Covariance, as_field, check_field
from diffassim.grids.grid import Grid

__all__ = ["Spectral", "per_axis"]


class Spectral(Covariance):
    r"""\(B = \sigma\, D^{-1/2} K^2 D^{-1/2} \sigma\) with K diagonal in the Fourier and cosine basis: base class.

    D is the diagonal of \(K^2\), so that the standard deviation is exactly `std` at every point, also at walls. The
    square root \(L = \sigma D^{-1/2} K\) is square and the control vector a field. A product takes two fast transforms
    and a few fields of memory.

    Subclasses define `spectrum`.

    Args:
        std: standard deviation, a number or a field that broadcasts to the state; in the unit of the state.
        length: correlation length, a number for all axes or a tuple of one per axis; in the unit of the grid spacing.
        grid: the grid of the state's trailing axes.
        nugget: share of the variance that is uncorrelated from point to point, in [0, 1].
        split: how fields lie in parts on several devices, put here by `da.covariances.in_parts`; None: whole (static).
    """

    std: Any
    length: Any
    grid: Grid
    nugget: Any = 0.0
    split: Split | None = static(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        name = type(self).__name__
        require_positive(f"{name}: std", self.std)
        require_positive(f"{name}: length", self.length)
        per_axis(f"{name}: length", self.length, self.grid)
        known = concrete(self.nugget)
        if known is not None and not (known.ndim == 0 and 0 <= known <= 1):
            raise ConfigurationError(f"{name}: nugget must be a share of the variance, in [0, 1], found {self.nugget}")

    def spectrum(self, theta: list[Array], ratio: list[Array]) -> Array:
        """Return the variance of the modes up to a factor.

        Args:
            theta: phase advance of the modes per cell, one array per axis, broadcastable against each other.
            ratio: correlation length in grid cells, one number per axis.
        """
        raise self._unavailable("spectrum")

    @property
    def ndim(self) -> int:
        """Number of axes of the grid."""
        return self.grid.ndim

    def sqrt(self, v: Any) -> Any:
        """Return L v, by one forward and one inverse transform."""
        return jax.tree.map(self._sqrt, v)

    def _sqrt(self, v: Array) -> Array:
        s, D = self._parts(v)
        return as_field(self.std, v) / _like(jnp.sqrt(D), v) * self._filter(v, jnp.sqrt(s))

    def sqrt_transpose(self, x: Any) -> Any:
        """Return L^T x."""
        return jax.tree.map(self._sqrt_transpose, x)

    def _sqrt_transpose(self, x: Array) -> Array:
        s, D = self._parts(x)
        return self._filter(as_field(self.std, x) / _like(jnp.sqrt(D), x) * x, jnp.sqrt(s))

    def apply(self, x: Any) -> Any:
        """Return B x, by one forward and one inverse transform."""
        return jax.tree.map(self._apply, x)

    def _apply(self, x: Array) -> Array:
        s, D = self._parts(x)
        scale = as_field(self.std, x) / _like(jnp.sqrt(D), x)
        return scale * self._filter(scale * x, s)

    def whiten(self, x: Any) -> Any:
        """Return L^(-1) x.

        Raises:
            ConfigurationError: if B is singular at the precision of x (NaN where the parameters are traced).
        """
        return jax.tree.map(self._whiten, x)

    def _whiten(self, x: Array) -> Array:
        s, D = self._parts(x, invert=True)
        return self._filter(_like(jnp.sqrt(D), x) / as_field(self.std, x) * x, 1 / jnp.sqrt(s))

    def solve(self, x: Any) -> Any:
        """Return B^(-1) x.

        Raises:
            ConfigurationError: if B is singular at the precision of x (NaN where the parameters are traced).
        """
        return jax.tree.map(self._solve, x)

    def _solve(self, x: Array) -> Array:
        s, D = self._parts(x, invert=True)
        scale = _like(jnp.sqrt(D), x) / as_field(self.std, x)
        return scale * self._filter(scale * x, 1 / s)

    def logdet(self, x: Any) -> Float[Array, ""]:
        """Return the sum of the logarithms of the modes' variances and of the local factors.

        Raises:
            ConfigurationError: if B is singular at the precision of x (NaN where the parameters are traced).
        """
        first, *rest = (self._logdet(leaf) for leaf in jax.tree.leaves(x))
        return sum(rest, first)

    def _logdet(self, x: Array) -> Array:
        s, D = self._parts(x, invert=True)
        shape = jnp.shape(x)[jnp.ndim(x) - self.grid.ndim :]
        copies = math.prod(jnp.shape(x)[: jnp.ndim(x) - self.grid.ndim])
        local = 2 * jnp.log(as_field(self.std, x)) - _like(jnp.log(D), x)
        modes = transforms.mode_sum(jnp.log(s), shape, self.grid.periodic, self.split)
        return copies * modes + jnp.sum(jnp.broadcast_to(local, jnp.shape(x)))

    def check(self, name: str, x: Any) -> None:
        """Raise `ShapeError` unless the state consists of fields on the grid to which std broadcasts."""
        for path, leaf in jax.tree_util.tree_leaves_with_path(x):
            place = name + jax.tree_util.keystr(path)
            self.grid.check(place, jnp.shape(leaf))
            check_field(f"{place}: {type(self).__name__} std", self.std, leaf)
            if self.split is not None:
                shape = jnp.shape(leaf)[jnp.ndim(leaf) - self.grid.ndim :]
                transforms.check_split(f"{place}: {type(self).__name__}", shape, self.grid.periodic, self.split)

    def _filter(self, x: Array, multiplier: Array) -> Array:
        return transforms.filtered(x, multiplier, self.grid.periodic, self.split)

    def _parts(self, x: Array, invert: bool = False) -> tuple[Array, Array]:
        """Return the spectrum with unit mean variance, and the variance at each point."""
        ndim, dtype, periodic = self.grid.ndim, jnp.result_type(x), self.grid.periodic
        shape = jnp.shape(x)[jnp.ndim(x) - ndim :]
        theta = transforms.angles(shape, periodic, dtype, self.split)
        lengths = per_axis(f"{type(self).__name__}: length", self.length, self.grid)
        ratio = [jnp.asarray(a, dtype) / jnp.asarray(h, dtype) for a, h in zip(lengths, self.grid.spacing, strict=True)]
        s = self.spectrum(theta, ratio)
        nugget = jnp.asarray(self.nugget, dtype)
        s = (1 - nugget) * s * (
            jnp.asarray(float(math.prod(shape)), dtype) / transforms.mode_sum(s, shape, periodic, self.split)
        ) + nugget
        if invert:
            # Below this the inverse of the square root has no correct digit: NaN rather than wrong.
            s = jnp.where(s > jnp.finfo(dtype).eps ** 2 * jnp.max(s), s, jnp.nan)
            known = concrete(s)
            if known is not None and not (known > 0).all():
                raise ConfigurationError(
                    f"{type(self).__name__}: the smoothest correlations make this covariance singular in {dtype}; give "
                    "a nugget (say 1e-6, the share of variance that is white), a shorter length or a higher precision"
                )
        return s, transforms.variance(s, shape, periodic, self.split)


def per_axis(name: str, value: Any, grid: Grid) -> tuple[Any, ...]:
    """Return one entry per axis of the grid from a tuple, or from one value for all axes."""
    if not isinstance(value, tuple | list):
        if jnp.ndim(value):
            raise ShapeError(
                f"{name} must be a number, or a tuple of one number per axis; found shape {jnp.shape(value)}"
            )
        return (value,) * grid.ndim
    if len(value) != grid.ndim:
        raise ShapeError(f"{name} has {len(value)} entries, but the grid has {grid.ndim} axes")
    return tuple(value)


def _like(field: Array, x: Array) -> Array:
    return field.reshape((1,) * (jnp.ndim(x) - field.ndim) + field.shape)
