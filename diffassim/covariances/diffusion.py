"""Correlations by implicit diffusion."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffassim.core.errors import ConfigurationError, ShapeError, require_positive
from diffassim.core.pytree import static
from diffassim.covariances import transforms
from diffassim.covariances.base import Covariance, as_field, check_field
from diffassim.covariances.tridiagonal import DiffusionMatrix, inverse_power_diagonal, power
from diffassim.grids.grid import Grid

__all__ = ["Diffusion"]


class Diffusion(Covariance):
    r"""Correlation by M steps of implicit diffusion, one axis after the other; lengths may vary along their axis.

    .. math::
        L = \sigma \prod_d N_d^{-1/2} A_d^{-M/2}, \qquad
        A_d = 1 - \frac{\partial}{\partial x_d} \frac{\ell_d^2}{2 M - 1} \frac{\partial}{\partial x_d}

    N_d is the exact diagonal of \(A_d^{-M}\), so the standard deviation is exactly `std` at every point, whatever the
    lengths and walls. Each axis has the Matern correlation of smoothness M - 1/2 and length \(\ell_d\); over several
    axes the correlation is their product, which becomes Gaussian, and so isotropic, as M grows. Walls are closed to the
    flux. M/2 tridiagonal solves per axis and square root; the inverse needs no solve at all.

    Args:
        std: standard deviation \(\sigma\), a number or a field that broadcasts to the state; in the unit of the state.
        length: \(\ell_d\), a number for all axes or a tuple of one entry per axis; an entry may be an array along its
            axis, shape (n_d,). In the unit of the grid spacing. A varying length is normalized in O(n_d^2) time.
        grid: grid of the state's trailing axes; a periodic axis needs at least three points.
        order: M, even (static).

    Raises:
        ConfigurationError: if std or length is not positive, or the order is not a positive even number.
        ShapeError: if the lengths do not fit the grid.

    Example:
        >>> from diffassim.grids.grid import Grid
        >>> B = Diffusion(std=2.0, length=jnp.linspace(2.0, 8.0, 50), grid=Grid(periodic=False))
        >>> B.apply(jnp.eye(50)).diagonal().round(3)[:3].tolist()
        [4.0, 4.0, 4.0]

    Source: Mirouze and Weaver (2010), section 3; Weaver and Mirouze (2013), sections 2 and 4.
    """

    std: Any
    length: Any
    grid: Grid
    order: int = static(default=10)

    def __post_init__(self) -> None:
        require_positive("Diffusion: std", self.std)
        require_positive("Diffusion: length", self.length)
        if not isinstance(self.order, int) or self.order < 2 or self.order % 2:
            raise ConfigurationError(f"Diffusion: order must be an even number of at least 2, found {self.order}")
        for axis, length in enumerate(self._lengths()):
            if jnp.ndim(length) > 1:
                raise ShapeError(
                    f"Diffusion: the length of axis {axis} must be a number or vary along its own axis only, found "
                    f"shape {jnp.shape(length)}"
                )

    @property
    def ndim(self) -> int:
        """Number of axes of the grid."""
        return self.grid.ndim

    def sqrt(self, v: Any) -> Any:
        """Return L v."""
        return jax.tree.map(lambda leaf: as_field(self.std, leaf) * self._sweep(leaf, self._root), v)

    def sqrt_transpose(self, x: Any) -> Any:
        """Return L^T x."""
        return jax.tree.map(lambda leaf: self._sweep(as_field(self.std, leaf) * leaf, self._root_transpose), x)

    def whiten(self, x: Any) -> Any:
        """Return L^(-1) x, by products with A alone."""
        return jax.tree.map(lambda leaf: self._sweep(leaf / as_field(self.std, leaf), self._inverse_root), x)

    def solve(self, x: Any) -> Any:
        """Return B^(-1) x = L^(-T) L^(-1) x."""
        whitened = self.whiten(x)
        return jax.tree.map(
            lambda leaf: self._sweep(leaf, self._inverse_root_transpose) / as_field(self.std, leaf), whitened
        )

    def logdet(self, x: Any) -> Float[Array, ""]:
        """Return log det B from the determinants of the tridiagonal matrices and the normalization."""
        first, *rest = (self._logdet(leaf) for leaf in jax.tree.leaves(x))
        return sum(rest, first)

    def _logdet(self, x: Array) -> Array:
        total = 2 * jnp.sum(jnp.log(jnp.broadcast_to(as_field(self.std, x), jnp.shape(x))))
        for axis in range(self.grid.ndim):
            n = jnp.shape(x)[jnp.ndim(x) - self.grid.ndim + axis]
            A, N = self._operator(axis, n, jnp.result_type(x))
            total = total - (jnp.size(x) // n) * (jnp.sum(jnp.log(N)) + self.order * A.logdet())
        return total

    def check(self, name: str, x: Any) -> None:
        """Raise `ShapeError` unless the state consists of fields on the grid to which std and lengths fit."""
        for path, leaf in jax.tree_util.tree_leaves_with_path(x):
            place = name + jax.tree_util.keystr(path)
            shape = jnp.shape(leaf)
            self.grid.check(place, shape)
            check_field(f"{place}: Diffusion std", self.std, leaf)
            lengths = self._lengths()
            for axis, n in enumerate(shape[len(shape) - self.grid.ndim :]):
                if jnp.ndim(lengths[axis]) and jnp.shape(lengths[axis]) != (n,):
                    raise ShapeError(
                        f"{place}: Diffusion length of axis {axis} has shape {jnp.shape(lengths[axis])}, the axis has "
                        f"{n} points"
                    )
                if self.grid.periodic[axis] and n < 3:
                    raise ShapeError(f"{place}: Diffusion needs at least 3 points on a periodic axis, found {n}")

    def _lengths(self) -> tuple[Any, ...]:
        if not isinstance(self.length, tuple | list):
            if jnp.ndim(self.length) and self.grid.ndim > 1:
                raise ShapeError("Diffusion: give varying lengths of several axes as a tuple of one entry per axis")
            return (self.length,) * self.grid.ndim
        if len(self.length) != self.grid.ndim:
            raise ShapeError(
                f"Diffusion: length has {len(self.length)} entries, but the grid has {self.grid.ndim} axes"
            )
        return tuple(self.length)

    @property
    def _exponent(self) -> int:
        """Power of A in the covariance along an axis."""
        return -self.order

    def _diffusivity(self, length: Array) -> Array:
        """Return kappa for a length in cells."""
        return jnp.square(length) / (2 * self.order - 1)

    def _operator(self, axis: int, n: int, dtype: Any) -> tuple[DiffusionMatrix, Float[Array, " n"]]:
        """Return A and the diagonal of A^(-M) for one axis."""
        periodic = self.grid.periodic[axis]
        length = jnp.asarray(self._lengths()[axis], dtype) / jnp.asarray(self.grid.spacing[axis], dtype)
        kappa = self._diffusivity(length)
        cells = jnp.broadcast_to(kappa, (n,))
        faces = (cells + jnp.roll(cells, -1)) / 2
        if not periodic:
            faces = faces.at[-1].set(0)
        A = DiffusionMatrix(faces, periodic)
        if kappa.ndim:
            return A, inverse_power_diagonal(A, -self._exponent // 2)
        # A constant length is diagonal in the spectral basis: the same number in O(n log n).
        (theta,) = transforms.angles((n,), (periodic,), dtype)
        spectrum = (1 + kappa * jnp.square(2 * jnp.sin(theta / 2))) ** self._exponent
        return A, jnp.broadcast_to(transforms.variance(spectrum, (n,), (periodic,)), (n,))

    def _sweep(self, x: Array, along_axis: Callable[[Any, Any, Any], Array]) -> Array:
        """Apply a function of (A, N, columns) along every axis of the grid."""
        for axis in range(self.grid.ndim):
            place = x.ndim - self.grid.ndim + axis
            A, N = self._operator(axis, x.shape[place], x.dtype)
            moved = jnp.moveaxis(x, place, 0)
            columns = moved.reshape((moved.shape[0], math.prod(moved.shape[1:])))
            x = jnp.moveaxis(along_axis(A, N[:, None], columns).reshape(moved.shape), 0, place)
        return x

    def _root(self, A: DiffusionMatrix, N: Array, columns: Array) -> Array:
        return power(A, columns, self._exponent // 2) / jnp.sqrt(N)

    def _root_transpose(self, A: DiffusionMatrix, N: Array, columns: Array) -> Array:
        return power(A, columns / jnp.sqrt(N), self._exponent // 2)

    def _inverse_root(self, A: DiffusionMatrix, N: Array, columns: Array) -> Array:
        return power(A, columns * jnp.sqrt(N), self.order // 2)

    def _inverse_root_transpose(self, A: DiffusionMatrix, N: Array, columns: Array) -> Array:
        return power(A, columns, self.order // 2) * jnp.sqrt(N)
