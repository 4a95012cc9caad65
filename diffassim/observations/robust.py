"""Robust losses: observations with gross errors lose their weight instead of spoiling the analysis."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffassim.core.errors import ConfigurationError, concrete, require_positive
from diffassim.core.pytree import Pytree

__all__ = ["Huber", "VariationalQC"]

SERIES = 1e-4  # below this misfit the ratio of loss and misfit is a Taylor series: the quotient loses its derivatives


class Huber(Pytree):
    r"""Quadratic for small departures, linear for large ones.

    .. math::
        \rho(r) = \tfrac12 r^2 \text{ for } |r| \le \delta, \quad \delta |r| - \tfrac12 \delta^2 \text{ beyond}

    r is a whitened departure. The cost stays a sum of squares, of the transformed departures
    \(\psi(r) = \mathrm{sign}(r) \sqrt{2 \rho(r)}\), which is what Gauss-Newton and all that builds on it need. The
    cost is convex where H and the model are linear.

    Args:
        threshold: \(\delta\), in standard deviations of the observation error.

    Raises:
        ConfigurationError: if the threshold is not positive.

    Example:
        >>> Huber(2.0)(jnp.array([1.0, -2.0])).tolist(), Huber(2.0).weight(jnp.array([1.0, 8.0])).tolist()
        ([1.0, -2.0], [1.0, 0.25])

    Source: Huber (1964); in 4D-Var: Tavolato and Isaksen (2015).
    """

    threshold: Any = 2.0

    def __post_init__(self) -> None:
        require_positive("Huber.threshold", self.threshold)

    def __call__(self, r: Float[Array, " *shape"]) -> Float[Array, " *shape"]:
        """Return psi(r), whose square is twice the loss."""
        delta = jnp.asarray(self.threshold, r.dtype)
        far = jnp.abs(r) > delta
        root = jnp.sqrt(jnp.where(far, 2 * delta * jnp.abs(r) - delta**2, 1))
        return jnp.where(far, jnp.sign(r) * root, r)

    def weight(self, r: Float[Array, " *shape"]) -> Float[Array, " *shape"]:
        """Return rho'(r) / r, the weight relative to that of a Gaussian error."""
        delta, size = jnp.asarray(self.threshold, r.dtype), jnp.abs(r)
        far = size > delta
        return jnp.where(far, delta / jnp.where(far, size, 1), 1)


class VariationalQC(Pytree):
    r"""Contaminated Gaussian: with a small probability the observation is a gross error that says nothing.

    .. math::
        \rho(r) = -\ln \frac{\gamma + e^{-r^2/2}}{\gamma + 1}, \quad
        \gamma = \frac{A \sqrt{2 \pi}}{(1 - A)\, 2 d}

    A is the probability of a gross error, flat between -d and d standard deviations. An observation's weight is the
    probability that it is none, given the analysis. The cost has more than one minimum where observations contradict
    the background: start from a good background, or from a solution with `Huber`. The cost stays a sum of squares of
    the transformed departures \(\mathrm{sign}(r) \sqrt{2 \rho(r)}\).

    Args:
        probability: A, between 0 and 1.
        half_width: d, in standard deviations of the observation error.

    Raises:
        ConfigurationError: if the probability is not between 0 and 1, or the width not positive.

    Example:
        >>> VariationalQC(0.01).weight(jnp.array([0.0, 2.0, 6.0])).round(2).tolist()
        [1.0, 0.98, 0.0]

    Source: Andersson and Jaervinen (1999), equations 5 to 11; Ingleby and Lorenc (1993).
    """

    probability: Any = 0.01
    half_width: Any = 5.0

    def __post_init__(self) -> None:
        known = concrete(self.probability)
        if known is not None and not ((known > 0) & (known < 1)).all():
            raise ConfigurationError(
                f"VariationalQC.probability must lie between 0 and 1, found {self.probability}; without gross errors "
                "leave the loss out"
            )
        require_positive("VariationalQC.half_width", self.half_width)

    def __call__(self, r: Float[Array, " *shape"]) -> Float[Array, " *shape"]:
        """Return psi(r), whose square is twice the loss."""
        gamma = self._gamma(r)
        s, a = 0.5 * r**2, 1 / (1 + gamma)
        small, large = s < SERIES, s > 1
        # The loss over s, 1 / (1 + gamma) at r = 0 and falling, in three forms: each is exact where it is used.
        series = a * (1 - gamma * a * s / 2 + gamma * (gamma - 1) * a**2 * s**2 / 6)
        near = jnp.where(small | large, 0.5, s)
        near = -jnp.log1p(jnp.expm1(-near) * a) / near
        far = jnp.where(large, s, 1)
        far = (jnp.log1p(gamma) - jnp.logaddexp(jnp.log(gamma), -far)) / far
        return r * jnp.sqrt(jnp.where(small, jnp.where(small, series, 1), jnp.where(large, far, near)))

    def weight(self, r: Float[Array, " *shape"]) -> Float[Array, " *shape"]:
        """Return rho'(r) / r, the probability that the departure is no gross error."""
        good = jnp.exp(-0.5 * r**2)
        return good / (self._gamma(r) + good)

    def _gamma(self, r: Any) -> Any:
        A, d = jnp.asarray(self.probability, r.dtype), jnp.asarray(self.half_width, r.dtype)
        return A * math.sqrt(2 * math.pi) / ((1 - A) * 2 * d)
