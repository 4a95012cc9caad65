"""Dynamic programming for a lake: with the year known in advance, and with laws of inflow and demand."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffassim.core.pytree import Pytree
from diffassim.decisions import Basin, Lake
from diffassim.decisions.problems.lake import MEMORY, SEEN, day_of, day_weight
from diffassim.experiments.control.reservoir_outlook import Outlook

__all__ = ["LookAhead", "Plan", "foresight", "plan"]

# Nodes of a plan: anomalies of inflow, those of demand in standard deviations, shares of the largest release
ANOMALIES = np.concatenate([np.linspace(-3, 3, 19), [3.5, 4.0, 5.0]])
DEMANDS = np.linspace(-3.0, 3.5, 7)
COARSE = np.concatenate([np.linspace(0, 0.6, 25), np.linspace(0.66, 1, 7)])
FINE = np.concatenate([np.linspace(0, 0.6, 61), np.linspace(0.625, 1, 16)])
FLOWS = 70  # nodes of inflow in the table of a day, at equal distances of the logarithm
RANGE = (0.02, 30.0)  # of these, in mean inflows


class Plan(Pytree):
    """What the rest of the year brings, from every state in the morning of the next day.

    Args:
        levels: nodes, m.
        anomalies: nodes of the inflow's anomaly.
        demands: nodes of the demand's anomaly.
        values: shape (days, levels, anomalies or 1, demands); those of day t are for the morning after it.
    """

    levels: Any
    anomalies: Any
    demands: Any
    values: Any


def level_nodes(basin: Basin) -> np.ndarray:
    """Return nodes of the level, denser where flood and drought begin."""
    low, high = float(basin.floor), float(basin.flood)
    return np.concatenate([
        np.linspace(low - 0.05, low + 0.1, 9), np.linspace(low + 0.13, high - 0.14, 42),
        np.linspace(high - 0.12, high + 0.05, 18), np.linspace(high + 0.08, high + 1.56, 16),
    ])  # fmt: skip


def foresight(lake: Lake) -> tuple[Any, Any, Any]:
    """Return rewards, levels and releases of every year under the best releases for one who knows the year in advance.

    The values are interpolated between levels, the releases taken among nodes; what is returned has happened in the
    lake as it is.

    Returns:
        Rewards of the days, levels at their ends and mean releases, each of shape (years, days).
    """
    return _foresight(lake, jnp.asarray(level_nodes(lake.basin), lake.inflow.dtype))


@jax.jit
def _foresight(lake: Lake, levels: Any) -> Any:
    days, dtype = lake.horizon, lake.inflow.dtype
    coarse, fine = (jnp.asarray(shares, dtype) * lake.basin.largest for shares in (COARSE, FINE))
    every = jnp.arange(days)

    def options(level: Any, releases: Any, row: Any, values: Any) -> Any:
        inflow, demand, day = row
        after, release = lake.basin.day(level, inflow, releases)
        reward = -lake.basin.cost(after, release, demand, day_weight(day, days, dtype))
        return reward + jnp.interp(after, levels, values), reward, after, release

    def one(rows: Any) -> Any:
        def back(values: Any, row: Any) -> Any:
            return jnp.max(options(levels[:, None], coarse[None], row, values)[0], axis=1), values

        def go(level: Any, row: Any) -> Any:
            total, reward, after, release = options(level, fine, row[:3], row[3])
            best = jnp.argmax(total)
            return after[best], (reward[best], after[best], release[best])

        _, values = lax.scan(back, jnp.zeros_like(levels), (*rows, every), reverse=True)
        return lax.scan(go, lake.basin.start, (*rows, every, values))[1]

    return lax.map(one, (lake.inflow, lake.demand))


def plan(outlook: Outlook, basin: Basin, days: int) -> Plan:
    r"""Return the values of a plan, by stochastic dynamic programming from the last day back.

    .. math:: V_t(h, x, z) = \max_a E\bigl[-c(h', r, d) + V_{t+1}(h', x', z')\bigr]

    with the law of planning for the day's inflow x' and demand, where x is the inflow of the day before (if it is seen)
    and z averaged demand, or that of the day before.

    Args:
        outlook: fitted laws.
        basin: the lake.
        days: of a year.
    """
    dtype = outlook.center.dtype
    basin = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), basin)
    levels, anomalies = (jnp.asarray(nodes, dtype) for nodes in (level_nodes(basin), ANOMALIES))
    demands = jnp.asarray(DEMANDS, dtype) * outlook.width
    return Plan(levels, anomalies, demands, _values(outlook, basin, levels, anomalies, demands, days))


def _between(nodes: Any, x: Any) -> tuple[Any, Any]:
    """Return the node to the left and how far x lies on the way to the next one; beyond the ends those of the ends."""
    left = jnp.clip(jnp.searchsorted(nodes, x, side="right", method="compare_all") - 1, 0, nodes.shape[0] - 2)
    return left, jnp.clip((x - nodes[left]) / (nodes[left + 1] - nodes[left]), 0, 1)


def _mixed(values: Any, left: Any, part: Any) -> Any:
    return values[left] * (1 - part) + values[left + 1] * part


def _spread_over(nodes: Any, x: Any) -> Any:
    """Return the probabilities of the nodes that stand for equally likely numbers on the last axis."""
    left, part = _between(nodes, x)
    hats = partial(jax.nn.one_hot, num_classes=nodes.shape[0], dtype=x.dtype)
    return jnp.mean(hats(left) * (1 - part)[..., None] + hats(left + 1) * part[..., None], axis=-2)


def _cubic_over(nodes: Any, x: Any) -> Any:
    """Return weights of the nodes, at equal distances, for the mean over the last axis of cubic interpolations.

    Linear ones would spread a state that hardly changes from day to day over the year.
    """
    step = nodes[1] - nodes[0]
    place = jnp.clip((x - nodes[0]) / step, 0, nodes.shape[0] - 1)
    left = jnp.clip(jnp.floor(place).astype(jnp.int32), 1, nodes.shape[0] - 3)
    s = place - left.astype(x.dtype)
    weights = (
        -s * (s - 1) * (s - 2) / 6, (s + 1) * (s - 1) * (s - 2) / 2, -(s + 1) * s * (s - 2) / 2,
        (s + 1) * s * (s - 1) / 6,
    )  # fmt: skip
    hats = partial(jax.nn.one_hot, num_classes=nodes.shape[0], dtype=x.dtype)
    return jnp.mean(sum(hats(left + k - 1) * weight[..., None] for k, weight in enumerate(weights)), axis=-2)


def _demand(outlook: Outlook, law: Any, day: Any, told: Any, anomalies: Any) -> tuple[Any, Any]:
    """Return anomalies of the day's demand and the demand, m3/s, shape (anomalies of inflow, errors)."""
    z = told + law.slope[day] * anomalies[:, None] + law.demand_spread[day] * law.demand_errors[None]
    return z, jnp.maximum(jnp.exp(outlook.demand_center[day] + z) - outlook.small[1], 0)


