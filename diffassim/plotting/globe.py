"""Figure of an assimilation on the sphere: maps, errors by time, scale and lead, coverage."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from diffassim.plotting.style import COLORS, figure, panel_label, style

__all__ = ["globe_overview"]

SHOWN = "4D-Var"  # whose increment is drawn
_LOOKS = {
    "climatology": ("yellow", "D", "-"),
    "free run": ("gray", ">", ":"),
    "optimal interpolation": ("sky", "s", "-"),
    "3D-Var": ("green", "v", "--"),
    "4D-Var": ("blue", "o", "-"),
    "ETKF, not localized": ("purple", "^", ":"),
    "LETKF": ("red", "P", "-"),
}
FINE = 1e-3  # power below this share of the truth's is rounding


def globe_overview(
    dataset: xr.Dataset, errors: np.ndarray, expected: np.ndarray, coverage: dict[str, np.ndarray], burn_in: int
) -> Figure:
    """Return the figure: maps of one window, and the errors of all methods.

    Args:
        dataset: output of the experiment.
        errors: of each window, shape (window, method, kind).
        expected: errors that the filters expect, shape (window, filter, kind).
        coverage: by filter, share of the truth in the central 90 % interval of each window.
        burn_in: days at the start that the scores leave out.
    """
    with style():
        drawn = figure(9.4, 11.6)
        rows: Any = drawn.subfigures(2, 1, height_ratios=[1.1, 1.0])
        _maps(rows[0], rows[0].subplots(3, 2, sharex=True, sharey=True), dataset, _window(dataset, errors, burn_in))
        (upper_left, upper_right), (lower_left, lower_right) = rows[1].subplots(2, 2)
        _by_time(upper_left, dataset, errors, expected, burn_in)
        _by_scale(upper_right, dataset, burn_in)
        _by_lead(lower_left, dataset, errors, burn_in)
        _by_coverage(lower_right, dataset, coverage, burn_in)
        handles, labels = upper_left.get_legend_handles_labels()
        rows[1].legend(handles, labels, loc="outside lower center", ncols=4)
    return drawn


def _window(dataset: xr.Dataset, errors: np.ndarray, burn_in: int) -> int:
    """Return the window with the middle error of the height: of those that are scored and, if any, have a satellite."""
    j = list(dataset["method"].values).index(SHOWN)
    height = np.where(dataset["time"].values > burn_in + 1e-9, errors[:, j, 1], np.nan)
    with_satellite = np.where(dataset["seen"].values.any(axis=1), height, np.nan)
    height = with_satellite if np.isfinite(with_satellite).any() else height
    known = np.flatnonzero(np.isfinite(height))
    return int(known[np.argsort(height[known])[known.size // 2]]) if known.size else len(height) - 1


def _maps(row: Any, axes: Any, dataset: xr.Dataset, window: int) -> None:
    now = dataset.isel(time=window)
    truth = now["true_height"]
    departure = truth - now["analysis_height"].sel({"method": "climatology"})
    found = {name: now[f"{name}_height"].sel({"method": SHOWN}) for name in ("background", "analysis")}
    letkf = now["analysis_height"].sel({"method": "LETKF"})
    before, after = found["background"] - truth, found["analysis"] - truth
    most = float(np.nanquantile(np.abs(before), 0.99))
    different: dict[str, Any] = {"vmin": -most, "vmax": most, "cmap": "RdBu_r"}
    top = float(np.nanquantile(np.abs(departure), 0.995))
    strong: dict[str, Any] = {"vmin": -top, "vmax": top, "cmap": "PuOr_r"}
    spread = now["spread_height"].sel(filter="LETKF")
    panels = [
        ("a", f"truth minus mean of the climate, and wind, day {float(now['time']):.2f}", departure, strong),
        ("b", f"background of {SHOWN} minus truth", before, different),
        ("c", f"increment of {SHOWN}, and what was observed", found["analysis"] - found["background"], different),
        ("d", f"analysis of {SHOWN} minus truth", after, different),
        ("e", "analysis of the LETKF minus truth", letkf - truth, different),
        ("f", "standard deviation that the LETKF expects", spread, {"cmap": "viridis", "vmin": 0, "vmax": most}),
    ]  # fmt: skip
    longitude, latitude = dataset["longitude"].values, dataset["latitude"].values
    for ax, (letter, text, values, options) in zip(axes.ravel(), panels, strict=True):
        mesh = ax.pcolormesh(longitude, latitude, values.values, shading="nearest", rasterized=True, **options)
        row.colorbar(mesh, ax=ax, label="m", shrink=0.85, extend="both" if letter != "f" else "max")
        ax.grid(visible=False)
        ax.margins(0)
        panel_label(ax, letter, text)
    every = max(1, longitude.size // 21)
    step = (slice(None, None, max(1, latitude.size // 16)), slice(None, None, every))
    axes[0, 0].quiver(
        longitude[step[1]], latitude[step[0]], now["true_u"].values[step], now["true_v"].values[step], scale=1400,
        width=0.0018, color="black",
    )  # fmt: skip
    for name, flag, marker in (("station", "reports", "o"), ("track", "seen", "s")):
        places = now[name].values[now[flag].values > 0]
        axes[1, 0].plot(
            places[:, 1] % 360, places[:, 0], marker, color="black" if name == "station" else COLORS["yellow"],
            markersize=2.5, markeredgecolor="black", markeredgewidth=0.4, linestyle="none",
        )  # fmt: skip
    for ax in axes[-1]:
        ax.set_xlabel("degrees east")
        ax.set_xticks(np.arange(0, 360, 90))
    for ax in axes[:, 0]:
        ax.set_ylabel("latitude")


def _by_time(axes: Any, dataset: xr.Dataset, errors: np.ndarray, expected: np.ndarray, burn_in: int) -> None:
    days = dataset["time"].values
    for j, method in enumerate(dataset["method"].values):
        color, _, line = _LOOKS[str(method)]
        axes.plot(days, errors[:, j, 0], line, color=COLORS[color], label=method)
    for i, method in enumerate(dataset["filter"].values):
        color, _, _ = _LOOKS[str(method)]
        axes.plot(days, expected[:, i, 0], color=COLORS[color], linewidth=0.8, alpha=0.6)
    axes.axvline(burn_in, color="black", linewidth=0.8, linestyle="--")
    axes.set(xlabel="days", ylabel="error of the wind, m/s")
    _logarithmic(axes)
    panel_label(axes, "g", "analyses; thin: expected by the filter")


def _by_scale(axes: Any, dataset: xr.Dataset, burn_in: int) -> None:
    scored = dataset["spectrum"].isel(kind=1).values[dataset["time"].values > burn_in + 1e-9]
    power = np.nanmean(scored, axis=0)
    last = dataset.sizes["degree"] - 1  # the last one holds no more than what truncation leaves
    for j, method in enumerate(dataset["method"].values):
        color, _, line = _LOOKS[str(method)]
        axes.plot(np.arange(1, last), power[j, 1:last], line, color=COLORS[color])
    axes.set_ylim(bottom=max(float(np.nanmin(power[:, 1:last])), FINE * float(np.nanmin(power[0, 1:last]))))
    axes.set(xlabel="total wavenumber", ylabel="power of the height's error, m²", yscale="log")
    panel_label(axes, "h", "errors of analyses by scale")


def _by_lead(axes: Any, dataset: xr.Dataset, errors: np.ndarray, burn_in: int) -> None:
    scored = dataset["time"].values > burn_in + 1e-9
    leads = [0, *(float(lead) / 24 for lead in dataset["lead"].values)]
    for j, method in enumerate(dataset["method"].values):
        color, marker, line = _LOOKS[str(method)]
        forecasts = dataset["forecast_error"].values[scored, j, :, 1]
        values = [errors[scored, j, 1], *forecasts.T]
        root = [np.sqrt(np.nanmean(np.square(value))) for value in values]
        axes.plot(leads, root, line, color=COLORS[color], marker=marker, markersize=4)
    axes.set(xlabel="lead, days", ylabel="error of the height, m")
    _logarithmic(axes)
    axes.set_xticks(leads)
    panel_label(axes, "i", "forecasts from the analyses")


def _by_coverage(axes: Any, dataset: xr.Dataset, coverage: dict[str, np.ndarray], burn_in: int) -> None:
    axes.axhspan(0.85, 0.95, color=COLORS["gray"], alpha=0.2, linewidth=0)
    axes.axhline(0.9, color="black", linewidth=0.8, linestyle="--")
    for method, share in coverage.items():
        color, _, line = _LOOKS[method]
        axes.plot(dataset["time"], share, line, color=COLORS[color])
    axes.axvline(burn_in, color="black", linewidth=0.8, linestyle="--")
    axes.set(xlabel="days", ylabel="share of the globe inside", ylim=(0, 1.02))
    panel_label(axes, "j", "90 % intervals of the filters, all fields")


def _logarithmic(axes: Any) -> None:
    """Scale the vertical axis by logarithms, with plain numbers that do not crowd."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
