"""Analyses and forecasts of the months that verify, each beside simple methods that see the same."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from diffassim.experiments.applications.field_choice import STRETCH
from diffassim.experiments.applications.field_model import FieldModel
from diffassim.experiments.applications.field_network import Filtered, PointNetwork
from diffassim.experiments.applications.field_record import FieldRecord
from diffassim.experiments.applications.field_references import (
    inverse_distance,
    monthly_means,
    optimal_interpolation,
    pattern_fit,
)

__all__ = ["ANALYSES", "FORECASTS", "OWN", "Learned", "verify"]

ANALYSES = ("climatology", "inverse distance", "patterns", "optimal interpolation", "assimilation")
OWN = ("assimilation", "assimilation of complete fields")
FORECASTS = ("climatology", "persistence of monthly anomalies", "persistence", "damped persistence", *OWN)


class Learned(NamedTuple):
    """What was learned from the training period.

    model; factors, of the intervals by method and lead; damping, of persistence for every lead; length, of optimal
    interpolation, degrees.
    """

    model: FieldModel
    factors: dict[str, float]
    damping: np.ndarray
    length: float


def verify(record: FieldRecord, learned: Learned, points: np.ndarray, config: Any) -> xr.Dataset:
    """Return errors of all methods in the months after the training period, and fields of the first network.

    Args:
        record: all months.
        learned: from the first `config.learn` of them.
        points: that are observed, shape (draw, m).
        config: of the experiment.

    Returns:
        Mean squared errors `analysis_error` (time, draw, method) and `forecast_error` (time, draw, method, lead), by
        the month for which they are valid; `inside` (time, draw, method, lead), the share of values in the intervals;
        fields of the first network.
    """
    first, leads = config.learn, config.leads
    departures = record.values - learned.model.climatology(record.times)
    simple = _simple_forecasts(record, learned, departures, first, leads)
    complete, within = _from_fields(learned, departures, first, leads)
    results = []
    for draw, chosen in enumerate(points):
        found = _one_network(learned, departures, chosen, config, draw)
        found["forecast_error"] = np.concatenate([simple, found["forecast_error"], complete], axis=1)
        found["inside"] = np.stack([found["inside"], within], axis=1)
        results.append(found)
    stacked = {name: np.stack([found[name] for found in results], axis=1) for name in ("analysis_error", "inside")}
    stacked["forecast_error"] = np.stack([found["forecast_error"] for found in results], axis=1)
    squares = np.mean([found["square"] for found in results], axis=0)
    return _as_dataset(record, learned, stacked, results[0], squares, points[0], config)


def _one_network(
    learned: Learned, departures: np.ndarray, points: np.ndarray, config: Any, draw: int
) -> dict[str, np.ndarray]:
    """Return errors, shares and fields of one network, by the month for which they are valid."""
    first, model = config.learn, learned.model
    begin = max(first - STRETCH, 0)
    noise = np.random.default_rng([config.seed, 3, draw]).normal(size=(len(departures), len(points)))
    seen = departures[:, points] + config.noise * noise
    network = PointNetwork.build(model, points, config.noise)
    state = network.run(seen[begin:])
    truth, observed = departures[first:], seen[first:]
    std = np.sqrt(np.mean(departures[:first] ** 2, axis=0))
    analyses = [
        np.zeros_like(truth),
        inverse_distance(model.places, points, observed),
        pattern_fit(model, points, observed),
        optimal_interpolation(model.places, points, observed, std, learned.length),
    ]
    fields, spreads, errors, inside = [], [], [], []
    for lead in (0, *config.leads):
        issued = slice(first - lead - begin, len(departures) - lead - begin)
        later = network.ahead(Filtered(state.mean[issued], state.covariance[issued]), lead)
        mean, spread = later.mean @ network.field, np.sqrt(network.variance(later))
        half = learned.factors[f"points {lead}"] * spread
        inside.append(np.mean(np.abs(mean - truth) <= half, axis=1))
        errors.append(np.mean((mean - truth) ** 2, axis=1))
        fields.append(mean)
        spreads.append(spread)
    squares = [np.mean((found - truth) ** 2, axis=1) for found in analyses]
    return {
        "analysis_error": np.stack([*squares, errors[0]], axis=1),
        "forecast_error": np.stack(errors[1:], axis=1)[:, None],
        "inside": np.stack(inside, axis=1),
        "mean": np.stack(fields, axis=1),
        "std": np.stack(spreads, axis=1),
        "square": np.mean((fields[0] - truth) ** 2, axis=0),
    }


def _simple_forecasts(
    record: FieldRecord, learned: Learned, departures: np.ndarray, first: int, leads: tuple[int, ...]
) -> np.ndarray:
    """Return mean squared errors of what needs no network, from complete fields, shape (time, method, lead)."""
    monthly = record.values - monthly_means(record.times, record.values, first)
    found = []
    for k, lead in enumerate(leads):
        due, issued = slice(first, None), slice(first - lead, len(departures) - lead)
        errors = (
            departures[due], monthly[due] - monthly[issued], departures[due] - departures[issued],
            departures[due] - learned.damping[k] * departures[issued],
        )  # fmt: skip
        found.append([np.mean(error**2, axis=1) for error in errors])
    return np.moveaxis(np.array(found), 2, 0).swapaxes(1, 2)


def _from_fields(
    learned: Learned, departures: np.ndarray, first: int, leads: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the same of own forecasts from complete fields, and the share in their intervals (of the analysis: 1)."""
    errors, inside = [], [np.ones(len(departures) - first)]
    for lead in leads:
        mean, variance = learned.model.ahead(departures[first - lead : len(departures) - lead], lead)
        missed = mean - departures[first:]
        errors.append(np.mean(missed**2, axis=1))
        half = learned.factors[f"fields {lead}"] * np.sqrt(variance)
        inside.append(np.mean(np.abs(missed) <= half, axis=1))
    return np.stack(errors, axis=1)[:, None], np.stack(inside, axis=1)


