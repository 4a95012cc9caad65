"""The assimilations whose growth with devices is measured, and what is measured of each."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend import core as jex

import diffassim as da
from benchmarks.harness import memory_bytes
from diffassim.diagnostics import explain_communication

__all__ = ["CASES", "measure", "measure_critical_path", "measure_link"]

ROUNDS = 3
LOOPBACK = Path("/proc/net/dev")  # what the processes of one machine send each other is counted here
SMALL, LARGE = 64, 1 << 20  # numbers of a message, for latency and bandwidth of a link
ONE = da.covariances.Diagonal(std=jnp.float32(1.0))
MEMBERS, STEPS = 16, 8
Case = tuple[Callable[..., Any], tuple[Any, ...]]


def _mesh() -> Any:
    return da.device_mesh()


def _ensemble(size: int) -> jax.Array:
    return _by_member(_drawn(0, (MEMBERS, size)))  # type: ignore[no-any-return]


def _by_member(x: Any) -> Any:
    """Return members in parts over as many devices as divide them, and over space where there are more."""
    mesh = _by_member_and_space()
    axes = {"member": 0} if mesh.shape["space"] == 1 else {"member": 0, "space": -1}
    return da.distribute(x, mesh, axes)


def _by_member_and_space() -> Any:
    count = jax.device_count()
    along = math.gcd(count, MEMBERS)
    return da.device_mesh({"member": along, "space": count // along})


def _drawn(seed: int, shape: tuple[int, ...]) -> jax.Array:
    return jnp.asarray(8 + np.random.default_rng(seed).normal(size=shape), jnp.float32)


def _observed(points: int, steps: list[int]) -> da.Observations:
    return da.Observations(_drawn(1, (len(steps), points // 2)), steps, da.observations.Subsample(every=2), ONE)


def experiments(size: int) -> Case:
    """Return a batch of model runs, one row of which is one experiment: nothing is sent."""
    batch = da.distribute(_drawn(0, (size // 64, 4096)), _mesh())
    model = da.models.Lorenz96()
    return (lambda x: da.distributed_map(_run, (x, jnp.full(x.shape[0], model.forcing, x.dtype)), _mesh())), (batch,)


def _run(item: Any) -> Any:
    x, forcing = item
    return da.rollout(da.models.Lorenz96(forcing=forcing), x, 16)[-1]


def letkf(size: int) -> Case:
    """Return one analysis of an ensemble in parts over its members."""
    ensemble, y = _ensemble(size), _observed(size, [0])
    method = da.LETKF(localization=da.ensemble.GaspariCohn(4.0)).prepared(ensemble, (y,))[0]
    return (lambda method, x, y: method.analyze(None, x, y)[0]), (method, ensemble, y)


def etkf(size: int) -> Case:
    """Return forecast and analysis of an ensemble in parts over its members."""
    ensemble, y = _ensemble(size), _observed(size, [STEPS])
    method = da.ETKF(inflation=1.02).prepared(ensemble, (y,))[0]
    return (lambda x, times: da.cycle(method, da.models.Lorenz96(), x, times)[0]), (ensemble, da.analysis_times(y))


def strong_constraint(size: int) -> Case:
    """Return value and gradient of strong-constraint 4D-Var with a state in parts over space."""
    x_b = _drawn(0, (size,))
    model = da.models.in_parts(da.models.Lorenz96(), x_b[:64] if size < 64 else x_b, _mesh())
    x_b, y = da.distribute(x_b, _mesh()), _observed(size, [STEPS // 2, STEPS])
    cost = da.StrongConstraint4DVar(model, x_b, ONE, y)
    return jax.value_and_grad(lambda v, c: c(v)), (da.distribute(cost.control(), _mesh()), cost)


def en_var(size: int) -> Case:
    """Return value and gradient of an ensemble-variational cost with members in parts, and space where it has to be."""
    ensemble, y, x_b = _ensemble(size), _observed(size, [0]), _drawn(2, (size,))
    C = da.covariances.Gaussian(std=jnp.float32(1.0), length=jnp.float32(3.0), grid=da.grids.Grid())
    mesh = _by_member_and_space()
    P = da.covariances.in_parts(
        da.covariances.Ensemble(ensemble, localization=C), x_b, mesh, {"space": -1} if mesh.shape["space"] > 1 else None
    )
    cost = da.ThreeDVar(da.distribute(x_b, _mesh()), P, y)
    return jax.value_and_grad(lambda v, c: c(v)), (_by_member(cost.control()), cost)


def weak_constraint(size: int) -> Case:
    """Return value and gradient of weak-constraint 4D-Var with sub-windows in parts over time."""
    windows, points = size // 256, 256
    y = _observed(points, list(range(4, 4 * windows + 1, 4)))
    guess = _drawn(3, (windows, points))
    cost = da.StateWeakConstraint4DVar(
        da.models.Lorenz96(), _drawn(0, (points,)), ONE, ONE, y, steps=4 * windows, every=4, guess=guess
    )
    v = cost.control()
    v = {**v, "states": da.distribute(v["states"], _mesh())}
    return jax.value_and_grad(lambda v, c: c(v)), (v, cost)


def training(size: int) -> Case:
    """Return an update of a network, its parameters and the samples of a batch in parts."""
    width, rng = 512, np.random.default_rng(0)
    shapes = {"in": (64, width), "middle": (width, width), "out": (width, 64)}
    net = {name: jnp.asarray(0.05 * rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}
    optimizer = optax.adam(1e-3)
    net = da.distribute(net, _mesh(), da.FullySharded())
    x = da.distribute(_drawn(1, (size // 16, 64)) - 8, _mesh())

    def loss(net: Any, x: Any) -> Any:
        return jnp.mean(jnp.square(jnp.tanh(jnp.tanh(x @ net["in"]) @ net["middle"]) @ net["out"] - x))

    def update(net: Any, memory: Any, x: Any) -> Any:
        changes, memory = optimizer.update(jax.grad(loss)(net, x), memory, net)
        return optax.apply_updates(net, changes), memory

    return update, (net, optimizer.init(net), x)


CASES: dict[str, Callable[[int], Case]] = {
    "experiments": experiments,
    "LETKF": letkf,
    "ETKF": etkf,
    "strong 4D-Var": strong_constraint,
    "EnVar": en_var,
    "weak 4D-Var": weak_constraint,
    "training": training,
}


def measure(names: list[str], size: int, run: bool) -> dict[str, Any]:
    """Return, by case, what the program for all devices sends and needs; with `run` its times in this process.

    Args:
        names: of the cases.
        size: of the problem, entries of a state or what it stands for.
        run: whether to run it; else it is compiled only.
    """
    found = {}
    for name in names:
        function, arguments = CASES[name](size)
        began = time.perf_counter()
        program = jax.jit(function).lower(*arguments).compile()
        compiled = time.perf_counter() - began
        sent = explain_communication(program)
        found[name] = {
            "compile": compiled,
            "bytes": sent.total,
            "messages": sum(sent.messages.values()),
            "kinds": dict(sent.sent),
            "memory": memory_bytes(program),
        }
        if run:
            found[name] |= _timed(program, arguments)
    return found


def _timed(program: Any, arguments: Any) -> dict[str, float]:
    """Return wall time, processor time, and bytes over the loopback interface of a call, the least of some rounds."""
    jax.block_until_ready(program(*arguments))
    walls, cpus, loops = [], [], []
    for _ in range(ROUNDS):
        wall, cpu, loop = time.perf_counter(), time.process_time(), _over_loopback()
        jax.block_until_ready(program(*arguments))
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
        loops.append(_over_loopback() - loop)
    return {"seconds": min(walls), "cpu": min(cpus), "loopback": min(loops)}


def _over_loopback() -> int:
    """Return the bytes that were sent over the loopback interface so far; 0 where the system does not tell."""
    lines = LOOPBACK.read_text().splitlines() if LOOPBACK.exists() else []
    return next((int(line.split(":")[1].split()[8]) for line in lines if line.strip().startswith("lo:")), 0)


def measure_link() -> dict[str, float]:
    """Return seconds of a small message to the next device, and bytes a second of a large one."""
    mesh, seconds = _mesh(), {}
    count = jax.device_count()
    pairs = [(k, (k + 1) % count) for k in range(count)]
    over = jax.sharding.PartitionSpec("device")
    for length in (SMALL, LARGE):
        x = da.distribute(jnp.zeros(length * count, jnp.float32), mesh)
        turn = jax.jit(
            jax.shard_map(
                lambda part: jax.lax.ppermute(part, "device", pairs), mesh=mesh, in_specs=over, out_specs=over
            )
        )
        seconds[length] = _timed(turn, (x,))["seconds"]
    return {"latency": seconds[SMALL], "bandwidth": 4 * LARGE / max(seconds[LARGE] - seconds[SMALL], 1e-9)}


def measure_critical_path(steps: int, every: int) -> dict[str, int]:
    """Return model steps that have to follow each other in a value of a cost, counted in its program.

    Args:
        steps: of the window.
        every: of a sub-window of the time-parallel (weak-constraint) window.
    """
    points = 64
    y = _observed(points, list(range(every, steps + 1, every)))
    x_b = _drawn(0, (points,))
    strong = da.StrongConstraint4DVar(da.models.Lorenz96(), x_b, ONE, y)
    guess = _drawn(3, (steps // every, points))  # without one, the trajectory of the background is the guess
    weak = da.StateWeakConstraint4DVar(da.models.Lorenz96(), x_b, ONE, ONE, y, steps=steps, every=every, guess=guess)
    return {
        name: _turns(jax.make_jaxpr(lambda v, cost=cost: cost(v))(cost.control()).jaxpr)
        for name, cost in (("strong", strong), ("weak", weak))
    }


def _turns(jaxpr: Any) -> int:
    """Return how many turns of loops follow each other in a traced function; loops side by side count as one."""
    ready: dict[Any, int] = {}
    longest = 0
    for equation in jaxpr.eqns:
        begin = max((ready.get(v, 0) for v in equation.invars if not hasattr(v, "val")), default=0)
        inner = [_turns(part) for part in jex.jaxprs_in_params(equation.params)]
        own = max(inner, default=0)
        if equation.primitive.name == "scan":
            own = int(equation.params["length"]) * max(own, 1)
        longest = max(longest, begin + own)
        for variable in equation.outvars:
            ready[variable] = begin + own
    return longest
