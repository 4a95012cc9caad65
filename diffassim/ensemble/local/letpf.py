"""The local ensemble transform particle filter."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffassim.ensemble.local.domain import DomainFilter
from diffassim.ensemble.particles.netf import likelihood_weights
from diffassim.methods.likelihood import mixture_log_ratio

__all__ = ["LETPF"]


class LETPF(DomainFilter):
    r"""A particle filter at every grid point that moves the members as little as possible instead of resampling them.

    The weights of point g are those of the `LNETF`. Members of equal weight with the weighted distribution come from
    the optimal coupling of both; for one number at one point that is known: order is kept. With the sorted members
    \(x_{(j)}\) and their cumulative weights \(C_j\),

    .. math::
        x_{a,(i)} = N \sum_j \big|[\tfrac{i-1}{N}, \tfrac iN] \cap [C_{j-1}, C_j]\big|\ x_{f,(j)}

    the mean of the i-th part of N of the weighted distribution. Nothing is drawn, neighboring points fit together where
    the fields are smooth, and the mean is that of the weighted members. The spread is a little less than theirs, and
    with few members that have weight much less: it needs inflation. Every channel of a point is coupled on its own, so
    that marginals are the particle filter's in the limit of many members, while correlations stay those of the prior.

    Derivatives hold for the order that the members have; where two change places the members' numbers jump, the
    distribution does not. Grid, places and R as for the `LETKF`.

    Args:
        inflation, rotation, localization, grid, places, neighbors, batch, nearest: as for the `LETKF`.

    Raises:
        ConfigurationError: if there is no localization, or `neighbors` or `batch` is not positive.

    Example:
        >>> import diffassim as da
        >>> y = da.Observations(jnp.array([[1.0]]), [0], error=da.covariances.Diagonal(std=1.0))
        >>> method = LETPF(localization=da.ensemble.GaspariCohn(1.0))
        >>> ensemble, _ = method.analyze(None, jnp.array([[1.0], [-1.0], [0.0]]), y)
        >>> [round(x, 3) for x in ensemble.ravel().tolist()]
        [1.0, -0.233, 0.722]

    Source: Reich (2013); local: Cheng and Reich (2015); one number at a time, by anamorphosis: Farchi and Bocquet
    (2018).
    """

    unlocalized: ClassVar[str] = "ParticleFilter"

    def moved(self, S: Any, d: Any, taper: Any, X: Any) -> Any:
        """Return the members at one point less the prior mean, coupled channel by channel."""
        w = likelihood_weights(S, d, taper)
        return jax.tree.map(lambda leaf: jax.vmap(_coupled, (1, None), 1)(leaf, w.astype(leaf.dtype)), X)

    @property
    def any_loss(self) -> bool:
        """True: minus the logarithm of a member's likelihood may be any loss."""
        return True

    def log_ratio(self, S: Float[Array, "N m"], d: Float[Array, " m"]) -> Float[Array, ""]:
        """Return that of the mean of the members' likelihoods."""
        return mixture_log_ratio(S, d)


def _coupled(x: Any, w: Any) -> Any:
    """Return the means of the N equal parts of the distribution of x with weights w, in the order of x."""
    N, order = x.shape[0], jnp.argsort(x)
    ends = jnp.cumsum(w[order])
    ends = ends / ends[-1]
    starts = jnp.concatenate([jnp.zeros(1, x.dtype), ends[:-1]])
    edges = jnp.arange(N + 1, dtype=x.dtype) / N
    shared = jnp.minimum(edges[1:, None], ends[None]) - jnp.maximum(edges[:-1, None], starts[None])
    return jnp.zeros_like(x).at[order].set(N * jnp.maximum(shared, 0) @ x[order])
