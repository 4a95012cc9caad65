"""Sensors placed one after the other, as a table: for agents that learn the whole sequence."""

from __future__ import annotations

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.core.checks import count_of
from diffassim.core.errors import ConfigurationError
from diffassim.decisions.finite import FiniteProblem

__all__ = ["MOST", "placed", "sensor_placement", "sets_before"]

MOST = 2000  # states of a table, whose transitions are dense


def sensor_placement(prospects: Any, count: int) -> FiniteProblem:
    """Return the problem of placing so many sensors where they take away most of a variance.

    States are the sets chosen so far, beginning with none; an action is the number of a candidate, and its reward what
    it takes away of the share of the variance that is left. So the return of an episode is the share that all sensors
    take away. A candidate that is taken already, or impossible, ends the episode with nothing.

    Args:
        prospects: `diagnostics.Prospects` of the candidates.
        count: number of sensors.

    Raises:
        ConfigurationError: if there are more sensors than candidates, or too many sets for a table.

    Example:
        >>> import diffassim as da
        >>> prior = da.gaussian.Gaussian(jnp.zeros(3), jnp.diag(jnp.array([1.0, 3.0, 2.0])))
        >>> found = da.diagnostics.Prospects.of(prior, lambda x: x, da.covariances.Diagonal(std=1.0))
        >>> problem = sensor_placement(found, 2)
        >>> problem.transitions.shape
        (3, 4, 4)
        >>> print(problem.rewards[0].round(3))  # 0.5 / 14, 8.1 / 14, 3.2 / 14
        [0.036 0.579 0.229]
    """
    count = count_of("sensor_placement: count", count, least=1)
    size = prospects.possible.size
    if count > int(np.sum(np.asarray(prospects.possible))):
        raise ConfigurationError(f"sensor_placement: {count} sensors for {int(np.sum(prospects.possible))} candidates")
    number = sets_before(size, count)
    if number > MOST:
        raise ConfigurationError(
            f"sensor_placement: {number} sets of up to {count - 1} of {size} candidates are too many for a table (at "
            f"most {MOST}); see diagnostics.place_sensors"
        )
    sets = [chosen for k in range(count) for chosen in itertools.combinations(range(size), k)]
    index = {chosen: k for k, chosen in enumerate(sets)}
    P, rewards = np.zeros((size, number, number)), np.zeros((number, size))
    total, possible = float(prospects.total), np.asarray(prospects.possible)
    start = 0
    for k in range(count):
        own = [chosen for chosen in sets if len(chosen) == k]
        rows = np.asarray(_gains(prospects, jnp.asarray(own, jnp.int32).reshape(len(own), k))) / total
        rewards[start : start + len(own)] = rows
        start += len(own)
    for chosen, row in index.items():
        taken = np.isin(np.arange(size), chosen) | ~possible
        rewards[row, taken] = 0
        for j in np.flatnonzero(~taken):
            following = index.get(tuple(sorted((*chosen, int(j)))))
            if following is not None:
                P[j, row, following] = 1
    first = np.zeros(number)
    first[0] = 1
    dtype = prospects.weight.dtype
    return FiniteProblem(jnp.asarray(P, dtype), jnp.asarray(rewards, dtype), jnp.asarray(first, dtype))


def sets_before(size: int, count: int) -> int:
    """Return how many sets of candidates the last of so many sensors may find: the states of the problem.

    Example:
        >>> sets_before(3, 2)  # none, and each alone
        4
    """
    return sum(math.comb(size, k) for k in range(count))


def placed(problem: FiniteProblem, policy: Any, count: int) -> np.ndarray:
    """Return the candidates that a policy chooses, shape (count,).

    Args:
        problem: from `sensor_placement`.
        policy: (observation, key) -> number of a candidate.
        count: number of sensors.

    Example:
        >>> import diffassim as da
        >>> prior = da.gaussian.Gaussian(jnp.zeros(3), jnp.diag(jnp.array([1.0, 3.0, 2.0])))
        >>> found = da.diagnostics.Prospects.of(prior, lambda x: x, da.covariances.Diagonal(std=1.0))
        >>> problem = sensor_placement(found, 2)
        >>> placed(problem, lambda state, key: jnp.argmax(problem.rewards[state]), 2).tolist()
        [1, 2]
    """
    state, chosen = jnp.zeros((), jnp.int32), []
    for _ in range(count):
        action = policy(state, None)
        chosen.append(int(action))
        state = jnp.argmax(problem.transitions[action, state]).astype(jnp.int32)
    return np.array(chosen, np.int32)


@jax.jit
def _gains(prospects: Any, sets: Any) -> Any:
    if sets.shape[1] == 0:
        return prospects.gains()[None]
    return jax.lax.map(lambda chosen: prospects.gains(prospects.covariance(chosen)), sets, batch_size=64)
