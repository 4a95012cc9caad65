"""Figure of flood warnings: agents beside the optimum, values on the record, and warnings of the largest flood."""

from __future__ import annotations

from typing import Any

import matplotlib.dates as mdates
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from diffassim.plotting.style import COLORS, figure, panel_label, style

__all__ = ["overview"]

_SHOWN = ("blue", "orange", "green", "purple", "sky", "red")
_LOOKS: dict[str, tuple[str, str]] = {
    "threshold on discharge": ("gray", "^"),
    "threshold on AR(1)": ("orange", "D"),
    "threshold on analysis": ("sky", "s"),
    "probability": ("green", "v"),
    "planned": ("blue", "o"),
}
_BEFORE, _AFTER = 12, 16  # days around the peak


def overview(config: Any, dataset: xr.Dataset, scores: list[pd.DataFrame]) -> Figure:
    """Return the figure.

    Args:
        config: settings, with `misses`, `leads` and `parts`.
        dataset: output of the run.
        scores: of the parts, in their order twin, record.
    """
    twin, record = "twin" in config.parts, "record" in config.parts
    with style():
        drawn = figure(10.0, 4.0 * (twin + record))
        rows = drawn.subfigures(twin + record, 1, squeeze=False)[:, 0]
        if twin:
            _twin(rows[0], config, dataset)
        if record:
            _record(rows[-1], config, dataset, scores[-1], "b" if twin else "a")
    return drawn


def _twin(part: Any, config: Any, dataset: xr.Dataset) -> None:
    axes = part.subplots()
    best = dataset["twin_reference"].sel(twin_rule="optimum").values
    place = np.arange(len(config.misses))
    for k, agent in enumerate(config.agents):
        excess = 100 * (dataset["twin_cost"].sel(agent=agent).values / best - 1)
        x = place[None, :] + 0.16 * (k - (len(config.agents) - 1) / 2) + np.linspace(-0.05, 0.05, len(excess))[:, None]
        axes.plot(
            x.ravel(), excess.ravel(), "o", markersize=3, color=COLORS[_SHOWN[k % len(_SHOWN)]], alpha=0.7,
            markeredgewidth=0, label=agent,
        )  # fmt: skip
    for rule, line in (("threshold", "--"), ("cost-loss", ":")):
        found = 100 * (dataset["twin_reference"].sel(twin_rule=rule).values / best - 1)
        for k, value in enumerate(found):
            label = {"threshold": "best thresholds", "cost-loss": "cost-loss rule"}[rule] if k == 0 else None
            axes.plot([k - 0.42, k + 0.42], [value, value], line, color=COLORS["black"], linewidth=1, label=label)
    axes.axhline(3, color=COLORS["red"], linewidth=0.7)
    axes.set_xticks(place, [f"a miss costs {miss:g}" for miss in config.misses])
    axes.set(ylabel="percent above the optimum", ylim=(0, None))
    axes.legend(ncols=3, loc="center left", bbox_to_anchor=(0, 0.62))
    axes.margins(y=0.25)
    panel_label(axes, "a", "twin: expected cost of every seed; red: 3 percent above dynamic programming")


def _record(part: Any, config: Any, dataset: xr.Dataset, scores: pd.DataFrame, letter: str) -> None:
    left, right = part.subplots(1, 2, width_ratios=(1, 1.5))
    whole = scores[scores["lead"] == 0].set_index(["method", "variable", "metric"])["value"]
    place = np.arange(len(config.misses))
    for k, (rule, (color, mark)) in enumerate(_LOOKS.items()):
        values = [whole.get((rule, f"record, miss {miss:g}", "value"), np.nan) for miss in config.misses]
        left.plot(place + 0.1 * (k - 2), values, mark, color=COLORS[color], markersize=6, label=rule)
    left.set_xticks(place, [f"{miss:g}" for miss in config.misses])
    left.set(xlabel="cost of a miss, in false alarms" if config.false_alarm == 1 else "cost of a miss",
             ylabel="value (0: always or never, 1: perfect)")  # fmt: skip
    left.margins(y=0.15)
    left.legend()
    panel_label(left, letter, "record: economic value, all leads")

    flow = dataset["discharge"].values
    peak = int(np.nanargmax(flow))
    near = slice(max(peak - _BEFORE, 0), peak + _AFTER)
    dates, flow = pd.DatetimeIndex(dataset["time"].values)[near], flow[near]
    limit = float(dataset["threshold"])
    right.plot(dates, flow, "-", color=COLORS["black"], label="observed discharge")
    right.axhline(limit, color=COLORS["red"], linewidth=0.7, label=f"threshold {limit:g} m³/s")
    miss, top = config.misses[len(config.misses) // 2], float(np.max(flow))
    row = 0
    names = []
    for rule in ("threshold on AR(1)", "planned"):
        for lead in reversed(config.leads):
            given = dataset["warning"].sel(miss=miss, rule=rule, lead=lead).values[near].astype(bool)
            height = -0.08 * top * (row + 1)
            right.plot(dates[given], np.full(given.sum(), height), "s", color=COLORS[_LOOKS[rule][0]], markersize=4)
            names.append((height, f"{rule}, +{lead} d"))
            row += 1
    for height, name in names:
        right.annotate(name, (1.01, height), xycoords=("axes fraction", "data"), va="center", fontsize=7)
    right.set(ylabel="m³/s", ylim=(-0.08 * top * (row + 1), 1.08 * top))
    right.set_yticks([tick for tick in right.get_yticks() if 0 <= tick <= 1.08 * top])
    right.xaxis.set_major_formatter(mdates.ConciseDateFormatter(mdates.AutoDateLocator()))
    right.legend(loc="upper right")
    panel_label(right, chr(ord(letter) + 1), f"the largest flood; squares: warned of that day (a miss costs {miss:g})")
