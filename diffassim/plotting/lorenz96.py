"""Overview of a Lorenz-96 twin experiment."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from diffassim.plotting.impact import draw_impact
from diffassim.plotting.innovations import draw_departures
from diffassim.plotting.searches import draw_cost_history
from diffassim.plotting.style import COLORS, figure, panel_label, style

__all__ = ["overview", "search"]

_COLORS = {"analysis": COLORS["blue"], "background": COLORS["orange"], "free run": COLORS["gray"]}
_SHOWN = 400  # time rows in the space-time panels


def overview(dataset: xr.Dataset, scores: pd.DataFrame, observation_std: float) -> Figure:
    """Return a figure of the truth, the analysis error, the error over time, and the error by lead.

    Args:
        dataset: output of the experiment, with `truth`, `analysis`, `background`, `free_run` over (time, site).
        scores: tidy scores with the metric `rmse`.
        observation_std: standard deviation of the observation errors, drawn for comparison.
    """
    with style():
        drawn = figure(8.0, 6.0)
        (top, middle), (bottom, right) = drawn.subplots(2, 2)
        end = dataset.isel(time=slice(-_SHOWN, None))
        error = end["analysis"] - end["truth"]
        for axes, field, limit, cmap in (
            (top, end["truth"], _largest(end["truth"]), "RdBu_r"),
            (middle, error, _largest(error), "PuOr_r"),
        ):
            mesh = axes.pcolormesh(
                np.arange(field.sizes["site"]), end["time"], field, cmap=cmap, vmin=-limit, vmax=limit, rasterized=True
            )
            drawn.colorbar(mesh, ax=axes)
            axes.set(xlabel="site", ylabel="time")
            axes.grid(False)
        panel_label(top, "a", "truth")
        panel_label(middle, "b", "analysis - truth")

        for name, label in (("free_run", "free run"), ("background", "background"), ("analysis", "analysis")):
            rmse = np.sqrt(((dataset[name] - dataset["truth"]) ** 2).mean("site"))
            bottom.plot(dataset["time"], rmse, color=_COLORS[label], label=label, linewidth=0.8)
        bottom.axhline(observation_std, color="black", linestyle=":", label="observation error")
        bottom.set(xlabel="time", ylabel="root-mean-square error", yscale="log")
        bottom.set_ylim(bottom=bottom.get_ylim()[0] / 3)  # room for the legend
        bottom.legend(loc="lower center", ncols=2)
        panel_label(bottom, "c", "error over time")

        for label in ("background", "analysis"):
            rows = scores[scores["method"] == label]
            right.plot(rows["lead"], rows["value"], color=_COLORS[label], label=label, marker="o", markersize=3)
        right.axhline(observation_std, color="black", linestyle=":", label="observation error")
        right.axvline(0.0, color="black", linewidth=0.5)
        right.set(xlabel="lead after the last observation", ylabel="root-mean-square error", ylim=(0, None))
        right.legend()
        panel_label(right, "d", "error by lead")
    return drawn


def search(dataset: xr.Dataset, window: int, observation_std: float, impact: Any = None) -> Figure:
    """Return a figure of the cost by iteration, of departures of observations, and of what these were worth.

    Args:
        dataset: whole windows of the output.
        window: their length, steps.
        observation_std: standard deviation of the observation errors.
        impact: `steps`, `impact`, `beneficial`, `change` and `windows` of the observation times in a window; or None.
    """
    observed = np.isfinite(dataset["observation"].values).sum(axis=1).reshape(-1, window).sum(axis=1)
    departures = {
        f"from {name}": ((dataset["observation"] - dataset[name]) / observation_std).values
        for name in ("background", "analysis")
    }
    with style():
        drawn = figure(8.4, 3.6 if impact is None else 6.4)
        parts: Any = drawn.subfigures(1 if impact is None else 2, 1, squeeze=False)[:, 0]
        left, right = parts[0].subplots(1, 2, width_ratios=[1, 1.5])
        draw_cost_history(left, dataset["cost"].values[window - 1 :: window], observed)
        panel_label(left, "a", "cost of the windows")
        draw_departures(right, dataset["time"], departures, expected=None)
        right.axhline(1.0, color="black", linestyle=":", linewidth=0.9)
        right.set(xlabel="time", ylabel="over the observation error")
        panel_label(right, "b", "departures of the observations")
        if impact is not None:
            axes = parts[1].subplots()
            names = [f"step {step} of {window}" for step in impact.steps]
            draw_impact(axes, names, impact.impact, impact.beneficial, "impact on the squared error of the forecast")
            total = f"{impact.impact.sum():.1f} in all, the error changed by {impact.change:.1f}"
            panel_label(axes, "c", f"observation times, {impact.windows} windows, share of good values: {total}")
    return drawn


def _largest(field: xr.DataArray) -> float:
    """Return the largest finite absolute value, above zero: a lost run is drawn up to its loss."""
    values = abs(field.values)
    return float(np.max(values, where=np.isfinite(values), initial=1e-12))
