"""What a network of stations needs to be told, and its record."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Annotated, Any, Literal, Self

import numpy as np
import pandas as pd
from pydantic import Field, field_validator, model_validator

from diffassim.core.errors import ConfigurationError, DataError
from diffassim.experiments.framework.table_settings import StationVariable, TableConfiguration
from diffassim.experiments.stations.record import Record
from diffassim.io.messages import shortened, suggested
from diffassim.io.observation_table import ObservationTable, StationGrid

__all__ = ["StationVariable", "StationsConfiguration", "as_record", "chosen_stations", "steps_of", "usable_record"]

LEAST_TRAINING = 30  # steps
LEAST_VALUES, LEAST_SHARE = 20, 0.05  # of a variable at a station, before the verification


class StationsConfiguration(TableConfiguration):
    """Settings of a network of stations: of its table (`TableConfiguration`), and of what is done with it.

    Args:
        step: of the record, such as "1h" or "1D".
        off_step: what becomes of reports between the steps: "error", "nearest", "mean" or "missing".
        verify_from: first time whose values nothing is learned from (UTC).
        verify_until: time from which on nothing is scored; default: the end of the record.
        leads: of the forecasts, such as ["1h", "1D"]; default: 1, 3, 6, 12 and 24 steps, or 1, 2, 3, 5 and 7 days.
        withheld: stations whose reports are withheld during the verification and analysed from the others'; or "each",
            one after the other.
        unseen: stations of which nothing is ever seen: names, or a share such as 0.2, drawn by the seed.
        grid: spacing, degrees, of maps of the analyses in the verification; default: no maps.
        evolution: "linear", or "neural": a network that all stations share is added to the linear evolution, if it
            makes the last part of the training period likelier, which its weights were not fitted to.
    """

    step: str = "1h"
    off_step: Literal["error", "nearest", "mean", "missing"] = "error"
    verify_from: datetime.datetime
    verify_until: datetime.datetime | None = None
    leads: tuple[str, ...] = ()
    withheld: Literal["each"] | tuple[str, ...] = ()
    unseen: Annotated[float, Field(gt=0, lt=1)] | tuple[str, ...] = ()
    grid: Annotated[float, Field(gt=0, le=30)] | None = None
    evolution: Literal["linear", "neural"] = "linear"

    @field_validator("step", "leads")
    @classmethod
    def _are_lengths_of_time(cls, value: Any) -> Any:
        for each in (value,) if isinstance(value, str) else value:
            length_of(each)
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for name in ("unseen", "grid"):
            if getattr(self, name) and not self.longitude:
                raise ValueError(f"{name}: values at a place that nothing was seen of need longitude and latitude")
        for lead in self.leads:
            if length_of(lead) % length_of(self.step) != pd.Timedelta(0):
                raise ValueError(f"leads: {lead} is no multiple of the step, {self.step}")
        return self

    @property
    def lead_steps(self) -> tuple[int, ...]:
        """Leads in steps, increasing."""
        step = length_of(self.step)
        if self.leads:
            return tuple(sorted({int(length_of(lead) / step) for lead in self.leads}))
        return (1, 2, 3, 5, 7) if step >= pd.Timedelta("1D") else (1, 3, 6, 12, 24)


def length_of(text: str) -> pd.Timedelta:
    """Return a length of time from text such as "1h"; `ValueError` if it is none."""
    try:
        length = pd.Timedelta(text)
    except ValueError:
        length = pd.NaT  # type: ignore[assignment]
    if not isinstance(length, pd.Timedelta) or length <= pd.Timedelta(0):
        raise ValueError(f"{text!r} is no length of time; write for example 1h, 30min or 1D")
    return length


def as_record(table: ObservationTable, grid: StationGrid) -> Record:
    """Return a table's values on regular times as a record."""
    times = pd.DatetimeIndex(grid.times)
    times = times.tz_localize("UTC") if times.tz is None else times
    places = np.stack([grid.stations.longitude, grid.stations.latitude, grid.stations.elevation], axis=1)
    return Record(times, tuple(map(str, grid.stations.names)), places, table.variables, np.asarray(grid.values))


def usable_record(config: StationsConfiguration, record: Record, file: str) -> tuple[Record, list[str]]:
    """Return the record of the stations that can be used, and a line about what was left out.

    Args:
        config: the settings.
        record: of all stations.
        file: where it comes from, for messages.

    Raises:
        DataError: if the training period is too short, nothing is left to verify, or fewer than two stations have data.
    """
    times = record.times
    first, last = steps_of(config, record)
    if first < LEAST_TRAINING or first + max(config.lead_steps) >= last:
        raise DataError(
            f"verify_from: {config.verify_from} leaves {min(first, len(times))} of {len(times)} steps for training and "
            f"{max(last - first, 0)} for verification; the record goes from {times[0]} to {times[-1]}; learning needs "
            f"at least {LEAST_TRAINING}, verification more than the longest lead ({max(config.lead_steps)})"
        )
    counts = np.isfinite(record.values[:first]).sum(0)
    least = max(LEAST_VALUES, round(LEAST_SHARE * first))
    usable = (counts >= least).any(1)
    if usable.sum() < 2:
        found = ", ".join(np.array(record.names)[usable]) or "none"
        raise DataError(
            f"{file}: {found} of {len(usable)} stations have at least {least} values before {config.verify_from}; "
            "at least two are needed"
        )
    values = np.where(counts >= least, record.values, np.nan)  # of what can be learned
    notes = [
        f"left out: {name}, which has {int(counts[i].max())} values before the verification ({least} are needed)"
        for i, name in enumerate(record.names)
        if not usable[i]
    ]
    return dataclasses.replace(record, values=values).stations(np.flatnonzero(usable)), notes


def steps_of(config: StationsConfiguration, record: Record) -> tuple[int, int]:
    """Return the first row of the verification, and the row at which it ends."""
    last = len(record.times) if config.verify_until is None else record.row(config.verify_until)
    return record.row(config.verify_from), last


def chosen_stations(name: str, wanted: float | tuple[str, ...] | str, record: Record, seed: int) -> np.ndarray:
    """Return the indices of stations by their names, a share of them, or all of them for "each".

    Raises:
        ConfigurationError: if there is no station of a name.
    """
    if wanted == "each":
        return np.arange(len(record.names))
    if isinstance(wanted, float):
        count = max(round(wanted * len(record.names)), 1)
        return np.sort(np.random.default_rng(seed).choice(len(record.names), count, replace=False))
    for each in wanted:
        if each not in record.names:
            raise ConfigurationError(
                f"{name}: there is no station {shortened(repr(each))} with data{suggested(each, record.names)}"
            )
    return np.array([record.names.index(each) for each in wanted], int)
