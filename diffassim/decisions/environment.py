"""The protocol of environments: what an agent sees, does, and gets for it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffassim.core.checks import count_of
from diffassim.core.errors import ConfigurationError
from diffassim.core.pytree import Pytree

__all__ = ["Decided", "Environment", "Transition"]


class Transition(NamedTuple):
    """What one step of an environment returns.

    Attributes:
        state: all that the environment knows, a pytree.
        observation: what an agent sees of it: a vector, or the number of one of a few states.
        reward: a number, or one for each objective, shape (objectives,).
        terminated: whether nothing can follow (the end of time is not meant; see `Environment.horizon`).
    """

    state: Any
    observation: Any
    reward: Any
    terminated: Any


class Decided(NamedTuple):
    """What is known of a step once an action is chosen, before anything random happens.

    Attributes:
        state: afterstate, a pytree.
        seen: what the rest of the step depends on, a vector.
        reward: the part of the reward that is known already, shaped like a reward.
    """

    state: Any
    seen: Any
    reward: Any


class Environment(Pytree):
    r"""A controlled Markov chain \(s_{k+1} = f(s_k, a_k, w_k)\) with rewards \(r(s_k, a_k, w_k)\) and observations.

    A subclass defines `action_space`, `observation_space`, `reset` and `respond`; where the randomness of a step can be
    told apart from what it does, also `disturbance` and `disturbances`, over which expectations are then exact. All of
    it is pure: thousands of environments are one `jax.vmap`, and gradients pass through steps. An environment begins
    anew only where somebody calls `reset`. Where an action has its effect before chance comes in, `decide` and `follow`
    take the place of `respond`; agents with tables can then learn the values of afterstates.

    Sutton and Barto (2018), chapter 3, and section 6.8 on afterstates.

    Example:
        >>> from diffassim.decisions import Box
        >>> class Drift(Environment):
        ...     @property
        ...     def action_space(self): return Box([-1.0], [1.0])
        ...     @property
        ...     def observation_space(self): return Box.unbounded(1)
        ...     def reset(self, key): return jnp.ones(1), jnp.ones(1)
        ...     def respond(self, state, action, disturbance):
        ...         return Transition(state + action, state + action, -jnp.sum(state**2), jnp.asarray(False))
        >>> environment = Drift()
        >>> state, observation = environment.reset(jax.random.key(0))
        >>> environment.step(state, jnp.array([-0.5]), jax.random.key(1)).observation.tolist()
        [0.5]
    """

    @property
    def action_space(self) -> Any:
        """`Discrete` or `Box` of the actions."""
        raise NotImplementedError(f"{type(self).__name__} does not define action_space")

    @property
    def observation_space(self) -> Any:
        """`Discrete` or `Box` of the observations."""
        raise NotImplementedError(f"{type(self).__name__} does not define observation_space")

    @property
    def horizon(self) -> int | None:
        """Steps after which an episode is cut off, or None: it goes on until it terminates."""
        return None

    @property
    def objectives(self) -> int | None:
        """Number of rewards of each step, or None: a reward is a number."""
        return None

    def reset(self, key: jax.Array) -> tuple[Any, Any]:
        """Return a first state and its observation."""
        raise NotImplementedError(f"{type(self).__name__} does not define reset(key)")

    def step(self, state: Any, action: Any, key: jax.Array) -> Transition:
        """Return what follows an action.

        Args:
            state: what `reset` or `step` returned.
            action: an element of the action space; bounds are kept, other vectors are taken as the nearest within.
            key: random key.
        """
        return self.respond(state, action, self.disturbance(key))

    def disturbance(self, key: jax.Array) -> Any:
        """Return what is random in a step (default: the key itself)."""
        return key

    def respond(self, state: Any, action: Any, disturbance: Any) -> Transition:
        """Return what follows an action, for a given disturbance (default: `follow` after `decide`)."""
        decided = self.decide(state, action)
        found = self.follow(decided.state, disturbance)
        return found._replace(reward=decided.reward + found.reward)

    def decide(self, state: Any, action: Any) -> Decided:
        """Return the afterstate of an action."""
        raise NotImplementedError(f"{type(self).__name__} defines neither respond nor decide and follow")

    def follow(self, afterstate: Any, disturbance: Any) -> Transition:
        """Return what follows an afterstate, with the rest of the reward."""
        raise NotImplementedError(f"{type(self).__name__} does not define follow(afterstate, disturbance)")

    def disturbances(self, count: int, key: jax.Array | None = None) -> tuple[Any, Any]:
        """Return disturbances and their probabilities, over which an expectation is a sum.

        Default: `count` draws, equally likely; a subclass that knows the distribution returns nodes and weights.

        Args:
            count: about how many.
            key: random key of the draws.

        Raises:
            ConfigurationError: if draws are needed and there is no key, or no count.
        """
        count = count_of(f"{type(self).__name__}: disturbances", count, least=1)
        if key is None:
            raise ConfigurationError(
                f"{type(self).__name__}: disturbances are drawn here; give key=jax.random.key(...)"
            )
        drawn = jax.vmap(self.disturbance)(jax.random.split(key, count))
        return drawn, jnp.full(count, 1 / count)

    def state_at(self, observation: Any) -> Any:
        """Return the state that an observation tells, where it tells all: for tables and afterstates."""
        raise NotImplementedError(f"{type(self).__name__} does not define state_at(observation)")
