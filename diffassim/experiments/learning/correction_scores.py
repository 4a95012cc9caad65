"""Scores of a learned correction: errors by lead, skill, and the part of the gap that was closed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from diffassim.experiments.framework.base import score_rows

__all__ = ["gap_closed", "score_table", "scores_by_lead"]


def scores_by_lead(dataset: xr.Dataset, window: float) -> pd.DataFrame:
    """Return root-mean-square errors, skill and closed gaps of all methods.

    Lead 0 is the analysis at the window end, a negative lead the one at the window start, a positive lead a forecast.
    The skill is 1 - MSE / variance of the truth's climate. The metric "spread" is the standard deviation of the
    members' own errors.

    Args:
        dataset: output of the experiment without the discarded windows.
        window: length of the window in time units.
    """
    variance = float(dataset["truth"].var())
    squared = _squared_errors(dataset, window)
    issued = dataset["forecast_rmse"].notnull().isel(method=0, lead=0)
    sites = dataset.sizes["site"]
    rows = []
    for method in dataset["method"].values:
        for lead in squared["lead"].values:
            mse = squared.sel({"method": method, "lead": lead})
            n = sites * (int(issued.sum()) if lead > 0 else dataset.sizes["time"] * dataset.sizes["member"])
            rmse = float(np.sqrt(mse.mean()))
            rows.append((str(method), "slow", float(lead), "rmse", rmse, n))
            rows.append((str(method), "slow", float(lead), "spread", float(np.sqrt(mse).std()), n))
            rows.append((str(method), "slow", float(lead), "skill", 1 - rmse**2 / variance, n))
        for lead, closed in gap_closed(squared.mean("member"), method).items():
            rows.append((str(method), "slow", lead, "gap closed", closed, n))
        error = (dataset["learned_tendency"].sel({"method": method}) - dataset["subgrid_tendency"]).values
        if np.isfinite(error).all():
            rows.append((str(method), "tendency", 0.0, "rmse", float(np.sqrt(np.mean(error**2))), error.size))
    return score_rows(rows)


def gap_closed(squared: xr.DataArray, method: str) -> dict[float, float]:
    """Return by lead (uncorrected - method) / (uncorrected - perfect model) of the root-mean-square errors.

    Args:
        squared: mean squared error by method and lead.
        method: name of the method.
    """
    at = {str(m): np.sqrt(squared.sel({"method": m})) for m in squared["method"].values}  # `method` is also a keyword
    gap = at["uncorrected"] - at["perfect model"]
    closed = (at["uncorrected"] - at[method]) / gap
    return dict(zip(map(float, closed["lead"].values), map(float, closed.values), strict=True))


def score_table(dataset: xr.Dataset, scores: pd.DataFrame) -> str:
    """Return errors and closed gaps of all methods beside each other."""
    methods = [str(m) for m in dataset["method"].values]
    leads = sorted(scores.loc[scores["variable"] == "slow", "lead"].unique())
    value = scores[scores["variable"] == "slow"].set_index(["metric", "lead", "method"])["value"].sort_index()
    windows = dataset.sizes["time"] * dataset.sizes["member"]
    lines = [
        f"Root-mean-square error of the slow variables over {windows} windows ({dataset.sizes['member']} members), "
        "and the part",
        "of the gap between the uncorrected and the perfect model that the correction closes",
        "",
        f"  {'':<26}" + "".join(f"{method:>15}" for method in methods) + f"{'gap closed by':>24}",
        f"  {'':<26}" + " " * 15 * len(methods) + f"{'offline':>13}{'online':>11}",
    ]
    for lead in leads:
        name = "analysis, window start" if lead < 0 else "analysis, window end" if lead == 0 else f"forecast, {lead:g}"
        errors = "".join(f"{value['rmse', lead, method]:15.4f}" for method in methods)
        closed = "".join(
            f"{100 * value['gap closed', lead, method]:{width}.0f} %"
            for method, width in (("offline", 11), ("online", 9))
        )
        lines.append(f"  {name:<26}{errors}{closed}")
    std = dataset["background_std"].isel(time=0, member=0)
    tuned = "".join(f"{float(number):15.4f}" for number in std.values)
    lines.append(f"  {'std of slow variables in B':<26}{tuned}")
    tendency = scores[scores["variable"] == "tendency"].set_index("method")["value"]
    residual = "".join(f"{tendency[m]:15.4f}" if m in tendency else f"{'':15}" for m in methods)
    lines.append(f"  {'error of subgrid tendency':<26}{residual}")
    lines.append(f"  climate: standard deviation {float(dataset['truth'].std()):.2f}")
    return "\n".join(line.rstrip() for line in lines)


def _squared_errors(dataset: xr.Dataset, window: float) -> xr.DataArray:
    """Return mean squared errors over (member, method, lead)."""
    end = ((dataset["analysis"] - dataset["truth"]) ** 2).mean(["time", "site"])
    start = ((dataset["analysis_start"] - dataset["truth_start"]) ** 2).mean(["time", "site"])
    forecasts = (dataset["forecast_rmse"] ** 2).mean("time")  # NaN where no forecast was issued
    parts = [start.assign_coords(lead=-window), end.assign_coords(lead=0.0), forecasts]
    return xr.concat(parts, dim="lead", coords="minimal", compat="override")
