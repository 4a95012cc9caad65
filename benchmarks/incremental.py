"""Incremental 4D-Var beside plain Gauss-Newton on a transported tracer: full-model work and time at equal cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cyclopts
import jax
import jax.numpy as jnp
import numpy as np

import diffassim as da
from benchmarks.harness import Record, first_call, interleave, report
from diffassim.core import tree
from diffassim.variational import Incremental, PrimalCG, Simplified
from diffassim.variational.minimizers.trust_region import truncated_cg


def eddies(n: int) -> tuple[Any, Any]:
    """Return divergence-free winds across the faces of n x n cells, the same flow on every grid, at most one."""
    faces, h = np.arange(n) / n, 1 / n

    def stream(y: Any, x: Any) -> Any:
        whole = 2 * np.pi
        return np.sin(whole * x) * np.cos(whole * y) + 0.5 * np.cos(2 * whole * x + 1) * np.sin(whole * y)

    corner = stream(faces[:, None], faces[None])
    bound = 4 * np.pi * h  # of a difference along a face
    return (
        (corner - stream(faces[:, None], faces[None] + h)) / bound,
        (stream(faces[:, None] + h, faces[None]) - corner) / bound,
    )


def transport(n: int, spacing: float, dt: float) -> da.models.AdvectionDiffusion:
    grid = da.grids.Grid((spacing, spacing), (True, True))
    wind = tuple(0.35 * w for w in eddies(n))
    return da.models.AdvectionDiffusion(wind=wind, diffusivity=0.05, grid=grid, dt=dt)


def problem(n: int, steps: int, stations: int, seed: int = 0) -> da.StrongConstraint4DVar:
    """Return the cost of a tracer on n x n cells, observed every four steps at places drawn anew each time."""
    rng = np.random.default_rng(seed)
    model = transport(n, 1.0, 0.5)
    B = da.covariances.Gaussian(0.3, 4.0, model.grid)
    x_b = jnp.full((n, n), 2.0)
    at = np.arange(4, steps + 1, 4)
    places = rng.uniform(0, n, size=(len(at), stations, 2))
    H = da.observations.Interpolate(None, (1.0, 1.0), periodic=(True, True))
    truth = da.rollout(model, x_b + B.sample(jax.random.key(seed), x_b), steps, at=at)
    values = jax.vmap(H)(truth, jnp.asarray(places)) + 0.05 * rng.normal(size=(len(at), stations))
    obs = da.Observations(values, at, H, da.covariances.Diagonal(std=0.05), where=places)
    return da.StrongConstraint4DVar(model, x_b, B, obs)


@jax.jit
def operational(cost: Any, simplified: Any, v: Any) -> tuple[Any, Any]:
    """One outer iteration of the operational form: full departures, simplified tangent and adjoint; and |dJ/dv|."""
    _, tangent = jax.linearize(simplified.cost(cost).residuals, v)
    adjoint = jax.linear_transpose(tangent, v)
    (gradient,) = adjoint(cost.residuals(v))
    step = truncated_cg(lambda p: adjoint(tangent(p))[0], gradient, jnp.inf, 1e-3, 200).step
    v = tree.add(v, step)
    return v, tree.norm(jax.grad(lambda v: cost(v))(v))


def main(
    *, n: int = 96, steps: int = 24, stations: int = 300, tolerance: float = 1e-3, rounds: int = 3, outer: int = 12,
    pairs: int = 20, json: Path | None = None,
) -> None:  # fmt: skip
    """Compare searches for one minimum.

    Args:
        n: cells along each axis, a multiple of four.
        steps: window length in model steps.
        stations: observations at each time.
        tolerance: gradient norm at which all searches stop.
        rounds: interleaved rounds.
        outer: iterations of the operational form.
        pairs: directions that precondition the inner loops.
        json: file for the records.
    """
    jax.config.update("jax_enable_x64", True)
    cost = problem(n, steps, stations)
    half = Simplified(transport(n // 2, 2.0, 1.0), da.models.Truncation(2, axes=2), every=2)
    quarter = Simplified(transport(n // 4, 4.0, 2.0), da.models.Truncation(4, axes=2), every=4)
    none, learning = PrimalCG(pairs=0), PrimalCG(pairs=pairs)
    plain = da.GaussNewton(tolerance=tolerance, inner=none)
    methods = {
        "plain Gauss-Newton": plain,
        "plain, preconditioned": plain.replace(inner=learning),
        "half the resolution": plain.replace(inner=Incremental(half, none)),
        "half, preconditioned": plain.replace(inner=Incremental(half, learning)),
        "a quarter, then half, preconditioned": plain.replace(inner=Incremental((quarter, half), learning)),
    }
    cases = {name: lambda m=method: da.minimize(cost, m) for name, method in methods.items()}
    first = {name: first_call(run) for name, run in cases.items()}
    times = interleave(cases, rounds=rounds, budget=120)
    found = {name: run() for name, run in cases.items()}
    lowest = min(float(solution.cost) for solution in found.values())
    size = f"{n} x {n}, {steps} steps, {cost.observation_count()} observations"
    records = []
    for name, solution in found.items():
        simple = solution.search.simplified_work
        more = {
            "J above the lowest": f"{float(solution.cost) - lowest:.1e}",
            "|dJ/dv|": f"{float(solution.search.gradient_norm):.1e}",
            "outer": int(solution.search.iterations),
            "full gradients": float(solution.search.work),
            "simplified": "-" if simple is None else " + ".join(f"{float(w):.0f}" for w in simple),
        }
        records.append(
            Record(
                what=name,
                size=size,
                compile_seconds=max(0.0, first[name] - times[name].seconds),
                seconds=times[name].seconds,
                cpu_seconds=times[name].cpu_seconds,
                reference="plain Gauss-Newton",
                ratio=times[name].seconds / times["plain Gauss-Newton"].seconds,
                more=more,
            )
        )
    v, norm = cost.control(), jnp.inf
    for _ in range(outer):
        v, norm = operational(cost, half, v)
    gap = float(jax.jit(lambda v: cost(v))(v)) - lowest
    shares = {"J above the lowest": f"{gap:.1e}", "|dJ/dv|": f"{float(norm):.1e}", "outer": outer}
    records.append(Record(what="operational form, half the resolution", size=size, more=shares))
    report("incremental 4D-Var", records, json)


if __name__ == "__main__":
    cyclopts.run(main)
