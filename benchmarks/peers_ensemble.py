"""The cycled ETKF of DAPPER, and cuthbert's ensemble Kalman filters, on the numbers of `benchmarks.ensemble`."""

from __future__ import annotations

import contextlib
import copy
import io
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import first_call

__all__ = ["cuthbert_runs", "dapper_seconds"]

INFLATION = 1.05


def dapper_seconds(E: np.ndarray, rows: np.ndarray, means: np.ndarray) -> dict[str, float]:
    """Return what DAPPER takes for the cycle: as it is called, and its model, analysis and inflation alone.

    Args:
        E: ensemble at the start, shape (N, n).
        rows: observations, of everything after every step, R = I, shape (times, n).
        means: means of the analyses as they should be.

    Raises:
        RuntimeError: if its means are others.
    """
    from dapper.da_methods import EnKF
    from dapper.da_methods.ensemble import EnKF_analysis, post_process
    from dapper.mods.Lorenz96 import sakov2008
    from dapper.tools.randvars import RV

    HMM = copy.deepcopy(sakov2008.HMM)
    assert E.shape[1] == HMM.Dyn.M
    HMM.tseq.dko, HMM.tseq.Ko, HMM.tseq.BurnIn = 1, len(rows) - 1, 0
    HMM.liveplotters = []
    HMM.X0 = RV(M=E.shape[1], func=lambda N: E.copy())
    states = np.zeros((len(rows) + 1, E.shape[1]))  # the truth serves its statistics alone

    def alone() -> np.ndarray:
        members, found = E.copy(), []
        for k, y in enumerate(rows):
            members = HMM.Dyn(members, k * HMM.tseq.dt, HMM.tseq.dt)
            members = EnKF_analysis(members, HMM.Obs(k)(members), HMM.Obs(k).noise, y, "Sqrt")
            members = post_process(members, INFLATION, False)
            found.append(members.mean(0))
        return np.stack(found)

    method = EnKF("Sqrt", N=len(E), infl=INFLATION)

    def whole() -> np.ndarray:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            method.assimilate(HMM, states, rows, desc="", liveplots=False)
        return np.asarray(method.stats.mu.a)

    seconds = {}
    for name, run in (("DAPPER", whole), ("DAPPER without statistics", alone)):
        times = []
        for _ in range(2):
            before = time.perf_counter()
            found = run()
            times.append(time.perf_counter() - before)
        if not np.max(np.abs(found - means)) < 1e-6:
            raise RuntimeError(f"{name}: the means differ by {np.max(np.abs(found - means)):.1e}")
        seconds[name] = min(times)
    return seconds


def cuthbert_runs(model: Any, E: np.ndarray, rows: np.ndarray) -> dict[str, Callable[[], Any]]:
    """Return functions that run each of cuthbert's ensemble Kalman filters over the cycle, compiled, by name.

    They are other filters than the ETKF (with perturbed observations, or with another root), on the same problem with
    the same model; each returns the last ensemble and the means.

    Args:
        model: forward model, `step(x, t) -> x`.
        E: ensemble at the start, shape (N, n).
        rows: observations of everything after every step, R = I, shape (times, n).
    """
    from cuthbert import filter as run_filter
    from cuthbert.ensemble_kalman import ensemble_kalman_filter as enkf

    N, n = E.shape
    start = jnp.asarray(E)

    def prepared(perturbed: bool, subspace: bool) -> Any:
        built = enkf.build_filter(
            init_sample=lambda key: start[0],
            get_dynamics=lambda inputs: lambda x, key: model.step(x, 0),
            get_observations=lambda y: (lambda x: x, jnp.ones(n) if subspace else jnp.eye(n), y),
            n_particles=N, inflation=INFLATION - 1, perturbed_obs=perturbed, ensemble_subspace=subspace,
        )  # fmt: skip
        key = jax.random.key(0)

        @jax.jit
        def run(start: Any, rows: Any) -> Any:
            state = built.init_prepare(key=key)._replace(ensemble=start)
            states = run_filter(built, rows, state, key=key)
            return states.ensemble[-1], states.mean

        arguments = start, jnp.asarray(rows)
        first_call(lambda: run(*arguments))
        return lambda: run(*arguments)

    kinds = {
        "cuthbert, perturbed observations": (True, False),
        "cuthbert, perturbed observations, members' space": (True, True),
        "cuthbert, square root": (False, False),
        "cuthbert, square root, members' space": (False, True),
    }
    return {name: prepared(*kind) for name, kind in kinds.items()}
