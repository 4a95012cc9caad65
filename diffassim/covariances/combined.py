"""Sums and multiples of covariances."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError, concrete
from diffassim.core.krylov import conjugate_gradients
from diffassim.covariances.base import Covariance

__all__ = ["Scaled", "Sum"]


class Scaled(Covariance):
    """factor * B, written `a * B`; the factor is a run-time number and may be differentiated.

    Args:
        covariance: B.
        factor: a >= 0.

    Raises:
        ConfigurationError: if the factor is negative or not finite.
    """

    covariance: Covariance
    factor: Any

    def __post_init__(self) -> None:
        known = concrete(self.factor)
        if known is not None and (known.ndim or not (0 <= known < float("inf"))):
            raise ConfigurationError(f"a covariance can be multiplied by a finite number >= 0 only, found {self.factor}")

    def _root(self) -> Any:
        # Double where: the derivative of sqrt at zero must not turn a switched-off term into NaN.
        factor = jnp.asarray(self.factor)
        positive = factor > 0
        return jnp.where(positive, jnp.sqrt(jnp.where(positive, factor, 1)), 0)

    def control_like(self, x: Any) -> Any:
        """Return the control vector of B."""
        return self.covariance.control_like(x)

    def sqrt(self, v: Any) -> Any:
        """Return sqrt(factor) L v."""
        return tree.scale(self._root(), self.covariance.sqrt(v))

    def sqrt_transpose(self, x: Any) -> Any:
        """Return sqrt(factor) L^T x."""
        return tree.scale(self._root(), self.covariance.sqrt_transpose(x))

    def whiten(self, x: Any) -> Any:
        """Return W x / sqrt(factor)."""
        return tree.scale(1 / self._root(), self.covariance.whiten(x))

    def solve(self, x: Any) -> Any:
        """Return B^(-1) x / factor."""
        return tree.scale(1 / jnp.asarray(self.factor), self.covariance.solve(x))

    def logdet(self, x: Any) -> Float[Array, ""]:
        """Return log det B + n log factor."""
        return self.covariance.logdet(x) + tree.size(x) * jnp.log(jnp.asarray(self.factor))

    def masked(self, mask: Any) -> Scaled:
        """Return the multiple of the masked covariance (missing components scale too, and stay independent)."""
        return Scaled(self.covariance.masked(mask), self.factor)

    def check(self, name: str, x: Any) -> None:
        """Check B."""
        self.covariance.check(name, x)


class Sum(Covariance):
    r"""\(B_1 + B_2 + \dots\), written `B1 + B2`, with square root \([L_1\; L_2\; \dots]\).

    Args:
        terms: the covariances.
    """

    terms: tuple[Covariance, ...]

    def control_like(self, x: Any) -> Any:
        """Return the tuple of the terms' control vectors."""
        return tuple(term.control_like(x) for term in self.terms)

    def sqrt(self, v: Any) -> Any:
        """Return sum_i L_i v_i."""
        first, *rest = (term.sqrt(part) for term, part in zip(self.terms, v, strict=True))
        for increment in rest:
            first = tree.add(first, increment)
        return first

    def sqrt_transpose(self, x: Any) -> Any:
        """Return (L_1^T x, L_2^T x, ...)."""
        return tuple(term.sqrt_transpose(x) for term in self.terms)

    def solve(self, x: Any) -> Any:
        """Return (sum_i B_i)^(-1) x by conjugate gradients, to near rounding; NaN where they do not converge."""
        dtype = jnp.result_type(*jax.tree.leaves(x))
        tolerance = 1e-13 if dtype == jnp.float64 else 1e-6

        def solver(product: Any, b: Any) -> Any:
            found = conjugate_gradients(product, b, rtol=tolerance, max_iterations=10 * tree.size(x) + 100)
            return tree.select(found.result == 0, found.solution, tree.scale(jnp.nan, found.solution))

        return jax.lax.custom_linear_solve(self.apply, x, solver, symmetric=True)

    def whiten(self, x: Any) -> Any:
        """Not available: a sum has no square factor; use `solve`."""
        raise self._unavailable("whiten", "Its square root is not square; use solve, or a Dense matrix.")

    def logdet(self, x: Any) -> Float[Array, ""]:
        """Not available without a matrix."""
        raise self._unavailable("logdet", "Build a Dense matrix for small problems.")

    def check(self, name: str, x: Any) -> None:
        """Check all terms."""
        for term in self.terms:
            term.check(name, x)
