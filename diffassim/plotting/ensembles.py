"""Figures of the diagnostics of ensembles, each drawn into axes that are given."""

from __future__ import annotations

from typing import Any

import numpy as np

from diffassim.plotting.style import COLORS

__all__ = ["draw_coverage", "draw_exceedance", "draw_rank_histogram", "draw_spread_error"]


def draw_rank_histogram(axes: Any, frequencies: Any, label: str | None = None) -> None:
    """Draw frequencies of ranks, 1 where the histogram is flat.

    Args:
        axes: of Matplotlib.
        frequencies: `diagnostics.rank_histogram(...).frequencies`, shape (N + 1,).
        label: note in a corner.
    """
    frequencies = np.asarray(frequencies)
    axes.bar(np.arange(frequencies.size), frequencies, width=1.0, color=COLORS["sky"], edgecolor="white", linewidth=0.4)
    axes.axhline(1.0, color="black", linestyle=":", linewidth=0.9)
    axes.set(xlabel="members below the value", ylabel="frequency / flat", xlim=(-0.5, frequencies.size - 0.5))
    axes.set_ylim(0, max(1.5, 1.15 * frequencies.max()))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(visible=False, axis="x")
    if label is not None:
        axes.text(0.97, 0.95, label, ha="right", va="top", transform=axes.transAxes, fontsize="small")


def draw_spread_error(axes: Any, found: Any, label: str | None = None) -> None:
    """Draw the error of the mean in bins of the spread; a reliable ensemble lies on the diagonal.

    Args:
        axes: of Matplotlib.
        found: result of `diagnostics.spread_error`.
        label: for a legend.
    """
    axes.plot(found.spread, found.error, marker="o", markersize=3, label=label)
    axes.axline((0, 0), slope=1, color="black", linestyle=":", linewidth=0.9)
    drawn = (line for line in axes.lines if line.get_marker() == "o")  # the diagonals have none
    top = 1.1 * max(float(np.max(line.get_xydata())) for line in drawn)
    axes.set(xlabel="spread", ylabel="error of the mean", xlim=(0, top), ylim=(0, top), aspect="equal")


def draw_coverage(axes: Any, found: Any, label: str | None = None) -> None:
    """Draw how often values lie in central intervals; a reliable ensemble lies on the diagonal.

    Args:
        axes: of Matplotlib.
        found: result of `diagnostics.interval_coverage`.
        label: for a legend.
    """
    axes.plot([0, 1], [0, 1], color="black", linestyle=":", linewidth=0.9)
    axes.plot(found.nominal, found.observed, marker="o", markersize=3, label=label)
    axes.set(xlabel="probability of the interval", ylabel="share of values inside", xlim=(0, 1), ylim=(0, 1))
    axes.set_aspect("equal")


def draw_exceedance(axes: Any, found: Any, label: str | None = None) -> None:
    """Draw the frequency of an event by its forecast probability, with bars for how often that was given.

    Args:
        axes: of Matplotlib.
        found: result of `diagnostics.exceedance_reliability`.
        label: for a legend.
    """
    share = np.asarray(found.count) / np.sum(found.count)
    width = 0.8 / (share.size - 1)
    axes.bar(found.probability, share, width=width, color=COLORS["gray"], alpha=0.35, label="share of forecasts")
    axes.plot([0, 1], [0, 1], color="black", linestyle=":", linewidth=0.9)
    given = np.asarray(found.count) > 0
    axes.plot(found.probability[given], found.frequency[given], marker="o", markersize=3, label=label)
    axes.set(xlabel="forecast probability", ylabel="observed frequency", xlim=(-width, 1 + width), ylim=(0, 1.02))
