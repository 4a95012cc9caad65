"""The record of a catchment with its periods, and whether it holds enough to calibrate and verify."""

from __future__ import annotations

import datetime
import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffassim.core.errors import DataError
from diffassim.experiments.rivers.catchment_settings import periods_of
from diffassim.experiments.rivers.discharge_warnings import default_thresholds
from diffassim.io.catchment import CatchmentRecord
from diffassim.models.gr4j import CatchmentForcing

__all__ = ["Record", "blocks_of_days", "record_of"]

SHORTEST_CALIBRATION = 365  # days: parameters of snow and evaporation need every season
FEWEST_DAYS = 100  # with discharge in the calibration period
FEWEST_PAIRS = 30  # of discharge on the issue day and on the forecast day, for each lead
BLOCK = 365  # days that are forecast together from the others
MOST_BLOCKS = 6


class Record:
    """The record with its periods as index ranges.

    Args:
        config: settings of a catchment (`CatchmentConfiguration`).

    Raises:
        DataError: if the file cannot be used, does not hold a period, or holds too little discharge in it.
    """

    def __init__(self, config: Any) -> None:
        basin = config.read()
        self.table: CatchmentRecord = basin.record
        self.source, self.notes = basin.table, basin.notes
        self.discharge = self.table.discharge.astype(config.dtype)
        self.forcing = CatchmentForcing(
            *(
                jnp.asarray(s, config.dtype)
                for s in (self.table.precipitation, self.table.evaporation, self.table.temperature)
            )
        )
        periods = periods_of(config, self.table.dates)
        self.calibration = self._days(periods.calibration_start, periods.calibration_end)
        self.verification = self._days(periods.verification_start, periods.verification_end)
        self.verification_dates = self.table.dates[slice(*self.verification)]
        self.day_of_year = self.table.dates.day_of_year.to_numpy()
        self._require_enough(tuple(config.leads))
        learned = self.table.discharge[slice(*self.calibration)]
        self.thresholds = config.flood_thresholds or default_thresholds(self.table.cubic_meters_per_second(learned))

    def _days(self, first: datetime.date, last: datetime.date) -> tuple[int, int]:
        return self.table.day(str(first)), self.table.day(str(last)) + 1

    def _require_enough(self, leads: tuple[int, ...]) -> None:
        """Raise where a period cannot carry what is fitted to it, before anything is computed."""
        first, last = self.calibration
        if last - first < SHORTEST_CALIBRATION:
            raise DataError(
                f"calibration: {last - first} days are too few; the parameters need at least {SHORTEST_CALIBRATION}"
            )
        self._require_variable("calibration", first, last, FEWEST_DAYS)
        self._require_variable("verification", *self.verification, 2)
        known = np.isfinite(self.discharge)
        for name, (start, end) in (("calibration", self.calibration), ("verification", self.verification)):
            for lead in sorted({1, *leads}) if name == "calibration" else leads:
                pairs = int((known[start : end - lead] & known[start + lead : end]).sum())
                fewest = FEWEST_PAIRS if name == "calibration" else 1
                if pairs < fewest:
                    raise DataError(
                        f"{name}: discharge is known on {pairs} pairs of days {lead} day(s) apart; at least {fewest} "
                        "are needed: choose another period, or fill the gaps"
                    )

    def _require_variable(self, name: str, first: int, last: int, fewest: int) -> None:
        values = self.discharge[first:last]
        values = values[np.isfinite(values)]
        dates = f"{self.table.dates[first].date()} to {self.table.dates[last - 1].date()}"
        if values.size < fewest:
            raise DataError(
                f"{name}: discharge is known on {values.size} days of {dates}; at least {fewest} are needed"
            )
        if np.ptp(values) <= 1e-6 * np.abs(values).max():
            unit = float(self.table.cubic_meters_per_second(values[0]))
            raise DataError(f"{name}: discharge is constant ({unit:g} m3/s) from {dates}; there is nothing to forecast")


def record_of(config: Any) -> Record:
    """Return the record of some settings, read once as long as the file stays the same."""
    path = config.source()
    return _read(config, path.stat().st_mtime_ns if path.is_file() else 0)


@functools.lru_cache(maxsize=2)
def _read(config: Any, _: int) -> Record:
    return Record(config)


def blocks_of_days(first: int, last: int) -> list[tuple[int, int]]:
    """Return consecutive blocks of about a year, at least two, each to be forecast from the others.

    Example:
        >>> blocks_of_days(0, 1461)
        [(0, 366), (366, 731), (731, 1096), (1096, 1461)]
    """
    count = min(max(2, round((last - first) / BLOCK)), MOST_BLOCKS)
    parts = np.array_split(np.arange(first, last), count)
    return [(int(part[0]), int(part[-1]) + 1) for part in parts]
