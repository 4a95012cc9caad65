"""Separable covariances."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.covariances.base import Covariance

__all__ = ["Kronecker"]


class Kronecker(Covariance):
    r"""\(B = B_1 \otimes B_2 \otimes \dots\) over consecutive trailing axes of an array, the last factor on the last.

    Typical: vertical times horizontal, time times space. A factor on a grid takes as many axes as its grid has, every
    other factor takes one. The products are made one factor after the other, never as a matrix of the whole.

    Args:
        *factors: the covariances, in the order of the axes.

    Raises:
        ConfigurationError: if there is no factor, or one is not a covariance.

    Example:
        >>> from diffassim.covariances import Dense, Diagonal
        >>> vertical = Dense.from_matrix(jnp.array([[1.0, 0.5], [0.5, 1.0]]))
        >>> Kronecker(vertical, Diagonal(std=2.0)).apply(jnp.array([[1.0, 0.0], [0.0, 0.0]])).round(5).tolist()
        [[4.0, 0.0], [2.0, 0.0]]

    Source: Horn and Johnson (1991), section 4.2.
    """

    factors: tuple[Covariance, ...]

    def __init__(self, *positional: Covariance, factors: tuple[Covariance, ...] = ()) -> None:
        self._set(factors=positional or tuple(factors))
        if not self.factors or not all(isinstance(factor, Covariance) for factor in self.factors):
            found = ", ".join(type(factor).__name__ for factor in self.factors) or "none"
            raise ConfigurationError(f"Kronecker: the factors must be covariances, at least one; found {found}")

    @property
    def ndim(self) -> int:
        """Number of axes of all factors."""
        return sum(factor.ndim for factor in self.factors)

    @property
    def uncorrelated(self) -> bool:
        """Whether all factors are."""
        return all(factor.uncorrelated for factor in self.factors)

    def control_like(self, x: Any) -> Any:
        """Return the zero control vector, an array with the factors' control axes in place of the state's."""
        return self._each(lambda factor, part: factor.control_like(part), x)

    def sqrt(self, v: Array) -> Array:
        """Return (L_1 x L_2 x ...) v."""
        return self._each(lambda factor, part: factor.sqrt(part), v)

    def sqrt_transpose(self, x: Array) -> Array:
        """Return (L_1^T x L_2^T x ...) x."""
        return self._each(lambda factor, part: factor.sqrt_transpose(part), x)

    def apply(self, x: Array) -> Array:
        """Return B x, one factor after the other."""
        return self._each(lambda factor, part: factor.apply(part), x)

    def whiten(self, x: Array) -> Array:
        """Return (W_1 x W_2 x ...) x."""
        return self._each(lambda factor, part: factor.whiten(part), x)

    def solve(self, x: Array) -> Array:
        """Return B^(-1) x, one factor after the other."""
        return self._each(lambda factor, part: factor.solve(part), x)

    def logdet(self, x: Array) -> Float[Array, ""]:
        """Return sum_i (n / n_i) log det B_i, with n_i the size of factor i and n that of the whole."""
        total = jnp.zeros((), jnp.result_type(x))
        for factor, block in self._blocks(x):
            total = total + (jnp.size(x) // math.prod(block)) * factor.logdet(jnp.zeros(block, jnp.result_type(x)))
        return total

    def check(self, name: str, x: Any) -> None:
        """Raise `ShapeError` unless the state is an array with the factors' axes, and each factor fits its own."""
        if not hasattr(x, "shape") or jnp.ndim(x) < self.ndim:
            found = f"shape {jnp.shape(x)}" if hasattr(x, "shape") else f"type {type(x).__name__}"
            raise ShapeError(
                f"{name}: Kronecker needs an array with {self.ndim} trailing axes, but the state has {found}"
            )
        for number, (factor, block) in enumerate(self._blocks(x)):
            factor.check(f"{name}.factors[{number}]", jnp.zeros(block, jnp.result_type(x)))

    def _blocks(self, x: Any) -> list[tuple[Covariance, tuple[int, ...]]]:
        """Return each factor with the shape of its axes."""
        shape, blocks, start = jnp.shape(x), [], jnp.ndim(x) - self.ndim
        for factor in self.factors:
            blocks.append((factor, shape[start : start + factor.ndim]))
            start += factor.ndim
        return blocks

    def _each(self, function: Callable[[Covariance, Array], Array], x: Array) -> Array:
        """Apply a function of (factor, array with the factor's axes last) for every factor."""
        start = jnp.ndim(x) - self.ndim
        for factor in self.factors:
            here = tuple(range(start, start + factor.ndim))
            last = tuple(range(-factor.ndim, 0))
            x = jnp.moveaxis(function(factor, jnp.moveaxis(x, here, last)), last, here)
            start += factor.ndim
        return x
