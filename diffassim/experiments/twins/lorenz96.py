"""Twin experiment: cycled 4D-Var on Lorenz-96 with noisy, partial observations."""

from __future__ import annotations

from typing import Annotated, Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import xarray as xr
from pydantic import Field, model_validator

from diffassim.covariances import Diagonal
from diffassim.cycling import FourDVar, cycle, split_windows
from diffassim.experiments.framework.base import Configuration, Experiment, Results, score_rows
from diffassim.io.netcdf import to_dataset
from diffassim.models import Lorenz96, rollout
from diffassim.observations import Observations
from diffassim.plotting.lorenz96 import overview

__all__ = ["Lorenz96Configuration", "Lorenz96Twin"]

CYCLES_PER_CHUNK = 10
SPIN_UP = 1000  # model steps onto the attractor


class Lorenz96Configuration(Configuration):
    """Settings of the twin experiment; times are in model steps.

    Args:
        n: number of state variables.
        forcing: F of the truth.
        model_forcing: F of the assimilating model; equal to `forcing` in a perfect-model twin.
        dt: time step in model time units.
        observation_interval: steps between observation times.
        observed_fraction: part of the variables observed at each time, drawn anew each time.
        observation_std: standard deviation of the observation errors.
        background_std: standard deviation in B.
        window: length of the assimilation window.
        cycles: number of windows.
        discarded_cycles: first windows that do not count in the scores.
    """

    n: Annotated[int, Field(ge=4)] = 40
    forcing: float = 8.0
    model_forcing: float = 8.0
    dt: Annotated[float, Field(gt=0, le=0.1)] = 0.05
    observation_interval: Annotated[int, Field(ge=1)] = 1
    observed_fraction: Annotated[float, Field(gt=0, le=1)] = 0.5
    observation_std: Annotated[float, Field(gt=0)] = 1.0
    background_std: Annotated[float, Field(gt=0)] = 0.5
    window: Annotated[int, Field(ge=1)] = 8
    cycles: Annotated[int, Field(ge=1)] = 100
    discarded_cycles: Annotated[int, Field(ge=0)] = 20

    @model_validator(mode="after")
    def _windows_are_possible(self) -> Self:
        if self.observation_interval > self.window:
            raise ValueError(
                f"window: {self.window} steps hold no observation, which come every {self.observation_interval} steps "
                "(observation_interval)"
            )
        if self.discarded_cycles >= self.cycles:
            raise ValueError(
                f"discarded_cycles: {self.discarded_cycles} leaves nothing of {self.cycles} cycles to score"
            )
        return self


