"""Figure of predicted ground motion and magnitudes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from diffassim.io.ground_motion import GroundMotion
from diffassim.plotting.style import COLORS, figure, panel_label, style

__all__ = ["overview"]

MOST_KILOMETERS = 300.0  # of the map


def overview(dataset: xr.Dataset, scores: pd.DataFrame, table: GroundMotion) -> Figure:
    """Return the figure: one event as a map, errors by method, magnitudes.

    Args:
        dataset: output of the experiment.
        scores: tidy scores.
        table: the records, for the places of the stations.
    """
    with style():
        drawn = figure(8.2, 7.4)
        rows: Any = drawn.subfigures(2, 1, height_ratios=[1.15, 1.0])
        left, right = rows[0].subplots(1, 2, width_ratios=[1.5, 1.0])
        low, last = rows[1].subplots(1, 2)
        _map(rows[0], left, dataset, table)
        _scatter(right, dataset)
        _methods(low, dataset, scores)
        _magnitudes(last, dataset, scores)
    return drawn


def _map(drawn: Any, axes: Any, dataset: xr.Dataset, table: GroundMotion) -> None:
    """Draw the event with most records: what reported, and what was predicted where nothing did."""
    known = np.isfinite(dataset["log_pga"].values)
    event = int(np.argmax(known.sum(axis=1)))
    held = dataset["withheld"].values[event] > 0
    predicted, observed = dataset["prediction"].values[event, -1], dataset["log_pga"].values[event]
    place, source = table.station_place, table.event_place[len(table.events) - dataset.sizes["time"] + event]
    low, high = np.nanpercentile(observed, [2, 98])
    options: dict[str, Any] = {"vmin": low, "vmax": high, "cmap": "viridis"}
    shown, guessed = known[event] & ~held, known[event] & held
    points = axes.scatter(*place[shown].T, c=observed[shown], s=9, **options, linewidths=0, label="reported")
    axes.scatter(
        *place[guessed].T, c=predicted[guessed], s=20, marker="s", edgecolors="black", linewidths=0.4, **options,
        label="withheld, predicted",
    )  # fmt: skip
    axes.plot(*source[:2], marker="*", color=COLORS["red"], markersize=11, linestyle="none", label="epicenter")
    axes.set_xlim(source[0] - MOST_KILOMETERS, source[0] + MOST_KILOMETERS)
    axes.set_ylim(source[1] - MOST_KILOMETERS, source[1] + MOST_KILOMETERS / 2)
    axes.set_aspect("equal")
    axes.set_xlabel("km east")
    axes.set_ylabel("km north")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3, fontsize=7)
    drawn.colorbar(points, ax=axes, shrink=0.7, label="log$_{10}$ PGA, g")
    panel_label(axes, "a", f"M {float(dataset['magnitude'].values[event]):.1f}, {known[event].sum()} stations")


def _scatter(axes: Any, dataset: xr.Dataset) -> None:
    withheld = (dataset["withheld"].values > 0) & np.isfinite(dataset["log_pga"].values)
    observed = dataset["log_pga"].values[withheld]
    for method, color in (("law", COLORS["gray"]), (str(dataset["method"].values[-1]), COLORS["blue"])):
        found = dataset["prediction"].sel({"method": method}).values[withheld]
        axes.plot(observed, found, ".", color=color, markersize=1.5, alpha=0.6, label=method)
    bounds = [observed.min(), observed.max()]
    axes.plot(bounds, bounds, color="black", linewidth=0.7)
    axes.set_xlabel("observed log$_{10}$ PGA, g")
    axes.set_ylabel("predicted")
    axes.legend(markerscale=5)
    panel_label(axes, "b", "withheld stations")


def _methods(axes: Any, dataset: xr.Dataset, scores: pd.DataFrame) -> None:
    chosen = scores[(scores["variable"] == "log10 PGA") & (scores["metric"] == "rmse")]
    names, values = chosen["method"].tolist()[::-1], chosen["value"].to_numpy()[::-1]
    colors = [COLORS["blue"] if name.startswith("Gaussian") else COLORS["gray"] for name in names]
    axes.barh(names, values, color=colors)
    for k, value in enumerate(values):
        axes.text(value, k, f" {value:.3f}", va="center", fontsize=8)
    axes.set_xlim(0, 1.2 * values.max())
    axes.set_xlabel("RMSE of log$_{10}$ PGA")
    panel_label(axes, "c", "error at withheld stations")


def _magnitudes(axes: Any, dataset: xr.Dataset, scores: pd.DataFrame) -> None:
    chosen = scores[(scores["variable"] == "magnitude") & (scores["metric"] == "rmse")]
    for method, color, marker in zip(map(str, dataset["estimator"].values), ("gray", "blue"), "so", strict=True):
        part = chosen[chosen["method"] == method]
        axes.plot(part["lead"], part["value"], marker=marker, color=COLORS[color], label=method)
    none = float(chosen[chosen["method"] == "no station"]["value"].iloc[0])
    axes.axhline(none, color="black", linestyle=":", linewidth=0.9, label="no station")
    axes.set_xscale("log", base=2)
    axes.set_xticks(dataset["nearest"].values, [str(k) for k in dataset["nearest"].values])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("nearest stations used")
    axes.set_ylabel("RMSE of magnitude")
    axes.legend()
    panel_label(axes, "d", "magnitude")
