"""Fronts of two objectives and learning curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from diffassim.plotting.learning import draw_learning_curves
from diffassim.plotting.style import COLORS, figure, panel_label, style

__all__ = ["overview"]

_SHOWN = ("blue", "orange", "green", "red", "purple", "sky", "gray")
_MARKS = "osD^vP*"


def overview(
    optimum: Any, fronts: Mapping[str, Any], curves: Mapping[str, Any], best: Any, weights: list[float]
) -> Figure:
    """Return a figure of the fronts, and of what the agents lose while they learn.

    Args:
        optimum: exact mean rewards, shape (weights, 2).
        fronts: mean rewards by agent, shape (seeds, weights, 2).
        curves: mean rewards of the updates by agent, shape (seeds, weights, parts).
        best: weighted reward of the optimum, shape (weights,).
        weights: of the first objective.
    """
    with style():
        drawn = figure(10.0, 4.4)
        left, right = drawn.subplots(1, 2)
        order = np.argsort(optimum[:, 0])
        left.plot(*optimum[order].T, color=COLORS["black"], linewidth=1.0, label="optimum", zorder=1)
        for k, (name, found) in enumerate(fronts.items()):
            mean = found.mean(0)
            error = np.abs(found - mean).max(0)
            left.errorbar(
                mean[:, 0], mean[:, 1], xerr=error[:, 0], yerr=error[:, 1], fmt=_MARKS[k % len(_MARKS)],
                color=COLORS[_SHOWN[k % len(_SHOWN)]], markersize=4, elinewidth=0.7, fillstyle="none", label=name,
            )  # fmt: skip
        left.set(xlabel="mean reward: no flood", ylabel="mean reward: demand met")
        low, high = optimum.min(0), optimum.max(0)
        margin = 0.35 * (high - low)  # what lies far below the optimum is in the table, and not drawn
        left.set(xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1]))
        left.legend(loc="lower left")
        panel_label(left, "a", f"fronts for {len(weights)} weights; bars: all seeds")

        lost = {name: (best[None, :, None] - found).mean(1) for name, found in curves.items()}  # over the weights
        colors = {name: COLORS[_SHOWN[k % len(_SHOWN)]] for k, name in enumerate(fronts)}
        draw_learning_curves(right, lost, optimum=0.0, colors=colors)
        right.set_yscale("symlog", linthresh=1e-2)
        right.set(ylabel="weighted reward below the optimum", ylim=(-1e-3, None))
        panel_label(right, "b", "while learning; bands: 95 % of the mean")
    return drawn
