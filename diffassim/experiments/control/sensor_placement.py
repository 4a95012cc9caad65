"""Where the next observations help most: searches beside the best choice, and the errors that they leave."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import jax
import numpy as np
import pandas as pd
import xarray as xr
from pydantic import Field, model_validator

from diffassim.decisions.problems.sensor_placement import MOST, sets_before
from diffassim.experiments.control.sensor_placement_trial import (
    REFERENCES,
    SEARCHES,
    chosen_by,
    errors_left,
    prospects_of,
    spread_out,
)
from diffassim.experiments.control.sensor_placement_worlds import WORLDS
from diffassim.experiments.framework.base import Configuration, Experiment, Results, score_rows
from diffassim.experiments.framework.twin import random_stream
from diffassim.plotting.sensor_placement import overview

__all__ = ["SensorPlacement", "SensorPlacementConfiguration"]

NEAR = 95.0  # percent of the best that count as near


class SensorPlacementConfiguration(Configuration):
    """Settings of the comparison.

    Args:
        worlds: in which sensors are placed.
        seeds: cases of each world.
        sensors: that are placed.
        candidates: places that they may have.
        leads: of the forecasts that they are to serve; 0 is the analysis, Lorenz-96 counts in days of four steps, the
            plume in steps.
        members: of the ensemble.
        truths: on which every choice is tried.
        trials: sets at random.
    """

    worlds: Annotated[tuple[Literal["plume", "lorenz96"], ...], Field(min_length=1)] = ("plume", "lorenz96")
    seeds: Annotated[int, Field(ge=1)] = 10
    sensors: Annotated[int, Field(ge=1, le=6)] = 3
    candidates: Annotated[int, Field(ge=2, le=40)] = 16
    leads: Annotated[tuple[Annotated[int, Field(ge=0, le=40)], ...], Field(min_length=1)] = (0, 2)
    members: Annotated[int, Field(ge=4, le=1000)] = 40
    truths: Annotated[int, Field(ge=2, le=10_000)] = 200
    trials: Annotated[int, Field(ge=2)] = 20

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.sensors > self.candidates:
            raise ValueError(f"sensors: {self.sensors} for {self.candidates} candidates; ask for fewer")
        sets = sets_before(self.candidates, self.sensors)
        if sets > MOST:
            raise ValueError(
                f"sensors: {self.sensors} of {self.candidates} candidates are {sets} sets on the way, more than the "
                f"{MOST} that an agent with a table can learn; ask for fewer sensors or candidates"
            )
        if len(set(self.leads)) < len(self.leads) or len(set(self.worlds)) < len(self.worlds):
            raise ValueError("leads, worlds: one stands there twice")
        return self


class SensorPlacement(Experiment):
    """Place sensors by every search, compare with the best of all choices, and try them on truths.

    The prior is an ensemble of 40 members by default; truths are further members that it cannot be told from. Predicted
    is the variance of the state, or of a forecast, that a choice takes away; found is what ETKF analyses with these
    sensors leave of the mean squared error.
    """

    name = "sensor-placement"
    summary = "Where the next observations help most: searches, gradient and agent beside the best of all choices."
    configuration = SensorPlacementConfiguration

    def chunks(self, config: SensorPlacementConfiguration) -> int:
        """Return one chunk for each world and seed."""
        return len(config.worlds) * config.seeds

    def stage(self, config: SensorPlacementConfiguration, index: int) -> str:
        """Return what is tried."""
        return f"{config.worlds[index // config.seeds]}, case {index % config.seeds + 1}"

    def start(self, config: SensorPlacementConfiguration) -> dict[str, Any]:
        """Return nothing: every case stands alone."""
        return {}

    def advance(
        self, config: SensorPlacementConfiguration, carry: dict[str, Any], index: int
    ) -> tuple[dict[str, Any], xr.Dataset]:
        """Place sensors in one case, for every lead, and try them."""
        name, seed = config.worlds[index // config.seeds], index % config.seeds
        case, own, noise = jax.random.split(random_stream(config.seed, list(WORLDS).index(name), seed), 3)
        world = WORLDS[name](case, config.members, config.truths, config.candidates, np.dtype(config.dtype))
        random, apart = spread_out(world, config.sensors, config.seed + seed, config.trials)
        chosen, shares, left = [], [], []
        for lead in config.leads:
            prospects = prospects_of(world, lead)
            found = chosen_by(prospects, config.sensors, own)
            sets = np.concatenate([found, random, apart])
            taken = np.asarray(jax.vmap(prospects.reduction)(sets)) / float(prospects.total)
            errors = errors_left(world, sets, (lead,), noise)[:, 0]
            shares.append(_by_method(taken, len(random)))
            left.append(_by_method(errors, len(random)))
            chosen.append(np.asarray(world.candidates)[found])
        methods = [*SEARCHES, *REFERENCES]
        dataset = xr.Dataset(
            {
                "predicted": (("time", "lead", "method"), np.stack(shares)[None], {"long_name": "share taken away"}),
                "left": (("time", "lead", "method"), np.stack(left)[None], {"long_name": "share of the error left"}),
                "chosen": (("time", "lead", "search", "sensor"), np.stack(chosen)[None].astype(np.int32)),
                "world": ("time", np.array([list(WORLDS).index(name)], np.int32), {"long_name": "number of the world"}),
            },
            {"time": [float(index)], "lead": list(config.leads), "method": methods, "search": list(SEARCHES)},
        )
        return carry, dataset

    def finish(self, config: SensorPlacementConfiguration, dataset: xr.Dataset) -> Results:
        """Return shares of the best, the worst of them, and the errors that were left."""
        rows: list[tuple[str, str, Any, str, float, int]] = []
        for name in config.worlds:
            own = dataset.isel(time=dataset["world"].values == list(WORLDS).index(name))
            for lead in config.leads:
                predicted, left = own["predicted"].sel(lead=lead), own["left"].sel(lead=lead)
                for method in own["method"].values:
                    share = 100 * predicted.sel({"method": method}).values / predicted.sel({"method": "best"}).values
                    error = 100 * left.sel({"method": method}).values
                    saved = error - 100 * left.sel({"method": "random"}).values
                    start, n = (str(method), name, float(lead)), len(share)
                    rows += [
                        (*start, "percent_of_best", float(share.mean()), n),
                        (*start, "percent_of_best_worst", float(share.min()), n),
                        (*start, "cases_above_95_percent", float((share >= NEAR).sum()), n),
                        (
                            *start,
                            "variance_left_percent",
                            float(100 - 100 * predicted.sel({"method": method}).mean()),
                            n,
                        ),
                        (*start, "error_left_percent", float(error.mean()), n),
                        (*start, "error_minus_random_percent", float(saved.mean()), n),
                    ]
                    if n > 1:
                        rows.append((*start, "error_minus_random_std_error", float(saved.std(ddof=1) / n**0.5), n))
        scores = score_rows(rows)
        return Results(scores, {"overview": overview(config, dataset, list(WORLDS))}, _table(config, scores))


def _by_method(values: np.ndarray, random: int) -> np.ndarray:
    """Return the searches' values, and means over random sets and over those that are spread out."""
    count = len(SEARCHES)
    references = [values[count : count + random].mean(), values[count + random :].mean()]
    return np.concatenate([values[:count], references])