class Lorenz96Twin(Experiment):
    """Truth run, synthetic observations, cycled 4D-Var, free run.

    Every window is 4D-Var over the observations of `window` steps; its analysis is carried to the window end, and
    on through the next window as the background there. So the background k steps into a window is a forecast of lead k,
    and the analysis k steps into it is a smoother's estimate of lag `window` - k, written as a lead of k - `window`.
    """

    name = "lorenz96"
    summary = "Cycled 4D-Var on Lorenz-96: a twin experiment with noisy, partial observations."
    configuration = Lorenz96Configuration

    def chunks(self, config: Lorenz96Configuration) -> int:
        """Return the number of chunks of at most ten cycles."""
        return -(-config.cycles // CYCLES_PER_CHUNK)

    def start(self, config: Lorenz96Configuration) -> dict[str, Any]:
        """Bring the truth onto the attractor; the first background is one observation error away from it."""
        first, second = jax.random.split(jax.random.key(config.seed))
        rest = jnp.full(config.n, config.forcing, config.dtype)
        truth = _spun_up(Lorenz96(config.forcing, config.dt), rest + jax.random.normal(first, rest.shape, rest.dtype))
        error = jax.random.normal(second, rest.shape, rest.dtype) * config.observation_std
        return {"truth": truth, "background": truth + error, "free": truth + error}

    def advance(
        self, config: Lorenz96Configuration, carry: dict[str, Any], index: int
    ) -> tuple[dict[str, Any], xr.Dataset]:
        """Assimilate the windows of one chunk."""
        carry = jax.tree.map(jnp.asarray, carry)
        cycles = min(CYCLES_PER_CHUNK, config.cycles - index * CYCLES_PER_CHUNK)
        steps = cycles * config.window
        model = Lorenz96(config.model_forcing, config.dt)
        truth = _trajectory(Lorenz96(config.forcing, config.dt), carry["truth"], steps)
        free = _trajectory(model, carry["free"], steps)
        first = index * CYCLES_PER_CHUNK * config.window
        observations = _observe(config, truth, first, jax.random.fold_in(jax.random.key(config.seed + 1), index))

        windows = split_windows(observations, config.window, cycles)
        method = FourDVar(Diagonal(std=config.background_std))
        rows = jnp.arange(1, config.window + 1)
        background, _, history = cycle(method, model, carry["background"], windows, steps=config.window, at=rows)

        values = np.full((steps, config.n), np.nan, config.dtype)
        values[np.asarray(observations.steps) - 1] = np.where(observations.mask, observations.values, np.nan)
        fields = {
            "truth": truth[1:],
            "observation": values,
            "background": history.background.reshape(steps, config.n),
            "analysis": history.analysis.reshape(steps, config.n),
            "free_run": free[1:],
        }
        variables = {key: model.variables()._replace(name=key, long_name=key.replace("_", " ")) for key in fields}
        dataset = to_dataset(fields, variables, {"time": config.dt * (first + 1 + np.arange(steps))})
        code = np.repeat(np.asarray(history.search.result, np.int8), config.window)
        dataset["result"] = ("time", code, {"long_name": "result code of the window's minimization"})
        return {"truth": truth[-1], "background": background, "free": free[-1]}, dataset

    def finish(self, config: Lorenz96Configuration, dataset: xr.Dataset) -> Results:
        """Return root-mean-square errors by lead, and the figure."""
        scores = _scores(config, dataset)
        return Results(scores, {"overview": overview(dataset, scores, config.observation_std)}, _table(config, scores))


@jax.jit
def _spun_up(model: Lorenz96, x: Any) -> Any:
    return rollout(model, x, SPIN_UP, at=jnp.asarray([SPIN_UP]))[0]


def _trajectory(model: Lorenz96, x: Any, steps: int) -> Any:
    return jax.jit(rollout, static_argnums=2)(model, x, steps)


def _observe(config: Lorenz96Configuration, truth: Any, first: int, key: Any) -> Observations:
    """Observe truth[1:] (steps first + 1, ...) at the multiples of the interval, with `steps` counted from `first`."""
    every = config.observation_interval
    steps = np.arange(first // every * every + every, first + truth.shape[0], every) - first
    noise_key, place_key = jax.random.split(key)
    values = truth[steps] + config.observation_std * jax.random.normal(noise_key, (len(steps), config.n), truth.dtype)
    count = max(1, round(config.observed_fraction * config.n))
    rank = jnp.argsort(jax.random.uniform(place_key, values.shape), axis=1)
    return Observations(values, steps, error=Diagonal(std=config.observation_std), mask=rank < count)


def _scores(config: Lorenz96Configuration, dataset: xr.Dataset) -> pd.DataFrame:
    counted = dataset.isel(time=slice(config.discarded_cycles * config.window, None))
    shape = (-1, config.window, config.n)
    truth = counted["truth"].values.reshape(shape)

    def row(method: str, lead: int, error: np.ndarray) -> tuple[str, str, float, str, float, int]:
        return (method, "x", round(lead * config.dt, 12), "rmse", float(np.sqrt(np.mean(error**2))), error.size)

    def errors(name: str) -> np.ndarray:
        return counted[name].values.reshape(shape) - truth

    rows = [row("free run", 0, errors("free_run"))]
    for k in range(config.window):
        rows.append(row("background", k + 1, errors("background")[:, k]))
    for k in range(config.window):
        rows.append(row("analysis", k + 1 - config.window, errors("analysis")[:, k]))
    return score_rows(rows)


def _table(config: Lorenz96Configuration, scores: pd.DataFrame) -> str:
    value = scores.set_index(["method", "lead"])["value"]
    end = round(config.window * config.dt, 12)
    lines = [
        ("analysis, window start", value["analysis"].iloc[0]),
        ("analysis, window end", value["analysis"].iloc[-1]),
        (f"forecast, lead {config.dt:g}", value["background"].iloc[0]),
        (f"forecast, lead {end:g}", value["background"].iloc[-1]),
        ("free run", value["free run"].iloc[0]),
        ("observation errors", config.observation_std),
    ]
    counted = config.cycles - config.discarded_cycles
    title = f"Root-mean-square error over {counted} windows of {config.window} steps"
    return "\n".join([title, *(f"  {name:<24} {number:8.3f}" for name, number in lines)])