def _next_demand(outlook: Outlook, day: Any, z: Any, demand: Any, average: Any) -> Any:
    """Return the part of tomorrow's state that stands for demand."""
    if outlook.remembers:
        return z
    tomorrow = jnp.minimum(day + 1, outlook.demand_center.shape[0] - 1)
    following = MEMORY * average + (1 - MEMORY) * demand
    return jnp.log(following + outlook.small[1]) - outlook.demand_center[tomorrow]


def _inflow(outlook: Outlook, day: Any, anomalies: Any) -> Any:
    return jnp.maximum(jnp.exp(outlook.center[day] + outlook.scale[day] * anomalies) - outlook.small[0], 0)


@partial(jax.jit, static_argnums=5)
def _values(outlook: Outlook, basin: Basin, levels: Any, anomalies: Any, demands: Any, days: int) -> Any:
    dtype, law, knows = levels.dtype, outlook.planning, outlook.knows_inflow
    releases = jnp.asarray(COARSE, dtype) * basin.largest
    low, high = map(float, np.log(RANGE))
    flows = jnp.log(outlook.typical) + jnp.linspace(low, high, FLOWS, dtype=dtype)
    table = basin.day(levels[:, None, None], jnp.exp(flows)[None, :, None], releases[None, None])
    seen = anomalies if knows else jnp.zeros(1, dtype)

    def back(values: Any, day: Any) -> Any:
        of_inflow, of_demand = law.inflow[day], law.demand[day]
        mean = of_inflow[0] + of_inflow[-1] * demands[None] + (of_inflow[1] if knows else 0) * seen[:, None]
        spread = jnp.exp(law.log_sigma(day, mean))
        chance = _spread_over(anomalies, mean[..., None] + spread[..., None] * law.errors[None, None])
        left, part = _between(flows, jnp.log(jnp.maximum(_inflow(outlook, day, anomalies), jnp.exp(flows[0]))))
        after, release = (t[:, left] * (1 - part)[None, :, None] + t[:, left + 1] * part[None, :, None] for t in table)
        fixed = basin.cost(after, release, jnp.zeros((), dtype), jnp.zeros((), dtype))  # (levels, anomalies, releases)
        served = jnp.maximum(release - basin.ecological, 0)
        weight = basin.deficit_cost * day_weight(day, days, dtype)
        below, way = _between(levels, after)
        ahead = jnp.broadcast_to(values, (levels.shape[0], anomalies.shape[0], demands.shape[0]))
        average = jnp.maximum(jnp.exp(demands + outlook.demand_center[day]) - outlook.small[1], 0)
        gather = jax.vmap(_mixed, (0, 1, 1), 1)

        def given(z: Any, average: Any) -> Any:
            """Return what a day and the rest of the year bring for one state of the demand."""
            told = of_demand[0] + of_demand[1] * z
            anomaly, demand = _demand(outlook, law, day, told, anomalies)
            hats = _cubic_over(demands, _next_demand(outlook, day, anomaly, demand, average))
            later = gather(jnp.einsum("hxd,xd->xh", ahead, hats), below, way)
            missing = sum(jnp.maximum(demand[None, :, k, None] - served, 0) for k in range(demand.shape[1]))
            return later - fixed - weight / demand.shape[1] * missing

        total = jax.vmap(given)(demands, average)  # (demands, levels, anomalies, releases)
        return jnp.max(jnp.einsum("sdx,dhxa->hsda", chance, total), axis=-1), values

    end = jnp.zeros((levels.shape[0], seen.shape[0], demands.shape[0]), dtype)
    return lax.scan(back, end, jnp.arange(days), reverse=True)[1]


