"""Figure of how sure a network's forecasts may be of themselves."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import matplotlib.dates as mdates
from matplotlib.figure import Figure

from diffassim.plotting.ensembles import draw_pit_histogram, draw_spread_error
from diffassim.plotting.innovations import draw_departures
from diffassim.plotting.style import COLORS, figure, panel_label, style

__all__ = ["network_reliability"]

MOST = 6  # variables
LOOKS = (("blue", "o"), ("orange", "s"))


def network_reliability(found: Sequence[Any], unit: str) -> Figure:
    """Return a row of panels for each variable: histograms of probabilities, claimed and real errors, both over time.

    Args:
        found: for every variable and some of its leads `variable`, `lead`, `valid`, `probability`, `independent`,
            `spread` and `departures`, as the experiment makes them.
        unit: of the leads, short.
    """
    groups = [(name, list(rows)) for name, rows in groupby(found, key=lambda each: each.variable)][:MOST]
    letters = iter("abcdefghijklmnopqrstuvwx")
    with style():
        drawn = figure(11.0, 2.7 * len(groups))
        grid: Any = drawn.subplots(len(groups), 4, width_ratios=[1, 1, 1, 1.7], squeeze=False)
        for axes, (name, rows) in zip(grid, groups, strict=True):
            title = name.replace("_", " ")
            for panel, each in zip(axes[:2], (rows[0], rows[-1]), strict=True):
                label = f"{each.lead:g} {unit} ahead"
                draw_pit_histogram(panel, each.probability, label=label, count=each.independent)
                panel_label(panel, next(letters), title)
            for each, (color, marker) in zip(rows, LOOKS, strict=False):
                draw_spread_error(axes[2], each.spread, f"{each.lead:g} {unit}", marker, color=COLORS[color])
            axes[2].set(xlabel="claimed error", ylabel="real error")
            axes[2].legend(loc="upper left")
            panel_label(axes[2], next(letters), "in bins of the claimed error")
            draw_departures(axes[3], rows[0].valid, {"": rows[0].departures})
            axes[3].xaxis.set_major_formatter(mdates.ConciseDateFormatter(axes[3].xaxis.get_major_locator()))
            axes[3].set_ylabel("error over the claimed one")
            panel_label(axes[3], next(letters), f"over time, {rows[0].lead:g} {unit} ahead")
    return drawn
