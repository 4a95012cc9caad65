"""Policy gradient with a learned baseline: REINFORCE and the synchronous advantage actor-critic."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.lax import stop_gradient

from diffassim.core.checks import count_of
from diffassim.core.errors import ConfigurationError
from diffassim.core.pytree import static
from diffassim.decisions.play import begin
from diffassim.training.reinforcement.agent import Agent, require_between
from diffassim.training.reinforcement.rollouts import (
    LearnerState,
    actor_critic,
    advantages,
    against_others,
    gradient_step,
    roll_out,
)

__all__ = ["PolicyGradient"]


class PolicyGradient(Agent):
    r"""One gradient step of policy and value after some steps of all environments.

    .. math:: \nabla J = E\, \nabla \log \pi(a | o)\, A,

    with advantages A against the learned value. With `trace` 1 it is REINFORCE with baseline, below 1 the advantage
    actor-critic (A2C). A gradient that is not finite, as after a reward that is none, leaves the networks as they are.

    Args:
        environments: how many play at once (static).
        steps: of each environment in an update (static).
        discount: gamma.
        trace: lambda of the advantages.
        value_weight: of the squared error of the value.
        entropy_weight: of the policy's entropy, which is made large.
        optimizer: optax transformation (static).
        common: how many environments in turn begin every update at the same state and meet the same disturbances
            (static). Only their actions differ, and the mean advantage of the others is taken off: luck, which may
            hide what small changes of an action bring, is the same for all of them.

    Raises:
        ConfigurationError: if `environments` is no multiple of `common`, or a number lies outside of its range.

    Example:
        >>> from diffassim.decisions import Scalarized, WaterReservoir
        >>> agent, environment = PolicyGradient(environments=8, steps=4), Scalarized(WaterReservoir(), [0.5, 0.5])
        >>> state, rewards = agent.train(environment, agent.init(environment, jax.random.key(0)), 2)
        >>> rewards.shape
        (2,)

    Source: Williams (1992); Sutton and Barto (2018), section 13.4; Mnih et al. (2016).
    """

    environments: int = static(default=256)
    steps: int = static(default=16)
    discount: Any = 0.99
    trace: Any = 0.95
    value_weight: Any = 0.5
    entropy_weight: Any = 0.0
    optimizer: Any = static(default=optax.chain(optax.clip_by_global_norm(0.5), optax.adam(1e-3)))
    common: int = static(default=1)

    def __post_init__(self) -> None:
        count_of(f"{type(self).__name__}: environments", self.environments, least=1)
        count_of(f"{type(self).__name__}: steps", self.steps, least=1)
        require_between(self, discount=(0, 1), trace=(0, 1), value_weight=(0, float("inf")))
        if self.common < 1 or self.environments % self.common:
            raise ConfigurationError(
                f"{type(self).__name__}: environments={self.environments} must be a multiple of common={self.common}"
            )

    def init(self, environment: Any, key: jax.Array, start: Any = None) -> LearnerState:
        """Return untrained networks (or `start`, an `ActorCritic`), and environments after their reset."""
        first, networks, own = jax.random.split(key, 3)
        both = actor_critic(environment, networks, discount=self.discount) if start is None else start
        play = begin(environment, first, self.environments)
        return LearnerState(both, self.optimizer.init(both), play, own, jnp.zeros((), jnp.int32))

    def update(self, environment: Any, state: LearnerState) -> tuple[LearnerState, Any]:
        """Make some steps, and one gradient step."""
        key = jax.random.fold_in(state.key, state.count)
        play, seen = roll_out(environment, state.trainable.policy, state.play, key, self.steps, self.common)
        A, target = advantages(state.trainable.value, seen, self.discount, self.trace)
        A = against_others(A, self.common)
        A = (A - jnp.mean(A)) / (jnp.std(A) + 1e-8)

        def loss(both: Any) -> Any:
            density, entropy = jax.vmap(jax.vmap(both.policy.judge))(seen.observation, seen.u)
            error = (jax.vmap(jax.vmap(both.value))(seen.observation) - target) / stop_gradient(both.scale)
            reward = jnp.mean(density * A) + self.entropy_weight * jnp.mean(entropy)
            return self.value_weight * jnp.mean(error**2) - reward

        gradient = jax.grad(loss)(state.trainable)
        trainable, memory = gradient_step(self.optimizer, state.trainable, state.memory, gradient)
        following = LearnerState(trainable, memory, play, state.key, state.count + 1)
        return following, jnp.mean(seen.reward)

    def policy(self, environment: Any, state: LearnerState) -> Any:
        """Return the policy, whose call draws nothing."""
        return state.trainable.policy
