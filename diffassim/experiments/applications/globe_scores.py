"""Scores of the twin experiment on the sphere: errors, calibration, failed windows, all methods side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from diffassim.experiments.applications.globe_output import kind_errors
from diffassim.experiments.applications.globe_setting import FIELDS, area_weights
from diffassim.experiments.framework.base import score_rows
from diffassim.models.spherical_shallow_water import ShallowWaterState

__all__ = ["analysis_errors", "coverage", "globe_scores", "globe_table", "spreads"]

PARTS = {"wind": ("u", "v"), "height": ("height",)}


def analysis_errors(dataset: xr.Dataset, part: str = "analysis") -> np.ndarray:
    """Return the errors of each window over the sphere, shape (window, method, kind): wind vector, height.

    Args:
        dataset: output of the experiment.
        part: 'analysis' or 'background'.
    """
    differences = (dataset[f"{part}_{name}"].values - dataset[f"true_{name}"].values[:, None] for name in FIELDS)
    return kind_errors(ShallowWaterState(*differences))


def spreads(dataset: xr.Dataset) -> np.ndarray:
    """Return the error that the filters expect, shape (window, filter, kind), of the kinds of `analysis_errors`."""
    return widening(dataset) * kind_errors(ShallowWaterState(*(dataset[f"spread_{name}"].values for name in FIELDS)))


def widening(dataset: xr.Dataset) -> float:
    """Return the factor of the spread of N members that makes it the expected error of their mean."""
    return float(np.sqrt(1 + 1 / dataset["members"].values[0]))


def interval_name(method: str, field: str) -> str:
    """Return the name, in the output, of the half width of a filter's 90 % intervals of a field."""
    return f"interval_{method.split(',')[0]}_{field}"


def half_width(dataset: xr.Dataset, method: str, field: str) -> float:
    """Return the half width of a filter's 90 % intervals of a field, in spreads (of a normal distribution: 1.645)."""
    return float(dataset[interval_name(method, field)].values[0])


def globe_scores(dataset: xr.Dataset, burn_in: int) -> pd.DataFrame:
    """Return tidy scores; windows that have failed are counted, and left out only where a field is not finite.

    Args:
        dataset: output of the experiment.
        burn_in: days at the start that do not count.
    """
    counted = dataset["time"].values > burn_in + 1e-9
    rows: list[tuple[str, str, Any, str, float, int]] = []
    errors = analysis_errors(dataset)[counted]
    forecasts = dataset["forecast_error"].values[counted]
    for j, method in enumerate(dataset["method"].values):
        for k, kind in enumerate(dataset["kind"].values):
            rows.append((method, kind, 0, "rmse", *_root(errors[:, j, k])))
            for i, lead in enumerate(dataset["lead"].values):
                rows.append((method, kind, int(lead), "rmse", *_root(forecasts[:, j, i, k])))
        failed = dataset["failed"].values[:, j]
        rows.append((method, "all", 0, "failed_windows", float(failed.sum()), failed.size))
    expected = spreads(dataset)[counted]
    shares = {name: coverage(dataset, name)[counted] for name in FIELDS}
    for i, method in enumerate(dataset["filter"].values):
        for k, (kind, names) in enumerate(PARTS.items()):
            inside = np.concatenate([shares[name][:, i] for name in names])
            known = inside[np.isfinite(inside)]
            share = float(np.mean(known)) if known.size else float("nan")
            rows.append((method, kind, 0, "coverage_90", share, known.size // len(names)))
            rows.append((method, kind, 0, "expected_error", *_root(expected[:, i, k])))
    return score_rows(rows)


def globe_table(dataset: xr.Dataset, scores: pd.DataFrame) -> str:
    """Return the scores as text."""
    value = scores.set_index(["method", "variable", "lead", "metric"])["value"]
    leads = [0, *(int(lead) for lead in dataset["lead"].values)]
    head = "".join(f"{'analysis' if lead == 0 else f'+{lead} h':>10}" for lead in leads)
    lines = [f"{'RMSE':<22}{'wind, m/s':>10}{'':{10 * (len(leads) - 1)}}{'height, m':>10}", f"{'':<22}{head}{head}"]
    for method in dataset["method"].values:
        numbers = "".join(
            f"{value[method, kind, lead, 'rmse']:10.{2 - k}f}" for k, kind in enumerate(PARTS) for lead in leads
        )
        lines.append(f"{method:<22}{numbers}{int(value[method, 'all', 0, 'failed_windows']):>9} failed")
    for method in dataset["filter"].values:
        parts = [
            f"{kind} {100 * value[method, kind, 0, 'coverage_90']:.0f} % (expected error "
            f"{value[method, kind, 0, 'expected_error']:.{2 - k}f}, +- "
            f"{np.mean([half_width(dataset, str(method), name) for name in names]):.2f} spreads)"
            for k, (kind, names) in enumerate(PARTS.items())
        ]  # fmt: skip
        lines.append(f"In the 90 % intervals of the {method}: {', '.join(parts)}")
    count = int(scores.loc[(scores["metric"] == "rmse") & (scores["lead"] == 0), "n"].max())
    start = "ERA5 at 500 hPa" if dataset["from_reanalysis"].values[0] else "jets with perturbations"
    lines.append(
        f"{count} of {dataset.sizes['time']} windows are scored, with {dataset['observed'].values.mean():.0f} values "
        f"each on average; the truth started from {start}"
    )
    chosen = {name: float(dataset[f"chosen_{name.replace(' ', '_')}"].values[0]) for name in _chosen(dataset)}
    lines.append("Chosen on another run: " + ", ".join(f"{name} {number:g}" for name, number in chosen.items()))
    return "\n".join(lines)


def _chosen(dataset: xr.Dataset) -> list[str]:
    return [str(name)[len("chosen_") :] for name in dataset.data_vars if str(name).startswith("chosen_")]


def _root(errors: np.ndarray) -> tuple[float, int]:
    """Return the root of the mean square of what is finite, and how much that is."""
    known = errors[np.isfinite(errors)]
    return (float(np.sqrt(np.mean(known**2))) if known.size else float("nan")), int(known.size)


def coverage(dataset: xr.Dataset, name: str) -> np.ndarray:
    """Return the share of the sphere where the truth lies in the 90 % interval, shape (window, filter).

    NaN where the filter has failed.
    The half width of the interval is a number of spreads, learned from the run for training.

    Args:
        dataset: output of the experiment.
        name: of the field.
    """
    found = []
    for i, method in enumerate(dataset["filter"].values):
        error = dataset[f"analysis_{name}"].sel({"method": method}).values - dataset[f"true_{name}"].values
        inside = np.abs(error) <= half_width(dataset, str(method), name) * dataset[f"spread_{name}"].values[:, i]
        share = np.sum(area_weights(*error.shape[-2:]) * inside, axis=(-2, -1))
        found.append(np.where(np.isfinite(error).all(axis=(-2, -1)), share, np.nan))
    return np.stack(found, axis=1)
