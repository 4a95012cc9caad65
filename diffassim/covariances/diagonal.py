"""Uncorrelated errors."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffassim.core.errors import ShapeError, require_positive
from diffassim.covariances.base import Covariance, NotAvailableError, as_field, check_field

__all__ = ["Diagonal", "Zero"]


class Diagonal(Covariance):
    r"""Independent errors, \(B = \mathrm{diag}(\sigma^2)\), on an array or any pytree.

    Args:
        std: standard deviation \(\sigma\), in the unit of the state: a number for all components, an array that
            broadcasts to the state (a leading time axis is allowed for observation errors), or a pytree prefix of such.

    Raises:
        ConfigurationError: if a standard deviation is not finite and positive.

    Example:
        >>> Diagonal(std=2.0).apply(jnp.ones(3)).tolist()
        [4.0, 4.0, 4.0]
    """

    std: Any

    def __post_init__(self) -> None:
        require_positive("Diagonal: std", self.std, "Use covariances.Zero() for a component that is known exactly.")

    @classmethod
    def from_variance(cls, variance: Any) -> Diagonal:
        """Build from variances instead of standard deviations."""
        require_positive("Diagonal: variance", variance)
        return cls(jax.tree.map(jnp.sqrt, jax.tree.map(jnp.asarray, variance)))

    def _map(self, function: Any, x: Any) -> Any:
        def over_subtree(std: Any, subtree: Any) -> Any:
            return jax.tree.map(lambda leaf: function(leaf, as_field(std, leaf)), subtree)

        return jax.tree.map(over_subtree, self.std, x)

    def sqrt(self, v: Any) -> Any:
        """Return std * v."""
        return self._map(lambda leaf, std: leaf * std, v)

    def sqrt_transpose(self, x: Any) -> Any:
        """Return std * x."""
        return self.sqrt(x)

    def whiten(self, x: Any) -> Any:
        """Return x / std."""
        return self._map(lambda leaf, std: leaf / std, x)

    def solve(self, x: Any) -> Any:
        """Return x / std^2."""
        return self._map(lambda leaf, std: leaf / std / std, x)

    def variance(self, x: Any) -> Any:
        """Return std^2, shaped like x."""
        return self.apply(jax.tree.map(jnp.ones_like, x))

    def logdet(self, x: Any) -> Float[Array, ""]:
        """Return 2 sum log std."""
        logs = self._map(lambda leaf, std: 2 * jnp.sum(jnp.log(jnp.broadcast_to(std, jnp.shape(leaf)))), x)
        first, *rest = jax.tree.leaves(logs)
        return sum(rest, first)

    def masked(self, mask: Any) -> Diagonal:
        """Return the covariance with unit variance where something is missing."""

        def fill(std: Any, subtree: Any) -> Any:
            def fill_leaf(m: Any) -> Any:
                given = jnp.asarray(std)
                given = given.reshape((1,) * (m.ndim - given.ndim) + given.shape)
                return jnp.where(m, given, jnp.ones((), given.dtype))

            return jax.tree.map(fill_leaf, subtree)

        return Diagonal(jax.tree.map(fill, self.std, jax.tree.map(jnp.asarray, mask)))

    def check(self, name: str, x: Any) -> None:
        """Raise `ShapeError` unless std is a prefix of the state's structure and broadcasts to its leaves."""
        try:
            jax.tree.map(
                lambda std, subtree: [
                    check_field(f"{name}: Diagonal std", std, leaf) for leaf in jax.tree.leaves(subtree)
                ],
                self.std,
                x,
            )
        except ShapeError:
            raise
        except ValueError as error:
            raise ShapeError(f"{name}: the std given to Diagonal has not the structure of the state: {error}") from None


class Zero(Covariance):
    """No error: a component that is known, or that is not to be controlled.

    Its control vector has no entries, so it costs nothing. It is singular: there is no `whiten`, `solve` or `logdet`.

    Example:
        >>> Zero().sqrt(Zero().control_like(jnp.ones(3))).tolist()
        [0.0, 0.0, 0.0]
    """

    def control_like(self, x: Any) -> Any:
        """Return arrays without entries: the state's shape, then an axis of length zero."""
        return jax.tree.map(lambda leaf: jnp.zeros((*jnp.shape(leaf), 0), jnp.result_type(leaf)), x)

    def sqrt(self, v: Any) -> Any:
        """Return zeros (as the empty sum, so that batching and differentiation see the control vector)."""
        return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=-1), v)

    def sqrt_transpose(self, x: Any) -> Any:
        """Return the empty control vector."""
        return self.control_like(x)

    def _unavailable(self, operation: str, advice: str = "") -> NotAvailableError:
        return super()._unavailable(
            operation,
            "A component without error has no density: leave it out, and give observations that are "
            "nearly perfect a small std.",
        )
