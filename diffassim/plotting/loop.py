"""Figure of a loop's rounds: what came in, how models compare, what the innovations say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from diffassim.plotting.style import COLORS, figure, panel_label, style

__all__ = ["rounds_overview"]

_SHADES = ("gray", "blue", "orange", "green", "purple", "sky", "red", "yellow")


def rounds_overview(
    rounds: pd.DataFrame, later: pd.DataFrame, scores: pd.DataFrame, statistic: pd.Series, alarms: list[str], unit: str
) -> Figure:
    """Return the figure.

    Args:
        rounds: one row for each round: `difference`, `lower`, `upper` (of the challenger, in percent), `promoted`.
        later: losses by the time that forecasts are for, of models that did not know it, columns model, lead, crps.
        scores: of the models of the first two rounds on the same later rows, columns rows, lead, metric, first, second.
        statistic: mean square of departures of the model in use, over its reference, by time.
        alarms: times at which a drift was found.
        unit: of the forecasts.
    """
    with style():
        drawn = figure(8.2, 6.6)
        (first, second), (third, fourth) = drawn.subplots(2, 2)
        _later(first, later, unit)
        _challengers(second, rounds)
        _pair(third, scores, unit)
        _drift(fourth, statistic, alarms)
    return drawn


def _later(axes: Any, later: pd.DataFrame, unit: str) -> None:
    panel_label(axes, "a", "CRPS on rows unknown to the models, 60 days")
    if len(later):
        lead = later["lead"].min()
        for k, (model, part) in enumerate(later[later["lead"] == lead].groupby("model")):
            smooth = part["crps"].sort_index().rolling("60D", min_periods=10).mean()
            axes.plot(smooth.index, smooth, color=COLORS[_SHADES[k % len(_SHADES)]], label=f"model {model}")
        axes.legend()
    axes.set_ylabel(f"CRPS, {unit}" if unit != "1" else "CRPS")
    axes.tick_params(axis="x", rotation=30)


def _challengers(axes: Any, rounds: pd.DataFrame) -> None:
    panel_label(axes, "b", "challenger against incumbent, held-back time")
    axes.axhline(0, color=COLORS["black"], linewidth=0.7)
    for number, row in rounds.iterrows():
        if np.isfinite(row["difference"]):
            color = COLORS["blue" if row["promoted"] else "red"]
            bar = [[row["difference"] - row["lower"]], [row["upper"] - row["difference"]]]
            axes.errorbar([number], [row["difference"]], yerr=bar, fmt="o" if row["promoted"] else "x", color=color)
    axes.set_xticks(list(rounds.index))
    axes.set_xlabel("round (circle: promoted, cross: not)")
    axes.set_ylabel("CRPS difference, percent")


def _pair(axes: Any, scores: pd.DataFrame, unit: str) -> None:
    panel_label(axes, "c", "models of the first two rounds, same later rows")
    chosen = scores[scores["metric"] == "rmse"]
    for k, (rows, part) in enumerate(chosen.groupby("rows", sort=False)):
        color = COLORS[("blue", "orange")[k % 2]]
        axes.plot(part["lead"], part["first"], "o--", color=color, label=f"first, rows {rows}", mfc="none")
        axes.plot(part["lead"], part["second"], "s-", color=color, label=f"second, rows {rows}")
    if len(chosen):
        axes.legend()
    axes.set_xlabel("lead")
    axes.set_ylabel(f"RMSE, {unit}" if unit != "1" else "RMSE")


def _drift(axes: Any, statistic: pd.Series, alarms: list[str]) -> None:
    panel_label(axes, "d", "squared departures over their reference")
    if len(statistic):
        axes.semilogy(statistic.index, statistic.rolling(20, min_periods=5).mean(), color=COLORS["blue"])
        axes.axhline(1, color=COLORS["black"], linewidth=0.7)
        low = axes.get_ylim()[0]
        axes.plot(pd.DatetimeIndex(alarms), [low] * len(alarms), "|", color=COLORS["red"], label="drift found", ms=12)
        if alarms:
            axes.legend()
    axes.tick_params(axis="x", rotation=30)
