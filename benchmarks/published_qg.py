"""Local filters of the quasi-geostrophic model of Sakov and Oke (2008), seen along moving tracks, as in DAPPER."""

from __future__ import annotations

import time
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import cyclopts
import jax
import jax.numpy as jnp
import numpy as np

import diffassim as da
from benchmarks.harness import Record, report
from diffassim.grids.grid import Grid

# DAPPER's mods/QG/sakov2008.py: 129 x 129 points, an analysis every 5 units of time (4 steps of 1.25) until 1500, of
# 300 values with errors of variance 4; the first 250 units are not scored. Members and truth are drawn, with
# replacement, from 401 states of a free run that starts at rest: the first after 700 intervals, then every 10. The
# score is the time mean of the root mean square of the mean's error over all points, walls included.
POINTS, EVERY, CYCLES, BURN_IN, VALUES, STD, RADIUS = 129, 4, 300, 50, 300, 2.0, 10.0
SPIN_UP, SPACING, STATES = 700, 10, 401
KEY = 2008


class Case(NamedTuple):
    """A row of DAPPER's file: the method, its settings, and the score printed there."""

    method: Any
    members: int
    inflation: float
    published: float
    options: Any = MappingProxyType({})


CASES = {
    "letkf-25": Case(da.LETKF, 25, 1.04, 0.64),
    "eakf-25-1.04": Case(da.EAKF, 25, 1.04, 0.62),
    "eakf-25-1.03": Case(da.EAKF, 25, 1.03, 0.58),
    "letkf-45": Case(da.LETKF, 45, 1.02, 0.52),
    "letkfn-25": Case(da.ensemble.LETKFN, 25, 1.0, 0.66, {"exponent": 2.0}),
    "letkfn-45": Case(da.ensemble.LETKFN, 45, 1.0, 0.51, {"exponent": 1.5}),
}


class Setup(NamedTuple):
    """Size of the experiment: points a side, analyses, those not scored, and the free run in intervals."""

    points: int = POINTS
    cycles: int = CYCLES
    burn_in: int = BURN_IN
    values: int = VALUES
    states: int = STATES
    spin_up: int = SPIN_UP


def free_run(setup: Setup, cache: Path | None = None) -> Any:
    """Return the states that members and truth are drawn from, read from `cache` where it exists."""
    if cache is not None and cache.exists():
        return jnp.asarray(np.load(cache))
    model = da.models.ReducedGravityQG()
    start = jnp.zeros((setup.points, setup.points))
    start = da.rollout(model, start, setup.spin_up * EVERY, at=[setup.spin_up * EVERY])[0]
    steps = (setup.states - 1) * SPACING * EVERY
    states = da.rollout(model, start, steps, at=np.arange(setup.states) * SPACING * EVERY)
    if cache is not None:
        np.save(cache, np.asarray(states))
    return states


def tracks(setup: Setup) -> np.ndarray:
    """Return the grid indices (y, x) observed at each analysis, shape (cycles, values, 2).

    Equidistant in the order in which x runs fastest, moved by a random offset at each time, which are those of DAPPER.
    """
    first = np.linspace(0, setup.points**2, setup.values, endpoint=False).astype(int)
    offsets = [int(np.floor((first[1] - first[0]) * np.random.RandomState(k).rand())) for k in range(setup.cycles)]
    numbers = first[None] + np.array(offsets)[:, None]
    return np.stack(np.unravel_index(numbers, (setup.points, setup.points)), axis=-1)


