"""Tapers: how the influence of an observation falls with distance."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffassim.core.errors import ConfigurationError, concrete
from diffassim.core.pytree import Pytree

__all__ = ["GaspariCohn"]


class GaspariCohn(Pytree):
    r"""The compactly supported correlation of Gaspari and Cohn, close to \(\exp(-r^2 / 2 \ell^2)\).

    With \(z = r / c\), \(c = \sqrt{10/3}\, \ell\),

    .. math::
        \rho = 1 - \tfrac53 z^2 + \tfrac58 z^3 + \tfrac12 z^4 - \tfrac14 z^5 \ (z \le 1),\quad
        \rho = \frac{(2 - z)^4 (z^2 + 2 z - \tfrac12)}{12 z}\ (1 < z < 2),\quad 0 \text{ beyond}

    It has the Gaussian's curvature at r = 0, and is zero from \(2 c \approx 3.65\, \ell\) on.

    Args:
        radius: \(\ell > 0\), a number in the unit of the distances; infinity switches the localization off.

    Raises:
        ConfigurationError: if the radius is not positive.

    Example:
        >>> GaspariCohn(4.0)(jnp.array([0.0, 4.0, 15.0])).round(3).tolist()
        [1.0, 0.635, 0.0]

    Source: Gaspari and Cohn (1999), equation 4.10.
    """

    radius: Any

    def __post_init__(self) -> None:
        known = concrete(self.radius)
        if known is not None and not (known > 0).all():
            raise ConfigurationError(
                f"GaspariCohn: radius must be positive, but is {self.radius}; with a radius of zero no observation has "
                "any influence"
            )

    def __call__(self, distance: Float[Array, ...]) -> Float[Array, ...]:
        """Return the coefficient at each distance, in [0, 1]."""
        z = distance / (math.sqrt(10 / 3) * jnp.asarray(self.radius, distance.dtype))
        inner = 1 + z * z * (-5 / 3 + z * (5 / 8 + z * (1 / 2 - z / 4)))
        between = jnp.clip(z, 1, 2)
        outer = (2 - between) ** 4 * (between * (between + 2) - 0.5) / (12 * between)
        return jnp.where(z <= 1, inner, outer)
