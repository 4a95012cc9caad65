"""Sums and multiples of covariances."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError, concrete
from diffassim.core.krylov import conjugate_gradients
from diffassim.core.results import Result
from diffassim.covariances.base import Covariance
from diffassim.covariances.diagonal import Diagonal

__all__ = ["Scaled", "Sum"]

SOLVE_LIMIT = 5000  # iterations of conjugate gradients in the solve of a sum


class Scaled(Covariance):
    """factor * B, written `a * B`; the factor is a run-time number and may be differentiated.

    Args:
        covariance: B.
        factor: a >= 0; with a = 0 the term is switched off: it has no `whiten`, and its derivative in a is that of
            `apply`, while that of `sqrt` is set to zero. In traced code a negative factor makes both roots NaN.
        mask: components that are multiplied (set by `masked`); None for all.

    Raises:
        ConfigurationError: if the factor is negative, not finite, or not a single number.

    Example:
        >>> from diffassim.covariances import Diagonal
        >>> (0.5 * Diagonal(std=2.0)).apply(jnp.ones(2)).tolist()
        [2.0, 2.0]
    """

    covariance: Covariance
    factor: Any
    mask: Any = None

    def __post_init__(self) -> None:
        known = concrete(self.factor)
        if known is not None and (known.ndim or not (0 <= known < float("inf"))):
            raise ConfigurationError(
                f"a covariance can be multiplied by a finite number >= 0 only, found {self.factor}; a field of factors "
                "belongs into its standard deviations"
            )

    @property
    def ndim(self) -> int:
        """Number of axes of B."""
        return self.covariance.ndim

    @property
    def uncorrelated(self) -> bool:
        """Whether B is."""
        return self.covariance.uncorrelated

    def _times(self, power: float, x: Any) -> Any:
        """Multiply by factor^power, power = +-1/2 or +-1, where the components are observed."""
        factor = jnp.asarray(self.factor)
        if power == 0.5:
            # Double where: the derivative of sqrt at zero must not turn a switched-off term into NaN.
            positive = factor > 0
            # A negative factor, which only traced code can bring here, must not pass as a term switched off.
            number = jnp.where(positive, jnp.sqrt(jnp.where(positive, factor, 1)), jnp.where(factor == 0, 0.0, jnp.nan))
        else:
            number = {-0.5: lambda: 1 / jnp.sqrt(factor), 1.0: lambda: factor, -1.0: lambda: 1 / factor}[power]()
        if self.mask is None:
            return tree.scale(number, x)

        def multiply(leaf: Any, m: Any) -> Any:
            return jnp.where(m, jnp.asarray(number, leaf.dtype), 1) * leaf

        return jax.tree.map(multiply, x, self.mask)

    def control_like(self, x: Any) -> Any:
        """Return the control vector of B."""
        return self.covariance.control_like(x)

    def sqrt(self, v: Any) -> Any:
        """Return L v times the root of the factor."""
        return self._times(0.5, self.covariance.sqrt(v))

    def sqrt_transpose(self, x: Any) -> Any:
        """Return L^T x times the root of the factor."""
        return self.covariance.sqrt_transpose(self._times(0.5, x))

    def apply(self, x: Any) -> Any:
        """Return factor B x (masked components stay unscaled)."""
        return self._times(1.0, self.covariance.apply(x))

    def whiten(self, x: Any) -> Any:
        """Return W x / sqrt(factor)."""
        return self.covariance.whiten(self._times(-0.5, x))

    def solve(self, x: Any) -> Any:
        """Return B^(-1) x / factor."""
        return self._times(-1.0, self.covariance.solve(x))

    def logdet(self, x: Any) -> Float[Array, ""]:
        """Return log det B + n log factor."""
        inner = self.covariance.logdet(x)
        observed = tree.size(x)
        if self.mask is not None:
            observed = sum(jnp.sum(m) for m in jax.tree.leaves(self.mask)).astype(inner.dtype)
        return inner + observed * jnp.log(jnp.asarray(self.factor, inner.dtype))

    def masked(self, mask: Any) -> Scaled:
        """Return the multiple of the masked covariance; missing components keep unit variance."""
        mask = jax.tree.map(jnp.asarray, mask)
        if self.mask is not None:
            mask = jax.tree.map(jnp.logical_and, mask, self.mask)
        return Scaled(self.covariance.masked(mask), self.factor, mask)

    def variance(self, x: Any) -> Any:
        """Return the diagonal of B times the factor."""
        return self._times(1.0, self.covariance.variance(x))

    def check(self, name: str, x: Any) -> None:
        """Check B."""
        self.covariance.check(name, x)

    def check_error(self, name: str, x: Any, mask: Any) -> None:
        """Check B, and that the factor is not zero."""
        if concrete(self.factor) == 0:
            raise ConfigurationError(
                f"{name}: a covariance times 0 leaves observations without error; leave the term out, or give it a "
                "small factor"
            )
        self.covariance.check_error(name, x, mask)

    def rows(self, x: Any, take: Callable[[Any], Any], otherwise: Callable[[Any], Any] = lambda array: array) -> Self:
        """Return the same multiple of B at some times."""
        mask = self.mask
        if mask is not None:
            mask = jax.tree.map(lambda m, leaf: (take if jnp.ndim(m) == jnp.ndim(leaf) else otherwise)(m), mask, x)
        return self._with(covariance=self.covariance.rows(x, take, otherwise), factor=otherwise(self.factor), mask=mask)


class Sum(Covariance):
    r"""\(B_1 + B_2 + \dots\), written `B1 + B2`, with square root \([L_1\; L_2\; \dots]\).

    The control vector is the tuple of the terms' control vectors; with a static covariance and an ensemble covariance
    this is the extended control vector of hybrid ensemble-variational assimilation (Lorenc, 2003).

    Args:
        terms: the covariances, all for the same state.

    Raises:
        ConfigurationError: if there is none.

    Example:
        >>> from diffassim.covariances import Diagonal
        >>> B = Diagonal(std=1.0) + 0.25 * Diagonal(std=2.0)
        >>> B.apply(jnp.ones(2)).tolist(), len(B.control_like(jnp.ones(2)))
        ([2.0, 2.0], 2)
    """

    terms: tuple[Covariance, ...]

    def __post_init__(self) -> None:
        if not self.terms:
            raise ConfigurationError("Sum: at least one covariance is needed")

    @property
    def uncorrelated(self) -> bool:
        """Whether all terms are: then the sum is `Diagonal`, and offers all that it offers."""
        return all(term.uncorrelated for term in self.terms)

    def control_like(self, x: Any) -> Any:
        """Return the tuple of the terms' control vectors."""
        return tuple(term.control_like(x) for term in self.terms)

    def sqrt(self, v: Any) -> Any:
        """Return sum_i L_i v_i."""
        return _total(term.sqrt(part) for term, part in zip(self.terms, v, strict=True))

    def sqrt_transpose(self, x: Any) -> Any:
        """Return (L_1^T x, L_2^T x, ...)."""
        return tuple(term.sqrt_transpose(x) for term in self.terms)

    def solve(self, x: Any) -> Any:
        """Return (sum_i B_i)^(-1) x by conjugate gradients, to near rounding; NaN where they do not converge.

        Products with all B_i only; not meant for the inside of a loop. Without correlations it is a division.
        """
        if self.uncorrelated:
            return self._diagonal(x).solve(x)
        dtype = jnp.result_type(*jax.tree.leaves(x))
        tolerance = 1e-13 if dtype == jnp.float64 else 1e-6
        limit = min(10 * tree.size(x) + 100, SOLVE_LIMIT)

        def solver(product: Any, b: Any) -> Any:
            found = conjugate_gradients(product, b, rtol=tolerance, max_iterations=limit)
            converged = found.result == Result.CONVERGED
            return jax.tree.map(lambda leaf: jnp.where(converged, leaf, jnp.nan), found.solution)

        return jax.lax.custom_linear_solve(self.apply, x, solver, symmetric=True)

    def whiten(self, x: Any) -> Any:
        """Return W x where all terms are uncorrelated; any other sum has no square factor: use `solve`."""
        if self.uncorrelated:
            return self._diagonal(x).whiten(x)
        raise self._unavailable("whiten", "Its square root is not square; use solve, or Dense.from_covariance(B, x).")

    def logdet(self, x: Any) -> Float[Array, ""]:
        """Return log det B where all terms are uncorrelated; not available without a matrix otherwise."""
        if self.uncorrelated:
            return self._diagonal(x).logdet(x)
        raise self._unavailable("logdet", "For a small vector use Dense.from_covariance(B, x).logdet(x).")

    def check(self, name: str, x: Any) -> None:
        """Check all terms."""
        for term in self.terms:
            term.check(name, x)

    def check_error(self, name: str, x: Any, mask: Any) -> None:
        """Check all terms, which must be uncorrelated."""
        if not self.uncorrelated:
            super().check_error(name, x, mask)
        for term in self.terms:
            term.check_error(name, x, mask)

    def rows(self, x: Any, take: Callable[[Any], Any], otherwise: Callable[[Any], Any] = lambda array: array) -> Self:
        """Return the sum of the terms at some times."""
        return self._with(terms=tuple(term.rows(x, take, otherwise) for term in self.terms))

    def variance(self, x: Any) -> Any:
        """Return the sum of the diagonals."""
        return _total(term.variance(x) for term in self.terms)

    def masked(self, mask: Any) -> Covariance:
        """Return the sum, written out, with unit variance where something is missing; needs uncorrelated terms."""
        if not self.uncorrelated:
            return super().masked(mask)
        # Masked before they are added: the error of a missing value may be NaN.
        ones = jax.tree.map(lambda m: jnp.ones(jnp.shape(m)), mask)
        return Diagonal.from_variance(_total(term.masked(mask).variance(ones) for term in self.terms)).masked(mask)

    def _diagonal(self, x: Any) -> Diagonal:
        return Diagonal.from_variance(self.variance(jax.tree.map(jnp.asarray, x)))


def _total(parts: Iterable[Any]) -> Any:
    first, *rest = parts
    for part in rest:
        first = tree.add(first, part)
    return first
