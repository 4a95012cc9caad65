"""Assimilate the discharge of a river and forecast it, with warnings of floods."""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
import pandas as pd
import xarray as xr

from diffassim.experiments.applications.catchment_summary import summarized
from diffassim.experiments.applications.discharge_output import output
from diffassim.experiments.applications.discharge_scores import score_table, scores_by_lead
from diffassim.experiments.applications.discharge_warning_scores import warning_results
from diffassim.experiments.framework.base import Results, Stage, StagedExperiment
from diffassim.experiments.rivers.calibration_stages import (
    calibration_stages,
    left_out_forecasts,
    model_of,
    statistics_of,
)
from diffassim.experiments.rivers.catchment_settings import CatchmentConfiguration
from diffassim.experiments.rivers.discharge_analysis import (
    DischargeAnalysis,
    analyze_in_batches,
)
from diffassim.experiments.rivers.discharge_calibration import open_loop
from diffassim.experiments.rivers.discharge_combination import Combination, fit_persistence
from diffassim.experiments.rivers.discharge_record import Record, record_of
from diffassim.experiments.rivers.discharge_references import (
    PROBABILITIES,
    Dressing,
    autoregression,
    climatology,
    fit_autoregression,
    persistence,
)
from diffassim.experiments.rivers.discharge_warnings import with_exceedance
from diffassim.plotting.discharge import forecast_overview

__all__ = ["METHODS", "Catchment"]

METHODS = ("climatology", "persistence", "open loop", "open loop + AR(1)", "assimilation")
CHUNKS = 5  # of the verification period


class Catchment(StagedExperiment):
    """Calibrate a catchment model, assimilate discharge every day, issue forecasts, and compare.

    Parameters are fitted by variational estimation on the calibration years, the standard deviations in B and R on the
    same years by gradient descent through the analysis: their gradient of the forecasts' mean squared error comes from
    the implicit function theorem. Each of these years is then forecast with a model calibrated on the others; from
    these forecasts come the weights of the combination with the reference, and all predictive distributions (that of
    the assimilation is around the analyses' own forecasts). Observed precipitation and temperature drive the forecasts,
    so that the scores show the effect of the initial state alone. Nothing is fitted to the verification years.
    """

    name = "catchment"
    summary = "4D-Var of the discharge of any catchment: analyses, forecasts, flood warnings and scores."
    configuration: ClassVar[type[CatchmentConfiguration]] = CatchmentConfiguration

    def stages(self, config: CatchmentConfiguration) -> tuple[Stage, ...]:
        """Return the stages: three that fit, one year of the calibration at a time, and the verification years."""
        return (
            *calibration_stages(config),
            Stage("fitting the combination and the predictive distributions", 1, _combine),
            Stage("assimilating", CHUNKS, _assimilate),
        )

    def start(self, config: CatchmentConfiguration) -> dict[str, Any]:
        """Make sure that the record can be used; everything else is in the stages."""
        record_of(config)
        return {}

    def check(self, config: CatchmentConfiguration) -> str:
        """Return what was understood of settings and data."""
        return summarized(config, record_of(config))

    def finish(self, config: CatchmentConfiguration, dataset: xr.Dataset) -> Results:
        """Return scores by method and lead, those of the flood warnings, the table and the figures."""
        record = record_of(config)
        dates = record.verification_dates
        if "exceedance" not in dataset:  # the output of an older version
            dataset = with_exceedance(dataset, record.thresholds)
        scores = scores_by_lead(dataset, dates)
        counted = int(scores.loc[scores["method"] == METHODS[-1], "n"].min())
        warned, warnings, figure = warning_results(dataset, dates, config.warning_probability)
        table = "\n\n".join([score_table(dataset, scores), warnings, *record.notes])
        figures = {"forecasts": forecast_overview(dataset, scores), "warnings": figure}
        return Results(pd.concat([scores, warned], ignore_index=True), figures, table, counted)


