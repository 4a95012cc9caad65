"""The nonlinear ensemble transform filter."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffassim.core.linalg import symmetric_sqrt
from diffassim.ensemble.base import GlobalFilter
from diffassim.methods.likelihood import mixture_log_ratio

__all__ = ["NETF", "likelihood_weights", "nonlinear_transform"]


class NETF(GlobalFilter):
    r"""Deterministic filter whose mean and covariance are those of the members weighted by their likelihood.

    With the weights of a particle filter,

    .. math::
        w_i \propto \exp(-\tfrac12 |R^{-1/2} (y - \mathcal H(x_i))|^2),\quad
        x_{a,i} = \sum_j w_j x_{f,j} + \sqrt N \sum_j \big[(\mathrm{diag}\, w - w w^\top)^{1/2}\big]_{ij} x_{f,j}'

    No particle is copied, so derivatives are those of the whole update. Nothing is assumed linear or Gaussian but R, at
    the price of a particle filter: where one member has all of the weight, no spread is left. A rotation (at every
    analysis) is part of the published method. Correlated R is allowed.

    Args:
        inflation: an `Inflation`, or a number that multiplies the posterior anomalies.
        rotation: whether the posterior anomalies are rotated at random, mean and covariance unchanged (static).

    Example:
        >>> import diffassim as da
        >>> y = da.Observations(jnp.array([[1.0]]), [0], error=da.covariances.Diagonal(std=1.0))
        >>> ensemble, _ = NETF().analyze(None, jnp.array([[-1.0], [0.0], [1.0]]), y)
        >>> [round(x, 3) for x in ensemble.ravel().tolist()]  # weights .08, .35, .57
        [-0.086, 0.193, 1.382]

    Source: Toedter and Ahrens (2015), section 2.
    """

    def weights(self, key: Any, S: Float[Array, "N m"], d: Float[Array, " m"]) -> Float[Array, "N N"]:
        """Return w + sqrt(N) (diag w - w w^T)^(1/2)."""
        return nonlinear_transform(S, d)

    @property
    def any_loss(self) -> bool:
        """True: minus the logarithm of a member's likelihood may be any loss."""
        return True

    def log_ratio(self, S: Float[Array, "N m"], d: Float[Array, " m"]) -> Float[Array, ""]:
        """Return that of the mean of the members' likelihoods."""
        return mixture_log_ratio(S, d)


def likelihood_weights(
    S: Float[Array, "N m"], d: Float[Array, " m"], taper: Float[Array, " m"] | None = None
) -> Float[Array, " N"]:
    """Return the members' likelihoods, with sum one.

    Args:
        S: whitened observed anomalies, shape (N, m).
        d: whitened mean innovation, shape (m,).
        taper: factor of every observation's inverse error variance, shape (m,); None for one.
    """
    squares = jnp.square(d[None] - S)
    return jax.nn.softmax(-0.5 * jnp.sum(squares if taper is None else squares * taper[None], axis=1))


def nonlinear_transform(
    S: Float[Array, "N m"], d: Float[Array, " m"], taper: Float[Array, " m"] | None = None
) -> Float[Array, "N N"]:
    r"""Return \(w_j + \sqrt N [(\mathrm{diag}\, w - w w^\top)^{1/2}]_{ij}\); arguments as `likelihood_weights`."""
    w = likelihood_weights(S, d, taper)
    # diag w - w w^T = B^T B: the difference itself would lose all digits where one weight is close to one.
    u = jnp.sqrt(jnp.maximum(w, jnp.finfo(w.dtype).tiny))
    B = u[:, None] * (jnp.eye(w.shape[0], dtype=w.dtype) - w[None])
    return w[None] + w.shape[0] ** 0.5 * symmetric_sqrt(B.T @ B)
