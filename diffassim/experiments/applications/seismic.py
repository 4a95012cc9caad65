"""Twin experiment: where and when earthquakes were, and the velocity of the ground, from seismograms by 4D-Var."""

from __future__ import annotations

import warnings
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Array
from pydantic import Field

from diffassim.core.errors import AssimilationWarning
from diffassim.core.normal import NORMAL_90
from diffassim.covariances import Diagonal
from diffassim.experiments.applications.seismic_setting import (
    DT,
    SHAPE,
    SPACING,
    Seismic2D,
    cost_of,
    first_guess,
    noisy_record,
    nominal_origins,
    pick_times,
    receiver_places,
    record,
    true_model,
)
from diffassim.experiments.framework.base import Configuration, Results, Stage, StagedExperiment, score_rows
from diffassim.observations import Function, Observations
from diffassim.plotting.seismic import overview
from diffassim.variational import LBFGS, GaussNewton, ThreeDVar, minimize
from diffassim.variational.products.posterior import posterior

__all__ = ["METHODS", "Seismic", "SeismicConfiguration"]

METHODS = ("prior", "straight rays", "4D-Var")
ITERATIONS = 25  # of the search in each chunk
PICK_STD = 0.04  # s, of picked times, straight rays included
SPEED_STD = 300.0  # m/s, of the velocity of straight rays
SEEN = 0.5  # of the prior's standard deviation is left at most where the velocity counts as resolved


class SeismicConfiguration(Configuration):
    """Settings of the twin experiment.

    Args:
        events: number of earthquakes, each recorded by itself.
        frequency: of their wavelets, 1/s.
        noise: standard deviation of the noise, as part of the largest pressure.
        anomaly: standard deviation of the velocity around the start model in the prior, m/s.
        length: length of its correlation, m.
        place_std: of the places around the middle of the ground in the prior, m.
        origin_std: of the origin times in the prior, s.
        chunks: parts of the search, of 25 iterations each.
        rank: eigenpairs of the posterior.
    """

    events: Annotated[int, Field(ge=1, le=12)] = 5
    frequency: Annotated[float, Field(gt=0, le=5)] = 4.0
    noise: Annotated[float, Field(gt=0)] = 0.03
    anomaly: Annotated[float, Field(gt=0, le=300)] = 120.0
    length: Annotated[float, Field(gt=0)] = 200.0
    place_std: Annotated[float, Field(gt=0)] = 600.0
    origin_std: Annotated[float, Field(gt=0)] = 0.15
    chunks: Annotated[int, Field(ge=1)] = 12
    rank: Annotated[int, Field(ge=1)] = 100

    @property
    def setting(self) -> Seismic2D:
        """What the records are made with."""
        return Seismic2D(
            self.events, self.frequency, self.noise, self.anomaly, self.length, self.place_std, self.origin_std,
            self.seed,
        )  # fmt: skip


class Seismic(StagedExperiment):
    """Invert seismograms for sources and velocity together, and say how sure that is.

    A section of ground with bodies that are faster or slower, earthquakes at unknown places and times, receivers near
    the free surface. Straight rays through a homogeneous medium fit the times of the largest pressure; from there
    4D-Var goes on with the whole seismograms. Its control vector holds the velocity of all cells, and place and origin
    time of all sources; the posterior covariance is that of the Gauss-Newton Hessian.
    """

    name = "seismic"
    summary = "4D-Var of seismograms: places and times of earthquakes, and the velocity of the ground."
    configuration = SeismicConfiguration

    def stages(self, config: SeismicConfiguration) -> tuple[Stage, ...]:
        """Return the stages."""
        return (
            Stage("recording, and fitting straight rays", 1, _fit_rays),
            Stage("assimilating the seismograms", config.chunks, _assimilate),
            Stage("computing the posterior covariance", 1, _posterior),
        )

    def start(self, config: SeismicConfiguration) -> dict[str, Any]:
        """Return nothing: everything is in the stages."""
        return {}

    def finish(self, config: SeismicConfiguration, dataset: xr.Dataset) -> Results:
        """Return errors, table and figure."""
        scores = _scores(dataset)
        return Results(scores, {"seismic": overview(dataset)}, _table(dataset, scores), config.events)


