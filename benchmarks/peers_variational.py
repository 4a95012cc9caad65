"""Variational assimilation beside other libraries: ADAO on one window, DAPPER's 4D-Var on a long cycle.

The peers are no dependency: `pip install ".[peers]"`. What is not installed is said and left out.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cyclopts
import jax
import jax.numpy as jnp
import numpy as np

import diffassim as da
from benchmarks.harness import Record, first_call, report
from benchmarks.problems import lorenz96_arrays, lorenz96_cost

CLOSE = 1e-5  # relative: how far above the lowest cost found a cost may be to count as having reached it
LAG_1 = {"steps": 4, "dt": 0.05, "scale": 0.2, "documented": 0.46}  # Var4D(Lag=1, xB=.2), dto = .2, B = identity


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def absent(name: str) -> Record:
    return Record(what=f"{name}: not installed", size="", more={"to compare": f"pip install {name}"})


# --- one window


class Window:
    """A window as a function from the initial state to all observed values, with counted calls."""

    def __init__(self, cost: da.StrongConstraint4DVar) -> None:
        (stream,) = cost.observations

        def observe(x: Any) -> Any:
            return stream.predict(da.rollout(cost.model, x, cost.steps, at=stream.steps)).reshape(-1)

        self.y = np.asarray(stream.values).reshape(-1)
        self._value = jax.jit(observe)
        self._tangent = jax.jit(lambda x, dx: jax.jvp(observe, (x,), (dx,))[1])
        self._adjoint = jax.jit(lambda x, dy: jax.vjp(observe, x)[1](dy)[0])
        self.calls = {"model": 0, "tangent": 0, "adjoint": 0}

    def value(self, x: Any) -> Any:
        """Return the observed values of the window from x."""
        self.calls["model"] += 1
        return np.asarray(self._value(np.ravel(x).astype(float)))

    def tangent(self, pair: Any) -> Any:
        """Return their derivative along dx."""
        self.calls["tangent"] += 1
        return np.asarray(self._tangent(*(np.ravel(a).astype(float) for a in pair)))

    def adjoint(self, pair: Any) -> Any:
        """Return its transpose, applied to dy."""
        self.calls["adjoint"] += 1
        return np.asarray(self._adjoint(*(np.ravel(a).astype(float) for a in pair)))


def adao_analysis(window: Window, x_b: np.ndarray, differences: bool) -> np.ndarray:
    """Return ADAO's analysis, by its L-BFGS-B: the whole window is the observation operator of its 3D-Var."""
    from adao import adaoBuilder

    case = adaoBuilder.New()
    case.set(
        "AlgorithmParameters",
        Algorithm="3DVAR",
        Parameters={
            "Minimizer": "LBFGSB",
            "MaximumNumberOfIterations": 500,
            "CostDecrementTolerance": 1e-10,
            "GradientNormTolerance": 1e-6,
        },
    )
    case.set("Background", Vector=x_b)
    case.set("BackgroundError", ScalarSparseMatrix=1.0)
    case.set("Observation", Vector=window.y)
    case.set("ObservationError", ScalarSparseMatrix=1.0)
    if differences:
        increment = {"DifferentialIncrement": 1e-6, "CenteredFiniteDifference": False}
        case.set("ObservationOperator", OneFunction=window.value, Parameters=increment)
    else:
        functions = {"Direct": window.value, "Tangent": window.tangent, "Adjoint": window.adjoint}
        case.set("ObservationOperator", ThreeFunctions=functions)
    with contextlib.redirect_stdout(io.StringIO()):
        case.execute()
    return np.asarray(case.get("Analysis")[-1])


def one_window(times: int, seed: int, rounds: int) -> list[Record]:
    arrays = lorenz96_arrays(times, seed)
    cost = lorenz96_cost(arrays)
    x_b = arrays["x_background"]
    value = jax.jit(lambda x: cost({"state": x - cost.background}))
    size = f"Lorenz-96, n = {x_b.size}, {times} times"

    def ours(method: Any) -> tuple[Any, dict[str, Any]]:
        found = jax.block_until_ready(da.minimize(cost, method))
        iterations = int(found.search.iterations)
        return found.state, {"iterations": iterations, "work in gradients": float(found.search.work)}

    def theirs(differences: bool) -> tuple[Any, dict[str, Any]]:
        window = Window(cost) if not shared else shared[0]
        shared[:] = [window]
        window.calls.update(dict.fromkeys(window.calls, 0))
        return adao_analysis(window, x_b, differences), dict(window.calls)

    shared: list[Window] = []
    cases: dict[str, Callable[[], Any]] = {
        "diffassim, Gauss-Newton, default": lambda: ours(da.GaussNewton()),
        "diffassim, L-BFGS": lambda: ours(da.LBFGS(tolerance=1e-3)),
    }
    if installed("adao"):
        cases |= {
            "ADAO, L-BFGS-B, with our model, tangent and adjoint": lambda: theirs(False),
            "ADAO, L-BFGS-B, with our model and finite differences": lambda: theirs(True),
        }
    first = {name: first_call(lambda f=f: f()[0]) for name, f in cases.items()}
    wall: dict[str, list[float]] = {name: [] for name in cases}
    cpu: dict[str, list[float]] = {name: [] for name in cases}
    results = {}
    for _ in range(rounds):
        for name, function in cases.items():
            before = time.perf_counter(), time.process_time()
            results[name] = function()
            wall[name].append(time.perf_counter() - before[0])
            cpu[name].append(time.process_time() - before[1])
    reached = {name: float(value(jnp.asarray(x))) for name, (x, _) in results.items()}
    lowest, reference = min(reached.values()), next(iter(cases))
    records = [
        Record(
            what=name,
            size=size,
            compile_seconds=max(0.0, first[name] - min(wall[name])),
            seconds=min(wall[name]),
            cpu_seconds=float(np.median(cpu[name])),
            reference=reference,
            ratio=min(wall[name]) / min(wall[reference]),
            more={"cost": f"{reached[name]:.8f}", "within 1e-5": bool(reached[name] <= lowest * (1 + CLOSE))}
            | results[name][1],
        )
        for name in cases
    ]
    return records if installed("adao") else [*records, absent("adao")]


