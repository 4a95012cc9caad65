"""Overview of an ensemble filter on Lorenz-96."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from diffassim.plotting.ensembles import draw_rank_histogram, draw_spread_error
from diffassim.plotting.innovations import draw_departures
from diffassim.plotting.style import COLORS, figure, panel_label, style

__all__ = ["overview", "reliability"]

_SHOWN = 200  # analyses in the space-time panels


def overview(dataset: xr.Dataset, frequencies: Any, observation_std: float, independent: float | None = None) -> Figure:
    """Return a figure of the analysis error, the spread, both over time, and the rank histogram.

    Args:
        dataset: output of the experiment.
        frequencies: of the ranks of the truth, 1 where flat; None where no analysis counts.
        observation_std: standard deviation of the observation errors, drawn for comparison.
        independent: number of independent values among the ranks, for their band.
    """
    with style():
        drawn = figure(8.0, 6.0)
        (top, middle), (bottom, right) = drawn.subplots(2, 2)
        end = dataset.isel(time=slice(-_SHOWN, None))
        error, spread = abs(end["analysis"] - end["truth"]), end["analysis_spread"]
        limit = float(np.max(spread.values, where=np.isfinite(spread.values), initial=1e-12))
        for axes, field in ((top, error), (middle, spread)):
            mesh = axes.pcolormesh(
                np.arange(field.sizes["site"]), end["time"], field, cmap="viridis", vmin=0, vmax=limit, rasterized=True
            )
            drawn.colorbar(mesh, ax=axes)
            axes.set(xlabel="site", ylabel="time")
            axes.grid(visible=False)
        panel_label(top, "a", "|analysis - truth|")
        panel_label(middle, "b", "spread of the analysis")

        root = lambda field: np.sqrt((field**2).mean("site", skipna=False))  # noqa: E731
        curves = {
            "free run": (dataset["free_run"] - dataset["truth"], COLORS["gray"]),
            "background": (dataset["background"] - dataset["truth"], COLORS["orange"]),
            "analysis": (dataset["analysis"] - dataset["truth"], COLORS["blue"]),
            "spread of the analysis": (dataset["analysis_spread"], COLORS["green"]),
        }
        for label, (field, color) in curves.items():
            bottom.plot(dataset["time"], root(field), color=color, label=label, linewidth=0.8)
        bottom.axhline(observation_std, color="black", linestyle=":", label="observation error")
        bottom.set(xlabel="time", ylabel="root-mean-square error", yscale="log")
        bottom.set_ylim(bottom=bottom.get_ylim()[0] / 3)  # room for the legend
        bottom.legend(loc="lower center", ncols=2)
        panel_label(bottom, "c", "error and spread over time")

        if frequencies is None:
            right.set_axis_off()
        else:
            draw_rank_histogram(right, frequencies, count=independent)
        panel_label(right, "d", "ranks of the truth among the members")
    return drawn


def reliability(times: Any, found: dict[str, Any], innovations: Any) -> Figure:
    """Return a figure of spread beside error, and of the innovations over time.

    Args:
        times: of the analyses that count.
        found: `SpreadError` of background and analysis.
        innovations: over their expected standard deviation, shape (time, site); NaN where nothing was observed.
    """
    with style():
        drawn = figure(8.4, 3.6)
        left, right = drawn.subplots(1, 2, width_ratios=[1, 1.7])
        for (name, each), (color, marker) in zip(found.items(), (("orange", "s"), ("blue", "o")), strict=True):
            draw_spread_error(left, each, f"{name} ({each.ratio:.2f})", marker, color=COLORS[color])
        left.legend(loc="upper left", title="claimed / real error", title_fontsize=8)
        panel_label(left, "a", "spread and error")
        draw_departures(right, times, {"": innovations})
        right.set(xlabel="time", ylabel="over spread and observation error")
        panel_label(right, "b", "innovations of successive times, and where 90 % lie")
    return drawn
