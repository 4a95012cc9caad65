"""Costs of flood warnings: beside the optimum of the twin, and on the days of a record, by lead and cost of a miss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from diffassim.experiments.control.flood_warning_rules import RULES, costs_by_lead
from diffassim.experiments.framework.base import score_rows
from diffassim.experiments.framework.paired import paired_difference

__all__ = ["POLICIES", "record_scores", "record_table", "twin_scores", "twin_table"]

NEAR = 3.0  # percent above the optimum that count as near
POLICIES = ("probability", "planned")  # of the record's rules, what learns more than thresholds
BESIDE = ("threshold on discharge", "threshold on AR(1)")  # the best of which is to be beaten
CLIMATOLOGY = ("never", "always")


def twin_scores(config: Any, dataset: xr.Dataset) -> pd.DataFrame:
    """Return by agent and rule how far the expected cost lies above the optimum, in percent, and how many are near."""
    rows: list[tuple[str, str, Any, str, float, int]] = []
    best = dataset["twin_reference"].sel(twin_rule="optimum").values
    for k, miss in enumerate(config.misses):
        name = f"twin, miss {miss:g}"
        rows.append(("optimum", name, 0.0, "expected_cost", float(best[k]), 1))
        for rule in dataset["twin_rule"].values[1:]:
            cost = float(dataset["twin_reference"].sel(twin_rule=rule).values[k])
            rows.append((str(rule), name, 0.0, "excess_percent", 100 * (cost / best[k] - 1), 1))
        for agent in config.agents:
            excess = 100 * (dataset["twin_cost"].sel(agent=agent).values[:, k] / best[k] - 1)
            known = excess[np.isfinite(excess)]
            rows.append((agent, name, 0.0, "seeds_within_3_percent", float((known <= NEAR).sum()), len(excess)))
            rows.append((agent, name, 0.0, "lost_seeds", float(len(excess) - len(known)), len(excess)))
            if len(known):
                rows.append((agent, name, 0.0, "excess_percent", float(known.mean()), len(known)))
                rows.append((agent, name, 0.0, "worst_excess_percent", float(known.max()), len(known)))
    return score_rows(rows)


def twin_table(config: Any, dataset: xr.Dataset) -> str:
    """Return the twin's part as text."""
    value = twin_scores(config, dataset).set_index(["method", "variable", "metric"])["value"]
    names = [f"twin, miss {miss:g}" for miss in config.misses]
    head = "".join(f"{f'miss {miss:g}':>28s}" for miss in config.misses)
    best = "".join(f"{value['optimum', name, 'expected_cost']:28.4f}" for name in names)
    lines = [
        "Twin: expected cost of a day by dynamic programming, and percent above it (a false alarm costs "
        f"{config.false_alarm:g}, a withdrawal {config.cancellation:g})",
        f"{'':<20s}{head}", f"{'optimum':<20s}{best}",
    ]  # fmt: skip
    for rule in dataset["twin_rule"].values[1:]:
        lines.append(f"{rule!s:<20s}" + "".join(f"{value[str(rule), name, 'excess_percent']:28.2f}" for name in names))
    for agent in config.agents:
        cells = []
        for name in names:
            near, lost = (value[agent, name, metric] for metric in ("seeds_within_3_percent", "lost_seeds"))
            mean = value.get((agent, name, "excess_percent"), np.nan)
            worst = value.get((agent, name, "worst_excess_percent"), np.nan)
            cells.append(f"{mean:.2f} (<{worst:.2f}) {near:.0f}/{config.seeds}" + (f" lost {lost:.0f}" if lost else ""))
        lines.append(f"{agent:<20s}" + "".join(f"{cell:>28s}" for cell in cells))
    lines.append(f"in parentheses the worst seed; behind it the seeds within {NEAR:g} percent, of all")
    return "\n".join(lines)


