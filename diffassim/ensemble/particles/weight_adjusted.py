"""The particle filter that flattens weights before it resamples by them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from diffassim.core.errors import ConfigurationError, concrete
from diffassim.core.loops import bounded_while
from diffassim.ensemble.particles.particle_filter import ParticleFilter
from diffassim.ensemble.particles.weighted import Particles

__all__ = ["WeightAdjustedParticleFilter"]

HALVINGS = 40


class WeightAdjustedParticleFilter(ParticleFilter):
    r"""A particle filter that trades variance for bias: particles are resampled by flattened weights.

    .. math::
        \tilde w_i \propto w_i^{r},\qquad r = \max \{ r \in [0, 1] : 1 / \textstyle\sum_i \tilde w_i^2 \geq \alpha N \}

    The bias that this brings is not made up for: a few particles that happen to fit do not carry all of the weight,
    as in an ensemble Kalman filter the observations move all members. Derivatives hold for a fixed r and fixed indices.

    Args:
        threshold: share of effective particles below which they are resampled, in [0, 1].
        jitter: width of the kernel that separates the copies of a particle; None: copies stay identical.
        resampling: `Systematic`, `Stratified`, `Residual` or `Multinomial`.
        Q: covariance of the model error, see `ParticleFilter`.
        move_first: whether the first copy of a particle is moved as well (static).
        alpha: share of effective particles that the flattened weights keep, in (0, 1]; about the threshold.

    Raises:
        ConfigurationError: if alpha is not in (0, 1].

    Example:
        >>> import diffassim as da
        >>> y = da.Observations(jnp.array([[2.0]]), [0], error=da.covariances.Diagonal(std=0.1))
        >>> method = WeightAdjustedParticleFilter(threshold=1.0, alpha=0.99)
        >>> particles, info = method.analyze(jax.random.key(0), jnp.array([[0.0], [1.0], [2.0]]), y)
        >>> particles.members.ravel().tolist(), round(float(info.effective_size), 3)  # others than the best are kept
        ([0.0, 1.0, 2.0], 1.0)

    Source: PFa of DAPPER (Raanes et al.), without a publication of its own; powers of weights: Chen (2003), section
    VI-M.
    """

    alpha: Any = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        known = concrete(self.alpha)
        if known is not None and not ((known > 0) & (known <= 1)).all():
            raise ConfigurationError(
                f"WeightAdjustedParticleFilter: alpha must be in (0, 1], but is {self.alpha}, a share of particles"
            )

    def resampled(self, keys: Any, prior: Particles, weighted: Particles, innovation: Callable[[Any], Any]) -> Any:
        """Return particles of equal weight, drawn by the flattened weights."""
        log_weights = lax.stop_gradient(weighted.log_weights)
        wanted = jnp.asarray(self.alpha, log_weights.dtype) * log_weights.shape[0]

        def flat(r: Any) -> Any:
            powers = jnp.where(log_weights > -jnp.inf, r * log_weights, -jnp.inf)
            return powers - jax.nn.logsumexp(powers)

        def enough(r: Any) -> Any:
            return jnp.exp(-jax.nn.logsumexp(2 * flat(r))) >= wanted

        def halve(ends: Any) -> Any:
            middle = (ends[0] + ends[1]) / 2
            fits = enough(middle)
            return jnp.where(fits, middle, ends[0]), jnp.where(fits, ends[1], middle)

        zero, one = jnp.zeros((), log_weights.dtype), jnp.ones((), log_weights.dtype)
        ends = bounded_while(lambda ends: ends[1] > ends[0], halve, (zero, one), HALVINGS)
        r = jnp.where(enough(one), one, ends[0])
        return self.drawn(keys, weighted, jnp.exp(flat(r)))
