"""Monte-Carlo control: tables learned from the returns of whole episodes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from diffassim.core.errors import ConfigurationError
from diffassim.core.pytree import static
from diffassim.training.reinforcement.tables import TableAgent, TableState

__all__ = ["MonteCarlo"]


class MonteCarlo(TableAgent):
    r"""Average the returns \(\sum_k \gamma^k r_{t+k}\) that followed every visit of a state and action.

    One update is one episode in each environment, with a policy that explores; it converges to the best values if
    exploration fades.

    Args:
        environments: episodes of an update (static).
        discount: gamma.
        exploration: probability of a random action in the first update.
        halving: updates after which it has fallen to a half.
        power: of the visits in the step length.
        length: steps of an episode (static); default: the environment's horizon.
        tail: last steps of an episode, from which nothing is learned (static): what would follow them is cut off.

    Raises:
        ConfigurationError: if the tail is as long as an episode.

    Example:
        >>> from diffassim.decisions.problems import random_walk
        >>> agent = MonteCarlo(environments=2000, length=100, power=1.0)
        >>> state, _ = agent.train(random_walk(), agent.init(random_walk(), jax.random.key(0)), 5)
        >>> bool(jnp.all(jnp.abs(state.values[:, 0] - jnp.arange(1, 6) / 6) < 0.02))
        True

    Source: Sutton and Barto (2018), section 5.4, with every visit.
    """

    length: int | None = static(default=None)
    tail: int = static(default=0)

    def update(self, environment: Any, state: TableState) -> tuple[TableState, Any]:
        """Play one episode in each environment, and learn from the returns."""
        length = self.length or environment.horizon
        if length is None or not 0 <= self.tail < length:
            raise ConfigurationError(f"MonteCarlo: give the length of an episode, above tail={self.tail}")
        key, epsilon = jax.random.fold_in(state.key, state.count), self.exploring(state.count)
        first, rest = jax.random.split(key)
        inner, observation = jax.vmap(environment.reset)(jax.random.split(first, self.environments))

        def forth(carry: Any, k: Any) -> Any:
            inner, observation, alive = carry
            own, steps = jax.random.split(jax.random.fold_in(rest, k))
            action = self.choose(self.look(environment, state.values, observation), own, epsilon)
            found = jax.vmap(environment.step)(inner, action, jax.random.split(steps, self.environments))
            row = observation, action, jnp.where(alive, found.reward, 0), alive
            return (found.state, found.observation, alive & ~found.terminated), row

        start = (inner, observation, jnp.ones(self.environments, bool))
        _, (seen, done, rewards, alive) = lax.scan(forth, start, jnp.arange(length))

        def back(following: Any, reward: Any) -> Any:
            now = reward + self.discount * following
            return now, now

        zero = jnp.zeros(self.environments, state.values.dtype)
        _, returns = lax.scan(back, zero, rewards.astype(zero.dtype), reverse=True)
        counted = alive & (jnp.arange(length) < length - self.tail)[:, None]
        samples = (seen, done, returns, counted.astype(returns.dtype))
        flat = [x.reshape(-1, *x.shape[2:]) for x in samples]
        return self.learn(environment, state, *flat), jnp.sum(rewards) / jnp.sum(alive.astype(rewards.dtype))
