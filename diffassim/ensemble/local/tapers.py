"""Tapers: how the influence of an observation falls with distance."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffassim.core.errors import ConfigurationError, ShapeError, concrete
from diffassim.core.pytree import Pytree

__all__ = ["Boxcar", "Exponential", "GaspariCohn", "ProductTaper", "SquaredExponential", "Taper", "Wendland"]


class Taper(Pytree):
    r"""Base of the tapers \(\rho(r / \ell)\): a subclass defines `profile` and `reach`.

    Coefficients and derivatives with respect to distance and radius are finite for any radius. For \(\ell \to 0\) only
    what lies at distance zero keeps its influence, for infinite \(\ell\) everything at a finite distance.

    Args:
        radius: \(\ell > 0\), a number in the unit of the distances; infinity switches the localization off. A radius of
            zero that only a traced computation knows gives zero at every distance.

    Raises:
        ConfigurationError: if the radius is not positive.
    """

    radius: Any
    reach: ClassVar[float]  # r / radius from which on the coefficient is zero, or not larger than the smallest float

    def __post_init__(self) -> None:
        known = concrete(self.radius)
        if known is not None and not (known > 0).all():
            raise ConfigurationError(
                f"{type(self).__name__}: radius must be positive, but is {self.radius}; with a radius of zero no "
                "observation has any influence"
            )

    def profile(self, z: Float[Array, ...]) -> Float[Array, ...]:
        """Return the coefficient at distance z radii, 0 <= z < reach."""
        raise NotImplementedError(f"{type(self).__name__} does not define profile(z)")

    def __call__(self, distance: Float[Array, ...]) -> Float[Array, ...]:
        """Return the coefficient at each distance, in [0, 1]."""
        if isinstance(distance, tuple):
            raise ShapeError(
                f"{type(self).__name__}: places on a product of grids have {len(distance)} distances; give "
                "ProductTaper, with one taper for each factor"
            )
        distance = jnp.asarray(distance)
        radius = jnp.asarray(self.radius, distance.dtype)
        near = (distance < self.reach * radius) & (radius > 0)
        z = jnp.where(near, distance, 0) / jnp.where(radius > 0, radius, 1)
        return jnp.where(near, self.profile(z), 0)


class GaspariCohn(Taper):
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

    reach: ClassVar[float] = 2 * math.sqrt(10 / 3)

    def profile(self, z: Float[Array, ...]) -> Float[Array, ...]:
        """Return the coefficient at distance z radii."""
        z = z / math.sqrt(10 / 3)
        inner = 1 + z * z * (-5 / 3 + z * (5 / 8 + z * (1 / 2 - z / 4)))
        between = jnp.clip(z, 1, 2)
        outer = (2 - between) ** 4 * (between * (between + 2) - 0.5) / (12 * between)
        return jnp.where(z <= 1, inner, outer)


class Wendland(Taper):
    r"""Wendland's function of two continuous derivatives, \((1 - z)^4 (4 z + 1)\), \(z = r / \sqrt{20}\, \ell < 1\).

    A correlation on up to three dimensions, with the Gaussian's curvature at r = 0, zero from \(4.47\, \ell\) on. One
    polynomial: cheaper than `GaspariCohn`.

    Args:
        radius: \(\ell > 0\), a number in the unit of the distances; infinity switches the localization off.

    Raises:
        ConfigurationError: if the radius is not positive.

    Example:
        >>> [round(c, 3) for c in Wendland(4.0)(jnp.array([0.0, 4.0, 18.0])).tolist()]
        [1.0, 0.688, 0.0]

    Source: Wendland (1995), \(\varphi_{3,1}\); Gneiting (2002) for its use as a correlation.
    """

    reach: ClassVar[float] = math.sqrt(20)

    def profile(self, z: Float[Array, ...]) -> Float[Array, ...]:
        """Return the coefficient at distance z radii."""
        z = z / math.sqrt(20)
        return (1 - z) ** 4 * (4 * z + 1)


class SquaredExponential(Taper):
    r"""\(\exp(-r^2 / 2 \ell^2)\), the Gaussian: never quite zero.

    Args:
        radius: \(\ell > 0\), a number in the unit of the distances; infinity switches the localization off.

    Raises:
        ConfigurationError: if the radius is not positive.

    Example:
        >>> SquaredExponential(4.0)(jnp.array([0.0, 4.0, 15.0])).round(3).tolist()
        [1.0, 0.607, 0.001]

    Source: Hunt, Kostelich and Szunyogh (2007), on factors of the inverse error variance.
    """

    reach: ClassVar[float] = 40.0

    def profile(self, z: Float[Array, ...]) -> Float[Array, ...]:
        """Return the coefficient at distance z radii."""
        return jnp.exp(-0.5 * z * z)


class Exponential(Taper):
    r"""\(\exp(-r / \ell)\): steep at first, with a long tail.

    Args:
        radius: \(\ell > 0\), a number in the unit of the distances; infinity switches the localization off.

    Raises:
        ConfigurationError: if the radius is not positive.

    Example:
        >>> Exponential(4.0)(jnp.array([0.0, 4.0, 15.0])).round(3).tolist()
        [1.0, 0.368, 0.024]

    Source: Gaspari and Cohn (1999), among the correlations of isotropic fields.
    """

    reach: ClassVar[float] = 750.0

    def profile(self, z: Float[Array, ...]) -> Float[Array, ...]:
        """Return the coefficient at distance z radii."""
        return jnp.exp(-z)


class Boxcar(Taper):
    r"""One up to and without the radius, zero from there on: observations are used in full or not at all.

    Its derivative with respect to the radius is zero, so nothing can be learned through it; and it is no correlation:
    for methods that taper covariances (`EAKF`, `LocalEnKF`) take another one.

    Args:
        radius: \(\ell > 0\), a number in the unit of the distances; infinity switches the localization off.

    Raises:
        ConfigurationError: if the radius is not positive.

    Example:
        >>> Boxcar(4.0)(jnp.array([0.0, 3.0, 4.0])).tolist()
        [1.0, 1.0, 0.0]

    Source: Ott et al. (2004), as the local region of an analysis.
    """

    reach: ClassVar[float] = 1.0

    def profile(self, z: Float[Array, ...]) -> Float[Array, ...]:
        """Return the coefficient at distance z radii."""
        return jnp.ones_like(z)


class ProductTaper(Pytree):
    r"""\(\rho = \prod_k \rho_k(r_k)\): one taper for each factor of a `ProductGrid`, for instance vertical, horizontal.

    As a matrix between places of a full grid it is the Kronecker product of its factors. Each has a radius of its own,
    which may be learned.

    Args:
        tapers: tuple of tapers, one for each factor of the grid.

    Raises:
        ConfigurationError: if there is none, or an entry is no function.
        ShapeError: (call) if there is not one taper for each distance.

    Example:
        >>> taper = ProductTaper((Exponential(1.0), GaspariCohn(4.0)))
        >>> taper((jnp.array([1.0, 1.0]), jnp.array([0.0, 4.0]))).round(3).tolist()
        [0.368, 0.234]

    Source: Houtekamer, Mitchell and Deng (2009), for the product of horizontal and vertical tapers.
    """

    tapers: Any

    def __post_init__(self) -> None:
        if not isinstance(self.tapers, tuple) or not self.tapers or not all(callable(t) for t in self.tapers):
            raise ConfigurationError(f"ProductTaper: tapers must be a tuple of tapers, found {self.tapers!r}")

    def __call__(self, distance: tuple[Float[Array, ...], ...]) -> Float[Array, ...]:
        """Return the product of the coefficients, in [0, 1]."""
        if not isinstance(distance, tuple) or len(distance) != len(self.tapers):
            found = len(distance) if isinstance(distance, tuple) else 1
            raise ShapeError(
                f"ProductTaper: there are {len(self.tapers)} tapers, but {found} distances between places; give the "
                "method a ProductGrid with one factor for each taper"
            )
        return math.prod(taper(part) for taper, part in zip(self.tapers, distance, strict=True))
