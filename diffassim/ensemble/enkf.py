"""The stochastic ensemble Kalman filter."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve
from jaxtyping import Array, Float

from diffassim.core.linalg import gram_factor
from diffassim.ensemble.base import GlobalFilter

__all__ = ["EnKF", "perturbations"]


class EnKF(GlobalFilter):
    r"""Every member is updated with observations of its own, perturbed by draws from N(0, R).

    With whitened observed anomalies S (N, m), innovation d and perturbations \(\varepsilon_i \sim N(0, I)\), centered
    over the members and scaled by \(\sqrt{N / (N - 1)}\), which gives each of them the covariance I again,

    .. math::
        x_{a,i} = x_{f,i} + \sum_j \Big[ (d - S_i + \varepsilon_i)\, S^\top (I + S S^\top / (N - 1))^{-1} \Big]_j
        \frac{x_{f,j}'}{N - 1}

    Correlated R is allowed. Derivatives hold for fixed draws (the key).

    Args:
        inflation: an `Inflation`, or a number that multiplies the posterior anomalies.
        rotation: whether the posterior anomalies are rotated at random, mean and covariance unchanged (static).

    Example:
        >>> import diffassim as da
        >>> y = da.Observations(jnp.array([[3.0]]), [0], error=da.covariances.Diagonal(std=1.0))
        >>> ensemble, _ = EnKF().analyze(jax.random.key(0), jnp.array([[-1.0], [0.0], [1.0]]), y)
        >>> ensemble.mean(0).round(4).tolist()
        [1.5]

    Source: Burgers, van Leeuwen and Evensen (1998), equations 13 to 18; Evensen (2003), section 4.
    """

    @property
    def random(self) -> bool:
        """Whether the analysis draws random numbers: always."""
        return True

    def weights(self, key: Any, S: Float[Array, "N m"], d: Float[Array, " m"]) -> Float[Array, "N N"]:
        """Return I + (d - S_i + noise_i) S^T A^(-1) / (N - 1)."""
        N = S.shape[0]
        departures, scale = d[None] - S + perturbations(key, S), 1 / (N - 1)
        if S.shape[1] < N:  # the smaller of the two equivalent systems
            factor = gram_factor(S.T * scale**0.5), True
            gain = departures @ cho_solve(factor, S.T)
        else:
            factor = gram_factor(S * scale**0.5), True
            gain = cho_solve(factor, S @ departures.T).T
        return jnp.eye(N, dtype=S.dtype) + gain * scale


def perturbations(key: Any, S: Float[Array, "N ..."]) -> Float[Array, "N ..."]:
    """Return standard normal draws like S, centered over the members and scaled back to unit variance."""
    N = S.shape[0]
    noise = jax.random.normal(key, S.shape, S.dtype)
    return (noise - jnp.mean(noise, axis=0, keepdims=True)) * (N / (N - 1)) ** 0.5
