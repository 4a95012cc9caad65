"""The serial stochastic ensemble Kalman filter."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffassim.ensemble.enkf import perturbations
from diffassim.ensemble.local.serial import SerialFilter

__all__ = ["SerialEnKF"]


class SerialEnKF(SerialFilter):
    r"""Stochastic serial filter: every member takes each value with a perturbation of its own.

    For a whitened value with prior variance \(\sigma^2\), anomalies s and innovation \(\delta\), and draws
    \(\varepsilon_i \sim N(0, 1)\), centered over the members and scaled back to unit variance,

    .. math:: \Delta h_i = \frac{\sigma^2}{1 + \sigma^2}\, (\delta - s_i + \varepsilon_i)

    regressed on the state by localized covariances. Without localization it differs from the `EnKF` by the sample
    correlations between the perturbations of different values. Derivatives hold for fixed draws (the key).

    Args:
        inflation, rotation, localization, grid, places: as for `LocalizedMethod`; without a taper it is global.

    Raises:
        ConfigurationError: (analysis) with localization, if places are not known or R is correlated.

    Example:
        >>> import diffassim as da
        >>> y = da.Observations(jnp.array([[3.0]]), [0], error=da.covariances.Diagonal(std=1.0))
        >>> ensemble, _ = SerialEnKF().analyze(jax.random.key(0), jnp.array([[-1.0], [0.0], [1.0]]), y)
        >>> ensemble.mean(0).round(4).tolist()
        [1.5]

    Source: Burgers, van Leeuwen and Evensen (1998); one by one and localized: Houtekamer and Mitchell (2001).
    """

    @property
    def random(self) -> bool:
        """Whether the analysis draws random numbers: always."""
        return True

    def response(self, key: Any, s: Float[Array, " N"], d: Float[Array, ""]) -> Float[Array, " N"]:
        """Return (d - s + noise) / (1 + sigma^2)."""
        return (d - s + perturbations(key, s)) / (1 + jnp.vdot(s, s) / (s.shape[0] - 1))