def record_scores(config: Any, dataset: xr.Dataset) -> pd.DataFrame:
    """Return costs, contingency tables, values and paired differences by rule, cost of a miss and lead.

    The value is 1 for warnings without cost and 0 for the cheaper of always and never. Lead 0 is the sum over leads.
    """
    rows: list[tuple[str, str, Any, str, float, int]] = []
    flood = dataset["flood"].values.astype(bool)
    for miss in config.misses:
        costs = config.costs(miss).over(len(config.leads), np.dtype(config.dtype))
        warnings = {rule: dataset["warning"].sel(miss=miss, rule=rule).values.astype(float) for rule in RULES}
        paid = {rule: costs_by_lead(given, flood, costs) for rule, given in warnings.items()}
        for k, lead in enumerate((*config.leads, 0)):
            own = {rule: cost[:, k] if lead else cost.sum(axis=1) for rule, cost in paid.items()}
            climate = min(own[rule].sum() for rule in CLIMATOLOGY)
            best = min(BESIDE, key=lambda rule: own[rule].sum())
            for rule in RULES:
                start, n = (rule, f"record, miss {miss:g}", float(lead)), len(flood)
                rows.append((*start, "cost", float(own[rule].sum()), n))
                if climate > 0:
                    rows.append((*start, "value", float(1 - own[rule].sum() / climate), n))
                given = warnings[rule][:, k] if lead else warnings[rule]
                there = flood if lead else flood[:, None]
                for metric, found in (("hits", given * there), ("misses", (1 - given) * there),
                                      ("false_alarms", given * ~there)):  # fmt: skip
                    rows.append((*start, metric, float(found.sum()), n))
                if rule in POLICIES:
                    for beside, name in ((best, "best_threshold"), ("threshold on AR(1)", "AR1_threshold")):
                        pair = paired_difference(own[rule], own[beside], min(config.block, n), seed=config.seed)
                        for part, found in zip(("", "_low", "_high"), pair, strict=True):
                            rows.append((*start, f"minus_{name}{part}", found, n))
    return score_rows(rows)


def record_table(config: Any, dataset: xr.Dataset, scores: pd.DataFrame) -> str:
    """Return the record's part as text.

    Args:
        config: settings.
        dataset: output of the run.
        scores: from `record_scores`.
    """
    value = scores.set_index(["method", "variable", "lead", "metric"])["value"]
    leads = (*config.leads, 0)
    lines = [
        f"Record: floods above {float(dataset['threshold']):g} m3/s on {int(dataset['flood'].sum())} of "
        f"{dataset.sizes['time']} days; learned from {int(dataset['learned_floods'])} of {int(dataset['learned_days'])}"
    ]
    for miss in config.misses:
        name = f"record, miss {miss:g}"
        head = "".join(f"{f'+{lead} d' if lead else 'all leads':>30s}" for lead in leads)
        lines += ["", f"a miss costs {miss:g}: cost, value (hits/misses/false alarms)", f"{'':<24s}{head}"]
        for rule in RULES:
            cells = []
            for lead in leads:
                cost, hits, misses, alarms = (
                    value[rule, name, float(lead), metric] for metric in ("cost", "hits", "misses", "false_alarms")
                )
                worth = value.get((rule, name, float(lead), "value"), np.nan)
                cells.append(f"{cost:8.1f} {worth:6.3f} ({hits:.0f}/{misses:.0f}/{alarms:.0f})")
            lines.append(f"{rule:<24s}" + "".join(f"{cell:>30s}" for cell in cells))
        for rule in POLICIES:
            cells = []
            for lead in leads:
                total, low, high = (
                    value[rule, name, float(lead), f"minus_best_threshold{part}"] for part in ("", "_low", "_high")
                )
                cells.append(f"{total:+.1f} [{low:+.1f}, {high:+.1f}]")
            lines.append(f"{rule + ' - best rule':<24s}" + "".join(f"{cell:>30s}" for cell in cells))
    lines.append(
        f"\nbest rule: the cheaper of {BESIDE[0]} and {BESIDE[1]} in the verification; intervals of 95 percent from a "
        f"paired bootstrap of blocks of {config.block} days"
    )
    return "\n".join(lines)