def _fit_rays(config: SeismicConfiguration, carry: dict[str, Any], _: int) -> tuple[dict[str, Any], xr.Dataset]:
    """Record, and start the search where straight rays end."""
    setting = config.setting
    values, std = noisy_record(setting)
    times = pick_times(setting, np.asarray(values))
    guess = first_guess(setting)
    speed = float(np.mean(np.asarray(guess.velocity)))
    found = np.asarray(
        _straight_rays(
            jnp.asarray(times), jnp.asarray(receiver_places()), jnp.asarray(guess.sources.places),  # type: ignore[union-attr]
            jnp.asarray(nominal_origins(setting)), jnp.asarray([config.place_std, config.origin_std, speed]),
        )
    )  # fmt: skip
    cost = cost_of(setting, values, std)
    v = cost.control()["parameters"]
    height, width = np.array(SHAPE) * SPACING
    places = np.clip(found[:, :2], [2 * SPACING, 2 * SPACING], [height - 2 * SPACING, width - 2 * SPACING])
    v["sources.places"] = (places - np.asarray(guess.sources.places)) / config.place_std  # type: ignore[union-attr]
    v["sources.history.time"] = (found[:, 2] - nominal_origins(setting)) / config.origin_std
    state = {"values": np.asarray(values), "std": np.asarray(std), "rays": found}
    return carry | state | {"control": {"parameters": jax.tree.map(np.asarray, v)}, "costs": np.zeros(0)}, xr.Dataset()


@jax.jit
def _straight_rays(times: Array, receivers: Array, places: Array, origins: Array, scales: Array) -> Array:
    """Return depth, distance, origin time and velocity of each event, by 3D-Var."""

    def one(part: tuple[Array, Array, Array]) -> Array:
        time, place, origin = part
        background = jnp.concatenate([place, origin[None], scales[2:]])
        std = jnp.concatenate([jnp.stack([scales[0]] * 2), scales[1:2], jnp.asarray([SPEED_STD])])
        y = Observations(time[None], [0], operator=Function(_ray_times, receivers), error=Diagonal(std=PICK_STD))
        return minimize(ThreeDVar(background, Diagonal(std=std), y), GaussNewton()).state

    return jax.lax.map(one, (times, places, origins))


def _ray_times(x: Array, receivers: Array) -> Array:
    far = jnp.sqrt(jnp.sum(jnp.square(receivers - x[None, :2]), axis=1) + 1.0)
    return x[2] + far / x[3]


