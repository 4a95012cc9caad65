"""Runs of experiments with large output: how much of their time goes into writing chunks and checkpoints."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import cyclopts

from benchmarks.harness import Record, report
from diffassim.experiments import find_experiment
from diffassim.experiments.framework.checkpoints import RunCheckpoints
from diffassim.experiments.framework.configuration import build_configuration
from diffassim.experiments.framework.run import run

RUNS = {
    "lorenz96-ensemble, all members": (
        "lorenz96-ensemble",
        {"n": 1000, "members": 40, "cycles": 400, "discarded_cycles": 100, "save_members": True},
    ),
    "large-state": ("large-state", {"n": 100_000, "members": 16, "cycles": 20}),
}


def timed_run(name: str, settings: dict[str, Any]) -> tuple[float, float, float, float, int]:
    """Return wall and processor time of a run, the same within the writing of its parts, and the bytes written."""
    experiment = find_experiment(name)
    config = build_configuration(experiment.configuration, settings, name)
    spent, write = [0.0, 0.0], RunCheckpoints.write_chunk
    written = 0

    def timed(self: Any, index: int, *arguments: Any) -> None:
        nonlocal written
        wall, processor = time.perf_counter(), time.process_time()
        write(self, index, *arguments)
        spent[0] += time.perf_counter() - wall
        spent[1] += time.process_time() - processor
        written += self.chunk(index).stat().st_size + self.checkpoint.stat().st_size

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(RunCheckpoints, "write_chunk", timed):
        wall, processor = time.perf_counter(), time.process_time()
        run(experiment, config, Path(folder) / "run")
        return time.perf_counter() - wall, time.process_time() - processor, *spent, written


def measure(scale: float, cycles: int | None = None) -> list[Record]:
    """Time the runs, of `scale` times as many variables, in single precision; or only a few cycles of them."""
    records = []
    for what, (name, settings) in RUNS.items():
        settings = settings | {"dtype": "float32", "n": max(40, int(scale * settings["n"]))}
        settings |= {} if cycles is None else {"cycles": cycles, "discarded_cycles": cycles // 2}
        seconds, cpu, writing, busy, size = timed_run(name, settings)
        more = {"writing": writing, "writing_cpu": busy, "share": writing / seconds, "megabytes": size / 1e6}
        records.append(Record(what, f"n = {settings['n']}", seconds=seconds, cpu_seconds=cpu, more=more))
    return records


def main(*, scale: float = 1.0, cycles: int | None = None, json: Path | None = None) -> None:
    """Time runs, and the writing within them, which is what a thread that writes could save at most.

    Args:
        scale: of the number of variables.
        cycles: of each run; default: those of the published numbers.
        json: file for the records.
    """
    report("writing", measure(scale, cycles), json)


if __name__ == "__main__":
    cyclopts.run(main)
