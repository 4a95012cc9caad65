"""How likely are departures under error covariances?"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError, ShapeError, concrete
from diffassim.covariances.base import Covariance

__all__ = ["innovation_matrix", "negative_log_likelihood"]


def negative_log_likelihood(
    departures: Any,
    B: Covariance,
    R: Covariance | None = None,
    operator: Callable[[Any], Any] | None = None,
    x: Any = None,
) -> Float[Array, ""]:
    r"""Return minus the log probability density of independent departures, differentiable in B and R.

    .. math::
        -\log p(d \mid B, R, H) = \tfrac12 \sum_i \left(d_i^\top S^{-1} d_i + \log\det S + m_i \log 2\pi\right),
        \qquad S = H B H^\top + R

    for innovations \(d_i = y_i - H(x_{b,i})\), m_i of them observed. With R, or with missing values, S is written out
    as an m by m matrix and factorized: meant for up to some thousand observations; `estimate_likelihood` has no such
    limit. Without R the departures are samples of the background error itself; then `whiten` and `logdet` of B are
    used, and any size will do. Traced departures may hold missing values with R or an operator only.

    Args:
        departures: with a leading axis of cases. With R a vector for each case, shape (cases, m), NaN where missing;
            without, the state's pytree.
        B: background-error covariance.
        R: observation-error covariance, or None.
        operator: H, linearized at x; None: the identity.
        x: a background state, needed with `operator`.

    Returns:
        The sum over all cases; NaN in traced code where S is not positive definite.

    Raises:
        ShapeError: if the departures have not the shape that is asked for.
        ConfigurationError: if S is not positive definite.

    Example:
        >>> from diffassim.covariances import Diagonal
        >>> d = jnp.array([[1.0], [3.0]])  # variance 1 + 4, so (10 / 5 + 2 log 5 + 2 log 2 pi) / 2
        >>> float(negative_log_likelihood(d, Diagonal(1.0), Diagonal(2.0)).round(4))
        4.4473

    Source: Dee (1995), equation 10; Dee and da Silva (1999), section 3.
    """
    known = [concrete(leaf) for leaf in jax.tree.leaves(departures)]
    complete = all(leaf is not None and np.isfinite(leaf).all() for leaf in known)
    if R is None and operator is None and (complete or any(leaf is None for leaf in known)):
        departures = jax.tree.map(jnp.asarray, departures)
        squares = tree.squared_norm(B.whiten(departures))
        constant = jnp.asarray(tree.size(departures) * float(np.log(2 * np.pi)), squares.dtype)
        return 0.5 * (squares + B.logdet(departures) + constant)
    d = jnp.asarray(departures) if len(known) == 1 else None
    if d is None or d.ndim != 2:
        raise ShapeError(
            "negative_log_likelihood: with R, an operator or missing values, departures must be one array of shape "
            f"(cases, m), found {tree.describe_shapes(departures)}; write H so that it returns a vector"
        )
    if operator is not None and x is None:
        raise ShapeError("negative_log_likelihood: give `x`, a background state at which to linearize the operator")
    S = innovation_matrix(d[0], B, R, operator, x)
    value = _dense_complete(S, d) if complete else jnp.sum(jax.vmap(partial(_dense_masked, S))(d))
    result = concrete(value)
    if result is not None and not np.isfinite(result):
        raise ConfigurationError(
            "negative_log_likelihood: the covariance of the innovations, H B H^T + R, is not positive definite; give "
            "R, a residual or a nugget"
        )
    return value


def innovation_matrix(
    d: Float[Array, " m"], B: Covariance, R: Covariance | None, operator: Callable[[Any], Any] | None, x: Any
) -> Float[Array, "m m"]:
    """Return H B H^T + R as a matrix.

    Args:
        d: a vector that shows size and dtype of one case, shape (m,).
        B: background-error covariance.
        R: observation-error covariance, or None to leave it out.
        operator: H, linearized at x; None: the identity.
        x: a background state, needed with `operator`.

    Returns:
        Shape (m, m), symmetric.

    Raises:
        ShapeError: if H(x) is not shaped like d.
    """
    rows = jnp.eye(d.shape[0], dtype=d.dtype)
    if operator is None:
        matrix = B.apply(rows)
    else:
        predicted, tangent = jax.linearize(operator, x)
        if jnp.shape(predicted) != d.shape:
            raise ShapeError(
                f"negative_log_likelihood: H(x) has shape {jnp.shape(predicted)}, but the innovations of one case have "
                f"{d.shape}"
            )
        adjoint = jax.linear_transpose(tangent, x)
        matrix = jax.vmap(lambda row: tangent(B.apply(adjoint(row)[0])))(rows)
    matrix = matrix if R is None else matrix + R.apply(rows)
    return (matrix + matrix.T) / 2


def _dense_complete(S: Array, d: Array) -> Array:
    L = jnp.linalg.cholesky(S)
    logdet = 2 * jnp.sum(jnp.log(jnp.diagonal(L))) + jnp.asarray(S.shape[0] * float(np.log(2 * np.pi)), S.dtype)
    return 0.5 * (tree.squared_norm(solve_triangular(L, d.T, lower=True)) + d.shape[0] * logdet)


def _dense_masked(S: Array, d: Array) -> Array:
    mask = jnp.isfinite(d)
    L = jnp.linalg.cholesky(jnp.where(mask[:, None] & mask[None, :], S, jnp.eye(d.shape[0], dtype=S.dtype)))
    z = solve_triangular(L, jnp.where(mask, d, 0), lower=True)
    observed = jnp.sum(mask).astype(S.dtype) * float(np.log(2 * np.pi))
    return 0.5 * (tree.squared_norm(z) + observed) + jnp.sum(jnp.log(jnp.diagonal(L)))
