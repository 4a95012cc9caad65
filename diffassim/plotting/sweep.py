"""Scores against a swept number: one line for each method or second number, with bands over the seeds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from diffassim.plotting.style import COLORS, figure, panel_label, style

__all__ = ["sweep_figure"]

MOST_LINES, MOST_BARS, MOST_FIELDS = 8, 40, 3
WIDE = 10  # ratio from which on an axis is logarithmic
_LINES = ("blue", "orange", "green", "red", "purple", "sky", "black", "gray")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def sweep_figure(table: pd.DataFrame, axes: list[str], fields: list[str]) -> Figure:
    """Return the error of analysis and forecast, and their spread, against a swept number.

    Where nothing is swept, methods stand beside each other. Crosses at the upper edge are runs of which repeats
    diverged; those are not in the means.

    Args:
        table: a row for each run: method, a column for each swept path, "diverged", "analysis_rmse" and so on with
            standard errors in "..._se"; with several fields "analysis_rmse_FIELD".
        axes: swept paths; the first whose values are numbers is drawn along the
            abscissa, of those that mean something to most of the methods.
        fields: names.

    Example:
        >>> table = pd.DataFrame({"method": "ETKF", "observe.std": [0.5, 1.0], "diverged": 0})
        >>> table = table.assign(analysis_rmse=[0.1, 0.2], analysis_rmse_se=0.01)
        >>> [axes.get_xlabel() for axes in sweep_figure(table, ["observe.std"], ["x"]).axes]
        ['observe.std', '']
    """
    numbers = [path for path in axes if path in table.columns and _is_number(table[path])]
    axis = min(
        numbers, key=lambda path: int(np.sum(pd.isna(table[path].to_numpy()))), default=None
    )  # what most runs have, the first
    suffixes = [""] if len(fields) == 1 else [f"_{field}" for field in fields[:MOST_FIELDS]]
    with style():
        drawn = figure(8.0, 3.6 * len(suffixes))
        panels = drawn.subplots(len(suffixes), 2, squeeze=False)
        for row, suffix in zip(panels, suffixes, strict=True):
            for letter, panel, stage in zip("ab", row, ("analysis", "forecast"), strict=True):
                column = f"{stage}_rmse{suffix}"
                if column not in table.columns:
                    panel.set_axis_off()
                    panel_label(panel, letter, f"{stage}: nothing finished")
                    continue
                if axis is None:
                    _bars(panel, table, axes, column, f"{stage}_spread{suffix}")
                else:
                    _curves(panel, table, axis, axes, column, f"{stage}_spread{suffix}")
                panel_label(panel, letter, f"{stage} of {suffix[1:]}" if suffix else stage)
        told = "points: error +- standard error; bars (|): spread" if axis is None else (
            "solid: error, band of its standard error; dashed: spread"
        )  # fmt: skip
        drawn.suptitle(f"{told}; crosses: repeats diverged", fontsize=8)
        if axis is not None:
            handles, labels = panels[0, 0].get_legend_handles_labels()
            if len(labels) > 1:
                drawn.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)))
    return drawn


def _is_number(values: Any) -> bool:
    known = [value for value in values if not pd.isna(value)] if len(values) else []
    return bool(known) and all(isinstance(v, int | float | np.number) and not isinstance(v, bool) for v in known)


def _curves(panel: Any, table: pd.DataFrame, axis: str, axes: list[str], column: str, spread: str) -> None:
    others = [path for path in axes if path != axis and path in table.columns]
    told = table.apply(lambda row: _label(row, others), axis=1)
    labels = list(dict.fromkeys(told))
    for number, label in enumerate(labels[:MOST_LINES]):
        rows = table[told == label]
        color, marker = COLORS[_LINES[number % len(_LINES)]], _MARKERS[number % len(_MARKERS)]
        if rows[axis].isna().all():  # a method that the number means nothing to
            value = float(rows[column].iloc[0])
            panel.axhline(value, color=color, linestyle="-.", label=label)
            continue
        rows = rows.sort_values(axis)
        x, y = rows[axis].to_numpy(float), rows[column].to_numpy(float)
        panel.plot(x, y, color=color, marker=marker, markersize=4, label=label)
        if f"{column}_se" in rows.columns:
            error = np.nan_to_num(rows[f"{column}_se"].to_numpy(float))
            panel.fill_between(x, y - error, y + error, color=color, alpha=0.25, linewidth=0)
        if spread in rows.columns:
            panel.plot(x, rows[spread].to_numpy(float), color=color, linestyle="--", linewidth=0.9)
        _crosses(panel, x[rows["diverged"].to_numpy() > 0], 0.98 - 0.03 * number, color)
    if len(labels) > MOST_LINES:
        panel.annotate(f"and {len(labels) - MOST_LINES} more lines in runs.csv", (0.02, 0.02), xycoords="axes fraction")
    x = table[axis].dropna().to_numpy(float)
    panel.set(xlabel=axis, ylabel="root-mean-square error")
    if x.size and x.min() > 0 and x.max() / x.min() > WIDE:
        panel.set_xscale("log")
    y = table[column].dropna().to_numpy(float)
    if y.size and y.min() > 0 and y.max() / y.min() > WIDE:
        panel.set_yscale("log")
        for which in (panel.yaxis.set_major_formatter, panel.yaxis.set_minor_formatter):
            which(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "1235" else "")


def _bars(panel: Any, table: pd.DataFrame, axes: list[str], column: str, spread: str) -> None:
    rows = table.iloc[:MOST_BARS]
    labels = [_label(row, [path for path in axes if path in table.columns]) for _, row in rows.iterrows()]
    y = np.arange(len(rows))
    error = np.nan_to_num(rows[f"{column}_se"].to_numpy(float)) if f"{column}_se" in rows.columns else None
    panel.errorbar(rows[column].to_numpy(float), y, xerr=error, fmt="o", color=COLORS["blue"], capsize=3)
    if spread in rows.columns:
        panel.plot(rows[spread].to_numpy(float), y, "|", color=COLORS["red"], markersize=12)
    _crosses(panel, y[rows["diverged"].to_numpy() > 0], 0.98, "black", along_x=False)
    panel.set_yticks(y, labels)
    panel.set(xlabel="root-mean-square error", ylim=(len(rows) - 0.5, -0.5))
    panel.set_xlim(left=0)


def _crosses(panel: Any, places: Any, height: float, color: str, along_x: bool = True) -> None:
    """Mark places of an axis, at a height that is a share of the other one."""
    transform = panel.get_xaxis_transform() if along_x else panel.get_yaxis_transform()
    edge = np.full(places.size, height)
    for line in panel.plot(*((places, edge) if along_x else (edge, places)), "x", color=color, transform=transform):
        line.set_in_layout(False)


def _label(row: Any, paths: list[str]) -> str:
    values = [(path.rsplit(".", 1)[-1], row[path]) for path in paths if not _missing(row[path])]
    return ", ".join([str(row["method"]), *(f"{name} {_short(value)}" for name, value in values)])


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and np.isnan(value))


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float | np.number) and not isinstance(value, bool) else str(value)
