"""Is one model better than another on the same times? Paired differences, with intervals that know of memory."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from scores.continuous import kge, nse
from scores.stats.statistical_tests import diebold_mariano

from diffassim.experiments.framework.base import score_rows

__all__ = ["LOSS_COLUMNS", "Comparison", "compare", "losses_of", "model_scores", "rmse_difference"]

LOSS_COLUMNS = ("model", "lead", "squared_error", "crps", "observed", "forecast")
LEVEL = 0.95  # of the intervals
RESAMPLES = 1000
FEWEST = 30  # times with both forecasts, for a test


class Comparison(NamedTuple):
    r"""A challenger against the incumbent, by the relative difference of their CRPS, averaged over leads.

    .. math:: d_t = \frac1L \sum_l \frac{C_l(t) - I_l(t)}{\bar I_l}

    Args:
        difference: mean of d; below zero the challenger is better.
        lower: end of its 95 percent interval ...
        upper: ... and the other.
        confidence: probability that the challenger is better, one minus the one-sided p-value.
        n: times.
    """

    difference: float
    lower: float
    upper: float
    confidence: float
    n: int


def losses_of(
    model: int, times: Any, leads: Any, observed: np.ndarray, forecast: np.ndarray, crps: np.ndarray
) -> pd.DataFrame:
    """Return a tidy table of losses by the time that forecasts are for.

    Args:
        model: its number.
        times: that the forecasts are for, shape (time,).
        leads: of the forecasts.
        observed: shape (time, component); NaN where missing.
        forecast: shape (time, lead, component).
        crps: shape (time, lead, component), NaN where nothing is scored.
    """
    parts = []
    single = observed.shape[1] == 1
    for k, lead in enumerate(leads):
        error = (forecast[:, k] - observed) ** 2
        with np.errstate(invalid="ignore"):
            known = np.isfinite(error) & np.isfinite(crps[:, k])
            count = known.sum(axis=1)
            part = pd.DataFrame(
                {
                    "model": model,
                    "lead": lead,
                    "squared_error": np.where(known, error, 0).sum(1) / np.maximum(count, 1),
                    "crps": np.where(known, crps[:, k], 0).sum(1) / np.maximum(count, 1),
                    "observed": observed[:, 0] if single else np.nan,
                    "forecast": forecast[:, k, 0] if single else np.nan,
                },
                index=pd.DatetimeIndex(times, name="time"),
            )
        parts.append(part[count > 0])
    return pd.concat(parts)


def compare(losses: pd.DataFrame, challenger: int, incumbent: int) -> Comparison:
    """Return the test of a challenger (Diebold and Mariano, with the variance of Hering and Genton).

    Args:
        losses: of both, columns `LOSS_COLUMNS`; times and leads that one of them lacks are left out.
        challenger: number of the model.
        incumbent: number of the other.

    Returns:
        `Comparison`, NaN where fewer than 30 times have both, and of confidence one half where they are the same.

    Source: Diebold and Mariano (1995); variance: Hering and Genton (2011).
    """
    ours, theirs = _paired(losses, challenger, incumbent, "crps")
    scale = theirs.mean()
    d = ((ours - theirs) / scale.where(scale > 0, 1.0)).mean(axis=1).dropna()
    if len(d) < FEWEST:
        return Comparison(float("nan"), float("nan"), float("nan"), float("nan"), len(d))
    if float(np.ptp(d.to_numpy())) == 0:
        return Comparison(float(d.iloc[0]), float(d.iloc[0]), float(d.iloc[0]), 0.5, len(d))
    series = xr.DataArray(d.to_numpy()[None], dims=("one", "time"), coords={"h": ("one", [int(max(ours.columns)) + 1])})
    found = diebold_mariano(series, "one", "h", confidence_level=LEVEL, statistic_distribution="t")
    value = {name: float(found[name][0]) for name in ("mean", "ci_lower", "ci_upper", "confidence_gt_0")}
    return Comparison(value["mean"], value["ci_lower"], value["ci_upper"], 1 - value["confidence_gt_0"], len(d))


def rmse_difference(losses: pd.DataFrame, first: int, second: int, lead: int, block: int, seed: int) -> Any:
    """Return how much larger the RMSE of the second model is than that of the first, and its 95 percent interval.

    Blocks of times are drawn with both models' errors together (circular block bootstrap).

    Args:
        losses: columns `LOSS_COLUMNS`.
        first: number of a model.
        second: number of another.
        lead: of the forecasts.
        block: times in a block, longer than the memory of the errors.
        seed: of the draws.

    Source: Kuensch (1989); circular: Politis and Romano (1992).
    """
    a, b = (part[lead].to_numpy() for part in _paired(losses, first, second, "squared_error"))
    known = np.isfinite(a) & np.isfinite(b)
    a, b = a[known], b[known]
    if len(a) < FEWEST:
        return (float("nan"),) * 3
    block = min(block, len(a))
    starts = np.random.default_rng(seed).integers(0, len(a), (RESAMPLES, -(-len(a) // block)))
    index = ((starts[..., None] + np.arange(block)) % len(a)).reshape(RESAMPLES, -1)[:, : len(a)]
    drawn = np.sqrt(b[index].mean(axis=1)) - np.sqrt(a[index].mean(axis=1))
    lower, upper = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(np.sqrt(b.mean()) - np.sqrt(a.mean())), float(lower), float(upper)


def model_scores(losses: pd.DataFrame, variable: str) -> pd.DataFrame:
    """Return tidy scores of every model and lead: rmse, crps, and of a single component nse and kge."""
    rows = []
    for (model, step), part in losses.groupby(["model", "lead"]):
        lead = int(str(step))
        name, n = f"model {model}", len(part)
        rows.append((name, variable, lead, "rmse", float(np.sqrt(part["squared_error"].mean())), n))
        rows.append((name, variable, lead, "crps", float(part["crps"].mean()), n))
        f, y = (xr.DataArray(part[column].to_numpy(), dims="time") for column in ("forecast", "observed"))
        if n > 1 and bool(np.isfinite(f).all()) and float(f.std()) > 0 and float(y.std()) > 0:
            rows.append((name, variable, lead, "nse", float(nse(f, y)), n))
            rows.append((name, variable, lead, "kge", float(kge(f, y)), n))
    return score_rows(rows)


def _paired(losses: pd.DataFrame, first: int, second: int, column: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a column of both models by time and lead, on the times that both have."""
    tables = []
    for model in (first, second):
        part = losses[losses["model"] == model]
        tables.append(part.set_index("lead", append=True)[column].unstack("lead").sort_index())
    return tables[0].align(tables[1], join="inner")
