"""The stages that fit a catchment's model and error statistics, and forecast each calibration year from the others."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from diffassim.experiments.framework.base import Stage
from diffassim.experiments.rivers.discharge_analysis import ErrorStatistics
from diffassim.experiments.rivers.discharge_calibration import calibrate, fit_statistics
from diffassim.experiments.rivers.discharge_folds import BlockForecasts, forecast_block
from diffassim.experiments.rivers.discharge_record import Record, blocks_of_days, record_of
from diffassim.models import GR4J

__all__ = ["calibration_stages", "left_out_forecasts", "model_of", "statistics_of"]


def calibration_stages(config: Any) -> tuple[Stage, ...]:
    """Return the stages; the carry holds `parameters`, `statistics` and `blocks` afterwards.

    Args:
        config: settings of a catchment (`CatchmentConfiguration`).
    """
    blocks = len(blocks_of_days(*record_of(config).calibration))
    return (
        Stage("calibrating the model", 1, _calibrate),
        Stage("fitting the error statistics", 1, _fit_statistics),
        Stage("forecasting each calibration year from the others", blocks, _forecast_block),
    )


def left_out_forecasts(carry: dict[str, Any]) -> BlockForecasts:
    """Return the forecasts of all calibration days, each by a model that was not calibrated on it."""
    blocks = [BlockForecasts(**carry["blocks"][name]) for name in sorted(carry["blocks"])]
    return BlockForecasts(*(np.concatenate(parts) for parts in zip(*blocks, strict=True)))


def model_of(record: Record, carry: dict[str, Any]) -> GR4J:
    """Return the calibrated model, with the forcing of the whole record."""
    return GR4J(forcing=record.forcing, **{name: jnp.asarray(v) for name, v in carry["parameters"].items()})


def statistics_of(carry: dict[str, Any]) -> ErrorStatistics:
    """Return the fitted error statistics."""
    return ErrorStatistics(**jax.tree.map(jnp.asarray, carry["statistics"]))


def _calibrate(config: Any, carry: dict[str, Any], _: int) -> tuple[dict[str, Any], xr.Dataset]:
    record = record_of(config)
    model = calibrate(record.forcing, record.discharge, *record.calibration)
    return carry | {"parameters": {name: getattr(model, name) for name in model.parameters}}, xr.Dataset()


def _fit_statistics(config: Any, carry: dict[str, Any], _: int) -> tuple[dict[str, Any], xr.Dataset]:
    record = record_of(config)
    first, last = record.calibration
    statistics = fit_statistics(
        model_of(record, carry),
        record.discharge,
        np.arange(max(first, config.window - 1), last - max(config.leads)),
        window=config.window,
        leads=config.leads,
        updates=config.updates,
        seed=config.seed,
    )
    return carry | {"statistics": vars(statistics), "blocks": {}}, xr.Dataset()


def _forecast_block(config: Any, carry: dict[str, Any], index: int) -> tuple[dict[str, Any], xr.Dataset]:
    record = record_of(config)
    block = blocks_of_days(*record.calibration)[index]
    found = forecast_block(record, statistics_of(carry), block, window=config.window, leads=config.leads)
    return carry | {"blocks": carry["blocks"] | {f"{index:02d}": found._asdict()}}, xr.Dataset()
