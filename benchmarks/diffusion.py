"""Square roots by diffusion: implicit and explicit steps beside the spectral covariance of the same length."""

from __future__ import annotations

from pathlib import Path

import cyclopts
import jax
import jax.numpy as jnp
import numpy as np

import diffassim as da
from benchmarks.harness import Record, first_call, interleave, report


def measure(n: int, length: float, budget: float) -> list[Record]:
    grid = da.grids.Grid(periodic=(True, False))
    least = 2 * (int(2 * length**2) // 2 + 1)
    covariances = {
        "implicit diffusion, order 4": da.covariances.Diffusion(1.0, length, grid, order=4),
        "implicit diffusion, order 10": da.covariances.Diffusion(1.0, length, grid, order=10),
        f"explicit diffusion, order {least}": da.covariances.ExplicitDiffusion(1.0, length, grid, order=least),
        "Gaussian, spectral": da.covariances.Gaussian(1.0, length, grid),
    }
    v = jnp.asarray(np.random.default_rng(0).normal(size=(n, n)))
    root = jax.jit(lambda B, v: B.sqrt(v))
    cases = {name: lambda B=B: root(B, v) for name, B in covariances.items()}
    first = {name: first_call(function) for name, function in cases.items()}
    times = interleave(cases, rounds=20, budget=budget)
    reference = "implicit diffusion, order 10"
    return [
        Record(
            what=name, size=f"{n} x {n}, length {length:g} cells", compile_seconds=first[name] - times[name].seconds,
            seconds=times[name].seconds, cpu_seconds=times[name].cpu_seconds, reference=reference,
            ratio=times[name].seconds / times[reference].seconds,
            more={"ratio in processor time": times[name].cpu_seconds / times[reference].cpu_seconds},
        )
        for name in cases
    ]  # fmt: skip


def main(
    *, n: int = 256, lengths: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0), budget: float = 5.0, json: Path | None = None
) -> None:
    """Time the square root of covariances on an n x n grid.

    Args:
        n: points of each axis; one is periodic, one bounded.
        lengths: in cells. Explicit diffusion takes the fewest steps that are stable, twice its square.
        budget: seconds for the rounds of each length.
        json: file for the records.
    """
    jax.config.update("jax_enable_x64", True)
    report("diffusion", [record for length in lengths for record in measure(n, length, budget)], json)


if __name__ == "__main__":
    cyclopts.run(main)
