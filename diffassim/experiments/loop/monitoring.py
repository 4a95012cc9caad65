"""Feed back: bias, spread and drift of what a model has not been trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.scipy.special import ndtri

from diffassim.experiments.loop.learner import Departures
from diffassim.training.drift import DriftDetector

__all__ = ["FIRST", "drift_alarms", "feedback", "reference_of"]

FIRST: Mapping[str, Any] = {"bias": {}, "spread": 1.0, "drift": False, "alarms": [], "flagged": 0.0, "statistic": None}
QUANTILES = 201
LARGEST_SPREAD = 2.0  # a factor of standard deviations beyond which innovations are no matter of spread
FEWEST = 30  # times of a reference


def reference_of(departures: Departures) -> dict[str, Any]:
    """Return what the statistic of a model's departures is while nothing changes: its quantiles and its memory."""
    values = departures.statistic.dropna().to_numpy()
    if len(values) < FEWEST:
        return {"quantiles": [], "n": len(values), "memory": 0.0, "mean": float("nan")}
    quantiles = np.quantile(values, np.linspace(0, 1, QUANTILES))
    scores = _normal_scores(departures.statistic.to_numpy(), quantiles, len(values))
    before, after = scores[:-1], scores[1:]
    known = np.isfinite(before) & np.isfinite(after)
    memory = float(np.clip(np.mean(before[known] * after[known]) / np.mean(before[known] ** 2), 0, 0.95))
    return {"quantiles": quantiles, "n": len(values), "memory": memory, "mean": float(values.mean())}


def drift_alarms(statistic: pd.Series, reference: Mapping[str, Any], every: float) -> list[str]:
    """Return the times at which the statistic has become larger than its reference for good.

    Its values become normal scores of their rank in the reference, so that heavy tails raise no alarm; what remains of
    each from the time before is subtracted, as correlated statistics alarm more often; the cumulative sum of
    `DriftDetector` does the rest.

    Args:
        statistic: mean square of normalized departures, by time.
        reference: see `reference_of`.
        every: mean number of times between two false alarms.

    Example:
        >>> calm = pd.Series(np.random.default_rng(0).chisquare(9, 300) / 9)
        >>> known = reference_of(Departures(pd.DataFrame(), 5.0, calm))
        >>> drift_alarms(calm, known, 10_000.0), len(drift_alarms(2 * calm, known, 10_000.0)) > 0
        ([], True)
    """
    if not len(reference["quantiles"]):
        return []
    scores = _normal_scores(statistic.to_numpy(), np.asarray(reference["quantiles"]), int(reference["n"]))
    rho = float(reference["memory"])
    left = np.concatenate([[0.0], np.nan_to_num(scores[:-1])])
    z = (scores - rho * left) / (1 - rho**2) ** 0.5
    alarms = np.asarray(_run(DriftDetector.with_false_alarms(every=every), jnp.asarray(z)))
    return [str(time) for time in statistic.index[alarms]]


def feedback(
    departures: Departures, reference: Mapping[str, Any], flagged: float, every: float, used: pd.DataFrame
) -> dict[str, Any]:
    """Return what the next round is told of this one.

    Args:
        departures: of the model that was in use, on the rows that this round has brought.
        reference: of that model.
        flagged: share of the new values that quality control has flagged.
        every: mean number of times between two false alarms.
        used: which values passed.
    """
    normalized = departures.normalized.where(used.reindex_like(departures.normalized).fillna(False).astype(bool))
    statistic = float(np.nanmean(departures.statistic)) if departures.statistic.notna().any() else float("nan")
    alarms = drift_alarms(departures.statistic, reference, every)
    ratio = statistic / float(reference["mean"]) if reference["mean"] else float("nan")
    spread = np.clip(ratio**0.5, 1 / LARGEST_SPREAD, LARGEST_SPREAD) if np.isfinite(ratio) else 1.0
    return {
        "bias": {str(name): float(normalized[name].mean()) for name in normalized.columns},
        "spread": float(spread),
        "drift": bool(alarms),
        "alarms": alarms,
        "flagged": flagged,
        "statistic": statistic,
    }


@jax.jit
def _run(detector: DriftDetector, z: Any) -> Any:
    return detector.run(z)


def _normal_scores(values: np.ndarray, quantiles: np.ndarray, n: int) -> np.ndarray:
    rank = np.interp(values, quantiles, np.linspace(0, 1, len(quantiles)))
    edge = 0.5 / n
    scores = np.asarray(ndtri(jnp.asarray(np.clip(np.nan_to_num(rank, nan=0.5), edge, 1 - edge))))
    return np.where(np.isfinite(values), scores, np.nan)
