"""Windows of Lorenz-96 whose state and forcing are unknown, in the setting of Zinchenko and Greenberg (2024)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cyclopts
import jax
import jax.numpy as jnp
import numpy as np

import diffassim as da
from benchmarks.harness import Record, report
from diffassim.covariances import Diagonal

# The setting: 40 variables, steps of .01, at every step another random quarter of the variables observed with unit
# error variance. Nothing is known of the truth: the background is the mean of all observed values of the batch of
# windows, its variance that of the observed values less the error variance. The windows of a batch are independent.
N, VARIANCE = 40, 1.0
GUESS, GUESS_STD = 8.0, 4.0  # of the forcing, whatever the truth
VAGUE = 4.0  # factor of the background's standard deviation where the forcing is sought: its pull biases the forcing
SEARCH = da.GaussNewton(tolerance=1e-2, max_iterations=40)


class Windows(NamedTuple):
    """Independent windows, leading axes (time, window): truth, observed values, which are observed."""

    truth: Any
    values: Any
    mask: Any


@partial(jax.jit, static_argnums=(2, 3))
def draw(key: jax.Array, forcing: Any, count: int, steps: int) -> Windows:
    model = da.models.Lorenz96(forcing=forcing, dt=0.01)
    keys = jax.random.split(key, 3)
    x0 = forcing / 2 + jax.random.normal(keys[0], (count, N))
    x0 = da.rollout(model, x0, 3000, at=[3000], segment=3000)[0]
    truth = da.rollout(model, x0, steps, segment=steps)
    order = jnp.argsort(jnp.argsort(jax.random.uniform(keys[1], truth.shape), -1), -1)
    noise = VARIANCE**0.5 * jax.random.normal(keys[2], truth.shape)
    return Windows(truth, truth + noise, order < N // 4)


def climatology(given: Windows) -> tuple[Any, Any]:
    """Return mean and standard deviation of the state as the observations tell them."""
    count = jnp.sum(given.mask).astype(given.values.dtype)
    mean = jnp.sum(jnp.where(given.mask, given.values, 0)) / count
    variance = jnp.sum(jnp.where(given.mask, (given.values - mean) ** 2, 0)) / count
    return mean, jnp.sqrt(variance - VARIANCE)


@jax.jit
def middle_error(given: Windows) -> tuple[Any, Any]:
    """Return the error at the middle of each window, analysed alone with the known forcing, and result codes."""
    model = da.models.Lorenz96(forcing=8.0, dt=0.01)
    mean, std = climatology(given)
    steps = given.truth.shape[0] - 1

    def analyse(values: Any, mask: Any) -> tuple[Any, Any]:
        obs = da.Observations(values, np.arange(steps + 1), error=Diagonal(std=VARIANCE**0.5), mask=mask)
        cost = da.StrongConstraint4DVar(model, mean * jnp.ones(N), Diagonal(std=std), obs, steps=steps)
        found = da.minimize(cost, SEARCH)
        return da.rollout(model, found.state, steps, at=[steps // 2])[0], found.search.result

    middle, result = jax.vmap(analyse, in_axes=1)(given.values, given.mask)
    return jnp.sqrt(jnp.mean((middle - given.truth[steps // 2]) ** 2, -1)), result


@jax.jit
def found_forcing(given: Windows) -> tuple[Any, Any, Any]:
    """Return the forcing found by one 4D-Var over all windows: their initial states and the one forcing they share.

    The search goes on from the minimum over the first half of the window. Also returned: the result code, and the error
    in the middle of the windows.
    """
    mean, std = climatology(given)
    steps, count = given.truth.shape[0] - 1, given.truth.shape[1]
    obs = da.Observations(given.values, np.arange(steps + 1), error=Diagonal(std=VARIANCE**0.5), mask=given.mask)
    cost = da.StrongConstraint4DVar(
        da.models.Lorenz96(forcing=GUESS, dt=0.01), mean * jnp.ones((count, N)), Diagonal(std=VAGUE * std), obs,
        parameters={"forcing": Diagonal(std=GUESS_STD)}, steps=steps,
    )  # fmt: skip
    half = da.minimize(cost.replace(horizon=jnp.asarray(steps // 2)), SEARCH)
    found = da.minimize(cost, SEARCH, start=half.control)
    middle = da.rollout(found.model, found.state, steps, at=[steps // 2])[0]
    error = jnp.sqrt(jnp.mean((middle - given.truth[steps // 2]) ** 2))
    return found.model.forcing, found.search.result, error


def main(
    *, windows: int = 128, steps: int = 100, forcings: tuple[float, ...] = (5.0, 8.0, 11.0), seeds: int = 2,
    single: int = 512, json: Path | None = None,
) -> None:  # fmt: skip
    """Print how well the forcing is found by windows that share it, and the analysis error in the middle of windows.

    Args:
        windows: number of windows in one joint analysis.
        steps: their length.
        forcings: true forcings.
        seeds: analyses for each forcing.
        single: windows of 50 steps that are analysed one by one.
        json: file for the records.
    """
    jax.config.update("jax_enable_x64", True)
    error, result = (np.asarray(a) for a in middle_error(draw(jax.random.key(40), 8.0, single, 50)))
    rms = float(np.sqrt(np.mean(error**2)))
    converged = int(np.sum(result == da.Result.CONVERGED))
    records = [Record(
        what="strong 4D-Var, middle of the window", size=f"n = {N}, {single} windows of 50 steps", ratio=rms / 0.26,
        target=1.0, reference="aim .26",
        more={"rms": rms, "mean": float(error.mean()), "worst": float(error.max()), "converged": converged},
    )]  # fmt: skip
    for forcing in forcings:
        for seed in range(seeds):
            found, code, error = found_forcing(draw(jax.random.key(50 + seed), forcing, windows, steps))
            off = float(found) / forcing - 1
            records.append(Record(
                what=f"forcing {forcing:g}, seed {seed}", size=f"{windows} windows of {steps} steps",
                ratio=abs(off) / 0.005, target=1.0, reference="aim .5 %",
                more={"found": float(found), "percent off": 100 * off, "rms in the middle": float(error),
                      "result": da.Result(int(code)).name},
            ))  # fmt: skip
            print(records[-1].what, records[-1].more, flush=True)
    report("published windows", records, json)


if __name__ == "__main__":
    cyclopts.run(main)
