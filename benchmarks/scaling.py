"""How assimilations grow with devices: processor time on forced devices, and messages counted from the programs.

A laptop has no cluster. What can be measured here is how much processor time all forced devices need together, which
stays that of one device where nothing is done twice; what they would send each other is counted from the program that
the compiler makes for 8 or 64 devices. A stated machine turns both into a prediction.
"""

from __future__ import annotations

import json as json_module
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cyclopts
import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

import diffassim as da
from benchmarks.harness import Record, fresh_process, memory_bytes, report
from diffassim.diagnostics import explain_communication

BANDWIDTH, LATENCY = 25e9, 5e-6  # of the machine of the prediction: bytes a second and seconds a message
ROUNDS = 3
ONE = da.covariances.Diagonal(std=jnp.float32(1.0))
MEMBERS, STEPS = 16, 8
Case = tuple[Callable[..., Any], tuple[Any, ...]]


def _mesh() -> Any:
    return da.device_mesh()


def _ensemble(size: int) -> jax.Array:
    """Return members in parts over as many devices as divide them, and over space where there are more."""
    count = jax.device_count()
    along = math.gcd(count, MEMBERS)
    axes = {"member": 0} if along == count else {"member": 0, "space": -1}
    mesh = da.device_mesh({"member": along, "space": count // along})
    return da.distribute(_drawn(0, (MEMBERS, size)), mesh, axes)  # type: ignore[no-any-return]


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
    """Return value and gradient of an ensemble-variational cost with members in parts."""
    ensemble, y = _ensemble(size), _observed(size, [0])
    C = da.covariances.Gaussian(std=jnp.float32(1.0), length=jnp.float32(3.0), grid=da.grids.Grid())
    cost = da.ThreeDVar(_drawn(2, (size,)), da.covariances.Ensemble(ensemble, localization=C), y)
    return jax.value_and_grad(lambda v, c: c(v)), (da.distribute(cost.control(), _mesh()), cost)


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
    """Return, by case, what the program for all devices of this process sends and needs; with `run` its times.

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
            jax.block_until_ready(program(*arguments))
            walls, cpus = [], []
            for _ in range(ROUNDS):
                wall, cpu = time.perf_counter(), time.process_time()
                jax.block_until_ready(program(*arguments))
                walls.append(time.perf_counter() - wall)
                cpus.append(time.process_time() - cpu)
            found[name] |= {"seconds": min(walls), "cpu": min(cpus)}
    return found


def on_forced_devices(names: list[str], size: int, devices: int, run: bool, timeout: float = 1800) -> dict[str, Any]:
    """Return `measure` in a process of its own with so many devices."""
    code = f"import json\nfrom benchmarks.scaling import measure\nprint(json.dumps(measure({names!r}, {size}, {run})))"
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {"XLA_FLAGS": flags, "NPROC": str(max(4, 4 * devices if run else 2 * devices))}
    return fresh_process(code, environment, timeout=timeout)  # type: ignore[no-any-return]


def predicted(cpu: float, devices: int, sent: float, messages: float) -> float:
    """Return the seconds of a step on the stated machine: a device's share of the work, then its messages."""
    return cpu / devices + sent / BANDWIDTH + messages * LATENCY * (devices > 1)


def main(
    *, case: list[str] | None = None, size: int = 16_384, measured: tuple[int, ...] = (1, 2, 4),
    counted: tuple[int, ...] = (8, 64), json: Path | None = None,
) -> None:  # fmt: skip
    """Measure on forced devices, count for many, and predict.

    Args:
        case: names of cases; default: all.
        size: of the problem on one device, and of all devices together in strong scaling.
        measured: numbers of devices that are run, the first of which is 1.
        counted: numbers of devices for which the program is only compiled.
        json: file for the records.
    """
    names = list(CASES) if case is None else case
    strong = {d: on_forced_devices(names, size, d, True) for d in measured}
    weak = {d: strong[d] if d == 1 else on_forced_devices(names, size * d, d, True) for d in measured}
    many = {d: on_forced_devices(names, size, d, False) for d in counted}
    records = []
    table = Table(
        title=f"predicted, {BANDWIDTH / 1e9:.0f} GB/s and {LATENCY * 1e6:.0f} us a message", title_justify="left"
    )
    for column in ("what", "devices", "sent KB", "messages", "ms", "speed-up", "of ideal", "measured / predicted cpu"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for name in names:
        alone = strong[1][name]["cpu"]
        for d, found in (strong | many).items():
            row = found[name]
            seconds = predicted(alone, d, row["bytes"], row["messages"])
            # What all devices do together costs here what it costs alone, if nothing is done twice.
            ratio = f"{row['cpu'] / alone:.2f}" if "cpu" in row else ""
            table.add_row(
                name, str(d), f"{row['bytes'] / 1e3:.3g}", str(row["messages"]), f"{1e3 * seconds:.3g}",
                f"{alone / seconds:.3g}", f"{alone / seconds / d:.0%}", ratio,
            )  # fmt: skip
        for d in measured:
            for kind, found, ideal in (("strong", strong[d][name], alone), ("weak", weak[d][name], alone * d)):
                records.append(
                    Record(
                        what=f"{name}, {kind}", size=f"{size if kind == 'strong' else size * d} on {d} devices",
                        dtype="float32", compile_seconds=found["compile"], seconds=found["seconds"],
                        cpu_seconds=found["cpu"], reference="processor time of one device", ratio=found["cpu"] / ideal,
                        peak_bytes=found["memory"], more={"sent": found["bytes"], **found["kinds"]},
                    )
                )  # fmt: skip
        for d in counted:
            found = many[d][name]
            records.append(
                Record(
                    what=f"{name}, counted", size=f"{size} on {d} devices", dtype="float32",
                    compile_seconds=found["compile"], peak_bytes=found["memory"],
                    more={"sent": found["bytes"], "messages": found["messages"]},
                )
            )  # fmt: skip
    report("scaling over devices", records, json)
    Console(width=120).print(table)
    if json is not None:
        kept = {"strong": strong, "weak": weak, "counted": many}
        json.with_suffix(".counts.json").write_text(json_module.dumps(kept, indent=1))


if __name__ == "__main__":
    cyclopts.run(main)
