"""Policies made of networks: distributions of actions, with what gradients need of them."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from diffassim.core.pytree import Pytree, static

__all__ = ["ActorCritic", "CategoricalPolicy", "GaussianPolicy"]


class GaussianPolicy(Pytree):
    r"""A Gaussian around what a network says, in units of the action's range.

    .. math:: a = c + h u,\quad u \sim N(f(o), \mathrm{diag}(e^{2 \sigma}))

    with center c and half width h of the box (0 and 1 where a bound is infinite). Draws are not bounded; the
    environment takes the nearest action within. Gradients of a training do not reach the bounds.

    Beyond a bound all actions are the same, and nothing tells a policy there to turn back. Squashed, the action is
    \(c + h \tanh(u)\) where both bounds are finite, and every u has its own; density and entropy remain those of u,
    whose ratios and gradients are those of the action (Haarnoja et al., 2018, appendix C).

    Args:
        network: observation -> f, shape (components,).
        log_std: sigma, shape (components,).
        space: `Box` of the actions.
        squashed: whether actions are (static).

    Example:
        >>> from diffassim.decisions import Box
        >>> policy = GaussianPolicy(lambda o: 0.5 * o, jnp.zeros(1), Box([0.0], [10.0]))
        >>> policy(jnp.array([1.0])).tolist()
        [7.5]
    """

    network: Any
    log_std: Any
    space: Any
    squashed: bool = static(default=False)

    def __call__(self, observation: Any, key: Any = None) -> Any:
        """Return the action in the middle, within its bounds; nothing is drawn."""
        return stop_gradient(self.space).clip(self.action(self.network(observation)))

    def action(self, u: Any) -> Any:
        """Return the action that belongs to u."""
        center, half, both = self._range()
        return center + half * (jnp.where(both, jnp.tanh(u), u) if self.squashed else u)

    def units(self, action: Any) -> Any:
        """Return the u of an action."""
        center, half, both = self._range()
        u = (action - center) / half
        return jnp.where(both, jnp.arctanh(jnp.where(both, u, 0)), u) if self.squashed else u

    def _range(self) -> tuple[Any, Any, Any]:
        low, high = stop_gradient(self.space.low), stop_gradient(self.space.high)
        both = jnp.isfinite(low) & jnp.isfinite(high)
        a, b = jnp.where(both, low, -1), jnp.where(both, high, 1)
        return (a + b) / 2, (b - a) / 2, both

    def draw(self, observation: Any, key: jax.Array) -> Any:
        """Return a draw of u."""
        mean = self.network(observation)
        return mean + jnp.exp(self.log_std) * jax.random.normal(key, mean.shape, mean.dtype)

    def log_density(self, observation: Any, u: Any) -> Any:
        """Return the log density of u."""
        return self.judge(observation, u)[0]

    def entropy(self, observation: Any) -> Any:
        """Return the entropy of u."""
        return jnp.sum(self.log_std + (1 + math.log(2 * math.pi)) / 2)

    def judge(self, observation: Any, u: Any) -> tuple[Any, Any]:
        """Return the log density of u, and the entropy."""
        z = (u - self.network(observation)) * jnp.exp(-self.log_std)
        density = -jnp.sum(jnp.square(z) / 2 + self.log_std + math.log(2 * math.pi) / 2)
        return density, self.entropy(observation)


class CategoricalPolicy(Pytree):
    """One of a few actions, with probabilities from a network.

    Args:
        network: observation -> logits, shape (actions,).

    Example:
        >>> policy = CategoricalPolicy(lambda o: jnp.array([0.0, 1.0, 0.0]))
        >>> int(policy(jnp.zeros(1)))
        1
    """

    network: Any

    def __call__(self, observation: Any, key: Any = None) -> Any:
        """Return the likeliest action; nothing is drawn."""
        return jnp.argmax(self.network(observation)).astype(jnp.int32)

    def action(self, u: Any) -> Any:
        """Return the action itself."""
        return u

    def draw(self, observation: Any, key: jax.Array) -> Any:
        """Return a draw."""
        return jax.random.categorical(key, self.network(observation)).astype(jnp.int32)

    def log_density(self, observation: Any, u: Any) -> Any:
        """Return the log probability of an action."""
        return self.judge(observation, u)[0]

    def entropy(self, observation: Any) -> Any:
        """Return the entropy."""
        return self.judge(observation, 0)[1]

    def judge(self, observation: Any, u: Any) -> tuple[Any, Any]:
        """Return the log probability of an action, and the entropy.

        The network is called once: the derivatives of two calls would be computed twice.
        """
        log_p = jax.nn.log_softmax(self.network(observation))
        chosen = jnp.arange(log_p.shape[0], dtype=jnp.result_type(u)) == u  # the derivative of an index would scatter
        return jnp.sum(jnp.where(chosen, log_p, 0)), -jnp.sum(jnp.exp(log_p) * log_p)


class ActorCritic(Pytree):
    """A policy, and the value that an observation has under it.

    Args:
        policy: `GaussianPolicy` or `CategoricalPolicy`.
        value: observation -> number.
        scale: size of values, in which their errors are counted.

    Example:
        >>> both = ActorCritic(CategoricalPolicy(lambda o: o), lambda o: jnp.sum(o))
        >>> float(both.value(jnp.ones(2)))
        2.0
    """

    policy: Any
    value: Any
    scale: Any = 1.0
