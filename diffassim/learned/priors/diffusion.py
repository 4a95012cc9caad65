"""Score-based diffusion: a network learns what is behind noise of any size."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffassim.learned.priors.base import GenerativePrior

__all__ = ["DiffusionPrior", "denoising_loss"]


class DiffusionPrior(GenerativePrior):
    r"""A prior whose network F is scaled so that inputs, outputs and errors are of unit size at every noise level.

    .. math:: D(z, \sigma) = \frac{z}{1 + \sigma^2} + \frac{\sigma}{\sqrt{1 + \sigma^2}}\,
        F\!\left(\frac{z}{\sqrt{1 + \sigma^2}},\ \sigma\right)

    Args:
        network, center, spread, space, trajectory, largest, smallest: as for `GenerativePrior`.

    Example:
        >>> from diffassim.learned import Network
        >>> white = Network(lambda w, x: 0 * x[:2], None)
        >>> gaussian = DiffusionPrior(white, jnp.array([1.0, 5.0]), jnp.array([1.0, 2.0]))
        >>> draws = gaussian.sample(jax.random.key(0), 4000)
        >>> draws.mean(0).round(0).tolist(), draws.std(0).round(0).tolist()
        ([1.0, 5.0], [1.0, 2.0])

    Source: Karras et al. (2022), section 5, with data of unit variance.
    """

    def denoise(self, z: Any, sigma: Any) -> Any:
        """Return D(z, sigma), all in normalized units."""
        sigma = jnp.asarray(sigma, z.dtype)
        total = jnp.sqrt(1 + sigma**2)
        return z / total**2 + sigma / total * self.evaluate(z / total, sigma)


def denoising_loss(prior: DiffusionPrior, states: Float[Array, "batch ..."], key: Any) -> Float[Array, ""]:
    r"""Return the mean square error of the scaled network over noise levels drawn anew; a loss for `training.fit`.

    .. math:: E\, \frac{1 + \sigma^2}{\sigma^2} |D(x + \sigma \eta, \sigma) - x|^2,\qquad
        \log \sigma \sim N(-\tfrac12, 1.5^2)\ \text{within the levels of the prior}

    Args:
        prior: what is trained.
        states: states or trajectories with a leading sample axis.
        key: random key.

    Example:
        >>> from diffassim.learned import Network
        >>> prior = DiffusionPrior(Network(lambda w, x: w * x[:1], 0.0), jnp.zeros(1), jnp.ones(1))
        >>> loss = lambda w: denoising_loss(prior.replace(network=prior.network.replace(weights=w)),
        ...     jax.random.normal(jax.random.key(0), (4000, 1)), jax.random.key(1))
        >>> bool(loss(0.0) < loss(0.1)), bool(loss(0.0) < loss(-0.1))  # the denoiser of N(0, 1) has no F
        (True, True)

    Source: Karras et al. (2022), equation 8 and table 1.
    """
    level_key, noise_key = jax.random.split(key)
    x = prior.normalized(states)
    exponents = -0.5 + 1.5 * jax.random.normal(level_key, x.shape[:1], x.dtype)
    sigma = jnp.clip(jnp.exp(exponents), prior.smallest, prior.largest)
    wide = sigma.reshape((-1,) + (1,) * (x.ndim - 1))
    total = jnp.sqrt(1 + wide**2)
    z = x + wide * jax.random.normal(noise_key, x.shape, x.dtype)
    found = jax.vmap(prior.evaluate)(z / total, sigma)
    return jnp.mean(jnp.square(found - (x - z / total**2) * total / wide))