def _assimilate(config: SeismicConfiguration, carry: dict[str, Any], _: int) -> tuple[dict[str, Any], xr.Dataset]:
    """Go on with the search."""
    cost = cost_of(config.setting, carry["values"], float(carry["std"]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AssimilationWarning)  # it goes on in the next chunk
        solution = minimize(cost, LBFGS(max_iterations=ITERATIONS), start=jax.tree.map(jnp.asarray, carry["control"]))
    costs = np.append(carry["costs"], float(solution.cost))
    return carry | {"control": jax.tree.map(np.asarray, solution.control), "costs": costs}, xr.Dataset()


def _posterior(config: SeismicConfiguration, carry: dict[str, Any], _: int) -> tuple[dict[str, Any], xr.Dataset]:
    """Compute standard deviations, and write everything down, a row for each event."""
    setting = config.setting
    cost = cost_of(setting, carry["values"], float(carry["std"]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AssimilationWarning)  # the table says how far the search came
        solution = minimize(cost, LBFGS(max_iterations=2), start=jax.tree.map(jnp.asarray, carry["control"]))
        found = posterior(cost, solution, rank=config.rank)
    variance = jax.jit(lambda p: p.variance_of(lambda v: _sought(p.cost, v)))(found)
    truth, guess, model = true_model(setting), first_guess(setting), cost.controlled_model(solution.control)
    events = np.arange(config.events)

    def sources(m: Any, name: str) -> np.ndarray:
        return np.asarray(m.sources.places if name == "places" else m.sources.history.time)

    rays = carry["rays"]
    places = np.stack([sources(guess, "places"), rays[:, :2], sources(model, "places")], axis=1)
    origins = np.stack([nominal_origins(setting), rays[:, 2], sources(model, "time")], axis=1)
    prior_std = [np.broadcast_to(config.place_std, (config.events, 2)), np.full((config.events, 2), np.nan)]
    place_std = np.stack([*prior_std, np.sqrt(np.asarray(variance["places"]))], axis=1)
    field = ("time", "z", "x")

    def once(values: Any) -> np.ndarray:
        return np.repeat(np.asarray(values)[None], config.events, axis=0)

    dataset = xr.Dataset(
        {
            "place": (("time", "method", "coordinate"), places, {"units": "m"}),
            "place_std": (("time", "method", "coordinate"), place_std, {"units": "m"}),
            "true_place": (("time", "coordinate"), sources(truth, "places"), {"units": "m"}),
            "origin": (("time", "method"), origins, {"units": "s"}),
            "origin_std": ("time", np.sqrt(np.asarray(variance["time"])), {"units": "s"}),
            "true_origin": ("time", sources(truth, "time"), {"units": "s"}),
            "velocity": (field, once(model.velocity), {"units": "m s-1"}),
            "velocity_std": (field, once(np.sqrt(np.asarray(variance["velocity"]))), {"units": "m s-1"}),
            "true_velocity": (field, once(truth.velocity), {"units": "m s-1"}),
            "start_velocity": (field, once(guess.velocity), {"units": "m s-1"}),
            "prior_velocity_std": ("time", np.full(config.events, config.anomaly)),
            "receiver": (("time", "station", "coordinate"), once(receiver_places()), {"units": "m"}),
            "seismogram": (("time", "sample", "station"), once(carry["values"])),
            "fitted_seismogram": (("time", "sample", "station"), once(record(setting, model))),
            "noise_std": ("time", np.full(config.events, float(carry["std"]))),
            "cost": (("time", "chunk"), once(carry["costs"])),
        },
        coords={
            "time": events.astype(float), "method": list(METHODS), "coordinate": ["z", "x"],
            "z": (np.arange(SHAPE[0]) + 0.5) * SPACING, "x": (np.arange(SHAPE[1]) + 0.5) * SPACING,
            "sample": DT * setting.sampled,
        },
    )  # fmt: skip
    return carry, dataset


def _sought(cost: Any, v: Any) -> dict[str, Array]:
    model = cost.controlled_model(v)
    return {"velocity": model.velocity, "places": model.sources.places, "time": model.sources.history.time}


def _resolved(dataset: xr.Dataset) -> np.ndarray:
    """Return the cells whose velocity the seismograms have said something about."""
    return dataset["velocity_std"].values[0] < SEEN * float(dataset["prior_velocity_std"].values[0])


def _scores(dataset: xr.Dataset) -> pd.DataFrame:
    rows: list[tuple[str, str, float, str, float, int]] = []
    count = dataset.sizes["time"]
    truth = dataset["true_place"].values
    for j, method in enumerate(METHODS):
        far = np.hypot(*(dataset["place"].values[:, j] - truth).T)
        late = np.abs(dataset["origin"].values[:, j] - dataset["true_origin"].values)
        rows.append((method, "place", 0, "median_error", float(np.median(far)), count))
        rows.append((method, "origin time", 0, "median_error", float(np.median(late)), count))
    resolved, exact = _resolved(dataset), dataset["true_velocity"].values[0]
    for method, name in (("prior", "start_velocity"), ("4D-Var", "velocity")):
        for label, cells in (("all cells", np.ones_like(resolved)), ("resolved cells", resolved)):
            error = (dataset[name].values[0] - exact)[cells]
            rmse = float(np.sqrt(np.mean(error**2))) if error.size else float("nan")
            rows.append((method, f"velocity, {label}", 0, "rmse", rmse, error.size))
    z = np.abs(dataset["velocity"].values[0] - exact) / dataset["velocity_std"].values[0]
    rows.append(("4D-Var", "velocity, all cells", 0, "coverage_90", float(np.mean(z < NORMAL_90)), z.size))
    z = np.abs(dataset["place"].values[:, -1] - truth) / dataset["place_std"].values[:, -1]
    rows.append(("4D-Var", "place", 0, "coverage_90", float(np.mean(z < NORMAL_90)), z.size))
    return score_rows(rows)


def _table(dataset: xr.Dataset, scores: pd.DataFrame) -> str:
    value = scores.set_index(["method", "variable", "metric"])["value"]
    lines = [f"{'Event':<10}" + "".join(f"{m + ', error':>24}" for m in METHODS) + "   std of depth, distance"]
    for i in range(dataset.sizes["time"]):
        truth = dataset["true_place"].values[i]
        errors = [float(np.hypot(*(p - truth))) for p in dataset["place"].values[i]]
        late = dataset["origin"].values[i] - float(dataset["true_origin"].values[i])
        text = "".join(f"{e:10.0f} m, {1000 * t:+6.0f} ms  " for e, t in zip(errors, late, strict=True))
        std = dataset["place_std"].values[i, -1]
        lines.append(f"{i + 1:<10}{text}{std[0]:10.1f}, {std[1]:.1f} m")
    medians = [
        f"{value[m, 'place', 'median_error']:10.0f} m, {1000 * value[m, 'origin time', 'median_error']:6.0f} ms  "
        for m in METHODS
    ]
    lines.append(f"{'median':<10}" + "".join(medians))
    for label in ("all cells", "resolved cells"):
        start, end = (value[m, f"velocity, {label}", "rmse"] for m in ("prior", "4D-Var"))
        lines.append(f"RMSE of the velocity, {label:<16} start model {start:6.1f} m/s    4D-Var {end:6.1f} m/s")
    covered = [100 * value["4D-Var", name, "coverage_90"] for name in ("velocity, all cells", "place")]
    lines.append(
        f"In the 90 % intervals of 4D-Var: {covered[0]:.0f} % of the velocities, {covered[1]:.0f} % of the places"
    )
    misfit = (dataset["fitted_seismogram"] - dataset["seismogram"]).values[0] / float(dataset["noise_std"].values[0])
    lines.append(f"RMS misfit of the seismograms {np.sqrt(np.mean(misfit**2)):.3f} of the noise; J by chunk: "
                 + ", ".join(f"{c:.0f}" for c in dataset["cost"].values[0]))  # fmt: skip
    return "\n".join(lines)
