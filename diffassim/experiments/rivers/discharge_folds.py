"""Forecasts of days that a catchment's model was not calibrated on, for everything that is fitted to forecasts."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from diffassim.experiments.rivers.discharge_analysis import (
    DischargeAnalysis,
    ErrorStatistics,
    analyze_in_batches,
)
from diffassim.experiments.rivers.discharge_calibration import calibrate, open_loop
from diffassim.experiments.rivers.discharge_record import Record
from diffassim.experiments.rivers.discharge_references import autoregression, fit_autoregression

__all__ = ["BlockForecasts", "forecast_block"]


class BlockForecasts(NamedTuple):
    """Forecasts by the day that they are for, each of shape (days, leads), mm per day; NaN where none can be issued.

    Args:
        open_loop: the model without assimilation (the same for every lead).
        reference: open loop with AR(1) correction.
        forecast: from the analyses alone.
        unexplained: observation minus analysis on the issue day, zero where missing.
    """

    open_loop: np.ndarray
    reference: np.ndarray
    forecast: np.ndarray
    unexplained: np.ndarray


def forecast_block(
    record: Record, statistics: ErrorStatistics, block: tuple[int, int], *, window: int, leads: tuple[int, ...]
) -> BlockForecasts:
    """Forecast one block of calibration days with model and AR(1) coefficient from the others.

    Args:
        record: the catchment's record.
        statistics: error statistics of the assimilation.
        block: first day, and day after the last one, indices into the record.
        window: days in a window.
        leads: of the forecasts, days.
    """
    first, last = record.calibration
    others = record.discharge.copy()
    others[slice(*block)] = np.nan
    model = calibrate(record.forcing, others, first, last)
    states = open_loop(model)
    simulated = np.asarray(states.discharge[1:])
    rho = fit_autoregression((others - simulated)[first:last])
    analysis = DischargeAnalysis(model, statistics, jnp.zeros(len(leads), others.dtype), leads)

    valid = np.arange(*block)
    start = max(block[0] - max(leads), window - 1)
    issued = np.arange(start, block[1] - min(leads))
    found, forecasts, _ = analyze_in_batches(analysis, states, record.discharge, issued, window)
    left = np.nan_to_num(record.discharge[issued] - np.asarray(found.discharge))
    columns: list[list[Any]] = []
    for i, lead in enumerate(leads):
        place = valid - lead - start
        possible, place = place >= 0, np.maximum(place, 0)
        reference = autoregression(simulated, record.discharge, issued[place], lead, rho)
        columns.append(
            [np.where(possible, c, np.nan) for c in (simulated[valid], reference, forecasts[place, i], left[place])]
        )
    return BlockForecasts(*(np.stack(column, axis=1) for column in zip(*columns, strict=True)))
