"""Policies trained by the gradient through the simulator."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float

from diffassim.core.checks import count_of
from diffassim.core.errors import ConfigurationError
from diffassim.core.loops import checkpointed_scan
from diffassim.core.pytree import static
from diffassim.decisions.play import begin, go_on
from diffassim.training.reinforcement.agent import Agent, require_between
from diffassim.training.reinforcement.rollouts import LearnerState, gradient_step, policy_for

__all__ = ["Pathwise", "mean_return"]

PLAYS = 1_000_003  # far from the numbers of updates


def mean_return(
    policy: Any, environment: Any, key: jax.Array, episodes: int, steps: int, discount: Any = 1.0
) -> Float[Array, ""]:
    r"""Return the mean of \(\sum_k \gamma^k r_k\) over episodes, differentiable in policy and environment.

    Reverse mode keeps about the square root of an episode's states (`core.loops.checkpointed_scan`).

    Args:
        policy: (observation, key) -> action, a pytree.
        environment: `Environment` whose rewards are numbers and whose steps are differentiable.
        key: random key.
        episodes: how many (static).
        steps: of an episode (static); a terminated one gets no more rewards.
        discount: gamma.

    Example:
        >>> from diffassim.decisions import GridPolicy, Scalarized, WaterReservoir
        >>> reservoir = Scalarized(WaterReservoir(), [0.5, 0.5])
        >>> policy = GridPolicy((jnp.array([0.0, 100.0]),), jnp.array([[0.0], [50.0]]))
        >>> gradient = jax.grad(mean_return)(policy, reservoir, jax.random.key(0), 4, 10)
        >>> gradient.actions.shape
        (2, 1)
    """

    def one(key: Any) -> Any:
        first, rest = jax.random.split(key)
        state, observation = environment.reset(first)

        def body(carry: Any, k: Any) -> Any:
            state, observation, weight = carry
            drawn, own = jax.random.split(jax.random.fold_in(rest, k))
            found = environment.step(state, policy(observation, own), drawn)
            reward = jnp.where(weight > 0, weight * found.reward, 0)
            weight = jnp.where(found.terminated, 0, weight * jnp.asarray(discount, weight.dtype))
            return (found.state, found.observation, weight), reward

        like = jax.eval_shape(environment.step, state, environment.action_space.sample(first), first).reward
        _, rewards = checkpointed_scan(body, (state, observation, jnp.ones((), like.dtype)), steps)
        return jnp.sum(rewards)

    return jnp.mean(jax.vmap(one)(jax.random.split(key, episodes)))


class Pathwise(Agent):
    r"""Follow the derivative of the mean return through policy and model.

    .. math:: \nabla_\theta J = E\, \nabla_\theta \sum_k \gamma^k r(s_k, \pi_\theta(o_k), w_k)

    The disturbances w do not depend on the policy, so the derivative of the mean is the mean of derivatives. It needs
    steps without jumps. A gradient that is not finite leaves the policy as it is.

    By default every update plays episodes from their start. Where `lasting`, the environments go on from one update to
    the next and begin anew at an end only, and the derivative passes through the steps of an update alone (truncated
    back-propagation): for episodes whose whole derivative would be long, or explode. Actions near the end of an update
    see hardly any of their consequences, and would be trained to be short-sighted; those of the last `tail` steps count
    as constants, so that every action that is trained sees at least so many steps.

    Args:
        environments: episodes of an update (static).
        steps: of an update (static); default: the environment's horizon.
        discount: gamma, counted from the start of an update.
        optimizer: optax transformation (static).
        lasting: whether environments go on from update to update (static).
        tail: steps at the end of an update whose actions are not trained, where environments last (static).

    Raises:
        ConfigurationError: if there is neither `steps` nor a horizon, or the tail leaves no step to train.

    Example:
        >>> from diffassim.decisions import Scalarized, WaterReservoir
        >>> agent, environment = Pathwise(environments=8, steps=5), Scalarized(WaterReservoir(), [0.5, 0.5])
        >>> state, rewards = agent.train(environment, agent.init(environment, jax.random.key(0)), 2)
        >>> rewards.shape
        (2,)

    Source: Glasserman (2003), section 7.2; Mohamed et al. (2020), section 5.
    """

    environments: int = static(default=64)
    steps: int | None = static(default=None)
    discount: Any = 1.0
    optimizer: Any = static(default=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2)))
    lasting: bool = static(default=False)
    tail: int = static(default=0)

    def __post_init__(self) -> None:
        count_of("Pathwise: environments", self.environments, least=1)
        if self.steps is not None:
            count_of("Pathwise: steps", self.steps, least=1)
        require_between(self, discount=(0, 1))

    def init(self, environment: Any, key: jax.Array, start: Any = None) -> LearnerState:
        """Return an untrained network (or `start`, any differentiable policy)."""
        network, own = jax.random.split(key)
        policy = policy_for(environment, network) if start is None else start
        play = begin(environment, jax.random.fold_in(own, PLAYS), self.environments) if self.lasting else None
        return LearnerState(policy, self.optimizer.init(policy), play, own, jnp.zeros((), jnp.int32))

    def update(self, environment: Any, state: LearnerState) -> tuple[LearnerState, Any]:
        """Make one gradient step with the episodes, or the steps, of this update."""
        steps = self.steps or environment.horizon
        if steps is None:
            raise ConfigurationError("Pathwise: the environment has no horizon; give steps")
        if not 0 <= self.tail < steps or (self.tail and not self.lasting):
            raise ConfigurationError(
                f"Pathwise: tail={self.tail} must be less than the {steps} steps, and is for lasting environments"
            )
        key = jax.random.fold_in(state.key, state.count)
        loss = partial(_loss, environment=environment, play=state.play, key=key, agent=self, steps=steps)
        (value, play), gradient = jax.value_and_grad(loss, has_aux=True)(state.trainable)
        trainable, memory = gradient_step(self.optimizer, state.trainable, state.memory, gradient)
        after = state.replace(trainable=trainable, memory=memory, play=play, count=state.count + 1)
        return after, -value / self._weight(steps, value)

    def _weight(self, steps: int, like: Any) -> Any:
        """Return the sum of the powers of the discount, so that of constant rewards the mean is what they are."""
        return jnp.sum(jnp.asarray(self.discount, like.dtype) ** jnp.arange(steps, dtype=like.dtype))

    def policy(self, environment: Any, state: LearnerState) -> Any:
        """Return the policy."""
        return state.trainable


def _loss(policy: Any, environment: Any, play: Any, key: Any, agent: Pathwise, steps: int) -> Any:
    if play is None:
        return -mean_return(policy, environment, key, agent.environments, steps, agent.discount), None

    def body(carry: Any, k: Any) -> Any:
        play, weight = carry
        own, drawn = jax.random.split(jax.random.fold_in(key, k))
        action = jax.vmap(policy)(play.observation, jax.random.split(own, agent.environments))
        action = jnp.where(k < steps - agent.tail, action, lax.stop_gradient(action))
        play, seen = go_on(environment, play, action, drawn)
        return (play, weight * jnp.asarray(agent.discount, weight.dtype)), weight * jnp.mean(seen.reward)

    like = jax.eval_shape(go_on, environment, play, _actions(policy, play), key)[1].reward
    (play, _), rewards = checkpointed_scan(body, (play, jnp.ones((), like.dtype)), steps, segment=1)
    return -jnp.sum(rewards), play


def _actions(policy: Any, play: Any) -> Any:
    return jax.vmap(lambda observation: policy(observation, jax.random.key(0)))(play.observation)
