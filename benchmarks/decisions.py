"""Steps a second of thousands of lakes beside gymnasium, and trainings by PPO beside rejax."""

from __future__ import annotations

import json as json_
import math
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cyclopts
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from benchmarks.harness import Record, first_call, interleave, report
from diffassim.core.pytree import Pytree, static
from diffassim.decisions import Box, Environment, GymnaxEnvironment, Transition, WaterReservoir, episode_returns
from diffassim.decisions.play import begin, go_on
from diffassim.training.reinforcement import PPO, actor_critic

FASTER_THAN_GYMNASIUM, AS_FAST_AS_REJAX = 1 / 50, 1.0  # the aims
SERVER = Path(__file__).parent / "rejax_server.py"
AREA, SUBSTEPS, DAY = 145.9e6, 24, 86_400.0
INFLOW = (150.0, 80.0)
SETTINGS: dict[str, dict[str, Any]] = {  # as common for these tasks, the same for both, tuned for neither
    "CartPole-v1": {"steps": 32, "updates": 100, "epochs": 4, "batches": 4, "rate": 1e-3, "discount": 0.99},
    "Pendulum-v1": {"steps": 64, "updates": 100, "epochs": 10, "batches": 8, "rate": 1e-3, "discount": 0.95},
}
COMMON = {
    "environments": 64, "trace": 0.95, "clip": 0.2, "entropy_weight": 0.01, "units": [64, 64], "episodes": 128,
}  # fmt: skip


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
            return level + (disturbance - release) * (DAY / SUBSTEPS / AREA), released + release / SUBSTEPS

        level, released = lax.fori_loop(0, SUBSTEPS, hour, (state.level, jnp.zeros_like(state.level)))
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
        released = released + release / SUBSTEPS
        level = level + (inflow - release) * (DAY / SUBSTEPS / AREA)
    return level, -(1000.0 * (level > 1.24) + 250.0 * (level < -0.45) + np.maximum(100 - released, 0))


def scalar_lake(level: float, action: float, inflow: float) -> tuple[float, float]:
    """Return the same of one lake, in plain Python, which is the fastest for single numbers."""
    released = 0.0
    for _ in range(SUBSTEPS):
        rating = 33.37 * max(level + 2.5, 0.0) ** 2.015
        most = 0.0 if level <= -0.5 else 1488.1 * level + 744.05 if level <= -0.4 else rating
        least = 0.0 if level <= -0.5 else 5.0 if level <= 1.25 else rating
        release = min(most, max(least, action))
        released += release / SUBSTEPS
        level += (inflow - release) * (DAY / SUBSTEPS / AREA)
    return level, -(1000.0 * (level > 1.24) + 250.0 * (level < -0.45) + max(100 - released, 0.0))


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


class Summed(Environment):
    """The water reservoir with the sum of its two rewards."""

    environment: WaterReservoir

    @property
    def action_space(self) -> Box:
        """The release."""
        return self.environment.action_space

    @property
    def observation_space(self) -> Box:
        """The storage."""
        return self.environment.observation_space

    @property
    def horizon(self) -> int:
        """Steps of an episode."""
        return self.environment.horizon

    def reset(self, key: jax.Array) -> Any:
        """Return a first state."""
        return self.environment.reset(key)

    def disturbance(self, key: jax.Array) -> Any:
        """Return an inflow."""
        return self.environment.disturbance(key)

    def respond(self, state: Any, action: Any, disturbance: Any) -> Transition:
        """Return what follows a release."""
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


