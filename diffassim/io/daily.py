"""Reports of one place as days: sums and means of what falls into each day of the local clock."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from diffassim.core.errors import DataError
from diffassim.io.messages import shortened
from diffassim.io.observation_table import ObservationTable

__all__ = ["Days", "daily"]

DAY = np.timedelta64(1, "D")
LEAST_SHARE = 0.75  # of a day's reports, below which the day is missing


class Days(NamedTuple):
    """Values by day.

    Args:
        dates: every day from the first to the last, without time zone.
        values: by variable, shape (days,); NaN where missing.
        row: in the file, of the first report of each day; 0 where there is none.
        per_day: reports of a whole day.
    """

    dates: pd.DatetimeIndex
    values: dict[str, np.ndarray]
    row: np.ndarray
    per_day: int


def daily(table: ObservationTable, sums: tuple[str, ...] = ()) -> Days:
    r"""Return the used values of a table of one station by day of its local clock.

    Of \(m\) values known out of \(n\) in a whole day the mean is that of the \(m\), a sum \(n/m\) times theirs. A day
    with less than three quarters of its reports is missing. A report counts on the day of its own time.

    Args:
        table: reports; times increase.
        sums: variables that add up over a day (precipitation per report); the others are averaged.

    Raises:
        DataError: if there are not at least two reports, they are farther apart than a day, or a day has two reports
            although most are a day apart.

    Example:
        >>> from diffassim.io.columns import TableVariable
        >>> from diffassim.io.layout import LongLayout
        >>> from diffassim.io.read_table import read_table
        >>> times = pd.date_range("2021-05-01", periods=48, freq="h").astype(str)
        >>> frame = pd.DataFrame({"time": times, "rain": 0.5, "t": [10.0] * 24 + [20.0] * 24})
        >>> variables = (TableVariable("rain", unit="mm"), TableVariable("t", unit="degC"))
        >>> days = daily(read_table(frame, LongLayout(variables=variables, station=None, only="gauge")), ("rain",))
        >>> days.per_day, days.values["rain"].tolist(), days.values["t"].tolist()
        (24, [12.0, 12.0], [10.0, 20.0])
    """
    if len(table) < 2:
        raise DataError(f"{table.file}: holds {len(table)} report(s); a record needs many days")
    local = pd.DatetimeIndex(table.time).tz_localize("UTC").tz_convert(table.zone).tz_localize(None)
    day = local.to_numpy().astype("datetime64[D]")
    between = np.diff(table.time).astype("timedelta64[s]").astype(float)
    step = np.median(between[between > 0]) if (between > 0).any() else 0.0
    if step > 1.5 * 86400:
        raise DataError(
            f"{table.file}: most reports are {step / 86400:g} days apart; the model needs at least one for each day"
        )
    per_day = max(round(86400 / step), 1) if step > 0 else 1
    index = (day - day[0]).astype(int)
    if per_day == 1:
        _require_single(table, index, table.time, day)
    dates = pd.DatetimeIndex(day[0] + np.arange(index[-1] + 1))
    first = np.zeros(len(dates), int)
    first[index[::-1]] = table.row[::-1]
    values = {}
    for name in table.names:
        used = table.used(name)
        count = np.bincount(index[used], minlength=len(dates))
        total = np.bincount(index[used], table.values[name][used], minlength=len(dates))
        known = count >= LEAST_SHARE * per_day
        mean = np.divide(total, count, out=np.full(len(dates), np.nan), where=known & (count > 0))
        values[name] = mean * per_day if name in sums else mean
    return Days(dates, values, first, per_day)


def _require_single(table: ObservationTable, index: np.ndarray, time: np.ndarray, day: np.ndarray) -> None:
    # Of reports at one time the table has flagged all but one already.
    again = np.flatnonzero((index[1:] == index[:-1]) & (time[1:] != time[:-1]))
    if again.size:
        at = int(again[0])
        raise DataError(
            f"{shortened(table.file)}: rows {table.row[at]} and {table.row[at + 1]} are both of {day[at]}, although "
            f"most reports are a day apart; keep one row for each day ({again.size} such pairs)"
        )
