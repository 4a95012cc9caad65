"""Inverse square roots of identities plus Gram matrices by matrix products alone."""

from __future__ import annotations

import math
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float
from numpy.polynomial import Chebyshev, Polynomial

from diffassim.core.batching import vectorized
from diffassim.core.linalg import factor_inverse_sqrt, gram_rows, rows_inverse_sqrt, symmetric_inverse_sqrt

__all__ = ["at_least_one", "gram_inverse_sqrt", "gram_transform", "with_inverse"]

LARGEST = 1e4  # bound of the condition number beyond which the eigenvectors cost no more
STEPS = 20
WIDTH = 0.004, 0.12  # of the spectrum on which a polynomial of degree five ends it, in double and single precision
CACHE = 1 << 17  # bytes of matrices at a time, of which several should stay in a processor's second cache


@jax.custom_jvp
def gram_inverse_sqrt(A: Float[Array, "N N"]) -> Float[Array, "N N"]:
    r"""Return \(A^{-1/2}\), symmetric, of a matrix A that is the identity plus a semidefinite one.

    The Newton-Schulz iteration, coupled and scaled by what is known of the smallest eigenvalue,

    .. math:: P = Z Y,\quad M = \tfrac{\mu}{2} (3 I - \mu^2 P),\quad Y \leftarrow Y M,\quad Z \leftarrow M Z

    from Y = A / b and Z = I, where b bounds the largest eigenvalue and \(\mu^2 = 3 / (1 + l + l^2)\) for a bound l of
    the smallest eigenvalue's root. The bounds tell after how many steps a polynomial of P ends it to rounding. What is
    too badly conditioned, or has a larger residual \(|(I - P)^2|\) than they promise, takes the eigenvectors of
    `symmetric_inverse_sqrt`, as do all derivatives. Under `jax.vmap` a whole batch takes the one way or the other.

    Args:
        A: symmetric with no eigenvalue below one, shape (N, N).

    Returns:
        Shape (N, N); NaN where A is not finite.

    Example:
        >>> gram_inverse_sqrt(jnp.array([[4.0, 0.0], [0.0, 16.0]])).round(4).tolist()
        [[0.5, 0.0], [0.0, 0.25]]

    Source: Higham (2008), equation 6.35; scaling: Chen and Chow (2014), section 3.
    """
    return _solve(A)


@gram_inverse_sqrt.defjvp
def _derivative(primals: Any, tangents: Any) -> Any:
    return jax.jvp(at_least_one, primals, tangents)


def gram_transform(
    A: Float[Array, "N N"], b: Float[Array, " N"], V: Float[Array, "N m"], d: Float[Array, " m"],
    over: tuple[str, ...] = (),
) -> tuple[Float[Array, "N N"], Float[Array, " N"]]:  # fmt: skip
    r"""Return \(A^{-1/2}\) and \(A^{-1} b\) for \(A = I + V V^\top\) and \(b = V d\), of which all four are given.

    As `gram_inverse_sqrt`, but what is too badly conditioned for it takes the factors V and d: in single precision A
    has lost its identity there, and b its digits in directions that V does not reach.

    Args:
        A: shape (N, N).
        b: shape (N,).
        V: shape (N, m), of which no derivative is taken.
        d: shape (m,), of which no derivative is taken.
        over: axes of a mesh over whose devices m is split, within `jax.shard_map`; A and b are the sums over them.
    """
    return _transform(A, b, lax.stop_gradient(V), lax.stop_gradient(d), over)


@partial(jax.custom_jvp, nondiff_argnums=(4,))
def _transform(A: Any, b: Any, V: Any, d: Any, over: tuple[str, ...]) -> tuple[Any, Any]:
    return _factor_solver(over)(A, b, V, d)  # type: ignore[no-any-return]


@_transform.defjvp
def _transform_derivative(over: tuple[str, ...], primals: Any, tangents: Any) -> Any:
    _, moved = jax.jvp(lambda A, b: with_inverse(at_least_one(A), b), primals[:2], tangents[:2])
    return _transform(*primals, over), moved


def at_least_one(A: Any) -> Any:
    """Return the inverse root by eigenvectors, no eigenvalue below one."""
    return symmetric_inverse_sqrt(A, 1.0)


def with_inverse(T: Any, b: Any) -> tuple[Any, Any]:
    """Return T and T T b."""
    # Of many filters at once, sums cost less than products with a vector.
    return T, jnp.sum(T * jnp.sum(T * b[None], axis=1)[None], axis=1)


