"""The output of a discharge experiment: analyses, forecasts and their quantiles with units, by issue day."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from diffassim.experiments.rivers.discharge_record import Record
from diffassim.experiments.rivers.discharge_references import PROBABILITIES
from diffassim.io.netcdf import to_dataset
from diffassim.models import GR4J

__all__ = ["output"]


def output(
    record: Record,
    model: GR4J,
    methods: tuple[str, ...],
    leads: tuple[int, ...],
    issued: np.ndarray,
    states: Any,
    forecasts: np.ndarray,
    quantiles: np.ndarray,
    code: np.ndarray,
) -> xr.Dataset:
    """Return what was computed on some issue days.

    Args:
        record: the catchment's record.
        model: its model.
        methods: names of the methods.
        leads: of the forecasts, days.
        issued: days on which forecasts were issued, indices into the record, shape (n,).
        states: analyses at the end of these days.
        forecasts: mm per day, shape (method, n, lead); NaN beyond the record.
        quantiles: of the predictive distributions, shape (method, n, lead, probability).
        code: result codes of the minimizations, shape (n,).
    """
    dates = record.table.dates[issued]
    dataset = to_dataset(states, model.variables(), {"time": dates})
    in_m3 = record.table.cubic_meters_per_second
    unit = {"units": "m3 s-1"}
    dataset = dataset.assign_coords(
        method=("method", list(methods)),
        lead=("lead", list(leads), {"units": "days", "long_name": "days after the last assimilated day"}),
        probability=("probability", PROBABILITIES, {"units": "1", "long_name": "probability of non-exceedance"}),
    )
    observed = np.append(record.discharge, np.nan)
    valid = np.minimum(issued[:, None] + np.array(leads), len(record.discharge))
    dataset["observed"] = ("time", in_m3(observed[issued]), {**unit, "long_name": "observed discharge"})
    dataset["verifying"] = (
        ("time", "lead"), in_m3(observed[valid]), {**unit, "long_name": "observed discharge on the forecast day"},
    )  # fmt: skip
    dataset["forecast"] = (
        ("time", "method", "lead"), in_m3(np.moveaxis(forecasts, 0, 1)), {**unit, "long_name": "discharge forecast"},
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
