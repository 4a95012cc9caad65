"""What agents with tables share: the table and its visits, exploration, and averages of what was seen."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffassim.core.checks import count_of
from diffassim.core.errors import ConfigurationError, concrete
from diffassim.core.pytree import Pytree, static
from diffassim.decisions.spaces import Discrete
from diffassim.decisions.wrappers import Afterstates
from diffassim.training.reinforcement.agent import Agent, require_between

__all__ = ["GreedyPolicy", "TableAgent", "TableState", "action_values"]


class TableState(Pytree):
    """What an agent with a table knows.

    Args:
        values: q(s, a), shape (states, actions).
        mean: of the tables since the start, late ones with more weight.
        visits: how often each was updated.
        play: environments in the middle of their episodes, or None.
        action: their next actions, or None.
        key: random key of the whole training.
        count: updates made.
    """

    values: Float[Array, "states actions"]
    mean: Float[Array, "states actions"]
    visits: Float[Array, "states actions"]
    play: Any
    action: Any
    key: Any
    count: Any


class GreedyPolicy(Pytree):
    """The best action of a table.

    Args:
        environment: whose numbers of states, actions and entries the table uses.
        values: table of action values, shape (states, actions), or of afterstates, shape (entries, 1).

    Example:
        >>> from diffassim.decisions.problems import random_walk
        >>> int(GreedyPolicy(random_walk(), jnp.zeros((5, 1)))(jnp.asarray(0)))
        0
    """

    environment: Any
    values: Any

    def __call__(self, observation: Any, key: Any = None) -> Any:
        """Return the action itself, or its number if the environment knows no other; nothing is drawn."""
        best = jnp.argmax(action_values(self.environment, self.values, observation)).astype(jnp.int32)
        vectors = isinstance(self.environment, Afterstates)
        return self.environment.actions[best] if vectors else best


def action_values(environment: Any, values: Any, observation: Any) -> Float[Array, " actions"]:
    """Return the values of all actions after an observation, from a table."""
    if not isinstance(environment, Afterstates):
        return values[observation]
    known, entries, weights = jax.vmap(lambda action: environment.look(observation, action))(
        jnp.arange(environment.action_space.n)
    )
    return known.astype(values.dtype) + jnp.sum(weights.astype(values.dtype) * values[entries, 0], axis=1)


class TableAgent(Agent):
    r"""Base of agents with a table of action values.

    All environments learn into one table: what they saw in an update moves each entry by the mean of their errors,
    with the step \(\alpha = \min(1, n / N^p)\) for n visits in this update and N in all. With p = 1 the table holds
    plain averages; with 1/2 < p <= 1 the steps satisfy the conditions of stochastic approximation; p = 0, which
    replaces what was there, is for problems without chance.

    The policy may follow an average of the tables instead of the last one: such averages are less noisy, and allow
    longer steps (Polyak and Juditsky, 1992). Table t of all enters it with the share \((1 + \eta) / (t + \eta)\), so
    that early ones count little (Shamir and Zhang, 2013, section 4).

    Args:
        environments: how many play at once (static).
        discount: gamma.
        exploration: probability of a random action in the first update.
        halving: updates after which exploration has fallen to a half, and to a third after twice as many; infinite: it
            stays.
        power: p.
        averaging: eta, 0 for the plain mean; default: infinite, the last table alone.
        exploring_starts: whether the first action of every episode is random (static); with first states that may be
            any, all entries are learned even where the policy itself does not explore.

    Raises:
        ConfigurationError: if a number lies outside of its range.
    """

    environments: int = static(default=256)
    discount: Any = 1.0
    exploration: Any = 0.1
    halving: Any = float("inf")
    power: Any = 0.8
    averaging: Any = float("inf")
    exploring_starts: bool = static(default=False)

    def __post_init__(self) -> None:
        count_of(f"{type(self).__name__}: environments", self.environments, least=1)
        require_between(self, discount=(0, 1), exploration=(0, 1), power=(0, 1), averaging=(0, float("inf")))
        halving = concrete(self.halving)
        if halving is not None and not (halving > 0).all():
            raise ConfigurationError(f"{type(self).__name__}: halving={halving} must be positive, or infinite")

    def init(self, environment: Any, key: jax.Array, start: Any = None) -> TableState:
        """Return an empty table (or `start`, shape (states, actions)), and environments after their reset."""
        table = self.table_for(environment, start)
        first, own = jax.random.split(key)
        play, action = self.begin(environment, first, table)
        return TableState(table, table, jnp.zeros_like(table), play, action, own, jnp.zeros((), jnp.int32))

    def begin(self, environment: Any, key: jax.Array, table: Any) -> tuple[Any, Any]:
        """Return environments and their first actions, if they go on from one update to the next (default: no)."""
        return None, None

    def policy(self, environment: Any, state: TableState) -> GreedyPolicy:
        """Return the greedy policy."""
        return GreedyPolicy(environment, state.mean)

    def table_for(self, environment: Any, start: Any) -> Float[Array, "states actions"]:
        """Return the first table; raise `ConfigurationError` unless states and actions are numbers."""
        seen, actions = environment.observation_space, environment.action_space
        afterstates = isinstance(environment, Afterstates)
        if environment.objectives is not None or not (isinstance(seen, Discrete) or afterstates):
            raise ConfigurationError(
                f"{type(self).__name__} needs states and actions that are numbers, and one reward; see Discretized, "
                "Afterstates, Scalarized and FiniteProblem"
            )
        if not isinstance(actions, Discrete):
            raise ConfigurationError(f"{type(self).__name__} needs actions that are numbers; see Discretized")
        shape = (environment.entries, 1) if afterstates else (seen.n, actions.n)
        table = jnp.zeros(shape) if start is None else jnp.asarray(start)
        if table.shape != shape:
            raise ConfigurationError(f"{type(self).__name__}: a table of shape {table.shape}, where {shape} is needed")
        return table

    def exploring(self, count: Any) -> Any:
        """Return the probability of a random action after so many updates."""
        return self.exploration / (1 + count.astype(jnp.result_type(float)) / self.halving)

    def exploring_first(self, count: Any) -> Any:
        """Return the probability that the first action of an episode is random."""
        return 1.0 if self.exploring_starts else self.exploring(count)

    def look(self, environment: Any, values: Any, observation: Any) -> Float[Array, "environments actions"]:
        """Return the values of all actions in many environments."""
        return jax.vmap(lambda seen: action_values(environment, values, seen))(observation)

    def choose(self, values: Any, key: jax.Array, epsilon: Any) -> Any:
        """Return actions of many environments: random ones with probability epsilon, else the best.

        Args:
            values: of the actions, shape (environments, actions).
            key: random key.
            epsilon: the probability.
        """
        coin, which = jax.random.split(key)
        count = values.shape[0]
        anything = jax.random.randint(which, (count,), 0, values.shape[1], jnp.int32)
        best = jnp.argmax(values, axis=1).astype(jnp.int32)
        return jnp.where(jax.random.uniform(coin, (count,)) < epsilon, anything, best)

    def learn(
        self,
        environment: Any,
        state: TableState,
        observation: Any,
        action: Any,
        target: Any,
        weight: Any = None,
        common: int = 1,
    ) -> TableState:
        r"""Move entries of the table towards the values of actions; weight 0 leaves a sample out.

        Samples with the same luck have much of their errors in common. Entries have different numbers of them, so that
        luck would enter differences between entries, which decide what is best. So the mean error of such a group is
        taken off its samples, and the mean of all of them moves every entry that was seen by the same step:

        .. math:: v_j \leftarrow v_j + \alpha_j \sum_{i \in j} (\delta_i - \bar\delta_{g(i)}) + \beta \bar\delta

        which rests where the errors of every entry are zero in the mean, as without (a control variate).

        Args:
            environment: whose table it is.
            state: with the table.
            observation: leading axis of samples.
            action: shape (samples,).
            target: value of the action there, known parts included, shape (samples,); one that is not finite is left
                out.
            weight: shape (samples,), or None.
            common: how many samples in turn have the same luck (static).
        """
        weight = jnp.ones_like(target) if weight is None else weight
        known = jnp.isfinite(target)  # a single NaN would never leave the table
        target, weight = jnp.where(known, target, 0), jnp.where(known, weight, 0)
        after = isinstance(environment, Afterstates)
        if after:
            known, entries, shares = jax.vmap(environment.look)(observation, action)
            place, target = (entries, 0), target - known.astype(target.dtype)
            shares = shares.astype(target.dtype)
            error = target - jnp.sum(shares * state.values[place], axis=1)
        else:
            place = (observation, action)
            error = target - state.values[place]
        error, luck = _without_luck(error, weight, common)
        if after:
            error, weight = error[:, None], weight[:, None] * shares
        zeros = jnp.zeros_like(state.values)
        n = zeros.at[place].add(weight)
        errors = zeros.at[place].add(weight * error)
        visits = state.visits + n
        step = jnp.minimum(1 / jnp.maximum(n, 1), jnp.maximum(visits, 1) ** -jnp.asarray(self.power, visits.dtype))
        values, t = state.values + step * errors, (state.count + 1).astype(visits.dtype)
        if common > 1:
            beta = jnp.sum(step * n * n) / jnp.maximum(jnp.sum(n), 1)
            values = values + jnp.where(n > 0, beta * luck, 0)
        # (1 + eta) / (t + eta), written so that an infinite eta gives 1
        share = 1 - (t - 1) / (t + jnp.asarray(self.averaging, visits.dtype))
        mean = state.mean + share * (values - state.mean)
        return state.replace(values=values, mean=mean, visits=visits, count=state.count + 1)


def _without_luck(error: Any, weight: Any, common: int) -> tuple[Any, Any]:
    """Return errors less the mean of those with the same luck, and the mean of all."""
    if common == 1:
        return error, jnp.zeros_like(error[0])
    errors, weights = error.reshape(-1, common), weight.reshape(-1, common)
    total = jnp.sum(weights, axis=1, keepdims=True)
    means = jnp.sum(errors * weights, axis=1, keepdims=True) / jnp.maximum(total, 1)
    return (errors - means).reshape(error.shape), jnp.sum(means * total) / jnp.maximum(jnp.sum(total), 1)
