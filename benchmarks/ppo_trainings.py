"""Trainings by PPO beside rejax, which runs in a process of its own."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from benchmarks.harness import Record
from diffassim.decisions import GymnaxEnvironment, episode_returns
from diffassim.training.reinforcement import PPO, actor_critic

AS_FAST_AS_REJAX = 1.0  # the aim
SERVER = Path(__file__).parent / "rejax_server.py"
SETTINGS: dict[str, dict[str, Any]] = {  # as common for these tasks, the same for both, tuned for neither
    "CartPole-v1": {"steps": 32, "updates": 100, "epochs": 4, "batches": 4, "rate": 1e-3, "discount": 0.99},
    "Pendulum-v1": {"steps": 64, "updates": 100, "epochs": 10, "batches": 8, "rate": 1e-3, "discount": 0.95},
}
COMMON = {
    "environments": 64, "trace": 0.95, "clip": 0.2, "entropy_weight": 0.01, "units": [64, 64], "episodes": 128,
}  # fmt: skip


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
        peer = subprocess.Popen([python, str(SERVER), json.dumps(settings)], text=True, bufsize=1, **pipes)
        found["rejax"] = []
    with jax.enable_x64(False):
        ours = Trainings(settings)
        for seed in range(seeds + 1):  # the first training of both is not counted
            rows = {"diffassim": ours.run(seed)}
            if peer is not None:
                assert peer.stdin is not None and peer.stdout is not None
                print(json.dumps({"seed": seed}), file=peer.stdin, flush=True)
                line = peer.stdout.readline()
                if not line:
                    raise RuntimeError("rejax's process failed; see above")
                rows["rejax"] = json.loads(line)
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
