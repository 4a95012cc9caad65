"""Training on fields in files: samples a second, memory, and what it costs beside arrays in memory and bare loops."""

from __future__ import annotations

import itertools
import resource
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cyclopts
import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr

from benchmarks.harness import Record, Timing, first_call, fresh_process, interleave, report
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


def train(data: Any, width: int, updates: int, batch_size: int | None = BATCH) -> Any:
    return fit(
        loss, network(width), data, optimizer=OPTIMIZER, steps=updates, batch_size=batch_size, chunk=CHUNK,
        key=jax.random.key(0),
    ).trained  # fmt: skip


@jax.jit
def bare_update(weights: Any, memory: Any, batch: Any) -> Any:
    value, gradient = jax.value_and_grad(loss)(weights, batch, None)
    with jax.numpy_dtype_promotion("standard"):  # optax multiplies integers with floats
        changes, memory = OPTIMIZER.update(gradient, memory, weights)
    return optax.apply_updates(weights, changes), memory, value


def bare_loop(batches: Iterable[Any], width: int) -> Any:
    """The loop of the handbook over the same batches: one jitted update after the other, nothing read back."""
    weights = network(width)
    memory = OPTIMIZER.init(weights)
    for batch in batches:
        weights, memory, _ = bare_update(weights, memory, batch)
    return weights


def batches_by_hand(windows: WindowsOfFields, updates: int) -> Iterator[np.ndarray]:
    """Read the batches of so many updates one after the other."""
    order = np.random.default_rng(0).permutation(len(windows))
    for first in range(0, updates * BATCH, BATCH):
        yield windows.read(np.take(order, range(first, first + BATCH), mode="wrap"))


class Rows:
    """Windows one by one, as grain asks for them."""

    def __init__(self, windows: WindowsOfFields) -> None:
        self.windows = windows

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.windows.read(np.array([index]))[0]


def through_grain(windows: WindowsOfFields) -> Any:
    """Return a data set of grain whose thread reads batches ahead, endless; None where grain is not installed."""
    try:
        import grain
    except ImportError:
        return None
    data = grain.MapDataset.source(Rows(windows)).shuffle(seed=0).repeat().batch(BATCH)
    return data.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2))


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
            records += _records(cases_of(kind, windows, few, width, updates), what_of(windows, size), updates, rounds)
            records.append(_memory(kind, found))
            windows.close()
    return records


def what_of(windows: WindowsOfFields, size: int) -> str:
    return f"{len(windows)} windows of {LENGTH} x {size} x {size}"


def cases_of(
    kind: str, windows: WindowsOfFields, few: Any, width: int, updates: int
) -> dict[str, tuple[Callable[[], Any], str]]:
    """Return what is timed by name, each with the name of what it is compared with."""
    device, bare = "arrays at the device", f"{kind} files, bare loop"
    grained, bare_grained = f"{kind} files through grain", f"{kind} files through grain, bare loop"
    cases: dict[str, tuple[Callable[[], Any], str]] = {
        device: (lambda: train(few, width, updates), device),
        "arrays of the host": (lambda: train(StoredArrays(few), width, updates), device),
        f"{kind} files": (lambda: train(windows, width, updates), bare),
        bare: (lambda: bare_loop(batches_by_hand(windows, updates), width), bare),
        f"{kind} files, reading alone": (lambda: list(map(np.shape, batches_by_hand(windows, updates))), bare),
    }
    if (data := through_grain(windows)) is not None:
        cases[grained] = (lambda: train(data, width, updates, None), bare_grained)
        cases[bare_grained] = (lambda: bare_loop(itertools.islice(iter(data), updates), width), bare_grained)
    return cases


def _records(cases: dict[str, tuple[Callable[[], Any], str]], what: str, updates: int, rounds: int) -> list[Record]:
    runs = {name: run for name, (run, _) in cases.items()}
    for run in runs.values():
        run()
    times: dict[str, Timing] = interleave(runs, rounds=rounds, budget=120.0)
    return [
        Record(
            what=name, size=what, dtype="float32", seconds=times[name].seconds / updates,
            cpu_seconds=times[name].cpu_seconds / updates, reference=f"{reference}, processor time",
            ratio=times[name].cpu_seconds / times[reference].cpu_seconds,
            target=1.05 if name.endswith(("files", "grain")) else None,
            more={"samples/s": updates * BATCH / times[name].seconds},
        )
        for name, (_, reference) in cases.items()
    ]  # fmt: skip


def _memory(kind: str, epoch: dict[str, float]) -> Record:
    return Record(
        what=f"{kind} files, memory of an epoch above that of one chunk", size=f"{epoch['updates']} updates of {BATCH}",
        dtype="float32", seconds=epoch["seconds"] / epoch["updates"], peak_bytes=int(epoch["bytes"]),
        more={"process before, MB": epoch["before"] / 1e6},
    )  # fmt: skip


def main(
    *, kinds: tuple[str, ...] = ("nc", "zarr"), megabytes: float = 64, size: int = 64, width: int = 8,
    updates: int = 50, rounds: int = 3, json: Path | None = None,
) -> None:  # fmt: skip
    """Time training over files beside a bare loop over the same and arrays in memory, and measure an epoch's memory.

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
