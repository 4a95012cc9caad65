"""What was known before each day of a real record, at each lead, and whether the river was in flood."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from diffassim.core.errors import DataError
from diffassim.experiments.rivers.calibration_stages import left_out_forecasts, model_of, statistics_of
from diffassim.experiments.rivers.discharge_analysis import DischargeAnalysis, analyze_in_batches
from diffassim.experiments.rivers.discharge_calibration import open_loop
from diffassim.experiments.rivers.discharge_combination import fit_persistence
from diffassim.experiments.rivers.discharge_record import Record
from diffassim.experiments.rivers.discharge_references import autoregression, fit_autoregression, persistence

__all__ = ["RAIN", "SOURCES", "Known", "calibration_days", "flood_threshold", "require_floods", "verification_days"]

SOURCES = ("discharge", "AR(1)", "analysis")  # of levels that are known or forecast
RAIN = ("rain of the day", "rain of the day before")  # forecast as well, from two days ahead both
FEWEST_EVENTS = 5  # days of flood in each period
SMALLEST = 1e-3  # mm per day, of what a logarithm is taken


class Known(NamedTuple):
    """Days that count, in their order.

    Args:
        days: indices into the record, shape (days,).
        flood: whether the discharge was above the threshold, shape (days,).
        known: logarithms of discharge over threshold, as last observed, and as forecast by the open loop with AR(1)
            correction and by the analyses (`SOURCES`); and of one plus the rain in mm (`RAIN`); shape (days, leads, 5).
    """

    days: np.ndarray
    flood: np.ndarray
    known: np.ndarray


def flood_threshold(record: Record, quantile: float, named: tuple[float, ...]) -> float:
    """Return the discharge above which is a flood, m3/s.

    Args:
        record: of the catchment.
        quantile: share of the calibration days below it.
        named: what the settings name instead, at most one.
    """
    if named:
        return float(named[0])
    discharge = record.table.cubic_meters_per_second(record.discharge[slice(*record.calibration)])
    return float(f"{np.nanquantile(discharge, quantile):.4g}")


def require_floods(record: Record, threshold: float) -> tuple[int, int]:
    """Return how many days of calibration and verification are above a threshold.

    Raises:
        DataError: if there are too few to learn from, or to judge by.
    """
    found = []
    for name, period in (("calibration", record.calibration), ("verification", record.verification)):
        discharge = record.table.cubic_meters_per_second(record.discharge[slice(*period)])
        count = int(np.sum(discharge > threshold))
        if count < FEWEST_EVENTS:
            raise DataError(
                f"flood threshold {threshold:g} m3/s: exceeded on {count} days of the {name}, whose highest discharge "
                f"is {np.nanmax(discharge):g} m3/s; at least {FEWEST_EVENTS} are needed: choose a lower "
                "flood_quantile, or other flood_thresholds"
            )
        found.append(count)
    return found[0], found[1]


def calibration_days(config: Any, record: Record, carry: dict[str, Any], threshold: float) -> tuple[Known, np.ndarray]:
    """Return the calibration days, each forecast by a model that was not calibrated on it.

    Args:
        config: settings of the experiment.
        record: of the catchment.
        carry: what the stages of the calibration found.
        threshold: m3/s.

    Returns:
        `Known`, and what part of the departure that an analysis leaves lasts to each lead.
    """
    first, last = record.calibration
    found = left_out_forecasts(carry)
    observed = np.repeat(record.discharge[first:last, None], len(config.leads), axis=1)
    slopes = fit_persistence(found.forecast, found.unexplained, observed)
    analyzed = found.forecast + slopes * found.unexplained
    return _of_days(config, record, np.arange(first, last), found.reference, analyzed, threshold), slopes


def verification_days(
    config: Any, record: Record, carry: dict[str, Any], slopes: np.ndarray, threshold: float
) -> Known:
    """Return the verification days, forecast by the model of all calibration years.

    Args:
        config: settings of the experiment.
        record: of the catchment.
        carry: what the stages of the calibration found.
        slopes: from `calibration_days`.
        threshold: m3/s.
    """
    first, last = record.verification
    leads, model = config.leads, model_of(record, carry)
    states = open_loop(model)
    simulated = np.asarray(states.discharge[1:])
    rho = fit_autoregression((record.discharge - simulated)[slice(*record.calibration)])
    analysis = DischargeAnalysis(model, statistics_of(carry), jnp.asarray(slopes, record.discharge.dtype), leads)
    issued = np.arange(first - max(leads), last - min(leads))
    _, forecasts, _ = analyze_in_batches(analysis, states, record.discharge, issued, config.window)
    days = np.arange(first, last)
    reference = [autoregression(simulated, record.discharge, days - lead, lead, rho) for lead in leads]
    analyzed = [forecasts[days - lead - issued[0], i] for i, lead in enumerate(leads)]
    return _of_days(config, record, days, np.stack(reference, axis=1), np.stack(analyzed, axis=1), threshold)


def _of_days(
    config: Any, record: Record, days: np.ndarray, reference: np.ndarray, analyzed: np.ndarray, threshold: float
) -> Known:
    issued = np.maximum(days[:, None] - np.array(config.leads), 0)
    everything = np.stack([persistence(record.discharge, issued), reference, analyzed], axis=2)
    level = threshold / float(record.table.cubic_meters_per_second(np.ones(())))
    counted = np.isfinite(record.discharge[days]) & np.isfinite(everything).all(axis=(1, 2))
    levels = np.log(np.maximum(everything[counted], SMALLEST) / level)
    rain = np.log1p(record.table.precipitation)
    both = np.stack([rain[days], rain[np.maximum(days - 1, 0)]], axis=1)[counted].astype(levels.dtype)
    known = np.concatenate([levels, np.repeat(both[:, None], levels.shape[1], axis=1)], axis=2)
    return Known(days[counted], record.discharge[days][counted] > level, known)
