"""Maximum likelihood through an ensemble filter: score, information and standard errors of what it is to learn."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.linalg import solve_triangular


class Slopes(NamedTuple):
    """Minus log likelihood (without its constant), its negative gradient, and the Fisher information."""

    loss: Any
    score: Any
    information: Any


@partial(jax.jit, static_argnums=0)
def slopes(analyze: Callable[..., Any], theta: Any, members: Any, values: Any, keys: Any) -> Slopes:
    r"""Return score and information of the parameters, all the way through a filter in forward mode.

    With the predicted mean m and covariance S of the observed values,

    .. math::
        I_{kl} = \sum_t \partial_k m^\top S^{-1} \partial_l m
            + \tfrac12 \mathrm{tr}(S^{-1} \partial_k S\, S^{-1} \partial_l S)

    Args:
        analyze: (theta, members, y, key) -> members after the analysis, m, S, of one time of one trajectory.
        theta: parameters, shape (k,).
        members: at the start, shape (trajectory, member, n).
        values: observed, shape (time, trajectory, n).
        keys: shape (time, trajectory).
    """
    count = theta.shape[0]

    def one(carry: Any, now: Any) -> tuple[Any, None]:
        members, tangents, total = carry
        y, key = now
        (members, mean, S), push = jax.linearize(lambda theta, E: analyze(theta, E, y, key), theta, members)
        tangents, d_mean, d_S = jax.vmap(push)(jnp.eye(count, dtype=theta.dtype), tangents)
        root = jnp.linalg.cholesky(S)
        whiten = partial(solve_triangular, root, lower=True)
        r, A = whiten(y - mean), whiten(d_mean.T)
        B = jax.vmap(lambda D: whiten(whiten(D).T))(d_S)
        score = A.T @ r + 0.5 * (jnp.einsum("kij,i,j->k", B, r, r) - jnp.trace(B, axis1=1, axis2=2))
        information = A.T @ A + 0.5 * jnp.einsum("kij,lij->kl", B, B)
        loss = 0.5 * r @ r + jnp.sum(jnp.log(jnp.diagonal(root)))
        return (members, tangents, jax.tree.map(jnp.add, total, Slopes(loss, score, information))), None

    def trajectory(members: Any, values: Any, keys: Any) -> Slopes:
        zero = Slopes(*(jnp.zeros((count,) * power, theta.dtype) for power in range(3)))
        first = members, jnp.zeros((count, *members.shape), members.dtype), zero
        (_, _, total), _ = lax.scan(one, first, (values, keys))
        return total

    parts = jax.vmap(trajectory, (0, 1, 1))(members, values, keys)
    return jax.tree.map(lambda part: jnp.sum(part, axis=0), parts)


def step(found: Slopes, longest: Any) -> np.ndarray:
    """Return a step of Fisher scoring; each parameter moves by `longest` at most.

    Parameters of which nothing is known rest: their information is raised to that of a standard error of `longest`.
    """
    longest = np.asarray(longest, float)
    information = np.asarray(found.information, float) + np.diag(longest**-2.0)
    change = np.linalg.solve(information, np.asarray(found.score, float))
    return change / max(1.0, float(np.max(np.abs(change) / longest)))


def standard_errors(information: Any) -> np.ndarray:
    """Return the Cramer-Rao bounds of the parameters, each with all others unknown."""
    return np.sqrt(np.diag(np.linalg.inv(np.asarray(information, float))))
