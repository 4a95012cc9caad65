"""Adaptive inflation: a factor that is estimated along with the state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError, concrete, require_positive
from diffassim.core.loops import bounded_while
from diffassim.core.pytree import Pytree
from diffassim.ensemble.inflation import PriorInflation
from diffassim.ensemble.wrapper import FilterWrapper
from diffassim.methods.account import AnalysisInfo
from diffassim.methods.departures import Departures, whitened_departures
from diffassim.methods.members import check_ensemble, finite_members
from diffassim.methods.sequential import require_key
from diffassim.observations.container import as_streams

__all__ = ["AdaptiveInflation", "InflatedEnsemble", "inflation_mode"]

MAX_ITERATIONS = 100


class InflatedEnsemble(Pytree):
    r"""An ensemble, and the inflation of its next forecast, what `AdaptiveInflation` hands on.

    Args:
        members: pytree with a leading member axis.
        factor: \(\lambda\), by which the next prior variances are multiplied.
    """

    members: Any
    factor: Float[Array, ""]


class AdaptiveInflation(FilterWrapper):
    r"""Prior inflation by a factor of the variance that is estimated from the innovations, anew at each analysis.

    With whitened innovations d and observed variances \(v_j\) of the forecast as it is, the factor \(\lambda\) is the
    mode of its posterior: an inverse-gamma prior with its mode at the factor before, \(\lambda_b\), times the
    likelihood of the innovations,

    .. math::
        -\log p(\lambda | d) = (\alpha + 1) \Big(\log \lambda + \frac{\lambda_b}{\lambda}\Big)
        + \tfrac12 \sum_j \log(1 + \lambda v_j) + \tfrac12 \sum_j \frac{d_j^2}{1 + \lambda v_j}

    The prior keeps \(\lambda\) positive; there is one factor for the whole state, and its uncertainty stays the same.
    The prior anomalies are multiplied by \(\sqrt{\lambda_b}\), so that no observation is used twice; on its way to
    the next analysis the factor may be damped, \(\lambda_b \leftarrow 1 + \delta (\lambda - 1)\). An analysis without
    any observed value leaves ensemble and factor as they are. Derivatives are those of the mode.

    Args:
        filter: any `EnsembleMethod`; its own inflation comes on top.
        shape: \(\alpha > 2\) of the inverse-gamma prior: the larger, the more slowly the factor moves. The standard
            deviation of the prior is \((\alpha + 1) / ((\alpha - 1) \sqrt{\alpha - 2})\) times its mode.
        damping: \(\delta\) in [0, 1], the share of \(\lambda - 1\) that is kept until the next analysis.

    Raises:
        ConfigurationError: if `filter` is no ensemble filter, the shape is not above 2, or the damping not in [0, 1].

    Example:
        >>> import diffassim as da
        >>> y = da.Observations(jnp.full((1, 40), 3.0), [0], error=da.covariances.Diagonal(std=1.0))
        >>> ensemble = jax.random.normal(jax.random.key(0), (10, 40))
        >>> _, history = da.cycle(AdaptiveInflation(da.ETKF()), da.models.Lorenz96(), ensemble, y, members=True)
        >>> bool(history.members.factor[0] > 1)  # the spread does not explain innovations of three
        True

    Source: El Gharamti (2018), section 2, spatially constant and for all observations at once; Anderson (2009).
    """

    shape: Any = 100.0
    damping: Any = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        shape, damping = concrete(self.shape), concrete(self.damping)
        if shape is not None and not ((shape > 2) & (shape < float("inf"))).all():
            raise ConfigurationError(f"AdaptiveInflation: shape={self.shape} must be above 2, for a finite variance")
        if damping is not None and not ((damping >= 0) & (damping <= 1)).all():
            raise ConfigurationError(
                f"AdaptiveInflation: damping={self.damping} must be in [0, 1]; 0 forgets the factor"
            )

    def init(self, belief: Any) -> InflatedEnsemble:
        """Return what is cycled.

        Args:
            belief: ensemble at the start (whose factor is one), or the `InflatedEnsemble` that a cycle returned.

        Raises:
            ShapeError: if there are fewer than two members.
            ConfigurationError: if the factor is not finite and positive.
        """
        if isinstance(belief, InflatedEnsemble):
            require_positive("AdaptiveInflation: factor", belief.factor, "1 is no inflation.")
            return InflatedEnsemble(check_ensemble("AdaptiveInflation", belief.members), jnp.asarray(belief.factor))
        ensemble = check_ensemble("AdaptiveInflation", belief)
        return InflatedEnsemble(ensemble, jnp.ones((), jnp.result_type(*jax.tree.leaves(ensemble))))

    def forecast(self, key: Any, propagate: Callable[..., Any], belief: InflatedEnsemble) -> InflatedEnsemble:
        """Return members and damped factor at the next analysis time."""
        damping = jnp.asarray(self.damping, belief.factor.dtype)
        return InflatedEnsemble(self.filter.forecast(key, propagate, belief.members), 1 + damping * (belief.factor - 1))

    def analyze(self, key: Any, belief: InflatedEnsemble, observations: Any) -> tuple[InflatedEnsemble, AnalysisInfo]:
        """Return the analysed members with the factor for the next forecast, and the filter's account.

        Args:
            key: random key; may be None where nothing is drawn.
            belief: `InflatedEnsemble`, or an ensemble whose factor is one.
            observations: `Observations` whose rows all hold now, or a tuple of streams.

        Raises:
            ShapeError, ConfigurationError: as `init`, and as the filter's `analyze`.
        """
        require_key("AdaptiveInflation", self.random, key)
        belief, streams = self.init(belief), as_streams(observations)
        self.check(belief, streams)
        members = self.filter.repaired(key, belief.members)
        departures = whitened_departures(members, streams)
        inflated = PriorInflation(jnp.sqrt(belief.factor)).before(members)
        prior = tree.select(departures.count > 0, inflated, members)
        posterior, info = self.filter.analyze(key, prior, streams)
        info = info.replace(non_finite=jnp.sum(~finite_members(belief.members)))
        factor = jnp.where(departures.count > 0, inflation_mode(departures, belief.factor, self.shape), belief.factor)
        return InflatedEnsemble(posterior, factor), info


def inflation_mode(departures: Departures, before: Any, shape: Any) -> Any:
    r"""Return the \(\lambda\) of highest posterior density."""
    square = jnp.square(departures.d)
    v = jnp.sum(jnp.square(departures.S), axis=0) / (departures.S.shape[0] - 1)
    weight = jnp.asarray(shape, v.dtype) + 1

    def slope(z: Any, square: Any, v: Any, before: Any, weight: Any) -> Any:
        """Return the derivative of the negative log density by z, the logarithm of lambda."""
        share = jnp.exp(z) * v / (1 + jnp.exp(z) * v)
        excess = 1 - square / (1 + jnp.exp(z) * v)
        return weight * (1 - before * jnp.exp(-z)) + 0.5 * jnp.sum(share * excess)

    fixed = lax.stop_gradient((square, v, before, weight))

    def solve(_: Any, start: Any) -> Any:
        # At the lower end the density still rises; the upper end is moved on until it falls.
        _, _, before, weight = fixed
        low = jnp.log(weight * before / (weight + 0.5 * v.shape[0]))
        high = bounded_while(lambda z: slope(z, *fixed) < 0, lambda z: z + 0.5, start, MAX_ITERATIONS)
        tolerance = 2 * float(jnp.finfo(start.dtype).eps)

        def halve(ends: Any) -> Any:
            middle = 0.5 * (ends[0] + ends[1])
            rising = slope(middle, *fixed) > 0
            return jnp.where(rising, ends[0], middle), jnp.where(rising, middle, ends[1])

        ends = bounded_while(
            lambda ends: ends[1] - ends[0] > tolerance * (1 + jnp.abs(ends[0])), halve, (low, high), MAX_ITERATIONS
        )
        return 0.5 * (ends[0] + ends[1])

    z = lax.custom_root(
        lambda z: slope(z, square, v, before, weight), jnp.log(before), solve, lambda g, y: y / g(jnp.ones_like(y))
    )
    return jnp.exp(z)
