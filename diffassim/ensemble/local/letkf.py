"""The local ensemble transform Kalman filter."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffassim.ensemble.etkf import symmetric_transform, transformed_columns
from diffassim.ensemble.local.domain import DomainFilter

__all__ = ["LETKF"]


class LETKF(DomainFilter):
    r"""An ETKF at every grid point, in which the error variance of an observation grows with its distance.

    With the taper \(\rho_g = \mathrm{diag}\, \rho(|r_g - r_j|)\) of point g,

    .. math::
        A_g = I + S \rho_g S^\top / (N - 1),\quad w_g = A_g^{-1} S \rho_g d / (N - 1),\quad
        x_{a,i}(g) = \bar x_f(g) + \sum_j (w_{g,j} + (A_g^{-1/2})_{ij}) x_{f,j}'(g)

    All leaves of the state share the grid on their trailing axes; axes in front (levels, variables) are updated with
    the same weights. Places are run-time arrays, taken from the operator (see `observation_places`) or given. R has to
    be uncorrelated. A point without an observation nearby keeps its prior, apart from inflation and rotation.

    Args:
        inflation: an `Inflation`, or a number that multiplies the posterior anomalies.
        rotation: whether the posterior anomalies are rotated at random, the same at all points (static).
        localization: taper, for example `GaspariCohn(radius)`: a function of distance.
        grid: `Grid`, `Sphere` or `ProductGrid` of the state; default: a periodic line of unit spacing.
        places: coordinates of the observations, shape (m, D), or a tuple with one entry (or None) for each stream;
            None where the operator knows them.
        neighbors: observations used at a point, the nearest ones (static); None: all with a coefficient above zero.
            Bounds memory and time where observations are many.
        batch: grid points that are worked on together (static); a GPU wants tens of thousands.
        nearest: numbers of the observations that may be used at each point, from `nearest_observations` (by name only).
            By default those within reach of the taper are searched once, outside of traced code, if places and radius
            are known there; else every analysis takes the distances of all points and observations.

    Raises:
        ConfigurationError: if there is no localization, or `neighbors` or `batch` is not positive.

    Example:
        >>> import diffassim as da
        >>> y = da.Observations(jnp.full((1, 40), 8.0), [0], error=da.covariances.Diagonal(std=1.0))
        >>> ensemble = 8 + jax.random.normal(jax.random.key(0), (7, 40))
        >>> posterior, info = LETKF(localization=da.ensemble.GaspariCohn(4.0)).analyze(None, ensemble, y)
        >>> bool(info.analysis_spread < info.background_spread)
        True

    Source: Hunt, Kostelich and Szunyogh (2007), section 2.3 and 4.
    """

    unlocalized: ClassVar[str] = "ETKF"

    def local_weights(
        self, S: Float[Array, "N m"], d: Float[Array, " m"], taper: Float[Array, " m"]
    ) -> Float[Array, "N N"]:
        """Return w + A^(-1/2) at one point."""
        return symmetric_transform(S, d, taper)

    def moved(self, S: Any, d: Any, taper: Any, X: Any) -> Any:
        """Return the members at one point less the prior mean, without the weights where there are few channels."""
        leaves, structure = jax.tree.flatten(X)
        columns = jnp.concatenate([leaf.astype(S.dtype) for leaf in leaves], axis=1)
        edges = list(itertools.accumulate(leaf.shape[1] for leaf in leaves[:-1]))
        parts = jnp.split(transformed_columns(S, d, columns, taper), edges, axis=1)
        return structure.unflatten([part.astype(leaf.dtype) for part, leaf in zip(parts, leaves, strict=True)])
