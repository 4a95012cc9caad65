"""Twin experiment: cycled 4D-Var on Lorenz-96 with noisy, partial observations."""

from __future__ import annotations

from typing import Annotated, Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import xarray as xr
from pydantic import Field, model_validator

from diffassim.core.results import Result
from diffassim.covariances import Diagonal
from diffassim.cycling import FourDVar, cycle, split_windows
from diffassim.experiments.framework.base import Experiment, Results, score_rows
from diffassim.experiments.framework.twin import Draw, observe, random_stream, states_at
from diffassim.experiments.twins.lorenz96_impact import impact_of_times
from diffassim.experiments.twins.lorenz96_setting import Lorenz96Setting, sound_length
from diffassim.io.netcdf import to_dataset
from diffassim.observations import Observations
from diffassim.plotting.lorenz96 import overview, search

__all__ = ["Lorenz96Configuration", "Lorenz96Twin"]

CYCLES_PER_CHUNK = 10
FIELDS = 6  # of one number for each variable and step, in the output
KEPT = 40  # iterations of a search, whose costs are in the output
FAILURES = (Result.NON_FINITE, Result.STALLED, Result.DIVERGED)  # of a minimization: its analysis is no minimum


class Lorenz96Configuration(Lorenz96Setting):
    """Settings of the twin experiment; a cycle is one window. Times are in model steps.

    Args:
        background_std: standard deviation in B.
        window: length of the assimilation window.
        impact_windows: windows whose observations' impact on the forecasts is drawn.
    """

    background_std: Annotated[float, Field(gt=0)] = 0.5
    window: Annotated[int, Field(ge=1)] = 8
    impact_windows: Annotated[int, Field(ge=0, le=1000)] = 10

    @model_validator(mode="after")
    def _windows_hold_observations(self) -> Self:
        if self.observation_interval > self.window:
            raise ValueError(
                f"window: {self.window} steps hold no observation, which come every {self.observation_interval} steps "
                "(observation_interval)"
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
        truth, background = config.starts()
        return {"truth": truth, "background": background, "free": background}

    def memory(self, config: Lorenz96Configuration) -> dict[str, float]:
        """Return what the largest arrays need: the output, and the trajectories of a chunk with their adjoints."""
        rows = config.n * config.window
        return {
            "the output (cycles x window x n)": config.bytes_of((FIELDS * rows + KEPT * config.window) * config.cycles),
            "the adjoint over a chunk (window x n)": config.bytes_of(FIELDS * rows * CYCLES_PER_CHUNK),
        }

    def advance(
        self, config: Lorenz96Configuration, carry: dict[str, Any], index: int
    ) -> tuple[dict[str, Any], xr.Dataset]:
        """Assimilate the windows of one chunk."""
        carry = jax.tree.map(jnp.asarray, carry)
        cycles = min(CYCLES_PER_CHUNK, config.cycles - index * CYCLES_PER_CHUNK)
        steps = cycles * config.window
        model = config.model
        truth = states_at(config.truth_model, carry["truth"], np.arange(steps + 1))
        free = states_at(model, carry["free"], np.arange(steps + 1))
        first = index * CYCLES_PER_CHUNK * config.window
        observations = _observe(config, truth, first, random_stream(config.seed, Draw.OBSERVATIONS, index))

        windows = split_windows(observations, config.window, cycles)
        method = FourDVar(Diagonal(std=config.background_std))
        rows = jnp.arange(1, config.window + 1)
        background, history = cycle(method, model, carry["background"], windows, steps=config.window, at=rows)

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
        J = np.asarray(history.search.cost_history)[:, :KEPT]
        costs = np.full((steps, KEPT), np.nan, config.dtype)
        costs[config.window - 1 :: config.window, : J.shape[1]] = J
        dataset["cost"] = (
            ("time", "iteration"),
            costs,
            {"long_name": "J at the start of an iteration, at window ends"},
        )
        return {"truth": truth[-1], "background": background, "free": free[-1]}, dataset

    def finish(self, config: Lorenz96Configuration, dataset: xr.Dataset) -> Results:
        """Return root-mean-square errors by lead, and the figure.

        Windows count up to the first one that is not finite; from there on the cycle is lost.
        """
        sound = sound_length((dataset["analysis"], dataset["background"]), config.cycles)
        code = dataset["result"].values[:: config.window]
        counted = slice(min(config.discarded_cycles, sound), sound)
        failed = int(np.isin(code[counted], FAILURES).sum())
        rows = slice(counted.start * config.window, sound * config.window)
        scores = _scores(config, dataset.isel(time=rows))
        table = _table(config, scores, sound, failed, code)
        figures = {"overview": overview(dataset, scores, config.observation_std)}
        if counted.stop > counted.start and "cost" in dataset:  # an output of earlier versions has none
            impact = impact_of_times(config, dataset, counted.start, sound, config.impact_windows)
            figures["search"] = search(dataset.isel(time=rows), config.window, config.observation_std, impact)
        return Results(scores, figures, table, max(sound - config.discarded_cycles, 0) - failed)


def _observe(config: Lorenz96Configuration, truth: Any, first: int, key: Any) -> Observations:
    """Observe truth[1:] (steps first + 1, ...) at the multiples of the interval, with `steps` counted from `first`."""
    every = config.observation_interval
    steps = np.arange(first // every * every + every, first + truth.shape[0], every) - first
    return observe(key, truth[steps], steps, config.observation_std, fraction=config.observed_fraction)


def _scores(config: Lorenz96Configuration, counted: xr.Dataset) -> pd.DataFrame:
    shape = (-1, config.window, config.n)
    truth = counted["truth"].values.reshape(shape)

    def row(method: str, lead: int, error: np.ndarray) -> tuple[str, str, float, str, float, int]:
        value = float(np.sqrt(np.mean(error**2))) if error.size else float("nan")
        return (method, "x", round(lead * config.dt, 12), "rmse", value, error.size)

    def errors(name: str) -> np.ndarray:
        return counted[name].values.reshape(shape) - truth

    rows = [row("free run", 0, errors("free_run"))]
    for k in range(config.window):
        rows.append(row("background", k + 1, errors("background")[:, k]))
    for k in range(config.window):
        rows.append(row("analysis", k + 1 - config.window, errors("analysis")[:, k]))
    return score_rows(rows)


def _table(config: Lorenz96Configuration, scores: pd.DataFrame, sound: int, failed: int, code: Any) -> str:
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
    counted = max(sound - config.discarded_cycles, 0)
    title = f"Root-mean-square error over {counted} windows of {config.window} steps"
    text = [title, *(f"  {name:<24} {number:8.3f}" for name, number in lines)]
    text.append(f"  {failed} of these windows failed")
    if failures := Result.describe_failures(np.where(np.isin(code, FAILURES), code, Result.CONVERGED)):
        text.append(f"  Of all windows: {failures}")
    if sound < config.cycles:
        text.append(f"  LOST from time {config.dt * config.window * sound:g} on: analysis or forecast is not finite")
    return "\n".join(text)
