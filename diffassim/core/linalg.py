"""Square roots of small symmetric matrices whose derivatives survive repeated eigenvalues."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

__all__ = [
    "covariance_rows",
    "factor_inverse_sqrt",
    "gram_cholesky",
    "gram_factor",
    "safe_sqrt",
    "symmetric_inverse_sqrt",
    "symmetric_sqrt",
]

# The derivative S' of S = A^(1/2) solves the Lyapunov equation S S' + S' S = A'. In the eigenbasis of A it is a
# division by sqrt(a_i) + sqrt(a_j), the divided difference of the root: no difference of eigenvalues appears, unlike in
# the derivative of the eigenvectors themselves. The equation is stated to JAX as a linear solve, so that derivatives of
# all orders and both modes follow from S alone, and the eigenvectors are never differentiated.


def symmetric_sqrt(A: Float[Array, "... n n"]) -> Float[Array, "... n n"]:
    r"""Return the symmetric square root S of a symmetric positive semidefinite matrix, S S = A.

    Its derivative is exact and finite at repeated eigenvalues, in both modes and to any order.

    Args:
        A: shape (..., n, n); the symmetric part counts.

    Returns:
        S, of the same shape. Eigenvalues within n eps of the largest around zero count as zero: S is zero along their
        eigenvectors, and the derivative between two such directions, which is infinite, is set to zero (that of the
        regular part remains). Where an eigenvalue is negative beyond rounding, or an entry is not finite, the whole
        matrix is NaN.

    Example:
        >>> symmetric_sqrt(jnp.array([[4.0, 0.0], [0.0, 9.0]])).round(4).tolist()
        [[2.0, 0.0], [0.0, 3.0]]

    Source: Higham (2008), sections 3.2 and 6.1.
    """
    return _root((A + _transposed(A)) / 2)[0]


def symmetric_inverse_sqrt(A: Float[Array, "... n n"], least: float = 0.0) -> Float[Array, "... n n"]:
    r"""Return the symmetric inverse square root T of a symmetric positive definite matrix, T A T = I.

    Its derivative is exact and finite at repeated eigenvalues, in both modes and to any order.

    Args:
        A: shape (..., n, n); the symmetric part counts.
        least: where positive, what is known of the smallest eigenvalue (static): computed ones below it are rounding,
            and count as it.

    Returns:
        T, of the same shape; NaN where an entry is not finite, or where A is not positive definite at working precision
        (an eigenvalue below n eps times the largest) and `least` is zero: no digit of the inverse would be right.

    Example:
        >>> symmetric_inverse_sqrt(jnp.array([[4.0, 0.0], [0.0, 16.0]])).round(4).tolist()
        [[0.5, 0.0], [0.0, 0.25]]

    Source: Higham (2008), sections 3.2 and 6.1.
    """
    return _inverse_root((A + _transposed(A)) / 2, least)[0]


def gram_cholesky(V: Float[Array, "n m"], d: Float[Array, " m"]) -> tuple[Float[Array, "n n"], Float[Array, " n"]]:
    r"""Return the lower triangular L with \(L L^\top = I + V V^\top\), and \(L^{-1} V d\).

    In single precision both come from the QR factors of \([I\; V]^\top\): the sum itself would lose the identity beside
    a Gram matrix of more than its seven digits, which precise observations have, and the product V d would spill its
    rounding into directions that V does not reach.

    Args:
        V: shape (n, m).
        d: shape (m,).

    Returns:
        L, shape (n, n), with a positive diagonal, and the product, shape (n,).

    Example:
        >>> L, half = gram_cholesky(jnp.array([[1e6], [0.0]], jnp.float32), jnp.ones(1, jnp.float32))
        >>> jnp.abs(L).round(1).tolist(), jnp.abs(half).round(4).tolist()
        ([[1000000.0, 0.0], [0.0, 1.0]], [1.0, 0.0])

    Source: Golub and Van Loan (2013), section 5.3; Anderson and Moore (1979), section 6.5 for its use in filters.
    """
    if V.dtype == jnp.float64:
        L = jnp.linalg.cholesky(jnp.eye(V.shape[0], dtype=V.dtype) + V @ V.T)
        return L, solve_triangular(L, V @ d, lower=True)
    Q, R = jnp.linalg.qr(_stacked(V))
    signs = jnp.where(jnp.diagonal(R) < 0, -1, 1).astype(R.dtype)
    return (R * signs[:, None]).T, signs * (d @ Q[V.shape[0] :])


def gram_rows(
    V: Float[Array, "n m"], d: Float[Array, " m"], share: float
) -> tuple[Float[Array, "n n"], Float[Array, " n"], Float[Array, ""]]:
    r"""Return what some columns of V add to the problem \(\min_w |w|^2 + |d - V^\top w|^2\), as n rows.

    With \(Q R = [\sqrt c\, I\; V]^\top\) and \(z = Q^\top [0\; d]\) their part is \(|z - R w|^2 + r\); so the rows R
    and z of all parts of the columns, one below the other, are a small problem with the same minimum.

    Args:
        V: some columns, shape (n, m).
        d: shape (m,).
        share: c, this part's share of the identity, so that derivatives exist whatever the rank of V.

    Returns:
        R, shape (n, n), z, shape (n,), and r.

    Example:
        >>> R, z, rest = gram_rows(jnp.array([[3.0]]), jnp.array([2.0]), 1.0)
        >>> [round(abs(float(x)), 4) for x in (R[0, 0] ** 2, R[0, 0] * z[0], rest)]  # 1 + 9, 3 * 2, 2^2 / 10
        [10.0, 6.0, 0.4]

    Source: Golub and Van Loan (2013), section 5.3; by parts: Demmel et al. (2012), section 3.
    """
    right = jnp.concatenate([jnp.zeros(V.shape[0], d.dtype), d])
    Q, R = jnp.linalg.qr(jnp.concatenate([share**0.5 * jnp.eye(V.shape[0], dtype=V.dtype), V.T]))
    z = right @ Q
    rest = right - Q @ z
    return R, z, jnp.vdot(rest, rest)


def gram_factor(V: Float[Array, "n m"]) -> Float[Array, "n n"]:
    r"""Return the lower triangular L alone, with \(L L^\top = I + V V^\top\); see `gram_cholesky`.

    Example:
        >>> gram_factor(jnp.array([[3**0.5], [0.0]])).round(4).tolist()
        [[2.0, 0.0], [0.0, 1.0]]
    """
    return gram_cholesky(V, jnp.zeros(V.shape[1], V.dtype))[0]


def factor_inverse_sqrt(
    V: Float[Array, "n m"], d: Float[Array, " m"]
) -> tuple[Float[Array, "n n"], Float[Array, " n"]]:
    r"""Return \((I + V V^\top)^{-1/2}\), symmetric, and \((I + V V^\top)^{-1} V d\), from QR factors as above.

    They are right up to a condition number of one over the squared rounding unit. There are no derivatives of
    their own: those of `symmetric_inverse_sqrt` belong to them.

    Args:
        V: shape (n, m).
        d: shape (m,).

    Example:
        >>> T, w = factor_inverse_sqrt(jnp.array([[3**0.5], [0.0]]), jnp.ones(1))
        >>> T.round(4).tolist(), w.round(4).tolist()
        ([[0.5, 0.0], [0.0, 1.0]], [0.433, 0.0])

    Source: Golub and Van Loan (2013), sections 5.3 and 8.6.
    """
    return rows_inverse_sqrt(_stacked(V), jnp.concatenate([jnp.zeros(V.shape[0], d.dtype), d]))


def rows_inverse_sqrt(
    rows: Float[Array, "k n"], right: Float[Array, " k"]
) -> tuple[Float[Array, "n n"], Float[Array, " n"]]:
    r"""Return \((M^\top M)^{-1/2}\) and \((M^\top M)^{-1} M^\top z\), no singular value of M below one.

    Args:
        rows: M, shape (k, n).
        right: z, shape (k,).

    Example:
        >>> T, w = rows_inverse_sqrt(2 * jnp.eye(1), jnp.ones(1))
        >>> T.tolist(), w.tolist()
        ([[0.5]], [0.5])
    """
    finite = jnp.all(jnp.isfinite(rows)) & jnp.all(jnp.isfinite(right))
    Q, R = jnp.linalg.qr(jnp.where(finite, rows, 0))
    left, values, last = jnp.linalg.svd(R)
    values = jnp.maximum(values, 1)
    half = left.T @ (jnp.where(finite, right, 0) @ Q)
    T, w = _compose(1 / values, last.T), last.T @ (half / values)
    return jnp.where(finite, T, jnp.nan), jnp.where(finite, w, jnp.nan)


def _stacked(V: Any) -> Any:
    return jnp.concatenate([jnp.eye(V.shape[0], dtype=V.dtype), V.T])


def safe_sqrt(x: Float[Array, ...]) -> Float[Array, ...]:
    """Return the square root of every entry, with derivative zero (not infinite) at zero; NaN where negative.

    Example:
        >>> jax.grad(safe_sqrt)(0.0).item(), safe_sqrt(jnp.array(9.0)).item()
        (0.0, 3.0)
    """
    zero = x == 0  # not "x > 0": the root of what is not finite must not be zero
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, x)))


def covariance_rows(P: Float[Array, "n n"]) -> Float[Array, "n n"]:
    r"""Return F with \(F^\top F = P\) for a covariance matrix: the square root of its correlations, times the spreads.

    What counts as zero (see `symmetric_sqrt`) therefore does not depend on the units of the components.

    Args:
        P: symmetric positive semidefinite, shape (n, n).

    Returns:
        F, shape (n, n): rows that are the columns of a square root of P. NaN where P is indefinite beyond rounding.

    Example:
        >>> covariance_rows(jnp.array([[4.0, 0.0], [0.0, 0.0]])).tolist()
        [[2.0, 0.0], [0.0, 0.0]]
    """
    variance = jnp.diagonal(P)
    spread = safe_sqrt(jnp.where(variance == 0, 1, variance))
    return symmetric_sqrt(P / spread[:, None] / spread[None]) * spread[None]


@jax.custom_jvp
def _root(A: Any) -> tuple[Any, tuple[Any, Any]]:
    """Return S, and (square roots of the eigenvalues, eigenvectors), which count as constants."""
    values, vectors = jnp.linalg.eigh(A, symmetrize_input=False)
    floor = _floor(values)
    roots = jnp.sqrt(jnp.where(values > floor, values, 0))
    roots = jnp.where(jnp.all(values >= -floor, axis=-1, keepdims=True), roots, jnp.nan)
    return _compose(roots, vectors), (roots, vectors)


@_root.defjvp
def _root_jvp(primals: Any, tangents: Any) -> Any:
    S, eigen = _root(*primals)
    (A_dot,) = tangents
    return (S, eigen), (_lyapunov(S, eigen, A_dot), jax.tree.map(jnp.zeros_like, eigen))


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _inverse_root(A: Any, least: float) -> tuple[Any, tuple[Any, Any]]:
    values, vectors = jnp.linalg.eigh(A, symmetrize_input=False)
    values = jnp.maximum(values, least) if least else values
    definite = jnp.all(values > (0 if least else _floor(values)), axis=-1, keepdims=True)
    roots = jnp.where(definite, 1 / jnp.sqrt(jnp.where(definite, values, 1)), jnp.nan)
    return _compose(roots, vectors), (roots, vectors)


@_inverse_root.defjvp
def _inverse_root_jvp(least: float, primals: Any, tangents: Any) -> Any:
    # T T = A^(-1), hence T T' + T' T = -A^(-1) A' A^(-1) = -T T A' T T.
    T, eigen = _inverse_root(*primals, least)
    (A_dot,) = tangents
    inverse = T @ T
    return (T, eigen), (_lyapunov(T, eigen, -inverse @ A_dot @ inverse), jax.tree.map(jnp.zeros_like, eigen))


def _lyapunov(S: Any, eigen: tuple[Any, Any], C: Any) -> Any:
    """Return X with S X + X S = C for symmetric S with the given eigenvalues and eigenvectors."""
    values, vectors = jax.tree.map(lax.stop_gradient, eigen)
    sums = values[..., :, None] + values[..., None, :]
    # NaN must stay NaN; only the exact zeros of a singular root are left out.
    weights = jnp.where(sums == 0, 0, 1 / jnp.where(sums == 0, 1, sums))

    def solve(_: Any, C: Any) -> Any:
        return vectors @ (weights * (_transposed(vectors) @ C @ vectors)) @ _transposed(vectors)

    return lax.custom_linear_solve(lambda X: S @ X + X @ S, C, solve, symmetric=True)


def _floor(values: Any) -> Any:
    return values.shape[-1] * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values), axis=-1, keepdims=True)


def _compose(values: Any, vectors: Any) -> Any:
    return (vectors * values[..., None, :]) @ _transposed(vectors)


def _transposed(A: Any) -> Any:
    return jnp.swapaxes(A, -1, -2)
