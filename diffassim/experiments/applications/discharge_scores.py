"""Verification of discharge forecasts by method and lead."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from scores.continuous import kge, nse, rmse
from scores.probability import crps_for_ensemble

from diffassim.core.results import Result
from diffassim.experiments.framework.base import score_rows

__all__ = ["score_table", "scores_by_lead"]

INTERVAL = 0.9  # probability that the claimed interval should hold


def scores_by_lead(dataset: xr.Dataset, dates: Any) -> pd.DataFrame:
    """Return tidy scores; for every method and lead on the same days.

    Args:
        dataset: `forecast`, `quantile` (time, method, lead, ...) and `verifying` (time, lead); time is the day on which
            a forecast was issued.
        dates: days on which a forecast may be scored; those without an observation are left out.

    Returns:
        Rows of nse, kge, rmse, crps, coverage and width of the central 90 % interval.
    """
    rows = []
    outside = (1 - INTERVAL) / 2
    days = pd.DatetimeIndex(dates)
    for lead in dataset["lead"].values:
        at_lead = dataset.sel(lead=lead)
        valid = pd.DatetimeIndex(at_lead["time"].values) + pd.Timedelta(days=int(lead))
        counted = np.asarray(valid.isin(days)) & np.isfinite(at_lead["verifying"].values)
        at_lead = at_lead.isel(time=np.flatnonzero(counted))
        observed = at_lead["verifying"]
        for method in dataset["method"].values:
            forecast = at_lead["forecast"].sel({"method": method})
            quantile = at_lead["quantile"].sel({"method": method}).astype(float)
            lower = quantile.sel(probability=outside, method="nearest")
            upper = quantile.sel(probability=1 - outside, method="nearest")
            values = {
                "nse": nse(forecast, observed),
                "kge": _kge(forecast, observed),
                "rmse": rmse(forecast, observed),
                "crps": crps_for_ensemble(quantile, observed, "probability", method="ecdf"),
                "coverage_90": ((observed >= lower) & (observed <= upper)).mean(),
                "width_90": (upper - lower).mean(),
            }
            rows += [
                (str(method), "discharge", int(lead), metric, float(value), int(observed.size))
                for metric, value in values.items()
            ]
    return score_rows(rows)


def score_table(dataset: xr.Dataset, scores: pd.DataFrame) -> str:
    """Return the scores as text, all methods beside each other."""
    methods, leads = list(dataset["method"].values), list(dataset["lead"].values)
    count = int(scores["n"].max())
    parts = []
    for metric, title, digits in (
        ("nse", "Nash-Sutcliffe efficiency", 4),
        ("kge", "Kling-Gupta efficiency", 4),
        ("crps", "continuous ranked probability score, m3/s", 2),
        ("coverage_90", "share of days inside the 90 % interval", 3),
        ("width_90", "mean width of the 90 % interval, m3/s", 1),
    ):
        chosen = scores[scores["metric"] == metric].pivot_table(index="method", columns="lead", values="value")
        lines = [f"{title:<44}" + "".join(f"{f'+{lead} d':>9}" for lead in leads)]
        lines += [f"  {m:<42}" + "".join(f"{chosen.loc[m, lead]:9.{digits}f}" for lead in leads) for m in methods]
        parts.append("\n".join(lines))
    failed = int((dataset["result"] != Result.CONVERGED).sum())
    ended = f"{failed} of {dataset.sizes['time']} minimizations ended without convergence; their forecasts count"
    return f"Forecasts verified on {count} days; {ended}\n\n" + "\n\n".join(parts)


def _kge(forecast: xr.DataArray, observed: xr.DataArray) -> float:
    # undefined (not zero) for a forecast without variability
    return float(kge(forecast, observed)) if float(forecast.std()) > 0 else float("nan")