class LookAhead(Pytree):
    """The policy that weighs every release by its day, under the law of acting, and by the plan for what follows.

    Args:
        outlook: fitted laws.
        plan: `Plan`.
        basin: the lake.

    Source: rollout with an approximate value function; Bertsekas (2017), section 6.4.
    """

    outlook: Outlook
    plan: Plan
    basin: Basin

    def __call__(self, observation: Any, key: Any = None) -> Any:
        """Return the best release among nodes, shape (1,); nothing is drawn."""
        outlook, plan = self.outlook, self.plan
        dtype, days = plan.values.dtype, plan.values.shape[0]
        seen = observation.astype(dtype)
        day, basin = day_of(observation, days), jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), self.basin)
        mean, spread, told = seen[SEEN], seen[SEEN + 1], seen[SEEN + 2]
        law, anomalies = outlook.acting, plan.anomalies
        releases = jnp.asarray(FINE, dtype) * basin.largest
        chance = _spread_over(anomalies, mean + spread * law.errors)
        after, release = basin.day(seen[0], _inflow(outlook, day, anomalies)[:, None], releases[None])
        average = seen[3] + MEMORY ** day.astype(dtype) * outlook.first
        anomaly, demand = _demand(outlook, law, day, told, anomalies)
        hats = _cubic_over(plan.demands, _next_demand(outlook, day, anomaly, demand, average))
        values = plan.values[day]
        ahead = jnp.broadcast_to(values, (values.shape[0], *hats.shape))
        mixed = jnp.einsum("hxd,xd->xh", ahead, hats)
        below, way = _between(plan.levels, after)
        later = jax.vmap(_mixed)(mixed, below, way)
        fixed = basin.cost(after, release, jnp.zeros((), dtype), jnp.zeros((), dtype))
        served = jnp.maximum(release - basin.ecological, 0)
        missing = jnp.mean(jnp.maximum(demand[:, :, None] - served[:, None], 0), axis=1)
        weight = basin.deficit_cost * day_weight(day, days, dtype)
        total = chance @ (later - fixed - weight * missing)
        return releases[jnp.argmax(total)][None].astype(observation.dtype)
