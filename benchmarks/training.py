"""`fit` beside bare training loops: what checks, validation, checkpoints and records cost an update."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cyclopts
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.harness import Record, Timing, first_call, interleave, report
from diffassim.training import Checkpoints, CsvMetrics, fit

BATCH, CHUNK = 64, 100


def network(key: jax.Array, width: int) -> list[tuple[Any, Any]]:
    """Return the weights of a multilayer perceptron of 16 inputs and outputs."""
    sizes = (16, width, width, 16)
    keys = jax.random.split(key, 3)
    return [
        (jax.random.normal(k, (a, b)) / a**0.5, jnp.zeros(b))
        for k, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def loss(weights: Any, batch: Any, key: Any) -> Any:
    """Return the mean square error."""
    x, y = batch
    for w, b in weights[:-1]:
        x = jnp.tanh(x @ w + b[None])
    w, b = weights[-1]
    return jnp.mean((x @ w + b[None] - y) ** 2)


def bare_steps(weights: Any, data: Any, optimizer: Any, updates: int) -> Any:
    """The loop of the handbook: one jitted update, batches drawn by NumPy."""
    memory, rng = optimizer.init(weights), np.random.default_rng(0)
    losses = []
    while len(losses) < updates:
        order = rng.permutation(len(data[0]))
        for first in range(0, len(data[0]) - BATCH + 1, BATCH):
            if len(losses) == updates:
                break
            rows = order[first : first + BATCH]
            batch = tuple(array[rows] for array in data)
            weights, memory, value = _step(optimizer, weights, memory, batch)
            losses.append(value)
    return weights, losses


@partial(jax.jit, static_argnums=0)
def _step(optimizer: Any, weights: Any, memory: Any, batch: Any) -> Any:
    value, gradient = jax.value_and_grad(loss)(weights, batch, None)
    changes, memory = optimizer.update(gradient, memory, weights)
    return optax.apply_updates(weights, changes), memory, value


@partial(jax.jit, static_argnums=(2, 3))
def bare_scan(weights: Any, data: Any, optimizer: Any, updates: int) -> Any:
    """The fastest that we know: whole epochs in one scan, batches gathered from a permutation."""

    def update(carry: Any, rows: Any) -> Any:
        weights, memory = carry
        value, gradient = jax.value_and_grad(loss)(weights, tuple(array[rows] for array in data), None)
        changes, memory = optimizer.update(gradient, memory, weights)
        return (optax.apply_updates(weights, changes), memory), value

    samples = len(data[0]) // BATCH * BATCH
    epochs = -(-updates * BATCH // samples)
    keys = jax.random.split(jax.random.key(0), epochs)
    orders = jax.vmap(lambda k: jax.random.permutation(k, samples))(keys).reshape(-1, BATCH)[:updates]
    return jax.lax.scan(update, (weights, optimizer.init(weights)), orders)


def kinds(folder: Path, data: Any) -> dict[str, Callable[[], dict[str, Any]]]:
    """Return what `fit` can do between chunks by name, as options of a call."""
    held_out = tuple(array[:256] for array in data)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "validation": lambda: {"validation": held_out},
        "checkpoint": lambda: {"checkpoint": folder / "last"},
        "metrics": lambda: {"record": CsvMetrics(folder / "metrics.csv")},
    }
    several = "checkpoints by a thread"
    return {
        "fit": dict,
        "fit, validation": parts["validation"],
        "fit, checkpoint": parts["checkpoint"],
        f"fit, {several}": lambda: {"checkpoint": Checkpoints(tempfile.mkdtemp(dir=folder))},
        "fit, metrics to CSV": parts["metrics"],
        "fit, all three": lambda: {k: v for part in parts.values() for k, v in part().items()},
    }


def measure(width: int, updates: int, rounds: int, samples: int = 1024) -> list[Record]:
    """Time the same number of updates by three loops, one of which has extras."""
    keys = jax.random.split(jax.random.key(1), 3)
    data = tuple(jax.random.normal(k, (samples, 16)) for k in keys[:2])
    held = tuple(np.asarray(array) for array in data)
    weights, optimizer = network(keys[2], width), optax.adam(1e-3)
    options = {"optimizer": optimizer, "steps": updates, "batch_size": BATCH, "chunk": CHUNK, "key": keys[0]}
    bare: dict[str, Callable[[], Any]] = {
        "bare loop of jitted updates": lambda: bare_steps(weights, held, optimizer, updates)[0],
        "bare scan": lambda: bare_scan(weights, data, optimizer, updates)[0][0],
    }
    with tempfile.TemporaryDirectory() as folder:
        ours: dict[str, Callable[[], Any]] = {
            name: lambda more=more: fit(loss, weights, data, **options, **more()).trained
            for name, more in kinds(Path(folder), data).items()
        }
        cases = ours | bare
        first = {name: first_call(case) for name, case in cases.items()}
        times = interleave(cases, rounds=rounds, budget=60.0)
    fastest = min(bare, key=lambda name: times[name].cpu_seconds)
    size = f"width {width}, {updates} updates of {BATCH} of {samples} samples"
    return [
        Record(
            what=name, size=size, compile_seconds=first[name] - times[name].seconds,
            seconds=times[name].seconds / updates, cpu_seconds=times[name].cpu_seconds / updates,
            reference=f"{fastest}, processor time", ratio=times[name].cpu_seconds / times[fastest].cpu_seconds,
            target=1.05 if name == "fit" else None,
            more={"ms of a chunk beyond fit": chunk_ms(times, name, updates)} if name in ours else {},
        )
        for name in cases
    ]  # fmt: skip


def chunk_ms(times: dict[str, Timing], name: str, updates: int) -> float:
    """Return what a chunk of updates takes beyond that of `fit` without extras, in ms of processor time."""
    return 1e3 * CHUNK / updates * (times[name].cpu_seconds - times["fit"].cpu_seconds)


def main(
    *, widths: tuple[int, ...] = (8, 32, 256), updates: int = 500, rounds: int = 10, samples: int = 1024,
    json: Path | None = None,
) -> None:  # fmt: skip
    """Time `fit`, and what it can do after every chunk of 100 updates, beside a bare loop and a bare scan.

    Args:
        widths: hidden units of the networks.
        updates: number of updates.
        rounds: interleaved rounds.
        samples: from which batches are drawn.
        json: file for the records.
    """
    jax.config.update("jax_enable_x64", True)
    with jax.numpy_dtype_promotion("standard"):  # the bare loops call optax, which multiplies integers with floats
        records = [record for width in widths for record in measure(width, updates, rounds, samples)]
    report("training", records, json)


if __name__ == "__main__":
    cyclopts.run(main)
