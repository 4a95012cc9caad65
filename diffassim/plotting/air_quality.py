"""Figure of an inversion of emissions: maps, rates, errors of forecasts."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from diffassim.core.normal import NORMAL_90
from diffassim.plotting.innovations import draw_departures
from diffassim.plotting.searches import draw_cost_history
from diffassim.plotting.style import COLORS, figure, panel_label, style

__all__ = ["observations_used", "overview"]

_LOOKS = (("gray", "s"), ("green", "v"), ("orange", "^"), ("blue", "o"))


def overview(dataset: xr.Dataset) -> Figure:
    """Return the figure of the first case's fields and rates, and of the forecast errors of all cases.

    Args:
        dataset: output of the experiment.
    """
    with style():
        drawn = figure(9.4, 6.2)
        rows: Any = drawn.subfigures(2, 1, height_ratios=[1.0, 1.05])
        _maps(rows[0], rows[0].subplots(1, 3, sharex=True, sharey=True), dataset.isel(time=0))
        rates, errors = rows[1].subplots(1, 2, width_ratios=[1.2, 1.0])
        _rates(rates, dataset.isel(time=0))
        _errors(errors, dataset)
    return drawn


def observations_used(dataset: xr.Dataset, noise: float) -> Figure:
    """Return the figure of what withheld stations depend on, how observations are met, and how the searches went.

    Args:
        dataset: output of the experiment.
        noise: standard deviation of the observation errors.
    """
    departures = np.moveaxis(dataset["departure"].values, 0, -1) / noise  # run, hour, station, case
    with style():
        drawn = figure(9.4, 6.8)
        (left, right), (below, last) = drawn.subplots(2, 2)
        _footprint(drawn, left, dataset.isel(time=0))
        hours = dataset["hour"].values + 1
        draw_cost_history(right, dataset["cost"].values, np.isfinite(departures[1]).sum(axis=(0, 1)))
        panel_label(right, "b", "cost of the cases")
        for axes, letter, name, values in ((below, "c", "prior", departures[0]), (last, "d", "4D-Var", departures[1])):
            draw_departures(axes, hours, {"": values}, expected=None if letter == "c" else 1.0)
            axes.set(xlabel="hour of the window", ylabel="over the observation error")
            panel_label(axes, letter, f"observations minus {name}, all cases")
    return drawn


def _footprint(drawn: Any, axes: Any, case: xr.Dataset) -> None:
    """Draw where the air of the withheld stations was."""
    mesh = axes.pcolormesh(
        case["x"], case["y"], 100 * case["footprint"], shading="nearest", cmap="Greys", vmin=0, rasterized=True
    )
    drawn.colorbar(mesh, ax=axes, label="sensitivity, percent", shrink=0.9)
    spacing = float(case["x"][1] - case["x"][0])
    for name, marker, color, label in (("withheld", "X", "orange", "withheld"), ("station", "o", "sky", "reports")):
        y, x = (case[f"{name}_cell"].values.T + 0.5) * spacing
        axes.plot(
            x, y, marker, color=COLORS[color], markersize=6, markeredgecolor="black", markeredgewidth=0.7,
            linestyle="none", label=label,
        )  # fmt: skip
    axes.grid(visible=False)
    axes.set(xlabel="km", ylabel="km", aspect="equal")
    axes.legend(loc="upper left", fontsize=7, frameon=True)
    panel_label(axes, "a", f"withheld stations at the end, by the field {case['footprint'].attrs['hours']} h before")


def _maps(row: Any, axes: Any, case: xr.Dataset) -> None:
    truth = case["true_concentration"].values
    names = list(case["method"].values)
    prior, analysis = (case["concentration"].values[names.index(name)] - truth for name in ("prior", "4D-Var"))
    most = float(np.abs(prior).max())
    different: dict[str, Any] = {"vmin": -most / 3, "vmax": most / 3, "cmap": "RdBu_r"}
    panels = [
        ("a", "truth at the end", truth, {"cmap": "viridis", "vmin": 0}),
        ("b", "prior minus truth", prior, different), ("c", "4D-Var minus truth", analysis, different),
    ]  # fmt: skip
    spacing = float(case["x"][1] - case["x"][0])
    for ax, (letter, text, values, options) in zip(axes, panels, strict=True):
        mesh = ax.pcolormesh(case["x"], case["y"], values, shading="nearest", **options)
        row.colorbar(mesh, ax=ax, label="µg/m³", shrink=0.8, extend="neither" if letter == "a" else "both")
        for name, marker, color in (("source", "*", "yellow"), ("station", "o", "black"), ("withheld", "o", "white")):
            y, x = (case[f"{name}_cell"].values.T + 0.5) * spacing
            ax.plot(
                x, y, marker, color=COLORS.get(color, color), markersize=9 if marker == "*" else 3.5,
                markeredgecolor="black", markeredgewidth=0.6, linestyle="none",
            )  # fmt: skip
        ax.grid(visible=False)
        ax.set_aspect("equal")
        ax.set_xlabel("km")
        panel_label(ax, letter, text)
    axes[0].set_ylabel("km")


def _rates(axes: Any, case: xr.Dataset) -> None:
    number = np.arange(case.sizes["source"])
    axes.plot(number + 1, case["true_rate"], "*", color="black", markersize=10, label="truth", zorder=3)
    shown = [(0, case["prior_log_std"].values), (2, None), (3, case["log_rate_std"].values)]
    for place, (j, std) in zip((-0.3, -0.15, 0.2), shown, strict=True):
        color, marker = _LOOKS[j]
        rate = case["rate"].values[j]
        bars = None
        if std is not None:
            wide = np.exp(NORMAL_90 * np.broadcast_to(std, rate.shape))
            bars = np.stack([rate - rate / wide, rate * wide - rate])
        axes.errorbar(
            number + 1 + place, rate, bars, fmt=marker, color=COLORS[color], markersize=4, capsize=2,
            label=str(case["method"].values[j]),
        )  # fmt: skip
    axes.set_xticks(number + 1)
    axes.margins(y=0.3)  # room for the legend
    axes.set_ylim(bottom=0)
    axes.set_xlabel("source (odd: stack, even: area)")
    axes.set_ylabel("kg/h, mean of the window")
    axes.legend(loc="best", ncols=2, fontsize=7)
    panel_label(axes, "d", "emission rates, bars of 90 %")


def _errors(axes: Any, dataset: xr.Dataset) -> None:
    errors = np.sqrt(np.mean(dataset["withheld_error"].values ** 2, axis=(0, 3)))
    for j, (color, marker) in enumerate(_LOOKS):
        axes.plot(
            dataset["lead"], errors[j], marker=marker, markersize=3, color=COLORS[color],
            label=str(dataset["method"].values[j]),
        )  # fmt: skip
    axes.set_ylim(bottom=0)
    axes.set_xlabel("hours after the window")
    axes.set_ylabel("RMSE, µg/m³")
    axes.legend(loc="best", fontsize=7)
    cases = dataset.sizes["time"]
    panel_label(axes, "e", f"withheld stations, {cases} case{'s' * (cases > 1)}")
