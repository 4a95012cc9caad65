"""The deterministic ensemble Kalman filter with halved gain."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax.scipy.linalg import cho_solve, solve_triangular
from jaxtyping import Array, Float

from diffassim.core.linalg import gram_cholesky
from diffassim.ensemble.base import GlobalFilter

__all__ = ["DEnKF"]


class DEnKF(GlobalFilter):
    r"""The mean is updated with the Kalman gain K, the anomalies with half of it: no perturbed observations, no root.

    .. math:: \bar x_a = \bar x_f + K (y - \overline{H(x_f)}),\qquad X_a = X_f - \tfrac12 K H X_f

    The posterior covariance is \((I - KH) P_f + \tfrac14 K H P_f H^\top K^\top\): exact to first order in KH, and
    larger than the Kalman filter's where corrections are large. Correlated R is allowed.

    Args:
        inflation: an `Inflation`, or a number that multiplies the posterior anomalies.
        rotation: whether the posterior anomalies are rotated at random, mean and covariance unchanged (static).

    Example:
        >>> import diffassim as da
        >>> y = da.Observations(jnp.array([[3.0]]), [0], error=da.covariances.Diagonal(std=1.0))
        >>> DEnKF().analyze(None, jnp.array([[-1.0], [0.0], [1.0]]), y)[0].ravel().round(4).tolist()
        [0.75, 1.5, 2.25]

    Source: Sakov and Oke (2008), equations 13 to 15.
    """

    def weights(self, key: Any, S: Float[Array, "N m"], d: Float[Array, " m"]) -> Float[Array, "N N"]:
        """Return w + I - S S^T A^(-1) / 2 (N - 1)."""
        N = S.shape[0]
        identity = jnp.eye(N, dtype=S.dtype)
        L, half = gram_cholesky(S * (N - 1) ** -0.5, d * (N - 1) ** -0.5)
        w = solve_triangular(L, half, lower=True, trans=1)
        # As I - S S^T A^(-1) / (N - 1) = A^(-1), which loses nothing where S is large.
        return w[None] + 0.5 * (identity + cho_solve((L, True), identity))