# --- a cycle


def cycle(observations: np.ndarray, first: np.ndarray) -> tuple[Callable[[], Any], int]:
    """Return our cycle over the windows of DAPPER's record; both see the same numbers."""
    steps, count = int(LAG_1["steps"]), observations.shape[0]
    obs = da.Observations(
        jnp.asarray(observations), steps * np.arange(1, count + 1), error=da.covariances.Diagonal(std=1.0)
    )
    windows = da.split_windows(obs, steps, count)
    method = da.FourDVar(da.covariances.Diagonal(std=LAG_1["scale"] ** 0.5))
    model = da.models.Lorenz96(dt=LAG_1["dt"])
    return lambda: da.cycle(method, model, jnp.asarray(first), windows, steps=steps)[1], steps


class Repaired:
    """DAPPER 1.7.1 asks an observation operator for the time twice in `Var4D`: the second time it is itself."""

    def __init__(self, operator: Any, depth: int = 0) -> None:
        self.operator, self.depth = operator, depth

    def __call__(self, x: Any) -> Any:
        """Return the operator of a time, or its value at a state."""
        if self.depth and np.ndim(x) == 0:
            return self
        return self.operator(x) if self.depth else Repaired(self.operator(x), 1)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "operator":
            raise AttributeError(name)
        return getattr(self.operator, name)


def long_cycle(cycles: int, seed: int) -> list[Record]:
    if not installed("dapper"):
        return [absent("dapper")]
    import dapper
    from dapper.da_methods import Var4D
    from dapper.mods.Lorenz96 import sakov2008

    HMM = copy.deepcopy(sakov2008.HMM)
    HMM.tseq.dko, HMM.tseq.Ko = int(LAG_1["steps"]), cycles - 1
    HMM.liveplotters = []
    dapper.set_seed(seed + 1)  # zero is refused
    xx, yy = HMM.simulate()
    truth = xx[HMM.tseq.kko]
    scored = HMM.tseq.masko
    size = f"Lorenz-96, {cycles} windows of one analysis, B = .2 I"

    def error(analysis: np.ndarray) -> float:
        return float(np.mean(np.sqrt(np.mean((analysis - truth) ** 2, axis=1))[scored]))

    HMM.Obs = Repaired(HMM.Obs)
    theirs = Var4D(B="eye", xB=LAG_1["scale"], Lag=1)
    wall, cpu = time.perf_counter(), time.process_time()
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        theirs.assimilate(HMM, xx, yy, desc="", liveplots=False)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    their_error = float(np.mean(theirs.stats.err.rms.a[scored]))

    run, steps = cycle(np.stack([np.asarray(y, float) for y in yy]), np.asarray(HMM.X0.mu, float))
    assert steps == HMM.tseq.dko
    once = first_call(run)
    before = time.perf_counter(), time.process_time()
    history = jax.block_until_ready(run())
    ours, our_cpu = time.perf_counter() - before[0], time.process_time() - before[1]
    found = error(np.asarray(history.analysis)[:, -1])
    documented = {"documented score": LAG_1["documented"]}
    return [
        Record(
            what="DAPPER, Var4D(Lag=1), Gauss-Newton with full matrices, its statistics included",
            size=size, seconds=wall, cpu_seconds=cpu, reference="diffassim, FourDVar", ratio=wall / ours,
            more={"error of the analysis": their_error} | documented,
        ),
        Record(
            what="diffassim, FourDVar", size=size, compile_seconds=once - ours, seconds=ours, cpu_seconds=our_cpu,
            reference="diffassim, FourDVar", ratio=1.0, more={"error of the analysis": found} | documented,
        ),
    ]  # fmt: skip


def main(
    *, times: tuple[int, ...] = (10, 20), seed: int = 0, rounds: int = 5, cycles: int = 1000, json: Path | None = None
) -> None:
    """Set our searches beside those of ADAO and DAPPER, on the same numbers and in one process.

    ADAO has no adjoint of its own: it is given ours, compiled, and beside it its own finite differences. Both count
    their calls. DAPPER brings model and tangent in NumPy.

    Args:
        times: observation times of the windows.
        seed: of the window and of the cycle.
        rounds: interleaved rounds of each window.
        cycles: analyses of the cycle.
        json: file for the records.
    """
    jax.config.update("jax_enable_x64", True)
    records = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the peers
        for length in times:
            records += one_window(length, seed, rounds)
        records += long_cycle(cycles, seed)
    report("peers", records, json)


if __name__ == "__main__":
    cyclopts.run(main)
