"""The main job: assimilate the discharge of the river Fulda and forecast it."""

from __future__ import annotations

import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from pydantic import Field, model_validator

from diffassim.core import tree
from diffassim.covariances import Diagonal
from diffassim.experiments.base import Configuration, Experiment, Results, quantity
from diffassim.experiments.discharge_analysis import (
    DischargeAnalysis,
    ErrorStatistics,
    IssueDay,
    discharge_of,
    issue_days,
)
from diffassim.experiments.discharge_references import (
    Dressing,
    autoregression,
    climatology,
    fit_autoregression,
    persistence,
)
from diffassim.experiments.discharge_scores import score_table, scores_by_lead
from diffassim.io.catchment import CatchmentRecord, fulda_file, read_catchment
from diffassim.io.netcdf import to_dataset
from diffassim.models import GR4J, rollout
from diffassim.models.gr4j import CatchmentForcing
from diffassim.observations import Observations
from diffassim.plotting.discharge import forecast_overview
from diffassim.training import fit
from diffassim.variational import GaussNewton, StrongConstraint4DVar, minimize

__all__ = ["METHODS", "Fulda", "FuldaConfiguration"]

METHODS = ("climatology", "persistence", "open loop", "open loop + AR(1)", "assimilation")
CHUNKS = 5
PROBABILITIES = np.round(np.arange(0.05, 0.951, 0.05), 2)
BATCH = 256  # windows in each update of the error statistics
LEARNING_RATE = 0.1
SHARPNESS = 8.0  # of the maximum over leads
# Prior of the error statistics, log-normal around the first guess; a few floods a year carry the mean squared error, so
# that the calibration years weigh no more than this many independent events.
STATISTICS_STD = 0.5
EVENTS = 40

# Prior standard deviations of the calibrated parameters around the published medians (Perrin et al., 2003, table 3).
PARAMETER_STD = {"x1": 150.0, "x2": 1.0, "x3": 40.0, "x4": 0.7, "melt_factor": 1.5, "melt_temperature": 1.0}
CALIBRATION_ERROR = 0.2  # mm per day


class FuldaConfiguration(Configuration):
    """Settings; the defaults are the Fulda at Grebenau.

    Args:
        file: CSV file of another catchment (see `diffassim.io.catchment.read_catchment`); default: the Fulda.
        area: catchment area in km2.
        latitude: of the catchment, degrees north, for the potential evaporation.
        calibration_start: first day on which parameters and error statistics are fitted; the days before warm up.
        calibration_end: last one.
        verification_start: first day on which forecasts are scored.
        verification_end: last one.
        window: days of discharge that each analysis assimilates.
        leads: forecast leads in days.
        updates: optimizer steps of the fit of the error statistics through the analysis; 0 keeps the first guess.
    """

    file: Path | None = None
    area: Annotated[float, quantity("km2"), Field(gt=0)] = 2976.41
    latitude: Annotated[float, quantity("degrees_north"), Field(ge=-66, le=66)] = 50.6
    calibration_start: datetime.date = datetime.date(1980, 1, 1)
    calibration_end: datetime.date = datetime.date(1983, 12, 31)
    verification_start: datetime.date = datetime.date(1984, 1, 1)
    verification_end: datetime.date = datetime.date(1988, 12, 31)
    window: Annotated[int, quantity("days"), Field(ge=1, le=60)] = 3
    leads: Annotated[tuple[Annotated[int, Field(ge=1, le=30)], ...], Field(min_length=1)] = (1, 2, 3, 5)
    updates: Annotated[int, Field(ge=0)] = 100

    @model_validator(mode="after")
    def _periods_are_possible(self) -> Self:
        if self.calibration_end <= self.calibration_start:
            raise ValueError(f"calibration_end: {self.calibration_end} is not after {self.calibration_start}")
        if self.verification_start <= self.calibration_end:
            raise ValueError(
                f"verification_start: {self.verification_start} is not after the calibration ({self.calibration_end}); "
                "scores count only on days that nothing was fitted to"
            )
        if self.verification_end <= self.verification_start:
            raise ValueError(f"verification_end: {self.verification_end} is not after {self.verification_start}")
        if list(self.leads) != sorted(set(self.leads)):
            raise ValueError(f"leads: {self.leads} must increase")
        return self


