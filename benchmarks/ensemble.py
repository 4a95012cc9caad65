"""Ensemble analyses beside bare NumPy: the ETKF, many of them in one call, and the LETKF on a plane and a long line."""

from __future__ import annotations

import os
from time import perf_counter

# More threads slow NumPy down on matrices as small as these; it has to be said before NumPy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cyclopts
import jax
import jax.numpy as jnp
import numpy as np

import diffassim as da
from benchmarks.harness import Record, compiled_bytes, first_call, fresh_process, interleave, report
from benchmarks.peers_ensemble import cuthbert_runs, dapper_seconds
from benchmarks.peers_variational import installed
from diffassim.ensemble import GaspariCohn, nearest_observations
from diffassim.grids.grid import Grid

ETKF_TARGETS = {20: 1 / 3, 28: 1 / 2.5, 40: 1 / 2}  # ratios of wall time to NumPy's
DAPPER_TARGETS = {20: 1 / 35, 28: 1 / 25, 40: 1 / 18}
LETKF_TARGETS = {"float64": 1 / 4, "float32": 1 / 5}
SIDE = 7  # points of the square around each point whose observations it uses


def numpy_etkf(E: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the analysis with everything observed and R = I, as in a textbook."""
    N = len(E)
    mean = E.mean(0)
    X = E - mean
    values, vectors = np.linalg.eigh(X @ X.T + (N - 1) * np.eye(N, dtype=E.dtype))
    weights = (vectors / values) @ (vectors.T @ (X @ (y - mean)))
    transform = (vectors * np.sqrt((N - 1) / values)) @ vectors.T
    return mean + (weights + transform) @ X


def numpy_letkf(E: np.ndarray, y: np.ndarray, nearest: np.ndarray, taper: np.ndarray) -> np.ndarray:
    """Return the analysis with everything observed and R = I, in a loop over points."""
    N = len(E)
    mean = E.mean(0)
    X = E - mean
    posterior = np.empty_like(E)
    diagonal = (N - 1) * np.eye(N, dtype=E.dtype)
    for point, (chosen, rho) in enumerate(zip(nearest, taper, strict=True)):
        Y = X[:, chosen]
        weighted = Y * rho
        values, vectors = np.linalg.eigh(weighted @ Y.T + diagonal)
        weights = (vectors / values) @ (vectors.T @ (weighted @ (y - mean)[chosen]))
        transform = (vectors * np.sqrt((N - 1) / values)) @ vectors.T
        posterior[:, point] = mean[point] + (weights + transform) @ X[:, point]
    return posterior


def compared(
    what: str, size: str, dtype: str, ours: Callable[[], Any], theirs: Callable[[], Any], target: float | None,
    budget: float, tolerance: float, **fields: Any,
) -> Record:  # fmt: skip
    """Return the record of a pair of functions, after a check that they return the same analysis."""
    first = first_call(ours)
    difference = float(np.max(np.abs(np.asarray(ours()) - theirs())))
    if not difference <= tolerance:
        raise RuntimeError(f"{what}, {size}, {dtype}: the analyses differ by {difference:.1e}")
    times = interleave({"ours": ours, "NumPy": theirs}, rounds=30, budget=budget)
    return Record(
        what=what,
        size=size,
        dtype=dtype,
        compile_seconds=max(0.0, first - times["ours"].seconds),
        seconds=times["ours"].seconds,
        cpu_seconds=times["ours"].cpu_seconds,
        reference="NumPy",
        ratio=times["ours"].seconds / times["NumPy"].seconds,
        target=target,
        more={"differs by": difference, "cpu ratio": times["ours"].cpu_seconds / times["NumPy"].cpu_seconds},
        **fields,
    )


def numpy_cycle(E: np.ndarray, rows: np.ndarray, dt: float, steps: int) -> np.ndarray:
    """Return the means of a cycled ETKF: Lorenz-96 by the classical Runge-Kutta method, members in one array."""

    def tendency(x: np.ndarray) -> np.ndarray:
        return (np.roll(x, -1, 1) - np.roll(x, 2, 1)) * np.roll(x, 1, 1) - x + 8.0

    means = np.empty_like(rows)
    for time, y in enumerate(rows):
        for _ in range(steps):
            k1 = dt * tendency(E)
            k2 = dt * tendency(E + k1 / 2)
            k3 = dt * tendency(E + k2 / 2)
            E = E + (k1 + 2 * k2 + 2 * k3 + dt * tendency(E + k3)) / 6
        E = numpy_etkf(E, y)
        E = E.mean(0) + 1.05 * (E - E.mean(0))
        means[time] = E.mean(0)
    return means


def cycle(N: int, n: int, times: int, budget: float) -> list[Record]:
    """Return our record beside NumPy, and those of the peers that are installed."""
    model, rng = da.models.Lorenz96(dt=0.05), np.random.default_rng(N)
    start = da.rollout(model, jnp.asarray(8 + rng.normal(size=n)), 500, at=jnp.array([500]))[0]
    truth = np.asarray(da.rollout(model, start, times))
    E, rows = truth[0] + rng.normal(size=(N, n)), truth[1:] + rng.normal(size=(times, n))
    record = da.analysis_times(da.Observations(rows, np.arange(1, times + 1), error=da.covariances.Diagonal(std=1.0)))
    method, members = da.ETKF(inflation=1.05), jnp.asarray(E)
    ours = lambda: da.cycle(method, model, members, record)[1].analysis.mean  # noqa: E731
    what, size = f"cycled ETKF, N = {N}", f"n = {n}, {times} cycles"
    found = compared(
        what, size, "float64", ours, lambda: numpy_cycle(E, rows, 0.05, 1), ETKF_TARGETS.get(N), budget, 1e-6
    )
    return [found, *peers(what, size, N, model, E, rows, ours, budget)]


def peers(
    what: str, size: str, N: int, model: Any, E: np.ndarray, rows: np.ndarray, ours: Callable[[], Any], budget: float
) -> list[Record]:
    """Return our time as a ratio to DAPPER's, which returns the same means, and to cuthbert's, which does not."""
    records = []
    if installed("dapper") and E.shape[1] == 40:
        slow = dapper_seconds(E, rows, np.asarray(ours()))
        mine = interleave({"ours": ours}, rounds=10, budget=budget)["ours"].seconds
        for name, seconds in slow.items():
            target = DAPPER_TARGETS.get(N) if name == "DAPPER" else None
            more = {f"{name} s": seconds}
            records.append(
                Record(what, size, seconds=mine, reference=name, ratio=mine / seconds, target=target, more=more)
            )
    if installed("cuthbert"):
        times = interleave({"ours": ours} | cuthbert_runs(model, E, rows), rounds=10, budget=budget)
        mine, fastest = times.pop("ours"), min(times, key=lambda name: times[name].seconds)
        records.append(
            Record(
                what, size, seconds=mine.seconds, cpu_seconds=mine.cpu_seconds, reference=fastest,
                ratio=mine.seconds / times[fastest].seconds, target=1.0 if min(ETKF_TARGETS) == N else None,
                more={"cpu ratio": mine.cpu_seconds / min(t.cpu_seconds for t in times.values())},
            )
        )  # fmt: skip
    return records


def many(count: int, N: int, n: int, budget: float) -> Record:
    rng = np.random.default_rng(0)
    E, y = (rng.normal(size=shape).astype(np.float32) for shape in ((count, N, n), (count, n)))
    one = lambda pair: da.ETKF().analyze(None, pair[0], _observed(pair[1]))[0]  # noqa: E731
    # As `jax.vmap`, in batches that stay in the caches of a processor; an accelerator takes all at once.
    analyze = jax.jit(lambda E, y: jax.lax.map(one, (E, y), batch_size=40 if jax.default_backend() == "cpu" else count))
    arrays = jnp.asarray(E), jnp.asarray(y)
    loop = lambda: np.stack([numpy_etkf(*pair) for pair in zip(E, y, strict=True)])  # noqa: E731
    return compared(
        f"{count} ETKF in one call, N = {N}", f"n = {n}", "float32", lambda: analyze(*arrays), loop, 1 / 8, budget, 1e-3
    )


def letkf(points: int, N: int, dtype: str, budget: float) -> Record:
    shape, grid, taper = (points, points), Grid(1.0, (True, True)), GaspariCohn(1.2)
    rng = np.random.default_rng(1)
    E, y = rng.normal(size=(N, *shape)).astype(dtype), rng.normal(size=shape).astype(dtype)
    places = grid.points(shape)
    nearest = nearest_observations(grid, shape, places, SIDE * SIDE)
    apart = grid.distance(places[:, None], places[nearest], shape)
    rho = np.asarray(taper(apart)).astype(dtype)
    method = da.LETKF(localization=taper, grid=grid, nearest=nearest, **_batch())
    analyze = jax.jit(lambda method, E, y: method.analyze(None, E, _observed(y))[0])
    arrays = method, jnp.asarray(E), jnp.asarray(y)
    flat, table = E.reshape(N, -1), np.asarray(nearest)
    return compared(
        f"LETKF, N = {N}", f"{points} x {points}, {SIDE * SIDE} local observations", dtype,
        lambda: analyze(*arrays), lambda: numpy_letkf(flat, y.ravel(), table, rho).reshape(E.shape),
        LETKF_TARGETS[dtype], budget, 1e-8 if dtype == "float64" else 1e-3,
        peak_bytes=compiled_bytes(analyze, *arrays),
    )  # fmt: skip


def _observed(y: Any) -> da.Observations:
    std = jnp.ones((), y.dtype)
    return da.Observations(y[None], [0], error=da.covariances.Diagonal(std=std))


def _batch() -> dict[str, int]:
    """Return what an accelerator needs to be busy; a CPU's caches are served by the default."""
    return {} if jax.default_backend() == "cpu" else {"batch": 1 << 16}


def measure_long_line(n: int, N: int) -> None:
    """Print time, memory and error of one LETKF analysis of a long line (its part of the benchmark)."""
    import json
    import resource

    rng = np.random.default_rng(2)
    model = da.models.Lorenz96(dt=np.float32(0.01))
    start = jnp.asarray(8 + rng.normal(size=n), jnp.float32)
    truth = np.asarray(jax.jit(lambda x: da.rollout(model, x, 500, at=jnp.array([500]))[0])(start))
    drawn = np.empty((N + 1, n), np.float32)
    for row in drawn:  # one after the other: a long line in double precision would be the largest array of all
        row[:] = truth + np.float32(0.3) * rng.standard_normal(n, np.float32)
    drawn[:N] += drawn[N] - drawn[:N].mean(axis=0)  # the mean errs by as much as a member
    E = jnp.asarray(drawn[:N])
    del drawn
    values = np.arctan(truth) + np.float32(0.05) * rng.standard_normal(n, np.float32)
    grid = Grid(np.float32(1.0))
    error = da.covariances.Diagonal(std=np.float32(0.05))
    H = da.observations.Function(jnp.arctan)
    places = grid.points((n,))
    began = perf_counter()
    nearest = jax.block_until_ready(nearest_observations(grid, (n,), places, 15))
    searched = perf_counter() - began
    taper = GaspariCohn(np.float32(2.0))
    method = da.LETKF(localization=taper, grid=grid, nearest=nearest, places=places, **_batch())
    analyze = jax.jit(
        lambda method, E, y: method.analyze(None, E, da.Observations(y[None], [0], H, error))[0].mean(axis=0)
    )
    call = partial(analyze, method, E, jnp.asarray(values))
    first = first_call(call)
    began = perf_counter()
    found = jax.block_until_ready(call())
    seconds = perf_counter() - began
    rms = [float(np.sqrt(np.mean((np.asarray(x) - truth) ** 2))) for x in (E.mean(axis=0), found)]
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"first": first, "seconds": seconds, "search": searched, "peak": peak, "rms": rms}))


