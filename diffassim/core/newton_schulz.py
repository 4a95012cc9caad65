"""Inverse square roots of identities plus Gram matrices by matrix products alone."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from diffassim.core.batching import vectorized
from diffassim.core.linalg import symmetric_inverse_sqrt

__all__ = ["gram_inverse_sqrt"]

LARGEST = 1e4  # bound of the condition number beyond which the eigenvectors cost no more
STEPS = 20
CACHE = 1 << 20  # bytes of matrices at a time: many, whose products then use all cores


@jax.custom_jvp
def gram_inverse_sqrt(A: Float[Array, "N N"]) -> Float[Array, "N N"]:
    r"""Return \(A^{-1/2}\), symmetric, of a matrix A that is the identity plus a semidefinite one.

    The Newton-Schulz iteration, coupled and scaled by what is known of the smallest eigenvalue,

    .. math:: P = Z Y,\quad M = \tfrac{\mu}{2} (3 I - \mu^2 P),\quad Y \leftarrow Y M,\quad Z \leftarrow M Z

    from Y = A / b and Z = I, where b bounds the largest eigenvalue and \(\mu^2 = 3 / (1 + l + l^2)\) for a bound l of
    the smallest eigenvalue's root. It ends by its residual \(|I - P|\), to rounding. What is too badly conditioned for
    it, or does not reach that residual, takes the eigenvectors of `symmetric_inverse_sqrt`, as do all derivatives.
    Under `jax.vmap` a whole batch takes the one way or the other.

    Args:
        A: symmetric with no eigenvalue below one, shape (N, N).

    Returns:
        Shape (N, N); NaN where `symmetric_inverse_sqrt` is.

    Example:
        >>> gram_inverse_sqrt(jnp.array([[4.0, 0.0], [0.0, 16.0]])).round(4).tolist()
        [[0.5, 0.0], [0.0, 0.25]]

    Source: Higham (2008), equation 6.35; scaling: Chen and Chow (2014), section 3.
    """
    return _solve(A)


@gram_inverse_sqrt.defjvp
def _derivative(primals: Any, tangents: Any) -> Any:
    return jax.jvp(symmetric_inverse_sqrt, primals, tangents)


def _root(A: Any) -> Any:
    Z, sound = newton_schulz(A)
    return lax.cond(sound, lambda: Z, lambda: symmetric_inverse_sqrt(A))


_solve = vectorized(_root, _root, CACHE)


@jax.default_matmul_precision("highest")
def newton_schulz(A: Float[Array, "*batch N N"]) -> tuple[Float[Array, "*batch N N"], Array]:
    """Return the inverse roots of matrices none of whose eigenvalues is below one, and whether all are accurate.

    Args:
        A: the matrices, shape (..., N, N).
    """
    identity = jnp.broadcast_to(jnp.eye(A.shape[-1], dtype=A.dtype), A.shape)
    eps = float(jnp.finfo(A.dtype).eps)
    bound = 1 + _norm(A - identity)

    def factor(P: Any, low: Any) -> tuple[Any, Any]:
        square = 3 / (1 + low + jnp.square(low))
        mu = jnp.sqrt(square)
        return mu / 2 * (3 * identity - square * P), jnp.minimum(mu / 2 * low * (3 - square * jnp.square(low)), 1)

    def far(state: Any) -> Any:
        return (state[0] < steps) & (state[5] > close)

    def step(state: Any) -> Any:
        count, Y, Z, P, low, _ = state
        M, low = factor(P, low)
        Y, Z = Y @ M, M @ Z
        P = Z @ Y
        return count + 1, Y, Z, P, low, jnp.max(_norm(identity - P))

    close = eps ** (1 / 3)  # to the third power by the last step, which is of higher order
    steps = jnp.where(jnp.max(bound) <= LARGEST, STEPS, 0)  # none for NaN as well
    Y = A / bound
    Z, low = factor(Y, lax.rsqrt(bound))
    Y = Y @ Z
    state = jnp.asarray(0, steps.dtype), Y, Z, Z @ Y, low, jnp.asarray(jnp.inf, A.dtype)
    _, _, Z, P, low, residual = lax.while_loop(far, step, state)
    E = identity - P
    Z = (identity + E / 2 + 0.375 * (E @ E)) @ Z / jnp.sqrt(bound)
    return (Z + jnp.swapaxes(Z, -1, -2)) / 2, residual <= close


def _norm(A: Any) -> Any:
    return jnp.sqrt(jnp.sum(jnp.square(A), axis=(-2, -1), keepdims=True))
