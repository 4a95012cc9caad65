"""Figure of how sure a network's forecasts may be of themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    """Return panels for each variable: histograms of probabilities, claimed and real errors, both over time.

    Args:
        found: for every variable and some of its leads `variable`, `lead`, `valid`, `probability`, `independent`,
            `spread` and `departures`, as the experiment makes them.
        unit: of the leads, short.
    """
    groups = [(name, list(rows)) for name, rows in groupby(found, key=lambda each: each.variable)][:MOST]
    letters = iter("abcdefghijklmnopqrstuvwx")
    with style():
        drawn = figure(8.4, 4.7 * len(groups))
        parts: Any = drawn.subfigures(len(groups), 1, squeeze=False)[:, 0]
        for part, (name, rows) in zip(parts, groups, strict=True):
            upper, lower = part.subfigures(2, 1, height_ratios=[1.35, 1])
            _one_time(upper.subplots(1, 3), name.replace("_", " "), rows, unit, letters)
            axes = lower.subplots()
            draw_departures(axes, rows[0].valid, {"": rows[0].departures})
            axes.xaxis.set_major_formatter(mdates.ConciseDateFormatter(axes.xaxis.get_major_locator()))
            axes.set_ylabel("error / claimed")
            panel_label(axes, next(letters), f"errors over claimed ones in time, {rows[0].lead:g} {unit} ahead")
    return drawn


def _one_time(panels: Any, title: str, rows: Sequence[Any], unit: str, letters: Iterator[str]) -> None:
    """Draw the histograms of the shortest and the longest lead, and errors in bins of the claimed one."""
    for axes, each in zip(panels[:2], (rows[0], rows[-1]), strict=True):
        draw_pit_histogram(axes, each.probability, label=f"{each.lead:g} {unit} ahead", count=each.independent)
        panel_label(axes, next(letters), title)
    for each, (color, marker) in zip(rows, LOOKS, strict=False):
        draw_spread_error(panels[2], each.spread, f"{each.lead:g} {unit}", marker, color=COLORS[color])
    panels[2].set(xlabel="claimed error", ylabel="real error")
    panels[2].legend(loc="upper left")
    panel_label(panels[2], next(letters), "claimed and real errors")
