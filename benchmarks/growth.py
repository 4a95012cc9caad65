"""How time, memory and compile time grow with the size of the state, from 40 to 100,000 points."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cyclopts
import jax
import jax.numpy as jnp
import numpy as np

import diffassim as da
from benchmarks.harness import Record, fresh_process, report
from benchmarks.problems import lorenz96_arrays, lorenz96_cost

SIZES = (40, 400, 4_000, 40_000, 100_000)
MEMBERS = 20
ANALYSES = 10
TIMES = 4  # observation times of a variational window


def _strong(n: int) -> tuple[Callable[[], Any], int]:
    """Return one analysis by 4D-Var of a short window with everything observed, and how many are made: one."""
    cost = lorenz96_cost(lorenz96_arrays(TIMES, 0, n=n))
    return lambda: da.minimize(cost), 1


def _ensemble_cost(n: int) -> tuple[Callable[[], Any], int]:
    """Return one analysis of the same window by 4DEnVar, weights localized along the line; trajectories are given."""
    arrays = lorenz96_arrays(TIMES, 0, n=n)
    plain = lorenz96_cost(arrays)
    members = arrays["x_background"] + np.random.default_rng(1).normal(size=(MEMBERS, n))
    localization = da.covariances.Gaussian(1.0, 2.0, da.grids.Grid(1.0, periodic=True))
    cost = da.FourDEnVar.from_model(
        plain.model, arrays["x_background"], jnp.asarray(members), plain.observations, localization
    )
    return lambda: da.minimize(cost), 1


def _cycled(method: Any, n: int) -> tuple[Callable[[], Any], int]:
    """Return some cycled analyses by an ensemble filter with everything observed, search of neighbours included."""
    arrays = lorenz96_arrays(ANALYSES, 0, n=n)
    plain = lorenz96_cost(arrays)
    noise = np.random.default_rng(1).normal(size=(MEMBERS, n))
    members = jnp.asarray(arrays["x_background"] + noise)
    return lambda: da.cycle(method, plain.model, members, plain.observations), ANALYSES


METHODS: dict[str, Callable[[int], tuple[Callable[[], Any], int]]] = {
    "4D-Var": _strong,
    "4DEnVar": _ensemble_cost,
    "ETKF": lambda n: _cycled(da.ETKF(inflation=1.05), n),
    "LETKF": lambda n: _cycled(da.LETKF(inflation=1.05, localization=da.ensemble.GaspariCohn(4.0)), n),
}


def measure(method: str, n: int) -> dict[str, float]:
    """Measure one method at one size; meant for a process of its own, whose largest memory it reads (on Linux).

    Returns:
        Seconds of an analysis (the smaller of two later calls), of compilation (first call less that), bytes by which a
        later call raises the memory of the process, and the work of a search in gradients.
    """
    run, count = METHODS[method](n)
    walls, cpus = [], []
    for _ in range(3):
        before = _resident(reset=True)
        wall, cpu = time.perf_counter(), time.process_time()
        found = jax.block_until_ready(run())
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
        largest = _resident()
        work = float(found.search.work) if hasattr(found, "search") else math.nan
        del found
    return {
        "compile_seconds": walls[0] - min(walls[1:]),
        "seconds": min(walls[1:]) / count,
        "cpu_seconds": min(cpus[1:]) / count,
        "bytes": largest - before,
        "work": work,
    }


def _resident(reset: bool = False) -> float:
    """Return the largest memory of the process in bytes since the last reset; a reset starts from what it has now."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return 1024.0 * int(status.split("VmHWM:")[1].split()[0])


def exponent(sizes: Sequence[int], values: Sequence[float]) -> float:
    """Return the slope of log(value) over log(size), by least squares: 1 is cost that grows with the work."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def draw(rows: dict[str, list[tuple[int, dict[str, float]]]], file: Path) -> None:
    """Draw time, memory and compile time over the size, one line a method, beside lines that grow with the work."""
    from diffassim.plotting.style import COLORS, figure, panel_label, style

    panels = (
        ("cpu_seconds", 1e3, 1, "processor time of an analysis (ms)"),
        ("bytes", 1e-6, 4_000, "memory (MB)"),  # that of a smaller state drowns in the pages of the process
        ("compile_seconds", 1.0, 1, "compile time (s)"),
    )
    with style():
        drawn = figure(9.0, 3.2)
        for axes, (name, scale, smallest, label), letter in zip(drawn.subplots(1, 3), panels, "abc", strict=True):
            for color, (method, measured) in zip(("blue", "orange", "green", "red"), rows.items(), strict=False):
                shown = [(n, scale * row[name]) for n, row in measured if n >= smallest]
                axes.plot(*zip(*shown, strict=True), "o-", ms=3, color=COLORS[color], label=method)
            axes.set(xscale="log", xlabel="points of the state")
            panel_label(axes, letter, label)
            if name == "compile_seconds":
                axes.set_ylim(bottom=0)
                continue
            axes.set_yscale("log")
            low, high = axes.get_ylim()
            sizes = np.array([n for n, _ in next(iter(rows.values())) if n >= smallest])
            for start in np.geomspace(low / 1e4, high, 12):
                guide = start * sizes / sizes[-1]
                axes.plot(sizes, guide, ":", color=COLORS["gray"], lw=0.6, zorder=0)
            axes.set_ylim(low, high)
        drawn.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(rows))
        file.parent.mkdir(parents=True, exist_ok=True)
        drawn.savefig(file, dpi=150)


def main(
    *,
    largest: int = SIZES[-1],
    methods: tuple[str, ...] = tuple(METHODS),
    figure: Path | None = Path("results/growth.png"),
    json: Path | None = None,
) -> None:
    """Measure every method at every size, each in a process of its own; print the table and draw the figure.

    Args:
        largest: the sizes are 40, 400, 4,000, ... up to this one, which is measured as well.
        methods: which of the methods.
        figure: file of the figure.
        json: file for the records.
    """
    sizes = sorted({n for n in SIZES if n < largest} | {largest})
    rows: dict[str, list[tuple[int, dict[str, float]]]] = {}
    records = []
    for method in methods:
        rows[method] = []
        for n in sizes:
            code = f"import json; from benchmarks.growth import measure; print(json.dumps(measure({method!r}, {n})))"
            row = fresh_process(code, {"JAX_ENABLE_X64": "1", "JAX_COMPILATION_CACHE_DIR": None}, timeout=1800)
            rows[method].append((n, row))
            first = rows[method][min(1, len(rows[method]) - 1)][1]
            reference = sizes[min(1, len(rows[method]) - 1)]
            records.append(
                Record(
                    method, f"n = {n:,}", "float64", row["compile_seconds"], row["seconds"], row["cpu_seconds"],
                    reference=f"CPU time a point at n = {reference:,}",
                    ratio=row["cpu_seconds"] / n / (first["cpu_seconds"] / reference),
                    peak_bytes=int(row["bytes"]),
                    more={"us a point": 1e6 * row["cpu_seconds"] / n, "bytes a point": row["bytes"] / n}
                    | ({} if math.isnan(row["work"]) else {"work": row["work"]}),
                )
            )  # fmt: skip
        large = [(n, row) for n, row in rows[method] if n >= 400]
        if len(large) > 1:
            time_slope = exponent([n for n, _ in large], [row["cpu_seconds"] for _, row in large])
            records.append(Record(method, "slope from 400 points on", more={"log cpu / log n": time_slope}))
    report("growth with the size of the state", records, json)
    if figure is not None:
        draw(rows, figure)
        print(f"figure: {figure}")


if __name__ == "__main__":
    cyclopts.run(main)
