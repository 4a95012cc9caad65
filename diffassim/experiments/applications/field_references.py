"""Simple analyses and forecasts of fields, which see what the assimilation sees."""

from __future__ import annotations

import numpy as np
import pandas as pd

from diffassim.experiments.applications.field_choice import Training, left_out_blocks
from diffassim.experiments.applications.field_model import ASPECT, FieldModel, FieldSettings
from diffassim.experiments.applications.field_record import distances

__all__ = ["choose_length", "damping", "inverse_distance", "monthly_means", "optimal_interpolation", "pattern_fit"]

LENGTHS = (6.0, 10.0, 15.0, 25.0, 40.0)
UNRESOLVED = 0.01  # variance of the observation errors of optimal interpolation, as a share of the field's


def inverse_distance(places: np.ndarray, points: np.ndarray, departures: np.ndarray) -> np.ndarray:
    """Return means of departures at points with weights of the inverse squared distance.

    Args:
        places: longitude and latitude of the field, degrees, shape (point, 2).
        points: indices of those observed, shape (m,).
        departures: there, shape (time, m).

    Returns:
        Departures of the field, shape (time, point).
    """
    zonal, meridional = distances(places, places[points])
    weights = 1 / (zonal**2 + meridional**2 + 1e-6)
    return np.asarray(departures @ (weights / weights.sum(axis=1, keepdims=True)).T)


def optimal_interpolation(
    places: np.ndarray, points: np.ndarray, departures: np.ndarray, std: np.ndarray, length: float
) -> np.ndarray:
    """Return departures by optimal interpolation with Gaussian correlations, shape (time, point).

    Args:
        places: longitude and latitude of the field, degrees, shape (point, 2).
        points: indices of those observed, shape (m,).
        departures: there, shape (time, m).
        std: standard deviations of the field, shape (point,).
        length: zonal, degrees.
    """
    zonal, meridional = distances(places[points], places)
    B = std[points][:, None] * std[None] * np.exp(-0.5 * (zonal**2 + (ASPECT * meridional) ** 2) / length**2)
    R = UNRESOLVED * np.diag(std[points] ** 2)
    return np.asarray(departures @ np.linalg.solve(B[:, points] + R, B))


def choose_length(training: Training, settings: FieldSettings) -> float:
    """Return the correlation length of optimal interpolation that serves left-out blocks best, degrees."""
    record, loss = training.record, np.zeros(len(LENGTHS))
    count = len(record.times)
    for block in left_out_blocks(count):
        rows = np.setdiff1d(np.arange(count), block)
        departures = record.values - _model(training, settings, rows).climatology(record.times)
        std = np.sqrt(np.mean(departures[rows] ** 2, axis=0))
        for points in training.points:
            seen = departures[block][:, points]
            for k, length in enumerate(LENGTHS):
                found = optimal_interpolation(record.places, points, seen, std, length)
                loss[k] += np.sum((found - departures[block]) ** 2)
    return LENGTHS[int(np.argmin(loss))]


def pattern_fit(model: FieldModel, points: np.ndarray, departures: np.ndarray) -> np.ndarray:
    """Return departures as patterns whose amplitudes fit those at the points, shape (time, point).

    What the patterns leave counts as an independent error at every point.
    """
    E = model.patterns[:, points] / model.std[points]
    gram = np.eye(len(E)) + E @ E.T
    return np.asarray(np.linalg.solve(gram, E @ (departures / model.std[points]).T).T @ model.patterns)


def monthly_means(times: pd.DatetimeIndex, values: np.ndarray, learn: int) -> np.ndarray:
    """Return the mean of each time's month over the first `learn` times, shape (time, point)."""
    month = np.asarray(times.month)
    return np.stack([values[:learn][month[:learn] == each].mean(axis=0) for each in month])


def damping(training: Training, settings: FieldSettings, lead: int) -> float:
    """Return the factor by which departures persist over a lead, in blocks that the mean cycle does not know."""
    record, product, square = training.record, 0.0, 0.0
    count = len(record.times)
    for block in left_out_blocks(count):
        model = _model(training, settings, np.setdiff1d(np.arange(count), block))
        x = record.values - model.climatology(record.times)
        due = block[block >= lead]
        product += float(np.sum(x[due] * x[due - lead]))
        square += float(np.sum(x[due - lead] ** 2))
    return product / square


def _model(training: Training, settings: FieldSettings, rows: np.ndarray) -> FieldModel:
    record = training.record
    return FieldModel.learn(settings, record.times, record.values, rows, record.places)
