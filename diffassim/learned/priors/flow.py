"""Flow matching: a network learns the velocity from noise to states along straight lines."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffassim.learned.priors.base import GenerativePrior

__all__ = ["FlowPrior", "flow_matching_loss"]


class FlowPrior(GenerativePrior):
    r"""A prior whose network is the mean velocity of straight lines from noise to states.

    On the line \(x_t = (1 - t)\,\eta + t\, x\), \(v(x_t, t) = E(x - \eta \mid x_t)\). In terms of noise added to a
    state, \(z = x_t / t\) and \(\sigma = (1 - t) / t\), so that

    .. math:: D(z, \sigma) = t z + (1 - t)\, v(t z, t),\qquad t = 1 / (1 + \sigma)

    and everything that works with a diffusion prior works with this one.

    Args:
        network, center, spread, space, trajectory, largest, smallest: as for `GenerativePrior`.

    Example:
        >>> from diffassim.learned import Network
        >>> point = FlowPrior(Network(lambda w, x: 0 * x[:1], None), jnp.array([3.0]), jnp.array([1.0]))
        >>> point.denoise(jnp.array([2.0]), 1.0).tolist()
        [1.0]

    Source: Lipman et al. (2023), section 4.1; Liu, Gong and Liu (2023), equation 1.
    """

    def denoise(self, z: Any, sigma: Any) -> Any:
        """Return D(z, sigma), all in normalized units."""
        sigma = jnp.asarray(sigma, z.dtype)
        t = 1 / (1 + sigma)
        return t * z + (1 - t) * self.evaluate(t * z, sigma)


def flow_matching_loss(prior: FlowPrior, states: Float[Array, "batch ..."], key: Any) -> Float[Array, ""]:
    r"""Return \(E\,|v(x_t, t) - (x - \eta)|^2\) with times drawn anew; a loss for `training.fit`.

    Args:
        prior: what is trained.
        states: states or trajectories with a leading sample axis.
        key: random key.

    Example:
        >>> from diffassim.learned import Network
        >>> prior = FlowPrior(Network(lambda w, x: w * x[:1], 0.0), jnp.zeros(1), jnp.ones(1))
        >>> loss = flow_matching_loss(prior, jax.random.normal(jax.random.key(0), (4000, 1)), jax.random.key(1))
        >>> bool(abs(loss - 2) < 0.15)  # without any velocity: the variances of state and noise
        True

    Source: Lipman et al. (2023), equation 23, with the smallest noise zero.
    """
    time_key, noise_key = jax.random.split(key)
    x = prior.normalized(states)
    ends = 1 / (1 + prior.largest), 1 / (1 + prior.smallest)
    t = jax.random.uniform(time_key, x.shape[:1], x.dtype, *ends)
    wide = t.reshape((-1,) + (1,) * (x.ndim - 1))
    noise = jax.random.normal(noise_key, x.shape, x.dtype)
    found = jax.vmap(prior.evaluate)((1 - wide) * noise + wide * x, (1 - t) / t)
    return jnp.mean(jnp.square(found - (x - noise)))
