"""Gaussian correlations."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from diffassim.covariances.spectral import Spectral

__all__ = ["Gaussian"]


class Gaussian(Spectral):
    r"""Correlation \(\rho(r) = \exp(-r^2 / 2 \ell^2)\) on a regular grid of one to three dimensions, matrix-free.

    On periodic axes the correlation is exactly that of the sum over all periodic images (for \(\ell\) above half a
    grid cell). A bounded axis ends in a mirror half a cell beyond its last point: correlations are those of the point
    and its mirror image, scaled back to unit variance, so they differ from \(\rho\) only within about two lengths of a
    wall.

    A Gaussian spectrum falls below rounding at wavelengths shorter than about three lengths, where no inverse exists.
    A `nugget`, the share of variance that is uncorrelated from point to point, bounds the condition number; set it to
    zero where only `sqrt` and `apply` are needed.

    Args:
        std: standard deviation \(\sigma\), a number or a field that broadcasts to the state; in the unit of the state.
        length: \(\ell\), a number for all axes or a tuple of one per axis; in the unit of the grid spacing.
        grid: grid of the state's trailing axes.
        nugget: share of white variance, in [0, 1].

    Raises:
        ConfigurationError: if std or length is not positive, or the nugget is outside [0, 1].
        ShapeError: if the lengths do not fit the grid.

    Example:
        >>> from diffassim.grids.grid import Grid
        >>> B = Gaussian(std=2.0, length=3.0, grid=Grid(spacing=1.0, periodic=True), nugget=0.0)
        >>> [f"{value:.3f}" for value in B.apply(jnp.zeros(40).at[0].set(1.0))[:2].tolist()]  # 4 and 4 exp(-1/18)
        ['4.000', '3.784']

    Source: Daley (1991), section 3.3, for the correlation; spectral form as in Weaver and Courtier (2001), section 2.
    """

    nugget: Any = 1e-6

    def spectrum(self, theta: list[Array], ratio: list[Array]) -> Array:
        r"""Return \(\prod_d \sum_m \exp(-\ell_d^2 (k_d + 2 \pi m / h_d)^2 / 2)\), m the nearest aliases."""
        product = jnp.ones((), theta[0].dtype)
        for angle, cells in zip(theta, ratio, strict=True):
            aliases = [angle + 2 * math.pi * m for m in (-1, 0, 1)]
            product = product * sum(jnp.exp(-0.5 * jnp.square(cells * alias)) for alias in aliases)
        return product