class Fulda(Experiment):
    """Calibrate a catchment model, assimilate discharge every day, issue forecasts, and compare.

    Parameters are fitted by variational estimation on the calibration years, the standard deviations in B and R on the
    same years by gradient descent through the analysis: their gradient of the forecasts' mean squared error comes from
    the implicit function theorem. Observed precipitation and temperature drive the forecasts, so that the scores show
    the effect of the initial state alone. Nothing is fitted to the verification years.
    """

    name = "fulda"
    summary = "4D-Var of ten years of discharge of the river Fulda: analyses, forecasts and scores."
    configuration = FuldaConfiguration

    def chunks(self, config: FuldaConfiguration) -> int:
        """Return the number of parts into which the verification years are cut."""
        return CHUNKS

    def start(self, config: FuldaConfiguration) -> dict[str, Any]:
        """Calibrate the model, fit the error statistics and the predictive distributions."""
        record = _Record(config)
        model = _calibrated(record)
        open_loop = _open_loop(model)
        first, last = record.calibration
        issued = np.arange(first, last - max(config.leads))
        analysis = _fitted(config, record, model, open_loop, issued)
        _, forecasts, _ = _analyze(analysis, _days(config, record, open_loop, jnp.asarray(issued)))
        rho = fit_autoregression((record.discharge - np.asarray(open_loop.discharge[1:]))[first:last])
        shown = _all_methods(config, record, open_loop, issued, np.asarray(forecasts), rho)
        dressings = {
            method: {str(lead): _dressing(record, issued, lead, shown[m, :, i]) for i, lead in enumerate(config.leads)}
            for m, method in enumerate(METHODS)
        }
        fitted = {name: getattr(model, name) for name in model.parameters}
        statistics = {name: getattr(analysis.statistics, name) for name in vars(analysis.statistics)}
        return {
            "parameters": fitted,
            "statistics": statistics,
            "persistence": analysis.persistence,
            "rho": np.asarray(rho),
            "dressings": dressings,
        }

    def advance(
        self, config: FuldaConfiguration, carry: dict[str, Any], index: int
    ) -> tuple[dict[str, Any], xr.Dataset]:
        """Assimilate and forecast on the days of one part."""
        record = _Record(config)
        model = GR4J(forcing=record.forcing, **{name: jnp.asarray(v) for name, v in carry["parameters"].items()})
        open_loop = _open_loop(model)
        statistics = ErrorStatistics(**jax.tree.map(jnp.asarray, carry["statistics"]))
        analysis = DischargeAnalysis(model, statistics, jnp.asarray(carry["persistence"]), config.leads)

        # Every lead is scored on the same days, so the first forecasts are issued before the first of them.
        first, last = record.verification
        size = -(-(last - first + max(config.leads)) // CHUNKS)
        start = first - max(config.leads) + index * size
        issued = np.arange(start, min(start + size, last))
        padded = np.minimum(np.arange(start, start + size), last - 1)  # equal shapes: compiled once
        states, forecasts, code = _analyze(analysis, _days(config, record, open_loop, jnp.asarray(padded)))
        states, forecasts, code = jax.tree.map(lambda a: np.asarray(a)[: len(issued)], (states, forecasts, code))

        shown = _all_methods(config, record, open_loop, issued, forecasts, float(carry["rho"]))
        quantiles = np.stack(
            [
                np.stack(
                    [
                        Dressing(**carry["dressings"][method][str(lead)])(shown[m, :, i])
                        for i, lead in enumerate(config.leads)
                    ],
                    axis=1,
                )
                for m, method in enumerate(METHODS)
            ]
        )
        return carry, _dataset(config, record, model, issued, states, shown, quantiles, code)

    def finish(self, config: FuldaConfiguration, dataset: xr.Dataset) -> Results:
        """Return scores by method and lead, the table and the figure."""
        scores = scores_by_lead(dataset, _Record(config).verification_dates)
        return Results(scores, {"forecasts": forecast_overview(dataset, scores)}, score_table(dataset, scores))


class _Record:
    """The record with its periods as index ranges."""

    def __init__(self, config: FuldaConfiguration) -> None:
        path = fulda_file() if config.file is None else config.file
        self.table: CatchmentRecord = read_catchment(path, area=config.area, latitude=config.latitude)
        self.discharge = self.table.discharge.astype(config.dtype)
        self.forcing = CatchmentForcing(
            *(
                jnp.asarray(s, config.dtype)
                for s in (self.table.precipitation, self.table.evaporation, self.table.temperature)
            )
        )
        self.calibration = self._days(config.calibration_start, config.calibration_end)
        self.verification = self._days(config.verification_start, config.verification_end)
        self.verification_dates = self.table.dates[slice(*self.verification)]

    def _days(self, first: datetime.date, last: datetime.date) -> tuple[int, int]:
        return self.table.day(str(first)), self.table.day(str(last)) + 1


def _calibrated(record: _Record) -> GR4J:
    """Return the model with the parameters that fit the discharge of the calibration years best."""
    model = GR4J(forcing=record.forcing)
    first, last = record.calibration
    observed = Observations(
        record.discharge[first:last],
        np.arange(first + 1, last + 1),  # the discharge of day k is in the state after step k
        operator=discharge_of,
        error=Diagonal(std=CALIBRATION_ERROR),
    )
    cost = StrongConstraint4DVar(
        model,
        model.initial_state(record.discharge.dtype),
        None,
        observed,
        parameters={name: Diagonal(std=std) for name, std in PARAMETER_STD.items()},
    )
    # The misfit is model error, far above CALIBRATION_ERROR: the consistency test has nothing to say here.
    return minimize(cost, GaussNewton(consistency=jnp.inf)).model


@jax.jit
def _open_loop(model: GR4J) -> Any:
    days = model.forcing.precipitation.shape[0]  # type: ignore[union-attr]
    return rollout(model, model.initial_state(model.forcing.precipitation.dtype), days)  # type: ignore[union-attr]


def _days(config: FuldaConfiguration, record: _Record, open_loop: Any, issued: Any) -> IssueDay:
    observed = jnp.asarray(record.discharge)
    return issue_days(open_loop, observed, record.forcing, issued, config.window, max(config.leads))


@jax.jit
def _analyze(analysis: DischargeAnalysis, days: IssueDay) -> Any:
    return jax.vmap(analysis)(days)


def _fitted(
    config: FuldaConfiguration, record: _Record, model: GR4J, open_loop: Any, issued: np.ndarray
) -> DischargeAnalysis:
    """Fit the error statistics by gradient through the analysis, then the persistence by least squares."""
    observed, leads = record.discharge, config.leads
    days = _days(config, record, open_loop, jnp.asarray(issued))
    targets = np.stack([observed[issued + lead] for lead in leads], axis=1)
    simulated = np.asarray(open_loop.discharge[1:])
    rho = fit_autoregression((observed - simulated)[issued])
    reference = [
        np.nanmean((autoregression(simulated, observed, issued, lead, rho) - y) ** 2)
        for lead, y in zip(leads, targets.T, strict=True)
    ]
    first_guess = jax.tree.map(lambda s: jnp.asarray(s, config.dtype), ErrorStatistics())
    untrained = {
        "statistics": _unbounded(first_guess),
        "persistence": jnp.asarray([rho**lead for lead in leads], config.dtype),
    }
    loss = partial(_objective, model.replace(forcing=None), leads, np.asarray(reference), untrained["statistics"])
    schedule = optax.cosine_decay_schedule(LEARNING_RATE, max(config.updates, 1))
    found = fit(
        lambda trainable, batch: loss(trainable, *batch),
        untrained,
        (days, targets),
        optimizer=optax.adam(schedule),
        steps=config.updates,
        batch_size=min(BATCH, len(issued)),
        key=jax.random.key(config.seed),
    ).trained
    statistics = _bounded(found["statistics"])
    analysis = DischargeAnalysis(model, statistics, jnp.zeros(len(leads), config.dtype), leads)
    states, forecasts, _ = _analyze(analysis, days)
    unexplained = np.nan_to_num(observed[issued] - np.asarray(states.discharge))
    return analysis.replace(
        persistence=jnp.asarray(_slopes(unexplained, targets - np.asarray(forecasts)), config.dtype)
    )


def _objective(
    model: GR4J,
    leads: tuple[int, ...],
    reference: np.ndarray,
    prior: ErrorStatistics,
    trainable: Any,
    days: IssueDay,
    targets: Any,
) -> Any:
    """Return minus the log posterior of the error statistics, for one event.

    The likelihood is that of Gaussian forecast errors of unknown variance, the logarithm of their mean square; of the
    leads, a smooth maximum of it relative to the open loop with AR(1) correction.
    """
    statistics = _bounded(trainable["statistics"])
    _, forecasts, _ = jax.vmap(DischargeAnalysis(model, statistics, trainable["persistence"], leads))(days)
    known = jnp.isfinite(targets)
    errors = jnp.where(known, forecasts - jnp.where(known, targets, 0), 0)
    ratio = jnp.mean(errors**2, axis=0) / jnp.asarray(reference, errors.dtype)
    # Not the mean: a long lead must not be improved at the cost of a short one.
    worst = jnp.log(jnp.mean(ratio**SHARPNESS)) / SHARPNESS
    departure = tree.subtract(trainable["statistics"], prior)
    return (worst + tree.squared_norm(departure) / (STATISTICS_STD**2 * EVENTS)) / 2


def _unbounded(s: ErrorStatistics) -> ErrorStatistics:
    """Map positive standard deviations, and a memory between 0 and 1, to the whole line."""
    return jax.tree.map(jnp.log, s).replace(memory=jnp.log(s.memory / (1 - s.memory)))


def _bounded(u: ErrorStatistics) -> ErrorStatistics:
    return jax.tree.map(jnp.exp, u).replace(memory=jax.nn.sigmoid(u.memory))


def _slopes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    known = np.isfinite(y)
    products = np.where(known, x[:, None] * np.where(known, y, 0), 0)
    return products.sum(axis=0) / np.where(known, x[:, None] ** 2, 0).sum(axis=0)


def _all_methods(
    config: FuldaConfiguration, record: _Record, open_loop: Any, issued: np.ndarray, forecasts: np.ndarray, rho: float
) -> np.ndarray:
    """Return the forecasts of all methods in mm per day, shape (method, issue day, lead); NaN beyond the record."""
    observed, simulated = record.discharge, np.asarray(open_loop.discharge[1:])
    day_of_year = record.table.dates.day_of_year.to_numpy()
    known = np.arange(record.calibration[1])
    rows = np.empty((len(METHODS), len(issued), len(config.leads)), observed.dtype)
    for i, lead in enumerate(config.leads):
        inside = issued + lead < len(observed)
        valid = np.minimum(issued + lead, len(observed) - 1)
        for m, values in enumerate(
            (
                climatology(observed, day_of_year, known, day_of_year[valid]),
                persistence(observed, issued),
                simulated[valid],
                autoregression(simulated, observed, issued, lead, rho),
                forecasts[:, i],
            )
        ):
            rows[m, :, i] = np.where(inside, values, np.nan)
    return rows


def _dressing(record: _Record, issued: np.ndarray, lead: int, forecast: np.ndarray) -> dict[str, np.ndarray]:
    return Dressing.fit(forecast, record.discharge[issued + lead], PROBABILITIES)._asdict()


def _dataset(
    config: FuldaConfiguration,
    record: _Record,
    model: GR4J,
    issued: np.ndarray,
    states: Any,
    shown: np.ndarray,
    quantiles: np.ndarray,
    code: np.ndarray,
) -> xr.Dataset:
    dates = record.table.dates[issued]
    dataset = to_dataset(states, model.variables(), {"time": dates})
    in_m3 = record.table.cubic_meters_per_second
    unit = {"units": "m3 s-1"}
    dataset = dataset.assign_coords(
        method=("method", list(METHODS)),
        lead=("lead", list(config.leads), {"units": "days", "long_name": "days after the last assimilated day"}),
        probability=("probability", PROBABILITIES, {"units": "1", "long_name": "probability of non-exceedance"}),
    )
    observed = np.append(record.discharge, np.nan)
    valid = np.minimum(issued[:, None] + np.array(config.leads), len(record.discharge))
    dataset["observed"] = ("time", in_m3(observed[issued]), {**unit, "long_name": "observed discharge"})
    dataset["verifying"] = (
        ("time", "lead"), in_m3(observed[valid]), {**unit, "long_name": "observed discharge on the forecast day"},
    )  # fmt: skip
    dataset["forecast"] = (
        ("time", "method", "lead"), in_m3(np.moveaxis(shown, 0, 1)), {**unit, "long_name": "discharge forecast"},
    )  # fmt: skip
    dataset["quantile"] = (
        ("time", "method", "lead", "probability"),
        in_m3(np.moveaxis(quantiles, 0, 1)).astype(np.float32),
        {**unit, "long_name": "quantile of the predictive distribution"},
    )
    precipitation = record.table.precipitation[issued]
    dataset["precipitation"] = ("time", precipitation, {"units": "mm day-1", "long_name": "precipitation"})
    dataset["result"] = ("time", code.astype(np.int8), {"long_name": "result code of the minimization"})
    return dataset
