"""Figure of discharge forecasts: hydrograph, largest flood, scores by lead."""

from __future__ import annotations

from typing import Any

import matplotlib.dates as mdates
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from diffassim.plotting.style import COLORS, figure, panel_label, style

__all__ = ["forecast_overview"]

_COLORS = {
    "climatology": COLORS["yellow"],
    "persistence": COLORS["gray"],
    "open loop": COLORS["sky"],
    "open loop + AR(1)": COLORS["orange"],
    "assimilation": COLORS["blue"],
}
_MARKERS = dict(zip(_COLORS, "v^sDo", strict=True))
_BEFORE, _AFTER = 18, 25  # days around the peak of the flood
_DIAGRAM_FLOOR = 0.6  # lowest efficiency shown: below it no forecast competes


def forecast_overview(dataset: xr.Dataset, scores: pd.DataFrame, method: str = "assimilation") -> Figure:
    """Return the figure of one method's forecasts among the others.

    Args:
        dataset: output of the experiment: `observed`, `precipitation` (time,), `forecast` (time, method, lead) and
            `quantile` (time, method, lead, probability).
        scores: tidy scores with the metrics `nse`, `kge` and `crps`.
        method: the method to draw with its uncertainty.
    """
    shortest = int(dataset["lead"].values[0])
    longest = int(dataset["lead"].values[min(2, dataset.sizes["lead"] - 1)])
    with style():
        drawn = figure(8.2, 9.0)
        rows: Any = drawn.subfigures(3, 1, height_ratios=[1.0, 1.35, 1.0])
        _year(rows[0].subplots(), dataset, method, shortest)
        top, bottom = rows[1].subplots(1, 2, sharey=True)
        _flood(top, dataset, method, shortest, "b")
        _flood(bottom, dataset, method, longest, "c")
        top.set_ylim(bottom=0)  # once both are drawn: they share the axis
        left, middle, right = rows[2].subplots(1, 3)
        _by_lead(left, scores, "nse", "Nash-Sutcliffe efficiency", "d", "skill by lead")
        _by_lead(middle, scores, "kge", "Kling-Gupta efficiency", "e", "with bias, variability")
        for axes in (left, middle):
            _name_what_is_cut(axes)
        _by_lead(right, scores, "crps", "CRPS, m$^3$ s$^{-1}$", "f", "the distribution")
        right.set_ylim(bottom=0)
        handles, labels = left.get_legend_handles_labels()
        rows[2].legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return drawn


def _on_valid_days(dataset: xr.Dataset, method: str, lead: int) -> tuple[Any, Any, Any, Any]:
    """Return days, forecasts, and the bounds of the 90 % interval on the days that the forecasts are for."""
    chosen = dataset.sel({"method": method, "lead": lead})
    days = pd.DatetimeIndex(chosen["time"].values) + pd.Timedelta(days=lead)
    quantile = chosen["quantile"].values
    return days, chosen["forecast"].values, quantile[:, 0], quantile[:, -1]


def _flood_peak(dataset: xr.Dataset) -> pd.Timestamp:
    return pd.Timestamp(dataset["time"].values[int(np.nanargmax(dataset["observed"].values))])


def _year(axes: Any, dataset: xr.Dataset, method: str, lead: int) -> None:
    """Draw the hydrological year of the largest flood."""
    peak = _flood_peak(dataset)
    start = pd.Timestamp(peak.year if peak.month >= 11 else peak.year - 1, 11, 1)
    start = max(start, pd.Timestamp(dataset["time"].values[0]))
    end = start + pd.DateOffset(years=1)
    days, forecast, lower, upper = _on_valid_days(dataset, method, lead)
    shown = (days >= start) & (days < end)
    axes.fill_between(days[shown], lower[shown], upper[shown], color=COLORS["blue"], alpha=0.25, linewidth=0)
    axes.plot(days[shown], forecast[shown], color=COLORS["blue"], label=f"{method}, {_day(lead)} ahead")
    observed = dataset["observed"].sel(time=slice(start, end))
    axes.plot(observed["time"], observed, color="black", linewidth=0.8, label="observed")
    axes.set_ylim(0, 1.45 * np.nanmax(upper[shown]))
    axes.set_xlim(start, end)
    _rain(axes, dataset.sel(time=slice(start, end)))
    axes.set_ylabel("discharge, m$^3$ s$^{-1}$")
    axes.legend(loc="center right")
    axes.xaxis.set_major_formatter(mdates.ConciseDateFormatter(axes.xaxis.get_major_locator()))
    panel_label(axes, "a", "the year of the largest flood, with the 90 % interval")


