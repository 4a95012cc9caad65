"""The step that observations ask of an estimate whose error covariance is known by its products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from diffassim.core import tree

__all__ = ["guided_mean"]


def guided_mean(
    innovation: Callable[[Any], Float[Array, " m"]],
    mean: Any,
    covariance: Callable[[Any], Any],
    iterations: int,
    scale: Any = None,
) -> Any:
    r"""Return the mean of N(m, V) after the observations, with the operator linearized at m.

    .. math:: m + V A^\top (I + A V A^\top)^{-1} d,\qquad d = R^{-1/2} (y - H(m)),\quad A = R^{-1/2} H'(m)

    The system is solved by conjugate gradients with a fixed number of iterations, preconditioned by the diagonal that
    it has where every observed value sees one component of the state; there, and without covariances, a single
    iteration is exact. Reverse mode passes through the iterations, so that derivatives are those of what is computed.

    Args:
        innovation: function of one state, \(x \mapsto R^{-1/2} (y - H(x))\), zero where nothing was observed.
        mean: m, a state.
        covariance: product with V, state -> state.
        iterations: of the conjugate gradients (static); exact from as many as there are observed values on.
        scale: square root of the diagonal of V, like a state, for the preconditioner; None: none.

    Example:
        >>> found = guided_mean(lambda x: 3.0 - x, jnp.array([1.0]), lambda u: u, iterations=1)
        >>> found.tolist()  # a prior N(1, 1), and 3 observed with unit variance
        [2.0]

    Source: Song et al. (2023), section 3.1, for guidance with a covariance; Rozet et al. (2024), section 4.2, for
    products and conjugate gradients.
    """
    d, push = jax.linearize(innovation, mean)  # push is -A
    pull = jax.linear_transpose(push, mean)

    def system(u: Any) -> Any:
        return u + push(covariance(pull(u)[0]))

    diagonal = jnp.ones_like(d) if scale is None else 1 + jnp.square(push(scale))
    (increment,) = pull(_solved(system, d, diagonal, iterations))
    return tree.subtract(mean, covariance(increment))


def _solved(system: Callable[[Any], Any], b: Any, diagonal: Any, iterations: int) -> Any:
    """Return the solution of a system by preconditioned conjugate gradients, at rest once it is found."""
    floor = (jnp.finfo(b.dtype).eps * 1e-2) ** 2 * jnp.vdot(b, b / diagonal)

    def step(carry: Any, _: Any) -> tuple[Any, None]:
        u, r, p, rz = carry
        going = rz > floor
        q = system(p)
        # The identity is part of the system: less is an error of a covariance that a network claims.
        curvature, least = jnp.vdot(p, q), jnp.vdot(p, p)
        going = going & (curvature >= 0.999 * least)
        length = jnp.where(going, rz / jnp.where(going, curvature, 1), 0)
        u, r = u + length * p, r - length * q
        z = r / diagonal
        following = jnp.vdot(r, z)
        turn = jnp.where(going, following / jnp.where(going, rz, 1), 0)
        return (u, r, jnp.where(going, z + turn * p, p), jnp.where(going, following, rz)), None

    z = b / diagonal
    (u, *_), _ = lax.scan(step, (jnp.zeros_like(b), b, z, jnp.vdot(b, z)), length=iterations)
    return u
