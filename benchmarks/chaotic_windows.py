"""Long windows of Lorenz-96 by size: how often the default search finds the lowest cost that is known, and for what."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import cyclopts
import jax
import jax.numpy as jnp
import numpy as np

import diffassim as da
from benchmarks.harness import Record, report
from benchmarks.problems import lorenz96_arrays, lorenz96_cost

DT = 0.05
CLOSE = 1e-5  # relative: how far above the lowest known cost a cost may be to count as the same minimum
PLAIN = da.GaussNewton(growth=None)  # no growth of its own


def by_hand(cost: Any) -> tuple[Any, float]:
    """Minimize over one observation time after the other, each from the solution before, and return the work as well.

    Work is counted in gradients of the whole window.
    """
    v, work = None, 0.0
    for horizon in np.asarray(cost.observations[0].steps)[1:]:
        found = da.minimize(cost.replace(horizon=jnp.asarray(horizon, jnp.int32)), PLAIN, start=v)
        v, work = found.control, work + float(found.search.work) * (int(horizon) + 1) / (cost.steps + 1)
    return found, work


def one(n: int, times: int, seed: int, hand: bool) -> dict[str, Any]:
    """Search one window in each way: costs, work, and seconds of the default search (a compiled call)."""
    arrays = lorenz96_arrays(times, seed, n=n, dt=DT)
    cost = lorenz96_cost(arrays, DT)
    truth = {"state": jnp.asarray(arrays["x_true"]) - cost.background}
    began = time.process_time()
    default = jax.block_until_ready(da.minimize(cost))
    seconds = time.process_time() - began
    costs, work = {"default": float(default.cost)}, {"default": float(default.search.work)}
    costs["from the truth"] = float(da.minimize(cost, PLAIN, start=truth).cost)
    if hand:
        found, work["by hand"] = by_hand(cost)
        costs["by hand"] = float(found.cost)
    return {"costs": costs, "work": work, "seconds": seconds, "code": da.Result(int(default.result)).name}


def count(n: int, times: int, seeds: range, hand: bool) -> list[Record]:
    """Return one row for each way of searching."""
    one(n, times, seeds.start, hand=False)  # compiles
    found = {seed: one(n, times, seed, hand) for seed in seeds}
    lowest = {seed: min(f["costs"].values()) for seed, f in found.items()}
    seconds = float(np.median([f["seconds"] for f in found.values()]))
    records = []
    for name in next(iter(found.values()))["costs"]:
        missed = {
            seed: f"{f['costs'][name]:.4f} over {lowest[seed]:.4f}, {f['code']}" if name == "default" else ""
            for seed, f in found.items()
            if f["costs"][name] > lowest[seed] * (1 + CLOSE)
        }
        more: dict[str, Any] = {"reached": f"{len(found) - len(missed)} of {len(found)}", "missed": missed}
        if name in next(iter(found.values()))["work"]:
            more["work, median"] = float(np.median([f["work"][name] for f in found.values()]))
        if name == "default":
            codes = [f["code"] for f in found.values()]
            more |= {"cpu ms a point": 1e3 * seconds / n, "codes": {c: codes.count(c) for c in sorted(set(codes))}}
        size = f"n = {n}, {times} times, seeds {seeds.start} to {seeds.stop - 1}"
        records.append(Record(what=name, size=size, cpu_seconds=seconds if name == "default" else None, more=more))
    return records


def main(
    *, n: tuple[int, ...] = (40, 400), times: int = 10, seeds: int = 20, first: int = 7000, hand: bool = True,
    json: Path | None = None,
) -> None:  # fmt: skip
    """Count how often the default search of a long window reaches the lowest cost that any way of searching finds.

    Time step .05, everything observed every five steps from the window start on, unit errors of observations and
    background, float64. The ways: default settings; plain Gauss-Newton over one observation time after the other; plain
    Gauss-Newton from the true state.

    Args:
        n: numbers of variables.
        times: observation times.
        seeds: number of windows.
        first: seed of the first window.
        hand: whether to grow windows by hand as well.
        json: file for the records.
    """
    jax.config.update("jax_enable_x64", True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", da.AssimilationWarning)  # plain searches stall: that is the comparison
        rows = [row for size in n for row in count(size, times, range(first, first + seeds), hand)]
    report("chaotic windows", rows, json)


if __name__ == "__main__":
    cyclopts.run(main)
