"""Published scores of the LETKF on Lorenz-96: few observations (Bach et al., 2025), arctangents (Bao et al., 2024)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

import cyclopts
import jax
import jax.numpy as jnp
import numpy as np

import diffassim as da
from benchmarks.harness import Record, report
from diffassim.ensemble import GaspariCohn, RelaxToPriorSpread

# Sparse: 40 variables, every fourth observed every five Runge-Kutta steps of .03, unit errors; 64 trajectories of 1,500
# analyses. Truth and members start from N(e_0, .1 I); the first 20 units of time do not count. The score is the mean
# over the other analyses and all trajectories of the root-mean-square error of the ensemble mean.
SPARSE_DT, SPARSE_INTERVAL, SPARSE_ANALYSES, SPARSE_BURN_IN, TRAJECTORIES = 0.03, 5, 1500, 133, 64
SPARSE_PUBLISHED = {5: 2.635, 10: 2.020, 15: 1.745, 20: 1.577, 40: 1.396, 60: 1.341, 100: 1.304}
# Arctangents: 100 variables, atan(x) of all of them every ten steps of .01 with errors of .05; 1,500 steps, 20 members,
# ten repetitions. Members start from N(0, I). The scores are the mean of the root-mean-square errors of all 150
# analyses and that of the last. It is not said where the truth starts: from the same distribution, or on the attractor.
ATAN_N, ATAN_DT, ATAN_INTERVAL, ATAN_STEPS, ATAN_STD, ATAN_MEMBERS, ATAN_REPETITIONS = 100, 0.01, 10, 1500, 0.05, 20, 10
ATAN_PUBLISHED = {"mean": 0.231, "final": 0.138}
ATAN_AIM = {"mean": 0.22, "final": 0.13}
TEST_KEY, TUNING_KEY = 96, 9700


class Settings(NamedTuple):
    """How far the spread is relaxed to that of the prior, and the radius of the taper."""

    relaxation: float
    radius: float


# Tuned on the tuning key alone, see `tune`. Where points are far from all observations, relaxation is bounded, while a
# factor of the anomalies (published: best of a grid) lets some of these runs grow beyond all bounds.
SPARSE_SETTINGS = {10: Settings(0.25, 1.8), 20: Settings(0.22, 3.0), 100: Settings(0.09, 4.0)}
ATAN_SETTINGS = Settings(0.35, 3.0)


def method(settings: Settings) -> Any:
    return da.LETKF(RelaxToPriorSpread(settings.relaxation), localization=GaspariCohn(settings.radius))


def sparse(members: int, settings: Settings, key: jax.Array) -> Any:
    """Return the error of every analysis of one trajectory."""
    n, model, operator = 40, da.models.Lorenz96(dt=SPARSE_DT), da.observations.Subsample(every=4)
    keys = jax.random.split(key)
    draws = jnp.eye(n)[:1] + 0.1**0.5 * jax.random.normal(keys[0], (1 + members, n))
    at = SPARSE_INTERVAL * np.arange(1, SPARSE_ANALYSES + 1)
    truth = da.rollout(model, draws[0], int(at[-1]), at=at)
    values = jax.vmap(operator)(truth)
    values = values + jax.random.normal(keys[1], values.shape)
    obs = da.Observations(values, at, operator, da.covariances.Diagonal(std=1.0))
    _, history = da.cycle(method(settings), model, draws[1:], obs)
    return jnp.sqrt(jnp.mean((history.analysis.mean - truth) ** 2, axis=1))


def arctangent(settings: Settings, on_attractor: bool, key: jax.Array) -> Any:
    """Return the error of every analysis of one repetition."""
    model, keys = da.models.Lorenz96(dt=ATAN_DT), jax.random.split(key, 3)
    truth0 = jax.random.normal(keys[0], (ATAN_N,))
    if on_attractor:
        truth0 = da.rollout(model, truth0, 2000, at=[2000])[0]
    at = ATAN_INTERVAL * np.arange(1, ATAN_STEPS // ATAN_INTERVAL + 1)
    truth = da.rollout(model, truth0, ATAN_STEPS, at=at)
    values = jnp.arctan(truth) + ATAN_STD * jax.random.normal(keys[1], truth.shape)
    operator = da.observations.Function(lambda x: jnp.arctan(x))
    obs = da.Observations(values, at, operator, da.covariances.Diagonal(std=ATAN_STD))
    places = jnp.arange(ATAN_N, dtype=float)[:, None]
    letkf = method(settings).replace(places=places)
    _, history = da.cycle(letkf, model, jax.random.normal(keys[2], (ATAN_MEMBERS, ATAN_N)), obs)
    return jnp.sqrt(jnp.mean((history.analysis.mean - truth) ** 2, axis=1))


on_trajectories = jax.jit(jax.vmap(sparse, (None, None, 0)), static_argnums=0)
on_repetitions = jax.jit(jax.vmap(arctangent, (None, None, 0)), static_argnums=1)


def sparse_scores(members: int, settings: Settings, keys: jax.Array, batch: int) -> np.ndarray:
    """Return the time-mean error of each trajectory, `batch` of them at a time."""
    errors = [on_trajectories(members, settings, keys[i : i + batch]) for i in range(0, len(keys), batch)]
    return np.concatenate([np.asarray(e)[:, SPARSE_BURN_IN:].mean(1) for e in errors])


def sparse_table(members: tuple[int, ...], trajectories: int, batch: int) -> list[Record]:
    records = []
    for N in members:
        keys = jax.random.split(jax.random.fold_in(jax.random.key(TEST_KEY), N), trajectories)
        before = time.perf_counter()
        error = sparse_scores(N, SPARSE_SETTINGS[N], keys, min(batch, trajectories))
        found = summary(error, SPARSE_PUBLISHED[N])
        records.append(
            Record(
                f"every fourth variable, {N} members", f"{trajectories} x {SPARSE_ANALYSES} analyses",
                seconds=time.perf_counter() - before, ratio=found["error"] / SPARSE_PUBLISHED[N], target=1.03,
                reference="published LETKF", more=found,
            )
        )  # fmt: skip
    return records


def arctangent_table(repetitions: int) -> list[Record]:
    records = []
    for on_attractor in (False, True):
        keys = jax.random.split(jax.random.key(TEST_KEY), repetitions)
        error = np.asarray(on_repetitions(ATAN_SETTINGS, on_attractor, keys))
        for what, values in (("mean", error.mean(1)), ("final", error[:, -1])):
            start = "on the attractor" if on_attractor else "like the members"
            found = summary(values, ATAN_PUBLISHED[what])
            records.append(
                Record(
                    f"arctangents, {what}, truth starts {start}", f"n = {ATAN_N}, {repetitions} repetitions",
                    ratio=found["error"] / ATAN_AIM[what], target=1.0, reference="aim", more=found,
                )
            )  # fmt: skip
    return records


def summary(values: np.ndarray, published: float) -> dict[str, float]:
    """Return mean and scatter of the runs that are finite, and how many are not: members may leave all bounds."""
    lost = int(np.sum(~np.isfinite(values)))
    values = values[np.isfinite(values)]
    error = float(np.std(values, ddof=1) / values.size**0.5) if values.size > 1 else float("nan")
    return {
        "error": float(values.mean()), "standard_error": error, "largest": float(values.max()), "lost": lost,
        "published": published,
    }  # fmt: skip


def tune(members: int | None, relaxations: tuple[float, ...], radii: tuple[float, ...], runs: int) -> None:
    """Print the scores of other trajectories for all pairs of settings, all in one compiled program."""
    keys = jax.random.split(jax.random.key(TUNING_KEY), runs)
    for radius in radii:
        for relaxation in relaxations:
            settings = Settings(relaxation, radius)
            if members is None:
                error = np.asarray(on_repetitions(settings, False, keys))
                told = f"{error.mean():.4f} final {error[:, -1].mean():.4f} largest {error.mean(1).max():.3f}"
            else:
                error = sparse_scores(members, settings, keys, runs)
                told = str(summary(error, SPARSE_PUBLISHED[members]))
            print(f"radius {radius:5.2f} relaxation {relaxation:.3f}: {told}", flush=True)


def main(
    *,
    members: tuple[int, ...] = (10, 20, 100),
    trajectories: int = TRAJECTORIES,
    batch: int = 16,
    repetitions: int = ATAN_REPETITIONS,
    json: Path | None = None,
) -> None:
    """Measure the LETKF against published scores.

    Parameters
    ----------
    members
        Ensemble sizes of the sparse case: 10, 20 or 100.
    trajectories
        Trajectories of the sparse case; 0 leaves it out.
    batch
        How many of them run together.
    repetitions
        Repetitions of the arctangents; 0 leaves them out.
    json
        File to write the records to, one object a row.
    """
    jax.config.update("jax_enable_x64", True)
    records = arctangent_table(repetitions) if repetitions else []
    records += sparse_table(members, trajectories, batch) if trajectories else []
    report("Published scores of local filters", records, json)


if __name__ == "__main__":
    cyclopts.run(main)
