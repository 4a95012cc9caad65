"""Figure of an inversion of seismograms: ground, uncertainty, sources, records."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from diffassim.plotting.style import COLORS, figure, panel_label, style

__all__ = ["overview"]

TRACES = 7


def overview(dataset: xr.Dataset) -> Figure:
    """Return the figure of true, estimated and uncertain velocity, of the sources, and of some seismograms.

    Args:
        dataset: output of the experiment.
    """
    with style():
        drawn = figure(8.2, 6.6)
        rows: Any = drawn.subfigures(2, 1, height_ratios=[1.25, 1.0])
        left, middle = rows[0].subplots(2, 2, sharex=True, sharey=True)
        _velocities(drawn, rows[0], (*left, *middle), dataset)
        places, records = rows[1].subplots(1, 2, width_ratios=[1.0, 1.4])
        _sources(places, dataset)
        _records(records, dataset)
    return drawn


def _velocities(drawn: Figure, row: Any, axes: Any, dataset: xr.Dataset) -> None:
    truth, found, start = (dataset[name].values[0] for name in ("true_velocity", "velocity", "start_velocity"))
    x, z = dataset["x"].values / 1000, dataset["z"].values / 1000
    most = float(np.abs(truth - start).max())
    changes: dict[str, Any] = {"vmin": -most, "vmax": most, "cmap": "RdBu", "shading": "nearest"}
    panels = [
        ("a", "truth", truth - start, changes), ("b", "4D-Var", found - start, changes),
        ("c", "error of 4D-Var", found - truth, changes),
        ("d", "its standard deviation", dataset["velocity_std"].values[0], {"cmap": "viridis", "shading": "nearest"}),
    ]  # fmt: skip
    for ax, (letter, text, values, options) in zip(axes, panels, strict=True):
        mesh = ax.pcolormesh(x, z, values, **options)
        row.colorbar(mesh, ax=ax, label="m/s", shrink=0.9)
        ax.plot(*(dataset["receiver"].values[0, :, ::-1].T / 1000), "v", color="black", markersize=2.5)
        ax.plot(*(dataset["true_place"].values[:, ::-1].T / 1000), "*", color=COLORS["yellow"], markeredgecolor="black")
        ax.grid(visible=False)
        panel_label(ax, letter, text + (", from the start model" if letter in "ab" else ""))
    axes[0].invert_yaxis()  # shared
    for ax in (axes[0], axes[2]):
        ax.set_ylabel("km below the surface")
    for ax in axes[2:]:
        ax.set_xlabel("km")


def _sources(axes: Any, dataset: xr.Dataset) -> None:
    truth = dataset["true_place"].values[:, ::-1] / 1000
    axes.plot(*truth.T, "*", color="black", markersize=10, label="truth")
    for j, (color, marker) in enumerate((("gray", "s"), ("orange", "^"), ("blue", "o"))):
        places = dataset["place"].values[:, j, ::-1] / 1000
        label = str(dataset["method"].values[j])
        axes.plot(*places.T, marker, color=COLORS[color], markersize=4, linestyle="none", label=label)
    axes.set_xlim(0, dataset["x"].values[-1] / 1000)
    axes.set_ylim(dataset["z"].values[-1] / 1000, 0)
    axes.set_xlabel("km")
    axes.set_ylabel("km below the surface")
    axes.legend(loc="upper center", ncols=4, fontsize=7, columnspacing=1.0, handletextpad=0.3)
    panel_label(axes, "e", "sources")


def _records(axes: Any, dataset: xr.Dataset) -> None:
    time = dataset["sample"].values
    shown = np.linspace(0, dataset.sizes["station"] - 1, TRACES).round().astype(int)
    data, fit = (dataset[name].values[0] for name in ("seismogram", "fitted_seismogram"))
    scale = 1.2 * np.abs(data).max()
    chosen = time <= time[-1] / dataset.sizes["time"] * min(2, dataset.sizes["time"])
    for k, station in enumerate(shown):
        labels = ("recorded", "4D-Var") if k == 0 else (None, None)
        axes.plot(time[chosen], k + data[chosen, station] / scale * 2, color="black", linewidth=0.9, label=labels[0])
        axes.plot(
            time[chosen], k + fit[chosen, station] / scale * 2, color=COLORS["red"], linewidth=0.7, label=labels[1]
        )
    axes.set_yticks(range(TRACES), [f"{dataset['receiver'].values[0, s, 1] / 1000:.1f}" for s in shown])
    axes.set_ylabel("receiver, km")
    axes.set_xlabel("s")
    axes.legend(loc="upper right", ncols=2, fontsize=7)
    panel_label(axes, "f", "pressure, first events")
