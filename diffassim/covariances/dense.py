"""A full covariance matrix, kept as its Cholesky factor."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Bool, Float

from diffassim.core.errors import ConfigurationError, ShapeError, concrete
from diffassim.covariances.base import Covariance

__all__ = ["Dense"]


class Dense(Covariance):
    r"""\(B = L L^\top\) with a lower-triangular factor, on the last axis of an array.

    Build it with `from_matrix`. For vectors of up to some thousand components; beyond, use a covariance on a grid.

    Args:
        factor: L, shape (n, n), or (time, n, n) for one factor per leading index of what it acts on.

    Example:
        >>> Dense.from_matrix(jnp.array([[2.0, 1.0], [1.0, 2.0]])).apply(jnp.array([1.0, 0.0])).round(12).tolist()
        [2.0, 1.0]
    """

    factor: Float[Array, "... n n"]

    @classmethod
    def from_matrix(cls, matrix: Float[Array, "n n"]) -> Dense:
        """Factorize a covariance matrix; derivatives pass through where it is traced.

        Args:
            matrix: shape (n, n), symmetric and positive definite.

        Returns:
            The covariance.

        Raises:
            ShapeError: if it is not a square matrix.
            ConfigurationError: if it is not finite, not symmetric, or not positive definite.
        """
        shape = jnp.shape(matrix)
        if len(shape) < 2 or shape[-1] != shape[-2]:
            raise ShapeError(f"Dense: a covariance matrix must be square, found shape {shape}")
        known = concrete(matrix)
        if known is not None:
            _check_matrix(known)
        return cls(jnp.linalg.cholesky(jnp.asarray(matrix)))

    def sqrt(self, v: Float[Array, "... n"]) -> Float[Array, "... n"]:
        """Return L v."""
        return jnp.einsum("...ij,...j->...i", self.factor, v)

    def sqrt_transpose(self, x: Float[Array, "... n"]) -> Float[Array, "... n"]:
        """Return L^T x."""
        return jnp.einsum("...ji,...j->...i", self.factor, x)

    def whiten(self, x: Float[Array, "... n"]) -> Float[Array, "... n"]:
        """Return L^(-1) x by forward substitution."""
        return self._substitute(x, transposed=False)

    def solve(self, x: Float[Array, "... n"]) -> Float[Array, "... n"]:
        """Return L^(-T) L^(-1) x."""
        return self._substitute(self.whiten(x), transposed=True)

    def logdet(self, x: Any) -> Float[Array, ""]:
        """Return 2 sum log diag L."""
        return 2 * jnp.sum(jnp.log(jnp.diagonal(self.factor, axis1=-2, axis2=-1)))

    def masked(self, mask: Bool[Array, "... n"]) -> Dense:
        """Return the covariance whose missing components are independent of the others, with unit variance.

        Whitened departures that are zero where missing, their norm and the log determinant are then those of the
        matrix with the missing rows and columns removed. A mask with a leading time axis gives one factor per time.
        """
        both = mask[..., :, None] & mask[..., None, :]
        matrix = jnp.einsum("...ij,...kj->...ik", self.factor, self.factor)
        shape = jnp.broadcast_shapes(both.shape, matrix.shape)
        identity = jnp.broadcast_to(jnp.eye(shape[-1], dtype=matrix.dtype), shape)
        return Dense(jnp.linalg.cholesky(jnp.where(both, jnp.broadcast_to(matrix, shape), identity)))

    def check(self, name: str, x: Any) -> None:
        """Raise `ShapeError` unless the last axis of the state has the matrix's size."""
        n = jnp.shape(self.factor)[-1]
        if not hasattr(x, "shape") or jnp.ndim(x) < 1 or jnp.shape(x)[-1] != n:
            found = jnp.shape(x) if hasattr(x, "shape") else type(x).__name__
            raise ShapeError(f"{name}: Dense is a matrix for {n} components on the last axis, the state has {found}")

    def _substitute(self, x: Any, transposed: bool) -> Any:
        if self.factor.ndim == 2:  # one factor, all batch entries as right-hand sides of one call
            columns = x.reshape((-1, x.shape[-1])).T
            return solve_triangular(self.factor, columns, lower=True, trans=int(transposed)).T.reshape(x.shape)
        factor = jnp.broadcast_to(self.factor, (*x.shape[:-1], *self.factor.shape[-2:]))
        return solve_triangular(factor, x[..., None], lower=True, trans=int(transposed))[..., 0]


def _check_matrix(matrix: np.ndarray) -> None:
    if not np.isfinite(matrix).all():
        raise ConfigurationError("Dense: the covariance matrix holds values that are not finite")
    scale = np.abs(matrix).max() or 1.0
    asymmetry = np.abs(matrix - np.swapaxes(matrix, -1, -2)).max()
    if asymmetry > 1e-6 * scale:
        raise ConfigurationError(
            f"Dense: the covariance matrix is not symmetric, |B - B^T| reaches {asymmetry:.3g}; use (B + B.T) / 2 if that "
            "is rounding"
        )
    smallest = np.linalg.eigvalsh(matrix).min()
    if smallest <= 0:
        raise ConfigurationError(
            f"Dense: the covariance matrix is not positive definite, its smallest eigenvalue is {smallest:.3g}; add a "
            "small multiple of the identity, or remove linearly dependent components"
        )
