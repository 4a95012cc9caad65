"""Steps a second of thousands of lakes beside gymnasium, and trainings by PPO beside rejax."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import cyclopts
import jax

from benchmarks.harness import report
from benchmarks.lake_steps import lake_records
from benchmarks.ppo_trainings import rejax_python, training_records


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
