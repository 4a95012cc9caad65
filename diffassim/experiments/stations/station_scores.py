"""Verification of analyses and forecasts at stations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from diffassim.experiments.framework.base import score_rows
from diffassim.experiments.stations.record import SHORT, lead_unit

__all__ = ["score_stations", "score_table"]

FEW = 12  # stations, up to which each has scores of its own
TABLED = 4  # stations, up to which they are in the table
PLACES = {"withheld": "station", "unseen": "place"}


def score_stations(dataset: xr.Dataset, start: pd.Timestamp, roots: tuple[bool, ...]) -> pd.DataFrame:
    """Return tidy scores on what was observed from a time on; all methods of a kind on the same values.

    Args:
        dataset: output of the experiment.
        start: first time that counts.
        roots: for each variable, whether it is scored on the scale of square roots as well.

    Returns:
        Rows of rmse, mae and bias; of coverage_90 and width_90 for the assimilation; rmse_root for roots. The variable
        is named with its station where there are few, and "withheld" or "unseen" where the analyses are.
    """
    start = start.tz_convert("UTC").tz_localize(None) if start.tzinfo is not None else start
    rows: list[tuple[str, str, Any, str, float, int]] = []
    for name, root in zip(_variables(dataset), roots, strict=True):
        observed = dataset[f"{name}_observed"].values
        times = pd.DatetimeIndex(dataset["time"].values)
        step = times[1] - times[0]
        unit = lead_unit(step)[1]
        for k, lead in enumerate(dataset["lead"].values):
            ahead = round(lead * unit / step)
            issued = slice(0, len(times) - ahead)
            valid = (times[issued] + ahead * step) >= start
            y = np.where(valid[:, None], observed[ahead:], np.nan)
            predicted = dataset[f"{name}_forecast"].values[issued, :, k]
            bounds = dataset[f"{name}_lower"].values[issued, k], dataset[f"{name}_upper"].values[issued, k]
            methods = list(map(str, dataset["method"].values))
            rows += _rows(name, float(lead), methods, predicted, y, bounds, dataset["station"].values, root)
        now = times >= start
        for kind, axis in PLACES.items():
            if f"{name}_{kind}" in dataset:
                y = dataset[f"{name}_unseen_observed"].values if kind == "unseen" else observed
                y = np.where(now[:, None], y, np.nan)
                predicted = dataset[f"{name}_{kind}"].values
                bounds = dataset[f"{name}_{kind}_lower"].values, dataset[f"{name}_{kind}_upper"].values
                methods = list(map(str, dataset[f"{kind}_method"].values))
                rows += _rows(f"{name}, {kind}", 0.0, methods, predicted, y, bounds, dataset[axis].values, root)
    return score_rows(rows)


def _variables(dataset: xr.Dataset) -> list[str]:
    return [str(name).removesuffix("_forecast") for name in dataset.data_vars if str(name).endswith("_forecast")]


def _rows(
    name: str, lead: float, methods: list[str], predicted: np.ndarray, y: np.ndarray, bounds: Any, places: Any,
    root: bool,
) -> list[tuple[str, str, Any, str, float, int]]:  # fmt: skip
    """Return the scores of methods, shape (time, method, place), on the values that all of them have."""
    counted = np.isfinite(y) & np.isfinite(predicted).all(1)
    groups = [(name, np.ones(y.shape[1], bool))]
    if y.shape[1] <= FEW:
        groups += [(f"{name} at {place}", np.arange(y.shape[1]) == i) for i, place in enumerate(places)]
    rows = []
    for label, chosen in groups:
        at = counted & chosen[None]
        n = int(at.sum())
        if not n:
            continue
        for m, method in enumerate(methods):
            e = predicted[:, m][at] - y[at]
            found = {"rmse": np.sqrt(np.mean(e**2)), "mae": np.mean(np.abs(e)), "bias": np.mean(e)}
            if root:
                r = np.sqrt(np.maximum(predicted[:, m][at], 0)) - np.sqrt(np.maximum(y[at], 0))
                found["rmse_root"] = np.sqrt(np.mean(r**2))
            if method == "assimilation":
                low, high = (each[at] for each in bounds)
                found["coverage_90"], found["width_90"] = np.mean((y[at] >= low) & (y[at] <= high)), np.mean(high - low)
            rows += [(method, label, lead, metric, float(value), n) for metric, value in found.items()]
    return rows


def score_table(dataset: xr.Dataset, scores: pd.DataFrame) -> str:
    """Return the scores as text: forecasts by lead, analyses of what was withheld; the first variable by station."""
    first = scores["variable"].iloc[0]
    unit = SHORT[dataset["lead"].attrs["units"]]
    parts = []
    for label in scores["variable"].unique():
        single = " at " in label
        if single and (not label.startswith((f"{first} at", f"{first}, ")) or dataset.sizes["station"] > TABLED):
            continue
        some = scores[scores["variable"] == label]
        for metric, title in (("rmse", "root-mean-square error"), ("rmse_root", "the same of square roots"),
                              ("coverage_90", "share inside the 90 % interval")):  # fmt: skip
            chosen = some[some["metric"] == metric]
            if len(chosen) and not (single and metric == "coverage_90"):
                parts.append(_block(f"{label}: {title}", chosen, unit, metric))
    return "\n\n".join(parts) + "\n"


def _block(title: str, rows: pd.DataFrame, unit: str, metric: str) -> str:
    leads = list(dict.fromkeys(rows["lead"]))
    table = rows.pivot_table(index="method", columns="lead", values="value", sort=False)
    head = "" if leads == [0.0] else "".join(f"{f'+{lead:g} {unit}':>9}" for lead in leads)
    lines = [f"{title:<58}{head}   ({int(rows['n'].max())} values)"]
    for method in dict.fromkeys(rows["method"]):
        lines.append(f"  {method:<56}" + "".join(f"{table.loc[method, lead]:9.3f}" for lead in leads))
    return "\n".join(lines)
