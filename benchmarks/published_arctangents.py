"""Filters that see arctangents of Lorenz-96, up to a million variables: score and flow filters beside the LETKF."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path
from typing import Any, NamedTuple

import cyclopts
import jax
import jax.numpy as jnp
import numpy as np

import diffassim as da
from benchmarks.harness import Record, fresh_process, report
from benchmarks.published_filters import summary
from diffassim.ensemble import EnFF, EnSF, GaspariCohn, RelaxToPriorSpread

# Bao, Zhang and Zhang (2024): atan(x) of all variables every ten steps of .01 with errors of .05; 1,500 steps, 20
# members that start from N(0, I), ten repetitions. The scores are the mean of the root-mean-square errors of all 150
# analyses and that of the last. It is not said where the truth starts: from the same distribution, or on the attractor.
# Transue et al. (2025): the same with a million variables on a GPU.
DT, INTERVAL, STEPS, STD, MEMBERS, REPETITIONS = 0.01, 10, 1500, 0.05, 20, 10
SMALL, LARGE, SHORT = (100, 1000), 1_000_000, 200
PUBLISHED = {
    100: {"LETKF": (0.231, 0.138), "EnSF": (0.292, 0.193)},
    LARGE: {"EnFF": (0.172, None), "EnSF": (0.403, None)},
}
PUBLISHED_SECONDS = {"EnSF": 4.9}  # of an analysis of a million variables, on a GPU
AIM = {100: (0.22, 0.13), 1000: (0.22, 0.13), LARGE: (0.13, None)}
TEST_KEY, TUNING_KEY = 96, 9700


class Settings(NamedTuple):
    """A filter and what was tuned of it.

    Args:
        kind: LETKF, EnFF or EnSF.
        relaxation: of the spread to that of the prior.
        radius: of the taper; 0 for none, every variable on its own.
        levels: of the noise, for filters that carry members along them.
        iterations: of the conjugate gradients at each level.
    """

    kind: str
    relaxation: float
    radius: float = 0.0
    levels: int = 16
    iterations: int = 1


# Tuned on the tuning key alone, see `tune`, for 100 variables and both starts of the truth. The score filter draws each
# variable on its own, so that what members knew of neighbors is lost at each analysis; without a spread near that of
# the prior, it loses the truth.
FILTERS = {
    "LETKF": Settings("LETKF", 0.35, 3.0),
    "EnFF": Settings("EnFF", 0.2, 5.0, 6, 3),
    "EnFF, every variable alone": Settings("EnFF", 0.1),
    "EnSF": Settings("EnSF", 0.8),
}
# The steps of conjugate gradients are common to all variables: three of them neglect what is rare, and of a million
# variables some then diverge (tuning key, and once the test key).
LONG_FILTERS = FILTERS | {"EnFF": Settings("EnFF", 0.2, 5.0, 8, 6)}


def method(settings: Settings, variables: int, dtype: Any = float) -> Any:
    """Return a filter for a line of variables that are all observed, which knows what lies within reach of what."""
    relax = RelaxToPriorSpread(jnp.asarray(settings.relaxation, dtype))
    taper = GaspariCohn(settings.radius) if settings.radius else None
    large = variables > 10_000 and jax.default_backend() == "cpu"
    flow = {"steps": settings.levels, "iterations": settings.iterations, "batch": 1 if large else None}
    grid, places = da.grids.Grid(np.dtype(dtype).type(1)), jnp.arange(variables, dtype=dtype)[:, None]
    alone = da.covariances.Diagonal(std=jnp.ones((), dtype))
    batch = {} if jax.default_backend() == "cpu" else {"batch": 1 << 16}
    made: Any = {
        "EnSF": lambda: EnSF(relax, bandwidth=jnp.ones((), dtype), **flow),
        "EnFF": lambda: EnFF(relax, localization=taper or alone, grid=grid, **flow),
        "LETKF": lambda: da.LETKF(relax, localization=taper, places=places, grid=grid, **batch),
    }[settings.kind]()
    return made.prepared(jnp.zeros((2, variables), dtype), (observed(jnp.zeros((1, variables), dtype), [0]),))[0]


def observed(values: Any, steps: Any) -> da.Observations:
    error = da.covariances.Diagonal(std=jnp.asarray(STD, values.dtype))
    return da.Observations(values, steps, da.observations.Function(jnp.arctan), error)


def start(variables: int, on_attractor: bool, keys: Any, dtype: Any = float) -> tuple[Any, Any]:
    """Return truth and members at the start."""
    truth = jax.random.normal(keys[0], (variables,), dtype)
    if on_attractor:
        truth = da.rollout(da.models.Lorenz96(dt=DT), truth, 2000, at=[2000])[0]
    return truth, jax.random.normal(keys[2], (MEMBERS, variables), dtype)


def repetition(filter: Any, variables: int, steps: int, on_attractor: bool, key: jax.Array) -> Any:
    """Return error and spread of every analysis of one repetition."""
    model, keys = da.models.Lorenz96(dt=DT), jax.random.split(key, 3)
    truth0, ensemble = start(variables, on_attractor, keys)
    at = INTERVAL * np.arange(1, steps // INTERVAL + 1)
    truth = da.rollout(model, truth0, steps, at=at)
    values = jnp.arctan(truth) + STD * jax.random.normal(keys[1], truth.shape)
    draws = jax.random.fold_in(key, 1) if filter.random else None
    _, history = da.cycle(filter, model, ensemble, observed(values, at), key=draws)
    spread = jnp.sqrt(jnp.mean(history.analysis.spread**2, axis=1))
    return jnp.sqrt(jnp.mean((history.analysis.mean - truth) ** 2, axis=1)), spread


repetitions_of = jax.jit(jax.vmap(repetition, (None, None, None, None, 0)), static_argnums=(1, 2, 3))


def small_table(variables: int, steps: int, repetitions: int, kinds: tuple[str, ...]) -> list[Record]:
    """Return mean and final errors over repetitions, all of them in one compiled program.

    Only the smallest size has both starts of the truth.
    """
    records = []
    for on_attractor in (False, True)[: 2 if variables == SMALL[0] else 1]:
        keys = jax.random.split(jax.random.key(TEST_KEY), repetitions)
        where = "on the attractor" if on_attractor else "like the members"
        for name in kinds:
            before = time.perf_counter()
            error, spread = map(
                np.asarray,
                repetitions_of(method(FILTERS[name], variables), variables, steps, on_attractor, keys),
            )
            seconds = time.perf_counter() - before
            published, aim = PUBLISHED.get(variables, {}).get(name, (None, None)), AIM.get(variables, (None, None))
            for k, (what, values) in enumerate({"mean": error.mean(1), "final": error[:, -1]}.items()):
                found = summary(values, published[k]) | {"spread": float(np.nanmean(spread[:, -1]))}
                records.append(
                    Record(
                        f"{name}, {what}, truth starts {where}", f"n = {variables}, {repetitions} x {steps} steps",
                        seconds=seconds, ratio=found["error"] / aim[k] if aim[k] else None, target=1.0,
                        reference="aim", more=found,
                    )
                )  # fmt: skip
                print(records[-1].what, records[-1].size, found, flush=True)
    return records


def long_line(name: str, variables: int, steps: int, budget: float, key: int) -> dict[str, Any]:
    """Run one filter on a long line in single precision, forecast and analysis timed apart, and print what was found.

    It ends after `budget` seconds, or after the steps. Its mean over the first analyses holds all of the way from the
    first members to the truth, and is therefore larger than that over all 150 of them.
    """
    single = jnp.float32
    model, keys = da.models.Lorenz96(dt=np.float32(DT)), jax.random.split(jax.random.key(key), 3)
    before = time.perf_counter()
    filter = method(LONG_FILTERS[name], variables, single)
    prepared = time.perf_counter() - before
    truth, ensemble = start(variables, False, keys, single)
    each = jax.lax.map if jax.default_backend() == "cpu" else lambda function, x: jax.vmap(function)(x)  # caches
    forecast = jax.jit(lambda x: each(lambda one: da.rollout(model, one, INTERVAL, at=[INTERVAL])[0], x))
    observe = jax.jit(lambda x, key: jnp.arctan(x) + np.float32(STD) * jax.random.normal(key, x.shape, x.dtype))
    error = jax.jit(lambda ensemble, truth: jnp.sqrt(jnp.mean(jnp.square(jnp.mean(ensemble, axis=0) - truth))))
    errors, forecasts, analyses, began = [], [], [], time.perf_counter()
    for number in range(1, steps // INTERVAL + 1):
        before = time.perf_counter()
        ensemble = forecast(ensemble).block_until_ready()
        forecasts.append(time.perf_counter() - before)
        truth = forecast(truth[None])[0]
        y = observed(observe(truth, jax.random.fold_in(keys[1], number))[None], [0])
        draws = jax.random.fold_in(jax.random.key(key + 1), number) if filter.random else None
        before = time.perf_counter()
        ensemble = filter.analyze(draws, ensemble, y)[0].block_until_ready()
        analyses.append(time.perf_counter() - before)
        errors.append(float(error(ensemble, truth)))
        if time.perf_counter() - began > budget:
            break
    found = {
        "error": float(np.mean(errors)), "final": errors[-1], "analyses": len(errors), "of": STEPS // INTERVAL,
        "lost": int(np.sum(~np.isfinite(errors))), "analysis_s": float(np.min(analyses)),
        "first_analysis_s": analyses[0], "forecast_s": float(np.min(forecasts)), "preparation_s": prepared,
        "peak": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, "errors": errors,
    }  # fmt: skip
    print(json.dumps(found))
    return found


def long_table(variables: int, steps: int, budget: float, kinds: tuple[str, ...]) -> list[Record]:
    """Return the errors of a long line, each filter in a process of its own."""
    records = []
    for name in kinds:
        call = f"f({name!r}, {variables}, {steps}, {budget}, {TEST_KEY})"
        found = fresh_process(f"from benchmarks.published_arctangents import long_line as f; {call}", timeout=1e5)
        published, aim = PUBLISHED.get(variables, {}).get(name, (None, None)), AIM.get(variables, (None, None))
        part = "" if found["analyses"] == found["of"] else f", {found['analyses']} of {found['of']} analyses only"
        records.append(
            Record(
                f"{name}, mean{part}", f"n = {variables}, 1 repetition", dtype="float32",
                compile_seconds=found["first_analysis_s"] - found["analysis_s"], seconds=found["analysis_s"],
                peak_bytes=found["peak"], ratio=found["error"] / aim[0] if aim[0] else None, target=1.0,
                reference="aim",
                more=found | {"published": published[0], "published_analysis_s_on_gpu": PUBLISHED_SECONDS.get(name)},
            )
        )  # fmt: skip
        print(records[-1].what, {k: v for k, v in records[-1].more.items() if k != "errors"}, flush=True)
    return records


def tune(
    candidates: list[Settings], runs: int, variables: int = 100, steps: int = STEPS, on_attractor: bool = False
) -> None:
    """Print the scores of other repetitions for some settings."""
    keys = jax.random.split(jax.random.key(TUNING_KEY), runs)
    for settings in candidates:
        before = time.perf_counter()
        found = repetitions_of(method(settings, variables), variables, steps, on_attractor, keys)
        error, spread = map(np.asarray, found)
        print(
            f"{tuple(settings)}: mean {error.mean():.4f} final {error[:, -1].mean():.4f} "
            f"largest {error.mean(1).max():.3f} second half {error[:, steps // INTERVAL // 2 :].mean():.4f} "
            f"spread {spread[:, -1].mean():.4f} ({time.perf_counter() - before:.1f} s)",
            flush=True,
        )


def main(
    *,
    variables: tuple[int, ...] = SMALL,
    repetitions: int = REPETITIONS,
    steps: int = STEPS,
    large: int = LARGE,
    large_steps: int = SHORT,
    budget: float = 300.0,
    full: bool = False,
    filters: tuple[str, ...] = tuple(FILTERS),
    json: Path | None = None,
) -> None:
    """Measure filters of arctangents against published scores.

    Parameters
    ----------
    variables
        Sizes at which all repetitions run together, in double precision.
    repetitions
        Repetitions there; 0 leaves these sizes out.
    steps
        Model steps there.
    large
        Size of the long line, in single precision, one repetition; 0 leaves it out.
    large_steps
        Model steps there: fewer than the protocol's 1,500, which a CPU needs an hour or more for.
    budget
        Seconds after which a filter ends its run on the long line.
    full
        The long line over all 1,500 steps, whatever it takes.
    filters
        Names of the filters.
    json
        File to write the records to, one object a row.
    """
    jax.config.update("jax_enable_x64", True)
    records: list[Record] = []
    for size in variables if repetitions else ():
        records += small_table(size, steps, repetitions, filters)
    if large:
        records += long_table(large, STEPS if full else large_steps, 1e9 if full else budget, filters)
    report("Published scores of filters with arctangents", records, json)


if __name__ == "__main__":
    cyclopts.run(main)
