"""The linear-quadratic regulator, whose best policy is known."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from diffassim.core.pytree import Pytree
from diffassim.decisions.control import StateIncrement
from diffassim.decisions.model_environment import ModelEnvironment
from diffassim.decisions.spaces import Box
from diffassim.models.base import Model

__all__ = ["LinearModel", "QuadraticCost", "linear_quadratic", "riccati_gain"]


class LinearModel(Model):
    """x -> A x.

    Args:
        A: shape (n, n).
        dt: length of a step.

    Example:
        >>> LinearModel(jnp.array([[0.5]])).step(jnp.array([2.0]), 0).tolist()
        [1.0]
    """

    A: Any
    dt: float = 1.0

    def step(self, x: Any, t: Any) -> Any:
        """Return A x."""
        return self.A @ x


class QuadraticCost(Pytree):
    r"""\(x^\top C x + a^\top D a\).

    Args:
        state: C, shape (n, n).
        action: D, shape (m, m).

    Example:
        >>> cost = QuadraticCost(jnp.eye(1), 3 * jnp.eye(1))
        >>> float(cost(jnp.array([2.0]), jnp.array([1.0]), None, 0))
        7.0
    """

    state: Any
    action: Any

    def __call__(self, x: Any, action: Any, following: Any, t: Any) -> Any:
        """Return the cost of a state and an action."""
        return x @ self.state @ x + action @ self.action @ action


def linear_quadratic(A: Any, B: Any, cost: QuadraticCost, start: Any, Q: Any = None, length: int = 50) -> Any:
    r"""Return the environment \(x' = A (x + B a) + \eta\) with a quadratic cost.

    The action enters before the step, as everywhere in this package, so that the regulator's input matrix is A B.

    Args:
        A: shape (n, n).
        B: shape (n, m).
        cost: `QuadraticCost`.
        start: first state, or a function key -> state.
        Q: covariance of the noise, or None.
        length: steps of an episode.

    Example:
        >>> one = jnp.eye(1)
        >>> linear_quadratic(one, one, QuadraticCost(one, one), jnp.ones(1)).horizon
        50
    """
    B = jnp.asarray(B)
    actions = Box.unbounded(B.shape[1], B.dtype)
    return ModelEnvironment(LinearModel(A), StateIncrement(B.T), cost, start, actions, Q, length=length)


def riccati_gain(
    A: Float[Array, "n n"], B: Float[Array, "n m"], cost: QuadraticCost, iterations: int = 1000
) -> tuple[Array, Array]:
    r"""Return the gain K of the best policy \(a = -K x\) and the matrix of its value \(x^\top P x\), without discount.

    .. math:: K = (D + B^\top P B)^{-1} B^\top P A,\quad P = C + A^\top P (A - B K)

    Args:
        A: shape (n, n).
        B: input matrix, shape (n, m).
        cost: `QuadraticCost`.
        iterations: of the fixed point.

    Example:
        >>> one = jnp.eye(1)
        >>> K, P = riccati_gain(one, one, QuadraticCost(one, one))
        >>> round(float(P[0, 0]), 6)  # the golden ratio
        1.618034
    """

    def gain(P: Any) -> Any:
        return jnp.linalg.solve(cost.action + B.T @ P @ B, B.T @ P @ A)

    def body(_: Any, P: Any) -> Any:
        return cost.state + A.T @ P @ (A - B @ gain(P))

    P = lax.fori_loop(0, iterations, body, jnp.asarray(cost.state))
    return gain(P), P
