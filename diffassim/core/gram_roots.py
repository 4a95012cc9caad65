"""Inverse square roots of many small matrices of the form identity plus a Gram matrix, without their eigenvectors."""

from __future__ import annotations

import math
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from diffassim.core.batching import vectorized
from diffassim.core.newton_schulz import at_least_one, gram_inverse_sqrt

__all__ = ["inverse_root_products", "loss_products", "poles"]

# Batched eigenproblems are a loop over LAPACK on a CPU, and slow on a GPU. Here the problems are the last, contiguous
# axis of every array, so that each operation is one vectorized loop over all of them: Householder reduction to
# tridiagonal matrices (Golub and Van Loan, 2013, section 8.3.1), on which a rational function is a few short
# recurrences. The function is the best rational approximation of the inverse root on [1, condition], whose error is
# below rounding and known in advance: nothing iterates, and nothing can fail to converge.

GROUP = 8  # poles that are worked on together
CONDITIONS = (1e2, 1e4, 1e7, 1e11, 1e15)
CACHE = 1 << 18  # bytes of matrices at a time, a fraction of a processor's second cache
FEW, SMALL = 4, 28  # with more columns, or larger matrices, the whole root costs less


@cache
def poles(condition: float, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    r"""Return shifts and weights with \(\sum_k \omega_k / (\lambda + \sigma_k) \approx \lambda^{-1/2}\).

    All shifts and weights are positive, so the sum loses no digits.

    Args:
        condition: the approximation holds on [1, condition].
        tolerance: largest relative error there.

    Returns:
        Shifts and weights in float64.

    Example:
        >>> shifts, weights = poles(100.0, 1e-7)
        >>> bool(abs((weights / (25.0 + shifts)).sum() - 0.2) < 1e-8)
        True

    Source: Hale, Higham and Trefethen (2008), method 3; the approximation is Zolotarev's.
    """
    from scipy.special import ellipk, ellipkm1  # here, because it takes a while to import

    count = math.ceil(math.log(4 / tolerance) * math.log(16 * condition) / (2 * math.pi**2))
    quarter, height = float(ellipk(1 / condition)), float(ellipkm1(1 / condition))  # K and K', modulus^2 1 / condition
    # The elliptic functions at i u by their theta series, whose nome is small and which lose no digits (the usual
    # library routines do where the condition is large). Nodes beyond the middle mirror those before it, so u <= K' / 2.
    nome, n = math.exp(-math.pi * height / quarter), np.arange(8)
    v = (np.arange((count + 1) // 2)[:, None] + 0.5) / count * height * math.pi / (2 * quarter)
    even, odd = 2.0 * nome ** (n * n), 2.0 * nome ** ((n + 0.5) ** 2)
    even[0], sign = 1.0, (-1.0) ** n
    theta1, theta2 = (sign * odd * np.sinh((2 * n + 1) * v)).sum(1), (odd * np.cosh((2 * n + 1) * v)).sum(1)
    theta3, theta4 = (even * np.cosh(2 * n * v)).sum(1), (sign * even * np.cosh(2 * n * v)).sum(1)
    zero2, zero3, zero4 = odd.sum(), even.sum(), (sign * even).sum()
    low = np.square(zero3 / zero2 * theta1 / theta4)
    slope = zero4**2 / (zero2 * zero3) * theta2 * theta3 / theta4**2
    mirrored = slice(count // 2)
    high, slope_high = condition / low, slope * math.sqrt(condition) / low
    shifts = np.concatenate([low, high[mirrored][::-1]])
    weights = np.concatenate([slope, slope_high[mirrored][::-1]]) * 2 * height / (math.pi * count)
    return shifts, weights


@jax.custom_jvp
def inverse_root_products(A: Float[Array, "N N"], R: Float[Array, "N C"]) -> tuple[Float[Array, "N C"], Any]:
    r"""Return \(A^{-1/2} R\) and \(A^{-1} R\) for a matrix A that is the identity plus a semidefinite one.

    Under `jax.vmap` all problems are solved together (see the comment above). A single problem, a batch with one that
    working precision cannot tell from singular, and all derivatives take the eigendecomposition of
    `symmetric_inverse_sqrt`, larger matrices and more than a few columns the whole root of `gram_inverse_sqrt`. They
    agree to rounding: N eps times the condition number.

    Args:
        A: symmetric with no eigenvalue below one, shape (N, N).
        R: right-hand sides, shape (N, C).

    Returns:
        Both products, shape (N, C); NaN where something is not finite.

    Example:
        >>> A, R = jnp.array([[4.0, 0.0], [0.0, 16.0]]), jnp.ones((2, 1))
        >>> [product.ravel().round(4).tolist() for product in inverse_root_products(A, R)]
        [[0.5, 0.25], [0.25, 0.0625]]

    Source: Hale, Higham and Trefethen (2008), section 4; Higham (2008), section 6.1 for the derivative.
    """
    if R.shape[1] > FEW or R.shape[0] > SMALL:
        T = gram_inverse_sqrt(A)
        root = T @ R
        return root, T @ root
    return _solve(A, R)


@inverse_root_products.defjvp
def _derivative(primals: Any, tangents: Any) -> Any:
    return jax.jvp(_by_eigenvectors, primals, tangents)


def _by_eigenvectors(A: Any, R: Any) -> tuple[Any, Any]:
    T = at_least_one(A)
    root = T @ R
    return root, T @ root


@jax.custom_jvp
def loss_products(B: Float[Array, "m m"], R: Float[Array, "m C"]) -> tuple[Float[Array, "m C"], Any]:
    r"""Return \((B + B^{1/2})^{-1} R\) and \(B^{-1} R\) for a matrix \(B = I + V^\top V\).

    They are what the roots of the larger matrix \(A = I + V V^\top\) take away from the identity,

    .. math:: A^{-1/2} = I - V (B + B^{1/2})^{-1} V^\top,\qquad A^{-1} V = V B^{-1}

    Under `jax.vmap` all problems are solved together, as by `inverse_root_products`, with the same poles: if
    \(\omega_k\) are the weights of \(B^{-1/2}\), those of the first product are \(\omega_k / (1 + \sigma_k)\), positive
    again. With more than a few columns the whole root costs less; all derivatives take the eigenvectors of B.

    Args:
        B: symmetric with no eigenvalue below one, shape (m, m).
        R: right-hand sides, shape (m, C).

    Returns:
        Both products, shape (m, C); NaN where something is not finite.

    Example:
        >>> B, R = jnp.array([[4.0, 0.0], [0.0, 16.0]]), jnp.ones((2, 1))
        >>> [(1 / product).ravel().round(4).tolist() for product in loss_products(B, R)]
        [[6.0, 20.0], [4.0, 16.0]]

    Source: Hale, Higham and Trefethen (2008), section 4, with the matrix inversion lemma for every pole.
    """
    if R.shape[1] > FEW:
        return _loss(gram_inverse_sqrt(B), R)
    return _solve_loss(B, R)  # type: ignore[no-any-return]


@loss_products.defjvp
def _loss_derivative(primals: Any, tangents: Any) -> Any:
    return jax.jvp(_loss_by_eigenvectors, primals, tangents)


def _loss_by_eigenvectors(B: Any, R: Any) -> tuple[Any, Any]:
    return _loss(at_least_one(B), R)


def _loss(T: Any, R: Any) -> tuple[Any, Any]:
    """Return both products, given the inverse root T of B."""
    inverse = T @ (T @ R)
    return jnp.linalg.solve(jnp.eye(T.shape[0], dtype=T.dtype) + T, inverse), inverse


def _chunk_products(one: Any, loss: bool, A: Any, R: Any) -> tuple[Any, Any]:
    if A.shape[1] < 3:
        return jax.vmap(one)(A, R)  # type: ignore[no-any-return]
    root, inverse, sound = _rational_products(loss, jnp.transpose(A, (1, 2, 0)), jnp.transpose(R, (1, 2, 0)))
    return lax.cond(  # type: ignore[no-any-return]
        sound,
        lambda: (jnp.transpose(root, (2, 0, 1)), jnp.transpose(inverse, (2, 0, 1))),
        lambda: jax.vmap(one)(A, R),
    )


_solve = vectorized(_by_eigenvectors, partial(_chunk_products, _by_eigenvectors, False), CACHE)
_solve_loss = vectorized(_loss_by_eigenvectors, partial(_chunk_products, _loss_by_eigenvectors, True), CACHE)


def _rational_products(loss: bool, A: Any, R: Any) -> tuple[Any, Any, Any]:
    """Return both products of problems on the last axis, (N, N, B) and (N, C, B), and whether all are accurate."""
    diagonal, beside, reflectors, R = _tridiagonal(A, R)
    padded = jnp.pad(jnp.abs(beside), ((1, 1), (0, 0)))
    bound = jnp.max(diagonal + padded[1:] + padded[:-1])  # of all eigenvalues: Gershgorin's
    sound = bound * (A.shape[0] * float(jnp.finfo(A.dtype).eps)) < 1  # false for NaN as well
    level = jnp.minimum(jnp.sum(bound > jnp.asarray(CONDITIONS, A.dtype)), len(CONDITIONS) - 1)
    shifts, weights, groups = (jnp.asarray(rows)[level] for rows in _table(jnp.dtype(A.dtype).name))
    weights = weights / (1 + shifts) if loss else weights

    def add(group: Any, total: Any) -> Any:
        shift, weight = (lax.dynamic_slice_in_dim(rows, group * GROUP, GROUP) for rows in (shifts, weights))
        return total + _shifted_solves(diagonal, beside, shift, weight, R)

    root = lax.fori_loop(0, groups, add, jnp.zeros_like(R))
    inverse = _shifted_solves(diagonal, beside, jnp.zeros(1, A.dtype), jnp.ones(1, A.dtype), R)
    both = _reflected(reflectors, jnp.concatenate([root, inverse], axis=1))
    return both[:, : R.shape[1]], both[:, R.shape[1] :], sound


@cache
def _table(dtype: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return shifts, weights and number of groups, one row for each of `CONDITIONS`; padding has weight zero."""
    rows = [poles(condition, float(np.finfo(dtype).eps) / 4) for condition in CONDITIONS]
    groups = np.array([-(-len(shifts) // GROUP) for shifts, _ in rows], np.int32)
    longest = GROUP * max(groups)
    shifts = np.stack([np.pad(shifts, (0, longest - len(shifts)), constant_values=1.0) for shifts, _ in rows])
    weights = np.stack([np.pad(weights, (0, longest - len(weights))) for _, weights in rows])
    return shifts.astype(dtype), weights.astype(dtype), groups


def _tridiagonal(A: Any, R: Any) -> tuple[Any, Any, Any, Any]:
    """Return diagonal, subdiagonal and reflectors of Q^T A Q, and Q^T R."""
    N = A.shape[0]
    rows = jnp.arange(N)[:, None]

    def step(k: Any, carry: Any) -> Any:
        A, R, reflectors = carry
        column = lax.dynamic_index_in_dim(A, k, 0, False)
        below = jnp.where(rows > k, column, 0)
        pivot = lax.dynamic_index_in_dim(column, k + 1, 0)
        square = jnp.sum(jnp.square(below), axis=0, keepdims=True)
        length = jnp.sqrt(square)
        moved = pivot + jnp.where(pivot >= 0, length, -length)
        scale = lax.rsqrt(jnp.maximum(square + jnp.abs(pivot) * length, jnp.finfo(A.dtype).tiny))
        u = jnp.where(rows == k + 1, moved, below) * scale  # the reflection is I - u u^T
        p, u = _product(A, u)
        q = p - (jnp.sum(u * p, axis=0, keepdims=True) / 2) * u
        A = A - u[:, None] * q[None] - q[:, None] * u[None]
        return A, _reflect(u, R), lax.dynamic_update_index_in_dim(reflectors, u, k, 0)

    reflectors = jnp.zeros((N - 2, *A.shape[1:]), A.dtype)
    A, R, reflectors = lax.fori_loop(0, N - 2, step, (A, R, reflectors))
    number = np.arange(N)
    return A[number, number], A[number[1:], number[:-1]], reflectors, R


def _product(A: Any, u: Any) -> tuple[Any, Any]:
    """Return A u, and u.

    Both come out of a loop, so that they exist as arrays: fused into what uses them, they would be computed again for
    every entry of A.
    """

    def add(j: Any, carry: Any) -> Any:
        total, copy = carry
        row = lax.dynamic_index_in_dim(u, j, 0)
        total = total + lax.dynamic_index_in_dim(A, j, 0, False) * row
        return total, lax.dynamic_update_slice_in_dim(copy, row, j, 0)

    return lax.fori_loop(0, A.shape[0], add, (jnp.zeros_like(u), jnp.zeros_like(u)))  # type: ignore[no-any-return]


def _reflect(u: Any, R: Any) -> Any:
    along = jnp.sum(u[:, None] * R, axis=0)
    return R - u[:, None] * along[None]


def _reflected(reflectors: Any, R: Any) -> Any:
    """Return Q R."""
    count = reflectors.shape[0]

    def step(k: Any, R: Any) -> Any:
        return _reflect(lax.dynamic_index_in_dim(reflectors, count - 1 - k, 0, False), R)

    return lax.fori_loop(0, count, step, R)


def _shifted_solves(diagonal: Any, beside: Any, shifts: Any, weights: Any, R: Any) -> Any:
    """Return the weighted sum of the solutions of (T + shift) X = R over the shifts, T tridiagonal and definite."""
    shifts, weights = shifts[:, None, None], weights[:, None, None]
    zero = jnp.zeros((1, beside.shape[1]), beside.dtype)
    before, after = jnp.concatenate([zero, beside]), jnp.concatenate([beside, zero])

    def eliminate(carry: Any, row: Any) -> Any:
        inverse, y = carry
        d, e, r = row
        e = e[None, None]
        y = r[None] - (e * inverse) * y
        inverse = 1 / (d[None, None] + shifts - jnp.square(e) * inverse)
        return (inverse, y), (inverse, y)

    start = jnp.zeros((shifts.shape[0], 1, R.shape[2]), R.dtype), jnp.zeros((shifts.shape[0], *R.shape[1:]), R.dtype)
    _, eliminated = lax.scan(eliminate, start, (diagonal, before, R))

    def substitute(x: Any, row: Any) -> Any:
        (inverse, y), e = row
        x = inverse * (y - e[None, None] * x)
        return x, jnp.sum(weights * x, axis=0)

    return lax.scan(substitute, start[1], (eliminated, after), reverse=True)[1]
