"""Regular times: which of them a report belongs to, and how far it lies from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from diffassim.core.errors import ConfigurationError, DataError
from diffassim.io.messages import shortened

__all__ = ["RegularTimes", "duration", "shown", "utc"]

DAY = 86_400_000_000  # microseconds


def utc(name: str, time: Any) -> np.datetime64:
    """Return a time as datetime64[us] in UTC; what has no zone is UTC.

    Args:
        name: of the setting, for the message.
        time: text, datetime, datetime64 or Timestamp.

    Raises:
        ConfigurationError: if it is no time.

    Example:
        >>> utc("start", "2021-05-31T06:00+02:00").astype("datetime64[h]").item().hour
        4
    """
    try:
        stamp: Any = pd.Timestamp(time)
    except (ValueError, TypeError):
        stamp = pd.NaT
    if stamp is pd.NaT:
        raise ConfigurationError(f"{name}: {shortened(repr(time))} is no time; write it as '2021-05-31T06:00'")
    if stamp.tzinfo is not None:
        stamp = stamp.tz_convert("UTC").tz_localize(None)
    return stamp.to_datetime64().astype("datetime64[us]")


def duration(name: str, value: Any) -> np.timedelta64:
    """Return a length of time as timedelta64[us].

    Args:
        name: of the setting, for the message.
        value: text such as "6h" or "1D", timedelta or timedelta64.

    Raises:
        ConfigurationError: if it is no positive length of time.

    Example:
        >>> duration("dt", "6h").item().total_seconds()
        21600.0
    """
    try:
        length: Any = pd.NaT if isinstance(value, int | float) else pd.Timedelta(value)
    except (ValueError, TypeError):
        length = pd.NaT
    if length is pd.NaT or length <= pd.Timedelta(0):
        raise ConfigurationError(f"{name}: {shortened(repr(value))} is no length of time; write it as '6h' or '1D'")
    return length.to_timedelta64().astype("timedelta64[us]")


def shown(time: Any) -> str:
    """Return a time for a message, to the second.

    Example:
        >>> shown(np.datetime64("2021-05-31T06:00", "us"))
        '2021-05-31 06:00:00'
    """
    return str(np.datetime_as_string(time, "s")).replace("T", " ")


class RegularTimes:
    """Times at equal steps; steps of whole days are days of the local clock, which are 23 to 25 hours long.

    Args:
        step: such as "1h" or "1D", or timedelta64.
        zone: of the local clock.

    Raises:
        ConfigurationError: if the step is no positive length of time.

    Example:
        >>> hours = RegularTimes("1h", "UTC")
        >>> time = np.array(["2021-01-01T00:10", "2021-01-01T01:00"], "datetime64[us]")
        >>> [part.tolist() for part in hours.index(time, time[1])]
        [[-1, 0], [600000000, 0]]
    """

    def __init__(self, step: Any, zone: str) -> None:
        self.microseconds = int(duration("step", step).astype(np.int64))
        self.zone = zone if self.microseconds % DAY == 0 else "UTC"

    def index(self, time: np.ndarray, first: np.datetime64) -> tuple[np.ndarray, np.ndarray]:
        """Return the number of the nearest regular time, counted from `first`, and how many microseconds after it."""
        apart = (self._wall(time) - self._wall(np.array([first]))).astype("timedelta64[us]").astype(np.int64)
        index = np.floor_divide(apart + self.microseconds // 2, self.microseconds)
        return index, apart - index * self.microseconds

    def times(self, first: np.datetime64, index: np.ndarray) -> np.ndarray:
        """Return the regular times with these numbers, counted from `first`, in UTC."""
        wall = self._wall(np.array([first])) + np.asarray(index) * np.timedelta64(self.microseconds, "us")
        if self.zone == "UTC":
            return wall
        local = pd.DatetimeIndex(wall)
        local = local.tz_localize(self.zone, ambiguous=np.full(len(wall), True), nonexistent=pd.Timedelta(hours=1))
        return local.tz_convert("UTC").tz_localize(None).to_numpy().astype("datetime64[us]")

    def usual(self, time: np.ndarray) -> np.datetime64:
        """Return the earliest time whose place within the step is that of most times.

        Raises:
            DataError: if there is no time.
        """
        if not len(time):
            raise DataError("there are no reports")
        within = self._wall(time).astype(np.int64) % self.microseconds
        places, counts = np.unique(within, return_counts=True)
        return time[within == places[np.argmax(counts)]].min()

    def _wall(self, time: np.ndarray) -> np.ndarray:
        time = time.astype("datetime64[us]")
        if self.zone == "UTC":
            return time
        local = pd.DatetimeIndex(time).tz_localize("UTC").tz_convert(self.zone).tz_localize(None)
        return local.to_numpy().astype("datetime64[us]")
