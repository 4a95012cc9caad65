"""Figures of the diagnostics of ensembles, each drawn into axes that are given."""

from __future__ import annotations

from typing import Any

import numpy as np

from diffassim.core.normal import NORMAL_90
from diffassim.plotting.style import COLORS

__all__ = ["draw_coverage", "draw_exceedance", "draw_pit_histogram", "draw_rank_histogram", "draw_spread_error"]


def draw_rank_histogram(axes: Any, frequencies: Any, label: str | None = None, count: float | None = None) -> None:
    """Draw frequencies of ranks, 1 where the histogram is flat.

    Args:
        axes: of Matplotlib.
        frequencies: `diagnostics.rank_histogram(...).frequencies`, shape (N + 1,).
        label: note in a corner.
        count: number of independent values; with it, a band where nine of ten bars of a reliable ensemble lie. Values
            near each other are not independent: the band is too narrow for their number.
    """
    frequencies = np.asarray(frequencies)
    _flat_bars(axes, np.arange(frequencies.size + 1) - 0.5, frequencies, label, count)
    axes.set(xlabel="members below the value")
    axes.xaxis.get_major_locator().set_params(integer=True)


def draw_pit_histogram(
    axes: Any, probabilities: Any, bins: int = 10, label: str | None = None, count: float | None = None
) -> None:
    """Draw the histogram of the forecast distribution function at what was observed, 1 where it is flat.

    It is the rank histogram of forecasts that are distributions: a bowl tells of too narrow ones, a hump of too wide
    ones, a slope of a bias.

    Args:
        axes: of Matplotlib.
        probabilities: values of the distribution functions (probability integral transform), any shape; NaN is missing.
        bins: number of bars.
        label: note in a corner.
        count: number of independent values, for the band (see `draw_rank_histogram`); default: all of them.
    """
    known = np.asarray(probabilities).ravel()
    known = known[np.isfinite(known)]
    counts, edges = np.histogram(known, bins, (0.0, 1.0))
    flat = counts * bins / max(known.size, 1)
    _flat_bars(axes, edges, flat, label, known.size if count is None else count)
    axes.set(xlabel="forecast probability of less")


def _flat_bars(axes: Any, edges: np.ndarray, frequencies: np.ndarray, label: str | None, count: float | None) -> None:
    """Draw bars over the frequency of a flat histogram, with the band of their sampling where it is known."""
    axes.bar(
        edges[:-1], frequencies, np.diff(edges), align="edge", color=COLORS["sky"], edgecolor="white", linewidth=0.4
    )
    top = frequencies.max(initial=0.0)
    if count:
        half = NORMAL_90 * np.sqrt((frequencies.size - 1) / count)  # of a binomial law, over its mean
        axes.axhspan(max(1 - half, 0), 1 + half, color=COLORS["black"], alpha=0.22, linewidth=0, zorder=3)
        top = max(top, 1 + half)
    axes.axhline(1.0, color="black", linestyle=":", linewidth=0.9, zorder=4)
    axes.set(ylabel="frequency / flat", xlim=(edges[0], edges[-1]))
    axes.set_ylim(0, max(1.5, 1.15 * top))
    axes.grid(visible=False, axis="x")
    if label is not None:
        axes.text(
            0.97, 0.95, label, ha="right", va="top", transform=axes.transAxes, fontsize="small", zorder=5,
            bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 1.5},
        )  # fmt: skip


def draw_spread_error(axes: Any, found: Any, label: str | None = None, marker: str = "o", **options: Any) -> None:
    """Draw the error of the mean in bins of the spread; a reliable ensemble lies on the diagonal.

    Args:
        axes: of Matplotlib.
        found: result of `diagnostics.spread_error` or `diagnostics.binned_spread_error`.
        label: for a legend.
        marker: of the bins.
        **options: of the line, such as its color.
    """
    axes.plot(found.spread, found.error, marker=marker, markersize=3.5, label=label, **options)
    axes.axline((0, 0), slope=1, color="black", linestyle=":", linewidth=0.9)
    drawn = (line for line in axes.lines if line.get_marker() not in ("None", None))  # the diagonals have none
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
