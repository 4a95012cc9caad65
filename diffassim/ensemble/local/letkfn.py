"""The local ensemble transform Kalman filter with finite-size inflation."""

from __future__ import annotations

from typing import Any, ClassVar

from jaxtyping import Array, Float

from diffassim.core.errors import require_positive
from diffassim.ensemble.finite_size import finite_size_transform
from diffassim.ensemble.local.domain import DomainFilter

__all__ = ["LETKFN"]


class LETKFN(DomainFilter):
    r"""An `EnKFN` at every grid point, in which the error variance of an observation grows with its distance.

    Each point has the inflation that the sampling error of its own observations calls for: with the taper
    \(\rho_g = \mathrm{diag}\, \rho(|r_g - r_j|)\) of point g, the products of the `EnKFN` are

    .. math:: C_g = S \rho_g S^\top,\qquad b_g = S \rho_g d

    A point without an observation nearby is not inflated. Grid, places and R as for the `LETKF`, to which it is what
    the `EnKFN` is to the `ETKF`; an eigendecomposition at every point makes it slower.

    Args:
        inflation, rotation, localization, grid, places, neighbors, batch, nearest: as for the `LETKF`.
        exponent: xN, exponent of the hyperprior: above one, the inflation varies less from point to point.

    Raises:
        ConfigurationError: if there is no localization, `neighbors` or `batch` is not positive, or the exponent is not
            finite and positive.

    Example:
        >>> import diffassim as da
        >>> y = da.Observations(jnp.full((1, 40), 8.0), [0], error=da.covariances.Diagonal(std=1.0))
        >>> ensemble = 8 + jax.random.normal(jax.random.key(0), (7, 40))
        >>> posterior, info = LETKFN(localization=da.ensemble.GaspariCohn(4.0)).analyze(None, ensemble, y)
        >>> bool(info.analysis_spread < info.background_spread)
        True

    Source: Bocquet (2011), with its local extension; otherwise as `EnKFN`.
    """

    unlocalized: ClassVar[str] = "EnKFN"

    exponent: Any = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("LETKFN: exponent", self.exponent, "1 is the hyperprior as derived.")

    def local_weights(
        self, S: Float[Array, "N m"], d: Float[Array, " m"], taper: Float[Array, " m"]
    ) -> Float[Array, "N N"]:
        """Return the weights of the inflated anomalies, times the inflation, at one point."""
        return finite_size_transform(S, d, self.exponent, taper)
