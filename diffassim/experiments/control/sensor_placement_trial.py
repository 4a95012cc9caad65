"""Sensors chosen by every search, and what they do to the errors of analyses and forecasts."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.covariances import Diagonal
from diffassim.decisions.problems import placed, sensor_placement
from diffassim.diagnostics import Exchange, Exhaustive, Greedy, LaterState, Prospects, Relaxation
from diffassim.ensemble import ETKF
from diffassim.experiments.control.sensor_placement_worlds import World
from diffassim.observations import Observations, Subset
from diffassim.training.reinforcement import QLearning

__all__ = ["REFERENCES", "SEARCHES", "chosen_by", "errors_left", "prospects_of", "spread_out"]

UPDATES = 400  # of the agent with a table
REFERENCES = ("random", "spread out")
SPREAD_OUT = 20  # sets of equally distant places, of which that many count


def prospects_of(world: World, lead: int) -> Prospects:
    """Return the candidates' prospects for the state that many units of lead ahead."""
    goal = LaterState(world.model, lead * world.interval)
    return Prospects.of(world.members, Subset(jnp.asarray(world.candidates)), Diagonal(std=world.std), goal=goal)


def _agent(prospects: Prospects, count: int, key: Any) -> np.ndarray:
    """Return what an agent chooses that has tried sequences of places, without being told how variances combine."""
    problem = sensor_placement(prospects, count)
    agent = QLearning(environments=256, exploration=1.0, power=0.0)
    state, _ = agent.train(problem, agent.init(problem, key), UPDATES)
    return placed(problem, agent.policy(problem, state), count)


def _search(method: Any) -> Callable[[Prospects, int, Any], Any]:
    return lambda prospects, count, key: method.search(prospects, count)[0]


SEARCHES: dict[str, Callable[[Prospects, int, Any], Any]] = {
    "best": _search(Exhaustive()),
    "greedy": _search(Greedy()),
    "exchange": _search(Exchange()),
    "gradient": _search(Relaxation()),
    "Q-learning": _agent,
}


def chosen_by(prospects: Prospects, count: int, key: Any) -> np.ndarray:
    """Return the candidates that every search chooses, shape (searches, count)."""
    return np.stack([np.asarray(search(prospects, count, key)) for search in SEARCHES.values()]).astype(np.int32)


def spread_out(world: World, count: int, seed: int, trials: int) -> tuple[np.ndarray, np.ndarray]:
    """Return sets at random, and sets whose smallest distance is largest; shapes (trials, count), (up to 20, count)."""
    draws = np.random.default_rng(seed)
    size = len(world.candidates)
    random = np.stack([draws.choice(size, count, replace=False) for _ in range(trials)])
    if count == 1:
        return random, np.arange(size)[:, None]
    sets = np.array(list(itertools.combinations(range(size), count)))
    pairs = np.array(list(itertools.combinations(range(count), 2)))
    least = world.distance[sets[:, pairs[:, 0]], sets[:, pairs[:, 1]]].min(axis=1)
    best = np.flatnonzero(least >= least.max() - 1e-9)
    return random, sets[draws.permutation(best)[:SPREAD_OUT]]


@jax.jit
def _left(members: Any, truths: Any, places: Any, noise: Any, std: Any, method: Any, goals: Any) -> Any:
    """Return mean squared errors of the goals, after the analyses of one set of places."""

    def one(truth: Any, noise: Any) -> Any:
        y = truth[places] + std * noise
        seen = Observations(y[None], jnp.zeros(1, jnp.int32), operator=Subset(places), error=Diagonal(std=std))
        mean = jnp.mean(method.analyze(None, members, seen)[0], axis=0)
        return jnp.stack([jnp.sum(jnp.square(goal(mean) - goal(truth))) for goal in goals])

    return jnp.mean(jax.vmap(one)(truths, noise), axis=0)


@jax.jit
def _before(members: Any, truths: Any, goals: Any) -> Any:
    mean = jnp.mean(members, axis=0)

    def one(truth: Any) -> Any:
        return jnp.stack([jnp.sum(jnp.square(goal(mean) - goal(truth))) for goal in goals])

    return jnp.mean(jax.vmap(one)(truths), axis=0)


def errors_left(world: World, sets: np.ndarray, leads: tuple[int, ...], key: Any) -> np.ndarray:
    """Return the share of the mean squared error that analyses leave, shape (sets, leads).

    Every truth is observed at the places of a set, with the same noise for all sets, and assimilated by an ETKF.

    Args:
        world: with members and truths.
        sets: of candidates, shape (sets, count).
        leads: of the forecasts from the analyses, in units.
        key: random key of the noise.
    """
    goals = tuple(LaterState(world.model, lead * world.interval) for lead in leads)
    noise = jax.random.normal(key, (world.truths.shape[0], sets.shape[1]), world.truths.dtype)
    std = jnp.asarray(world.std, world.truths.dtype)
    places = jnp.asarray(world.candidates)[jnp.asarray(sets)].astype(jnp.int32)
    found = [_left(world.members, world.truths, each, noise, std, ETKF(), goals) for each in places]
    return np.asarray(jnp.stack(found) / _before(world.members, world.truths, goals)[None])