def lake_records(name: str, count: int, steps: int, dtype: str, budget: float, workers: int) -> list[Record]:
    """Time steps of many lakes with given actions, resets included."""
    environment, many, single, told = lakes(name, dtype)
    same_trajectories(environment, (many, single), told)
    rng = np.random.default_rng(1)
    actions = rng.uniform(0, told["most"], (steps, count, 1))
    given, keys = jnp.asarray(actions, dtype), jax.random.split(jax.random.key(1), steps)

    @jax.jit
    def ours(play: Any) -> Any:
        def body(play: Any, row: Any) -> Any:
            play, seen = go_on(environment, play, *row)
            return play, jnp.sum(seen.reward)

        return lax.scan(body, play, (given, keys))

    @partial(jax.jit, static_argnums=0)
    def first(count: int) -> Any:
        return begin(environment, jax.random.key(2), count)

    def by_hand() -> Any:
        level, age, total = rng.choice(told["starts"], count), np.zeros(count, int), 0.0
        for k in range(steps):
            inflow = np.maximum(rng.normal(*told["inflow"], count), told["least"])
            level, reward = many(level, actions[k, :, 0], inflow)
            age += 1
            late = age >= told["length"]
            level, age = np.where(late, rng.choice(told["starts"], count), level), np.where(late, 0, age)
            total += reward.sum()
        return total

    apart = first(count)
    together = apart.replace(age=jnp.zeros_like(apart.age))  # as gymnasium's: all end at the same step
    cases: dict[str, Callable[[], Any]] = {
        "diffassim": lambda: ours(together), "diffassim, ends at different steps": lambda: ours(apart),
        "NumPy, vectorized by hand": by_hand,
    }  # fmt: skip
    fewer = max(1, steps // 50)  # the peer's time is proportional to its steps
    closing = []
    if find_spec("gymnasium"):
        import gymnasium

        build = partial(gymnasium_environment, single, told)
        vectors = {"gymnasium, SyncVectorEnv": gymnasium.vector.SyncVectorEnv([build] * count)}
        if workers:
            vectors[f"gymnasium, AsyncVectorEnv of {workers}"] = gymnasium.vector.AsyncVectorEnv([build] * workers)
        for label, vector in vectors.items():
            vector.reset(seed=0)
            rows = actions[:, : vector.num_envs]
            cases[label] = lambda v=vector, rows=rows: [v.step(rows[k]) for k in range(fewer)][-1][1]
            closing.append(vector.close)
    else:
        print("gymnasium is skipped: pip install gymnasium")
    compiled = first_call(cases["diffassim"])
    times = interleave(cases, rounds=10, budget=budget)
    for close in closing:
        close()
    known = "gymnasium, SyncVectorEnv"
    kinds = {label: dtype if "diffassim" in label else "float64" for label in cases}
    made = {label: fewer * (workers if "Async" in label else count) for label in cases if "gymnasium" in label}
    per_step = {label: timing.seconds / made.get(label, steps * count) for label, timing in times.items()}
    cpu = {  # that of other processes is not known
        label: None if "Async" in label else timing.cpu_seconds / made.get(label, steps * count)
        for label, timing in times.items()
    }

    def compared(label: str) -> dict[str, str]:
        if known not in times:
            return {}
        told = {"times as fast": f"{per_step[known] / per_step[label]:.3g}"}
        mine, other = cpu[label], cpu[known]
        return told | ({"in processor time": f"{other / mine:.3g}"} if mine and other else {})

    return [
        Record(
            what=f"{name}, {label}", size=f"{count} at once, per step of one, {kinds[label]}", dtype=kinds[label],
            compile_seconds=compiled if label == "diffassim" else None, seconds=per_step[label], cpu_seconds=cpu[label],
            reference=known if known in times else None,
            ratio=per_step[label] / per_step[known] if known in times else None,
            target=FASTER_THAN_GYMNASIUM if label == "diffassim" else None,
            more={"steps a second": f"{1 / per_step[label]:.3g}", **compared(label)},
        )
        for label in times
    ]  # fmt: skip


class Trainings:
    """Trainings of our PPO on a task of gymnax, compiled once."""

    def __init__(self, settings: dict[str, Any]) -> None:
        import gymnax

        environment = GymnaxEnvironment(gymnax.make(settings["task"])[0])
        agent = PPO(
            environments=settings["environments"], steps=settings["steps"], epochs=settings["epochs"],
            batches=settings["batches"], discount=settings["discount"], trace=settings["trace"], clip=settings["clip"],
            entropy_weight=settings["entropy_weight"], optimizer=optax.adam(settings["rate"]),
        )  # fmt: skip

        def train(key: Any) -> Any:
            networks, own = jax.random.split(key)
            units = tuple(settings["units"])
            start = actor_critic(environment, networks, units=units, std=1.0, discount=settings["discount"])
            return agent.train(environment, agent.init(environment, own, start), settings["updates"])[0]

        def score(state: Any, key: Any) -> Any:
            return episode_returns(environment, agent.policy(environment, state), key, settings["episodes"]).mean()

        before = time.perf_counter()
        self.train = jax.jit(train).lower(jax.random.key(0)).compile()
        self.compile_seconds, self.score = time.perf_counter() - before, jax.jit(score)

    def run(self, seed: int) -> dict[str, Any]:
        """Return what a training took, and its policy's mean return without drawing actions."""
        key = jax.random.key(seed)
        wall, cpu = time.perf_counter(), time.process_time()
        state = jax.block_until_ready(self.train(key))
        told = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
        dtype = jax.tree.leaves(state.trainable)[0].dtype.name
        score = float(self.score(state, jax.random.fold_in(key, 1)))
        return told | {"compile_seconds": self.compile_seconds, "return": score, "dtype": dtype}


def rejax_python(python: str | None) -> str | None:
    """Return a Python that has rejax and a gymnax that it can use, or None."""
    found = python or (sys.executable if find_spec("rejax") else None)
    if found is None:
        print(
            "rejax is skipped; it needs an older gymnax, in an environment of its own: python -m venv DIR; "
            'DIR/bin/pip install rejax==0.1.3 "gymnax<1"; then --rejax DIR/bin/python'
        )
    return found


def training_records(task: str, seeds: int, python: str | None, changes: dict[str, Any]) -> list[Record]:
    """Train by ours and by rejax in turn, seed after seed."""
    settings = COMMON | SETTINGS[task] | {"task": task} | changes
    found: dict[str, list[dict[str, Any]]] = {"diffassim": []}
    peer = None
    if python:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        peer = subprocess.Popen([python, str(SERVER), json_.dumps(settings)], text=True, bufsize=1, **pipes)
        found["rejax"] = []
    with jax.enable_x64(False):
        ours = Trainings(settings)
        for seed in range(seeds + 1):  # the first training of both is not counted
            rows = {"diffassim": ours.run(seed)}
            if peer is not None:
                assert peer.stdin is not None and peer.stdout is not None
                print(json_.dumps({"seed": seed}), file=peer.stdin, flush=True)
                line = peer.stdout.readline()
                if not line:
                    raise RuntimeError("rejax's process failed; see above")
                rows["rejax"] = json_.loads(line)
            if seed:
                for label, row in rows.items():
                    found[label].append(row)
    if peer is not None:
        peer.communicate()
    steps = settings["environments"] * settings["steps"] * settings["updates"]
    return [_training_record(task, label, found, steps) for label in found]


def _training_record(task: str, label: str, found: dict[str, list[dict[str, Any]]], steps: int) -> Record:
    rows, known = found[label], found.get("rejax")
    median = {k: float(np.median([row[k] for row in rows])) for k in ("seconds", "cpu_seconds")}
    least = min(row["seconds"] for row in rows)
    returns = np.array([row["return"] for row in rows])
    half = 1.96 * returns.std(ddof=1) / math.sqrt(len(returns)) if len(returns) > 1 else math.nan
    more = {
        "steps a second": f"{steps / least:.3g}", "mean return": f"{returns.mean():.1f} +- {half:.1f}",
        "lowest": f"{returns.min():.1f}", "seeds": len(returns),
    }  # fmt: skip
    if known:
        more["times as fast in processor time"] = (
            f"{np.median([r['cpu_seconds'] for r in known]) / median['cpu_seconds']:.3g}"
        )
        more |= {f"{k} of rejax": known[0][k] for k in ("rejax", "jax", "gymnax")} if label == "rejax" else {}
    return Record(
        what=f"PPO on {task}, {label}", size=f"{steps} steps", dtype=rows[0]["dtype"],
        compile_seconds=rows[0]["compile_seconds"], seconds=least, cpu_seconds=median["cpu_seconds"],
        reference="rejax" if known else None, ratio=least / min(r["seconds"] for r in known) if known else None,
        target=AS_FAST_AS_REJAX if label == "diffassim" else None, more=more,
    )  # fmt: skip


def main(
    *, parts: tuple[str, ...] = ("lakes", "training"), count: int = 4096, steps: int = 500, workers: int = 8,
    tasks: tuple[str, ...] = ("CartPole-v1", "Pendulum-v1"), seeds: int = 5, updates: int | None = None,
    rejax: str | None = None, budget: float = 60.0, json: Path | None = None,
) -> None:  # fmt: skip
    """Time lakes beside gymnasium, and trainings beside rejax, where they are installed.

    Args:
        parts: "lakes", "training".
        count: lakes at once.
        steps: of each in a call.
        workers: of gymnasium's AsyncVectorEnv, one process each, 0 for none.
        tasks: of gymnax.
        seeds: trainings of each.
        updates: of a training, if not those of `SETTINGS`.
        rejax: Python of an environment with rejax.
        budget: seconds for the rounds of each kind of lake.
        json: file for the records.
    """
    jax.config.update("jax_enable_x64", True)
    records = []
    if "lakes" in parts:
        for name in ("reservoir", "lake"):
            for dtype in ("float32", "float64"):
                records += lake_records(name, count, steps, dtype, budget, workers)
    if "training" in parts and find_spec("gymnax"):
        changes = {} if updates is None else {"updates": updates}
        python = rejax_python(rejax)
        for task in tasks:
            records += training_records(task, seeds, python, changes)
    elif "training" in parts:
        print("trainings are skipped: pip install gymnax six")
    report("decisions", records, json)


if __name__ == "__main__":
    cyclopts.run(main)
