"""Twin experiment: how much several sources emit, and where the pollutant is, from few stations by 4D-Var."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Array
from pydantic import Field
from scipy.optimize import nnls

from diffassim.core.errors import AssimilationWarning
from diffassim.core.normal import NORMAL_90
from diffassim.cycling import cycle
from diffassim.experiments.applications.air_quality_setting import (
    SPACING,
    STEPS,
    AirQuality2D,
    Case,
    at_cells,
    cost_of,
    draw_case,
    field_covariance,
)
from diffassim.experiments.framework.base import Configuration, Results, Stage, StagedExperiment, each_alone, score_rows
from diffassim.experiments.framework.twin import states_at
from diffassim.gaussian import CycledThreeDVar, Gaussian
from diffassim.models import AdvectionDiffusion, rollout
from diffassim.plotting.air_quality import observations_used, overview
from diffassim.variational import GaussNewton, minimize, posterior

__all__ = ["METHODS", "AirQuality", "AirQualityConfiguration", "source_receptor"]

METHODS = ("prior", "interpolation", "source-receptor", "4D-Var")
TOLERANCE = 0.03  # of the gradient: of a standard deviation of the prior
ITERATIONS = 60  # of a search, whose costs are in the output
FOOTPRINT = 4  # hours over which the withheld stations are followed back


class AirQualityConfiguration(Configuration):
    """Settings of the twin experiment.

    Args:
        cases: number of independent truths, each with its own winds, sources, stations and rates.
        height: cells of 2.5 km from south to north.
        width: cells from west to east.
        sources: number of sources.
        stations: number of stations that report; as many others are withheld.
        window: hours that are assimilated.
        forecast: hours after them.
        noise: standard deviation of the stations' errors, ug/m^3.
        missing: part of the values that is missing.
        spread: standard deviation of the logarithm of the rates in the prior.
        decay: rate of reaction and deposition, 1/h.
        wind_error: standard deviation of the error of the winds that the assimilation is given, km/h.
        rank: eigenpairs of the posterior.
    """

    cases: Annotated[int, Field(ge=1, le=100)] = 6
    height: Annotated[int, Field(ge=8, le=200)] = 24
    width: Annotated[int, Field(ge=8, le=200)] = 32
    sources: Annotated[int, Field(ge=2, le=20)] = 6
    stations: Annotated[int, Field(ge=1, le=100)] = 12
    window: Annotated[int, Field(ge=1, le=96)] = 24
    forecast: Annotated[int, Field(ge=1, le=48)] = 12
    noise: Annotated[float, Field(gt=0)] = 1.0
    missing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    spread: Annotated[float, Field(gt=0, le=1.5)] = 0.6
    decay: Annotated[float, Field(ge=0, le=1)] = 0.1
    wind_error: Annotated[float, Field(ge=0, le=3)] = 0.0
    rank: Annotated[int, Field(ge=1)] = 100

    @property
    def setting(self) -> AirQuality2D:
        """What the truth is made with."""
        return AirQuality2D(
            (self.height, self.width), self.sources, self.stations, self.window, self.forecast, self.noise,
            self.missing, self.spread, self.decay, self.wind_error, self.seed,
        )  # fmt: skip


class AirQuality(StagedExperiment):
    """Find emission rates and concentrations together, and say how sure that is.

    A pollutant that decays is carried by winds with a daily cycle. The places of stacks and areas that emit it are
    known, how much they emit is not: hourly rates with a log-normal prior that is correlated in time. 4D-Var seeks them
    together with the first field. Beside it: the run with the prior's medians (nothing is assimilated), interpolation
    of the concentrations alone every hour, and the classical inversion with a source-receptor matrix.
    """

    name = "air-quality"
    summary = "4D-Var of a pollutant: emission rates of known sources, and concentrations, from few stations."
    configuration = AirQualityConfiguration

    def stages(self, config: AirQualityConfiguration) -> tuple[Stage, ...]:
        """Return the stages."""
        return (Stage("assimilating a case", config.cases, _assimilate),)

    def chains(self, config: AirQualityConfiguration) -> tuple[range, ...]:
        """Return every case alone."""
        return each_alone(config.cases)

    def start(self, config: AirQualityConfiguration) -> dict[str, Any]:
        """Return nothing: the cases are independent."""
        return {}

    def finish(self, config: AirQualityConfiguration, dataset: xr.Dataset) -> Results:
        """Return errors, table and figure."""
        scores = _scores(dataset)
        figures = {"air_quality": overview(dataset)}
        if "departure" in dataset:  # an output of earlier versions has none
            figures["observations"] = observations_used(dataset, config.noise)
        return Results(scores, figures, _table(dataset, scores), dataset.sizes["time"])


def source_receptor(case: Case, steps: int) -> np.ndarray:
    r"""Return factors of the median rates by non-negative least squares, the first field taken as known.

    .. math:: \min_{a \ge 0} |R^{-1/2} (y - h(1) - G (a - 1))|^2

    Column j of G is the derivative of the observation equivalents h by the factor of source j, constant in time.

    Args:
        case: one truth, of which the observations and the background are used.
        steps: model steps of the window.

    Returns:
        Factors, shape (sources,).
    """
    y = case.observations
    factors = jnp.ones(case.places.shape[0], case.background.dtype)
    h, G = (np.asarray(a) for a in _linearized(factors, case.model, case.background, y.steps, case.stations, steps))
    used = np.asarray(y.mask)
    departures = (np.asarray(y.values) - h)[used] + G[used].sum(axis=1)
    return nnls(G[used], departures)[0]  # R is the same for all values


@partial(jax.jit, static_argnums=5)
def _linearized(
    factors: Array, model: AdvectionDiffusion, start: Array, rows: Array, cells: Array, steps: int
) -> tuple[Array, Array]:
    def seen(a: Array) -> Array:
        c = rollout(model.replace(emissions=a[None] * model.emissions), start, steps, at=rows)
        return c[:, cells[:, 0], cells[:, 1]]

    return seen(factors), jax.jacfwd(seen)(factors)


def _assimilate(
    config: AirQualityConfiguration, carry: dict[str, Any], index: int
) -> tuple[dict[str, Any], xr.Dataset]:
    """Draw a case, assimilate it by all methods, and run the forecasts."""
    setting = config.setting
    case = draw_case(setting, index)
    cost = cost_of(setting, case)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AssimilationWarning)  # the table says how many searches converged
        solution = minimize(cost, GaussNewton(tolerance=TOLERANCE, growth=None))
        rank = min(config.rank, int(cost.observation_count()))
        found = posterior(cost, solution, rank=rank)
    variance = jax.jit(lambda p: p.variance_of(lambda v: _log_rates(p.cost, v, config.window)))(found)
    factors = source_receptor(case, config.window * STEPS)
    models = [case.model] * 2 + [case.model.replace(emissions=factors[None] * case.model.emissions), solution.model]
    leads = np.arange(config.forecast + 1)
    at = STEPS * (config.window + leads)
    runs = [
        states_at(model, first, at)
        for model, first in zip(models, [case.background, None, case.background, solution.state], strict=True)
        if first is not None
    ]
    runs.insert(1, _interpolated(setting, case, leads))
    row = _row(config, case, index, (np.stack([np.asarray(run) for run in runs]), models, variance, solution))
    return carry, row.assign(_account(config, case, solution))


def footprint(setting: AirQuality2D, case: Case, hours: int) -> np.ndarray:
    """Return the derivative of the mean over the withheld stations at the window's end by the field some hours before.

    Args:
        setting: of the twin.
        case: one truth; the given winds count.
        hours: before the end.

    Returns:
        Of each cell (ug/m^3 over ug/m^3), shape (y, x).
    """
    model = _from_hour(case.model, setting.window - hours)
    cells = jnp.asarray(case.withheld)
    mean = lambda c: jnp.mean(at_cells(rollout(model, c, STEPS * hours)[-1], cells))  # noqa: E731
    return np.asarray(jax.jit(jax.grad(mean))(case.background))


def _from_hour(model: AdvectionDiffusion, hour: int) -> AdvectionDiffusion:
    """Return the model whose step 0 has the winds and rates of an hour."""
    return model.replace(
        wind=tuple(jnp.roll(w, -hour, axis=0) for w in model.wind), emissions=jnp.roll(model.emissions, -hour, axis=0)
    )


def _account(config: AirQualityConfiguration, case: Case, solution: Any) -> dict[str, Any]:
    """Return how the search went, the departures of observations, and the footprint, as variables of the output."""
    J = np.full(ITERATIONS, np.nan)
    given = np.asarray(solution.search.cost_history)[:ITERATIONS]
    J[: given.size] = given
    y, cells = case.observations, case.stations.T
    seen = [
        np.asarray(states_at(model, first, y.steps))[:, cells[0], cells[1]]
        for model, first in ((case.model, case.background), (solution.model, solution.state))
    ]
    values = np.where(y.mask, y.values, np.nan)
    hours = min(FOOTPRINT, config.window)
    variables: dict[str, Any] = {
        "cost": ("iteration", J, {"long_name": "J of 4D-Var at the start of an iteration"}),
        "departure": (("run", "hour", "station"), np.stack([values - each for each in seen]), {"units": "ug m-3"}),
        "footprint": (("y", "x"), footprint(config.setting, case, hours), {"units": "1", "hours": hours}),
    }
    own = {name: ((dims,) if isinstance(dims, str) else dims) for name, (dims, *_) in variables.items()}
    return {
        name: (("time", *own[name]), np.asarray(values)[None], attributes)
        for name, (_, values, attributes) in variables.items()
    }


def _interpolated(setting: AirQuality2D, case: Case, leads: np.ndarray) -> Any:
    """Return the forecasts from hourly analyses with a static covariance, in which the rates stay what they are."""
    prior = Gaussian.from_covariance(case.background, field_covariance(setting, case.background))
    belief, _ = cycle(CycledThreeDVar(prior), case.model, case.background, case.observations)
    # The record of the rates and winds of step 0 must be that of the end of the window.
    return states_at(_from_hour(case.model, setting.window), belief.mean, STEPS * leads)


def _log_rates(cost: Any, v: Any, window: int) -> dict[str, Array]:
    rates = cost.controlled_model(v).emissions[:window]
    return {"mean": jnp.log(jnp.mean(rates, axis=0)), "hourly": jnp.log(rates)}


def _row(config: AirQualityConfiguration, case: Case, index: int, results: Any) -> xr.Dataset:
    """Write one case down."""
    fields, models, variance, solution = results
    window = config.window
    truth = np.asarray(states_at(case.truth, case.start, STEPS * (window + np.arange(config.forecast + 1))))
    y, x = case.withheld.T
    true_rates = np.asarray(case.truth.emissions)[:window]
    rates = np.stack([np.asarray(model.emissions)[:window] for model in models])
    cells = ("y", "x")
    variables: dict[str, Any] = {
        "concentration": (("method", *cells), fields[:, 0], {"units": "ug m-3"}),
        "true_concentration": (cells, truth[0], {"units": "ug m-3"}),
        "withheld_error": (("method", "lead", "station"), (fields - truth)[:, :, y, x], {"units": "ug m-3"}),
        "true_withheld": (("lead", "station"), truth[:, y, x], {"units": "ug m-3"}),
        "rate": (("method", "source"), rates.mean(axis=1), {"units": "kg h-1"}),
        "true_rate": ("source", true_rates.mean(axis=0), {"units": "kg h-1"}),
        "log_rate_std": ("source", np.sqrt(np.asarray(variance["mean"]))),
        "hourly_rate": (("hour", "source"), rates[-1], {"units": "kg h-1"}),
        "true_hourly_rate": (("hour", "source"), true_rates, {"units": "kg h-1"}),
        "hourly_log_rate_std": (("hour", "source"), np.sqrt(np.asarray(variance["hourly"]))),
        "prior_log_std": ((), np.asarray(config.spread)),
        "station_cell": (("station", "axis"), case.stations),
        "withheld_cell": (("station", "axis"), case.withheld),
        "source_cell": (("source", "axis"), case.places),
        "lowest": ((), float(jnp.min(solution.state)), {"units": "ug m-3"}),
        "misfit": ((), 2 * float(solution.cost) / max(1, int(np.sum(np.asarray(case.observations.mask))))),
        "converged": ((), int(solution.converged)),
    }
    coordinates = {
        "time": [float(index)], "method": list(METHODS), "lead": np.arange(config.forecast + 1),
        "y": (np.arange(config.height) + 0.5) * SPACING, "x": (np.arange(config.width) + 0.5) * SPACING,
        "hour": np.arange(window),
    }  # fmt: skip
    rows = {}
    for name, (dimensions, values, *rest) in variables.items():
        own = (dimensions,) if isinstance(dimensions, str) else dimensions
        rows[name] = (("time", *own), np.asarray(values)[None], *rest)
    return xr.Dataset(rows, coordinates)


def _scores(dataset: xr.Dataset) -> pd.DataFrame:
    rows: list[tuple[str, str, Any, str, float, int]] = []
    for j, method in enumerate(METHODS):
        error = (dataset["concentration"].values[:, j] - dataset["true_concentration"].values).ravel()
        rows.append((method, "concentration, all cells", 0, "rmse", _rms(error), error.size))
        for lead in dataset["lead"].values:
            error = dataset["withheld_error"].sel(lead=lead).values[:, j].ravel()
            rows.append((method, "concentration, withheld stations", int(lead), "rmse", _rms(error), error.size))
        relative = np.abs(dataset["rate"].values[:, j] / dataset["true_rate"].values - 1).ravel()
        rows.append((method, "emission rate", 0, "mean_relative_error", float(relative.mean()), relative.size))
        rows.append((method, "emission rate", 0, "median_relative_error", float(np.median(relative)), relative.size))
    ratios = {
        "emission rate": (dataset["rate"].values[:, -1], dataset["true_rate"].values, dataset["log_rate_std"].values),
        "hourly emission rate": tuple(
            dataset[name].values for name in ("hourly_rate", "true_hourly_rate", "hourly_log_rate_std")
        ),
    }
    for name, (found, truth, std) in ratios.items():
        inside = np.abs(np.log(found / truth)) < NORMAL_90 * std
        rows.append(("4D-Var", name, 0, "coverage_90", float(inside.mean()), inside.size))
        rows.append(("4D-Var", name, 0, "median_log_std", float(np.median(std)), std.size))
    return score_rows(rows)


def _rms(error: np.ndarray) -> float:
    return float(np.sqrt(np.mean(error**2)))


def _table(dataset: xr.Dataset, scores: pd.DataFrame) -> str:
    value = scores.set_index(["method", "variable", "lead", "metric"])["value"]
    leads = sorted({0, int(dataset["lead"][-1]), *(n for n in (3, 6) if n in dataset["lead"].values)})
    head = f"{'RMSE, ug/m3':<18}{'all cells':>12}" + "".join(f"{f'withheld +{n} h':>16}" for n in leads)
    lines = [head + f"{'error of rates, mean':>24}{'median':>10}"]
    for method in METHODS:
        errors = [value[method, "concentration, withheld stations", n, "rmse"] for n in leads]
        rates = [value[method, "emission rate", 0, f"{kind}_relative_error"] for kind in ("mean", "median")]
        lines.append(
            f"{method:<18}{value[method, 'concentration, all cells', 0, 'rmse']:12.3f}"
            + "".join(f"{e:16.3f}" for e in errors)
            + f"{100 * rates[0]:22.1f} %{100 * rates[1]:8.1f} %"
        )
    count = dataset["true_rate"].size
    covered = [100 * value["4D-Var", name, 0, "coverage_90"] for name in ("emission rate", "hourly emission rate")]
    std = value["4D-Var", "emission rate", 0, "median_log_std"]
    lines.append(
        f"In the 90 % intervals of 4D-Var: {covered[0]:.0f} % of {count} mean rates, {covered[1]:.0f} % of the hourly "
        f"ones; median standard deviation of a log mean rate {std:.3f} (prior {dataset['prior_log_std'].values[0]:.2f})"
    )
    misfit, lowest = dataset["misfit"].values, float(dataset["lowest"].min())
    lines.append(
        f"2 J per observed value {misfit.mean():.2f} ({misfit.min():.2f} to {misfit.max():.2f}); "
        f"{int(dataset['converged'].sum())} of {dataset.sizes['time']} searches converged; "
        f"lowest concentration of a first field {lowest:.2f} ug/m3"
    )
    return "\n".join(lines)
