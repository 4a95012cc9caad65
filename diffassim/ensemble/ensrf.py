"""The serial ensemble square-root filter."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from diffassim.ensemble.base import GlobalFilter

__all__ = ["EnSRF"]


class EnSRF(GlobalFilter):
    r"""Deterministic filter that takes the whitened observations one after the other.

    For one whitened observation with anomalies s (N,), \(\sigma^2 = |s|^2 / (N - 1)\) and innovation \(\delta\),

    .. math::
        \bar x \leftarrow \bar x + \frac{X^\top s}{N - 1} \frac{\delta}{1 + \sigma^2},\qquad
        X \leftarrow X - \alpha\, \frac{s\, s^\top X}{(N - 1) (1 + \sigma^2)},\quad
        \alpha = \Big(1 + \frac{1}{\sqrt{1 + \sigma^2}}\Big)^{-1}

    The observed anomalies of the later observations are updated along with the state, H being linear in between. Errors
    that are correlated are whitened first, so R need not be diagonal. Mean and covariance are the Kalman filter's, as
    in the `ETKF`; the members differ from it where there is more than one observation, and depend on their order.

    Args:
        inflation: an `Inflation`, or a number that multiplies the posterior anomalies.
        rotation: whether the posterior anomalies are rotated at random, mean and covariance unchanged (static).

    Example:
        >>> import diffassim as da
        >>> y = da.Observations(jnp.array([[3.0]]), [0], error=da.covariances.Diagonal(std=1.0))
        >>> ensemble, _ = EnSRF().analyze(None, jnp.array([[-1.0], [0.0], [1.0]]), y)
        >>> ensemble.ravel().round(4).tolist()
        [0.7929, 1.5, 2.2071]

    Source: Whitaker and Hamill (2002), equations 2, 5, 7 to 10 and 13.
    """

    def weights(self, key: Any, S: Float[Array, "N m"], d: Float[Array, " m"]) -> Float[Array, "N N"]:
        """Return the product of all updates, as weights of the prior anomalies."""
        N = S.shape[0]

        def take(carry: Any, observation: Any) -> tuple[Any, None]:
            w, T = carry  # mean = prior mean + w X_f, anomalies = T X_f
            prior, innovation = observation
            s = T @ prior
            expected = 1 + jnp.vdot(s, s) / (N - 1)
            alpha = 1 / (1 + 1 / jnp.sqrt(expected))
            direction = s @ T / ((N - 1) * expected)
            w = w + (innovation - jnp.vdot(w, prior)) * direction
            return (w, T - alpha * jnp.outer(s, direction)), None

        start = (jnp.zeros(N, S.dtype), jnp.eye(N, dtype=S.dtype))
        (w, T), _ = lax.scan(take, start, (S.T, d))
        return w[None] + T
