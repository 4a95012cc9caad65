"""Figure of flood warnings: reliability, economic value, and the largest flood with its warning probabilities."""

from __future__ import annotations

from typing import Any

import matplotlib.dates as mdates
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from diffassim.plotting.style import COLORS, figure, panel_label, style

__all__ = ["warning_overview"]

# Told apart by line and marker where there is no color.
_LOOKS: dict[str, dict[str, Any]] = {
    "climatology": {"color": COLORS["yellow"], "marker": "v", "linestyle": (0, (1, 1.5))},
    "persistence": {"color": COLORS["gray"], "marker": "^", "linestyle": (0, (5, 1.5, 1, 1.5, 1, 1.5))},
    "open loop": {"color": COLORS["sky"], "marker": "s", "linestyle": (0, (5, 2))},
    "open loop + AR(1)": {"color": COLORS["orange"], "marker": "D", "linestyle": (0, (4, 1.5, 1, 1.5))},
    "assimilation": {"color": COLORS["blue"], "marker": "o", "linestyle": "-"},
}
_MARK: dict[str, Any] = {"markersize": 4, "markeredgecolor": "black", "markeredgewidth": 0.4}
_BEFORE, _AFTER = 12, 16  # days around the peak of the flood
_FEWEST = 5  # forecasts in a bin that is drawn
_LOWEST_VALUE = -0.25  # below it nobody uses a forecast
_IN_RELIABILITY = ("open loop", "open loop + AR(1)", "assimilation")
_LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)


def warning_overview(
    dataset: xr.Dataset,
    scores: pd.DataFrame,
    values: xr.DataArray,
    threshold: float,
    warning_probability: float,
    method: str = "assimilation",
) -> Figure:
    """Return the figure of the warnings of one threshold.

    Args:
        dataset: output of the experiment: `observed` (time,), `exceedance` (time, method, lead, threshold).
        scores: tidy scores of the warnings of this threshold; drawn are the rows of the reliability table.
        values: relative economic value, shape (lead, method, cost_loss_ratio), of the leads to draw.
        threshold: m3/s.
        warning_probability: at which a warning is given.
        method: whose warnings of the flood are drawn.
    """
    leads, letters = [int(lead) for lead in values["lead"].values], "abcdefghijk"
    with style():
        drawn = figure(8.2, 9.4)
        rows: Any = drawn.subfigures(3, 1, height_ratios=[1.15, 1.0, 1.0])
        top = rows[0].subplots(2, len(leads), height_ratios=[3, 1], sharex=True, squeeze=False)
        middle = rows[1].subplots(1, len(leads), sharey=True, squeeze=False)
        for i, lead in enumerate(leads):
            _reliability(top[0, i], top[1, i], scores, lead)
            panel_label(top[0, i], letters[i], f"reliability, {_days(lead)} ahead")
            _values(middle[0, i], values.sel(lead=lead))
            panel_label(middle[0, i], letters[len(leads) + i], f"economic value, {_days(lead)} ahead")
        top[0, 0].set_ylabel("observed frequency")
        top[1, 0].set_ylabel("forecasts")
        middle[0, 0].set_ylabel("relative value")
        handles, labels = middle[0, 0].get_legend_handles_labels()
        rows[1].legend(handles, labels, loc="outside lower center", ncols=len(labels), handlelength=3)
        upper, lower = rows[2].subplots(2, 1, sharex=True, height_ratios=[1.4, 1])
        _flood(upper, lower, dataset, leads, method, threshold, warning_probability)
        panel_label(
            upper,
            letters[2 * len(leads)],
            f"the largest flood, and the {method}'s probability of exceeding the threshold",
        )
    return drawn


