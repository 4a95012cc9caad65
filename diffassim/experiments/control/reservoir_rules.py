"""Rule curves: a seasonal target of the level, hedging below it, more release above; fitted without gradients."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffassim.core.pytree import Pytree, static
from diffassim.decisions import Basin, Lake
from diffassim.decisions.problems.lake import MEMORY, SEEN, day_of

__all__ = ["RuleCurve", "fit_rule", "simulate"]

SECONDS_PER_DAY = 86400.0
# Target level: mean and two harmonics, m; factor of the demand; hedging, 1/m; gain, largest releases per m
LOWEST = (-0.4, -0.6, -0.6, -0.4, -0.4, 0.5, 0.0, 0.0)
HIGHEST = (1.3, 0.6, 0.6, 0.4, 0.4, 2.0, 4.0, 10.0)
# What an informed rule adds to the level: days of inflow, and meters per anomaly of the days 2 to 4
MORE_LOWEST, MORE_HIGHEST = (0.0, -0.5), (3.0, 0.5)
POPULATION = 10  # candidates of a generation for each number


class RuleCurve(Pytree):
    r"""Release the demand and the ecological flow; less below a target level, more above it.

    .. math:: a = \begin{cases} (f d + e) \max(1 - g (h^* - h), 0) & h < h^* \\
        f d + e + k (h - h^*) & \text{else} \end{cases}

    with \(h^*\) of two harmonics of the year. Demand d is the average that is seen, begun with the mean of first days;
    an informed rule takes what is expected of the day, and adds to the level h what the inflow of the day and the days
    after it are expected to add.

    Args:
        numbers: five of the target, f, g and k (in largest releases per m), and two more of an informed rule.
        first: demand of a first day in the mean, m3/s.
        basin: the lake.
        days: of a year (static).
        informed: whether there are features (static).
    """

    numbers: Any
    first: Any
    basin: Basin
    days: int = static(default=365)
    informed: bool = static(default=False)

    def __call__(self, observation: Any, key: Any = None) -> Any:
        """Return the release, shape (1,)."""
        dtype = observation.dtype
        n = self.numbers.astype(dtype)
        basin = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), self.basin)
        level, sine, cosine, average = observation[:SEEN]
        target = n[0] + n[1] * cosine + n[2] * sine + n[3] * (2 * cosine**2 - 1) + n[4] * 2 * sine * cosine
        if self.informed:
            demand = observation[SEEN + 6]
            level = level + n[8] * observation[SEEN + 5] * SECONDS_PER_DAY / basin.area + n[9] * observation[SEEN + 3]
        else:
            demand = average + MEMORY ** day_of(observation, self.days).astype(dtype) * self.first.astype(dtype)
        wanted = n[5] * demand + basin.ecological
        kept = wanted * jnp.maximum(1 - n[6] * jnp.maximum(target - level, 0), 0)
        release = kept + n[7] * basin.largest * jnp.maximum(level - target, 0)
        return jnp.clip(release, 0, basin.largest)[None]


@jax.jit
def simulate(lake: Lake, policy: Any) -> tuple[Any, Any, Any]:
    """Return what a policy does in every year of a lake.

    Returns:
        Rewards of the days, levels at their ends and mean releases, each of shape (years, days).
    """

    def one(year: Any) -> Any:
        def day(carry: Any, _: Any) -> Any:
            state, seen = carry
            found = lake.respond(state, policy(seen, None), None)
            stored = (found.state.level - state.level) * lake.basin.area / SECONDS_PER_DAY
            release = lake.inflow[state.year, state.day] - stored
            return (found.state, found.observation), (found.reward, found.state.level, release)

        return lax.scan(day, lake.year_start(year), length=lake.horizon)[1]

    return jax.vmap(one)(jnp.arange(lake.inflow.shape[0]))


def fit_rule(lake: Lake, rule: RuleCurve, seed: int, generations: int, near: Any = None) -> RuleCurve:
    """Return the rule whose mean return over the years, weighted by their chances, is largest.

    By differential evolution over all rules, and once more around the best of them: thousands of whole rules are tried
    in the lake as it is, jumps of the costs included.

    Args:
        lake: `Lake`.
        rule: any of its kind.
        seed: of the search.
        generations: of it.
        near: numbers to begin with.
    """
    from scipy.optimize import differential_evolution

    lowest, highest = (
        (*a, *b) if rule.informed else a for a, b in ((LOWEST, MORE_LOWEST), (HIGHEST, MORE_HIGHEST))
    )  # fmt: skip
    count, dtype = len(lowest) * POPULATION, lake.inflow.dtype

    def loss(candidates: np.ndarray) -> np.ndarray:
        columns = candidates.reshape(len(lowest), -1)
        filled = np.resize(columns.T, (count, len(lowest)))  # one shape, one compilation
        return np.asarray(_losses(lake, jnp.asarray(filled, dtype), rule), float)[: columns.shape[1]]

    bounds = list(zip(lowest, highest, strict=True))
    searched: dict[str, Any] = {
        "popsize": POPULATION, "maxiter": generations, "tol": 0, "polish": False, "vectorized": True,
        "updating": "deferred",
    }  # fmt: skip
    first = "latinhypercube" if near is None else _around(np.asarray(near, float), bounds, count, 0.1, seed)
    wide = differential_evolution(loss, bounds, init=first, rng=seed, **searched)
    again = _around(wide.x, bounds, count, 0.03, seed + 1)
    found = differential_evolution(loss, bounds, init=again, rng=seed + 1, **searched)
    return rule.replace(numbers=jnp.asarray(found.x, dtype))


def _around(near: np.ndarray, bounds: Any, count: int, width: float, seed: int) -> np.ndarray:
    """Return first candidates around given numbers, which are the first of them; what an informed rule adds is 0."""
    low, high = np.asarray(bounds).T
    start = np.concatenate([near, np.zeros(len(low) - len(near))])
    drawn = np.random.default_rng(seed).normal(start, width * (high - low), (count, len(low)))
    drawn[0] = start
    return np.clip(drawn, low, high)


@jax.jit
def _losses(lake: Lake, numbers: Any, rule: RuleCurve) -> Any:
    shares = lake.chances / jnp.sum(lake.chances)

    def one(own: Any) -> Any:
        return -jnp.sum(shares * jnp.sum(simulate(lake, rule.replace(numbers=own))[0], axis=1))

    return jax.vmap(one)(numbers)