def _table(config: SensorPlacementConfiguration, scores: pd.DataFrame) -> str:
    value = scores.set_index(["method", "variable", "lead", "metric"])["value"]
    lines = []
    for name in config.worlds:
        for lead in config.leads:
            lines += [
                f"{name}, lead {lead}: {config.sensors} sensors at {config.candidates} places, {config.seeds} cases",
                f"{'':<12s}{'percent of the best':>20s}{'worst':>8s}{'cases >= 95':>13s}{'variance left':>15s}"
                f"{'error left':>12s}{'minus random':>18s}",
            ]
            for method in (*SEARCHES, *REFERENCES):
                at = (method, name, float(lead))
                near = f"{value[(*at, 'cases_above_95_percent')]:.0f}/{config.seeds}"
                half = value.get((*at, "error_minus_random_std_error"), np.nan)
                saved = f"{value[(*at, 'error_minus_random_percent')]:+.1f} +- {half:.1f}"
                lines.append(
                    f"{method:<12s}{value[(*at, 'percent_of_best')]:20.2f}{value[(*at, 'percent_of_best_worst')]:8.2f}"
                    f"{near:>13s}{value[(*at, 'variance_left_percent')]:15.1f}"
                    f"{value[(*at, 'error_left_percent')]:12.1f}{saved:>18s}"
                )
            lines.append("")
    lines.append("errors and variances in percent of those without sensors; +- standard errors over the cases")
    return "\n".join(lines)
