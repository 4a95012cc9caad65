"""Everything that is learned of a network of stations, and what it says about a stretch of the record."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from diffassim.experiments.stations.anomalies import SCALES, Anomalies
from diffassim.experiments.stations.evolution import LinearEvolution
from diffassim.experiments.stations.filtering import Filtered, StationFilter
from diffassim.experiments.stations.forecasting import KNOWLEDGE, Regressors, StationForecasts, learn_forecasts
from diffassim.experiments.stations.intervals import Intervals
from diffassim.experiments.stations.mean_cycle import MeanCycle
from diffassim.experiments.stations.neural_evolution import NeuralEvolution, learn_neural_evolution
from diffassim.experiments.stations.record import Record
from diffassim.experiments.stations.references import ForecastReferences
from diffassim.experiments.stations.regional_filter import RegionalFilter, learn_regional_filter, regions_of
from diffassim.experiments.stations.regions import Region

__all__ = ["Network"]

WARM_UP = 200  # steps of the filter before what is kept of it


@dataclasses.dataclass(frozen=True)
class Network:
    """What is learned.

    Args:
        anomalies: mean cycle, spread and scales.
        near: for each station its neighbors.
        filter: of the departures.
        forecasts: from the filtered departures.
        intervals: of the forecasts.
        references: simple forecasts.
        told: a sentence about the evolution, if a network was tried.
    """

    anomalies: Anomalies
    near: np.ndarray
    filter: RegionalFilter
    forecasts: StationForecasts
    intervals: Intervals
    references: ForecastReferences
    told: str = ""

    @classmethod
    def learn(
        cls, record: Record, first: int, roots: tuple[bool, ...], leads: tuple[int, ...], neural_seed: int | None = None
    ) -> Network:
        """Learn from the rows before `first`.

        Args:
            record: of the stations.
            first: row from which on nothing is known.
            roots: for each variable, whether its departures are taken of square roots.
            leads: of the forecasts, in steps.
            neural_seed: seed of a network that is tried in the evolution; None tries none.
        """
        times, values = record.times[:first], record.components[:first]
        scales = tuple(SCALES["sqrt" if root else "none"] for root in roots) * len(record.names)
        anomalies = Anomalies.fit(times, values, scales)
        x = anomalies.forward(times, values)
        found, near = learn_regional_filter(x, record.places, regions_of(x, record.places))
        told = ""
        if neural_seed is not None:
            found, told = learn_neural_evolution(found, x, len(record.names), neural_seed)
        forecasts = learn_forecasts(times, found.run(x).mean, x, near, leads)
        intervals = Intervals.learn(times, forecasts.missed, leads)
        return cls(anomalies, near, found, forecasts, intervals, ForecastReferences.fit(x, near, leads), told)

    def departures(self, record: Record, rows: slice) -> np.ndarray:
        """Return the standardized departures of some rows, NaN where missing, shape (time, component)."""
        return self.anomalies.forward(record.times[rows], record.components[rows])

    def filtered(self, record: Record, start: int, end: int) -> Filtered:
        """Return the filtered departures of the rows from `start` to before `end`, after a warm-up."""
        early = max(start - WARM_UP, 0)
        found = self.filter.run(self.departures(record, slice(early, end)))
        return Filtered(*(each[start - early :] for each in found))

    def filled(self, record: Record, end: int) -> np.ndarray:
        """Return the departures before a row, what is missing filled by the filter, in the unit of their scale."""
        x = self.departures(record, slice(0, end))
        return np.where(np.isfinite(x), x, self.filtered(record, 0, end).mean) * self.anomalies.std

    def to_arrays(self) -> dict[str, Any]:
        """Return it as a nested dict of arrays."""
        f, cycle = self.forecasts, self.anomalies.cycle
        return {
            "cycle": {
                "coefficients": cycle.coefficients,
                "waves": np.array([cycle.daily, cycle.yearly, cycle.together]),
            },
            "std": self.anomalies.std,
            "roots": np.array([scale.name == "sqrt" for scale in self.anomalies.scales]),
            "near": self.near, "told": np.frombuffer(self.told.encode() or b" ", np.uint8),
            **{f"filter {k}": _filter_arrays(*each) for k, each in enumerate(zip(*self.filter, strict=True))},
            "forecasts": {
                "leads": np.array(f.leads), "patterns": f.regressors.patterns, "damping": f.damping,
                "knowledge": np.array([KNOWLEDGE.index(each) for each in f.knowledge]),
                **{f"coefficients {k}": np.stack(each) for k, each in enumerate(f.coefficients)},
            },
            "intervals": self.intervals._asdict(),
            "references": {"damping": self.references.damping, "coefficients": self.references.coefficients,
                           "std": self.references.std},
        }  # fmt: skip

    @classmethod
    def from_arrays(cls, arrays: dict[str, Any]) -> Network:
        """Return it from what `to_arrays` gave."""
        daily, yearly, together = (int(each) for each in arrays["cycle"]["waves"])
        cycle = MeanCycle(arrays["cycle"]["coefficients"], daily, yearly, bool(together))
        scales = tuple(SCALES["sqrt" if root else "none"] for root in arrays["roots"])
        near, f = arrays["near"], arrays["forecasts"]
        leads = tuple(int(lead) for lead in f["leads"])
        count = sum(name.startswith("filter ") for name in arrays)
        forecasts = StationForecasts(
            leads, Regressors(near, f["patterns"]), f["damping"], tuple(KNOWLEDGE[k] for k in f["knowledge"]),
            tuple(tuple(f[f"coefficients {k}"]) for k in range(len(leads))), np.empty((0, len(leads), len(scales))),
        )  # fmt: skip
        return cls(
            Anomalies(scales, cycle, arrays["std"]), near,
            RegionalFilter(*zip(*(_filter_from(arrays[f"filter {k}"]) for k in range(count)), strict=True)),
            forecasts, Intervals(**arrays["intervals"]), ForecastReferences(**arrays["references"], near=near),
            arrays["told"].tobytes().decode().strip(),
        )  # fmt: skip


def _filter_arrays(region: Region, found: StationFilter) -> dict[str, np.ndarray]:
    linear, neural = found.evolution, {}
    if isinstance(linear, NeuralEvolution):
        neural, linear = linear.to_arrays(), linear.linear
    return {
        "own": region.own, "seen": region.seen, "coefficients": np.asarray(linear.coefficients),
        "regressors": np.asarray(linear.regressors), "error": found.error, "start": found.start,
        "share": np.asarray(found.share), "carried": np.asarray(found.carried), **neural,
    }  # fmt: skip


def _filter_from(arrays: dict[str, Any]) -> tuple[Region, StationFilter]:
    evolution: Any = LinearEvolution(arrays["coefficients"], arrays["regressors"])
    if "kinds" in arrays:
        evolution = NeuralEvolution.from_arrays(evolution, arrays)
    share, carried = float(arrays["share"]), bool(arrays["carried"])
    return Region(arrays["own"], arrays["seen"]), StationFilter(
        evolution, arrays["error"], arrays["start"], share, carried
    )
