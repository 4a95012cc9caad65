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

    With a window of n steps only the next n rewards count, the same number for every visit, and nothing is learned from
    the last n - 1 steps of an episode. Where episodes are cut off rather than end, returns up to the cut would make
    late visits look different from early ones.

    Args:
        environments: episodes of an update (static).
        discount: gamma.
        exploration: probability of a random action in the first update.
        halving: updates after which it has fallen to a half.
        power: of the visits in the step length.
        averaging: of tables, for the policy; see `TableAgent`.
        exploring_starts: whether first actions are random (static).
        length: steps of an episode (static); default: the environment's horizon.
        common: how many environments in turn meet the same disturbances (static): what different actions bring is then
            compared with the same luck, and their order needs far fewer episodes (common random numbers); see also
            `TableAgent.learn`.
        window: n (static); default: all rewards up to the end of the episode.

    Raises:
        ConfigurationError: if the window is longer than an episode, or `environments` is no multiple of `common`.

    Example:
        >>> from diffassim.decisions.problems import random_walk
        >>> agent = MonteCarlo(environments=2000, length=100, power=1.0)
        >>> state, _ = agent.train(random_walk(), agent.init(random_walk(), jax.random.key(0)), 5)
        >>> bool(jnp.all(jnp.abs(state.values[:, 0] - jnp.arange(1, 6) / 6) < 0.02))
        True

    Source: Sutton and Barto (2018), sections 5.3 and 5.4, with every visit; De Asis et al. (2020) on windows;
    Glasserman and Yao (1992) on common random numbers.
    """

    length: int | None = static(default=None)
    window: int | None = static(default=None)
    common: int = static(default=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.common < 1 or self.environments % self.common:
            raise ConfigurationError(
                f"MonteCarlo: environments={self.environments} must be a multiple of common={self.common}"
            )

    def update(self, environment: Any, state: TableState) -> tuple[TableState, Any]:
        """Play one episode in each environment, and learn from the returns."""
        length = self.length or environment.horizon
        window = length if self.window is None else self.window
        if length is None or window is None or not 1 <= window <= length:
            raise ConfigurationError(f"MonteCarlo: give the length of an episode, and a window={self.window} within it")
        key = jax.random.fold_in(state.key, state.count)
        first, rest = jax.random.split(key)
        inner, observation = jax.vmap(environment.reset)(jax.random.split(first, self.environments))

        def forth(carry: Any, k: Any) -> Any:
            inner, observation, alive = carry
            own, steps = jax.random.split(jax.random.fold_in(rest, k))
            epsilon = jnp.where(k == 0, self.exploring_first(state.count), self.exploring(state.count))
            action = self.choose(self.look(environment, state.values, observation), own, epsilon)
            keys = jnp.repeat(jax.random.split(steps, self.environments // self.common), self.common)
            found = jax.vmap(environment.step)(inner, action, keys)
            row = observation, action, jnp.where(alive, found.reward, 0), alive
            return (found.state, found.observation, alive & ~found.terminated), row

        start = (inner, observation, jnp.ones(self.environments, bool))
        _, (seen, done, rewards, alive) = lax.scan(forth, start, jnp.arange(length))

        def back(following: Any, reward: Any) -> Any:
            now = reward + self.discount * following
            return now, now

        zero = jnp.zeros(self.environments, state.values.dtype)
        _, returns = lax.scan(back, zero, rewards.astype(zero.dtype), reverse=True)
        if self.window is not None:  # take off what follows the window
            beyond = jnp.concatenate([returns[window:], jnp.zeros_like(returns[:window])])
            returns = returns - jnp.asarray(self.discount, zero.dtype) ** window * beyond
        last = length if self.window is None else length - window + 1
        counted = alive & (jnp.arange(length) < last)[:, None]
        samples = (seen, done, returns, counted.astype(returns.dtype))
        looked, chosen, target, weight = (x.reshape(-1, *x.shape[2:]) for x in samples)
        learned = self.learn(environment, state, looked, chosen, target, weight, self.common)
        return learned, jnp.sum(rewards) / jnp.sum(alive.astype(rewards.dtype))
