"""Scores of predicted ground motion and magnitudes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from diffassim.core.normal import NORMAL_90
from diffassim.experiments.framework.base import score_rows

__all__ = ["score_table", "scores_of"]


def scores_of(dataset: xr.Dataset) -> pd.DataFrame:
    """Return errors at the withheld stations, and of the magnitudes by number of stations (as the lead).

    Args:
        dataset: output of the experiment.
    """
    withheld = (dataset["withheld"].values > 0) & np.isfinite(dataset["log_pga"].values)
    rows = []
    for j, method in enumerate(dataset["method"].values):
        error = (dataset["prediction"].values[:, j] - dataset["log_pga"].values)[withheld]
        covered = np.abs(error) <= NORMAL_90 * dataset["std"].values[:, j][withheld]
        rows.append((str(method), "log10 PGA", 0, "rmse", float(np.sqrt(np.mean(error**2))), error.size))
        rows.append((str(method), "log10 PGA", 0, "coverage_90", float(np.mean(covered)), error.size))
    for j, method in enumerate(dataset["estimator"].values):
        for i, count in enumerate(dataset["nearest"].values):
            error = dataset["magnitude_estimate"].values[:, j, i] - dataset["magnitude"].values
            covered = np.abs(error) <= NORMAL_90 * dataset["magnitude_std"].values[:, j, i]
            rows.append((str(method), "magnitude", int(count), "rmse", float(np.sqrt(np.mean(error**2))), error.size))
            rows.append((str(method), "magnitude", int(count), "coverage_90", float(np.mean(covered)), error.size))
    prior = dataset["magnitude"].values - float(dataset["prior_magnitude"].values[0])
    rows.append(("no station", "magnitude", 0, "rmse", float(np.sqrt(np.mean(prior**2))), prior.size))
    return score_rows(rows)


def score_table(dataset: xr.Dataset, scores: pd.DataFrame) -> str:
    """Return the scores as text."""
    value = scores.set_index(["method", "variable", "lead", "metric"])["value"]
    n = int(scores["n"].iloc[0])
    events, nearest = dataset.sizes["time"], [int(k) for k in dataset["nearest"].values]
    lines = [f"log10 PGA at withheld stations, {n} records of {events} events    RMSE   in 90 % interval"]
    for method in map(str, dataset["method"].values):
        rmse, covered = (value[method, "log10 PGA", 0, m] for m in ("rmse", "coverage_90"))
        lines.append(f"  {method:<52} {rmse:9.3f}   {100 * covered:6.0f} %")
    lines.append(f"Magnitude, RMSE from the nearest stations:  {''.join(f'{k:>8}' for k in nearest)}")
    for method in map(str, dataset["estimator"].values):
        numbers = "".join(f"{value[method, 'magnitude', k, 'rmse']:8.3f}" for k in nearest)
        lines.append(f"  {method:<42}{numbers}")
        numbers = "".join(f"{100 * value[method, 'magnitude', k, 'coverage_90']:6.0f} %" for k in nearest)
        lines.append(f"  {'  in 90 % interval':<42}{numbers}")
    lines.append(f"  {'no station: mean of the training events':<42}{value['no station', 'magnitude', 0, 'rmse']:8.3f}")
    candidates = [int(k) for k in dataset["candidate"].values]
    found = [f"{k or 'law'}: {v:.3f}" for k, v in zip(candidates, dataset["validation"].values[0], strict=True)]
    lines.append(f"Cross-validation among the training events, by updates of the network: {', '.join(found)}")
    return "\n".join(lines)
