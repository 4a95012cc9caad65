"""The serial ensemble adjustment Kalman filter with covariance localization."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffassim.ensemble.local.serial import SerialFilter

__all__ = ["EAKF"]


class EAKF(SerialFilter):
    r"""Deterministic serial filter: the members' observed values are shifted and contracted to the Kalman filter's.

    For a whitened value with prior variance \(\sigma^2\), anomalies s and innovation \(\delta\),

    .. math::
        \Delta h_i = \frac{\sigma^2}{1 + \sigma^2}\, (\delta - \alpha s_i),\qquad
        \alpha = \Big(1 + \frac{1}{\sqrt{1 + \sigma^2}}\Big)^{-1}

    regressed on the state by localized covariances. Without localization the members are those of the `EnSRF`, which
    is faster, as it works with weights. With it, a value acts back on others nearby, while the `LETKF` uses it at every
    point anew.

    Args:
        inflation, rotation, localization, grid, places: as for `LocalizedMethod`; without a taper it is global.

    Raises:
        ConfigurationError: (analysis) with localization, if places are not known or R is correlated.

    Example:
        >>> import diffassim as da
        >>> y = da.Observations(jnp.full((1, 40), 8.0), [0], error=da.covariances.Diagonal(std=1.0))
        >>> ensemble = 8 + jax.random.normal(jax.random.key(0), (7, 40))
        >>> posterior, info = EAKF(localization=da.ensemble.GaspariCohn(4.0)).analyze(None, ensemble, y)
        >>> bool(info.analysis_spread < info.background_spread)
        True

    Source: Anderson (2001), in the two steps of Anderson (2003); localization of covariances: Houtekamer and Mitchell
    (2001); Whitaker and Hamill (2002).
    """

    def response(self, key: Any, s: Float[Array, " N"], d: Float[Array, ""]) -> Float[Array, " N"]:
        """Return (d - alpha s) / (1 + sigma^2)."""
        expected = 1 + jnp.vdot(s, s) / (s.shape[0] - 1)
        return (d - s / (1 + 1 / jnp.sqrt(expected))) / expected