def _flood(axes: Any, dataset: xr.Dataset, method: str, lead: int, letter: str) -> None:
    peak = _flood_peak(dataset)
    start, end = peak - pd.Timedelta(days=_BEFORE), peak + pd.Timedelta(days=_AFTER)
    days, forecast, lower, upper = _on_valid_days(dataset, method, lead)
    shown = (days >= start) & (days <= end)
    axes.fill_between(
        days[shown], lower[shown], upper[shown], color=COLORS["blue"], alpha=0.2, linewidth=0, label="90 % interval"
    )
    for other in ("open loop", "open loop + AR(1)"):
        if other in dataset["method"].values and other != method:
            axes.plot(days[shown], _on_valid_days(dataset, other, lead)[1][shown], color=_COLORS[other], label=other)
    axes.plot(days[shown], forecast[shown], color=COLORS["blue"], label=method)
    observed = dataset["observed"].sel(time=slice(start, end))
    axes.plot(observed["time"], observed, "o", color="black", markersize=2.5, label="observed")
    axes.set_xlim(start, end)
    axes.xaxis.set_major_locator(mdates.AutoDateLocator(maxticks=6))
    axes.xaxis.set_major_formatter(mdates.ConciseDateFormatter(axes.xaxis.get_major_locator()))
    if letter == "b":
        axes.set_ylabel("discharge, m$^3$ s$^{-1}$")
        axes.legend(loc="upper left")
    panel_label(axes, letter, f"the flood, forecast {_day(lead)} ahead")


def _rain(axes: Any, dataset: xr.Dataset) -> None:
    """Hang the precipitation from the top of the panel."""
    hanging = axes.twinx()
    rain = dataset["precipitation"]
    hanging.bar(rain["time"], rain, width=1.0, color=COLORS["gray"], linewidth=0)
    hanging.set_ylim(4 * float(rain.max()), 0)
    hanging.set_yticks([0, round(float(rain.max()), -1)])
    hanging.grid(False)
    hanging.spines["right"].set_visible(False)
    hanging.set_ylabel("precipitation,\nmm per day", loc="top", fontsize=7)
    hanging.tick_params(labelsize=7)


def _by_lead(axes: Any, scores: pd.DataFrame, metric: str, label: str, letter: str, title: str) -> None:
    for method, rows in scores[scores["metric"] == metric].groupby("method", sort=False):
        axes.plot(
            rows["lead"],
            rows["value"],
            color=_COLORS.get(str(method)),
            marker=_MARKERS.get(str(method), "o"),
            markersize=4,
            label=method,
        )
    axes.set(xlabel="lead, days", ylabel=label)
    axes.set_xticks(sorted(scores["lead"].unique()))
    panel_label(axes, letter, title)


def _name_what_is_cut(axes: Any) -> None:
    """Cut the axis where no forecast competes, and write the values below the cut at the edge that hides them."""
    lowest = min(float(np.min(line.get_ydata(), initial=1.0)) for line in axes.lines)
    if lowest >= _DIAGRAM_FLOOR:
        return
    span = 1 - _DIAGRAM_FLOOR
    room = 0.085 * span  # of one line of values
    below = [line for line in axes.lines if np.min(line.get_ydata(), initial=1.0) < _DIAGRAM_FLOOR]
    axes.set_ylim(_DIAGRAM_FLOOR - room * (len(below) + 0.3), 1.0)
    axes.axhline(_DIAGRAM_FLOOR, color="black", linewidth=0.5, linestyle=":")
    note = f"below {_DIAGRAM_FLOOR:g}, as numbers:"
    axes.text(0.5, _DIAGRAM_FLOOR, note, transform=axes.get_yaxis_transform(), fontsize=6.5, ha="center", va="bottom")
    for i, line in enumerate(below):
        place = _DIAGRAM_FLOOR - room * (i + 0.65)
        for lead, value in zip(line.get_xdata(), line.get_ydata(), strict=True):
            if value < _DIAGRAM_FLOOR:
                box = {"facecolor": line.get_color(), "alpha": 0.35, "linewidth": 0, "pad": 0.8}
                axes.text(lead, place, f"{value:.2f}", fontsize=6.5, ha="center", va="center", bbox=box)
        y = np.asarray(line.get_ydata(), float)
        line.set_ydata(np.where(y < _DIAGRAM_FLOOR, np.nan, y))


def _day(lead: int) -> str:
    return "1 day" if lead == 1 else f"{lead} days"
