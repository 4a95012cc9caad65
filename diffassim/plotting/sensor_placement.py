"""Figure of placed sensors: how near the searches come to the best, and predicted beside found errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from diffassim.plotting.style import COLORS, figure, panel_label, style

__all__ = ["overview"]

_LOOKS: dict[str, tuple[str, str]] = {
    "best": ("black", "*"),
    "greedy": ("blue", "o"),
    "exchange": ("sky", "s"),
    "gradient": ("green", "D"),
    "Q-learning": ("orange", "v"),
    "random": ("gray", "x"),
    "spread out": ("purple", "+"),
}


def overview(config: Any, dataset: xr.Dataset, worlds: list[str]) -> Figure:
    """Return the figure.

    Args:
        config: settings, with `worlds` and `leads`.
        dataset: output of the run.
        worlds: names of all worlds, in the order of their numbers.
    """
    with style():
        drawn = figure(10.0, 4.2)
        left, right = drawn.subplots(1, 2, width_ratios=(1.3, 1))
        groups = [(name, lead) for name in config.worlds for lead in config.leads]
        for k, (name, lead) in enumerate(groups):
            own = dataset.isel(time=dataset["world"].values == worlds.index(name)).sel(lead=lead)
            best = own["predicted"].sel({"method": "best"}).values
            for i, method in enumerate(_LOOKS):
                color, mark = _LOOKS[method]
                share = 100 * own["predicted"].sel({"method": method}).values / best
                label = method if k == 0 else None
                if method != "best":
                    x = k + 0.13 * (i - 3.5) + np.linspace(-0.04, 0.04, share.size)
                    left.plot(x, share, mark, color=COLORS[color], markersize=4, alpha=0.8, label=label)
                promised = 100 - 100 * float(own["predicted"].sel({"method": method}).mean())
                found = 100 * float(own["left"].sel({"method": method}).mean())
                right.plot(promised, found, mark, color=COLORS[color], markersize=6, fillstyle="none", label=label)
        left.axhline(95, color=COLORS["red"], linewidth=0.7)
        left.set_xticks(range(len(groups)), [f"{name}\nlead {lead}" for name, lead in groups])
        left.set(ylabel="variance taken away, percent of the best")
        left.legend(ncols=3, loc="center left", bbox_to_anchor=(0, 0.7))
        panel_label(left, "a", "every case; red: 95 percent")
        low, high = (f(*right.get_xlim(), *right.get_ylim()) for f in (min, max))
        right.plot([low, high], [low, high], "-", color=COLORS["gray"], linewidth=0.7)
        right.set(xlabel="variance left as predicted, percent", ylabel="squared error left in the trial, percent")
        right.legend()
        panel_label(right, "b", "means over the cases")
    return drawn
