"""How minimizations went: the cost by iteration, drawn into axes that are given."""

from __future__ import annotations

from typing import Any

import numpy as np

from diffassim.plotting.style import COLORS

__all__ = ["draw_cost_history"]

DRAWN = 60  # single searches, at most


def draw_cost_history(axes: Any, costs: Any, values: Any = None) -> None:
    """Draw J at the start of each iteration: single searches thin, their median thick, where they ended as dots.

    Args:
        axes: of Matplotlib.
        costs: `Minimum.cost_history` of one search or of many, shape (..., iterations); NaN after the last.
        values: number of observed values (of each search), over which 2 J is drawn: about one at the minimum if B and
            R are right. Without it J itself is drawn.
    """
    J = np.asarray(costs, float)
    scale = 1.0 if values is None else 2 / np.maximum(np.asarray(values, float), 1)[..., None]
    J = (J * scale).reshape(-1, J.shape[-1])
    J = J[np.isfinite(J).any(axis=1)]
    if not len(J):
        axes.set_axis_off()
        return
    last = np.isfinite(J).sum(axis=1) - 1
    steps = np.arange(last.max() + 1)
    for row in J[:: -(-len(J) // DRAWN)]:
        axes.plot(steps, row[: steps.size], color=COLORS["gray"], linewidth=0.6, alpha=0.6)
    axes.plot(last, J[np.arange(len(J)), last], "o", color=COLORS["blue"], markersize=3, label="end of a search")
    if len(J) > 1:
        held = np.where(np.isfinite(J), J, J[np.arange(len(J)), last][:, None])[:, : steps.size]
        axes.plot(steps, np.median(held, axis=0), color=COLORS["blue"], label=f"median of {len(J)} searches")
    if values is not None:
        axes.axhline(1.0, color="black", linestyle=":", linewidth=0.9, label="expected")
    axes.set(xlabel="iteration", ylabel="J" if values is None else "2 J over observed values")
    shown = J[np.isfinite(J)]
    if 0 < 10 * shown.min() < shown.max():
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="best")
