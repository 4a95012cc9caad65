"""The ensemble flow filter."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError
from diffassim.core.pytree import static
from diffassim.covariances import Covariance, Diagonal, Ensemble
from diffassim.ensemble.local.localized import shared_axes
from diffassim.ensemble.local.tapers import Taper
from diffassim.ensemble.score.base import TransportFilter, component_signal, joint_signal
from diffassim.ensemble.score.guidance import guided_mean
from diffassim.ensemble.score.reverse import reverse_diffusion
from diffassim.ensemble.score.tapered import tapered_product, widths_of
from diffassim.grids.grid import Grid
from diffassim.methods.departures import Departures
from diffassim.methods.members import anomalies, mean, recombine, spread

__all__ = ["EnFF"]


class EnFF(TransportFilter):
    r"""Ensemble flow filter: every member follows the flow of probability from the prior to the posterior.

    The prior is \(N(\bar x_f, P)\), P the (localized) covariance of the members, the noise has the covariance
    \(\sigma^2 P\). Without observations the flow leaves a member where it is; the observations enter the mean of what
    a noisy state z stands for, at every noise level anew,

    .. math::
        \frac{dz}{d\sigma} = \frac{z - m_y(z)}{\sigma},\quad m = \bar x_f + \frac{z - \bar x_f}{1 + \sigma^2},\quad
        m_y = m + V H'^\top (R + H' V H'^\top)^{-1} (y - H(m)),\quad V = \frac{\sigma^2}{1 + \sigma^2} P

    with H' taken at m. For a linear H and many steps that is the symmetric square root of P: the `ETKF`, or with
    localization a filter that localizes P itself, so that R may be correlated and places of observations need not be
    known. Nothing is drawn. Like all filters with few members it needs inflation.

    Args:
        inflation, rotation, steps, iterations, largest, batch: as for `TransportFilter`.
        localization: a taper that is a correlation, such as `GaspariCohn(radius)`: covariances of points within its
            reach alone, for large states; or a covariance of unit variance on the trailing axes that all leaves share,
            as for `covariances.Ensemble`; `Diagonal(std=1.0)`: no covariances between components; None: the sample
            covariance.
        grid: `Grid` of the state's trailing axes, for a taper.
        widths: points of each axis that the taper reaches (static). By default they are found outside of traced code,
            where radius and spacing are known; else covariances of all points are kept.

    Raises:
        ConfigurationError: if the localization is neither taper nor covariance, a taper has no regular grid, or steps,
            iterations, largest or batch are impossible.
        ShapeError: in an analysis with a taper, if the leaves do not share the grid.

    Example:
        >>> import diffassim as da
        >>> y = da.Observations(jnp.array([[3.0]]), [0], error=da.covariances.Diagonal(std=1.0))
        >>> ensemble, _ = EnFF(steps=200).analyze(None, jnp.array([[-1.0], [0.0], [1.0]]), y)
        >>> ensemble.ravel().round(1).tolist()  # 1.5 -+ sqrt(1 / 2)
        [0.8, 1.5, 2.2]

    Source: Transue et al. (2025), section 3, for flows from the predicted members; the guidance has the covariance of
    what is left to be known (Song et al., 2023), where they take a gradient of the likelihood.
    """

    localization: Any = None
    grid: Any = Grid()
    widths: tuple[int, ...] | None = static(default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.localization is None or isinstance(self.localization, Covariance | Taper)):
            raise ConfigurationError(
                "EnFF: localization must be a taper such as GaspariCohn(radius), or a covariance of unit variance, "
                f"such as Gaussian(std=1.0, length=...), found {type(self.localization).__name__}"
            )
        if isinstance(self.localization, Taper) and not isinstance(self.grid, Grid):
            raise ConfigurationError(
                f"EnFF: a taper needs a regular Grid, found {type(self.grid).__name__}; give a covariance as "
                "localization, or use LETKF"
            )

    def prepared(self, belief: Any, streams: tuple[Any, ...], rows: Any = None, real: Any = None) -> Any:
        """Return the method that knows over how many points its taper reaches; see `SequentialMethod`."""
        if self.widths is None and isinstance(self.localization, Taper):
            return self.replace(widths=widths_of(self.localization, self.grid)), None
        return self, None

    def update(self, key: Any, ensemble: Any, departures: Departures, streams: tuple[Any, ...]) -> Any:
        """Return the posterior ensemble, before inflation and rotation."""
        center, X, scale = mean(ensemble), anomalies(ensemble), spread(ensemble)
        innovation, product = self.innovation(streams), self._product(ensemble, X, scale)
        signal = joint_signal(departures) if self.localization is None else component_signal(departures)
        levels = self.levels(signal)

        def denoise(z: Any, sigma: Any) -> Any:
            share = 1 / (1 + sigma**2)
            known, left = tree.add(center, tree.scale(share, z)), sigma**2 * share
            found = guided_mean(
                innovation, known, lambda u: tree.scale(left, product(u)), self.iterations,
                tree.scale(jnp.sqrt(left), scale),
            )  # fmt: skip
            return tree.subtract(found, center)

        def flow(x: Any) -> Any:
            z = tree.scale(jnp.sqrt(1 + levels[0] ** 2), x)
            known = tree.scale(1 / (1 + levels[0] ** 2), z)
            # At the largest noise, prior and posterior differ by what the observations shift.
            start = tree.add(z, tree.subtract(denoise(z, levels[0]), known))
            return reverse_diffusion(denoise, start, levels)

        return recombine(center, self.each(flow, X))

    def _product(self, ensemble: Any, X: Any, scale: Any) -> Any:
        if isinstance(self.localization, Diagonal):
            return lambda u: jax.tree.map(lambda leaf, s: s * s * leaf, u, scale)
        if isinstance(self.localization, Taper):
            shared_axes(type(self).__name__, self.grid, ensemble)
            return tapered_product(X, self.localization, self.grid, self.widths)
        return Ensemble(ensemble, self.localization).apply
