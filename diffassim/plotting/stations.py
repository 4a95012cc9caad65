"""Figure of a network of stations: a fortnight of forecasts, scores by lead, what is known without a station."""

from __future__ import annotations

from typing import Any

import matplotlib.dates as mdates
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from diffassim.plotting.style import COLORS, figure, panel_label, style

__all__ = ["network_overview", "wind_speeds"]

_LOOK = {
    "climatology": (COLORS["yellow"], "v"), "persistence": (COLORS["gray"], "^"),
    "damped persistence": (COLORS["sky"], "s"), "regression on four lags": (COLORS["orange"], "D"),
    "assimilation": (COLORS["blue"], "o"),
}  # fmt: skip
_SHOWN = 240  # steps of the series
_KINDS = {"withheld": "station", "unseen": "place"}


def network_overview(dataset: xr.Dataset, scores: pd.DataFrame, start: pd.Timestamp) -> Figure:
    """Return the figure of the first variable: its forecasts at one station, and scores of all.

    Args:
        dataset: output of the experiment.
        scores: tidy scores.
        start: first time of the verification.
    """
    name = next(str(each).removesuffix("_forecast") for each in dataset.data_vars if str(each).endswith("_forecast"))
    start = start.tz_convert("UTC").tz_localize(None) if start.tzinfo is not None else start
    unit = dataset[f"{name}_observed"].attrs["units"]
    label = f"{name.replace('_', ' ')}, {unit}" if unit not in ("", "1") else name.replace("_", " ")
    kind = next((each for each in _KINDS if f"{name}_{each}" in dataset), None)
    with style():
        mapped = f"{name}_map" in dataset
        count = 2 + bool(kind) + mapped
        drawn = figure(8.2, 2.9 * count)
        rows: Any = drawn.subfigures(count, 1)
        _series(rows[0].subplots(), dataset, name, start, label)
        left, right = rows[1].subplots(1, 2)
        _by_lead(left, scores, name, "rmse", f"root-mean-square error, {unit}", dataset["lead"].attrs["units"])
        left.set_ylim(bottom=0)
        panel_label(left, "b", "forecasts, all stations")
        _coverage(right, scores, name, dataset["lead"].attrs["units"])
        handles, labels = left.get_legend_handles_labels()
        rows[1].legend(handles, labels, loc="outside lower center", ncols=3)
        if kind:
            first, second = rows[2].subplots(1, 2)
            _without(first, scores, f"{name}, {kind}", unit, kind)
            _scatter(second, dataset, name, kind, start, label)
        if mapped:
            first, second = rows[-1].subplots(1, 2)
            last = dataset[f"{name}_map"].isel(time=-1)
            when = pd.Timestamp(dataset["time"].values[-1])
            _map(first, dataset, last, label, "f" if kind else "d", f"analysis of {when:%Y-%m-%d %H:%M}")
            _map(
                second,
                dataset,
                dataset[f"{name}_map_std"].isel(time=-1),
                label,
                "g" if kind else "e",
                "its standard deviation",
            )
    return drawn


def _map(axes: Any, dataset: xr.Dataset, field: xr.DataArray, label: str, letter: str, title: str) -> None:
    x, y = dataset["longitude_of_map"].values, dataset["latitude_of_map"].values
    drawn = axes.pcolormesh(x, y, field.values, cmap="cividis", shading="nearest", rasterized=True)
    axes.plot(dataset["longitude"], dataset["latitude"], "o", color="black", markersize=2, markerfacecolor="white")
    axes.set(xlabel="longitude, degrees east", ylabel="latitude, degrees north")
    axes.set_aspect(1 / np.cos(np.deg2rad(y.mean())))
    axes.grid(False)
    axes.figure.colorbar(drawn, ax=axes, label=label)
    panel_label(axes, letter, title)


def wind_speeds(dataset: xr.Dataset) -> Figure:
    """Return the figure of wind speeds, predicted against observed: by a small network, and by the assimilation.

    Args:
        dataset: `wind_speed_observed`, `wind_speed_small_network`, `wind_speed_assimilation`, all (time, station).
    """
    y = dataset["wind_speed_observed"].values.ravel()
    panels = (
        ("a", "small_network", "network of temperature and humidity"),
        ("b", "assimilation", "assimilation of the other airports"),
    )
    with style():
        drawn = figure(8.2, 3.8)
        both = drawn.subplots(1, 2, sharex=True, sharey=True)
        for axes, (letter, name, title) in zip(both, panels, strict=True):
            x = dataset[f"wind_speed_{name}"].values.ravel()
            known = np.isfinite(x) & np.isfinite(y)
            axes.plot(y[known], x[known], "o", color=COLORS["blue"], markersize=1.5, alpha=0.25)
            top = float(y[known].max())
            axes.plot([0, top], [0, top], color="black", linewidth=0.8)
            error = np.sqrt(np.mean((x - y)[known] ** 2))
            axes.text(0.03, 0.93, f"root-mean-square error {error:.2f} m s$^{{-1}}$", transform=axes.transAxes)
            axes.set_xlabel("observed wind speed, m s$^{-1}$")
            panel_label(axes, letter, title)
        drawn.axes[0].set_ylabel("predicted, m s$^{-1}$")
    return drawn


