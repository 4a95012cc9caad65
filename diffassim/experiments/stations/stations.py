"""The experiment: learn a network of stations, assimilate its reports, forecast, and verify."""

from __future__ import annotations

import functools
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from diffassim.core.errors import ConfigurationError
from diffassim.experiments.framework.base import Results, Stage, StagedExperiment
from diffassim.experiments.stations.network import Network
from diffassim.experiments.stations.products import analyze_map, analyze_unseen, analyze_withheld, as_dataset, forecast
from diffassim.experiments.stations.record import SHORT, Record, lead_text
from diffassim.experiments.stations.regional_filter import covariance_numbers
from diffassim.experiments.stations.reliability import reliability_of
from diffassim.experiments.stations.settings import (
    StationsConfiguration,
    as_record,
    chosen_stations,
    steps_of,
    usable_record,
)
from diffassim.experiments.stations.station_scores import score_stations, score_table
from diffassim.plotting.station_reliability import network_reliability
from diffassim.plotting.stations import network_overview

__all__ = ["Sources", "Stations"]

LEFT_OUT = "left_out"  # attribute of the output: the scores are computed from it alone
GROUPS = 10  # at most, of stations that are withheld one after the other


class Sources(NamedTuple):
    """The record of the stations that are learned from, that of those never seen, what was left out, and the table."""

    record: Record
    unseen: Record
    notes: tuple[str, ...]
    description: str


class Stations(StagedExperiment):
    """Analyses and forecasts of a network of stations, from a table of its observations.

    Mean cycles, spreads, a linear stochastic evolution with the covariance of its errors, regressions for each lead and
    the correlations in space are learned from the time before the verification. A Kalman filter then assimilates
    what the stations report; its state gives values where and when something is missing, at stations that are
    withheld, at places of which nothing was ever seen, and forecasts with intervals. Nothing is fitted to the
    verification; only the width of the intervals follows what has been seen before each issue.
    """

    name = "stations"
    summary = "Analyses and forecasts of a network of stations, from a table of observations."
    configuration: ClassVar[type[StationsConfiguration]] = StationsConfiguration

    def sources(self, config: Any) -> Sources:
        """Return the records, read once as long as the files stay the same."""
        files = (path for path in (config.file, config.stations_file) if path is not None and path.is_file())
        return _sources(type(self), config, tuple(path.stat().st_mtime_ns for path in files))

    def table(self, config: Any) -> Any:
        """Return the table of observations."""
        return config.read()

    def record(self, config: Any) -> tuple[Record, list[str], str]:
        """Return the record of all usable stations, a line about each thing left out, and what the table holds."""
        table = self.table(config)
        try:
            grid = table.to_grid(config.step, off_step=config.off_step)
        except ConfigurationError as error:
            raise ConfigurationError(f"{self.name}: step: {error}") from None
        record, notes = usable_record(config, as_record(table, grid), table.file)
        return record, [*table.notes, *notes], table.describe()

    def check(self, config: Any) -> str:
        """Return what was understood of settings and data."""
        sources = self.sources(config)
        chosen_stations("withheld", config.withheld, sources.record, config.seed)
        return "\n".join([sources.description, "", summarized(sources, config)])

    def stages(self, config: Any) -> tuple[Stage, ...]:
        """Return the stages: learning, and the verification in parts."""
        return (
            Stage("learning the network", 1, self._learn),
            Stage("assimilating and forecasting", 1, self._assimilate),
        )

    def memory(self, config: Any) -> dict[str, float]:
        """Return what covariances, forecasts and maps need."""
        record = self.sources(config).record
        first, last = steps_of(config, record)
        count, steps = record.components.shape[1], last - first
        needed = {
            "covariances": 8.0 * covariance_numbers(count),
            "forecasts (times x methods x leads x stations x variables)": 8.0
            * 12
            * steps
            * len(config.lead_steps)
            * count,
        }
        if config.grid is not None:
            box = np.ptp(record.places[:, :2], axis=0) / config.grid + 2
            needed["maps (times x cells x variables); choose a larger grid"] = (
                8.0 * 3 * steps * float(np.prod(box)) * (len(record.variables))
            )
        return needed

    def start(self, config: Any) -> dict[str, Any]:
        """Make sure that the record can be used."""
        sources = self.sources(config)
        chosen_stations("withheld", config.withheld, sources.record, config.seed)
        return {}

    def finish(self, config: Any, dataset: xr.Dataset) -> Results:
        """Return the scores, the table and the figure."""
        start = pd.Timestamp(config.verify_from)
        scores = score_stations(dataset, start, roots_of(config))
        table = f"{score_table(dataset, scores)}\n{dataset.attrs[LEFT_OUT]}".rstrip()
        own = scores[(scores["method"] == "assimilation") & (scores["metric"] == "rmse")]
        figures = {"stations": network_overview(dataset, scores, start)}
        if found := reliability_of(dataset, start):
            figures["reliability"] = network_reliability(found, SHORT[dataset["lead"].attrs["units"]])
        return Results(scores, figures, table, int(own["n"].min()))

    def _learn(self, config: Any, carry: dict[str, Any], _: int) -> tuple[dict[str, Any], xr.Dataset]:
        record = self.sources(config).record
        seed = config.seed if config.evolution == "neural" else None
        network = Network.learn(record, steps_of(config, record)[0], roots_of(config), config.lead_steps, seed)
        return {"network": network.to_arrays()}, xr.Dataset()

    def _assimilate(self, config: Any, carry: dict[str, Any], _: int) -> tuple[dict[str, Any], xr.Dataset]:
        sources, network = self.sources(config), Network.from_arrays(carry["network"])
        record = sources.record
        first, last = steps_of(config, record)
        rows = slice(max(first - max(config.lead_steps), 0), last)
        found = forecast(network, record, rows)
        hidden = chosen_stations("withheld", config.withheld, record, config.seed)
        if config.withheld == "each":
            groups = np.array_split(np.random.default_rng(config.seed).permutation(hidden), min(GROUPS, len(hidden)))
        else:
            groups = [hidden] if hidden.size else []
        found |= analyze_withheld(network, record, rows, groups)
        if sources.unseen.names or config.grid is not None:
            departures = network.filled(record, last)
        if sources.unseen.names:
            found |= analyze_unseen(network, record, departures, sources.unseen, rows, first)
        if config.grid is not None:
            found |= analyze_map(network, record, departures, rows, first, config.grid)
        dataset = as_dataset(found, sources.record, sources.unseen, rows, config.lead_steps)
        return {}, dataset.assign_attrs({LEFT_OUT: "\n".join([network.told, *sources.notes]).strip()})