def _as_dataset(
    record: FieldRecord,
    learned: Learned,
    stacked: dict[str, np.ndarray],
    network: dict[str, np.ndarray],
    squares: np.ndarray,
    points: np.ndarray,
    config: Any,
) -> xr.Dataset:
    first, leads = config.learn, [0, *config.leads]
    cycle = learned.model.climatology(record.times[first:])
    grid = ("time", "latitude", "longitude")
    factors = np.array([learned.factors[f"points {lead}"] for lead in leads])
    fields = {
        "observed": (grid, record.on_grid(record.values[first:])),
        "analysis": (grid, record.on_grid(network["mean"][:, 0] + cycle)),
        "analysis_std": (grid, record.on_grid(network["std"][:, 0])),
        "climatology": (grid, record.on_grid(cycle)),
        "forecast": (("time", "step", *grid[1:]), record.on_grid(network["mean"][:, 1:] + cycle[:, None])),
        "forecast_std": (("time", "step", *grid[1:]), record.on_grid(network["std"][:, 1:])),
    }
    dataset = xr.Dataset(
        {name: (dims, values, {"units": "K"}) for name, (dims, values) in fields.items()}
        | {
            "analysis_error": (("time", "draw", "analysis_method"), stacked["analysis_error"], {"units": "K2"}),
            "forecast_error": (("time", "draw", "method", "step"), stacked["forecast_error"], {"units": "K2"}),
            "inside": (("time", "draw", "own", "lead"), stacked["inside"], {"units": "1"}),
            "rmse_map": (grid[1:], record.on_grid(np.sqrt(squares)), {"units": "K"}),
            "interval_factor": ("lead", factors, {"units": "1"}),
            "point_longitude": ("point", record.places[points, 0], {"units": "degrees_east"}),
            "point_latitude": ("point", record.places[points, 1], {"units": "degrees_north"}),
        },
        {
            "time": record.times[first:], "latitude": record.latitude, "longitude": record.longitude,
            "lead": ("lead", leads, {"units": "months"}), "step": ("step", leads[1:], {"units": "months"}),
            "analysis_method": list(ANALYSES), "method": list(FORECASTS), "own": list(OWN),
        },
    )  # fmt: skip
    dataset.attrs["settings"] = ", ".join(f"{key} {value:g}" for key, value in learned.model.settings._asdict().items())
    dataset.attrs["interpolation_length"] = learned.length
    dataset.attrs["cells"] = record.values.shape[1]
    return dataset
