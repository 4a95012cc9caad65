"""A full covariance matrix, kept as its Cholesky factor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Bool, Float

from diffassim.core.checks import real_array
from diffassim.core.errors import ConfigurationError, ShapeError, concrete
from diffassim.covariances.base import Covariance, check_rows

__all__ = ["Dense"]

ASYMMETRY = 1e-6  # largest |B - B^T| relative to the largest entry that passes as rounding (float32 included)


class Dense(Covariance):
    r"""\(B = L L^\top\) with a lower-triangular factor, on the last axis of an array.

    Build it with `from_matrix`. For vectors of up to some thousand components; beyond, use a covariance on a grid.

    Args:
        factor: L, shape (n, n), or (time, n, n) for one factor per time of observations of shape (time, n).

    Raises:
        ShapeError: if the factor is not square.
        ConfigurationError: if it is not finite or not lower triangular, or its diagonal is negative.

    Example:
        >>> Dense.from_matrix(jnp.array([[2.0, 1.0], [1.0, 2.0]])).apply(jnp.array([1.0, 0.0])).round(5).tolist()
        [2.0, 1.0]
    """

    factor: Float[Array, "... n n"]

    def __post_init__(self) -> None:
        shape, known = jnp.shape(self.factor), concrete(self.factor)
        if len(shape) not in (2, 3) or shape[-1] != shape[-2]:
            raise ShapeError(f"Dense: the factor must have shape (n, n) or (time, n, n), found {shape}")
        if known is None:
            return
        if not np.isfinite(known).all():
            raise ConfigurationError(
                "Dense: the factor holds values that are not finite; the matrix that it comes from is not positive "
                "definite, or not finite itself (Dense.from_matrix says which)"
            )
        if np.triu(known, 1).any() or (np.diagonal(known, axis1=-2, axis2=-1) < 0).any():
            raise ConfigurationError(
                "Dense: the factor must be lower triangular, with a diagonal that is not negative; give a covariance "
                "matrix to Dense.from_matrix"
            )

    @classmethod
    def from_matrix(cls, matrix: Float[Array, "... n n"]) -> Dense:
        """Factorize a covariance matrix; derivatives pass through where it is traced.

        Args:
            matrix: shape (n, n) or (time, n, n), symmetric and positive definite.

        Returns:
            The covariance.

        Raises:
            ShapeError: if it is not a square matrix.
            ConfigurationError: if it is not finite, not symmetric, or not positive definite.
        """
        matrix = real_array("the matrix of Dense", matrix)
        shape = jnp.shape(matrix)
        if len(shape) < 2 or shape[-1] != shape[-2]:
            raise ShapeError(f"Dense: a covariance matrix must be square, found shape {shape}")
        known = concrete(matrix)
        if known is not None:
            _check_matrix(known)
        return cls(jnp.linalg.cholesky(jnp.asarray(matrix)))

    @classmethod
    def from_covariance(cls, B: Covariance, x: Float[Array, " n"]) -> Dense:
        """Write out another covariance as a matrix, for what only a matrix offers (`logdet` of a sum, masks).

        Args:
            B: covariance of a vector.
            x: a vector that shows its size and dtype, shape (n,).

        Returns:
            The covariance.

        Raises:
            ShapeError: if x is not a vector.
            ConfigurationError: if B is singular.

        Example:
            >>> from diffassim.covariances import Diagonal
            >>> float(Dense.from_covariance(Diagonal(1.0) + Diagonal(1.0), jnp.ones(1)).logdet(jnp.ones(1)).round(4))
            0.6931
        """
        if jnp.ndim(x) != 1:
            raise ShapeError(f"Dense.from_covariance: the example must be a vector, found shape {jnp.shape(x)}")
        matrix = jax.vmap(B.apply)(jnp.eye(jnp.shape(x)[0], dtype=jnp.result_type(x)))
        return cls.from_matrix((matrix + matrix.T) / 2)

    def sqrt(self, v: Float[Array, "... n"]) -> Float[Array, "... n"]:
        """Return L v."""
        return jnp.einsum("...ij,...j->...i", self._factor(v), v)

    def sqrt_transpose(self, x: Float[Array, "... n"]) -> Float[Array, "... n"]:
        """Return L^T x."""
        return jnp.einsum("...ji,...j->...i", self._factor(x), x)

    def whiten(self, x: Float[Array, "... n"]) -> Float[Array, "... n"]:
        """Return L^(-1) x by forward substitution."""
        return self._substitute(x, transposed=False)

    def solve(self, x: Float[Array, "... n"]) -> Float[Array, "... n"]:
        """Return L^(-T) L^(-1) x."""
        return self._substitute(self.whiten(x), transposed=True)

    def logdet(self, x: Float[Array, "... n"]) -> Float[Array, ""]:
        """Return 2 sum log diag L."""
        diagonal = jnp.diagonal(self._factor(x), axis1=-2, axis2=-1)
        return 2 * jnp.sum(jnp.broadcast_to(jnp.log(diagonal), jnp.shape(x)))

    def masked(self, mask: Bool[Array, "... n"]) -> Dense:
        """Return the covariance whose missing components are independent of the others, with unit variance.

        A mask with a leading time axis gives one factor per time.
        """
        mask = jnp.asarray(mask)
        both = mask[..., :, None] & mask[..., None, :]
        matrix = jnp.einsum("...ij,...kj->...ik", self.factor, self.factor)
        shape = jnp.broadcast_shapes(both.shape, matrix.shape)
        identity = jnp.broadcast_to(jnp.eye(shape[-1], dtype=matrix.dtype), shape)
        return Dense(jnp.linalg.cholesky(jnp.where(both, jnp.broadcast_to(matrix, shape), identity)))

    def check(self, name: str, x: Any) -> None:
        """Raise `ShapeError` unless the last axis of the state has the matrix's size, and there is one matrix."""
        self._check_size(name, x)
        shape = jnp.shape(self.factor)
        if len(shape) > 2 and shape[0] != 1:
            raise ShapeError(
                f"{name}: Dense has a matrix for each of {shape[0]} times, which only errors of observations may have"
            )

    def check_error(self, name: str, x: Any, mask: Any) -> None:
        """Raise unless there is a regular matrix of the observations' size, or one for each time."""
        self._check_size(name, x)
        if len(jnp.shape(self.factor)) > 2 and jnp.ndim(x) != 2:
            raise ShapeError(
                f"{name}: Dense has a matrix for each time, which needs observations of shape (time, n), found "
                f"{jnp.shape(x)}; use one matrix, or Kronecker for several axes"
            )
        self.rows(x, lambda factor: check_rows(f"{name}: Dense", x, factor))
        known = concrete(self.factor)
        if known is not None and not np.diagonal(known, axis1=-2, axis2=-1).all():
            raise ConfigurationError(
                f"{name}: the matrix of Dense is singular (a zero on the diagonal of its factor): some combination of "
                "observations would have no error. Add a small multiple of the identity"
            )

    def rows(self, x: Any, take: Callable[[Any], Any], otherwise: Callable[[Any], Any] = lambda array: array) -> Self:
        """Return the covariance of some times, with a matrix for each or one for all."""
        shape = jnp.shape(self.factor)
        has_rows = len(shape) == 3 and shape[0] != 1  # one row serves all times
        return self._with(factor=(take if has_rows else otherwise)(self.factor))

    def _check_size(self, name: str, x: Any) -> None:
        n = jnp.shape(self.factor)[-1]
        if not hasattr(x, "shape") or jnp.ndim(x) < 1 or jnp.shape(x)[-1] != n:
            found = f"shape {jnp.shape(x)}" if hasattr(x, "shape") else f"type {type(x).__name__}"
            raise ShapeError(
                f"{name}: Dense is a matrix for arrays with {n} components on the last axis, but the state has "
                f"{found}; use Blocks for a state of several parts"
            )

    def _factor(self, x: Any) -> Any:
        factor = jnp.asarray(self.factor)
        return factor.astype(jnp.result_type(x)) if jnp.issubdtype(jnp.result_type(x), jnp.floating) else factor

    def _substitute(self, x: Any, transposed: bool) -> Any:
        factor = self._factor(x)
        if factor.ndim == 2:  # one factor, all batch entries as right-hand sides of one call
            columns = x.reshape((-1, x.shape[-1])).T
            return solve_triangular(factor, columns, lower=True, trans=int(transposed)).T.reshape(x.shape)
        factor = jnp.broadcast_to(factor, (*x.shape[:-1], *factor.shape[-2:]))
        return solve_triangular(factor, x[..., None], lower=True, trans=int(transposed))[..., 0]


def _check_matrix(matrix: np.ndarray) -> None:
    if not np.isfinite(matrix).all():
        raise ConfigurationError("Dense: the covariance matrix holds values that are not finite")
    asymmetry = np.abs(matrix - np.swapaxes(matrix, -1, -2)).max(initial=0)
    if asymmetry > ASYMMETRY * np.abs(matrix).max(initial=0):
        raise ConfigurationError(
            f"Dense: the covariance matrix is not symmetric, |B - B^T| reaches {asymmetry:.3g}; use (B + B.T) / 2 if "
            "that is rounding"
        )
    try:
        np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        smallest = np.linalg.eigvalsh(matrix).min()
        raise ConfigurationError(
            f"Dense: the covariance matrix is not positive definite, its smallest eigenvalue is {smallest:.3g}; add a "
            "small multiple of the identity, or remove linearly dependent components"
        ) from None
