"""Error and spread of an ensemble over time."""

from __future__ import annotations

import xarray as xr
from matplotlib.figure import Figure

from diffassim.plotting.style import COLORS, figure, style

__all__ = ["error_and_spread"]


def error_and_spread(dataset: xr.Dataset, observation_std: float) -> Figure:
    """Return a figure of error and spread before and after the analyses.

    Args:
        dataset: with `background_rmse`, `background_spread`, `analysis_rmse` and `analysis_spread` over time.
        observation_std: standard deviation of the observation errors, drawn for comparison.
    """
    with style():
        drawn = figure(6.0, 3.4)
        axes = drawn.subplots()
        for moment, color in (("background", COLORS["orange"]), ("analysis", COLORS["blue"])):
            for what, line, label in (("rmse", "-", "error"), ("spread", "--", "spread")):
                values = dataset[f"{moment}_{what}"]
                axes.plot(
                    dataset["time"], values, line, color=color, marker=".", markersize=4, label=f"{label}, {moment}"
                )
        axes.axhline(observation_std, color="black", linestyle=":", label="observation error")
        axes.set(xlabel="time", ylabel="root of the mean square", ylim=(0, None))
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        return drawn