def long_line(n: int, N: int) -> Record:
    """Measure one analysis of everything observed through the arctangent, in a process of its own."""
    found = fresh_process(f"from benchmarks.ensemble import measure_long_line as m; m({n}, {N})", timeout=1200)
    return Record(
        what=f"LETKF, N = {N}, whole process",
        size=f"line of {n}, 15 local observations",
        dtype="float32",
        compile_seconds=max(0.0, found["first"] - found["seconds"]),
        seconds=found["seconds"],
        peak_bytes=found["peak"],
        more={"search s": found["search"], "rms prior": found["rms"][0], "rms": found["rms"][1]},
    )


def main(
    *, members: tuple[int, ...] = (20, 28, 40), n: int = 40, times: int = 500, experiments: int = 1000,
    points: int = 128, line: int = 1_000_000, budget: float = 15.0, json: Path | None = None,
) -> None:  # fmt: skip
    """Time ensemble analyses beside loops in NumPy that return the same.

    Args:
        members: ensemble sizes of the ETKF.
        n: variables of the ETKF.
        times: analyses of a cycle.
        experiments: analyses in one call.
        points: points of a side of the plane.
        line: points of the long line.
        budget: seconds for the rounds of each case.
        json: file for the records.
    """
    jax.config.update("jax_enable_x64", True)
    records = [record for N in members for record in cycle(N, n, times, budget / 3)]
    records.append(many(experiments, min(members), n, budget))
    records += [letkf(points, min(members), dtype, budget) for dtype in ("float64", "float32")]
    report("ensemble", [*records, long_line(line, min(members))], json)


if __name__ == "__main__":
    cyclopts.run(main)
