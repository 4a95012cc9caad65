"""Observations that do not fit in memory: binned by place once, then a local analysis block by block."""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cyclopts
import jax
import jax.numpy as jnp
import numpy as np

import diffassim as da
from diffassim.diagnostics import explain_memory
from diffassim.ensemble import analyze_in_blocks
from diffassim.io.binned import Reports, bin_observations

CHUNK = 1_000_000
WAVES = 6  # of the truth along each axis


def _truth(places: np.ndarray, side: int) -> np.ndarray:
    phase = 2 * np.pi * WAVES * places / side
    return np.sin(phase[:, 0]) * np.cos(phase[:, 1])


def chunks(count: int, side: int, std: float) -> Iterator[Reports]:
    """Yield observations of a wave at random places, one chunk at a time."""
    for number in range(-(-count // CHUNK)):
        rng = np.random.default_rng(number)
        size = min(CHUNK, count - number * CHUNK)
        places = rng.uniform(0, side, (size, 2))
        values = _truth(places, side) + std * rng.standard_normal(size)
        yield Reports(values.astype(np.float32), places, np.float32(std))


def ensemble_of(side: int, members: int) -> jax.Array:
    """Return waves with errors of phase and height: no member knows the truth."""
    rng = np.random.default_rng(10**6)
    along = 2 * np.pi * WAVES * np.arange(side) / side
    shifts, heights = rng.normal(0, 0.4, (members, 2)), rng.normal(1, 0.3, members)
    rows, columns = np.sin(along + shifts[:, :1]), np.cos(along + shifts[:, 1:])
    return jnp.asarray(heights[:, None, None] * rows[:, :, None] * columns[:, None, :], jnp.float32)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main(
    *, observations: int = 100_000_000, side: int = 1000, members: int = 20, radius: float = 1.5, edge: float = 50.0,
    average: float | None = None, std: float = 1.0, directory: Path | None = None,
) -> None:  # fmt: skip
    """Bin observations, say what an analysis will need, analyse, and say what it took.

    Args:
        observations: how many there are.
        side: points along each of the two axes.
        members: of the ensemble.
        radius: of the taper, in grid points.
        edge: of the boxes that are analysed together.
        average: edge of the boxes whose observations become one; default: all are kept.
        std: of the errors.
        directory: for the store; default: a temporary one.
    """
    grid, shape = da.grids.Grid(spacing=(1.0, 1.0)), (side, side)
    truth = _truth(np.stack(np.meshgrid(*2 * [np.arange(side)], indexing="ij"), -1).reshape(-1, 2), side)
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        began = time.process_time()
        stored = bin_observations(
            chunks(observations, side, std), Path(folder) / "y.zarr", grid, shape, edge, average=average
        )
        binned, peak = time.process_time() - began, _peak()
        print(
            f"{observations} observations, {len(stored)} kept: {binned:.0f} s of processor time, {peak:.2f} GB at most"
        )
        ensemble = ensemble_of(side, members)
        method = da.LETKF(localization=da.ensemble.GaspariCohn(radius), grid=grid)
        report = explain_memory(method, None, ensemble, stored)
        print(report)
        before, began = _peak(), time.process_time()
        posterior, info = analyze_in_blocks(method, ensemble, stored)
        taken = time.process_time() - began
    errors = [float(np.sqrt(np.mean((np.asarray(x.mean(axis=0)).ravel() - truth) ** 2))) for x in (ensemble, posterior)]
    print(
        f"analysis of {side * side} points with {int(info.count)} observations: {taken:.0f} s of processor time; "
        f"predicted {report.total / 1e9:.2f} GB, the whole process {_peak():.2f} GB at most ({before:.2f} GB before)"
    )
    print(f"error of the mean before {errors[0]:.4f}, after {errors[1]:.4f}; spread {float(info.analysis_spread):.4f}")
    print(f"jax {jax.__version__}, numpy {np.__version__}, {jax.devices()[0].device_kind}, float32")


if __name__ == "__main__":
    cyclopts.run(main)
