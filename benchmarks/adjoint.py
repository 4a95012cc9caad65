"""The adjoint of a window: time of J with its gradient over the fastest known J, and memory in model states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cyclopts
import jax
import jax.numpy as jnp
import numpy as np

import diffassim as da
from benchmarks import reference
from benchmarks.harness import Record, compiled_bytes, first_call, fresh_process, interleave, report
from benchmarks.problems import DT

TIMES = 10  # observation times, spread evenly: what they take does not grow with the window
TARGETS = {40: 8.0, 4000: 7.0}


def problem(n: int, steps: int) -> tuple[da.StrongConstraint4DVar, Any, int]:
    """Return a cost of `steps` model steps, its observations, and the steps between their times."""
    rng = np.random.default_rng(0)
    every = steps // TIMES
    x = 2.3 + 3.6 * rng.normal(size=n)
    y = 2.3 + 3.6 * rng.normal(size=(TIMES + 1, n))
    identity = da.covariances.Diagonal(std=1.0)
    obs = da.Observations(y, every * np.arange(TIMES + 1), error=identity)
    return da.StrongConstraint4DVar(da.models.Lorenz96(dt=DT), x, identity, obs), jnp.asarray(y), every


def measure(n: int, steps: int, budget: float) -> list[Record]:
    cost, y, every = problem(n, steps)
    v = cost.control()
    forward = jax.jit(lambda c, v: c(v))
    gradient = jax.jit(lambda c, v: jax.value_and_grad(c)(v))
    cases = {"J": lambda: forward(cost, v), "J and gradient": lambda: gradient(cost, v)}
    for name, tendency in reference.FORWARDS.items():
        bare = jax.jit(lambda x, x_b, y, f=tendency: reference.cost(x, x_b, y, every, DT, f))
        cases[f"bare J, {name}"] = lambda bare=bare: bare(cost.background, cost.background, y)
    x, x_b, rows = (np.asarray(a) for a in (cost.background, cost.background, y))
    if steps * max(n, 2000) <= 4_000_000:  # elsewhere a call takes seconds, and it is never the fastest
        cases["bare J, NumPy"] = lambda: reference.numpy_cost(x, x_b, rows, every, DT)
    first = {name: first_call(function) for name, function in cases.items()}
    if steps <= 1000:  # beyond that, rounding errors have grown to the size of the attractor
        for name, function in cases.items():
            np.testing.assert_allclose(jax.tree.leaves(function())[0], cases["J"](), rtol=1e-5, err_msg=name)
    times = interleave(cases, rounds=30, budget=budget, shortest=0.002)
    fastest = min((name for name in cases if name != "J and gradient"), key=lambda name: times[name].seconds)
    states = compiled_bytes(lambda c, v: jax.value_and_grad(c)(v), cost, v) / (8 * n)
    return [
        Record(
            what=name,
            size=f"n = {n}, {steps} steps",
            compile_seconds=None if "NumPy" in name else max(0.0, first[name] - times[name].seconds),
            seconds=times[name].seconds,
            cpu_seconds=times[name].cpu_seconds,
            reference=fastest,
            ratio=times[name].seconds / times[fastest].seconds,
            target=TARGETS.get(n) if name == "J and gradient" else None,
            peak_bytes=round(8 * n * states) if name == "J and gradient" else None,
            more={"states / sqrt(T)": states / steps**0.5, "limit": 5} if name == "J and gradient" else {},
        )
        for name in cases
    ]


def measure_peak(n: int, steps: int, gradient: bool) -> None:
    """Print the largest resident memory of this process after a call (its part of the benchmark)."""
    import resource

    jax.config.update("jax_enable_x64", True)
    cost, _, _ = problem(n, steps)
    call = jax.jit(lambda c, v: jax.value_and_grad(c)(v) if gradient else c(v))
    jax.block_until_ready(call(cost, cost.control()))
    print(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def peak(n: int, steps: int) -> Record:
    """Measure what the gradient adds to a process that evaluates J, in processes of their own."""
    code = "from benchmarks.adjoint import measure_peak; measure_peak({}, {}, {})"
    forward, both = (fresh_process(code.format(n, steps, flag)) for flag in (False, True))
    return Record(
        what="J and gradient, whole process",
        size=f"n = {n}, {steps} steps",
        peak_bytes=both,
        more={"above J alone, in states / sqrt(T)": (both - forward) / (8 * n) / steps**0.5, "limit MB": 1000},
    )


def main(
    *, n: tuple[int, ...] = (40, 4000), steps: tuple[int, ...] = (100, 1000, 10_000), budget: float = 8.0,
    json: Path | None = None,
) -> None:  # fmt: skip
    """Time J with its gradient beside the fastest J.

    Args:
        n: numbers of variables.
        steps: window lengths in model steps.
        budget: seconds for the rounds of each case.
        json: file for the records.
    """
    jax.config.update("jax_enable_x64", True)
    records = [record for size in n for length in steps for record in measure(size, length, budget)]
    report("adjoint", [*records, peak(max(n), max(steps))], json)


if __name__ == "__main__":
    cyclopts.run(main)
