"""Figure of fields from a few points: a month's truth, analysis and error, and the errors of all methods."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from diffassim.plotting.style import COLORS, figure, panel_label, style

__all__ = ["field_overview"]

_LOOK = {
    "climatology": (COLORS["yellow"], "v", "-"),
    "persistence of monthly anomalies": (COLORS["gray"], "^", ":"),
    "persistence": (COLORS["gray"], ">", "-"),
    "damped persistence": (COLORS["sky"], "s", "-"),
    "assimilation": (COLORS["blue"], "o", "-"),
    "assimilation of complete fields": (COLORS["black"], "D", "--"),
}
_LAND = "0.7"


def field_overview(dataset: xr.Dataset, scores: pd.DataFrame) -> Figure:
    """Return the figure: maps of the month with the largest departures, and scores.

    Args:
        dataset: output of the experiment.
        scores: tidy scores.
    """
    departures = dataset["observed"] - dataset["climatology"]
    month = int(np.argmax((departures**2).mean(("latitude", "longitude")).values))
    when = f"{pd.Timestamp(dataset['time'].values[month]):%B %Y}"
    truth = departures.isel(time=month)
    found = (dataset["analysis"] - dataset["climatology"]).isel(time=month)
    most = float(np.ceil(2 * np.nanquantile(np.abs(truth), 0.995)) / 2)
    error = np.abs(found - truth)
    std = dataset["analysis_std"].isel(time=month)
    top = float(np.nanquantile(np.stack([error, std, dataset["rmse_map"]]), 0.99))
    networks = f"{dataset.sizes['draw']} networks"
    panels: tuple[tuple[Any, str, str, tuple[float, float]], ...] = (
        (truth, "a", f"departure from the mean cycle, {when}: truth", (-most, most)),
        (found, "b", f"analysis from {dataset.sizes['point']} points", (-most, most)),
        (error, "c", "size of its error", (0.0, top)),
        (std, "d", "standard deviation that it expects", (0.0, top)),
        (dataset["rmse_map"], "e", f"root-mean-square error of all months and {networks}", (0.0, top)),
    )
    with style():
        drawn = figure(8.2, 10.2)
        parts: Any = drawn.subfigures(2, 1, height_ratios=[2.4, 1.0])
        upper, lower = parts
        for axes, (field, letter, title, limits) in zip(upper.subplots(5, 1, sharex=True), panels, strict=True):
            _map(axes, dataset, field, limits, letter != "e")
            panel_label(axes, letter, title)
        axes.set_xlabel("longitude, degrees east")
        left, middle, right = lower.subplots(1, 3, width_ratios=[1.15, 1.0, 0.8])
        _analyses(left, scores)
        _by_lead(middle, scores)
        _coverage(right, scores)
        handles, labels = middle.get_legend_handles_labels()
        lower.legend(handles, labels, loc="outside lower center", ncols=3)
    return drawn


def _map(axes: Any, dataset: xr.Dataset, field: xr.DataArray, limits: tuple[float, float], points: bool) -> None:
    low, high = limits
    x, y = dataset["longitude"].values, dataset["latitude"].values
    drawn = axes.pcolormesh(
        x, y, field.values, cmap="cividis", vmin=low, vmax=high, shading="nearest", rasterized=True
    )  # fmt: skip
    axes.patch.set(facecolor="white", hatch="/////", edgecolor=_LAND, linewidth=0.0)  # land, also in print
    if points:
        places = dataset["point_longitude"], dataset["point_latitude"]
        axes.plot(*places, "o", color="black", markersize=3, markerfacecolor="white", markeredgewidth=0.8)
    axes.grid(False)
    axes.set_ylabel("latitude")
    axes.figure.colorbar(drawn, ax=axes, label="K", extend="both" if low < 0 else "max", pad=0.01)


def _analyses(axes: Any, scores: pd.DataFrame) -> None:
    chosen = scores[scores["lead"] == 0].pivot(index="method", columns="metric", values="value")
    names = [name for name in dict.fromkeys(scores.loc[scores["lead"] == 0, "method"]) if name in chosen.index]
    chosen = chosen.loc[names]
    colors = [COLORS["blue"] if name == "assimilation" else COLORS["gray"] for name in names]
    spread = np.stack([chosen["rmse"] - chosen["rmse_least"], chosen["rmse_most"] - chosen["rmse"]])
    spread = np.maximum(spread, 0.0)  # all networks alike, but for rounding
    axes.barh(names, chosen["rmse"], color=colors, height=0.6, xerr=spread, error_kw={"linewidth": 1, "capsize": 2})
    for y, (value, most) in enumerate(zip(chosen["rmse"], chosen["rmse_most"], strict=True)):
        axes.text(most, y, f" {value:.3f}", va="center", fontsize=8)
    axes.margins(x=0.25)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("root-mean-square error, K")
    panel_label(axes, "f", "analyses from the points")


def _by_lead(axes: Any, scores: pd.DataFrame) -> None:
    chosen = scores[(scores["lead"] > 0) & (scores["metric"] == "rmse")]
    for method, rows in chosen.groupby("method", sort=False):
        color, marker, line = _LOOK[str(method)]
        axes.plot(rows["lead"], rows["value"], line, color=color, marker=marker, markersize=4, label=method)
    axes.set(xlabel="lead, months", ylabel="root-mean-square error, K")
    axes.set_ylim(bottom=0)
    axes.set_xticks(sorted(set(chosen["lead"])))
    panel_label(axes, "g", "forecasts")


def _coverage(axes: Any, scores: pd.DataFrame) -> None:
    axes.axhspan(0.85, 0.95, color=COLORS["gray"], alpha=0.2, linewidth=0)
    axes.axhline(0.9, color="black", linewidth=0.8, linestyle="--")
    for method, rows in scores[scores["metric"] == "coverage_90"].groupby("method", sort=False):
        color, marker, line = _LOOK[str(method)]
        axes.plot(rows["lead"], rows["value"], line, color=color, marker=marker, markersize=4)
    lowest = float(scores.loc[scores["metric"] == "coverage_90", "value"].min())
    axes.set(xlabel="lead, months", ylabel="share of values inside", ylim=(min(0.75, lowest - 0.05), 1.0))
    axes.set_xticks(sorted(set(scores["lead"])))
    panel_label(axes, "h", "90 % intervals")
