"""Choose how fields are modeled, by parts of the training period that the model has not seen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from diffassim.experiments.applications.field_model import FieldModel, FieldSettings
from diffassim.experiments.applications.field_network import PointNetwork
from diffassim.experiments.applications.field_record import FieldRecord

__all__ = ["CANDIDATES", "Training", "choose_settings", "interval_factors", "left_out_blocks"]

BLOCKS, STRETCH, PASSES = (6, 12), 24, 2  # times; the filter sees a stretch that ends with the block
LEVEL = 0.9
CANDIDATES: dict[str, tuple[float, ...]] = {
    "penalty": (0.02, 0.05, 0.1, 0.2),
    "waves": (1, 2, 3),
    "patterns": (2, 3, 4, 6, 8),
    "ridge": (0.3, 1.0, 3.0),
    "decay": (0.8, 0.9, 0.95),
    "memory": (0.5, 0.6, 0.7, 0.8, 0.9),
    "share": (1.0, 3.0, 6.0, 12.0),
    "length": (15.0, 25.0, 40.0, 60.0),
}


class Training(NamedTuple):
    """What is learned from.

    Args:
        record: of the training period alone.
        points: indices of observed points, one row for each network that is tried, shape (draw, m).
        leads: of the forecasts, steps.
        noise: standard deviation of the observation errors.
    """

    record: FieldRecord
    points: np.ndarray
    leads: tuple[int, ...]
    noise: float = 0.0


class Missed(NamedTuple):
    """Errors in times that the model has not seen.

    name, of the method; lead, steps, 0 for the analysis; error and std, that it expects, shape (time, point).
    """

    name: str
    lead: int
    error: np.ndarray
    std: np.ndarray


def left_out_blocks(count: int) -> list[np.ndarray]:
    """Return the times of the blocks that are left out in turn: all half years, then all years.

    Half years leave more to learn from; with whole years, less of what is left out follows from what lies around it.

    Example:
        >>> [(block[0].item(), block[-1].item()) for block in left_out_blocks(24)]
        [(0, 5), (6, 11), (12, 17), (18, 23), (0, 11), (12, 23)]
    """
    return [block for size in BLOCKS for block in np.array_split(np.arange(count), max(count // size, 2))]


def choose_settings(training: Training, start: FieldSettings) -> tuple[FieldSettings, dict[FieldSettings, float]]:
    """Return the settings of the least errors, found by changing one after the other.

    What counts is the mean over analysis and forecasts of the logarithm of the root-mean-square error.

    Args:
        training: what is learned from.
        start: where to begin.

    Returns:
        The settings, and what counts of all that were tried.
    """
    tried = {start: _loss(training, start)}
    best = start
    for _ in range(PASSES):
        before = best
        for name, values in CANDIDATES.items():
            for value in values:
                other = FieldSettings(**(best._asdict() | {name: value}))
                if other.patterns < len(training.record.times) - max(BLOCKS) and other not in tried:
                    tried[other] = _loss(training, other)
            best = min(tried, key=lambda each: tried[each])
        if best == before:
            break
    return best, tried


def interval_factors(training: Training, settings: FieldSettings) -> dict[tuple[str, int], float]:
    """Return how many expected standard deviations the central intervals reach to each side, by method and lead."""
    sizes: dict[tuple[str, int], list[np.ndarray]] = {}
    for missed in _left_out(training, settings, spread=True):
        sizes.setdefault((missed.name, missed.lead), []).append((np.abs(missed.error) / missed.std).ravel())
    return {key: float(np.quantile(np.concatenate(found), LEVEL)) for key, found in sizes.items()}


def _loss(training: Training, settings: FieldSettings) -> float:
    squares: dict[int, list[float]] = {}
    for missed in _left_out(training, settings):
        squares.setdefault(missed.lead, []).extend(np.mean(missed.error**2, axis=1))
    return float(np.mean([0.5 * np.log(np.mean(found)) for found in squares.values()]))


def _left_out(training: Training, settings: FieldSettings, spread: bool = False) -> Iterator[Missed]:
    """Yield the errors of all blocks; those of forecasts from complete fields only where the spread is asked for."""
    record, leads = training.record, training.leads
    count, places = len(record.times), record.places
    for block in left_out_blocks(count):
        rows = np.setdiff1d(np.arange(count), block)
        model = FieldModel.learn(settings, record.times, record.values, rows, places)
        departures = record.values - model.climatology(record.times)
        for p, points in enumerate(training.points):
            network = PointNetwork.build(model, points, training.noise)
            # Times before the record are missing, so that all blocks have one shape.
            stretch = np.arange(block[-1] + 1 - STRETCH, block[-1] + 1)
            seen = np.where(stretch[:, None] >= 0, departures[np.maximum(stretch, 0)][:, points], np.nan)
            noise = np.random.default_rng([p, int(block[0])]).normal(size=seen.shape)
            state = network.run(seen + training.noise * noise)
            for lead in (0, *leads):
                due = np.flatnonzero((stretch >= 0) & (stretch + lead >= block[0]) & (stretch + lead <= block[-1]))
                if not due.size:  # the record begins here
                    continue
                later = network.ahead(type(state)(state.mean[due], state.covariance[due]), lead)
                error = later.mean @ network.field - departures[stretch[due] + lead]
                yield Missed("points", lead, error, np.sqrt(network.variance(later)) if spread else error)
        for lead in leads if spread else ():
            issued = np.arange(max(block[0] - lead, 0), block[-1] + 1 - lead)
            if not issued.size:
                continue
            mean, variance = model.ahead(departures[issued], lead)
            yield Missed("fields", lead, mean - departures[issued + lead], np.sqrt(variance)[None])
