"""Are the forecasts of a network as sure as they may be: what its figure of reliability shows."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from diffassim.core.normal import NORMAL_90
from diffassim.diagnostics import SpreadError, binned_spread_error, independent_count
from diffassim.experiments.stations.record import lead_unit

__all__ = ["LeadReliability", "reliability_of"]

BARS = 10


class LeadReliability(NamedTuple):
    """Forecasts of one variable and lead beside what was observed.

    Args:
        variable: its name.
        lead: in the unit of the output.
        valid: times that the forecasts are for, shape (time,).
        probability: of a lower value than the one observed, shape (time, station); NaN is missing.
        independent: number of independent values among these, as `independent_count` estimates it.
        spread: claimed beside real errors.
        departures: errors over the claimed standard deviation, shape (time, station).
    """

    variable: str
    lead: float
    valid: pd.DatetimeIndex
    probability: np.ndarray
    independent: float
    spread: SpreadError
    departures: np.ndarray


def reliability_of(dataset: xr.Dataset, start: pd.Timestamp) -> list[LeadReliability]:
    """Return the reliability of the forecasts of every variable, of the shortest and of the longest lead.

    The claimed standard deviation is the width of the central 90 % over 3.29, which is exact for normal forecasts.

    Args:
        dataset: output of the experiment.
        start: first time that counts.

    Returns:
        Variables in their order, those without any verified value left out; the shortest lead first.
    """
    start = start.tz_convert("UTC").tz_localize(None) if start.tzinfo is not None else start
    times = pd.DatetimeIndex(dataset["time"].values)
    step, unit = times[1] - times[0], lead_unit(times[1] - times[0])[1]
    leads = dataset["lead"].values
    found = []
    for name in (str(each).removesuffix("_probability") for each in dataset if str(each).endswith("_probability")):
        for k in sorted({0, len(leads) - 1}):
            ahead = round(leads[k] * unit / step)
            issued = slice(0, max(len(times) - ahead, 0))
            valid = times[issued] + ahead * step
            counted = np.flatnonzero(valid >= start)
            rows = dataset.isel(time=counted, lead=k)
            error = dataset[f"{name}_observed"].values[counted + ahead] - rows[f"{name}_forecast"].values[:, -1]
            claimed = (rows[f"{name}_upper"].values - rows[f"{name}_lower"].values) / (2 * NORMAL_90)
            error = np.where(np.isfinite(rows[f"{name}_probability"].values) & (claimed > 0), error, np.nan)
            if np.isfinite(error).any():
                found.append(_one(name, float(leads[k]), valid[counted], rows, error, claimed))
    return found


def _one(name: str, lead: float, valid: Any, rows: xr.Dataset, error: np.ndarray, claimed: np.ndarray) -> Any:
    p = np.where(np.isfinite(error), rows[f"{name}_probability"].values, np.nan)
    bars = np.where(np.isfinite(p), np.minimum(np.nan_to_num(p) * BARS, BARS - 1), -1).astype(int)
    departures = np.divide(error, claimed, out=np.full(error.shape, np.nan), where=claimed > 0)
    return LeadReliability(
        name, lead, valid, p, independent_count(bars, BARS), binned_spread_error(claimed, error), departures
    )
