"""The particle filter with the optimal proposal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import solve_triangular

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError, require_positive
from diffassim.core.linalg import gram_cholesky
from diffassim.covariances import LowRank
from diffassim.ensemble.model_error import forecast_members
from diffassim.ensemble.particles.particle_filter import ParticleFilter
from diffassim.ensemble.particles.weighted import Particles, bandwidth
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
        move_first: whether the first copy of a particle is jittered as well (static).
        kernel: width, in units of Scott's bandwidth, of kernels with the particles' covariance that take the place of Q
            above; a Q is then drawn in the forecast, as by the `ParticleFilter`. None: Q itself.

    Raises:
        ConfigurationError: if there is neither Q nor a kernel, the kernel is not positive, or Q is `EveryStep`.

    Example:
        >>> import diffassim as da
        >>> one = da.covariances.Diagonal(std=1.0)
        >>> y = da.Observations(jnp.array([[2.0]]), [0], error=one)
        >>> method = OptimalParticleFilter(threshold=0.0, Q=one)
        >>> particles, _ = method.analyze(jax.random.key(0), jnp.array([[0.0], [2.0]]), y)
        >>> round(float(particles.weights[1]), 3)  # weights proportional to exp(-1) and 1
        0.731

    Source: Doucet, Godsill and Andrieu (2000), proposition 2 and equations 17 to 19; Snyder (2012); kernels
    of the ensemble: OptPF of DAPPER (Raanes et al.).
    """

    kernel: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernel is not None:
            require_positive("OptimalParticleFilter: kernel", self.kernel, "None proposes the model error Q.")
            return
        if isinstance(self.Q, EveryStep):
            raise ConfigurationError(
                "OptimalParticleFilter: the proposal is optimal for an error at the analysis; give Q as a covariance "
                "of what is gathered until then, not as EveryStep"
            )
        if self.Q is None:
            raise ConfigurationError(
                "OptimalParticleFilter: give Q or a kernel; without both nothing is proposed, use ParticleFilter"
            )

    def forecast(self, key: Any, propagate: Callable[..., Any], belief: Particles) -> Particles:
        """Return the particles at the next analysis time; the error that is proposed is drawn in the analysis."""
        if self.kernel is not None:
            return super().forecast(key, propagate, belief)
        return belief.replace(members=forecast_members(None, key, propagate, belief.members, self.layout))

    def proposed(self, key: Any, prior: Particles, innovation: Callable[[Any], Any]) -> tuple[Any, Any]:
        """Return the members with their model errors, and their log likelihoods up to a constant."""
        members, Q = prior.members, self.Q if self.kernel is None else self._kernel(prior)
        one = jax.tree.map(lambda leaf: leaf[0], members)
        v, as_control = ravel_pytree(Q.control_like(one))

        def propose(key: Any, f: Any) -> tuple[Any, Any]:
            def observed(xi: Any) -> Any:
                return innovation(tree.add(f, Q.sqrt(as_control(xi))))

            d, tangent = jax.linearize(observed, jnp.zeros_like(v))
            Y = -jax.vmap(tangent)(jnp.eye(v.size, dtype=v.dtype))
            C, whitened = gram_cholesky(Y, d)
            z = jax.random.normal(key, v.shape, v.dtype)
            xi = solve_triangular(C, whitened + z, lower=True, trans=1)
            log_likelihood = -0.5 * (d @ d - whitened @ whitened) - jnp.sum(jnp.log(jnp.diagonal(C)))
            return tree.add(f, Q.sqrt(as_control(xi))), log_likelihood

        N = jax.tree.leaves(members)[0].shape[0]
        return jax.vmap(propose)(jax.random.split(key, N), members)

    def _kernel(self, prior: Particles) -> LowRank:
        """Return the covariance of the particles, times the squared width of the kernel."""
        N = prior.log_weights.shape[0]
        width = jnp.asarray(self.kernel, prior.log_weights.dtype) * bandwidth(N, tree.size(prior.members) // N)
        return LowRank(tree.scale(width, prior.anomalies()))

    @property
    def any_loss(self) -> bool:
        """False: the proposal is Gaussian."""
        return False

    @property
    def draws_model_error(self) -> bool:
        """Whether what is proposed is the model error of the forecast."""
        return self.kernel is None
