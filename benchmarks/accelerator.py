"""What an accelerator makes of the same programs: a table in ten minutes at most, to be run where one is at hand.

Roots of many small matrices in three ways, among which the default by backend should be the fastest; ETKF and LETKF
analyses, and 4D-Var with its gradient. On a CPU with `--scale 0` it takes a few seconds, which shows that it runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cyclopts
import jax
import jax.numpy as jnp

import diffassim as da
from benchmarks.harness import Record, compiled_bytes, first_call, interleave, report
from diffassim.core.gram_roots import inverse_root_products
from diffassim.core.linalg import symmetric_inverse_sqrt
from diffassim.core.newton_schulz import gram_inverse_sqrt, newton_schulz

BUDGET = 600.0  # seconds of the whole
SIZES = (20, 40)  # of the matrices
ONE = da.covariances.Diagonal(std=jnp.float32(1.0))


def roots(count: int, N: int) -> tuple[dict[str, Callable[[], Any]], Callable[[], dict[str, float]]]:
    """Return the ways to the inverse roots of many matrices, and how to find the largest residual of each.

    Args:
        count: of the matrices.
        N: of their rows.
    """
    S = jax.random.normal(jax.random.key(0), (count, N, N), jnp.float32)
    A = jnp.eye(N, dtype=S.dtype)[None] + S @ S.mT / (N - 1)
    x = jax.random.normal(jax.random.key(1), (count, N, 1), jnp.float32)
    ways = {
        "eigenvectors (LAPACK, cuSOLVER or Jacobi)": lambda A: jax.vmap(lambda a: symmetric_inverse_sqrt(a, 1.0))(A),
        "Newton-Schulz, all at once": lambda A: newton_schulz(A)[0],
        "the default": lambda A: jax.vmap(gram_inverse_sqrt)(A),
        "the default with one column": lambda A: jax.vmap(inverse_root_products)(A, x)[0],
    }
    compiled = {name: jax.jit(way) for name, way in ways.items()}
    few = A[: min(count, 64)]

    def errors() -> dict[str, float]:
        found = {}
        for name, way in compiled.items():
            T = way(A)[: few.shape[0]]
            if T.shape[-1] == N:
                residual = T @ few @ T - jnp.eye(N, dtype=T.dtype)[None]
                found[name] = float(jnp.max(jnp.abs(residual)))
        return found

    return {name: (lambda way=way: way(A)) for name, way in compiled.items()}, errors


def analyses(points: int, members: int) -> dict[str, Callable[[], Any]]:
    """Return an ETKF and an LETKF analysis of a line with half of its points observed."""
    ensemble = 8 + jax.random.normal(jax.random.key(2), (members, points), jnp.float32)
    values = 8 + jax.random.normal(jax.random.key(3), (1, points // 2), jnp.float32)
    y = da.Observations(values, [0], da.observations.Subsample(every=2), ONE)
    batch = 128 if jax.default_backend() == "cpu" else 65_536
    taper = da.ensemble.GaspariCohn(jnp.float32(4.0))
    methods = {"ETKF": da.ETKF(), "LETKF": da.LETKF(localization=taper, batch=batch).prepared(ensemble, (y,))[0]}
    prepared = {name: method.prepared(ensemble, (y,))[0] for name, method in methods.items()}
    run = jax.jit(lambda method, x, y: method.analyze(None, x, y)[0])
    return {f"{name} analysis": (lambda method=method: run(method, ensemble, y)) for name, method in prepared.items()}


def four_d_var(points: int) -> dict[str, Callable[[], Any]]:
    """Return J with its gradient over a window of Lorenz-96."""
    x = 8 + jax.random.normal(jax.random.key(4), (points,), jnp.float32)
    values = 8 + jax.random.normal(jax.random.key(5), (5, points), jnp.float32)
    cost = da.StrongConstraint4DVar(
        da.models.Lorenz96(), x, ONE, da.Observations(values, [5, 10, 15, 20, 25], error=ONE)
    )
    v, gradient = cost.control(), jax.jit(jax.value_and_grad(lambda v, c: c(v)))
    return {"4D-Var, J and gradient": lambda: gradient(v, cost)}


def groups(scale: int) -> Iterator[tuple[str, dict[str, Callable[[], Any]], Callable[[], dict[str, float]]]]:
    """Yield what is timed together: its size in words, the cases, and errors by case."""
    for N in SIZES:
        count = 64 if scale == 0 else 4096 * 4 ** (scale - 1)
        cases, errors = roots(count, N)
        yield f"{count} matrices of {N} x {N}", cases, errors
    points = 512 if scale == 0 else 10**5 if scale == 1 else 10**6
    yield f"{points} points, 20 members", analyses(points, 20), dict
    yield f"{points} points, 25 steps", four_d_var(points), dict


def main(*, scale: int = 2, budget: float = BUDGET, json: Path | None = None) -> None:
    """Time all cases in float32, until the budget is used up.

    Args:
        scale: 0: tiny; 1: for a CPU; 2: for a GPU.
        budget: seconds after which no further group is begun.
        json: file for the records.
    """
    began, records = time.perf_counter(), []
    for size, cases, errors in groups(scale):
        if time.perf_counter() - began > budget:
            records.append(Record(what="left out: the budget is used up", size=size, dtype="float32"))
            continue
        first = {name: first_call(case) for name, case in cases.items()}
        timings = interleave(cases, rounds=5, budget=min(20.0, budget / 10))
        reference = min(timings, key=lambda name: timings[name].seconds)
        residuals = errors()
        for name, timing in timings.items():
            records.append(
                Record(
                    what=name, size=size, dtype="float32", compile_seconds=first[name] - timing.seconds,
                    seconds=timing.seconds, cpu_seconds=timing.cpu_seconds, reference=f"the fastest: {reference}",
                    ratio=timing.seconds / timings[reference].seconds, peak_bytes=compiled_bytes(cases[name]),
                    more={"residual": residuals[name]} if name in residuals else {},
                )
            )  # fmt: skip
    report("accelerator", records, json)


if __name__ == "__main__":
    cyclopts.run(main)
