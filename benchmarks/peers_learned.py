"""Training a learned variational solver beside the same network, unrolled alike, in PyTorch."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import cyclopts
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.harness import Record, first_call, fresh_process, interleave, report
from diffassim.core.pytree import Pytree, static
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
    """Return normalized windows of Lorenz-63 and what is observed of them, zeros elsewhere."""
    states = rollout(Lorenz63(dt=0.01), jnp.array([1.0, 1.0, 20.0]), 1000 + SAMPLES * STEPS - 1)[1000:]
    truth = np.asarray((states - states.mean(axis=0)) / states.std(axis=0), np.float32).reshape(SAMPLES, STEPS, 3)
    noise = np.random.default_rng(0).normal(0, 0.17, truth.shape).astype(np.float32)
    return truth, (truth + noise) * MASK


def weights(channels: int) -> dict[str, np.ndarray]:
    """Return the weights that both start from: matrices of (neighbours x channels in, channels out)."""
    rng = np.random.default_rng(1)
    shapes = {
        "prior_1": (5 * 3, channels), "prior_2": (5 * channels, 3), "cell": (3 * (3 + channels), 4 * channels),
        "step": (channels, 3),
    }  # fmt: skip
    found = {k: rng.normal(0, shape[0] ** -0.5, shape).astype(np.float32) for k, shape in shapes.items()}
    return found | {"step": 0.1 * found["step"], "share": np.float32(0.3)}


class Solver(Pytree):
    """x - phi(x) and the observations make a cost; a recurrent cell makes steps of its gradient."""

    weights: Any
    iterations: int = static(default=ITERATIONS)

    def cost(self, x: Any, y: Any) -> Any:
        """Return the variational cost of a window."""
        hidden = jax.nn.relu(_convolved(x, self.weights["prior_1"], 5))
        misfit = x - _convolved(hidden, self.weights["prior_2"], 5)
        return jnp.sum((jnp.asarray(MASK) * (x - y)) ** 2) + self.weights["share"] ** 2 * jnp.sum(misfit**2)

    def __call__(self, y: Any) -> Any:
        """Return the window after all steps, from the observations."""

        def step(carry: Any, _: None) -> tuple[Any, None]:
            x, h, c = carry
            gradient = jax.grad(self.cost)(x, y)
            gates = _convolved(jnp.concatenate([gradient, h], axis=1), self.weights["cell"], 3)
            entry, forget, out, new = jnp.split(gates, 4, axis=1)
            c = jax.nn.sigmoid(forget) * c + jax.nn.sigmoid(entry) * jnp.tanh(new)
            h = jax.nn.sigmoid(out) * jnp.tanh(c)
            return (x - h @ self.weights["step"], h, c), None

        zero = jnp.zeros((STEPS, self.weights["step"].shape[0]), y.dtype)
        # Recomputing a step costs less than writing and reading what its derivative needs.
        (x, _, _), _ = jax.lax.scan(jax.checkpoint(step), (y, zero, zero), length=self.iterations)
        return x


def _convolved(x: Any, matrix: Any, width: int) -> Any:
    """A convolution along time, zeros beyond the ends, as a product with a matrix of neighbours.

    Shifted are inputs or outputs, whichever have fewer channels.
    """
    inputs, outputs, edge = matrix.shape[0] // width, matrix.shape[1], width // 2
    if inputs <= outputs:
        padded = jnp.pad(x, ((edge, edge), (0, 0)))
        return jnp.concatenate([padded[k : k + STEPS] for k in range(width)], axis=1) @ matrix
    parts = x @ jnp.concatenate(jnp.split(matrix, width), axis=1)
    padded = jnp.pad(parts, ((edge, edge), (0, 0)))
    return sum(padded[k : k + STEPS, k * outputs : (k + 1) * outputs] for k in range(width))


def loss(solver: Any, batch: Any, key: Any) -> Any:
    """Return the mean square error of the windows."""
    truth, y = batch
    return jnp.mean((jax.vmap(solver)(y) - truth) ** 2)


def in_torch(start: dict[str, np.ndarray], batch_of: Any, updates: int) -> Any:
    """Return a function that makes the updates in PyTorch, and the loss of the first batch before them."""
    from torch.nn import functional

    def kernel(name: str, width: int) -> Any:
        matrix = torch.tensor(start[name]).reshape(width, -1, start[name].shape[1])
        return torch.nn.Parameter(matrix.permute(2, 1, 0).contiguous())

    p = {"prior_1": kernel("prior_1", 5), "prior_2": kernel("prior_2", 5), "cell": kernel("cell", 3),
         "step": kernel("step", 1), "share": torch.nn.Parameter(torch.tensor(start["share"]))}  # fmt: skip
    mask = torch.tensor(MASK.T)
    optimizer = torch.optim.Adam(p.values(), lr=RATE)

    def solve(y: Any) -> Any:
        x = y.clone().requires_grad_(True)
        h = c = torch.zeros(len(y), start["step"].shape[0], STEPS)
        for _ in range(ITERATIONS):
            hidden = functional.relu(functional.conv1d(x, p["prior_1"], padding=2))
            misfit = x - functional.conv1d(hidden, p["prior_2"], padding=2)
            cost = torch.sum((mask * (x - y)) ** 2) + p["share"] ** 2 * torch.sum(misfit**2)
            (gradient,) = torch.autograd.grad(cost, x, create_graph=True)
            gates = functional.conv1d(torch.cat([gradient, h], dim=1), p["cell"], padding=1)
            entry, forget, out, new = torch.chunk(gates, 4, dim=1)
            c = torch.sigmoid(forget) * c + torch.sigmoid(entry) * torch.tanh(new)
            h = torch.sigmoid(out) * torch.tanh(c)
            x = x - functional.conv1d(h, p["step"])
        return x

    def misfit_of(k: int) -> Any:
        truth, y = (torch.tensor(part).permute(0, 2, 1) for part in batch_of(k))
        return torch.mean((solve(y) - truth) ** 2)

    def run() -> float:
        for k in range(updates):
            optimizer.zero_grad()
            value = misfit_of(k)
            value.backward()
            optimizer.step()
        return float(value.detach())

    return run, float(misfit_of(0).detach())


def measure(channels: int, batch: int, updates: int, rounds: int) -> list[Record]:
    """Time the training of one size in both."""
    truth, y = data()
    start = weights(channels)
    solver = Solver(jax.tree.map(jnp.asarray, start))

    def batch_of(k: int) -> tuple[np.ndarray, np.ndarray]:
        rows = slice(k * batch, (k + 1) * batch)
        return truth[rows], y[rows]

    theirs, their_loss = in_torch(start, batch_of, updates)
    our_loss = float(jax.jit(loss)(solver, batch_of(0), None))
    agreement = abs(our_loss - their_loss) / their_loss
    if agreement > 1e-4:
        sys.exit(f"the two are not the same network: first losses {our_loss} and {their_loss}")
    options = {"optimizer": optax.adam(RATE), "steps": updates, "batch_size": batch, "chunk": updates}
    cases = {
        "diffassim": lambda: fit(loss, solver, (truth, y), key=jax.random.key(0), **options).trained,
        "PyTorch": theirs,
    }
    first = {name: first_call(case) for name, case in cases.items()}
    times = interleave(cases, rounds=rounds, budget=60)
    return [
        Record(
            what=f"{name}, an update", size=f"{channels} channels, batch {batch}", dtype="float32",
            compile_seconds=first[name] - times[name].seconds, seconds=times[name].seconds / updates,
            cpu_seconds=times[name].cpu_seconds / updates, reference="PyTorch",
            ratio=times[name].seconds / times["PyTorch"].seconds, target=0.5 if name == "diffassim" else None,
            more={"samples a second": batch * updates / times[name].seconds, "first losses differ by": agreement},
        )
        for name in cases
    ]  # fmt: skip


def main(
    *, channels: tuple[int, ...] = (8, 32), batches: tuple[int, ...] = (8, 64), updates: int = 10, rounds: int = 5,
    threads: int = 0, json: Path | None = None,
) -> None:  # fmt: skip
    """Time updates of the solver's training in both, from the same weights, in single precision.

    The solver is that of 4DVarNet in small: ten unrolled steps of a convolutional LSTM on the gradient of a cost with a
    learned prior term, whose derivative is differentiated again. Windows of Lorenz-63 as in the row L7.

    Args:
        channels: hidden channels.
        batches: windows of an update.
        updates: updates in one timed call.
        rounds: interleaved rounds.
        threads: threads of PyTorch; 0: as many as there are cores for this process.
        json: file for the records.
    """
    if torch is None:
        sys.exit("this benchmark compares with PyTorch: pip install torch")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(threads or cores)
    records = [record for c in channels for b in batches for record in measure(c, b, updates, rounds)]
    timed = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"
    for name, module in (("diffassim", "diffassim.training"), ("PyTorch", "torch")):
        seconds = fresh_process(timed.format(module))
        records.append(Record(what=f"{name}, import in a fresh process", size=module, seconds=seconds))
    report(f"a learned solver's training beside PyTorch {torch.__version__}", records, json)


if __name__ == "__main__":
    cyclopts.run(main)