def twin(key: jax.Array, states: Any, setup: Setup, members: int) -> tuple[Any, Any, Any]:
    """Return the truth at the analyses, the observations, and the first ensemble."""
    keys = jax.random.split(key, 3)
    ensemble = states[jax.random.choice(keys[0], len(states), (members,))]
    start = states[jax.random.choice(keys[1], len(states))]
    steps = EVERY * np.arange(1, setup.cycles + 1)
    truth = da.rollout(da.models.ReducedGravityQG(), start, int(steps[-1]), at=steps)
    where = tracks(setup)
    exact = truth[np.arange(setup.cycles)[:, None], where[..., 0], where[..., 1]]
    obs = da.Observations(
        exact + STD * jax.random.normal(keys[2], exact.shape), steps, where=jnp.asarray(where, float),
        operator=da.observations.Interpolate(spacing=(1.0, 1.0), periodic=(False, False)),
        error=da.covariances.Diagonal(std=STD),
    )  # fmt: skip
    return truth, obs, ensemble


def run(name: str, key: jax.Array, states: Any, setup: Setup, chunk: int = 25) -> Record:
    """Cycle one seed of a case and return its scores; the ratio is to the published one."""
    case = CASES[name]
    truth, obs, ensemble = twin(key, states, setup, case.members)
    method = case.method(
        inflation=case.inflation, localization=da.ensemble.GaspariCohn(RADIUS),
        grid=Grid(spacing=1.0, periodic=(False, False)), **case.options,
    )  # fmt: skip
    times, parts, step, seconds = da.analysis_times(obs), [], 0, []
    for first in range(0, setup.cycles, chunk):
        before = time.perf_counter()
        ensemble, history = da.cycle(
            method, da.models.ReducedGravityQG(), ensemble, times[first : first + chunk], start=step
        )
        step = history.step[-1]
        error = history.analysis.mean - truth[first : first + chunk]
        rms = lambda field: np.asarray(jnp.sqrt(jnp.mean(jnp.square(field), axis=(1, 2))))  # noqa: E731
        parts.append((rms(error), rms(history.analysis.spread)))
        seconds.append((time.perf_counter() - before) / len(parts[-1][0]))
        print(f"  analysis {first + len(parts[-1][0])}: error {parts[-1][0][-1]:.3f}", flush=True)
    rmse, spread = (np.concatenate([part[i] for part in parts]) for i in range(2))
    score = float(rmse[setup.burn_in :].mean())
    late = slice(setup.burn_in, None)
    more = {"error": score, "spread": float(spread[late].mean()), "largest error": float(rmse[late].max())}
    return Record(
        what=name, size=f"{setup.points} x {setup.points}, {setup.cycles} analyses",
        seconds=min(seconds), reference="published", ratio=score / case.published, target=1.0, more=more,
    )  # fmt: skip


def main(
    *, seeds: int = 5, first_seed: int = 0, cases: tuple[str, ...] = tuple(CASES), cycles: int = CYCLES,
    burn_in: int = BURN_IN, points: int = POINTS, values: int = VALUES, states: int = STATES, spin_up: int = SPIN_UP,
    cache: Path | None = None, single: bool = False, json: Path | None = None,
) -> None:  # fmt: skip
    """Print the error of each seed beside the published one (`wall ms` is of one forecast and analysis).

    Args:
        seeds: runs of each case.
        first_seed: number of the first.
        cases: names of cases, method, members and where needed inflation.
        cycles: analyses.
        burn_in: of these, the first ones that are not scored.
        points: a side.
        values: observed at each time.
        states: of the free run.
        spin_up: intervals of the free run before the first of them.
        cache: file (.npy) that keeps the free run.
        single: whether to work in single precision.
        json: file for the records.
    """
    jax.config.update("jax_enable_x64", not single)
    setup = Setup(points, cycles, burn_in, values, states, spin_up)
    sample = free_run(setup, cache)
    records = []
    for name in cases:
        for seed in range(first_seed, first_seed + seeds):
            record = run(name, jax.random.fold_in(jax.random.key(KEY), seed), sample, setup)
            print(f"{name}, seed {seed}: {record.more}", flush=True)
            records.append(record)
    report("published quasi-geostrophic scores", records, json)


if __name__ == "__main__":
    cyclopts.run(main)
