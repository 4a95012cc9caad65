"""Proximal policy optimization: several epochs of clipped steps on the same experience."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.lax import stop_gradient

from diffassim.core.errors import ConfigurationError
from diffassim.core.pytree import static
from diffassim.training.reinforcement.agent import require_between
from diffassim.training.reinforcement.policy_gradient import PolicyGradient
from diffassim.training.reinforcement.rollouts import (
    LearnerState,
    advantages,
    against_others,
    gradient_step,
    roll_out,
    shuffled,
)

__all__ = ["PPO"]


class PPO(PolicyGradient):
    r"""Make the clipped surrogate large, on minibatches of some steps of all environments.

    .. math:: L = E \min\bigl(\rho A,\ \mathrm{clip}(\rho, 1 - \epsilon, 1 + \epsilon) A\bigr),\quad
        \rho = \pi(a | o) / \pi_{\text{old}}(a | o)

    Args:
        environments: how many play at once (static).
        steps: of each environment in an update (static).
        discount: gamma.
        trace: lambda of the advantages.
        value_weight: of the squared error of the value.
        entropy_weight: of the policy's entropy, which is made large.
        optimizer: optax transformation (static).
        common: how many environments in turn begin every update at the same state and meet the same disturbances
            (static); see `PolicyGradient`.
        clip: epsilon.
        epochs: how often each step is used (static).
        batches: minibatches of an epoch (static).

    Raises:
        ConfigurationError: if `environments` is no multiple of `common`, or the steps of an update cannot be cut into
            so many minibatches, or a number lies outside of its range.

    Example:
        >>> from diffassim.decisions import Scalarized, WaterReservoir
        >>> agent, environment = PPO(environments=8, steps=4), Scalarized(WaterReservoir(), [0.5, 0.5])
        >>> state, rewards = agent.train(environment, agent.init(environment, jax.random.key(0)), 2)
        >>> rewards.shape
        (2,)

    Source: Schulman et al. (2017), equation 7 and algorithm 1.
    """

    clip: Any = 0.2
    epochs: int = static(default=4)
    batches: int = static(default=4)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_between(self, clip=(0, float("inf")))
        if self.epochs < 1 or self.batches < 1 or (self.environments * self.steps) % self.batches:
            raise ConfigurationError(
                f"PPO: {self.environments} environments of {self.steps} steps cannot be cut into {self.batches} equal "
                f"minibatches, used {self.epochs} times"
            )

    def update(self, environment: Any, state: LearnerState) -> tuple[LearnerState, Any]:
        """Make some steps, and several epochs of gradient steps."""
        steps, order = jax.random.split(jax.random.fold_in(state.key, state.count))
        play, seen = roll_out(environment, state.trainable.policy, state.play, steps, self.steps, self.common)
        A, target = advantages(state.trainable.value, seen, self.discount, self.trace)
        A = against_others(A, self.common)
        count = self.environments * self.steps
        samples = (seen.observation, seen.u, seen.log_density, A, target)
        samples = jax.tree.map(lambda x: x.reshape(count, *x.shape[2:]), samples)

        def step(carry: Any, index: Any) -> Any:
            batch = jax.tree.map(lambda x: x[index], samples)
            gradient = jax.grad(self.loss)(carry[0], batch)
            trainable, memory = carry
            return gradient_step(self.optimizer, trainable, memory, gradient), None

        def epoch(carry: Any, key: Any) -> Any:
            index = shuffled(key, count).reshape(self.batches, -1)
            return lax.scan(step, carry, index)[0], None

        start = (state.trainable, state.memory)
        (trainable, memory), _ = lax.scan(epoch, start, jax.random.split(order, self.epochs))
        return LearnerState(trainable, memory, play, state.key, state.count + 1), jnp.mean(seen.reward)

    def loss(self, both: Any, batch: Any) -> Any:
        """Return what a minibatch makes small."""
        observation, u, before, A, target = batch
        A = (A - jnp.mean(A)) / (jnp.std(A) + 1e-8)
        density, entropy = jax.vmap(both.policy.judge)(observation, u)
        ratio = jnp.exp(density - before)
        surrogate = jnp.minimum(ratio * A, jnp.clip(ratio, 1 - self.clip, 1 + self.clip) * A)
        error = (jax.vmap(both.value)(observation) - target) / stop_gradient(both.scale)
        reward = jnp.mean(surrogate) + self.entropy_weight * jnp.mean(entropy)
        return self.value_weight * jnp.mean(error**2) - reward
