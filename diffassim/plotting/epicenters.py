"""Map of located epicenters with their ellipses, and their errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from diffassim.plotting.style import COLORS, figure, panel_label, style

__all__ = ["map_of_epicenters"]

CHI_SQUARE_90 = 4.605170185988091
MARGIN = 4.0  # km around the epicenters


def map_of_epicenters(dataset: xr.Dataset) -> Figure:
    """Return the figure: stations and events, the events enlarged with ellipses of 90 %, errors by method.

    Args:
        dataset: output of the experiment.
    """
    with style():
        drawn = figure(8.2, 6.4)
        rows: Any = drawn.subfigures(2, 1, height_ratios=[1.7, 1.0])
        left, right = rows[0].subplots(1, 2)
        _network(left, dataset)
        _ellipses(right, dataset)
        _errors(rows[1].subplots(), dataset)
    return drawn


def _network(axes: Any, dataset: xr.Dataset) -> None:
    stations = np.nanmean(dataset["stations"].values, axis=0)
    axes.plot(*stations.T, marker="^", linestyle="none", color=COLORS["gray"], markersize=4, label="station")
    axes.plot(*dataset["catalog"].values.T, marker="x", linestyle="none", color="black", label="catalog")
    near = np.abs(stations - dataset["catalog"].values.mean(axis=0)).max(axis=1) < 130
    low, high = np.nanmin(stations[near], axis=0) - 5, np.nanmax(stations[near], axis=0) + 5
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])
    axes.set_aspect("equal")
    axes.set_xlabel("km east")
    axes.set_ylabel("km north")
    axes.legend(loc="lower left")
    panel_label(axes, "a", "stations")


def _ellipses(axes: Any, dataset: xr.Dataset) -> None:
    turn = np.linspace(0, 2 * np.pi, 100)
    circle = np.sqrt(CHI_SQUARE_90) * np.stack([np.cos(turn), np.sin(turn)])
    found, catalog = dataset["place"].values[:, -1], dataset["catalog"].values
    for place, truth, covariance in zip(found, catalog, dataset["covariance"].values, strict=True):
        if not np.isfinite(covariance).all():
            continue
        ellipse = place[:, None] + np.linalg.cholesky(covariance) @ circle
        axes.plot(*ellipse, color=COLORS["blue"], linewidth=0.7, alpha=0.7)
        axes.plot(*np.stack([place, truth]).T, color=COLORS["gray"], linewidth=0.7)
    axes.plot(*found.T, "o", color=COLORS["blue"], markersize=4, label="variational, 90 % ellipse")
    axes.plot(*catalog.T, "x", color="black", label="catalog")
    middle = catalog.mean(axis=0)
    half = np.abs(catalog - middle).max() + MARGIN
    axes.set_xlim(middle[0] - half, middle[0] + half)
    axes.set_ylim(middle[1] - half, middle[1] + half)
    axes.set_aspect("equal")
    axes.set_xlabel("km east")
    axes.legend(loc="lower left")
    panel_label(axes, "b", "each event located without its own catalog entry")


def _errors(axes: Any, dataset: xr.Dataset) -> None:
    methods = [str(m) for m in dataset["method"].values]
    colors = [COLORS[c] for c in ("gray", "orange", "sky", "blue")]
    for j, (method, color) in enumerate(zip(methods, colors, strict=True)):
        error = np.sort(dataset["error"].values[:, j][np.isfinite(dataset["error"].values[:, j])])
        share = (np.arange(len(error)) + 1) / len(error)
        axes.step(error, share, where="post", color=color, label=f"{method}, median {np.median(error):.2f} km")
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("distance of the epicenter from the catalog's, km")
    axes.set_ylabel("share of events")
    axes.legend(loc="lower right")
    panel_label(axes, "c", "errors")
