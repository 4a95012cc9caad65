"""The particle filter with kernels from the ensemble, and several draws from each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError, require_positive
from diffassim.core.linalg import covariance_rows
from diffassim.core.loops import bounded_while
from diffassim.core.pytree import static
from diffassim.ensemble.particles.particle_filter import ParticleFilter
from diffassim.ensemble.particles.weighted import Particles, bandwidth

__all__ = ["KernelParticleFilter"]

STEP, LARGEST = 0.1, 5.0  # of the root of the weights that is taken so that all particles are different


class KernelParticleFilter(ParticleFilter):
    r"""Every particle is the center of a kernel, and the best of many draws from the kernels are kept.

    Where particles are to be resampled, the prior is the mixture of Gaussians around the particles with the covariance
    \(h^2 P\), P that of the particles and \(h = \text{kernel}\, N^{-1/(n + 4)}\). From each kernel `draws` states are
    drawn and weighted by their likelihood, and N of them all are kept: as if there were N times `draws` particles, of
    which N are forecast. They are drawn by the power 1 / r of the weights, with the smallest \(r = 1, 1.1, \dots, 5\)
    for which they are all different, and keep the weights \(w^{1 - 1 / r}\), which make up for it.

    Args:
        threshold: share of effective particles below which they are resampled, in [0, 1].
        resampling: `Systematic`, `Stratified`, `Residual` or `Multinomial`.
        Q: covariance of the model error, see `ParticleFilter`.
        kernel: width of the kernels in units of Scott's bandwidth.
        draws: states that are drawn from each kernel (static).

    Raises:
        ConfigurationError: if the kernel is not positive, there is no draw, or a jitter (kernels leave no copies).

    Example:
        >>> import diffassim as da
        >>> y = da.Observations(jnp.array([[2.0]]), [0], error=da.covariances.Diagonal(std=0.3))
        >>> ensemble = jax.random.normal(jax.random.key(0), (20, 1))
        >>> method = KernelParticleFilter(threshold=1.0, kernel=1.0, draws=50)
        >>> particles, _ = method.analyze(jax.random.key(1), ensemble, y)
        >>> bool(jnp.unique(particles.members).size == 20), bool(abs(particles.mean()[0] - 1.8) < 0.3)
        (True, True)

    Source: PFxN of DAPPER (Raanes et al.), without a publication of its own; kernels: Musso, Oudjane and Le Gland
    (2001).
    """

    kernel: Any = 1.0
    draws: int = static(default=10)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("KernelParticleFilter: kernel", self.kernel, "1 is Scott's bandwidth.")
        if self.draws < 1:
            raise ConfigurationError(f"KernelParticleFilter: draws={self.draws} must be at least 1")
        if self.jitter is not None:
            raise ConfigurationError("KernelParticleFilter: the kernels leave no copies to jitter; leave jitter out")

    def resampled(self, keys: Any, prior: Particles, weighted: Particles, innovation: Callable[[Any], Any]) -> Any:
        """Return N of all draws from the kernels of the prior, all different where weights allow it."""
        N, one = prior.log_weights.shape[0], jax.tree.map(lambda leaf: leaf[0], prior.members)
        rows = tree.flat_rows(prior.anomalies())
        size = rows.shape[1]
        root = rows if size >= N else covariance_rows(rows.T @ rows)
        width = jnp.asarray(self.kernel, rows.dtype) * bandwidth(N, size)
        noise = width * jax.random.normal(keys[1], (N * self.draws, root.shape[0]), rows.dtype) @ root
        many = jax.tree.map(lambda leaf: jnp.repeat(leaf, self.draws, axis=0), prior.members)
        many = tree.add(many, tree.state_rows(noise, one))
        fit = -0.5 * jnp.sum(jnp.square(jax.vmap(innovation)(many)), axis=1)
        log_weights = jnp.repeat(prior.log_weights, self.draws) - math.log(self.draws)
        log_weights = log_weights + jnp.where(jnp.isfinite(fit), fit, -jnp.inf)
        log_weights = log_weights - jax.nn.logsumexp(log_weights)

        def chosen(r: Any) -> Any:
            powers = lax.stop_gradient(log_weights) / r
            return self.resampling(keys[0], jnp.exp(powers - jax.nn.logsumexp(powers)), N)

        start = jnp.ones((), rows.dtype)
        r, indices = bounded_while(
            lambda found: jnp.any(found[1][1:] == found[1][:-1]),
            lambda found: (found[0] + STEP, chosen(found[0] + STEP)),
            (start, chosen(start)),
            round((LARGEST - 1) / STEP),
        )
        kept = (1 - 1 / r) * log_weights[indices]
        return Particles(jax.tree.map(lambda leaf: leaf[indices], many), kept - jax.nn.logsumexp(kept))
