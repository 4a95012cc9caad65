"""Q-learning and SARSA: tables learned from one step to the next."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from diffassim.decisions.play import begin, go_on
from diffassim.training.reinforcement.tables import TableAgent, TableState

__all__ = ["SARSA", "QLearning"]


class TemporalDifference(TableAgent):
    """Base of agents that learn from a reward and the value of what follows; one update is one step of all."""

    def begin(self, environment: Any, key: jax.Array, table: Any) -> tuple[Any, Any]:
        """Return environments after their reset, and their first actions."""
        first, chosen = jax.random.split(key)
        play = begin(environment, first, self.environments)
        values = self.look(environment, table, play.observation)
        return play, self.choose(values, chosen, self.exploring_first(jnp.zeros((), jnp.int32)))

    def value_of(self, values: Any, action: Any) -> Any:
        """Return the value of what follows.

        Args:
            values: of all actions there, shape (environments, actions).
            action: what the agent would do there, shape (environments,).
        """
        raise NotImplementedError(f"{type(self).__name__} does not define value_of")

    def update(self, environment: Any, state: TableState) -> tuple[TableState, Any]:
        """Make one step in all environments, and learn from it."""
        steps, own, other = jax.random.split(jax.random.fold_in(state.key, state.count), 3)
        epsilon = self.exploring(state.count)
        play, seen = go_on(environment, state.play, state.action, steps)
        values = self.look(environment, state.values, seen.following)
        planned = self.choose(values, own, epsilon)
        ahead = jnp.where(seen.terminated, 0, self.value_of(values, planned))
        target = seen.reward.astype(ahead.dtype) + self.discount * ahead
        learned = self.learn(environment, state, seen.observation, seen.action, target)
        # In the same episode the planned action is the one that is taken.
        fresh = self.choose(
            self.look(environment, state.values, play.observation), other, self.exploring_first(state.count)
        )
        action = jnp.where(seen.done, fresh, planned)
        return learned.replace(play=play, action=action), jnp.mean(seen.reward)


class QLearning(TemporalDifference):
    r"""Learn the values of the best policy, whatever the agent does meanwhile.

    .. math:: q(s, a) \leftarrow q(s, a) + \alpha\, \bigl(r + \gamma \max_{a'} q(s', a') - q(s, a)\bigr)

    It converges to the best values if every state and action is seen again and again.

    Args:
        environments: how many play at once (static).
        discount: gamma.
        exploration: probability of a random action in the first update.
        halving: updates after which it has fallen to a half.
        power: of the visits in the step length.
        averaging: of tables, for the policy; see `TableAgent`.
        exploring_starts: whether first actions are random (static).

    Example:
        >>> from diffassim.decisions.problems import cliff_walk
        >>> agent = QLearning(exploration=0.5, power=0.0)
        >>> state, rewards = agent.train(cliff_walk(), agent.init(cliff_walk(), jax.random.key(0)), 500)
        >>> float(state.values[36].max())
        -13.0

    Source: Watkins and Dayan (1992); Sutton and Barto (2018), section 6.5.
    """

    def value_of(self, values: Any, action: Any) -> Any:
        """Return the largest value."""
        return jnp.max(values, axis=1)


class SARSA(TemporalDifference):
    r"""Learn the values of the policy that the agent follows.

    .. math:: q(s, a) \leftarrow q(s, a) + \alpha\, \bigl(r + \gamma q(s', a') - q(s, a)\bigr)

    It converges to the best values if exploration fades, but slowly enough (`halving`).

    Args:
        environments: how many play at once (static).
        discount: gamma.
        exploration: probability of a random action in the first update.
        halving: updates after which it has fallen to a half.
        power: of the visits in the step length.
        averaging: of tables, for the policy; see `TableAgent`.
        exploring_starts: whether first actions are random (static).

    Example:
        >>> from diffassim.decisions.problems import cliff_walk
        >>> agent = SARSA(exploration=0.5, halving=20.0, power=0.6)
        >>> state, rewards = agent.train(cliff_walk(), agent.init(cliff_walk(), jax.random.key(0)), 2000)
        >>> bool(state.values[36].max() > -16)
        True

    Source: Rummery and Niranjan (1994); Sutton and Barto (2018), section 6.4.
    """

    def value_of(self, values: Any, action: Any) -> Any:
        """Return the value of the action that comes next."""
        return jnp.take_along_axis(values, action[:, None], axis=1)[:, 0]
