"""A reservoir with two objectives: the fronts of all agents beside that of dynamic programming."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from pydantic import Field, field_validator, model_validator

from diffassim.core.intervals import interval
from diffassim.decisions import FiniteProblem, WaterReservoir, expected_returns, hypervolume
from diffassim.experiments.control.water_reservoir_agents import AGENTS, EXACT, releases, storages
from diffassim.experiments.framework.base import Configuration, Experiment, Results, each_alone, score_rows
from diffassim.experiments.framework.twin import random_stream
from diffassim.plotting.water_reservoir import overview
from diffassim.training.reinforcement import backward_induction, planned_returns

__all__ = ["WaterReservoirConfiguration", "WaterReservoirFronts"]

WEIGHTS = (0.1, 0.2, 0.35, 0.45, 0.5, 0.55, 0.65, 0.8, 0.9)
CORNER = (-2.5, -11.0)  # reference point of the hypervolume
CURVE = 50  # points of a learning curve
# Mean rewards of dynamic programming on storages in steps of 1, for these weights
PUBLISHED = (
    (-2.35, -9.64), (-1.65, -9.76), (-1.33, -9.87), (-1.22, -9.94), (-1.18, -9.98), (-1.11, -10.06), (-1.03, -10.18),
    (-0.89, -10.56), (-0.83, -10.80),
)  # fmt: skip


class WaterReservoirConfiguration(Configuration):
    """Settings of the comparison.

    Args:
        seeds: independent trainings of every agent that learns.
        agents: which ones; default: all.
        weights: of the first objective (no flood); the second (the demand met) has the rest.
        effort: factor of the updates that every agent gets.
    """

    seeds: Annotated[int, Field(ge=1)] = 3
    agents: tuple[str, ...] = tuple(AGENTS)
    weights: tuple[Annotated[float, Field(ge=0, le=1)], ...] = WEIGHTS
    effort: Annotated[float, Field(gt=0)] = 1.0

    @field_validator("agents")
    @classmethod
    def _known(cls, agents: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in agents if name not in AGENTS]
        if unknown or not agents or len(set(agents)) < len(agents):
            found = repr(unknown[0]) if unknown else "none, or one twice"
            raise ValueError(f"found {found}; there are {', '.join(AGENTS)}")
        return agents

    @model_validator(mode="after")
    def _front(self) -> Self:
        if len(set(self.weights)) < max(2, len(self.weights)):
            raise ValueError("weights: at least two different ones make a front")
        return self

    def runs(self) -> list[tuple[str, int]]:
        """Return agent and seed of every chunk; what does not draw numbers runs once."""
        return [(name, k) for name in self.agents for k in range(self.seeds if AGENTS[name].random else 1)]


class WaterReservoirFronts(Experiment):
    """Train every agent for every weight of the two objectives, and compare with the exact optimum.

    The optimum of each weight comes from backward induction over the hundred steps. All policies are judged without
    noise, by their expected rewards on a grid of storages in steps of 1. Regret is what a policy's weighted reward lies
    below the optimum; the hypervolume is the area that a front dominates. Intervals are those of Student's t over the
    seeds.
    """

    name = "water-reservoir"
    summary = "A reservoir between floods and demand: fronts of learned policies beside that of dynamic programming."
    configuration = WaterReservoirConfiguration

    def chunks(self, config: WaterReservoirConfiguration) -> int:
        """Return one chunk for each agent and seed."""
        return len(config.runs())

    def chains(self, config: WaterReservoirConfiguration) -> tuple[range, ...]:
        """Return every chunk alone: all trainings begin with the same optimum."""
        return each_alone(self.chunks(config))

    def stage(self, config: WaterReservoirConfiguration, index: int) -> str:
        """Return what is trained."""
        name, seed = config.runs()[index]
        return f"{name}, seed {seed + 1}"

    def start(self, config: WaterReservoirConfiguration) -> dict[str, Any]:
        """Find the optimum of every weight."""
        reservoir = _reservoir(config)
        axis = storages(reservoir)
        problem = FiniteProblem.tabulate(reservoir, (axis,), releases(reservoir, 1.0), count=81)

        def best(weights: Any) -> Any:
            plan = backward_induction(problem.scalarized(weights), reservoir.length)
            found = planned_returns(problem, plan.policy)
            return jnp.stack([jnp.interp(reservoir.starts, axis, v).mean() for v in found.T]) / reservoir.length

        return {"optimum": np.stack([best(weights) for weights in _pairs(config)])}

    def advance(
        self, config: WaterReservoirConfiguration, carry: dict[str, Any], index: int
    ) -> tuple[dict[str, Any], xr.Dataset]:
        """Train one agent with one seed, for all weights at once, and judge its policies."""
        name, seed = config.runs()[index]
        agent = AGENTS[name]
        reservoir = _reservoir(config).replace(fractions=agent.fractions)
        updates = max(1, round(agent.updates * config.effort))
        pairs = _pairs(config)
        keys = jax.random.split(random_stream(config.seed, list(AGENTS).index(name), seed), len(pairs))
        policies, rewards = _trained(name, reservoir, pairs, keys, updates)
        front = np.asarray(_judged(reservoir, policies))
        length = min(CURVE, updates)
        curve = np.full((len(pairs), CURVE), np.nan)
        curve[:, :length] = np.stack([part.mean(1) for part in np.array_split(np.asarray(rewards), length, axis=1)], 1)
        dataset = xr.Dataset(
            {
                "front": (("time", "weight", "objective"), front[None], {"units": "1", "long_name": "mean reward"}),
                "curve": (("time", "weight", "part"), curve[None], {"long_name": "mean reward while learning"}),
                "agent": ("time", np.array([list(AGENTS).index(name)], np.int32), {"long_name": "number of the agent"}),
                "training_seed": ("time", np.array([seed], np.int32)),
                "optimum": (("weight", "objective"), np.asarray(carry["optimum"]), {"long_name": "exact mean reward"}),
            },
            {"time": [float(index)], "weight": list(config.weights)},
        )
        return carry, dataset

    def finish(self, config: WaterReservoirConfiguration, dataset: xr.Dataset) -> Results:
        """Return shares of the hypervolume and regrets, with intervals."""
        optimum = dataset["optimum"].values
        optimum = optimum[0] if optimum.ndim == 3 else optimum
        pairs, names = np.asarray(_pairs(config)), list(AGENTS)
        best = hypervolume(optimum, CORNER)
        if best == 0:
            raise ValueError("the optimum dominates nothing")
        rows, shares, regrets = [("optimum", "front", 0.0, "hypervolume", best, 1)], {}, {}
        for name in config.agents:
            fronts = dataset["front"].values[dataset["agent"].values == names.index(name)]
            shares[name] = np.array([hypervolume(front, CORNER) / best for front in fronts])
            regrets[name] = np.sum((optimum - fronts) * pairs, axis=2)
            mean, half = interval(shares[name])
            rows += [
                (name, "front", 0.0, "hypervolume_share", mean, len(fronts)),
                (name, "front", 0.0, "hypervolume_share_worst", float(shares[name].min()), len(fronts)),
            ]
            if np.isfinite(half):
                rows.append((name, "front", 0.0, "hypervolume_share_half_interval", half, len(fronts)))
            for weight, regret in zip(config.weights, regrets[name].T, strict=True):
                mean, half = interval(regret)
                rows.append((name, f"weight {weight:g}", 0.0, "regret", mean, len(regret)))
                if np.isfinite(half):  # of one seed there is no interval
                    rows.append((name, f"weight {weight:g}", 0.0, "regret_half_interval", half, len(regret)))
        scores = score_rows(rows)
        curves = {
            name: dataset["curve"].values[dataset["agent"].values == names.index(name)]
            for name in config.agents
            if AGENTS[name].random
        }
        fronts = {name: dataset["front"].values[dataset["agent"].values == names.index(name)] for name in config.agents}
        drawn = overview(optimum, fronts, curves, np.sum(optimum * pairs, axis=1), list(config.weights))
        return Results(scores, {"overview": drawn}, _table(config, optimum, best, shares, regrets), len(shares))


def _reservoir(config: WaterReservoirConfiguration) -> WaterReservoir:
    plain = WaterReservoir()
    return plain.replace(starts=plain.starts.astype(config.dtype))


def _pairs(config: WaterReservoirConfiguration) -> Any:
    first = jnp.asarray(config.weights, config.dtype)
    return jnp.stack([first, 1 - first], axis=1)


@partial(jax.jit, static_argnums=(0, 4))
def _trained(name: str, reservoir: WaterReservoir, pairs: Any, keys: Any, updates: int) -> Any:
    train = AGENTS[name].train
    return jax.vmap(lambda weights, key: train(reservoir, weights, key, updates))(pairs, keys)


@jax.jit
def _judged(reservoir: WaterReservoir, policies: Any) -> Any:
    axes, starts = (storages(reservoir),), reservoir.starts[:, None]

    def one(policy: Any) -> Any:
        return expected_returns(reservoir, policy, axes, starts).mean(0) / reservoir.length

    return jax.lax.map(one, policies)


def _table(config: Any, optimum: Any, best: float, shares: Any, regrets: Any) -> str:
    lines = ["weight of the first objective " + "".join(f"{weight:8.2f}" for weight in config.weights)]
    if tuple(config.weights) == WEIGHTS:
        lines += [f"published, {what:<18} " + "".join(f"{v[k]:8.2f}" for v in PUBLISHED)
                  for k, what in enumerate(("flood", "demand"))]  # fmt: skip
    lines += [f"optimum, {what:<20} " + "".join(f"{v[k]:8.3f}" for v in optimum)
              for k, what in enumerate(("flood", "demand"))]  # fmt: skip
    lines.append(f"\nhypervolume of the optimum {best:.3f}; of the others, in percent of it, and their regrets")
    for name in config.agents:
        mean, half = interval(100 * shares[name])
        spread = f"+- {half:5.2f}" if np.isfinite(half) else " " * 8
        kind = "*" if name in EXACT else " "
        lines.append(
            f"{kind}{name:<18} {mean:6.2f} {spread} " + "".join(f"{v:8.4f}" for v in regrets[name].mean(axis=0))
        )
    lines.append("* exact in the limit")
    return "\n".join(lines)
