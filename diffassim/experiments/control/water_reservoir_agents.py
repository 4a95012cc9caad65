"""What learns to run the reservoir: each agent with its environment and its effort."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from diffassim.decisions import Afterstates, FiniteProblem, GridPolicy, Scalarized, WaterReservoir
from diffassim.training.reinforcement import (
    PPO,
    SARSA,
    MonteCarlo,
    Pathwise,
    PolicyGradient,
    QLearning,
    actor_critic,
    policy_for,
    policy_iteration,
)

__all__ = ["AGENTS", "EXACT", "Contender", "releases", "storages"]

DISCOUNT = 0.99  # of plans that do not know the end; the horizon is a hundred steps
UNITS = (16, 16)
LARGEST = 180.0  # storage that hardly any inflow exceeds: the capacity, and four standard deviations above the mean
# In the limit of many samples and fine tables, up to what the discount and the window of returns leave out
EXACT = ("policy iteration", "Q-learning", "SARSA", "Monte Carlo")


def storages(reservoir: WaterReservoir) -> Any:
    """Return the nodes 0, 1, ... of the storage, up to what inflow hardly ever exceeds."""
    return jnp.arange(0.0, LARGEST + 2, 1.0, dtype=reservoir.starts.dtype)


def releases(reservoir: WaterReservoir, step: float) -> Any:
    """Return releases at equal distances, shape (releases, 1)."""
    return jnp.arange(0.0, LARGEST + 2, step, dtype=reservoir.starts.dtype)[:, None]


def _table_environment(reservoir: WaterReservoir, weights: Any, actions: Any) -> Afterstates:
    nodes = jnp.linspace(0.0, reservoir.capacity, 34, dtype=reservoir.starts.dtype)
    return Afterstates(Scalarized(reservoir, weights), (nodes,), actions)


class Contender(NamedTuple):
    """An agent, and how long it learns.

    Attributes:
        train: (reservoir, weights of the objectives, key, updates) -> policy, mean rewards of the updates
        updates: how many it gets.
        fractions: whether its policy says fractions of the possible release.
        random: whether its training draws numbers.
    """

    train: Callable[..., Any]
    updates: int
    fractions: bool = False
    random: bool = True


def _plan(reservoir: WaterReservoir, weights: Any, key: Any, updates: int) -> Any:
    """Return the stationary policy of dynamic programming, which looks one step ahead with the values it found."""
    axis = storages(reservoir)
    problem = FiniteProblem.tabulate(reservoir, (axis,), releases(reservoir, 1.0), count=81)
    plan = policy_iteration(problem.scalarized(weights), DISCOUNT)
    chosen = releases(reservoir, 1.0)[plan.policy]

    return GridPolicy((axis,), chosen), jnp.zeros(1)


def _table(agent: Any, length: int) -> Callable[..., Any]:
    """Return the training of a table in short episodes that begin with any storage, and with any release."""

    def train(reservoir: WaterReservoir, weights: Any, key: Any, updates: int) -> Any:
        dtype = reservoir.starts.dtype
        anywhere = reservoir.replace(starts=jnp.linspace(0.0, LARGEST, 361, dtype=dtype), length=length)
        coarse = jnp.concatenate([jnp.arange(0.0, 80.0, 5.0, dtype), jnp.arange(80.0, LARGEST + 1, 20.0, dtype)])
        environment = _table_environment(anywhere, weights, coarse[:, None])
        state, rewards = agent.train(environment, agent.init(environment, key), updates)
        # acts more finely than it learned
        return agent.policy(_table_environment(reservoir, weights, releases(reservoir, 1.0)), state), rewards

    return train


def _network(agent: Any, start: Callable[..., Any]) -> Callable[..., Any]:
    def train(reservoir: WaterReservoir, weights: Any, key: Any, updates: int) -> Any:
        environment = Scalarized(reservoir, weights)
        first, own = jax.random.split(key)
        state, rewards = agent.train(environment, agent.init(environment, own, start(environment, first)), updates)
        return agent.policy(environment, state), rewards

    return train


def _policy_start(environment: Any, key: Any) -> Any:
    return policy_for(environment, key, units=UNITS, first=jnp.asarray([0.7]), squashed=True)


def _both_start(environment: Any, key: Any) -> Any:
    """Return networks that begin with the rule that releases the demand, and explore by half a unit.

    Around the demand every deviation costs something, so that with more of it a policy does better to release all there
    is, where it has no effect.
    """
    demand = jnp.asarray([environment.environment.demand])
    return actor_critic(environment, key, units=UNITS, discount=0.9, std=0.005, first=demand)


def _adam(rate: float, updates: int) -> Any:
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(rate, updates)))


def _parts(trainable: Any) -> Any:
    """Return which optimizer each leaf of an `ActorCritic` gets."""
    policy = jax.tree.map(lambda _: "held", trainable.policy)
    network = jax.tree.map(lambda _: "policy", trainable.policy.network)
    value, scale = jax.tree.map(lambda _: "value", (trainable.value, trainable.scale))
    return trainable.replace(policy=policy.replace(network=network), value=value, scale=scale)


def _actor_slower(rate: float, steps: int) -> Any:
    """Return an optimizer that begins with the value, and holds the standard deviation."""
    warm = optax.warmup_cosine_decay_schedule(0.0, rate, steps // 7, steps)
    actor = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(warm))
    return optax.partition({"policy": actor, "value": _adam(1e-2, steps), "held": optax.set_to_zero()}, _parts)


_LEARNING: dict[str, Any] = {"environments": 256, "averaging": 3.0, "exploring_starts": True}
_RETURNS: dict[str, Any] = {"exploration": 0.0, "power": 0.8, "averaging": 3.0, "exploring_starts": True}
AGENTS = {
    "policy iteration": Contender(_plan, 1, random=False),
    "Q-learning": Contender(_table(QLearning(discount=0.9, exploration=0.3, power=0.6, **_LEARNING), 20), 600),
    "SARSA": Contender(_table(SARSA(discount=0.9, exploration=0.5, halving=10.0, power=0.7, **_LEARNING), 10), 1200),
    "Monte Carlo": Contender(
        _table(MonteCarlo(environments=256, discount=0.9, window=8, common=64, **_RETURNS), 8), 800
    ),
    "policy gradient": Contender(
        _network(PolicyGradient(64, 16, 0.9, 0.95, optimizer=_actor_slower(5e-3, 500), common=8), _both_start), 500
    ),
    "PPO": Contender(
        _network(PPO(64, 16, 0.9, 0.95, epochs=3, optimizer=_actor_slower(5e-3, 600 * 12), common=8), _both_start), 600
    ),
    "pathwise gradient": Contender(
        _network(Pathwise(32, 20, 0.9, optimizer=_adam(4e-2, 350)), _policy_start), 350, True
    ),
}
