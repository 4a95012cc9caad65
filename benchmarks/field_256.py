"""4D-Var of a two-dimensional tracer field: time, memory, and which part of the search takes how much of it."""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import Any

import cyclopts
import jax
import jax.numpy as jnp
import numpy as np

import diffassim as da
from benchmarks.harness import Record, Timing, interleave, report

WIND, EMISSION = 0.2, 0.01  # largest wind in cells a step, emission of a pattern's center a step
SECTORS = 8
STD, ERROR = 0.3, 0.1  # of the background and of the observations
SECONDS, BYTES = 60.0, 4_000_000_000  # the aims


def winds(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the velocities across the faces of both axes: eddies without divergence, of a stream function."""
    phase = 2 * np.pi / n * (np.arange(n) - 0.5)
    y, x = np.meshgrid(phase, phase, indexing="ij")
    psi = np.sin(x) * np.cos(y) + 0.3 * np.sin(2 * (x + y))
    across = (psi - np.roll(psi, -1, 1), np.roll(psi, -1, 0) - psi)
    largest = max(np.abs(w).max() for w in across)
    return across[0] * WIND / largest, across[1] * WIND / largest


def patterns(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return emissions of some sectors: smooth patches of a sixteenth of the domain's width."""
    cells = np.arange(n)
    fields = []
    for place in rng.uniform(0, n, (SECTORS, 2)):
        squares = [(((cells - p + n / 2) % n - n / 2) / (n / 16)) ** 2 for p in place]
        fields.append(EMISSION * np.exp(-0.5 * (squares[0][:, None] + squares[1][None, :])))
    return np.stack(fields)


def problem(n: int, steps: int, count: int, dtype: Any, emissions: bool) -> tuple[da.StrongConstraint4DVar, Any]:
    """Return the cost and the true initial state, drawn from the background's distribution.

    Args:
        n: points of each axis.
        steps: window length.
        count: number of observations, each at a random place between the grid points and at a random step.
        dtype: of everything.
        emissions: whether emissions act, with strengths that are sought.
    """
    rng = np.random.default_rng(0)
    grid = da.grids.Grid(periodic=(True, True))
    B = da.covariances.Diffusion(std=STD, length=6.0, grid=grid, order=4)
    options: dict[str, Any] = {}
    if emissions:
        options = {"emissions": jnp.ones(SECTORS, dtype), "patterns": jnp.asarray(patterns(n, rng), dtype)}
    wind = tuple(jnp.asarray(w, dtype) for w in winds(n))
    model = da.models.AdvectionDiffusion(wind=wind, diffusivity=0.02, grid=grid, **options)
    background = jnp.full((n, n), 2.0, dtype)
    truth = background + B.sample(jax.random.key(0), background)
    true_model = model.replace(emissions=jnp.asarray(rng.lognormal(0, 0.5, SECTORS), dtype)) if emissions else model

    at = np.sort(rng.integers(1, steps + 1, count))
    each = np.bincount(at, minlength=steps + 1)[1:]
    slot = np.arange(count) - (np.cumsum(each) - each)[at - 1]  # padded: as many columns as the fullest step needs
    where = np.zeros((steps, each.max(), 2))
    where[at - 1, slot] = rng.uniform(0, n, (count, 2))
    mask = np.arange(each.max()) < each[:, None]
    H = da.observations.Interpolate(spacing=(1.0, 1.0), periodic=(True, True))
    obs = da.Observations(
        jnp.zeros(mask.shape, dtype), np.arange(1, steps + 1), operator=H, mask=mask,
        error=da.covariances.Diagonal(std=ERROR), where=jnp.asarray(where, dtype),
    )  # fmt: skip
    predict = jax.jit(lambda m, x: obs.predict(da.rollout(m, x, steps, at=obs.steps)))
    noise = ERROR * rng.normal(size=mask.shape)
    obs = obs.replace(values=predict(true_model, truth) + jnp.asarray(noise, dtype))
    prior = {"emissions": da.covariances.Diagonal(std=0.5)} if emissions else None
    return da.StrongConstraint4DVar(model, background, B, obs, parameters=prior), truth


def pieces(cost: da.StrongConstraint4DVar, v: Any, budget: float) -> dict[str, Timing]:
    """Time what a search is made of, each compiled alone: values, tangents and adjoints of B's root, model and H."""
    (stream,) = cost.observations
    names = tuple(cost.parameters or ())

    def start(v: Any) -> Any:
        model = cost.controlled_model(v)
        return cost.state(v), {name: getattr(model, name) for name in names}

    def run(part: Any) -> Any:
        x, parameters = part
        model = cost.model.replace(**parameters)
        return da.rollout(model, x, cost.steps, at=stream.steps, segment=cost.steps)

    cases, point = {}, v
    # Linear maps are pytrees of their coefficients, so that products with them can be compiled and timed alone.
    for name, function in (("covariance", start), ("model", run), ("interpolation", stream.innovation)):
        value = jax.jit(function)
        linearized = jax.jit(lambda u, f=function: jax.linearize(f, u))
        tangent = jax.jit(lambda map_, u: map_(u))
        adjoint = jax.jit(lambda map_, u, y: jax.linear_transpose(map_, u)(y)[0])
        out, coefficients = linearized(point)
        cases[f"{name}, value"] = lambda f=value, u=point: f(u)
        cases[f"{name}, linearized"] = lambda f=linearized, u=point: f(u)
        cases[f"{name}, tangent"] = lambda f=tangent, c=coefficients, u=point: f(c, u)
        cases[f"{name}, adjoint"] = lambda f=adjoint, c=coefficients, u=point, y=out: f(c, u, y)
        point = out
    return interleave(cases, rounds=7, budget=budget)


def shares(times: dict[str, Timing], search: Any) -> dict[str, float]:
    """Return the processor seconds of each part in a search, by counts.

    Every iteration takes a linearization, an adjoint (the gradient) and the value of a trial step; every product of the
    inner loop a tangent and an adjoint. Both models' adjoints count as adjoint, not as model.
    """
    outer = int(search.iterations)
    products = round(float(search.work) - 1.3 * outer)
    found = {}
    for name in ("covariance", "model", "interpolation"):
        seconds = {kind: times[f"{name}, {kind}"].cpu_seconds for kind in ("value", "linearized", "tangent", "adjoint")}
        forward = outer * (seconds["linearized"] + seconds["value"]) + products * seconds["tangent"]
        backward = (outer + products) * seconds["adjoint"]
        if name == "model":
            found |= {"model": forward, "adjoint of the model": backward}
        else:
            found[name] = forward + backward
    return found


def measure(
    n: int, steps: int, count: int, dtype: Any, emissions: bool, reduction: float, budget: float
) -> list[Record]:
    cost, truth = problem(n, steps, count, dtype, emissions)
    v = cost.control()
    slope = jax.tree.leaves(jax.jit(lambda c, v: jax.grad(c)(v))(cost, v))
    at_start = float(np.sqrt(sum(float(jnp.vdot(g, g)) for g in slope)))
    method = da.GaussNewton(tolerance=reduction * at_start, memory=2**30)

    def timed() -> tuple[Any, float, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        solution = jax.block_until_ready(da.minimize(cost, method))
        return solution, time.perf_counter() - wall, time.process_time() - cpu

    _, first, _ = timed()
    solution, seconds, cpu_seconds = timed()
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # before anything else is compiled
    search, size = solution.search, f"{n} x {n}, {steps} steps, {count} observations"
    what = "state and emissions" if emissions else "state"
    more = {
        "result": da.Result(int(search.result)).name,
        "gradient reduced by": at_start / float(search.gradient_norm),
        "J": float(solution.cost),
        "iterations": int(search.iterations),
        "products": round(float(search.work) - 1.3 * int(search.iterations)),
        "error over the background's": float(jnp.std(solution.state - truth) / jnp.std(cost.background - truth)),
    }
    if emissions:
        more["strengths found"] = np.asarray(solution.model.emissions).round(2).tolist()
    records = [
        Record(
            what=f"analysis of the {what}", size=size, dtype=np.dtype(dtype).name, compile_seconds=first - seconds,
            seconds=seconds, cpu_seconds=cpu_seconds, target=SECONDS, peak_bytes=peak, reference="seconds",
            ratio=seconds, more=more | {"limit MB": BYTES // 10**6},
        )
    ]  # fmt: skip
    times = pieces(cost, solution.control, budget)
    parts = shares(times, search)
    value = times["model, value"]
    ratios = {
        name.removeprefix("model, "): t.cpu_seconds / value.cpu_seconds for name, t in times.items() if "model" in name
    }
    share = {name: part / cpu_seconds for name, part in parts.items()}
    records.append(
        Record(
            what=f"its parts: {what}", size=size, dtype=np.dtype(dtype).name, seconds=value.seconds,
            cpu_seconds=value.cpu_seconds, reference="processor time of the search", ratio=sum(share.values()),
            more=share | {f"model {name} over value": r for name, r in ratios.items()},
        )
    )  # fmt: skip
    return records


def main(
    *, n: int = 256, steps: int = 48, observations: int = 2000, reduction: float = 1e-3, budget: float = 20.0,
    rows: tuple[str, ...] = ("float64", "float64 emissions", "float32"), json: Path | None = None,
) -> None:  # fmt: skip
    """Analyse a tracer field of n x n points from irregular observations, to a gradient reduced by a stated factor.

    The memory is the largest of the process so far, which for the first row is that of its search alone. The parts are
    timed alone, multiplied by their counts and set against the processor time of the whole search: what is missing to
    one are the vectors of the conjugate gradients.

    Args:
        n: points of each axis.
        steps: window length in model steps.
        observations: number of observed values, at random places and steps.
        reduction: of the gradient's norm at which the search ends.
        budget: seconds for the rounds of the parts of each row.
        rows: which rows: a dtype, with "emissions" where their strengths are sought as well.
        json: file for the records.
    """
    jax.config.update("jax_enable_x64", True)
    records = []
    for row in rows:
        dtype, *what = row.split()
        records += measure(n, steps, observations, jnp.dtype(dtype), bool(what), reduction, budget)
    report("field", records, json)


if __name__ == "__main__":
    cyclopts.run(main)
