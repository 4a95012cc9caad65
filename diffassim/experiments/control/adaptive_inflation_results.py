"""Scores, table, figures and files of the comparison of inflations."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from diffassim.core.intervals import interval
from diffassim.experiments.control.adaptive_inflation_regimes import REGIMES
from diffassim.experiments.control.adaptive_inflation_training import about, untrained_like
from diffassim.experiments.framework.base import Results, score_rows
from diffassim.plotting.adaptive_inflation import courses, overview
from diffassim.training.reinforcement.policy_file import policies_to_text

__all__ = ["NAMES", "results_of"]

NAMES = ("best constant", "one constant", "switched constants", "finite size", "adaptive")
TOLERANCE, GAIN = 1.02, 0.95  # of the ratio to the best constant: in every regime, and where it changes


def results_of(config: Any, dataset: xr.Dataset, changed: tuple[str, ...]) -> Results:
    """Return what a finished comparison shows.

    Args:
        config: settings.
        dataset: of all filters.
        changed: regimes that change on the way.
    """
    rows, lines, files = [], [], {}
    for k, name in enumerate(config.filters):
        own = dataset.isel(time=k)
        rows += _rows(name, own)
        lines += _table(config, name, own, changed)
        for j, how in enumerate(config.trainings):
            files[f"{name}, {how}"] = (_policy(config, name, own["weights"].values[j]), about(name))
    ratios = {name: _ratios(dataset.isel(time=k)) for k, name in enumerate(config.filters)}
    labels = [str(label) for label in dataset["method"].values]
    figures = {"overview": overview(ratios, list(REGIMES), changed, labels)}
    shown = {name: {key: dataset[key].values[k] for key in ("error_course", "factor_course", "curve")}
             for k, name in enumerate(config.filters)}  # fmt: skip
    figures["courses"] = courses(shown, list(REGIMES), changed[:2], labels, list(config.trainings), config.half)
    lines.append(_note(config))
    counted = int(dataset["error"].sizes["twin"]) * len(REGIMES)
    return Results(
        score_rows(rows), figures, "\n".join(lines), counted, files={"policies.json": policies_to_text(files)}
    )


def _ratios(own: xr.Dataset) -> np.ndarray:
    """Return the ratio of each method's error to that of the best constant, shape (method, regime, twin)."""
    error = own["error"].values
    return error / error[:1]


def _rows(name: str, own: xr.Dataset) -> list[tuple[str, str, Any, str, float, int]]:
    rows = []
    ratios = _ratios(own)
    for m, label in enumerate(own["method"].values):
        for r, regime in enumerate(own["regime"].values):
            error, spread, lost = (own[key].values[m, r] for key in ("error", "spread", "lost"))
            place, count = (f"{name}: {label}", str(regime), 0.0), error.size
            rows += [
                (*place, "rmse", float(error.mean()), count),
                (*place, "spread_over_error", float(spread.mean() / error.mean()), count),
                (*place, "lost", float(lost.sum()), count),
            ]
            if m:
                mean, half = interval(ratios[m, r])
                rows.append((*place, "ratio", mean, count))
                rows += [(*place, "ratio_half_interval", half, count)] if count > 1 else []
    return rows


def _table(config: Any, name: str, own: xr.Dataset, changed: tuple[str, ...]) -> list[str]:
    labels = [str(label) for label in own["method"].values]
    ratios, lost = _ratios(own), own["lost"].values
    factor, radius = own["one_constant"].values
    constant = f"{factor:g}" + (f", radius {radius:g}" if name == "LETKF" else "")
    lines = [
        f"{name}, {config.members_of(name)} members, {config.n} variables; the one constant is {constant}",
        f"{'':<26}{'best constant':>24}" + "".join(f"{label:>24}" for label in labels[1:]),
    ]
    for r, regime in enumerate(own["regime"].values):
        factor, radius = own["constant"].values[r]
        best = f"{own['error'].values[0, r].mean():.3f} at {factor:g}" + (f", {radius:g}" if name == "LETKF" else "")
        cells = []
        for m in range(1, len(labels)):
            gone = f" ({int(lost[m, r].sum())} lost)" if lost[m, r].any() else ""
            cells.append(f"{_with_interval(ratios[m, r]) + gone:>24}")
        lines.append(f"{'*' if regime in changed else ' '} {regime:<24}{best:>24}" + "".join(cells))
    spread = own["spread"].values.mean(axis=2) / own["error"].values.mean(axis=2)
    lines.append(
        f"  {'spread over error':<24}{spread[0].mean():>24.2f}" + "".join(f"{s.mean():>24.2f}" for s in spread[1:])
    )
    changes = np.isin(own["regime"].values, changed)
    for what, chosen in (("mean where it stays", ~changes), ("mean where it changes", changes)):
        means = [_with_interval(ratios[m][chosen].mean(axis=0)) for m in range(1, len(labels))]
        lines.append(f"  {what:<24}{'':>24}" + "".join(f"{mean:>24}" for mean in means))
    return [*lines, ""]


def _with_interval(ratios: np.ndarray) -> str:
    """Return a mean over twins with its interval; a single twin has none."""
    mean, half = interval(ratios)
    return f"{mean:.3f} +- {half:.3f}" if ratios.size > 1 else f"{mean:.3f}"


def _note(config: Any) -> str:
    """Return what the table shows, and how many trainings and twins stand behind it."""
    if config.policy is not None:
        origin = f"Policies come from {config.policy}; nothing was trained."
    elif config.copies == 1:
        origin = "Each policy was trained once (copies=1): intervals leave out what another training would change."
    else:
        origin = f"Each policy is the best of {config.copies} trainings on regimes of the training."
    twins = f"with intervals of 95 percent over {config.seeds} twins" if config.seeds > 1 else "one twin, no intervals"
    return (
        f"Best constant: chosen for each regime on other seeds. Ratios to it, {twins}.\n* changes in the middle; "
        f"switched constants: those that are best for each half, as if switched there\n{origin}"
    )


def _policy(config: Any, name: str, weights: np.ndarray) -> Any:
    """Return a policy from the numbers that were kept of it."""
    like = untrained_like(name, config.dtype)
    leaves, structure = jax.tree.flatten(like)
    ends = np.cumsum([leaf.size for leaf in leaves])
    parts = [weights[end - leaf.size : end].reshape(leaf.shape) for leaf, end in zip(leaves, ends, strict=True)]
    return jax.tree.unflatten(structure, [jnp.asarray(part, config.dtype) for part in parts])
