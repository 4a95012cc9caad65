"""The local nonlinear ensemble transform filter."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Array, Float

from diffassim.ensemble.local.domain import DomainFilter
from diffassim.ensemble.particles.netf import nonlinear_transform
from diffassim.methods.likelihood import mixture_log_ratio

__all__ = ["LNETF"]


class LNETF(DomainFilter):
    r"""A `NETF` at every grid point, in which the error variance of an observation grows with its distance.

    With the taper \(\rho_g = \mathrm{diag}\, \rho(|r_g - r_j|)\) of point g, the weights there are

    .. math:: w_{g,i} \propto \exp(-\tfrac12 |\rho_g^{1/2} R^{-1/2} (y - \mathcal H(x_i))|^2)

    The fewer observations act on a point, the less the weights degenerate: what makes a filter of particles possible in
    large systems. Grid, places and R as for the `LETKF`.

    Args:
        inflation, rotation, localization, grid, places, neighbors, batch, nearest: as for the `LETKF`.

    Raises:
        ConfigurationError: if there is no localization, or `neighbors` or `batch` is not positive.

    Example:
        >>> import diffassim as da
        >>> y = da.Observations(jnp.full((1, 40), 8.0), [0], error=da.covariances.Diagonal(std=1.0))
        >>> ensemble = 8 + jax.random.normal(jax.random.key(0), (20, 40))
        >>> posterior, info = LNETF(localization=da.ensemble.GaspariCohn(1.0)).analyze(None, ensemble, y)
        >>> bool(info.analysis_spread < info.background_spread)
        True

    Source: Toedter and Ahrens (2015), section on localization.
    """

    unlocalized: ClassVar[str] = "NETF"

    def local_weights(
        self, S: Float[Array, "N m"], d: Float[Array, " m"], taper: Float[Array, " m"]
    ) -> Float[Array, "N N"]:
        """Return w + sqrt(N) (diag w - w w^T)^(1/2) at one point."""
        return nonlinear_transform(S, d, taper)

    @property
    def any_loss(self) -> bool:
        """True: minus the logarithm of a member's likelihood may be any loss."""
        return True

    def log_ratio(self, S: Float[Array, "N m"], d: Float[Array, " m"]) -> Float[Array, ""]:
        """Return that of the mean of the members' likelihoods."""
        return mixture_log_ratio(S, d)
