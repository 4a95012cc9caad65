"""Scores of analyses and forecasts of fields, tidy and as text."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from diffassim.experiments.framework.base import score_rows

__all__ = ["score_fields", "score_table"]

VARIABLE = "sea surface temperature"


def score_fields(dataset: xr.Dataset) -> pd.DataFrame:
    """Return root-mean-square errors over all times, points and networks, and coverage; lead 0 is the analysis.

    Args:
        dataset: output of the experiment.
    """
    rows = []
    count = dataset.sizes["time"] * dataset.sizes["draw"] * int(dataset.attrs["cells"])
    for method in dataset["analysis_method"].values:
        errors = dataset["analysis_error"].sel({"analysis_method": method}).values
        rows += _rows(str(method), 0, errors, count)
    for method in dataset["method"].values:
        for step in dataset["step"].values:
            errors = dataset["forecast_error"].sel({"method": method, "step": step}).values
            rows += _rows(str(method), int(step), errors, count)
    for own in dataset["own"].values:
        for lead in dataset["lead"].values:
            if lead or own == "assimilation":  # complete fields have no error
                value = float(dataset["inside"].sel(own=own, lead=lead).mean())
                rows.append((str(own), VARIABLE, int(lead), "coverage_90", value, count))
    return score_rows(rows)


def _rows(method: str, lead: int, errors: np.ndarray, count: int) -> list[tuple[str, str, int, str, float, int]]:
    """Return the error of all networks, and the least and the largest of one."""
    each = np.sqrt(errors.mean(axis=0))
    values = {"rmse": float(np.sqrt(errors.mean())), "rmse_least": float(each.min()), "rmse_most": float(each.max())}
    return [(method, VARIABLE, lead, metric, value, count) for metric, value in values.items()]


def score_table(dataset: xr.Dataset, scores: pd.DataFrame) -> str:
    """Return the scores as text.

    Args:
        dataset: output of the experiment.
        scores: tidy scores.
    """
    value = scores.set_index(["method", "lead", "metric"])["value"]
    months, draws, points = (dataset.sizes[name] for name in ("time", "draw", "point"))
    lines = [
        f"{months} months after the training period, {draws} networks of {points} points: root-mean-square error, K",
        f"{'analysis':<34}{'mean':>8}{'least':>8}{'most':>8}",
    ]
    for method in map(str, dataset["analysis_method"].values):
        shown = [value[method, 0, metric] for metric in ("rmse", "rmse_least", "rmse_most")]
        lines.append(f"{method:<34}" + "".join(f"{each:8.3f}" for each in shown))
    steps = [int(step) for step in dataset["step"].values]
    lines.append(f"{'forecast, months ahead':<34}" + "".join(f"{step:8d}" for step in steps))
    for method in map(str, dataset["method"].values):
        lines.append(f"{method:<34}" + "".join(f"{value[method, step, 'rmse']:8.3f}" for step in steps))
    lines.append("share of values in the 90 % intervals (0: analysis)")
    leads = [int(lead) for lead in dataset["lead"].values]
    lines.append(f"{'months ahead':<34}" + "".join(f"{lead:8d}" for lead in leads))
    for own in map(str, dataset["own"].values):
        shown = [value.get((own, lead, "coverage_90"), np.nan) for lead in leads]
        lines.append(f"{own:<34}" + "".join(f"{each:8.3f}" if np.isfinite(each) else f"{'-':>8}" for each in shown))
    lines += [
        f"chosen on left-out parts of the training period: {dataset.attrs['settings']}; "
        f"length of optimal interpolation {dataset.attrs['interpolation_length']:g}",
        "persistence starts from complete fields; assimilation from the points alone, but where said otherwise",
    ]
    return "\n".join(lines)
