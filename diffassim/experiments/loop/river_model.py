"""The model of a river's loop: catchment parameters, the assimilation's errors, and a regression of what is left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pandas as pd

from diffassim.diagnostics import crps
from diffassim.experiments.loop.river_record import LoopRecord
from diffassim.experiments.rivers.discharge_analysis import (
    DischargeAnalysis,
    ErrorStatistics,
    analyze_in_batches,
)
from diffassim.experiments.rivers.discharge_calibration import open_loop
from diffassim.experiments.rivers.discharge_references import PROBABILITIES, Dressing
from diffassim.models import GR4J

__all__ = ["FEATURES", "Analyzed", "analyzed", "fitted_correction", "fitted_dressings", "forecast_crps", "raw_features"]

FEATURES = ("level", "change", "rain", "season_sin", "season_cos")
RAIN_DAYS = 10
PRIOR_DAYS = 50.0  # that the incumbent's weights of the correction count as
ERROR, ERROR_SHARE = 0.1, 0.2  # of a forecast, mm per day and as a share: the weight of a day in the regression


class Analyzed(NamedTuple):
    """Forecasts from analyses, by issue day.

    Args:
        issued: days, indices into the record, shape (n,).
        forecast: of the model alone, mm per day, shape (n, lead).
        unexplained: observation minus analysis on the issue day, zero where missing, shape (n,).
        simulated: the model without assimilation, shape (size,).
    """

    issued: np.ndarray
    forecast: np.ndarray
    unexplained: np.ndarray
    simulated: np.ndarray


def raw_features(record: LoopRecord) -> pd.DataFrame:
    """Return what is known on each day without a model: flow, its change, rain before, season."""
    days = len(record.dates)
    flow = pd.Series(record.discharge[:days], record.dates)
    level = np.log(flow.ffill().fillna(flow.mean()).fillna(1.0) + 0.1)
    rain = pd.Series(np.asarray(record.forcing.precipitation)[:days], record.dates)
    angle = 2 * np.pi * record.dates.day_of_year.to_numpy() / 365.25
    columns = (level, level.diff().fillna(0.0), np.log1p(rain.rolling(RAIN_DAYS, min_periods=1).sum()))
    values = np.column_stack([*columns, np.sin(angle), np.cos(angle)])
    return pd.DataFrame(values, index=pd.DatetimeIndex(record.dates, name="time"), columns=list(FEATURES))


def analyzed(config: Any, model: Mapping[str, Any], record: LoopRecord, issued: np.ndarray) -> Analyzed:
    """Assimilate on each of some days and forecast from there, with the model alone."""
    dtype = record.discharge.dtype
    catchment = GR4J(
        forcing=record.forcing, **{name: jnp.asarray(value, dtype) for name, value in model["parameters"].items()}
    )
    statistics = ErrorStatistics(**{name: jnp.asarray(value, dtype) for name, value in model["statistics"].items()})
    states = open_loop(catchment)
    analysis = DischargeAnalysis(catchment, statistics, jnp.zeros(len(config.leads), dtype), config.leads)
    found, forecast, _ = analyze_in_batches(analysis, states, record.discharge, issued, config.window)
    unexplained = np.nan_to_num(record.discharge[issued] - np.asarray(found.discharge))
    return Analyzed(issued, np.asarray(forecast), unexplained, np.asarray(states.discharge[1:]))


def predictors(forecast: np.ndarray, unexplained: np.ndarray, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the error's scale (n,) and the predictors (n, p) of the scaled error of one lead's forecast."""
    scale = ERROR + ERROR_SHARE * forecast
    return scale, np.column_stack([unexplained / scale, np.ones(len(scale)), features])


def fitted_correction(
    found: Analyzed, features: np.ndarray, observed: np.ndarray, start: np.ndarray
) -> np.ndarray:  # fmt: skip
    r"""Return the weights of the correction by lead: ridge regression towards those that it starts from.

    .. math:: \min_w \sum_t \big(e_t / s_t - x_t^\top w\big)^2 + 50\,|w - w_0|^2

    Args:
        found: forecasts.
        features: scaled, of the issue days, shape (n, feature).
        observed: on the forecast days, NaN where missing, shape (n, lead).
        start: w_0, shape (lead, feature + 2).
    """
    rows = []
    for k in range(observed.shape[1]):
        scale, X = predictors(found.forecast[:, k], found.unexplained, features)
        error = (observed[:, k] - found.forecast[:, k]) / scale
        known = np.isfinite(error)
        X, error = X[known], error[known]
        ridge = PRIOR_DAYS * np.eye(X.shape[1])
        rows.append(np.linalg.solve(X.T @ X + ridge, X.T @ error + ridge @ start[k]))
    return np.array(rows)


def corrected(found: Analyzed, features: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the corrected forecasts, mm per day, shape (n, lead); never below zero."""
    columns = []
    for k, w in enumerate(weights):
        scale, X = predictors(found.forecast[:, k], found.unexplained, features)
        columns.append(np.maximum(found.forecast[:, k] + scale * (X @ w), 0))
    return np.stack(columns, axis=1)


def fitted_dressings(forecast: np.ndarray, observed: np.ndarray) -> list[dict[str, Any]]:
    """Return the predictive distribution of each lead, as plain numbers."""
    return [
        {**Dressing.fit(f, y, PROBABILITIES)._asdict(), "probabilities": None}
        for f, y in zip(forecast.T, observed.T, strict=True)
    ]


def dressing_of(plain: Mapping[str, Any]) -> Dressing:
    """Return the predictive distribution that plain numbers describe."""
    arrays = {name: np.asarray(plain[name]) for name in ("level", "scale", "quantiles")}
    return Dressing(**arrays, probabilities=PROBABILITIES)


def forecast_crps(dressings: Any, forecast: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Return the score of the predictive quantiles as an ensemble, shape (n, lead); NaN where nothing was observed."""
    columns = []
    for k, plain in enumerate(dressings):
        quantiles = dressing_of(plain)(forecast[:, k])
        columns.append(np.asarray(crps(jnp.asarray(quantiles.T), jnp.asarray(observed[:, k]), fair=False)))
    return np.stack(columns, axis=1)
