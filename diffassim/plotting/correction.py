"""Overview of a learned correction."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from diffassim.plotting.style import COLORS, figure, panel_label, style

__all__ = ["correction_overview"]

_COLORS = {
    "uncorrected": COLORS["gray"],
    "offline": COLORS["orange"],
    "online": COLORS["blue"],
    "perfect model": COLORS["green"],
}
_MARKERS = {"uncorrected": "s", "offline": "^", "online": "o", "perfect model": "D"}
_TICKS = {"uncorrected": "un-\ncorrected", "perfect model": "perfect\nmodel"}
_BINS = 24  # of the conditional means
_LEAST = 20  # values in a bin


def correction_overview(dataset: xr.Dataset, scores: pd.DataFrame) -> Figure:
    """Return a figure of the analysis error by method, the forecast error by lead, and the learned tendency.

    Args:
        dataset: output of the experiment without the discarded windows.
        scores: tidy scores with the metrics `rmse` and `spread`.
    """
    with style():
        drawn = figure(10.0, 3.6)
        left, middle, right = drawn.subplots(1, 3, width_ratios=(1.05, 1.1, 1.1))
        slow = scores[scores["variable"] == "slow"]
        _analysis_errors(left, slow)
        _forecast_errors(middle, slow, float(dataset["truth"].std()))
        _tendencies(right, dataset)
        panel_label(left, "a", "analysis error")
        panel_label(middle, "b", "forecast error")
        panel_label(right, "c", "subgrid tendency")
    return drawn


def _analysis_errors(axes: Any, scores: pd.DataFrame) -> None:
    value = scores.set_index(["metric", "lead", "method"])["value"].sort_index()
    start = scores["lead"].min()
    for x, (method, color) in enumerate(_COLORS.items()):
        for lead, fill, offset in ((start, "white", -0.15), (0.0, color, 0.15)):
            rmse, spread = (value[metric, lead, method] for metric in ("rmse", "spread"))
            axes.errorbar(
                x + offset, rmse, yerr=spread, color=color, marker=_MARKERS[method], markerfacecolor=fill,
                linestyle="none", capsize=2, markersize=6,
            )  # fmt: skip
    axes.plot([], [], "ko", markerfacecolor="white", label="window start")
    axes.plot([], [], "ko", label="window end")
    axes.set_xticks(range(len(_COLORS)), [_TICKS.get(name, name) for name in _COLORS])
    axes.grid(axis="x", visible=False)
    axes.set(ylabel="root-mean-square error", ylim=(0, None), xlim=(-0.5, len(_COLORS) - 0.5))
    axes.legend(loc="upper right")


def _forecast_errors(axes: Any, scores: pd.DataFrame, climate: float) -> None:
    for method, color in _COLORS.items():
        rows = scores[(scores["method"] == method) & (scores["metric"] == "rmse") & (scores["lead"] >= 0)]
        axes.plot(rows["lead"], rows["value"], color=color, marker=_MARKERS[method], markersize=3.5, label=method)
    for factor, name in ((1.0, "climate"), (2**0.5, r"$\sqrt{2}\,$climate")):
        axes.axhline(factor * climate, color="black", linestyle=":", linewidth=0.8)
        axes.annotate(name, (0, factor * climate), xytext=(2, 2), textcoords="offset points", fontsize=7, va="bottom")
    axes.set(xlabel="lead (time units)", ylabel="root-mean-square error", yscale="log")
    axes.legend(loc="lower right")


def _tendencies(axes: Any, dataset: xr.Dataset) -> None:
    x, true = dataset["truth"].values.ravel(), dataset["subgrid_tendency"].values.ravel()
    low, high = np.quantile(true, [0.0005, 0.9995])
    axes.hexbin(
        x, true, gridsize=45, extent=(x.min(), x.max(), low, high), cmap="Greys", bins="log", mincnt=1, linewidths=0,
        rasterized=True,
    )  # fmt: skip
    lowest, highest = np.quantile(x, [0.001, 0.999])
    edges = np.linspace(lowest, highest, _BINS + 1)
    centers = 0.5 * (edges[1:] + edges[:-1])
    axes.plot(centers, _binned(x, true, edges), color="black", linewidth=2.2, label="truth, mean")
    for method in ("offline", "online"):
        learned = dataset["learned_tendency"].sel({"method": method}).values.ravel()
        axes.plot(
            centers, _binned(x, learned, edges), color=_COLORS[method], marker=_MARKERS[method], markersize=3.5,
            label=f"{method}, mean",
        )  # fmt: skip
    axes.set(xlabel="slow variable", ylabel="tendency", xlim=(x.min(), x.max()), ylim=(low, high))
    axes.grid(visible=False)
    axes.legend(loc="upper right")


def _binned(x: np.ndarray, values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    place = np.digitize(x, edges) - 1
    means = [values[place == k].mean() if np.sum(place == k) >= _LEAST else np.nan for k in range(len(edges) - 1)]
    return np.asarray(means)
