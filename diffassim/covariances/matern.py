"""Matern correlations."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from diffassim.core.errors import require_positive
from diffassim.covariances.spectral import Spectral

__all__ = ["Matern"]


class Matern(Spectral):
    r"""Matern correlation on a regular grid of one to three dimensions, matrix-free.

    .. math::
        \rho(r) = \frac{2^{1-\nu}}{\Gamma(\nu)} s^\nu K_\nu(s), \qquad s = \sqrt{2\nu}\, r / \ell

    with smoothness \(\nu\): 1/2 is exponential, infinity is `Gaussian` of the same length. The Daley length
    \((-\rho''(0))^{-1/2}\), which many assimilation systems quote, is \(\ell\sqrt{1 - 1/\nu}\) (for \(\nu > 1\)).

    It is built as white noise smoothed by \((1 - \ell^2 \Delta / 2\nu)^{-(\nu + d/2)/2}\) with the discrete Laplacian
    of second order and zero flux through walls, so it equals implicit diffusion (`Diffusion`) in one dimension, and the
    formula for \(\rho\) up to terms of order (spacing / length)^2. Unlike a Gaussian it is well conditioned. The
    variance is exact at every point; correlations near a wall are those of the point and its mirror image.

    Args:
        std: standard deviation, a number or a field that broadcasts to the state; in the unit of the state.
        length: \(\ell\), a number for all axes or a tuple of one per axis; in the unit of the grid spacing.
        grid: grid of the state's trailing axes.
        nugget: share of white variance, in [0, 1].
        smoothness: \(\nu > 0\); a run-time number, may be differentiated.

    Raises:
        ConfigurationError: if std, length or smoothness is not positive, or the nugget is outside [0, 1].
        ShapeError: if the lengths do not fit the grid.

    Example:
        >>> from diffassim.grids.grid import Grid
        >>> B = Matern(std=1.0, length=10.0, grid=Grid(spacing=1.0, periodic=True), smoothness=0.5)
        >>> B.apply(jnp.zeros(200).at[0].set(1.0))[10].round(2).tolist()  # exp(-1)
        0.37

    Source: Lindgren, Rue and Lindstrom (2011), equations 1 and 2; Weaver and Mirouze (2013), section 2.
    """

    smoothness: Any = 1.5

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("Matern: smoothness", self.smoothness)

    def spectrum(self, theta: list[Array], ratio: list[Array]) -> Array:
        r"""Return \((1 + \sum_d (\ell_d / h_d)^2 (2 \sin(\theta_d / 2))^2 / 2\nu)^{-(\nu + d/2)}\)."""
        nu = jnp.asarray(self.smoothness, theta[0].dtype)
        symbol = jnp.ones((), nu.dtype)
        for angle, cells in zip(theta, ratio, strict=True):
            symbol = symbol + jnp.square(cells * 2 * jnp.sin(angle / 2)) / (2 * nu)
        return symbol ** -(nu + len(theta) / 2)
