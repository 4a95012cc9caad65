"""Timing, records and tables: what all benchmarks share."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

import diffassim

__all__ = ["Record", "Timing", "compiled_bytes", "first_call", "fresh_process", "interleave", "report"]

ROOT = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Timing:
    """Wall time of one call (minimum over rounds) and processor time of one call (median over rounds), in seconds."""

    seconds: float
    cpu_seconds: float


@dataclasses.dataclass(frozen=True)
class Record:
    """One row of a report; None where a quantity has no meaning or was not measured.

    Args:
        what: what was run.
        size: of the problem, in words.
        dtype: of the state.
        compile_seconds: wall time of the first call in this process less that of a later one.
        seconds: wall time of a call, the minimum of interleaved rounds.
        cpu_seconds: processor time of a call, all threads together.
        reference: what `ratio` compares with, measured in the same process.
        ratio: of the seconds (or of what `what` names) to the reference.
        target: the largest ratio or number of seconds aimed at.
        peak_bytes: largest memory, of the compiled program or of the process, as `what` says.
        more: further numbers by name.
    """

    what: str
    size: str
    dtype: str = "float64"
    compile_seconds: float | None = None
    seconds: float | None = None
    cpu_seconds: float | None = None
    reference: str | None = None
    ratio: float | None = None
    target: float | None = None
    peak_bytes: int | None = None
    more: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def first_call(function: Callable[[], Any]) -> float:
    """Return the wall time of a call, results included."""
    before = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - before


def interleave(
    cases: Mapping[str, Callable[[], Any]], *, rounds: int = 30, budget: float = 20.0, shortest: float = 0.005
) -> dict[str, Timing]:
    """Time functions in turn, round after round, so that a disturbance of the machine meets all of them.

    Args:
        cases: functions without arguments by name, compiled already; what they return is waited for.
        rounds: number of rounds, at least 3 of which are made even if the budget is used up.
        budget: wall time for all rounds, in seconds.
        shortest: functions faster than this (seconds) are called several times in a row.

    Returns:
        `Timing` by name.
    """
    repeats = {name: max(1, round(shortest / max(first_call(f), 1e-7))) for name, f in cases.items()}
    wall: dict[str, list[float]] = {name: [] for name in cases}
    cpu: dict[str, list[float]] = {name: [] for name in cases}
    began = time.perf_counter()
    for done in range(rounds):
        if done >= 3 and time.perf_counter() - began > budget:
            break
        for name, function in cases.items():
            wall_before, cpu_before = time.perf_counter(), time.process_time()
            for _ in range(repeats[name]):
                jax.block_until_ready(function())
            wall[name].append((time.perf_counter() - wall_before) / repeats[name])
            cpu[name].append((time.process_time() - cpu_before) / repeats[name])
    return {name: Timing(min(wall[name]), float(np.median(cpu[name]))) for name in cases}


def compiled_bytes(function: Callable[..., Any], *arguments: Any) -> int:
    """Return the memory that a function needs, compiled, beside its arguments and its result."""
    return memory_bytes(jax.jit(function).lower(*arguments).compile())


def memory_bytes(program: jax.stages.Compiled) -> int:
    """Return the memory that a program needs beside its arguments and its result."""
    return int(program.memory_analysis().temp_size_in_bytes)


def fresh_process(code: str, environment: Mapping[str, str | None] | None = None, timeout: float = 300) -> Any:
    """Run code in a new Python process and return the JSON value on the last line that it prints.

    Args:
        code: Python source; the benchmarks and the package can be imported.
        environment: variables to set, or to remove where None.
        timeout: seconds after which the process is ended.

    Raises:
        RuntimeError: if the process fails, with what it wrote.
    """
    merged = os.environ | {"PYTHONPATH": str(ROOT)} | dict(environment or {})
    done = subprocess.run(
        [sys.executable, "-c", code], env={k: v for k, v in merged.items() if v is not None},
        capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"a benchmark's process failed:\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def conditions() -> dict[str, Any]:
    """Return the machine, the versions and the load: what a number is worth depends on them."""
    return {
        "machine": f"{platform.system()} {platform.machine()}, {_processor()}",
        "cores": os.cpu_count(),
        "NPROC": os.environ.get("NPROC"),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "python": platform.python_version(),
        "jax": jax.__version__,
        "numpy": np.__version__,
        "diffassim": diffassim.__version__,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def report(title: str, records: Sequence[Record], file: Path | None = None) -> None:
    """Print the records as a table and, where a file is given, write them as JSON, one object a row."""
    where = conditions()
    table = Table(title=title, title_justify="left")
    for column in (
        "what",
        "size",
        "compile s",
        "wall ms",
        "cpu ms",
        "ratio",
        "target",
        "reference",
        "memory MB",
        "more",
    ):
        table.add_column(column, justify="left" if column in ("what", "size", "reference", "more") else "right")
    for r in records:
        table.add_row(
            r.what,
            r.size,
            _number(r.compile_seconds),
            _number(r.seconds, 1e3),
            _number(r.cpu_seconds, 1e3),
            _number(r.ratio),
            _number(r.target),
            r.reference or "",
            _number(r.peak_bytes, 1e-6),
            ", ".join(f"{k} {_number(v) if isinstance(v, float) else v}" for k, v in r.more.items()),
        )
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(table)
    console.print(", ".join(f"{key} {value}" for key, value in where.items()), highlight=False)
    if file is not None:
        rows = [json.dumps(dataclasses.asdict(r) | {"benchmark": title, "conditions": where}) for r in records]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(rows) + "\n")


def _number(value: float | None, scale: float = 1.0) -> str:
    return "" if value is None else f"{scale * value:.3g}" if abs(scale * value) < 1000 else f"{scale * value:.0f}"