def _root(A: Any) -> Any:
    Z, sound = newton_schulz(A)
    return lax.cond(sound, lambda: Z, lambda: at_least_one(A))


def _roots_of_factors(over: tuple[str, ...], A: Any, b: Any, V: Any, d: Any) -> Any:
    Z, sound = newton_schulz(A)
    usual: Any = with_inverse

    def other(V: Any, d: Any) -> Any:
        if not over:
            return factor_inverse_sqrt(V, d)
        rows = gram_rows(V, d, 1 / lax.axis_size(over))[:2]
        return rows_inverse_sqrt(*(lax.all_gather(part, over, tiled=True) for part in rows))

    if A.ndim > 2:
        usual, other = jax.vmap(usual), jax.vmap(other)
    return lax.cond(sound, lambda: usual(Z, b), lambda: other(V, d))


@cache
def _factor_solver(over: tuple[str, ...]) -> Any:
    solve = partial(_roots_of_factors, over)
    return vectorized(solve, solve, CACHE)


_solve = vectorized(_root, _root, CACHE)


@jax.default_matmul_precision("highest")
def newton_schulz(A: Float[Array, "*batch N N"]) -> tuple[Float[Array, "*batch N N"], Array]:
    """Return the inverse roots of matrices none of whose eigenvalues is below one, and whether all are accurate.

    Args:
        A: the matrices, shape (..., N, N).
    """
    N, precise = A.shape[-1], A.dtype == jnp.float64
    identity = jnp.broadcast_to(jnp.eye(N, dtype=A.dtype), A.shape)
    width, usual = (WIDTH[0], 2) if precise else (WIDTH[1], 1)
    bound = 1 + _norm(A - identity)

    def scale(low: Any) -> tuple[Any, Any]:
        square = 3 / (1 + low + jnp.square(low))
        return square, jnp.minimum(jnp.sqrt(square) / 2 * low * (3 - square * jnp.square(low)), 1)

    def factor(P: Any, low: Any) -> tuple[Any, Any]:
        square, low = scale(low)
        return jnp.sqrt(square) / 2 * (3 * identity - square * P), low

    def step(Y: Any, Z: Any, P: Any, low: Any) -> tuple[Any, Any, Any, Any]:
        M, low = factor(P, low)
        Y, Z = Y @ M, M @ Z
        return Y, Z, Z @ Y, low

    def far(state: Any) -> Any:
        low = jnp.min(state[-1])
        for _ in range(usual):
            low = scale(low)[1]
        return (state[0] < steps) & (1 - jnp.square(low) > width * (1 + jnp.square(low)))

    steps = jnp.where(jnp.max(bound) <= LARGEST, STEPS, 0)  # none for NaN as well
    Y = A / bound
    Z, low = factor(Y, lax.rsqrt(bound))
    Y = Y @ Z
    state = jnp.asarray(0, steps.dtype), Y, Z, Z @ Y, low
    # The loop has to copy what it carries, so the steps that nearly every matrix takes stand outside of it.
    _, *carried = lax.while_loop(far, lambda state: (state[0] + 1, *step(*state[1:])), state)
    for _ in range(usual):
        carried = step(*carried)
    _, Z, P, low = carried
    center = (1 + jnp.square(low)) / 2  # of the eigenvalues of P, which lie between low^2 and 1
    E = identity - P / center
    square = E @ E
    pairs = [a * identity + b * E for a, b in _inverse_root_near_one(width)]
    last = pairs[0] + square @ (pairs[1] + square @ pairs[2])
    Z = last @ Z * lax.rsqrt(bound * center)
    # The norm of the square lies closer to its largest eigenvalue than that of E does.
    return (Z + jnp.swapaxes(Z, -1, -2)) / 2, jnp.max(_norm(square)) <= width**2 * math.sqrt(N)


@cache
def _inverse_root_near_one(width: float) -> list[list[float]]:
    """Return coefficients of powers of e, two by two, of (1 - e)^(-1/2) for |e| up to the width."""
    fitted = Chebyshev.interpolate(lambda e: (1 - e) ** -0.5, 5, domain=[-width, width])
    return fitted.convert(kind=Polynomial).coef.reshape(3, 2).tolist()  # type: ignore[no-any-return]


def _norm(A: Any) -> Any:
    return jnp.sqrt(jnp.sum(jnp.square(A), axis=(-2, -1), keepdims=True))
