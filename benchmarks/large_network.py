"""4D-Var whose forward model is a network of 10^8 parameters: time and memory of a gradient and a search."""

from __future__ import annotations

import os
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
from benchmarks.harness import Record, fresh_process, report
from diffassim.core.paths import replace_at, value_at
from diffassim.diagnostics import explain_communication
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


def program_bytes(width: int, levels: int, steps: int, single: bool) -> dict[str, Any]:
    """Return what a device of this process needs for J with its gradient, the network in parts on all; nothing is run.

    Returns:
        Bytes of its arguments, of its working memory and of its results, and the number of parameters.
    """
    forward = model(width, levels, None if single else jnp.bfloat16, remat=True)
    size = CHANNELS * SHAPE[0] * SHAPE[1]
    seen = np.arange(0, size, round(1 / SHARE))
    values = jnp.zeros((steps, len(seen)), jnp.float32)
    R, B = (da.covariances.Diagonal(std=jnp.float32(std)) for std in (ERROR, STD))
    obs = da.Observations(values, np.arange(1, steps + 1), da.observations.Function(lambda x: x.ravel()[seen]), R)
    count = parameter_count(forward.network)
    forward = da.distribute(forward, da.device_mesh(), da.FullySharded())
    cost = da.StrongConstraint4DVar(forward, jnp.zeros((*SHAPE, CHANNELS), jnp.float32), B, obs)
    program = jax.jit(jax.value_and_grad(lambda v, cost: cost(v))).lower(cost.control(), cost).compile()
    memory, sent = program.memory_analysis(), explain_communication(program)
    return {
        "arguments": memory.argument_size_in_bytes, "working": memory.temp_size_in_bytes,
        "results": memory.output_size_in_bytes, "parameters": count, "sent": sent.total, "largest": sent.largest,
    }  # fmt: skip


def in_parts(
    devices: int, width: int, levels: int, steps: int, single: bool, timeout: float = 1800
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return `program_bytes` of one device, and of each of several that a CPU is told to pretend."""
    arguments = f"{width}, {levels}, {steps}, {single}"
    code = f"import json\nfrom benchmarks.large_network import program_bytes as p\nprint(json.dumps(p({arguments})))"
    found = []
    for count in (1, devices):
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
        found.append(fresh_process(code, {"XLA_FLAGS": flags, "NPROC": str(4 * count)}, timeout=timeout))
    return found[0], found[1]


def report_parts(devices: int, width: int, levels: int, steps: int, single: bool, json: Path | None) -> None:
    """Report the memory of a device, the network in parts on several."""
    alone, each = in_parts(devices, width, levels, steps, single)
    totals = [sum(found[part] for part in ("arguments", "working", "results")) for found in (alone, each)]
    size = f"{alone['parameters']:,} parameters, {steps} steps, {'float32' if single else 'bfloat16'}"
    records = [
        Record(
            what=f"memory of each of {count} device(s)", size=size, dtype="float32", peak_bytes=total,
            reference="one device", ratio=total / totals[0], target=None if count == 1 else 1 / 3, more=found,
        )
        for count, total, found in zip((1, devices), totals, (alone, each), strict=True)
    ]  # fmt: skip
    report("a large network in parts", records, json)


def main(
    *, width: int = 168, levels: int = 4, steps: int = 4, iterations: int = 5, single: bool = False,
    devices: int | None = None, json: Path | None = None,
) -> None:  # fmt: skip
    """Time J with its gradient, and a search by L-BFGS, over a window of a large network; weights in single precision.

    Args:
        width: channels of the U-Net at full resolution, a plane of 32 x 64 points.
        levels: how often it is halved.
        steps: window length, one call of the network each.
        iterations: of the search.
        single: compute in single precision; default: in bfloat16.
        devices: instead of running anything, compare the memory of the compiled program on so many devices with one.
        json: file for the records.
    """
    if devices is not None:
        report_parts(devices, width, levels, steps, single, json)
        return
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
