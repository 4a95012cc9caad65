"""Two lakes as environments, as their steps in NumPy and in plain Python, and as gymnasium's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffassim.core.pytree import Pytree, static
from diffassim.decisions import Box, Environment, Transition, WaterReservoir
from diffassim.decisions.wrappers import Wrapper

AREA, SUBSTEPS, DAY = 145.9e6, 24, 86_400.0
INFLOW = (150.0, 80.0)


class LakeState(Pytree):
    """Level of a lake, in m."""

    level: Any


class Lake(Environment):
    """A regulated lake with hourly steps of a daily decision, whose release its rating curves bound."""

    length: int = static(default=365)
    dtype: str = static(default="float32")

    @property
    def action_space(self) -> Box:
        """The release asked for, in m3/s."""
        return Box(jnp.zeros(1, self.dtype), jnp.full(1, 491.61, self.dtype))

    @property
    def observation_space(self) -> Box:
        """The level."""
        return Box.unbounded(1, self.dtype)

    @property
    def horizon(self) -> int:
        """Days of an episode."""
        return self.length

    def reset(self, key: jax.Array) -> tuple[LakeState, Any]:
        """Return the first level."""
        level = jnp.full((), 0.35, self.dtype)
        return LakeState(level), level[None]

    def disturbance(self, key: jax.Array) -> Any:
        """Return an inflow, in m3/s."""
        mean, spread = INFLOW
        return jnp.maximum(mean + spread * jax.random.normal(key, (), self.dtype), 0)

    def respond(self, state: LakeState, action: Any, disturbance: Any) -> Transition:
        """Return what follows a release that is asked for."""

        def hour(_: Any, carry: Any) -> Any:
            level, released = carry
            rating = 33.37 * jnp.exp(2.015 * jnp.log(jnp.maximum(level + 2.5, 1e-30)))  # faster here than a power
            most = jnp.where(level <= -0.5, 0, jnp.where(level <= -0.4, 1488.1 * level + 744.05, rating))
            least = jnp.where(level <= -0.5, 0, jnp.where(level <= 1.25, 5, rating))
            release = jnp.minimum(most, jnp.maximum(least, action[0]))
            return level + (disturbance - release) * (DAY / SUBSTEPS / AREA), released + release

        level, released = lax.fori_loop(0, SUBSTEPS, hour, (state.level, jnp.zeros_like(state.level)))
        released = released / SUBSTEPS
        outside = jnp.where(level > 1.24, 1000, jnp.where(level < -0.45, 250, jnp.zeros_like(level)))
        cost = outside + jnp.maximum(100 - released, 0)
        return Transition(LakeState(level), level[None], -cost, jnp.asarray(False))


def numpy_lake(level: Any, action: Any, inflow: Any) -> tuple[Any, Any]:
    """Return level and reward after a day, of one lake or, entry by entry, of many."""
    released = 0.0
    for _ in range(SUBSTEPS):
        rating = 33.37 * np.maximum(level + 2.5, 0) ** 2.015
        most = np.where(level <= -0.5, 0, np.where(level <= -0.4, 1488.1 * level + 744.05, rating))
        least = np.where(level <= -0.5, 0, np.where(level <= 1.25, 5, rating))
        release = np.minimum(most, np.maximum(least, action))
        released = released + release
        level = level + (inflow - release) * (DAY / SUBSTEPS / AREA)
    return level, -(1000.0 * (level > 1.24) + 250.0 * (level < -0.45) + np.maximum(100 - released / SUBSTEPS, 0))


def scalar_lake(level: float, action: float, inflow: float) -> tuple[float, float]:
    """Return the same of one lake, in plain Python, which is the fastest for single numbers."""
    released = 0.0
    for _ in range(SUBSTEPS):
        rating = 33.37 * max(level + 2.5, 0.0) ** 2.015
        most = 0.0 if level <= -0.5 else 1488.1 * level + 744.05 if level <= -0.4 else rating
        least = 0.0 if level <= -0.5 else 5.0 if level <= 1.25 else rating
        release = min(most, max(least, action))
        released += release
        level += (inflow - release) * (DAY / SUBSTEPS / AREA)
    return level, -(1000.0 * (level > 1.24) + 250.0 * (level < -0.45) + max(100 - released / SUBSTEPS, 0.0))


def numpy_reservoir(storage: Any, action: Any, inflow: Any) -> tuple[Any, Any]:
    """Return storage and the sum of both rewards after a step of the water reservoir, of one or of many."""
    release = np.minimum(np.maximum(action, np.maximum(storage - 100, 0)), storage)
    storage = np.maximum(storage + inflow - release, 0)
    return storage, -np.maximum(storage - 50, 0) - np.maximum(50 - release, 0)


def scalar_reservoir(storage: float, action: float, inflow: float) -> tuple[float, float]:
    """Return the same of one reservoir, in plain Python."""
    release = min(max(action, storage - 100, 0.0), storage)
    storage = max(storage + inflow - release, 0.0)
    return storage, -max(storage - 50, 0.0) - max(50 - release, 0.0)


class Summed(Wrapper):
    """An environment with the sum of its rewards."""

    @property
    def objectives(self) -> None:
        """None: a reward is a number."""
        return None

    def respond(self, state: Any, action: Any, disturbance: Any) -> Transition:
        """Return what follows an action."""
        found = self.environment.respond(state, action, disturbance)
        return found._replace(reward=jnp.sum(found.reward))


def lakes(name: str, dtype: str) -> tuple[Environment, Callable[..., Any], Callable[..., Any], dict[str, Any]]:
    """Return an environment, its step in NumPy and of single numbers, and what a peer needs to know of it."""
    if name == "lake":
        mean, spread = INFLOW
        told = {"starts": (0.35,), "inflow": (mean, spread), "least": 0.0, "most": 491.61, "length": 365}
        return Lake(dtype=dtype), numpy_lake, scalar_lake, told
    plain = WaterReservoir(starts=jnp.asarray(WaterReservoir().starts, dtype))
    starts = tuple(float(s) for s in WaterReservoir().starts)
    told = {"starts": starts, "inflow": (40.0, 10.0), "least": -math.inf, "most": 180.0, "length": plain.horizon}
    return Summed(plain), numpy_reservoir, scalar_reservoir, told


def gymnasium_environment(step: Callable[..., Any], told: dict[str, Any]) -> Any:
    """Return the environment in NumPy, one lake."""
    import gymnasium

    class Single(gymnasium.Env):  # type: ignore[misc]
        def __init__(self) -> None:
            self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float64)
            self.action_space = gymnasium.spaces.Box(0.0, told["most"], (1,), np.float64)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            starts = told["starts"]
            self.level = starts[int(self.np_random.integers(len(starts)))] if len(starts) > 1 else starts[0]
            self.age = 0
            return np.array([self.level]), {}

        def step(self, action: Any) -> Any:
            mean, spread = told["inflow"]
            inflow = max(mean + spread * self.np_random.standard_normal(), told["least"])
            self.level, reward = step(self.level, float(action[0]), inflow)
            self.age += 1
            return np.array([self.level]), reward, False, self.age >= told["length"], {}

    return Single()


def same_trajectories(environment: Environment, steps: tuple[Callable[..., Any], ...], told: dict[str, Any]) -> None:
    """Raise AssertionError unless all take the same steps, with the same actions and inflows."""
    rng = np.random.default_rng(0)
    actions, inflows = rng.uniform(0, told["most"], 60), np.abs(rng.normal(*told["inflow"], 60))
    state, _ = environment.reset(jax.random.key(0))
    dtype = jax.tree.leaves(state)[0].dtype
    tolerance = 1e-9 if dtype == np.float64 else 2e-4
    levels = [float(jax.tree.leaves(state)[0])] * len(steps)
    respond = jax.jit(environment.respond)
    for action, inflow in zip(actions, inflows, strict=True):
        found = respond(state, jnp.asarray([action], dtype), jnp.asarray(inflow, dtype))
        state = found.state
        for k, step in enumerate(steps):
            levels[k], reward = step(levels[k], float(action), float(inflow))
            np.testing.assert_allclose(found.observation[0], levels[k], rtol=tolerance, atol=tolerance)
            np.testing.assert_allclose(found.reward, reward, rtol=10 * tolerance, atol=1e3 * tolerance)
