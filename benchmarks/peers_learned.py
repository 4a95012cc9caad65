"""Training a learned variational solver beside the same network, unrolled alike, in PyTorch."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cyclopts
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.harness import Record, first_call, fresh_process, interleave, report
from diffassim.learned import ConvolutionalSteps, LineAutoencoder, LineConvolution, UnrolledSolver
from diffassim.models import Lorenz63, rollout
from diffassim.training import fit

try:
    import torch
except ImportError:
    torch = None  # type: ignore[assignment]

STEPS, EVERY, FIRST, LAST = 200, 8, 10, 190  # the windows of the row L7
SAMPLES, ITERATIONS = 2000, 10
RATE = 1e-3
MASK = np.isin(np.arange(STEPS), np.arange(FIRST, LAST + 1, EVERY)).astype(np.float32)[:, None]


def data() -> tuple[np.ndarray, np.ndarray]:
    """Return normalized windows of Lorenz-63 and what is observed of them, NaN elsewhere."""
    states = rollout(Lorenz63(dt=0.01), jnp.array([1.0, 1.0, 20.0]), 1000 + SAMPLES * STEPS - 1)[1000:]
    states = np.asarray(states)
    truth = ((states - states.mean(axis=0)) / states.std(axis=0)).astype(np.float32).reshape(SAMPLES, STEPS, 3)
    noise = np.random.default_rng(0).normal(0, 0.17, truth.shape).astype(np.float32)
    return truth, np.where(MASK > 0, truth + noise, np.float32(np.nan))


def weights(channels: int) -> dict[str, np.ndarray]:
    """Return the weights that both start from: matrices of (neighbours x channels in, channels out)."""
    rng = np.random.default_rng(1)
    shapes = {
        "prior_1": (5 * 3, channels), "prior_2": (5 * channels, 3), "cell": (3 * (3 + channels), 4 * channels),
        "step": (channels, 3),
    }  # fmt: skip
    found = {k: rng.normal(0, shape[0] ** -0.5, shape).astype(np.float32) for k, shape in shapes.items()}
    return found | {"step": 0.1 * found["step"], "share": np.float32(0.3)}


def solver_of(start: dict[str, np.ndarray]) -> UnrolledSolver:
    """Return the solver with these weights."""

    def kernel(name: str, width: int) -> LineConvolution:
        return LineConvolution(jnp.asarray(start[name]).reshape(width, -1, start[name].shape[1]))

    cell = ConvolutionalSteps(kernel("cell", 3), jnp.asarray(start["step"]))
    prior = LineAutoencoder(kernel("prior_1", 5), kernel("prior_2", 5))
    return UnrolledSolver(prior, cell, jnp.asarray(start["share"]), steps=ITERATIONS)


def loss(solver: Any, batch: Any, key: Any) -> Any:
    """Return the mean square error of the windows."""
    truth, y = batch
    return jnp.mean((solver(y) - truth) ** 2)


def in_torch(start: dict[str, np.ndarray], batch_of: Any, updates: int, compiled: bool) -> Any:
    """Return a function that makes the updates in PyTorch, and the loss of the first batch before them."""
    from torch.nn import functional

    def kernel(name: str, width: int) -> Any:
        matrix = torch.tensor(start[name]).reshape(width, -1, start[name].shape[1])
        return torch.nn.Parameter(matrix.permute(2, 1, 0).contiguous())

    p = {"prior_1": kernel("prior_1", 5), "prior_2": kernel("prior_2", 5), "cell": kernel("cell", 3),
         "step": kernel("step", 1), "share": torch.nn.Parameter(torch.tensor(start["share"]))}  # fmt: skip
    mask = torch.tensor(MASK.T)
    optimizer = torch.optim.Adam(p.values(), lr=RATE)

    def cell(gradient: Any, h: Any, c: Any, x: Any) -> Any:
        gates = functional.conv1d(torch.cat([gradient, h], dim=1), p["cell"], padding=1)
        entry, forget, out, new = torch.chunk(gates, 4, dim=1)
        c = torch.sigmoid(forget) * c + torch.sigmoid(entry) * torch.tanh(new)
        h = torch.sigmoid(out) * torch.tanh(c)
        return x - functional.conv1d(h, p["step"]), h, c

    def cost(x: Any, y: Any) -> Any:
        hidden = functional.relu(functional.conv1d(x, p["prior_1"], padding=2))
        misfit = x - functional.conv1d(hidden, p["prior_2"], padding=2)
        return torch.sum((mask * (x - y)) ** 2) + p["share"] ** 2 * torch.sum(misfit**2)

    # The compiler takes no derivative of a derivative, so that the gradient of the cost stays as it is.
    cell = torch.compile(cell) if compiled else cell

    def solve(y: Any) -> Any:
        x = y.clone().requires_grad_(True)
        h = c = torch.zeros(len(y), start["step"].shape[0], STEPS)
        for _ in range(ITERATIONS):
            (gradient,) = torch.autograd.grad(cost(x, y), x, create_graph=True)
            x, h, c = cell(gradient, h, c, x)
        return x

    def misfit_of(k: int) -> Any:
        truth, y = (torch.tensor(np.nan_to_num(part)).permute(0, 2, 1).contiguous() for part in batch_of(k))
        return torch.mean((solve(y) - truth) ** 2)

    def run() -> float:
        for k in range(updates):
            optimizer.zero_grad()
            value = misfit_of(k)
            value.backward()
            optimizer.step()
        return float(value.detach())

    return run, float(misfit_of(0).detach())


def training(channels: int, batch: int, updates: int, part: int = 8) -> Any:
    """Return a function that makes the updates with `fit`, the data, and the solver before them."""
    truth, y = data()
    solver = solver_of(weights(channels))
    options: Any = {"optimizer": optax.adam(RATE), "steps": updates, "batch_size": batch, "chunk": updates}
    options["accumulate"] = max(1, batch // part)
    held = jnp.asarray(truth), jnp.asarray(y)
    return lambda: fit(loss, solver, held, key=jax.random.key(0), **options).trained, (truth, y), solver


def measure(channels: int, batch: int, updates: int, rounds: int, part: int, compiled: bool) -> list[Record]:
    """Time the training of one size in both."""
    ours, (truth, y), solver = training(channels, batch, updates, part)

    def batch_of(k: int) -> tuple[np.ndarray, np.ndarray]:
        rows = slice(k * batch, (k + 1) * batch)
        return truth[rows], y[rows]

    our_loss = float(jax.jit(loss)(solver, batch_of(0), None))
    cases, agreement = {"diffassim": ours}, 0.0
    for name in ("PyTorch", "PyTorch, cell compiled")[: 1 + compiled]:
        cases[name], their_loss = in_torch(weights(channels), batch_of, updates, name != "PyTorch")
        agreement = max(agreement, abs(our_loss - their_loss) / their_loss)
    if agreement > 1e-4:
        sys.exit(f"the two are not the same network: the first loss is {our_loss}, and differs by {agreement}")
    first = {name: first_call(case) for name, case in cases.items()}
    times = interleave(cases, rounds=rounds, budget=60)
    fastest = min(list(cases)[1:], key=lambda name: times[name].cpu_seconds)
    return [
        Record(
            what=f"{name}, an update", size=f"{channels} channels, batch {batch}", dtype="float32",
            compile_seconds=first[name] - times[name].seconds, seconds=times[name].seconds / updates,
            cpu_seconds=times[name].cpu_seconds / updates, reference=f"{fastest}, processor time",
            ratio=times[name].cpu_seconds / times[fastest].cpu_seconds, target=0.5 if name == "diffassim" else None,
            more={
                "samples a second of processor time": batch * updates / times[name].cpu_seconds,
                "first losses differ by": agreement,
            },
        )
        for name in cases
    ]  # fmt: skip


def first_updates(channels: int, batch: int, updates: int) -> dict[str, float]:
    """Return what the first updates of a process take beyond later ones (own process)."""
    began, before = time.perf_counter(), time.process_time()
    ours, _, _ = training(channels, batch, updates)
    jax.block_until_ready(ours())
    first, busy = time.perf_counter() - began, time.process_time() - before
    began, before = time.perf_counter(), time.process_time()
    jax.block_until_ready(ours())
    return {"seconds": first - (time.perf_counter() - began), "cpu": busy - (time.process_time() - before)}


def starts(channels: int, batch: int) -> list[Record]:
    """Time import and compilation in fresh processes, without and with the persistent cache."""
    timed = "import time; t, c = time.perf_counter(), time.process_time(); import {}; import json; " + (
        "print(json.dumps([time.perf_counter() - t, time.process_time() - c]))"
    )
    records = []
    for name, module in (("diffassim", "diffassim.training"), ("PyTorch", "torch, torch.optim")):
        seconds, cpu = fresh_process(timed.format(module))
        records.append(Record(what=f"{name}, import in a fresh process", size=module, seconds=seconds, cpu_seconds=cpu))
    code = "import json; from benchmarks.peers_learned import first_updates as f"
    code += f"; print(json.dumps(f({channels}, {batch}, 2)))"
    with tempfile.TemporaryDirectory() as folder:
        kept = {
            "JAX_COMPILATION_CACHE_DIR": folder, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_ENABLE_COMPILATION_CACHE": "true",
        }  # fmt: skip
        for name, environment in (("no cache", {"JAX_ENABLE_COMPILATION_CACHE": "false"}), ("", kept), ("cache", kept)):
            found = fresh_process(code, environment)
            if name:
                records.append(
                    Record(
                        what=f"diffassim, data and compilation in a fresh process, {name}",
                        size=f"{channels} channels, batch {batch}", dtype="float32", seconds=found["seconds"],
                        cpu_seconds=found["cpu"],
                    )
                )  # fmt: skip
    return records


def main(
    *, channels: tuple[int, ...] = (8, 32), batches: tuple[int, ...] = (8, 64), updates: int = 10, rounds: int = 5,
    threads: int = 0, part: int = 8, compiled: bool = False, json: Path | None = None,
) -> None:  # fmt: skip
    """Time updates of the solver's training in both, from the same weights, in single precision.

    The solver is that of 4DVarNet in small: ten unrolled steps of a convolutional LSTM on the gradient of a cost with a
    learned prior term, whose derivative is differentiated again. Windows of Lorenz-63 as in the row L7.

    Args:
        channels: hidden channels.
        batches: windows of an update.
        updates: updates in one timed call.
        rounds: interleaved rounds.
        threads: threads of both; 0: as many as there are cores for this process, in PyTorch.
        part: windows whose gradient is computed together here (`accumulate` of `fit`).
        compiled: also time PyTorch with its compiler, as far as that goes.
        json: file for the records.
    """
    if torch is None:
        sys.exit("this benchmark compares with PyTorch: pip install torch")
    if threads:
        os.environ["NPROC"] = str(threads)  # before JAX starts
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(threads or cores)
    records = [record for c in channels for b in batches for record in measure(c, b, updates, rounds, part, compiled)]
    records += starts(channels[-1], batches[-1])
    report(f"a learned solver's training beside PyTorch {torch.__version__}", records, json)


if __name__ == "__main__":
    cyclopts.run(main)