@functools.lru_cache(maxsize=1)
def _sources(experiment: type[Stations], config: Any, _: tuple[int, ...]) -> Sources:
    record, notes, description = experiment().record(config)
    chosen = chosen_stations("unseen", config.unseen, record, config.seed)
    seen = np.setdiff1d(np.arange(len(record.names)), chosen)
    return Sources(record.stations(seen), record.stations(chosen), tuple(notes), description)


def roots_of(config: Any) -> tuple[bool, ...]:
    """Return for each variable whether its departures are taken of square roots."""
    return tuple(variable.root for variable in config.variables)


def summarized(sources: Sources, config: Any) -> str:
    """Return what a run would work on: periods, gaps, ranges, and the first rows as they will be used."""
    record = sources.record
    first, last = steps_of(config, record)
    times = record.times
    lines = [
        f"Learns from {times[0]} to {times[first - 1]} ({first} steps of {config.step}), verifies to {times[last - 1]} "
        f"({last - first} steps); leads: {', '.join(lead_text(lead, record.step) for lead in config.lead_steps)}",
        f"{len(record.names)} stations that are seen, {len(sources.unseen.names)} that are not",
    ]
    for v, variable in enumerate(record.variables):
        x = record.values[:, :, v]
        known = np.isfinite(x)
        lines.append(
            f"  {variable.name} [{variable.units}]: {np.nanmin(x):.4g} to {np.nanmax(x):.4g}, mean {np.nanmean(x):.4g},"
            f" {100 * (1 - known[:, known.any(0)].mean()):.1f} % missing at {int(known.any(0).sum())} stations"
        )
    shown = min(4, len(record.names))
    head = pd.DataFrame(
        record.values[:3, :shown].reshape(min(3, len(times)), -1), times[:3],
        [f"{name} {variable.name}" for name in record.names[:shown] for variable in record.variables],
    )  # fmt: skip
    return "\n".join([*lines, "First rows:", head.iloc[:, :8].to_string(float_format="{:.4g}".format), *sources.notes])
