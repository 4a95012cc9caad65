"""Overview of a Lorenz-96 twin experiment."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from diffassim.plotting.style import COLORS, figure, panel_label, style

__all__ = ["overview"]

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


def _largest(field: xr.DataArray) -> float:
    """Return the largest finite absolute value, above zero: a lost run is drawn up to its loss."""
    values = abs(field.values)
    return float(np.max(values, where=np.isfinite(values), initial=1e-12))
