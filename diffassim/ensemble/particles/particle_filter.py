"""The bootstrap particle filter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError, concrete, require_positive
from diffassim.core.layout import Layout
from diffassim.core.pytree import static
from diffassim.core.results import Result
from diffassim.ensemble.model_error import SquareRootNoise, checked_model_error, forecast_members
from diffassim.ensemble.particles.resampling import Resampling, Systematic
from diffassim.ensemble.particles.weighted import Particles, as_particles, jittered
from diffassim.methods.account import AnalysisInfo
from diffassim.methods.departures import flat, whitened_innovation
from diffassim.methods.likelihood import chi_square, log_density
from diffassim.methods.members import finite_members
from diffassim.methods.sequential import SequentialMethod, require_key
from diffassim.observations.container import as_streams

__all__ = ["ParticleFilter", "ParticleInfo"]

COLLAPSE = 0.99  # share of the weight on one particle from which on the analysis counts as collapsed


class ParticleInfo(AnalysisInfo):
    """What the analysis of a particle filter reports, beside the fields of `AnalysisInfo`.

    `non_finite` counts particles that are not finite; they get no weight. `result` is `COLLAPSED` where one particle
    has more than .99 of the weight, and `DIVERGED` where none is left.

    Args:
        effective_size: 1 / sum w^2 after weighting, before resampling.
        resampled: whether the particles were resampled.
        weighted: mean and standard deviation of every component after weighting, before resampling, which adds chance
            to them; None in the history of a cycle, whose analysis they are.
    """

    effective_size: Float[Array, ""]
    resampled: Int[Array, ""]
    weighted: Any = None


class ParticleFilter(SequentialMethod):
    r"""Particles are weighted by the likelihood of the observations, and resampled when few of them carry the weight.

    .. math::
        w_i \propto w_i \exp(-\tfrac12 |R^{-1/2} (y - \mathcal H(x_i))|^2), \quad
        \text{resampled if } 1 / \textstyle\sum_i w_i^2 < \text{threshold} \cdot N

    Weights are kept as logarithms. It takes an ensemble or `Particles` and hands on `Particles`. Derivatives hold for
    fixed draws and fixed indices of the resampling: they leave out how the choice of particles depends on the weights.

    Args:
        threshold: share of effective particles below which they are resampled, in [0, 1]; 1 resamples at every analysis
            that changes the weights, 0 never.
        jitter: width of the kernel that separates the copies of a particle, in units of Scott's bandwidth; None: copies
            stay identical, as they may with a noisy model. The kernel needs the root of an (n, n) matrix.
        resampling: `Systematic`, `Stratified`, `Residual` or `Multinomial`.
        Q: covariance of the model error that is gathered from one analysis to the next, drawn at the end of each
            forecast of a cycle, or `EveryStep` of that of a model step; None: a perfect model.
        move_first: whether the first copy of a particle is moved by the jitter as well (static).
        layout: how the particles lie on several devices (static); taken from them where it is None.

    Raises:
        ConfigurationError: if the threshold is outside [0, 1] or the jitter is not positive.

    Example:
        >>> import diffassim as da
        >>> y = da.Observations(jnp.array([[2.0]]), [0], error=da.covariances.Diagonal(std=1.0))
        >>> particles, info = ParticleFilter(threshold=0.0).analyze(None, jnp.array([[0.0], [2.0]]), y)
        >>> round(float(particles.weights[1]), 3), round(float(info.effective_size), 3)
        (0.881, 1.266)

    Source: Gordon, Salmond and Smith (1993); van Leeuwen (2009), section 3; jitter: Musso, Oudjane and Le Gland (2001).
    """

    threshold: Any = 0.5
    jitter: Any = None
    resampling: Resampling = Systematic()
    Q: Any = None
    move_first: bool = static(default=False)
    layout: Layout | None = static(default=None, kw_only=True)

    def __post_init__(self) -> None:
        known = concrete(self.threshold)
        if known is not None and not ((known >= 0) & (known <= 1)).all():
            raise ConfigurationError(
                f"{type(self).__name__}: threshold must be in [0, 1], but is {self.threshold}; it is a share of the "
                "particles, 0.5 resamples when fewer than half of them count"
            )
        if isinstance(checked_model_error(type(self).__name__, self.Q), SquareRootNoise):
            raise ConfigurationError(
                f"{type(self).__name__}: weighted particles need draws; give Q as a covariance, not as SquareRootNoise"
            )
        if self.jitter is not None:
            require_positive(f"{type(self).__name__}: jitter", self.jitter, "None leaves copies as they are.")

    @property
    def random(self) -> bool:
        """Whether forecast or analysis draw random numbers: unless particles are never resampled and have no noise."""
        known = concrete(self.threshold)
        return self.Q is not None or known is None or bool((known > 0).any())

    def init(self, belief: Any) -> Particles:
        """Return the particles, checked; members alone have equal weights."""
        return as_particles(type(self).__name__, belief)

    def check(self, belief: Particles, observations: Any) -> None:
        """Raise an error if Q, operators or places do not fit the state."""
        super().check(belief, observations)
        if self.Q is not None:
            self.Q.check(f"{type(self).__name__}: Q", self.state_like(belief))

    def forecast(self, key: Any, propagate: Callable[..., Any], belief: Particles) -> Particles:
        """Return the particles at the next analysis time, model error included."""
        return belief.replace(members=forecast_members(self.Q, key, propagate, belief.members, self.layout))

    def prepared(self, belief: Any, streams: tuple[Any, ...], rows: Any = None, real: Any = None) -> tuple[Any, Any]:
        """Return the method that knows how the particles lie on several devices; see `SequentialMethod`."""
        layout = Layout.of(belief.members) if self.layout is None else self.layout
        return (self if layout is self.layout else self.replace(layout=layout)), None

    def estimate(self, belief: Particles, info: ParticleInfo) -> tuple[tuple[Any, Any], ParticleInfo]:
        """Return mean and standard deviation before resampling, and the account without them."""
        return info.weighted, info.replace(weighted=None)

    def moments(self, belief: Particles) -> tuple[Any, Any]:
        """Return weighted mean and standard deviation of every component of the state."""
        return belief.mean(), belief.spread()

    def proposed(self, key: Any, prior: Particles, innovation: Callable[[Any], Any]) -> tuple[Any, Any]:
        """Return the members at the analysis time, and their log likelihoods up to a constant.

        Args:
            key: random key; None where nothing is drawn.
            prior: forecast particles.
            innovation: whitened innovation of one state.
        """
        return prior.members, -0.5 * jnp.sum(jnp.square(jax.vmap(innovation)(prior.members)), axis=1)

    @property
    def any_loss(self) -> bool:
        """True: minus the logarithm of a particle's likelihood may be any loss."""
        return True

    @property
    def draws_model_error(self) -> bool:
        """Whether `proposed` draws the model error of the forecast, which is part of it also without observations."""
        return False

    def resampled(self, keys: Any, prior: Particles, weighted: Particles, innovation: Callable[[Any], Any]) -> Any:
        """Return what is handed on where particles are resampled.

        Args:
            keys: two random keys.
            prior: particles before they were weighted, without weight where they are not finite.
            weighted: the same after it.
            innovation: whitened innovation of one state.
        """
        return self.drawn(keys, weighted, lax.stop_gradient(weighted.weights))

    def drawn(self, keys: Any, weighted: Particles, weights: Any) -> Particles:
        """Return particles of equal weight, drawn by `weights`, their copies jittered."""
        indices = self.resampling(keys[0], weights)
        if self.layout is not None:  # copies are made where all particles of a place are together
            weighted = weighted.replace(members=self.layout.turned(weighted.members))
        kept = jittered(keys[1], weighted, indices, self.jitter, self.move_first)
        return Particles(kept, jnp.full_like(weighted.log_weights, -jnp.log(weights.shape[0])))

    def analyze(self, key: Any, belief: Any, observations: Any) -> tuple[Particles, ParticleInfo]:
        """Analyse one time.

        Args:
            key: random key; may be None where nothing is drawn.
            belief: prior `Particles`, or an ensemble, N >= 2.
            observations: `Observations` whose rows all hold now (their `steps` do not matter), or a tuple of streams.

        Returns:
            The posterior `Particles` and `ParticleInfo`.

        Raises:
            ShapeError: if there are fewer than two members, or all weights are zero.
            ConfigurationError: if a key is needed and missing, or (optimal proposal) a stream has a robust loss.
        """
        require_key(type(self).__name__, self.random, key)
        belief, streams = self.init(belief), as_streams(observations)
        self.check(belief, streams)
        return _analyze(self.prepared(belief, streams)[0], key, belief, streams)