def _reliability(axes: Any, counts: Any, scores: pd.DataFrame, lead: int) -> None:
    """Draw observed frequencies over forecast probabilities, and how many forecasts are in each bin."""
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.6, linestyle=":")
    at_lead = scores[scores["lead"] == lead]
    methods = [method for method in _IN_RELIABILITY if method in set(at_lead["method"])]
    width = 0.1 / (len(methods) + 1)
    for k, method in enumerate(methods):
        own = at_lead[at_lead["method"] == method]
        forecast, observed = (
            own[own["metric"].str.startswith(name)] for name in ("forecast_probability", "observed_frequency")
        )
        number = forecast["n"].to_numpy()
        enough = number >= _FEWEST
        look = _LOOKS[method]
        axes.plot(
            forecast["value"].to_numpy()[enough], observed["value"].to_numpy()[enough], label=method, **_MARK, **look,
        )  # fmt: skip
        left = forecast["metric"].str.extract(r" ([\d.]+)-")[0].astype(float).to_numpy()
        counts.bar(
            left + (k + 1) * width, number, width, color=look["color"], edgecolor="black", linewidth=0.3,
            hatch=("", "////", "xxxx")[(len(methods) - 1 - k) % 3],
        )  # fmt: skip
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_xticks(_LEVELS)
    axes.set_yticks(_LEVELS)
    counts.set_yscale("log")
    counts.set_ylim(bottom=0.8)
    counts.set_xlabel(f"forecast probability (points: at least {_FEWEST} forecasts)")


def _values(axes: Any, values: xr.DataArray) -> None:
    ratios = values["cost_loss_ratio"].values
    for method in (str(each) for each in values["method"].values):
        value = values.sel({"method": method}).values
        shown = np.where(value < _LOWEST_VALUE, np.nan, value)
        axes.plot(ratios, shown, label=method, markevery=(5, 12), **_MARK, **_LOOKS.get(method, {}))
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set(xlim=(0, 1), ylim=(_LOWEST_VALUE, 1), xlabel="cost of protection / loss that it prevents")


def _flood(
    upper: Any, lower: Any, dataset: xr.Dataset, leads: list[int], method: str, threshold: float, warned: float
) -> None:
    """Draw the discharge around the highest peak, and above it the probabilities on the days they are for."""
    peak = pd.Timestamp(dataset["time"].values[int(np.nanargmax(dataset["observed"].values))])
    start, end = peak - pd.Timedelta(days=_BEFORE), peak + pd.Timedelta(days=_AFTER)
    observed = dataset["observed"].sel(time=slice(start, end))
    times = pd.DatetimeIndex(observed["time"].values)
    upper.plot(times, observed, color="black", marker="o", markersize=2.5, label="observed")
    upper.axhline(threshold, color=COLORS["red"], linewidth=1, linestyle="--", label=f"{threshold:g} m$^3$ s$^{{-1}}$")
    above = observed.values > threshold
    upper.fill_between(times, threshold, observed, where=above, color=COLORS["red"], alpha=0.25, interpolate=True)
    upper.set_ylim(bottom=0)
    upper.set_ylabel("m$^3$ s$^{-1}$")
    upper.legend(loc="upper left")
    for lead, look in zip(leads, ({"linestyle": "-", "marker": "o"}, {"linestyle": "--", "marker": "s"}), strict=False):
        probability = dataset["exceedance"].sel({"method": method, "lead": lead, "threshold": threshold})
        days = pd.DatetimeIndex(probability["time"].values) + pd.Timedelta(days=lead)
        shown = (days >= start) & (days <= end)
        color = COLORS["blue"] if lead == leads[0] else COLORS["orange"]
        lower.plot(
            days[shown], probability.values[shown], color=color, markersize=3, label=f"{_days(lead)} ahead", **look
        )
    lower.axhline(warned, color="black", linewidth=0.6, linestyle=":")
    lower.set(ylim=(-0.03, 1.03), xlim=(start, end))
    lower.set_ylabel("probability")
    lower.legend(loc="center left")
    lower.xaxis.set_major_locator(mdates.AutoDateLocator(maxticks=8))
    lower.xaxis.set_major_formatter(mdates.ConciseDateFormatter(lower.xaxis.get_major_locator()))


def _days(lead: int) -> str:
    return "1 day" if lead == 1 else f"{lead} days"
