"""Verification of flood warnings: Brier score, reliability, discrimination, hits and false alarms, economic value."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from scores.categorical import BinaryContingencyManager
from scores.probability import brier_score, relative_economic_value, roc_auc

from diffassim.experiments.framework.base import score_rows
from diffassim.plotting.discharge_warnings import warning_overview

__all__ = [
    "RATIOS",
    "Warned",
    "reliability",
    "value_curve",
    "warned_days",
    "warning_results",
    "warning_scores",
    "warning_table",
]

RATIOS = np.round(np.arange(0.01, 1.0, 0.01), 2)  # of the cost of protection to the loss that it prevents
EDGES = np.round(np.linspace(0, 1, 11), 1)  # of the bins of forecast probability
REFERENCE = "climatology"
ENOUGH = 30  # events, for a figure
_WIDTH = 9  # of a column


class Warned(NamedTuple):
    """Warnings of one lead and threshold on the days that count.

    probability (time, method), in float64; event (time,), one where discharge exceeded the threshold, else zero.
    """

    probability: xr.DataArray
    event: xr.DataArray


def warning_results(dataset: xr.Dataset, dates: Any, warning_probability: float) -> tuple[pd.DataFrame, str, Any]:
    """Return scores, table and figure of the warnings; the figure is of the highest threshold with enough events.

    Args:
        dataset: the output of a discharge experiment, with `exceedance`.
        dates: days on which a forecast may be scored.
        warning_probability: at which a warning is given.
    """
    scores = warning_scores(dataset, dates, warning_probability)
    leads = [int(lead) for lead in dataset["lead"].values]
    shown = list(dict.fromkeys([leads[0], leads[min(2, len(leads) - 1)]]))
    threshold = _drawn_threshold(dataset, dates, leads[0])
    curves = [value_curve(warned_days(dataset, dates, lead, threshold)) for lead in shown]
    values = xr.concat(curves, xr.IndexVariable("lead", shown))
    own = scores[scores["variable"] == _variable(threshold)]
    figure = warning_overview(dataset, own, values, threshold, warning_probability)
    return scores, warning_table(scores, warning_probability), figure


def warned_days(dataset: xr.Dataset, dates: Any, lead: int, threshold: float) -> Warned:
    """Return probabilities and events on the days that every method is scored on.

    Args:
        dataset: with `exceedance` (time, method, lead, threshold) and `verifying` (time, lead); time is when it was
            issued.
        dates: days on which a forecast may be scored; those without an observation are left out.
        lead: days.
        threshold: m3/s.
    """
    at_lead = dataset.sel(lead=lead, threshold=threshold)
    valid = pd.DatetimeIndex(at_lead["time"].values) + pd.Timedelta(days=int(lead))
    counted = np.asarray(valid.isin(pd.DatetimeIndex(dates))) & np.isfinite(at_lead["verifying"].values)
    at_lead = at_lead.isel(time=np.flatnonzero(counted)).reset_coords(drop=True)
    # Single precision can carry a probability past its bounds by a rounding error.
    probability = at_lead["exceedance"].astype(float).clip(0, 1).transpose("time", "method")
    return Warned(probability, (at_lead["verifying"] > threshold).astype(float))


def warning_scores(dataset: xr.Dataset, dates: Any, warning_probability: float) -> pd.DataFrame:
    r"""Return tidy scores of the warnings by method, threshold and lead.

    The skill is \(1 - B/B_c\) with the Brier score \(B_c\) of climatology, which knows the season and the calibration
    years alone. A warning is given at the stated probability or above. Values of those who act at a probability of
    their own cost-loss ratio are relative to acting always or never, whichever is cheaper (0), and to perfect forecasts
    (1).

    Args:
        dataset: see `warned_days`.
        dates: days on which a forecast may be scored.
        warning_probability: at which a warning is given.

    Returns:
        Rows of brier, brier_skill, roc_area, hit_rate, false_alarm_ratio, greatest_value, cost_loss_ratio (which has
        it), event_frequency; and of the reliability table: for each bin of forecast probability its mean and the
        observed frequency, with the number of forecasts in the bin. A score that is not defined, as the hit rate where
        nothing happened, has no row.

    Source: Brier (1950); relative value: Richardson (2000), Wilks (2001).
    """
    rows: list[tuple[str, str, Any, str, float, int]] = []
    for threshold in dataset["threshold"].values:
        for lead in dataset["lead"].values:
            warned = warned_days(dataset, dates, int(lead), float(threshold))
            count = int(warned.event.size)
            for method, values in _by_method(warned, warning_probability).items():
                start = (method, _variable(threshold), int(lead))
                defined = {m: v for m, v in values.items() if np.isfinite(v) or not np.isfinite(values["brier"])}
                rows += [(*start, metric, float(value), count) for metric, value in defined.items()]
                for name, forecast, observed, number in reliability(warned, method).itertuples(index=False, name=None):
                    rows.append((*start, f"forecast_probability {name}", float(forecast), int(number)))
                    rows.append((*start, f"observed_frequency {name}", float(observed), int(number)))
    return score_rows(rows)


def reliability(warned: Warned, method: str) -> pd.DataFrame:
    """Return for each bin of forecast probability: its name, the mean forecast, the observed frequency, the number.

    Bins hold their lower edge (the last one both); those without a forecast are left out.
    """
    probability = warned.probability.sel({"method": method}).values
    event = warned.event.values
    known = np.isfinite(probability)
    probability, event = probability[known], event[known]
    index = np.minimum(np.searchsorted(EDGES, probability, side="right") - 1, len(EDGES) - 2)
    count = np.bincount(index, minlength=len(EDGES) - 1)
    there = count > 0
    means = [np.bincount(index, x, minlength=len(count))[there] / count[there] for x in (probability, event)]
    names = [f"{lower:.1f}-{upper:.1f}" for lower, upper in pairwise(EDGES)]
    return pd.DataFrame(
        {"bin": np.array(names)[there], "forecast": means[0], "observed": means[1], "number": count[there]}
    )


def value_curve(warned: Warned) -> xr.DataArray:
    """Return the relative economic value of acting at the probability of one's own cost-loss ratio.

    Args:
        warned: probabilities and events.

    Returns:
        Values of shape (method, cost_loss_ratio); NaN where nothing or only events happened.
    """
    found = relative_economic_value(
        warned.probability, warned.event, cost_loss_ratios=RATIOS.tolist(), probability_thresholds=RATIOS.tolist(),
        preserve_dims=["method"], generate_equilibrium_point_rev=True,
    )  # fmt: skip
    return found["equilibrium_point"].transpose("method", "cost_loss_ratio")


def warning_table(scores: pd.DataFrame, warning_probability: float) -> str:
    """Return the scores of the warnings as text: for each threshold four small tables, two beside each other.

    Args:
        scores: from `warning_scores`.
        warning_probability: at which a warning is given.
    """
    pairs = (
        (("Brier skill", ("brier_skill",)), ("ROC area", ("roc_area",))),
        (
            (f"hits/false alarms, warned at {100 * warning_probability:g} %", ("hit_rate", "false_alarm_ratio")),
            ("greatest value/at cost per loss", ("greatest_value", "cost_loss_ratio")),
        ),
    )
    parts = []
    for variable, own in scores.groupby("variable", sort=False):
        value = own.set_index(["metric", "method", "lead"])["value"].to_dict()
        methods, leads = list(own["method"].unique()), sorted(own["lead"].unique())
        brier = own[own["metric"] == "brier"]
        days, share = int(brier["n"].iloc[0]), value["event_frequency", methods[0], leads[0]]
        lines = [f"Warnings: {variable} on {share * days:.0f} of {days} days" if days else f"Warnings: {variable}"]
        for pair in pairs:
            lines.append(_beside(f"{pair[0][0]:>{_WIDTH * len(leads)}}", f"{pair[1][0]:>{_WIDTH * len(leads)}}"))
            marks = "".join(f"{f'+{lead} d':>{_WIDTH}}" for lead in leads)
            lines.append(_beside(marks, marks))
            for method in methods:
                left, right = (
                    "".join(
                        f"{_cell([value.get((m, method, lead), np.nan) for m in metrics]):>{_WIDTH}}" for lead in leads
                    )
                    for _, metrics in pair
                )
                lines.append(_beside(left, right, method))
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _variable(threshold: float) -> str:
    return f"discharge > {threshold:g} m3/s"


def _drawn_threshold(dataset: xr.Dataset, dates: Any, lead: int) -> float:
    thresholds = [float(each) for each in dataset["threshold"].values]
    events = [float(warned_days(dataset, dates, lead, each).event.sum()) for each in thresholds]
    return max((t for t, n in zip(thresholds, events, strict=True) if n >= ENOUGH), default=thresholds[0])


def _by_method(warned: Warned, warning_probability: float) -> dict[str, dict[str, float]]:
    probability, event = warned
    known = ["method"]
    brier = brier_score(probability, event, preserve_dims=known)
    area = roc_auc(probability, event, preserve_dims=known)
    given = (probability >= warning_probability).astype(float).where(probability.notnull())
    table = BinaryContingencyManager(given, event).transform(preserve_dims=known)
    hits, false_alarms = table.probability_of_detection(), table.false_alarm_ratio()
    values = value_curve(warned)
    found = {}
    for method in (str(each) for each in probability["method"].values):
        at = {"method": method}
        own = values.sel(at).values
        best = int(np.argmax(np.where(np.isnan(own), -np.inf, own)))
        found[method] = {
            "brier": float(brier.sel(at)),
            "roc_area": float(area.sel(at)),
            "hit_rate": float(hits.sel(at)),
            "false_alarm_ratio": float(false_alarms.sel(at)),
            "greatest_value": float(own[best]),
            "cost_loss_ratio": float(RATIOS[best]) if np.isfinite(own[best]) else float("nan"),
            "event_frequency": float(event.mean()),
        }
    least = found.get(REFERENCE, {}).get("brier", float("nan"))
    for values_of in found.values():
        values_of["brier_skill"] = 1 - values_of["brier"] / least if least > 0 else float("nan")
    return found


def _beside(left: str, right: str, name: str = "") -> str:
    return f"  {name:<20}{left}   {right}"


def _cell(values: list[float]) -> str:
    """Return numbers as .12/.34, and a dash for what is not defined."""
    return "/".join("-" if np.isnan(value) else f"{value:.2f}".replace("0.", ".", 1) for value in values)
