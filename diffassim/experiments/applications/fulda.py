"""The main job: assimilate the discharge of the river Fulda and forecast it."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated, Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from pydantic import Field, model_validator

from diffassim.experiments.applications.discharge_analysis import (
    DischargeAnalysis,
    ErrorStatistics,
    IssueDay,
    analyze_days,
    issue_days,
)
from diffassim.experiments.applications.discharge_calibration import calibrate, fit_analysis, open_loop
from diffassim.experiments.applications.discharge_references import (
    Dressing,
    autoregression,
    climatology,
    fit_autoregression,
    persistence,
)
from diffassim.experiments.applications.discharge_scores import score_table, scores_by_lead
from diffassim.experiments.framework.base import Configuration, Experiment, Results, quantity
from diffassim.io.catchment import CatchmentRecord, fulda_file, read_catchment
from diffassim.io.netcdf import to_dataset
from diffassim.models import GR4J
from diffassim.models.gr4j import CatchmentForcing
from diffassim.plotting.discharge import forecast_overview

__all__ = ["METHODS", "Fulda", "FuldaConfiguration", "Record"]

METHODS = ("climatology", "persistence", "open loop", "open loop + AR(1)", "assimilation")
CHUNKS = 5
PROBABILITIES = np.round(np.arange(0.05, 0.951, 0.05), 2)


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
        record = Record(config)
        first, last = record.calibration
        model = calibrate(record.forcing, record.discharge, first, last)
        free = open_loop(model)
        issued = np.arange(first, last - max(config.leads))
        analysis = fit_analysis(
            model,
            record.discharge,
            issued,
            window=config.window,
            leads=config.leads,
            updates=config.updates,
            seed=config.seed,
        )
        _, forecasts, _ = analyze_days(analysis, _days(config, record, free, issued))
        rho = fit_autoregression((record.discharge - np.asarray(free.discharge[1:]))[first:last])
        shown = _all_methods(config, record, free, issued, np.asarray(forecasts), rho)
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
        record = Record(config)
        model = GR4J(forcing=record.forcing, **{name: jnp.asarray(v) for name, v in carry["parameters"].items()})
        free = open_loop(model)
        statistics = ErrorStatistics(**jax.tree.map(jnp.asarray, carry["statistics"]))
        analysis = DischargeAnalysis(model, statistics, jnp.asarray(carry["persistence"]), config.leads)

        # Every lead is scored on the same days, so the first forecasts are issued before the first of them.
        first, last = record.verification
        size = -(-(last - first + max(config.leads)) // CHUNKS)
        start = first - max(config.leads) + index * size
        issued = np.arange(start, min(start + size, last))
        padded = np.minimum(np.arange(start, start + size), last - 1)  # equal shapes: compiled once
        states, forecasts, code = analyze_days(analysis, _days(config, record, free, padded))
        states, forecasts, code = jax.tree.map(lambda a: np.asarray(a)[: len(issued)], (states, forecasts, code))

        shown = _all_methods(config, record, free, issued, forecasts, float(carry["rho"]))
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
        scores = scores_by_lead(dataset, Record(config).verification_dates)
        return Results(scores, {"forecasts": forecast_overview(dataset, scores)}, score_table(dataset, scores))


class Record:
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


def _days(config: FuldaConfiguration, record: Record, states: Any, issued: np.ndarray) -> IssueDay:
    observed = jnp.asarray(record.discharge)
    return issue_days(states, observed, record.forcing, jnp.asarray(issued), config.window, max(config.leads))


def _all_methods(
    config: FuldaConfiguration, record: Record, free: Any, issued: np.ndarray, forecasts: np.ndarray, rho: float
) -> np.ndarray:
    """Return the forecasts of all methods in mm per day, shape (method, issue day, lead); NaN beyond the record."""
    observed, simulated = record.discharge, np.asarray(free.discharge[1:])
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


def _dressing(record: Record, issued: np.ndarray, lead: int, forecast: np.ndarray) -> dict[str, np.ndarray]:
    return Dressing.fit(forecast, record.discharge[issued + lead], PROBABILITIES)._asdict()


def _dataset(
    config: FuldaConfiguration,
    record: Record,
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
