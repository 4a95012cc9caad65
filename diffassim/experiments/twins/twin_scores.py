"""One row for each run of a twin experiment: means over time and seeds, with what diverged counted apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from diffassim.core.results import Result
from diffassim.experiments.framework.base import SCORE_COLUMNS, Results
from diffassim.experiments.twins.series import NUMBERS
from diffassim.experiments.twins.sweep import PlannedRun
from diffassim.io.messages import shortened
from diffassim.plotting.sweep import sweep_figure

__all__ = ["best_rows", "run_rows", "standard_error", "summarized"]

LOST = 1.01  # times the error of the climatology: whoever is worse has lost the truth
FAILURES = (Result.NON_FINITE, Result.STALLED, Result.LINEAR_SOLVE, Result.COLLAPSED, Result.DIVERGED)
STRETCHES = 10  # of time, whose scatter tells the error of the mean of a single seed
SHOWN = 60  # rows of the table
COUNTS = ("seeds", "diverged", "lost", "failed", "analyses")


def summarized(config: Any, runs: list[PlannedRun], dataset: xr.Dataset) -> Results:
    """Return scores, one row a run, the figure and the table.

    Args:
        config: `TwinConfiguration`.
        runs: all of them.
        dataset: series of all runs, see `Twin`.
    """
    paths = list(dict.fromkeys(path for run in runs for path in run.values))
    table = run_rows(runs, dataset, paths)
    fields = [str(field) for field in dataset["field"].values]
    shown = best_rows(table, paths, config.best_over)
    axes = [path for path in paths if path not in config.best_over]
    figures = {"scores": sweep_figure(shown, axes, fields)}
    counted = int((table["seeds"] - table["diverged"]).sum())
    return Results(
        _tidy(table, paths, fields, runs), figures, _text(config, shown, paths, fields), counted, {"runs": table}
    )  # fmt: skip


def run_rows(runs: list[PlannedRun], dataset: xr.Dataset, paths: list[str]) -> pd.DataFrame:
    """Return one row for each run: method, what was swept, counts, and every mean with its standard error.

    Columns of numbers are called "analysis_rmse", or with several fields "analysis_rmse_u", and their standard errors
    the same with "_se".

    Args:
        runs: all of them.
        dataset: their series.
        paths: what was swept.
    """
    fields = [str(field) for field in dataset["field"].values]
    numbers = dataset["run"].values
    series = {name: dataset[name].values for name in NUMBERS}
    result, cycle = dataset["result"].values, dataset["cycle"].values
    rows = []
    for run in runs:
        its = np.flatnonzero(numbers == run.number)
        counts = its[cycle[its] > run.settings.discarded_cycles]
        mine = series["analysis_rmse"][its]
        known = ~np.isnan(series["climatology_rmse"][its]).all(axis=(0, 1))  # fields that this run's model has
        sound = np.isfinite(mine[:, :, known]).all(axis=(0, 2)) if known.any() else np.zeros(mine.shape[1], bool)
        sound &= ~(result[its] == Result.DIVERGED).any(axis=0)
        means = {name: values[counts][:, sound] for name, values in series.items()}
        error, climate = (means[name].mean(axis=0) for name in ("analysis_rmse", "climatology_rmse"))
        rows.append({
            "run": run.number, "method": run.method.name, "members": run.method.members,
            **{path: run.values.get(path) for path in paths}, "seeds": sound.size, "diverged": int((~sound).sum()),
            "lost": int((error[:, known] > LOST * climate[:, known]).all(axis=1).sum()) if known.any() else 0,
            "failed": int(np.isin(result[counts], FAILURES).sum()), "analyses": len(counts),
            **{key: number for name in NUMBERS for key, number in _means(name, means[name], fields).items()},
        })  # fmt: skip
    return pd.DataFrame(rows).dropna(axis="columns", how="all")


def _means(name: str, values: np.ndarray, fields: list[str]) -> dict[str, float]:
    """Return the means of a number, and their standard errors, by column."""
    found = {}
    for number, field in enumerate(fields):
        column = name if len(fields) == 1 else f"{name}_{field}"
        one = values[..., number].astype(float)
        found[column] = float(one.mean()) if one.size and not np.isnan(one).all() else np.nan
        found[f"{column}_se"] = standard_error(one)
    return found


def standard_error(values: np.ndarray) -> float:
    """Return the standard error of the mean of a number of shape (time, seed), from the scatter of the seeds.

    With a single seed it comes from the means of ten stretches of time.

    Example:
        >>> standard_error(np.array([[1.0, 3.0], [1.0, 3.0]]))
        1.0
        >>> standard_error(np.repeat([1.0, 3.0], 50)[:, None]) > 0
        True
    """
    if values.shape[1] > 1:
        means = values.mean(axis=0)
    elif values.shape[1] == 1 and values.shape[0] >= 2 * STRETCHES:
        means = np.array([stretch.mean() for stretch in np.array_split(values[:, 0], STRETCHES)])
    else:
        return float("nan")
    return float(np.std(means, ddof=1) / means.size**0.5)


def best_rows(table: pd.DataFrame, paths: list[str], best_over: tuple[str, ...]) -> pd.DataFrame:
    """Return for every method and combination of the other paths the row with the smallest error of the analysis.

    Rows with fewer diverged repeats come first.

    Args:
        table: see `run_rows`.
        paths: what was swept.
        best_over: paths whose best value is looked for.

    Example:
        >>> table = pd.DataFrame({"method": "ETKF", "r": [1.0, 1.1, 1.2], "diverged": [1, 0, 0]})
        >>> table["analysis_rmse"] = [0.1, 0.3, 0.2]
        >>> best_rows(table, ["r"], ("r",))["r"].tolist()
        [1.2]
    """
    if not best_over:
        return table
    error = next(column for column in table.columns if column.startswith("analysis_rmse"))
    ordered = table.sort_values(["diverged", error], kind="stable", na_position="last")
    keys = ["method", *(path for path in paths if path not in best_over)]
    told = ordered[keys].map(repr)
    return ordered[~told.duplicated()].sort_index()


def _tidy(table: pd.DataFrame, paths: list[str], fields: list[str], runs: list[PlannedRun]) -> pd.DataFrame:
    """Return the finite numbers as tidy scores, with a column for each swept path."""
    swept = [path for path in paths if path in table.columns]
    rows = []
    for (_, row), run in zip(table.iterrows(), runs, strict=True):
        lead = {"forecast": run.settings.observe.interval}
        for name in NUMBERS:
            stage, metric = name.split("_")
            for field in fields:
                column = name if len(fields) == 1 else f"{name}_{field}"
                if np.isfinite(row.get(column, np.nan)):
                    counted = int(row["analyses"] * (row["seeds"] - row["diverged"]))
                    rows.append([
                        row["method"], f"{field}", lead.get(stage, 0), f"{stage}_{metric}", row[column], counted,
                        row.get(f"{column}_se", np.nan), *row[swept],
                    ])  # fmt: skip
        rows += [
            [row["method"], "all", 0, count, row[count], int(row["seeds"]), 0.0, *row[swept]]
            for count in ("diverged", "lost", "failed")
        ]
    return pd.DataFrame(rows, columns=[*SCORE_COLUMNS, "standard_error", *swept])


def _text(config: Any, shown: pd.DataFrame, paths: list[str], fields: list[str]) -> str:
    """Return the table as text."""
    wanted = [
        f"{stage}_{metric}" for stage in ("analysis", "forecast", "smoothed") for metric in ("rmse", "spread", "crps")
    ]
    suffixes = [""] if len(fields) == 1 else [f"_{field}" for field in fields]
    lines = []
    for suffix in suffixes:
        columns = {"method": [str(name) for name in shown["method"]]}
        for path in paths:
            if path in shown.columns:
                columns[path.split(".", 1)[-1]] = [_word(value) for value in shown[path]]
        for name in wanted:
            if f"{name}{suffix}" in shown.columns:
                columns[name.replace("_", " ")] = _with_error(shown, f"{name}{suffix}", name.endswith("rmse"))
        for name in ("failed", "diverged", "lost"):
            columns[name] = [f"{count}/{total}" for count, total in zip(
                shown[name], shown["seeds"] * (shown["analyses"] if name == "failed" else 1), strict=True
            )]  # fmt: skip
        lines += [*([] if not suffix else ["", f"field {suffix[1:]}"]), *_aligned(columns)]
        climate = f"climatology_rmse{suffix}"
        if climate in shown.columns:
            low, high = shown[climate].min(), shown[climate].max()
            lines.append(f"  climatology: {low:.3g}" + ("" if np.isclose(low, high, rtol=5e-3) else f" to {high:.3g}"))
    best = f"; best over {', '.join(config.best_over)}" if config.best_over else ""
    title = f"Means over the analyses after cycle {config.discarded_cycles}, and over seeds, +- standard error{best}"
    return "\n".join([title, *lines, *_remarks(shown)])


def _remarks(shown: pd.DataFrame) -> list[str]:
    diverged = shown[shown["diverged"] > 0]
    if not len(diverged):
        return []
    total, of = int(shown["diverged"].sum()), int(shown["seeds"].sum())
    return [f"  {total} of {of} repeats DIVERGED and are in no mean, in {len(diverged)} of {len(shown)} runs"]


def _word(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "-"
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else shortened(value, 24)


def _with_error(shown: pd.DataFrame, column: str, told: bool) -> list[str]:
    errors = shown[f"{column}_se"] if told and f"{column}_se" in shown.columns else [np.nan] * len(shown)
    return [
        "-" if np.isnan(value) else f"{value:.4g}" + ("" if np.isnan(error) else f" +- {error:.2g}")
        for value, error in zip(shown[column], errors, strict=True)
    ]


def _aligned(columns: dict[str, list[str]]) -> list[str]:
    cells = [[name, *values[:SHOWN]] for name, values in columns.items()]
    widths = [max(map(len, column)) for column in cells]
    lines = [
        "  " + "  ".join(
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in zip(*cells, strict=True)
    ]  # fmt: skip
    more = len(next(iter(columns.values()))) - SHOWN
    return [*lines, *([f"  and {more} more rows in runs.csv"] if more > 0 else [])]
