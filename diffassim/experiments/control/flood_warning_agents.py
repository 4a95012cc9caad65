"""What learns to warn in the twin: each agent with its effort, from outcomes alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from diffassim.decisions import Afterstates
from diffassim.decisions.problems import FloodWarning
from diffassim.experiments.control.flood_warning_twin import AllOrNone
from diffassim.training.reinforcement import PPO, Pathwise, QLearning, actor_critic, policy_for

__all__ = ["AGENTS", "Contender", "trained"]

UNITS = (16, 16)
NODES = 41  # of the forecast in a table
BROAD = 1.5  # factor of the variability of first forecasts while learning, so that floods are not rare


class Contender(NamedTuple):
    """An agent, and how long it learns.

    Attributes:
        train: (environment, key, updates) -> policy, mean rewards of the updates.
        updates: how many it gets.
    """

    train: Callable[..., Any]
    updates: int


def _told_outcomes(environment: FloodWarning, shares: bool) -> FloodWarning:
    """Return the environment in which an agent learns: what a warning costs is seen afterwards."""
    costs = environment.costs.replace(shares=shares)
    return environment.replace(costs=costs, outcomes=True, variability=BROAD * environment.variability)


def _table(environment: FloodWarning, key: Any, updates: int) -> Any:
    world = _told_outcomes(environment, shares=True)
    widest, dtype = environment.spreads[-1], environment.spreads.dtype
    forecasts = environment.threshold + widest * jnp.linspace(-5, 3, NODES, dtype=dtype)
    leads = jnp.arange(max(environment.leads, 2), dtype=dtype)
    both = jnp.asarray([0.0, 1.0], dtype)
    cells = Afterstates(world, (forecasts, leads, both), both[:, None])
    agent = QLearning(environments=512, exploration=0.5, power=0.75, averaging=3.0, exploring_starts=True)
    state, rewards = agent.train(cells, agent.init(cells, key), updates)
    return AllOrNone(agent.policy(cells, state)), rewards


def _network(agent: Any, environment: FloodWarning, key: Any, updates: int) -> Any:
    world = _told_outcomes(environment, shares=False)
    first, own = jax.random.split(key)
    start = actor_critic(world, first, units=UNITS, discount=1.0)
    state, rewards = agent.train(world, agent.init(world, own, start), updates)
    return AllOrNone(agent.policy(world, state)), rewards


def _pathwise(agent: Pathwise, environment: FloodWarning, key: Any, updates: int) -> Any:
    world = _told_outcomes(environment, shares=True)
    first, own = jax.random.split(key)
    start = policy_for(world, first, units=UNITS, squashed=True)
    state, rewards = agent.train(world, agent.init(world, own, start), updates)
    return AllOrNone(agent.policy(world, state)), rewards


def _adam(rate: float, updates: int) -> Any:
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(rate, updates)))


AGENTS = {
    "Q-learning": Contender(_table, 1500),
    "PPO": Contender(partial(_network, PPO(512, 6, 1.0, 1.0, epochs=3, optimizer=_adam(5e-3, 150 * 12))), 150),
    "pathwise gradient": Contender(partial(_pathwise, Pathwise(512, optimizer=_adam(1e-2, 600))), 600),
}


@partial(jax.jit, static_argnums=(0, 3))
def trained(name: str, environments: FloodWarning, keys: Any, updates: int) -> tuple[Any, Any]:
    """Train an agent for each of several costs at once.

    Args:
        name: one of `AGENTS`.
        environments: whose leaves have a leading axis, of shape (costs, ...).
        keys: random keys, shape (costs,).
        updates: of the agent.

    Returns:
        Policies, and mean rewards, shape (costs, updates).
    """
    return jax.vmap(lambda environment, key: AGENTS[name].train(environment, key, updates))(environments, keys)
