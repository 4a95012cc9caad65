"""4D-Var whose forward model is a network of 10^8 parameters: time and memory of a gradient and a search."""

from __future__ import annotations

import resource
import time
import warnings
from pathlib import Path
from typing import Any

import cyclopts
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import diffassim as da
from benchmarks.harness import Record, report
from diffassim.core.paths import replace_at, value_at
from diffassim.learned import Network, SurrogateModel, parameter_count
from diffassim.learned.networks import PeriodicUNet

SHAPE, CHANNELS = (32, 64), 8  # of a state
STD, ERROR, SHARE = 0.3, 0.1, 0.05  # of background and observations, and of the values that are observed
BYTES = 16_000_000_000  # the aim


def model(width: int, levels: int, compute: Any, remat: bool) -> SurrogateModel:
    """Return a model whose step adds what an untrained U-Net makes of the state."""
    net = PeriodicUNet(CHANNELS, CHANNELS, width, levels, ndim=2, rngs=nnx.Rngs(0), dtype=jnp.float32)
    network = Network.from_nnx(net, compute=compute, remat=remat)
    last = value_at(network, "weights.last.kernel")
    drawn = jax.random.normal(jax.random.key(1), last.shape, last.dtype) / last.shape[0] ** 0.5
    return SurrogateModel(replace_at(network, {"weights.last.kernel": drawn}), scale=jnp.float32(0.3))


def problem(forward: SurrogateModel, steps: int) -> tuple[Any, Any]:
    """Return the cost of a window and its true initial state, with a share of all values observed at every step."""
    rng = np.random.default_rng(0)
    size = CHANNELS * SHAPE[0] * SHAPE[1]
    seen = np.sort(rng.choice(size, int(SHARE * size), replace=False))
    background = jnp.asarray(rng.normal(size=(*SHAPE, CHANNELS)), jnp.float32)
    truth = background + STD * jnp.asarray(rng.normal(size=background.shape), jnp.float32)
    operator = da.observations.Function(lambda x: x.ravel()[seen])
    states = jax.jit(lambda m, x: da.rollout(m, x, steps))(forward, truth)[1:]
    values = jax.vmap(operator)(states) + ERROR * jnp.asarray(rng.normal(size=(steps, len(seen))), jnp.float32)
    R, B = (da.covariances.Diagonal(std=jnp.float32(std)) for std in (ERROR, STD))
    obs = da.Observations(values, np.arange(1, steps + 1), operator, R)
    return da.StrongConstraint4DVar(forward, background, B, obs), truth


def main(
    *, width: int = 168, levels: int = 4, steps: int = 4, iterations: int = 5, single: bool = False,
    json: Path | None = None,
) -> None:  # fmt: skip
    """Time J with its gradient, and a search by L-BFGS, over a window of a large network; weights in single precision.

    Args:
        width: channels of the U-Net at full resolution, a plane of 32 x 64 points.
        levels: how often it is halved.
        steps: window length, one call of the network each.
        iterations: of the search.
        single: compute in single precision; default: in bfloat16.
        json: file for the records.
    """
    forward = model(width, levels, None if single else jnp.bfloat16, remat=True)
    cost, truth = problem(forward, steps)
    v = cost.control()
    gradient = jax.jit(jax.value_and_grad(lambda v, cost: cost(v)))
    method = da.LBFGS(max_iterations=iterations, tolerance=1e-8)
    size = f"{parameter_count(forward.network):,} parameters, {steps} steps, {'float32' if single else 'bfloat16'}"
    records = []
    found: dict[str, Any] = {}
    cases = {"J and gradient": lambda: gradient(v, cost), f"{iterations} iterations": lambda: da.minimize(cost, method)}
    for name, run in cases.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", da.AssimilationWarning)  # few iterations are asked for
            began = time.perf_counter()
            jax.block_until_ready(run())
            first, cpu = time.perf_counter() - began, time.process_time()
            began = time.perf_counter()
            found[name] = jax.block_until_ready(run())
            seconds = time.perf_counter() - began
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        records.append(
            Record(
                what=name, size=size, dtype="float32", compile_seconds=first - seconds, seconds=seconds,
                cpu_seconds=time.process_time() - cpu, peak_bytes=peak, target=None, more={"aim of memory": BYTES},
            )
        )  # fmt: skip
    solution = found[f"{iterations} iterations"]
    errors = [float(jnp.sqrt(jnp.mean((x - truth) ** 2))) for x in (cost.background, solution.state)]
    records[-1].more["error, before and after"] = errors  # type: ignore[index]
    records[-1].more["J"] = [float(found["J and gradient"][0]), float(solution.cost)]  # type: ignore[index]
    report("a large network as forward model", records, json)


if __name__ == "__main__":
    cyclopts.run(main)
