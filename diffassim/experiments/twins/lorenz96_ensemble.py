"""Twin experiment: an ensemble filter cycled on Lorenz-96 with noisy, partial observations."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import xarray as xr
from pydantic import Field, model_validator

from diffassim.core.results import Result
from diffassim.covariances import Diagonal
from diffassim.cycling import cycle
from diffassim.diagnostics import RankHistogram, crps
from diffassim.ensemble import ETKF, LETKF, DEnKF, EnKF, EnKFN, EnSRF, GaspariCohn
from diffassim.experiments.framework.base import Configuration, Experiment, Results, score_rows
from diffassim.io.netcdf import to_dataset
from diffassim.models import Lorenz96, rollout
from diffassim.observations import Observations
from diffassim.plotting.lorenz96_ensemble import overview

__all__ = ["Lorenz96Ensemble", "Lorenz96EnsembleConfiguration"]

CYCLES_PER_CHUNK = 100
SPIN_UP = 1000  # model steps onto the attractor
GLOBAL = {"ETKF": ETKF, "EnKF": EnKF, "EnSRF": EnSRF, "DEnKF": DEnKF, "EnKF-N": EnKFN}


class Lorenz96EnsembleConfiguration(Configuration):
    """Settings of the twin experiment; times are in model steps.

    Args:
        method: the filter; the LETKF alone is local.
        members: number of members.
        inflation: factor of the posterior anomalies.
        radius: of the LETKF's taper, in grid points.
        rotation: whether posterior anomalies are rotated at random.
        n: number of state variables.
        forcing: F of the truth.
        model_forcing: F of the assimilating model; equal to `forcing` in a perfect-model twin.
        dt: time step in model time units.
        observation_interval: steps from one analysis to the next.
        observed_fraction: part of the variables observed at each time, drawn anew each time.
        observation_std: standard deviation of the observation errors.
        cycles: number of analyses.
        discarded_cycles: first analyses that do not count in the scores.
        save_members: whether the output holds all analysed members, not statistics only.
    """

    method: Literal["LETKF", "ETKF", "EnKF", "EnSRF", "DEnKF", "EnKF-N"] = "LETKF"
    members: Annotated[int, Field(ge=2)] = 10
    inflation: Annotated[float, Field(gt=0)] = 1.04
    radius: Annotated[float, Field(gt=0)] = 4.0
    rotation: bool = False
    n: Annotated[int, Field(ge=4)] = 40
    forcing: float = 8.0
    model_forcing: float = 8.0
    dt: Annotated[float, Field(gt=0, le=0.1)] = 0.05
    observation_interval: Annotated[int, Field(ge=1)] = 1
    observed_fraction: Annotated[float, Field(gt=0, le=1)] = 0.5
    observation_std: Annotated[float, Field(gt=0)] = 1.0
    cycles: Annotated[int, Field(ge=1)] = 1000
    discarded_cycles: Annotated[int, Field(ge=0)] = 200
    save_members: bool = False

    @model_validator(mode="after")
    def _something_counts(self) -> Self:
        if self.discarded_cycles >= self.cycles:
            raise ValueError(
                f"discarded_cycles: {self.discarded_cycles} leaves nothing of {self.cycles} cycles to score"
            )
        return self

    def filter(self) -> Any:
        """Return the method."""
        if self.method == "LETKF":
            return LETKF(self.inflation, self.rotation, GaspariCohn(self.radius))
        return GLOBAL[self.method](self.inflation, self.rotation)


class Lorenz96Ensemble(Experiment):
    """Truth run, synthetic observations, cycled ensemble filter, free run.

    Every analysed member is compared with the truth in each chunk, and what scores need of them (ranks, CRPS) is kept;
    the members themselves are written on request. If the ensemble is not finite any more, the run goes on to its end,
    says from when on it is lost, and counts the analyses before that.
    """

    name = "lorenz96-ensemble"
    summary = "An ensemble filter (LETKF, ETKF, EnKF, ...) on Lorenz-96: a twin experiment with ensemble scores."
    configuration = Lorenz96EnsembleConfiguration

    def chunks(self, config: Lorenz96EnsembleConfiguration) -> int:
        """Return the number of chunks of at most a hundred analyses."""
        return -(-config.cycles // CYCLES_PER_CHUNK)

    def start(self, config: Lorenz96EnsembleConfiguration) -> dict[str, Any]:
        """Bring the truth onto the attractor; the ensemble starts like observations of everything."""
        keys = jax.random.split(jax.random.key(config.seed), 3)
        rest = jnp.full(config.n, config.forcing, config.dtype)
        truth = _spun_up(Lorenz96(config.forcing, config.dt), rest + _normal(keys[0], rest))
        center = truth + config.observation_std * _normal(keys[1], rest)
        draws = _normal(keys[2], jnp.zeros((config.members, config.n), config.dtype))
        return {"truth": truth, "ensemble": center[None] + config.observation_std * draws, "free": center}

    def advance(
        self, config: Lorenz96EnsembleConfiguration, carry: dict[str, Any], index: int
    ) -> tuple[dict[str, Any], xr.Dataset]:
        """Assimilate the observation times of one chunk."""
        carry = jax.tree.map(jnp.asarray, carry)
        first = index * CYCLES_PER_CHUNK
        cycles = min(CYCLES_PER_CHUNK, config.cycles - first)
        model, interval = Lorenz96(config.model_forcing, config.dt), config.observation_interval
        truth = _states(Lorenz96(config.forcing, config.dt), carry["truth"], cycles, interval)
        free = _states(model, carry["free"], cycles, interval)
        keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed + 1), index))
        observations = _observe(config, truth, keys[0])
        ensemble, history = cycle(
            config.filter(), model, carry["ensemble"], observations, key=jax.random.key(config.seed + 2),
            start=first * interval, members=True,
        )  # fmt: skip
        found = {"truth": truth, "free_run": free, **_fields(history, observations, truth)}
        times = {"time": config.dt * interval * (first + 1 + np.arange(cycles))}
        variables = {key: model.variables()._replace(name=key, long_name=key.replace("_", " ")) for key in found}
        dataset = to_dataset(found, variables, times)
        below = np.sum(np.asarray(history.members) < np.asarray(truth)[:, None], axis=1).astype(np.int32)
        dataset["rank"] = (("time", "site"), below, {"long_name": "analysed members below the truth", "units": "1"})
        dataset["chi_square"] = (
            "time",
            np.asarray(history.info.chi_square),
            {"long_name": "of innovations, per value"},
        )
        dataset["result"] = ("time", np.asarray(history.info.result, np.int8), {"long_name": "result code of analyses"})
        if config.save_members:
            dataset["members"] = (("time", "member", "site"), np.asarray(history.members), {"units": "1"})
        return {"truth": truth[-1], "ensemble": ensemble, "free": free[-1]}, dataset

    def finish(self, config: Lorenz96EnsembleConfiguration, dataset: xr.Dataset) -> Results:
        """Return scores of mean and ensemble, and the figure."""
        lost = np.flatnonzero(dataset["result"].values == Result.DIVERGED)
        sound = int(lost[0]) if lost.size else config.cycles
        counted = dataset.isel(time=slice(min(config.discarded_cycles, sound), sound))
        histogram = _ranks(counted, config.members)
        scores = _scores(config, counted, histogram)
        frequencies = None if histogram is None else np.asarray(histogram.frequencies)
        figures = {"overview": overview(dataset, frequencies, config.observation_std)}
        return Results(scores, figures, _table(config, scores, counted.sizes["time"], sound))


def _normal(key: Any, like: Any) -> Any:
    return jax.random.normal(key, like.shape, like.dtype)


@jax.jit
def _spun_up(model: Lorenz96, x: Any) -> Any:
    return rollout(model, x, SPIN_UP, at=jnp.asarray([SPIN_UP]))[0]


def _states(model: Lorenz96, x: Any, cycles: int, interval: int) -> Any:
    """Return the states at the analysis times."""
    at = interval * jnp.arange(1, cycles + 1)
    return jax.jit(rollout, static_argnums=2)(model, x, cycles * interval, at=at)


def _observe(config: Lorenz96EnsembleConfiguration, truth: Any, key: Any) -> Observations:
    noise_key, place_key = jax.random.split(key)
    values = truth + config.observation_std * _normal(noise_key, truth)
    rank = jnp.argsort(jax.random.uniform(place_key, values.shape), axis=1)
    steps = config.observation_interval * np.arange(1, len(truth) + 1)
    mask = rank < max(1, round(config.observed_fraction * config.n))
    return Observations(values, steps, error=Diagonal(std=config.observation_std), mask=mask)


def _fields(history: Any, observations: Observations, truth: Any) -> dict[str, Any]:
    return {
        "observation": jnp.where(observations.mask, observations.values, jnp.nan),
        "background": history.background.mean,
        "background_spread": history.background.spread,
        "analysis": history.analysis.mean,
        "analysis_spread": history.analysis.spread,
        "crps": jax.jit(jax.vmap(crps))(history.members, truth),
    }


def _ranks(counted: xr.Dataset, members: int) -> RankHistogram | None:
    ranks = counted["rank"].values.ravel()
    return RankHistogram(jnp.asarray(np.bincount(ranks, minlength=members + 1), float)) if ranks.size else None


def _scores(
    config: Lorenz96EnsembleConfiguration, counted: xr.Dataset, histogram: RankHistogram | None
) -> pd.DataFrame:
    """Return the root-mean-square error over each state, averaged over time, and so on for the ensemble."""

    def mean_root(field: xr.DataArray) -> float:
        return float(((field**2).mean("site") ** 0.5).mean("time"))

    size, truth = counted["truth"].size, counted["truth"]
    rows = [("free run", "x", 0.0, "rmse", mean_root(counted["free_run"] - truth), size)]
    for name in ("background", "analysis"):
        rows += [
            (name, "x", 0.0, "rmse", mean_root(counted[name] - truth), size),
            (name, "x", 0.0, "spread", mean_root(counted[f"{name}_spread"]), size),
        ]
    rows += [
        ("analysis", "x", 0.0, "crps", float(counted["crps"].mean()), size),
        ("analysis", "x", 0.0, "chi_square", float(counted["chi_square"].mean()), counted.sizes["time"]),
    ]
    if histogram is not None:
        rows += [
            ("analysis", "x", 0.0, f"rank_{what}", getattr(histogram, what), size)
            for what in ("outliers", "flatness", "slope", "convexity")
        ]
    return score_rows(rows)


def _table(config: Lorenz96EnsembleConfiguration, scores: pd.DataFrame, counted: int, sound: int) -> str:
    value = scores.set_index(["method", "metric"])["value"]
    names = {
        ("free run", "rmse"): "error of the free run", ("background", "rmse"): "error of the background",
        ("background", "spread"): "spread of the background", ("analysis", "rmse"): "error of the analysis",
        ("analysis", "spread"): "spread of the analysis", ("analysis", "crps"): "CRPS of the analysis",
        ("analysis", "chi_square"): "chi-square of innovations",
        ("analysis", "rank_outliers"): "truth outside, over expected",
    }  # fmt: skip
    lines = [f"{config.method}, {config.members} members, means over {counted} analyses"]
    lines += [f"  {name:<30} {value[key]:8.3f}" for key, name in names.items() if key in value.index]
    if sound < config.cycles:
        time = config.dt * config.observation_interval * (sound + 1)
        lines.append(f"  LOST from time {time:g} on: {Result.describe(Result.DIVERGED)}")
    return "\n".join(lines)
