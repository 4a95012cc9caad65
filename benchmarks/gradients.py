"""Gradients through the solution of a short window: time beside the solve, memory, and error against differences."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import cyclopts
import jax
import jax.numpy as jnp
import numpy as np

import diffassim as da
from benchmarks.harness import Record, compiled_bytes, interleave, memory_bytes, report
from benchmarks.problems import load_window, lorenz96_cost


def scores(cost: Any) -> Any:
    """Return score(theta, method, unrolled), and theta: forcing, the scales of B and R, shifts of y and x_b."""
    weights = jnp.asarray(np.random.default_rng(1).normal(size=cost.background.shape))

    def score(theta: Any, method: Any, unrolled: bool = False) -> Any:
        stream = cost.observations[0]
        given = cost.replace(
            model=cost.model.replace(forcing=theta[0]),
            B=da.covariances.Diagonal(std=theta[1]),
            observations=stream.replace(error=da.covariances.Diagonal(std=theta[2]), values=stream.values + theta[3]),
            background=cost.background + theta[4],
        )
        return jnp.vdot(weights, da.minimize(given, method, unrolled=unrolled).state)

    return score, jnp.array([8.0, 1.0, 1.0, 0.0, 0.0])


def differences(score: Any, theta: Any, h: float = 1e-5) -> Any:
    """Return central differences of the score with a tightly converged search."""
    run = jax.jit(lambda t: score(t, da.GaussNewton(tolerance=1e-9)))
    return np.array([(run(theta.at[i].add(h)) - run(theta.at[i].add(-h))) / (2 * h) for i in range(theta.size)])


def measure(arrays: dict[str, Any], rounds: int) -> list[Record]:
    score, theta = scores(lorenz96_cost(arrays))
    size = f"n = {arrays['x_background'].size}, {len(arrays['observations'])} times"
    expected = differences(score, theta)
    method = da.GaussNewton()
    # Unrolled, every iteration allowed is stored.
    few = da.GaussNewton(max_iterations=12, inner=da.variational.PrimalCG(max_iterations=30))

    functions = {
        "solve": lambda t: score(t, method),
        "solve and implicit gradient": jax.value_and_grad(lambda t: score(t, method)),
        "solve and unrolled gradient": jax.value_and_grad(lambda t: score(t, few, unrolled=True)),
    }
    programs, compile_seconds = {}, {}
    for name, function in functions.items():
        before = time.perf_counter()
        programs[name] = jax.jit(function).lower(theta).compile()
        compile_seconds[name] = time.perf_counter() - before
    cases = {name: lambda f=f: f(theta) for name, f in programs.items()}
    times = interleave(cases, rounds=rounds)
    records = []
    for name, program in programs.items():
        more = {}
        if "gradient" in name:
            gradient = program(theta)[1]
            more["error"] = float(np.linalg.norm(gradient - expected) / np.linalg.norm(expected))
        records.append(
            Record(
                what=name,
                size=size,
                compile_seconds=compile_seconds[name],
                seconds=times[name].seconds,
                cpu_seconds=times[name].cpu_seconds,
                reference="solve",
                ratio=times[name].seconds / times["solve"].seconds,
                peak_bytes=memory_bytes(program),
                more=more,
            )
        )
    alone = times["solve and implicit gradient"].seconds - times["solve"].seconds
    records.append(
        Record(
            what="implicit gradient alone", size=size, seconds=alone, reference="solve",
            ratio=alone / times["solve"].seconds, target=1.5,
        )
    )  # fmt: skip
    return records + [_memory(score, theta, size, limit) for limit in (20, 200)]


def _memory(score: Any, theta: Any, size: str, limit: int) -> Record:
    method = da.GaussNewton(max_iterations=limit)
    needed = compiled_bytes(jax.grad(lambda t: score(t, method)), theta)
    return Record(what=f"implicit gradient, at most {limit} iterations", size=size, peak_bytes=needed)


def main(
    *, problem: Path | None = None, times: int = 10, seed: int = 0, rounds: int = 60, json: Path | None = None
) -> None:
    """Time gradients through the solution of one short window.

    Args:
        problem: stored window (npz); default: draw one.
        times: observation times of a drawn window.
        seed: of a drawn window.
        rounds: interleaved rounds.
        json: file for the records.
    """
    jax.config.update("jax_enable_x64", True)
    report("gradients", measure(load_window(problem, times, seed), rounds), json)


if __name__ == "__main__":
    cyclopts.run(main)
