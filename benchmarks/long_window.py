"""A long window of a chaotic model: does the default search reach the lowest cost that is known, and for what work?"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cyclopts
import jax
import jax.numpy as jnp
import numpy as np

import diffassim as da
from benchmarks.harness import Record, first_call, interleave, report
from benchmarks.problems import load_window, lorenz96_arrays, lorenz96_cost

CLOSE = 1e-5  # relative: how far above the lowest known cost a cost may be to count as the same minimum
TIGHT = 1e-6
FIRST_SEED = 1000

PLAIN = da.GaussNewton(tolerance=TIGHT, growth=None)
LBFGS = da.LBFGS(tolerance=1e-2, max_iterations=2000)


_value = jax.jit(lambda cost, v: cost(v))


def _growing(cost: Any, method: Any) -> Any:
    """Minimize over an eighth, a quarter, half and all of the window, each from the solution before."""
    start = None
    for part in (8, 4, 2, 1):
        shorter = cost.replace(horizon=jnp.asarray(cost.steps // part, jnp.int32))
        start = da.minimize(shorter, method, start=start).control
    return start


def _ways(cost: Any, x_true: Any) -> dict[str, Callable[[], Any]]:
    """Return searches by name, each of which returns a control vector; B is the identity here."""
    truth = {"state": jnp.asarray(x_true) - cost.background}
    return {
        "default": lambda: da.minimize(cost).control,
        "plain Gauss-Newton": lambda: da.minimize(cost, PLAIN).control,
        "plain Gauss-Newton from the truth": lambda: da.minimize(cost, PLAIN, start=truth).control,
        "L-BFGS": lambda: da.minimize(cost, LBFGS).control,
        "growing windows, Gauss-Newton": lambda: _growing(cost, PLAIN),
        "growing windows, L-BFGS": lambda: _growing(cost, LBFGS),
    }


def compare(arrays: dict[str, Any]) -> tuple[dict[str, float], float]:
    """Return the cost that each way of searching reaches, and the work of the default one in gradients."""
    cost = lorenz96_cost(arrays)
    found = {name: float(_value(cost, way())) for name, way in _ways(cost, arrays["x_true"]).items()}
    return found, float(da.minimize(cost).search.work)


def one(arrays: dict[str, Any], size: str, rounds: int) -> list[Record]:
    cost = lorenz96_cost(arrays)
    gradient, v = jax.jit(lambda c, v: jax.value_and_grad(c)(v)), cost.control()
    cases = {"J and gradient": lambda: gradient(cost, v), "default search": lambda: da.minimize(cost)}
    first = {name: first_call(f) for name, f in cases.items()}
    times = interleave(cases, rounds=rounds)
    found, work = compare(arrays)
    lowest = min(found.values())
    search = da.minimize(cost).search
    more = {
        "default search": {
            "cost": f"{found['default']:.6f}", "lowest known": f"{lowest:.6f}", "work": work, "work limit": 300,
            "iterations": int(search.iterations),
        }
    }  # fmt: skip
    timed = [
        Record(
            what=name,
            size=size,
            compile_seconds=first[name] - times[name].seconds,
            seconds=times[name].seconds,
            cpu_seconds=times[name].cpu_seconds,
            reference="J and gradient",
            ratio=times[name].seconds / times["J and gradient"].seconds,
            target=300 if name == "default search" else None,
            more=more.get(name, {}),
        )
        for name in cases
    ]
    others = [
        Record(what=name, size=size, more={"cost": f"{value:.6f}"})
        for name, value in found.items()
        if name != "default"
    ]
    return timed + others


def many(times: int, seeds: int, size: str) -> list[Record]:
    results = {seed: compare(lorenz96_arrays(times, seed)) for seed in range(FIRST_SEED, FIRST_SEED + seeds)}
    lowest = {seed: min(found.values()) for seed, (found, _) in results.items()}
    work = [work for _, work in results.values()]
    records = []
    for name in next(iter(results.values()))[0]:
        missed = [seed for seed, (found, _) in results.items() if found[name] > lowest[seed] * (1 + CLOSE)]
        more: dict[str, Any] = {"reached": f"{seeds - len(missed)} of {seeds}"}
        if name == "default":
            gaps = {seed: f"{results[seed][0][name]:.2f} over {lowest[seed]:.2f}" for seed in missed}
            more |= {"aim": "18 of 20", "work, median": float(np.median(work)), "largest": max(work), "missed": gaps}
        records.append(Record(what=name, size=f"{size}, seeds {FIRST_SEED} on", more=more))
    return records


def main(
    *, problem: Path | None = None, times: int = 40, seed: int = 0, seeds: int = 20, rounds: int = 20,
    json: Path | None = None,
) -> None:  # fmt: skip
    """Search the minimum of long windows.

    Args:
        problem: stored window (npz); default: draw one.
        times: observation times of drawn windows.
        seed: of the one drawn window that is timed.
        seeds: number of further windows, each compared with the lowest cost that any method finds.
        rounds: interleaved rounds.
        json: file for the records.
    """
    jax.config.update("jax_enable_x64", True)
    arrays = load_window(problem, times, seed)
    size = f"n = 40, {len(arrays['observations'])} times"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", da.AssimilationWarning)  # plain searches stall: that is the comparison
        report("long window", one(arrays, size, rounds) + many(times, seeds, size), json)


if __name__ == "__main__":
    cyclopts.run(main)
