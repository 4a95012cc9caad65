"""Twin experiment: an ensemble filter cycled on Lorenz-96 with noisy, partial observations."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import xarray as xr
from pydantic import Field

from diffassim.core.results import Result
from diffassim.core.sharding import gathered
from diffassim.cycling import cycle
from diffassim.diagnostics import RankHistogram, SpreadError, binned_spread_error, crps, independent_count
from diffassim.ensemble import ETKF, LETKF, DEnKF, EnKF, EnKFN, EnSRF, GaspariCohn
from diffassim.experiments.framework.base import Experiment, Results, score_rows
from diffassim.experiments.framework.twin import Draw, observe, random_stream, states_at
from diffassim.experiments.twins.lorenz96_setting import Lorenz96Setting, sound_length
from diffassim.io.netcdf import to_dataset
from diffassim.observations import Observations
from diffassim.plotting.lorenz96_ensemble import overview, reliability

__all__ = ["Lorenz96Ensemble", "Lorenz96EnsembleConfiguration"]

CYCLES_PER_CHUNK = 100
FIELDS = 10  # of one number for each variable and analysis, in the output
GLOBAL = {"ETKF": ETKF, "EnKF": EnKF, "EnSRF": EnSRF, "DEnKF": DEnKF, "EnKF-N": EnKFN}


class Lorenz96EnsembleConfiguration(Lorenz96Setting):
    """Settings of the twin experiment; a cycle is one analysis. Times are in model steps.

    Args:
        method: the filter; the LETKF alone is local.
        members: number of members.
        inflation: factor of the posterior anomalies.
        radius: of the LETKF's taper, in grid points.
        rotation: whether posterior anomalies are rotated at random.
        save_members: whether the output holds all analysed members, not statistics only.
    """

    method: Literal["LETKF", "ETKF", "EnKF", "EnSRF", "DEnKF", "EnKF-N"] = "LETKF"
    members: Annotated[int, Field(ge=2)] = 10
    inflation: Annotated[float, Field(gt=0)] = 1.04
    radius: Annotated[float, Field(gt=0)] = 4.0
    rotation: bool = False
    cycles: Annotated[int, Field(ge=1)] = 1000
    discarded_cycles: Annotated[int, Field(ge=0)] = 200
    save_members: bool = False

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

    def axes(self, config: Lorenz96EnsembleConfiguration) -> dict[str, int]:
        """Return the members' axis: several processes forecast each some members."""
        return {"ensemble": 0}

    def start(self, config: Lorenz96EnsembleConfiguration) -> dict[str, Any]:
        """Bring the truth onto the attractor; the ensemble starts like observations of everything."""
        truth, center = config.starts()
        shape = (config.members, config.n)
        draws = jax.random.normal(random_stream(config.seed, Draw.BACKGROUND), shape, truth.dtype)
        return {"truth": truth, "ensemble": center[None] + config.observation_std * draws, "free": center}

    def memory(self, config: Lorenz96EnsembleConfiguration) -> dict[str, float]:
        """Return what the largest arrays need: the output, and the members of a chunk."""
        fields = FIELDS + config.members * config.save_members
        chunk = min(config.cycles, CYCLES_PER_CHUNK) * config.members
        return {
            "the output (cycles x n)": config.bytes_of(fields * config.n * config.cycles),
            "the members of a chunk (members x n)": config.bytes_of(2 * chunk * config.n),
        }

    def advance(
        self, config: Lorenz96EnsembleConfiguration, carry: dict[str, Any], index: int
    ) -> tuple[dict[str, Any], xr.Dataset]:
        """Assimilate the observation times of one chunk."""
        carry = jax.tree.map(jnp.asarray, carry)
        first = index * CYCLES_PER_CHUNK
        cycles = min(CYCLES_PER_CHUNK, config.cycles - first)
        model, interval = config.model, config.observation_interval
        steps = interval * np.arange(1, cycles + 1)
        truth = states_at(config.truth_model, carry["truth"], steps)
        free = states_at(model, carry["free"], steps)
        key = random_stream(config.seed, Draw.OBSERVATIONS, index)
        observations = observe(key, truth, steps, config.observation_std, fraction=config.observed_fraction)
        ensemble, history = cycle(
            config.filter(), model, carry["ensemble"], observations, key=random_stream(config.seed, Draw.ANALYSIS),
            start=first * interval, members=True,
        )  # fmt: skip
        found = gathered({"truth": truth, "free_run": free, **_fields(history, observations, truth)})
        history = gathered(history)
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
        sound = sound_length((dataset["analysis"], dataset["background"]), config.cycles)
        sound = min(sound, int(lost[0])) if lost.size else sound
        counted = dataset.isel(time=slice(min(config.discarded_cycles, sound), sound))
        histogram = _ranks(counted, config.members)
        scores = _scores(config, counted, histogram)
        frequencies = None if histogram is None else np.asarray(histogram.frequencies)
        independent = independent_count(counted["rank"].values, config.members + 1)
        figures = {"overview": overview(dataset, frequencies, config.observation_std, independent)}
        if counted.sizes["time"]:
            figures["reliability"] = reliability(
                counted["time"], _spread_errors(config, counted), _innovations(config, counted)
            )
        count = counted.sizes["time"]
        return Results(scores, figures, _table(config, scores, count, sound), count)


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


def _spread_errors(config: Lorenz96EnsembleConfiguration, counted: xr.Dataset) -> dict[str, SpreadError]:
    """Return the real beside the claimed error of the mean, before and after the analyses."""
    claimed = (1 + 1 / config.members) ** 0.5
    return {
        name: binned_spread_error(claimed * counted[f"{name}_spread"].values, (counted[name] - counted["truth"]).values)
        for name in ("background", "analysis")
    }


def _innovations(config: Lorenz96EnsembleConfiguration, counted: xr.Dataset) -> np.ndarray:
    """Return innovations over the standard deviation that spread and R claim for them."""
    expected = np.sqrt(counted["background_spread"] ** 2 + config.observation_std**2)
    return ((counted["observation"] - counted["background"]) / expected).values


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
