"""Scores of policies in the same years: means, differences from the rule curve year by year, floods and deficits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from diffassim.core.intervals import interval
from diffassim.decisions import Basin
from diffassim.experiments.control.reservoir_contenders import BASELINE
from diffassim.experiments.framework.base import score_rows
from diffassim.io.lake_years import LakeYears

__all__ = ["Judged", "described", "scored"]


class Judged(NamedTuple):
    """What a policy did: daily rewards, levels at the days' ends (m) and releases (m3/s), shape (years, days)."""

    reward: np.ndarray
    level: np.ndarray
    release: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """Return of each year."""
        return self.reward.sum(axis=1)


def scored(found: Mapping[str, Judged], record: LakeYears, basin: Basin) -> pd.DataFrame:
    """Return tidy scores of all policies, which were judged in the same years.

    Args:
        found: by name; the rule curve among them.
        record: the years.
        basin: the lake.
    """
    rows: list[tuple[str, str, Any, str, float, int]] = []
    base = found[BASELINE.name].total
    for name, own in found.items():
        total, years = own.total, len(record.years)
        served = np.maximum(own.release - float(basin.ecological), 0)
        missing = np.maximum(record.demand - served, 0).sum(1) / np.maximum(record.demand.sum(1), 1e-9)
        facts = {
            "mean_return": total.mean(),
            "flood_days": (own.level > float(basin.flood)).sum(1).mean(),
            "drought_days": (own.level < float(basin.drought)).sum(1).mean(),
            "demand_missing": missing.mean(),
        }
        if name != BASELINE.name:
            gain, half = interval(total - base)
            facts |= {
                "gain": gain, "gain_share": gain / abs(base.mean()) if base.any() else 0.0,
                "years_better": float((total > base).mean()),
            }  # fmt: skip
            if np.isfinite(half):
                facts["gain_half_interval"] = half
        rows += [(name, "year", 0.0, metric, float(value), years) for metric, value in facts.items()]
    return score_rows(rows)


def described(scores: pd.DataFrame, what: str) -> str:
    """Return scores as a table of text.

    Args:
        scores: of `scored`.
        what: which years they are of.
    """
    wide = scores.pivot_table(index="method", columns="metric", values="value", sort=False)
    lines = [
        f"{what}; gain: difference from the rule curve in the same years, with its interval of 95 percent",
        f"{'':24}{'mean return':>12}{'gain':>10}{'+-':>8}{'percent':>9}{'years better':>14}{'flood days':>12}"
        f"{'drought days':>14}{'demand missing':>16}",
    ]
    for name, row in wide.iterrows():
        start = f"{name:24}{row['mean_return']:12.1f}"
        if name == BASELINE.name:
            middle = " " * 41
        else:
            half = (
                f"{row['gain_half_interval']:8.1f}" if np.isfinite(row.get("gain_half_interval", np.nan)) else " " * 8
            )
            middle = f"{row['gain']:10.1f}{half}{100 * row['gain_share']:9.1f}{100 * row['years_better']:12.0f} %"
        rest = f"{row['flood_days']:12.2f}{row['drought_days']:14.2f}{100 * row['demand_missing']:14.1f} %"
        lines.append(start + middle + rest)
    return "\n".join(lines)
