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
UNITS = (32, 32)
LARGEST = 180.0  # storage that hardly any inflow exceeds: the capacity, and four standard deviations above the mean
EXACT = ("policy iteration", "Q-learning", "SARSA", "Monte Carlo")  # in the limit of many samples and fine tables


def storages(reservoir: WaterReservoir) -> Any:
    """Return the nodes 0, 1, ... of the storage, up to what inflow hardly ever exceeds."""
    return jnp.arange(0.0, LARGEST + 2, 1.0, dtype=reservoir.starts.dtype)


def releases(reservoir: WaterReservoir, step: float) -> Any:
    """Return releases at equal distances, shape (releases, 1)."""
    return jnp.arange(0.0, LARGEST + 2, step, dtype=reservoir.starts.dtype)[:, None]


def _afterstates(environment: Any, reservoir: WaterReservoir, step: float) -> Afterstates:
    nodes = jnp.linspace(0.0, reservoir.capacity, 51, dtype=reservoir.starts.dtype)
    return Afterstates(environment, (nodes,), releases(reservoir, step))


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


def _table(agent: Any) -> Callable[..., Any]:
    def train(reservoir: WaterReservoir, weights: Any, key: Any, updates: int) -> Any:
        weighted = Scalarized(reservoir, weights)
        environment = _afterstates(weighted, reservoir, 5.0)
        state, rewards = agent.train(environment, agent.init(environment, key), updates)
        return agent.policy(_afterstates(weighted, reservoir, 1.0), state), rewards  # acts more finely than it learned

    return train


def _network(agent: Any, start: Callable[..., Any]) -> Callable[..., Any]:
    def train(reservoir: WaterReservoir, weights: Any, key: Any, updates: int) -> Any:
        environment = Scalarized(reservoir, weights)
        first, own = jax.random.split(key)
        state, rewards = agent.train(environment, agent.init(environment, own, start(environment, first)), updates)
        return agent.policy(environment, state), rewards

    return train


def _policy_start(environment: Any, key: Any) -> Any:
    return policy_for(environment, key, units=UNITS)


def _both_start(environment: Any, key: Any) -> Any:
    return actor_critic(environment, key, units=UNITS, discount=0.9)


def _adam(rate: float, updates: int) -> Any:
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(rate, updates)))


_LEARNING: dict[str, Any] = {"environments": 256, "discount": 0.95, "power": 0.7}
AGENTS = {
    "policy iteration": Contender(_plan, 1, random=False),
    "Q-learning": Contender(_table(QLearning(exploration=0.3, **_LEARNING)), 1500),
    "SARSA": Contender(_table(SARSA(exploration=0.5, halving=30.0, **_LEARNING)), 1500),
    "Monte Carlo": Contender(_table(MonteCarlo(256, 0.9, 0.5, 3.0, 0.7, tail=40)), 20),
    "policy gradient": Contender(
        _network(PolicyGradient(64, 16, 0.9, 0.9, optimizer=_adam(5e-3, 1500)), _both_start), 1500, True
    ),
    "PPO": Contender(_network(PPO(64, 16, 0.9, 0.9, optimizer=_adam(3e-3, 600 * 16)), _both_start), 600, True),
    "pathwise gradient": Contender(_network(Pathwise(32, optimizer=_adam(1e-2, 200)), _policy_start), 200, True),
}  # fmt: skip
