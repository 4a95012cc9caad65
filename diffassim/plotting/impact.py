"""What observations are worth: impacts by kind, drawn into axes that are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from diffassim.plotting.style import COLORS

__all__ = ["draw_impact"]


def draw_impact(
    axes: Any, names: Sequence[str], impact: Any, beneficial: Any = None, label: str = "change of the score"
) -> None:
    """Draw the impact of each kind of observations as a bar; to the left (below zero) it made the score better.

    Args:
        axes: of Matplotlib.
        names: of the kinds: streams, stations, hours.
        impact: sum of the impacts of each, such as `ObservationImpact.by_stream`.
        beneficial: share of the values of each that made the score better, written beside the bars; NaN: not known.
        label: of the axis, with its unit.
    """
    total = np.asarray(impact, float)
    order = np.argsort(-total)
    for place, k in enumerate(order):
        worse = total[k] > 0
        axes.barh(
            place, total[k], color=COLORS["orange" if worse else "blue"], height=0.7, edgecolor="black",
            linewidth=0.4, hatch="///" if worse else None,
        )  # fmt: skip
        if beneficial is not None and np.isfinite(share := float(np.asarray(beneficial)[k])):
            axes.annotate(
                f"{100 * share:.0f} %", (max(total[k], 0.0), place), (3, 0), textcoords="offset points", va="center",
                fontsize=7,
            )  # fmt: skip
    axes.axvline(0.0, color="black", linewidth=0.7)
    axes.set_yticks(range(len(order)), [names[k] for k in order])
    axes.margins(x=0.14)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(label)
