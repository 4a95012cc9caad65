"""Inflation and localization radius by a policy that sees statistics of the innovations."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError, ShapeError, concrete, require_positive
from diffassim.ensemble.adaptive import InflatedEnsemble, inflation_mode
from diffassim.ensemble.inflation import PriorInflation
from diffassim.ensemble.local.localized import LocalizedMethod
from diffassim.ensemble.local.tapers import Taper
from diffassim.ensemble.wrapper import FilterWrapper
from diffassim.methods.account import AnalysisInfo
from diffassim.methods.departures import Departures, whitened_departures
from diffassim.methods.members import check_ensemble, finite_members
from diffassim.methods.sequential import require_key
from diffassim.observations.container import as_streams

__all__ = ["FEATURES", "PolicyInflation", "SteeredEnsemble"]

SCALES = (2.0, 8.0, 32.0)  # analyses over which the excess of innovations is averaged
MEMORY = 32.0  # analyses over which the logarithm of the factor is averaged
FEATURES = (
    "log factor", f"log factor over {MEMORY:g} analyses", "log variance", "excess",
    *(f"excess over {scale:g} analyses" for scale in SCALES), "log contraction", "observed share", "sampling error",
)  # fmt: skip
FASTEST = 4.0  # largest change of the logarithm of the shape
TINY = 1e-3  # variance in units of that of the observations below which an ensemble counts as collapsed


class SteeredEnsemble(InflatedEnsemble):
    r"""What `PolicyInflation` hands on: an ensemble, the factor of the adaptive scheme, and running statistics.

    Args:
        members: pytree with a leading member axis.
        factor: \(\lambda_b\), the factor of the prior variances that the adaptive scheme expects.
        averages: running means of the excess of the innovations, one for each time scale, shape (3,).
        level: running mean of the logarithm of the factor.
        contraction: spread after over spread before the last analysis.
        analyses: how many there were.
        bounded: in how many of them a bound held the policy back.
    """

    averages: Float[Array, " scale"]
    level: Float[Array, ""]
    contraction: Float[Array, ""]
    analyses: Int[Array, ""]
    bounded: Int[Array, ""]


class Steering(NamedTuple):
    """What an action means.

    Attributes:
        factor: of the prior variances in this analysis.
        shape: of the prior of the next factor.
        radius: factor of the localization radius.
        bounded: whether a bound held the policy back.
    """

    factor: Any
    shape: Any
    radius: Any
    bounded: Any


class PolicyInflation(FilterWrapper):
    r"""Prior inflation, and the radius of a localization, by a policy that corrects the adaptive scheme.

    The adaptive scheme estimates a factor \(\lambda_b\) of the prior variances from the innovations, as
    `AdaptiveInflation` does, whose shape is \(\alpha\). A policy sees `FEATURES` of what was observed before and now,
    and its action a corrects what the scheme does in this analysis:

    .. math::
        \lambda = \lambda_b^\gamma e^{a_1},\qquad \alpha - 2 \leftarrow (\alpha - 2) e^{-a_2},\qquad
        \ell \leftarrow \ell e^{a_3}

    The exponent \(\gamma\), one by default, allows for model errors that the ensemble does not span: the factor of
    least error is then larger than the one that explains the innovations. The anomalies are multiplied by
    \(\sqrt\lambda\); \(a_2\) says how fast \(\lambda_b\) follows the innovations of this time, and \(a_3\), for a
    localized filter only, the radius. Zeros are the adaptive scheme. All features are
    means over the observed values or ratios, so that a policy does not depend on the sizes of state, observations and
    ensemble. With the whitened innovations d and observed variances v of the forecast as it is,

    .. math:: e = \operatorname{arsinh} \frac{\overline{d^2} - 1 - \lambda_b \bar v}{1 + \lambda_b \bar v}

    is the excess of the innovations over what is expected, zero on average where R and \(\lambda_b\) are right; running
    means of it tell a change from chance. The other features are \(\log \lambda_b\) and its running mean (with both, a
    fast scheme can be made a slow one where nothing changes), \(\log \bar v\), by how much the last analysis made the
    spread smaller, the number of values over that of state components, and \((N - 1)^{-1/2}\).

    Factor and radius are bounded, whatever the policy says; `SteeredEnsemble.bounded` counts where a bound held it
    back. An analysis without any observed value leaves everything as it is. Derivatives pass through the policy and the
    statistics, over as many analyses as one likes.

    Args:
        filter: any `EnsembleMethod`; its own inflation comes on top.
        policy: callable pytree, features of shape (10,) -> action of shape (2,), or (3,) for a localized filter; a
            policy of `training.reinforcement` or a `Network`. None: zeros.
        shape: \(\alpha > 2\) of the adaptive scheme.
        exponent: \(\gamma > 0\).
        factors: least and largest factor of the variances.
        radii: least and largest factor of the radius.

    Raises:
        ConfigurationError: if `filter` is no ensemble filter, the policy cannot be called, the shape is not above 2, or
            bounds are not positive and in order.

    Example:
        >>> import diffassim as da
        >>> y = da.Observations(jnp.full((3, 40), 3.0), [1, 2, 3], error=da.covariances.Diagonal(std=1.0))
        >>> ensemble = jax.random.normal(jax.random.key(0), (10, 40))
        >>> wider = jax.tree_util.Partial(lambda features: jnp.array([0.5, 0.0]))
        >>> plain, steered = (
        ...     da.cycle(method, da.models.Lorenz96(), ensemble, y)[1].info.background_spread[0]
        ...     for method in (da.ensemble.AdaptiveInflation(da.ETKF()), PolicyInflation(da.ETKF(), wider))
        ... )
        >>> round(float(steered / plain), 4)  # e^0.25
        1.284

    Source: El Gharamti (2018) for the scheme that is corrected; policy, features and bounds are our own.
    """

    policy: Any = None
    shape: Any = 100.0
    exponent: Any = 1.0
    factors: Any = (0.5, 20.0)
    radii: Any = (0.4, 2.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.policy is not None and not callable(self.policy):
            raise ConfigurationError(
                f"PolicyInflation: policy must be a function of the features, found {type(self.policy).__name__}"
            )
        if self.policy is not None and _plain(self.policy):
            self._set(policy=jax.tree_util.Partial(self.policy))
        shape = concrete(self.shape)
        if shape is not None and not ((shape > 2) & (shape < float("inf"))).all():
            raise ConfigurationError(f"PolicyInflation: shape={self.shape} must be above 2, for a finite variance")
        require_positive("PolicyInflation: exponent", self.exponent, "1 leaves the adaptive factor as it is.")
        for name in ("factors", "radii"):
            bounds = getattr(self, name)
            require_positive(f"PolicyInflation: {name}", bounds)
            known = [concrete(bound) for bound in bounds] if isinstance(bounds, tuple | list) else []
            if len(known) != 2 or (known[0] is not None and known[1] is not None and not (known[0] < known[1]).all()):
                raise ConfigurationError(f"PolicyInflation: {name}={bounds} must be the least and the largest one")
            self._set(**{name: tuple(bounds)})

    @property
    def localized(self) -> bool:
        """Whether the filter has a radius to be chosen."""
        return isinstance(self.filter, LocalizedMethod) and isinstance(self.filter.localization, Taper)

    @property
    def actions(self) -> int:
        """Number of components of an action."""
        return 3 if self.localized else 2

    def init(self, belief: Any) -> SteeredEnsemble:
        """Return what is cycled.

        Args:
            belief: ensemble at the start (whose factor is one), or the `SteeredEnsemble` that a cycle returned.

        Raises:
            ShapeError: if there are fewer than two members.
            ConfigurationError: if the factor is not finite and positive.
        """
        if isinstance(belief, SteeredEnsemble):
            require_positive("PolicyInflation: factor", belief.factor, "1 is no inflation.")
            return belief.replace(members=check_ensemble("PolicyInflation", belief.members))
        ensemble = check_ensemble("PolicyInflation", belief)
        one = jnp.ones((), jnp.result_type(*jax.tree.leaves(ensemble)))
        zero = jnp.zeros((), jnp.int32)
        return SteeredEnsemble(ensemble, one, jnp.zeros(len(SCALES), one.dtype), jnp.log(one), one, zero, zero)

    def check(self, belief: SteeredEnsemble, observations: Any) -> None:
        """Check what the filter needs, and that the policy gives an action for it."""
        super().check(belief, observations)
        features = jax.ShapeDtypeStruct((len(FEATURES),), belief.factor.dtype)
        try:
            found = jax.eval_shape(lambda method, features: method.act(features), self, features)
        except TypeError as error:
            raise ShapeError(
                f"PolicyInflation: the policy cannot be called with the {len(FEATURES)} features of this method "
                f"({', '.join(FEATURES)}); was it trained for another set?"
            ) from error
        if getattr(found, "shape", None) != (self.actions,):
            raise ShapeError(
                f"PolicyInflation: {type(self.filter).__name__} needs actions of {self.actions} components (inflation, "
                f"speed{', radius' if self.localized else ''}), but the policy returns {getattr(found, 'shape', found)}"
                "; was it trained for another filter?"
            )

    def prepared(self, belief: Any, streams: tuple[Any, ...], rows: Any = None, real: Any = None) -> tuple[Any, Any]:
        """Return the method whose filter knows what lies within the largest radius."""
        if not self.localized:
            return super().prepared(belief, streams, rows, real)
        searched, numbers = self._within(self.radii[1]).prepared(belief.members, streams, rows, real)
        return self.replace(filter=searched.replace(localization=self.filter.localization)), numbers

    def analyze(self, key: Any, belief: Any, observations: Any) -> tuple[SteeredEnsemble, AnalysisInfo]:
        """Return the analysed members with what is remembered, and the filter's account.

        Args:
            key: random key; may be None where nothing is drawn.
            belief: `SteeredEnsemble`, or an ensemble without anything remembered.
            observations: `Observations` whose rows all hold now, or a tuple of streams.

        Raises:
            ShapeError, ConfigurationError: as `init` and `check`, and as the filter's `analyze`.
        """
        require_key("PolicyInflation", self.random, key)
        belief, streams = self.init(belief), as_streams(observations)
        self.check(belief, streams)
        return self.steer(key, belief, streams, self.act(self.features(key, belief, streams)))

    def act(self, features: Float[Array, " feature"]) -> Float[Array, " action"]:
        """Return the action of the policy."""
        return jnp.zeros(self.actions, features.dtype) if self.policy is None else self.policy(features)

    def features(self, key: Any, belief: SteeredEnsemble, observations: Any) -> Float[Array, " feature"]:
        """Return what a policy sees before an analysis, `FEATURES`.

        Args:
            key: that of the analysis, or None.
            belief: what is known before the analysis.
            observations: as for `analyze`.
        """
        members = self.filter.repaired(key, belief.members)
        departures = whitened_departures(members, as_streams(observations))
        excess, variance = _excess(departures, belief.factor)
        N, size = departures.S.shape[0], tree.size(belief.members)
        share = departures.count.astype(excess.dtype) * (N / size)
        averages, level = _remembered(belief, excess)
        rest = [jnp.log(belief.contraction), share, jnp.full((), (N - 1) ** -0.5, excess.dtype)]
        found = [jnp.log(belief.factor), level, jnp.log(variance + TINY), excess, *averages, *rest]
        return jnp.stack([part.astype(excess.dtype) for part in found])

    def steer(
        self, key: Any, belief: SteeredEnsemble, observations: Any, action: Float[Array, " action"]
    ) -> tuple[SteeredEnsemble, AnalysisInfo]:
        """Return the analysis under an action, whoever chose it; see `analyze`."""
        streams = as_streams(observations)
        members = self.filter.repaired(key, belief.members)
        departures = whitened_departures(members, streams)
        seen = departures.count > 0
        chosen = self.steering(belief.factor, action)
        inflated = PriorInflation(jnp.sqrt(chosen.factor)).before(members)
        posterior, info = self._within(chosen.radius).analyze(key, tree.select(seen, inflated, members), streams)
        info = info.replace(non_finite=jnp.sum(~finite_members(belief.members)))
        excess, _ = _excess(departures, belief.factor)
        before = jnp.where(info.background_spread > 0, info.background_spread, 1)
        after = jnp.where(info.analysis_spread > 0, info.analysis_spread, before)
        averages, level = _remembered(belief, excess)
        found = SteeredEnsemble(
            members=posterior,
            factor=jnp.clip(inflation_mode(departures, belief.factor, chosen.shape), *self._factors(belief.factor)),
            averages=averages,
            level=level,
            contraction=(after / before).astype(belief.contraction.dtype),
            analyses=belief.analyses + 1,
            bounded=belief.bounded + chosen.bounded,
        )
        return tree.select(seen, found, belief.replace(members=posterior)), info

    def steering(self, factor: Any, action: Float[Array, " action"]) -> Steering:
        """Return what an action means where the adaptive scheme expects this factor."""
        action = jnp.asarray(action, factor.dtype)
        low, high = self._factors(factor)
        exponent = jnp.asarray(self.exponent, factor.dtype)
        wanted = factor * jnp.exp((exponent - 1) * jnp.log(factor) + action[0])  # exactly the factor for 1 and 0
        found = jnp.clip(wanted, low, high)
        shape = 2 + (jnp.asarray(self.shape, factor.dtype) - 2) * jnp.exp(-jnp.clip(action[1], -FASTEST, FASTEST))
        bounded, radius = found != wanted, jnp.ones((), factor.dtype)
        if self.localized:
            least, largest = (jnp.asarray(bound, factor.dtype) for bound in self.radii)
            radius = jnp.clip(jnp.exp(action[2]), least, largest)
            bounded = bounded | (radius != jnp.exp(action[2]))
        return Steering(found, shape, radius, bounded.astype(jnp.int32))

    def _factors(self, like: Any) -> tuple[Any, Any]:
        return jnp.asarray(self.factors[0], like.dtype), jnp.asarray(self.factors[1], like.dtype)

    def _within(self, factor: Any) -> Any:
        """Return the filter with its radius times a factor."""
        if not self.localized:
            return self.filter
        taper = self.filter.localization
        return self.filter.replace(localization=taper.replace(radius=factor * taper.radius))


def _excess(departures: Departures, factor: Any) -> tuple[Any, Any]:
    """Return the excess of the innovations, and the mean observed variance of the forecast as it is."""
    count = jnp.maximum(departures.count, 1).astype(departures.d.dtype)
    variance = jnp.sum(jnp.square(departures.S)) / (count * (departures.S.shape[0] - 1))
    expected = 1 + factor.astype(variance.dtype) * variance
    return jnp.arcsinh((jnp.sum(jnp.square(departures.d)) / count - expected) / expected), variance


def _remembered(belief: SteeredEnsemble, excess: Any) -> tuple[Any, Any]:
    """Return the running means with those of this time; the first ones are plain means."""
    count = (belief.analyses + 1).astype(excess.dtype)
    averages = belief.averages + (excess - belief.averages) / jnp.minimum(count, jnp.asarray(SCALES, excess.dtype))
    step = (jnp.log(belief.factor) - belief.level) / jnp.minimum(count, MEMORY).astype(belief.level.dtype)
    return averages, belief.level + step


def _plain(policy: Any) -> bool:
    leaves = jax.tree.leaves(policy)
    return len(leaves) == 1 and leaves[0] is policy
