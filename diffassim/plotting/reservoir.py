"""A regulated lake: levels and releases of a year, returns of all years, learning curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from diffassim.plotting.learning import draw_learning_curves
from diffassim.plotting.style import COLORS, figure, panel_label, style

__all__ = ["overview"]

_SHOWN = ("orange", "blue", "green", "red", "purple", "sky")
FEW = 5  # policies that are drawn by name


def overview(
    record: Any, basin: Any, judged: Mapping[str, Any], curves: Mapping[str, Any], baseline: str, bound: str
) -> Figure:  # fmt: skip
    """Return a figure of what the policies do.

    Levels and releases are those of the year whose return under the rule curve is in the middle of all.

    Args:
        record: years with inflow and demand.
        basin: the lake.
        judged: by name of the policy: total (years,), level and release (years, days).
        curves: mean rewards of a day while learning, shape (trainings, parts), by name.
        baseline: name of the rule that all are compared with.
        bound: name of what knows the year in advance.
    """
    others = sorted((name for name in judged if name not in (baseline, bound)), key=lambda k: -judged[k].total.mean())
    best: dict[str, str] = {}
    for name in others:  # the best of each kind
        best.setdefault(name.split(",")[0], name)
    shown = [baseline, *list(best.values())[: FEW - 1]]
    colors = {name: COLORS[_SHOWN[k % len(_SHOWN)]] for k, name in enumerate(shown)} | {bound: COLORS["black"]}
    base = judged[baseline].total
    year = int(np.argsort(base)[len(base) // 2])
    day = np.arange(1, record.inflow.shape[1] + 1)
    with style():
        drawn = figure(11.0, 7.2)
        (levels, returns), (releases, learning) = drawn.subplots(2, 2)
        for name in (bound, *shown):
            line: dict[str, Any] = {"color": colors[name], "linewidth": 1.1, "label": name}
            levels.plot(day, judged[name].level[year], **line)
            releases.plot(day, judged[name].release[year], **line)
        for edge in (float(basin.flood), float(basin.drought)):
            levels.axhline(edge, color=COLORS["gray"], linewidth=0.8, linestyle="--")
        levels.set(xlabel="day of the year", ylabel="level (m)")
        panel_label(levels, "a", f"levels of {record.years[year]}; dashed: flood and drought")
        releases.plot(day, record.inflow[year], color=COLORS["sky"], linewidth=0.7, zorder=0, label="inflow")
        demand = record.demand[year] + float(basin.ecological)
        releases.plot(day, demand, color=COLORS["gray"], linestyle=":", label="demand and ecological flow")
        top = max(float(judged[name].release[year].max()) for name in (bound, *shown))
        releases.set(xlabel="day of the year", ylabel="flow (m$^3$/s)", ylim=(0, 1.25 * max(top, float(demand.max()))))
        releases.legend(ncols=2, loc="upper left", fontsize=6.5)
        panel_label(releases, "b", f"releases of {record.years[year]}")

        order = np.argsort(base)
        for name in (bound, *shown):
            returns.plot(-judged[name].total[order], "." if name == bound else "-", color=colors[name], label=name)
        returns.set(xlabel="years in the order of the rule curve's cost", ylabel="cost of a year", yscale="log")
        returns.legend(fontsize=7)
        panel_label(returns, "c", "costs of all years, none of which the policy was fitted to")

        costs = {name: -found * len(day) for name, found in curves.items()}
        shades = {name: colors.get(name, COLORS[_SHOWN[k % len(_SHOWN)]]) for k, name in enumerate(costs)}
        draw_learning_curves(learning, costs, colors=shades)
        learning.set(ylabel="cost of a year", yscale="log")
        panel_label(learning, "d", "while learning, in its own years")
    return drawn
