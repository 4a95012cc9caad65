"""Steps a second of thousands of lakes beside gymnasium's vector environments."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.harness import Record, first_call, interleave
from benchmarks.lakes import gymnasium_environment, lakes, same_trajectories
from diffassim.decisions.play import begin, go_on

FASTER_THAN_GYMNASIUM = 1 / 50  # the aim


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
