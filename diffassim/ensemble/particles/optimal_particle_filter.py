"""The particle filter with the optimal proposal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import solve_triangular

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError
from diffassim.core.linalg import gram_cholesky
from diffassim.ensemble.particles.particle_filter import ParticleFilter
from diffassim.ensemble.particles.weighted import Particles
from diffassim.methods.model_error import EveryStep

__all__ = ["OptimalParticleFilter"]


class OptimalParticleFilter(ParticleFilter):
    r"""The model error of every particle is drawn from its distribution given the observations.

    For \(x = f + Q^{1/2} \xi\) with the forecast f of a particle and \(\xi \sim N(0, I)\), H linearized at f, and the
    rows \(Y = (R^{-1/2} H Q^{1/2})^\top\),

    .. math::
        w_i \propto w_i\, N(y; \mathcal H(f_i),\ H Q H^\top + R),\quad
        \xi \sim N(A^{-1} Y d,\ A^{-1}),\quad A = I + Y Y^\top

    Of all filters that know only the particle and the observation, this one has the least variance of weights. Exact
    for a linear H. Without observations \(\xi\) is drawn all the same: it is the model error of the forecast.

    Args:
        threshold: share of effective particles below which they are resampled, in [0, 1].
        jitter: width of the kernel that separates the copies of a particle; None: copies stay identical.
        resampling: `Systematic`, `Stratified`, `Residual` or `Multinomial`.
        Q: covariance of the model error that is gathered from one analysis to the next.

    Raises:
        ConfigurationError: if there is no Q.

    Example:
        >>> import diffassim as da
        >>> one = da.covariances.Diagonal(std=1.0)
        >>> y = da.Observations(jnp.array([[2.0]]), [0], error=one)
        >>> method = OptimalParticleFilter(threshold=0.0, Q=one)
        >>> particles, _ = method.analyze(jax.random.key(0), jnp.array([[0.0], [2.0]]), y)
        >>> round(float(particles.weights[1]), 3)  # weights proportional to exp(-1) and 1
        0.731

    Source: Doucet, Godsill and Andrieu (2000), proposition 2 and equations 17 to 19; Snyder (2012).
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.Q, EveryStep):
            raise ConfigurationError(
                "OptimalParticleFilter: the proposal is optimal for an error at the analysis; give Q as a covariance "
                "of what is gathered until then, not as EveryStep"
            )
        if self.Q is None:
            raise ConfigurationError(
                "OptimalParticleFilter: give Q; without model error there is nothing to propose, use ParticleFilter"
            )

    def forecast(self, key: Any, propagate: Callable[..., Any], belief: Particles) -> Particles:
        """Return the particles at the next analysis time; their model error is drawn in the analysis."""
        return belief.replace(members=jax.vmap(propagate)(belief.members))

    def proposed(self, key: Any, members: Any, innovation: Callable[[Any], Any]) -> tuple[Any, Any]:
        """Return the members with their model errors, and their log likelihoods up to a constant."""
        one = jax.tree.map(lambda leaf: leaf[0], members)
        v, as_control = ravel_pytree(self.Q.control_like(one))

        def propose(key: Any, f: Any) -> tuple[Any, Any]:
            def observed(xi: Any) -> Any:
                return innovation(tree.add(f, self.Q.sqrt(as_control(xi))))

            d, tangent = jax.linearize(observed, jnp.zeros_like(v))
            Y = -jax.vmap(tangent)(jnp.eye(v.size, dtype=v.dtype))
            C, whitened = gram_cholesky(Y, d)
            z = jax.random.normal(key, v.shape, v.dtype)
            xi = solve_triangular(C, whitened + z, lower=True, trans=1)
            log_likelihood = -0.5 * (d @ d - whitened @ whitened) - jnp.sum(jnp.log(jnp.diagonal(C)))
            return tree.add(f, self.Q.sqrt(as_control(xi))), log_likelihood

        N = jax.tree.leaves(members)[0].shape[0]
        return jax.vmap(propose)(jax.random.split(key, N), members)