def _series(axes: Any, dataset: xr.Dataset, name: str, start: pd.Timestamp, label: str) -> None:
    """Draw observations and forecasts of the middle lead at the station that has most values."""
    lead = dataset["lead"].values[len(dataset["lead"]) // 2]
    unit = dataset["lead"].attrs["units"]
    observed = dataset[f"{name}_observed"].sel(time=slice(start, None))
    station = str(dataset["station"].values[int(np.isfinite(observed.values).sum(0).argmax())])
    shown = observed.sel(station=station).isel(time=slice(0, _SHOWN))
    times = pd.DatetimeIndex(dataset["time"].values) + lead * pd.Timedelta(1, unit)
    at = (times >= shown["time"].values[0]) & (times <= shown["time"].values[-1])
    some = dataset.sel(lead=lead, station=station).isel(time=np.flatnonzero(at))
    axes.fill_between(
        times[at], some[f"{name}_lower"], some[f"{name}_upper"], color=COLORS["blue"], alpha=0.25, linewidth=0
    )
    forecast = some[f"{name}_forecast"].sel({"method": "assimilation"})
    axes.plot(times[at], forecast, color=COLORS["blue"], label=f"forecast {lead:g} {unit} ahead, 90 % interval")
    axes.plot(shown["time"], shown, "o", color="black", markersize=2, label="observed")
    axes.set_ylabel(label)
    axes.set_xlim(shown["time"].values[0], shown["time"].values[-1])
    axes.xaxis.set_major_formatter(mdates.ConciseDateFormatter(axes.xaxis.get_major_locator()))
    axes.legend(loc="upper right", ncols=2)
    panel_label(axes, "a", f"the first of the verification at {station}")


def _by_lead(axes: Any, scores: pd.DataFrame, name: str, metric: str, label: str, unit: str) -> None:
    chosen = scores[(scores["variable"] == name) & (scores["metric"] == metric)]
    for method, rows in chosen.groupby("method", sort=False):
        color, marker = _LOOK.get(str(method), (None, "o"))
        axes.plot(rows["lead"], rows["value"], color=color, marker=marker, markersize=4, label=method)
    axes.set(xlabel=f"lead, {unit}", ylabel=label, xticks=sorted(set(rows["lead"])))


def _coverage(axes: Any, scores: pd.DataFrame, name: str, unit: str) -> None:
    chosen = scores[(scores["variable"] == name) & (scores["metric"] == "coverage_90")]
    axes.axhspan(0.85, 0.95, color=COLORS["gray"], alpha=0.2, linewidth=0)
    axes.axhline(0.9, color="black", linewidth=0.8, linestyle="--")
    axes.plot(chosen["lead"], chosen["value"], color=COLORS["blue"], marker="o", markersize=4)
    axes.set(xlabel=f"lead, {unit}", ylabel="share of values inside", ylim=(0.75, 1.0), xticks=list(chosen["lead"]))
    panel_label(axes, "c", "the 90 % intervals of the forecasts")


def _without(axes: Any, scores: pd.DataFrame, label: str, unit: str, kind: str) -> None:
    chosen = scores[(scores["variable"] == label) & (scores["metric"] == "rmse")]
    colors = [COLORS["blue"] if method == "assimilation" else COLORS["gray"] for method in chosen["method"]]
    axes.barh(chosen["method"], chosen["value"], color=colors, height=0.6)
    for y, value in enumerate(chosen["value"]):
        axes.text(value, y, f" {value:.3g}", va="center", fontsize=8)
    axes.margins(x=0.15)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"root-mean-square error, {unit}")
    panel_label(axes, "d", {"withheld": "stations whose reports are withheld", "unseen": "places never seen"}[kind])


def _scatter(axes: Any, dataset: xr.Dataset, name: str, kind: str, start: pd.Timestamp, label: str) -> None:
    some = dataset.sel(time=slice(start, None))
    truth = some[f"{name}_unseen_observed" if kind == "unseen" else f"{name}_observed"].values.ravel()
    found = some[f"{name}_{kind}"].values[:, -1].ravel()
    known = np.flatnonzero(np.isfinite(truth) & np.isfinite(found))
    known = known[:: max(len(known) // 3000, 1)]
    axes.plot(truth[known], found[known], "o", color=COLORS["blue"], markersize=1.5, alpha=0.4)
    ends = np.array([truth[known].min(), truth[known].max()])
    axes.plot(ends, ends, color="black", linewidth=0.8)
    axes.set(xlabel=f"observed {label}", ylabel="analysis without it")
    panel_label(axes, "e", "analysis and what was withheld")