def _combine(config: CatchmentConfiguration, carry: dict[str, Any], _: int) -> tuple[dict[str, Any], xr.Dataset]:
    """Fit what the blocks' forecasts decide, each of them issued by a model that was not calibrated on it."""
    record = record_of(config)
    first, last = record.calibration
    left_out = left_out_forecasts(carry)
    observed = np.repeat(record.discharge[first:last, None], len(config.leads), axis=1)
    slopes = fit_persistence(left_out.forecast, left_out.unexplained, observed)
    analyzed = np.maximum(left_out.forecast + slopes * left_out.unexplained, 0)
    combination = Combination.fit(analyzed, left_out.reference, observed)

    issued = np.arange(first, last)[:, None] - np.array(config.leads)
    centers = (*_simple_methods(config, record, issued), left_out.open_loop, left_out.reference, analyzed)
    dressings = {
        method: {
            str(lead): Dressing.fit(forecast[:, i], observed[:, i], PROBABILITIES)._asdict()
            for i, lead in enumerate(config.leads)
        }
        for method, forecast in zip(METHODS, centers, strict=True)
    }
    simulated = np.asarray(open_loop(model_of(record, carry)).discharge[1:])
    fitted = {
        "persistence": slopes.astype(config.dtype),
        "combination": combination._asdict(),
        "rho": np.asarray(fit_autoregression((record.discharge - simulated)[first:last])),
        "dressings": dressings,
    }
    return {name: carry[name] for name in ("parameters", "statistics")} | fitted, xr.Dataset()


def _assimilate(config: CatchmentConfiguration, carry: dict[str, Any], index: int) -> tuple[dict[str, Any], xr.Dataset]:
    """Assimilate and forecast on the days of one part of the verification period."""
    record = record_of(config)
    model = model_of(record, carry)
    free = open_loop(model)
    analysis = DischargeAnalysis(model, statistics_of(carry), jnp.asarray(carry["persistence"]), config.leads)

    # Every lead is scored on the same days, so the first forecasts are issued before the first of them.
    first, last = record.verification
    size = -(-(last - first + max(config.leads)) // CHUNKS)
    start = first - max(config.leads) + index * size
    issued = np.arange(start, min(start + size, last))
    states, forecasts, code = analyze_in_batches(analysis, free, record.discharge, issued, config.window)

    simulated, matrix = np.asarray(free.discharge[1:]), np.repeat(issued[:, None], len(config.leads), axis=1)
    rho = float(carry["rho"])
    reference = np.stack(
        [autoregression(simulated, record.discharge, issued, lead, rho) for lead in config.leads], axis=1
    )
    valid = np.minimum(matrix + np.array(config.leads), len(simulated) - 1)
    inside = matrix + np.array(config.leads) < len(simulated)
    others = (*_simple_methods(config, record, matrix), simulated[valid], reference)
    centers = np.where(inside, np.stack([*others, forecasts]), np.nan)  # of the predictive distributions
    quantiles = np.stack([_quantiles(carry["dressings"][m], rows) for m, rows in zip(METHODS, centers, strict=True)])
    combined = Combination(**carry["combination"])(forecasts, reference)
    shown = np.where(inside, np.stack([*others, combined]), np.nan)
    found = output(record, model, METHODS, config.leads, issued, states, shown, quantiles, code)
    return carry, with_exceedance(found, record.thresholds)


def _quantiles(dressings: dict[str, Any], forecast: np.ndarray) -> np.ndarray:
    """Return the predictive quantiles of one method, shape (n, leads, probabilities)."""
    by_lead = [Dressing(**dressing)(forecast[:, i]) for i, dressing in enumerate(_by_lead(dressings))]
    return np.stack(by_lead, axis=1)


def _by_lead(dressings: dict[str, Any]) -> list[dict[str, Any]]:
    return [dressings[lead] for lead in sorted(dressings, key=int)]


def _simple_methods(config: CatchmentConfiguration, record: Record, issued: np.ndarray) -> list[np.ndarray]:
    """Return the forecasts of climatology and persistence in mm per day, for issue days by lead (n, leads)."""
    known = np.arange(*record.calibration)
    valid = np.minimum(issued + np.array(config.leads), len(record.discharge) - 1)
    seasonal = climatology(record.discharge, record.day_of_year, known, record.day_of_year[valid])
    return [seasonal, persistence(record.discharge, np.maximum(issued, 0))]
