"""Training on fields in files: samples a second, memory, and what it costs beside arrays in memory."""

from __future__ import annotations

import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cyclopts
import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr

from benchmarks.harness import Record, first_call, fresh_process, interleave, report
from diffassim.io.windows import WindowsOfFields
from diffassim.training import StoredArrays, fit

LENGTH, BATCH, CHUNK, FILES = 4, 16, 25, 8
OPTIMIZER = optax.adam(1e-3)


def write_record(folder: Path, kind: str, megabytes: float, size: int) -> None:
    """Write a record of random fields (size, size) in single precision, which no compression makes smaller.

    Each window of LENGTH times is one chunk. Files are written one after the other, so that this needs little memory.
    """
    times = max(LENGTH * BATCH, int(megabytes * 2**20 / (4 * size**2)) // (FILES * LENGTH) * LENGTH)
    rng = np.random.default_rng(0)
    for k in range(FILES):
        values = rng.normal(280, 10, (times, size, size)).astype(np.float32)
        dataset = xr.Dataset(
            {"t": (("time", "y", "x"), values, {"units": "K"})}, {"time": np.arange(k * times, (k + 1) * times)}
        )
        chunks = (LENGTH, size, size)
        if kind == "zarr":
            dataset.to_zarr(folder / f"{k}.zarr", consolidated=False, encoding={"t": {"chunks": chunks}})
        else:
            dataset.to_netcdf(folder / f"{k}.nc", engine="netcdf4", encoding={"t": {"chunksizes": chunks}})


def opened(folder: Path, kind: str) -> WindowsOfFields:
    """Return the windows of all files."""
    files = sorted(folder.glob(f"*.{kind}"))
    return WindowsOfFields(files, "t", length=LENGTH, stride=LENGTH, mean=280.0, std=10.0)


def network(width: int) -> list[jax.Array]:
    """Return the weights of two convolutions, from LENGTH - 1 fields to the next one."""
    keys = jax.random.split(jax.random.key(0))
    shapes = ((width, LENGTH - 1, 3, 3), (1, width, 3, 3))
    return [0.1 * jax.random.normal(k, s, jnp.float32) for k, s in zip(keys, shapes, strict=True)]


def loss(weights: Any, batch: Any, key: Any) -> Any:
    """Return the mean square error of the last field of each window."""
    hidden = jnp.tanh(jax.lax.conv(batch[:, :-1], weights[0], (1, 1), "SAME"))
    return jnp.mean((jax.lax.conv(hidden, weights[1], (1, 1), "SAME") - batch[:, -1:]) ** 2)


def train(data: Any, width: int, updates: int) -> Any:
    return fit(
        loss, network(width), data, optimizer=OPTIMIZER, steps=updates, batch_size=BATCH, chunk=CHUNK,
        key=jax.random.key(0),
    ).trained  # fmt: skip


def read_all(windows: WindowsOfFields, updates: int) -> None:
    """Read the batches of so many updates, and do nothing with them."""
    order = np.random.default_rng(0).permutation(len(windows))
    for first in range(0, updates * BATCH, BATCH):
        windows.read(np.take(order, range(first, first + BATCH), mode="wrap"))


def resident() -> int:
    """Return the largest resident memory of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # `getrusage` of Linux counts the process that started this one
        return 1024 * next(int(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def peak_of_an_epoch(folder: str, kind: str, width: int, most: int | None) -> dict[str, float]:
    """Train over all windows once, and return what this adds to the memory of one chunk of updates (own process)."""
    windows = opened(Path(folder), kind)
    held = np.zeros((BATCH, *windows.read(np.array([0])).shape[1:]), np.float32)
    train(StoredArrays(held), width, CHUNK)  # the program is compiled, one part has moved
    before = resident()
    updates = len(windows) // BATCH if most is None else min(most, len(windows) // BATCH)
    seconds = first_call(lambda: train(windows, width, updates))
    return {"bytes": resident() - before, "before": before, "updates": updates, "seconds": seconds}


def measure(kinds: tuple[str, ...], megabytes: float, size: int, width: int, updates: int, rounds: int) -> list[Record]:
    """Time trainings over files beside the same one over arrays, and measure the memory of an epoch."""
    records = []
    for kind in kinds:
        with tempfile.TemporaryDirectory() as folder:
            write_record(Path(folder), kind, megabytes, size)
            code = "import json; from benchmarks.loading import peak_of_an_epoch as f"
            found = fresh_process(f"{code}; print(json.dumps(f({folder!r}, {kind!r}, {width}, None)))", timeout=3000)
            windows = opened(Path(folder), kind)
            few = windows.read(np.arange(min(len(windows), 16 * BATCH)))
            cases: dict[str, Callable[[], Any]] = {
                "arrays at the device": lambda few=few: train(few, width, updates),
                "arrays of the host": lambda few=few: train(StoredArrays(few), width, updates),
                f"{kind} files": lambda windows=windows: train(windows, width, updates),
                f"{kind} files, reading alone": lambda windows=windows: read_all(windows, updates),
            }
            records += _records(cases, f"{len(windows)} windows of {LENGTH} x {size} x {size}", updates, rounds, found)
            windows.close()
    return records


def _records(cases: Any, what: str, updates: int, rounds: int, epoch: dict[str, float]) -> list[Record]:
    for case in cases.values():
        case()
    times = interleave(cases, rounds=rounds, budget=120.0)
    reference, _, files, _ = cases
    rows = [
        Record(
            what=name, size=what, dtype="float32", seconds=times[name].seconds / updates,
            cpu_seconds=times[name].cpu_seconds / updates, reference=reference,
            ratio=times[name].seconds / times[reference].seconds,
            more={"samples/s": updates * BATCH / times[name].seconds},
        )
        for name in cases
    ]  # fmt: skip
    memory = Record(
        what=f"{files}, memory of an epoch above that of one chunk", size=f"{epoch['updates']} updates of {BATCH}",
        dtype="float32", seconds=epoch["seconds"] / epoch["updates"], peak_bytes=int(epoch["bytes"]),
        more={"process before, MB": epoch["before"] / 1e6},
    )  # fmt: skip
    return [*rows, memory]


def main(
    *, kinds: tuple[str, ...] = ("nc", "zarr"), megabytes: float = 64, size: int = 64, width: int = 8,
    updates: int = 50, rounds: int = 3, json: Path | None = None,
) -> None:  # fmt: skip
    """Time training over files beside training over arrays in memory, and measure the memory of an epoch.

    Args:
        kinds: of files: nc, zarr.
        megabytes: size of the record; 2048 shows that memory does not grow with it.
        size: points along each side of a field.
        width: channels of the network.
        updates: number of updates that are timed.
        rounds: interleaved rounds.
        json: file for the records.
    """
    report("loading", measure(kinds, megabytes, size, width, updates, rounds), json)


if __name__ == "__main__":
    cyclopts.run(main)