@jax.jit
def _analyze(method: ParticleFilter, key: Any, prior: Particles, streams: tuple[Any, ...]) -> Any:
    keys = (None, None, None) if key is None else jax.random.split(key, 3)
    innovation = whitened_innovation(streams, method.any_loss)
    count = jnp.sum(flat([stream.mask for stream in streams]))
    N = prior.log_weights.shape[0]
    sound = finite_members(prior.members)
    alive = prior.replace(log_weights=jnp.where(sound, prior.log_weights, -jnp.inf))
    members, log_likelihood = method.proposed(keys[0], alive, innovation)
    if not method.draws_model_error:
        members = tree.select(count > 0, members, prior.members)
    finite = jnp.isfinite(log_likelihood) & finite_members(members)
    log_weights = prior.log_weights + jnp.where(finite, log_likelihood, -jnp.inf)
    # Where no weight is left, NaN says so; otherwise the double where keeps infinities out of the derivative.
    total = jax.nn.logsumexp(log_weights)
    density = log_density(jnp.where(count > 0, total, 0), streams)
    weighted = Particles(members, log_weights - total)
    weighted = tree.select((count > 0) | ~jnp.all(finite), weighted, prior.replace(members=members))
    size = weighted.effective_size()

    def resampled() -> Particles:
        return method.resampled(keys[1:], alive, weighted, innovation)

    due = (count > 0) & (size < jnp.asarray(method.threshold, size.dtype) * N)
    posterior = weighted if key is None else lax.cond(due, resampled, lambda: weighted)
    if method.layout is not None:
        posterior = posterior.replace(members=method.layout.returned(posterior.members))
    predicted = prior.replace(members=jax.vmap(innovation)(prior.members))
    collapsed = jnp.max(weighted.weights) > COLLAPSE
    sound = tree.all_finite(posterior.mean()) & jnp.any(finite)
    info = ParticleInfo(
        count=count,
        chi_square=chi_square(predicted.mean(), 1 + jnp.square(predicted.spread()), count),
        background_spread=prior.total_spread(),
        analysis_spread=weighted.total_spread(),
        log_likelihood=density,
        non_finite=jnp.sum(~finite),
        result=jnp.where(sound, jnp.where(collapsed, Result.COLLAPSED, Result.CONVERGED), Result.DIVERGED),
        effective_size=size,
        resampled=due.astype(jnp.int32),
        weighted=(weighted.mean(), weighted.spread()),
    )
    return posterior, info
