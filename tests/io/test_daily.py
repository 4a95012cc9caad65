"""Days out of hours, and what cannot become days."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from diffassim import DataError
from diffassim.io.columns import TableVariable, TimeColumns
from diffassim.io.daily import daily
from diffassim.io.layout import LongLayout
from diffassim.io.read_table import read_table

pytest.importorskip("pint")


def table(times, zone="UTC", **columns):
    layout = LongLayout(
        variables=tuple(TableVariable(name, unit="mm") for name in columns), station=None, only="gauge",
        time=TimeColumns("time", zone=zone, doubled="order", skipped="shift"),
    )  # fmt: skip
    return read_table(pd.DataFrame({"time": [str(t) for t in times], **columns}), layout)


def test_days_come_back_as_they_are_with_those_left_out_missing():
    times = pd.to_datetime(["2021-01-01", "2021-01-02", "2021-01-05", "2021-01-06", "2021-01-07"])
    days = daily(table(times, rain=[1.5, np.nan, 3.0, 0.1, 7.7]), ("rain",))
    np.testing.assert_array_equal(days.values["rain"], [1.5, np.nan, np.nan, np.nan, 3.0, 0.1, 7.7])
    assert days.row.tolist() == [2, 3, 0, 0, 4, 5, 6] and days.per_day == 1
    assert [str(day.date()) for day in days.dates[[0, -1]]] == ["2021-01-01", "2021-01-07"]


def test_a_day_with_gaps_is_scaled_and_one_with_too_many_is_missing():
    times = pd.date_range("2021-05-01", periods=72, freq="h")
    rain, t = np.ones(72), np.arange(72.0)
    rain[24:30] = np.nan  # a quarter of the second day
    rain[48:55] = np.nan  # more of the third
    days = daily(table(times, rain=rain, t=t), ("rain",))
    np.testing.assert_allclose(days.values["rain"], [24, 24, np.nan])
    np.testing.assert_allclose(days.values["t"], [11.5, 35.5, 59.5])


def test_days_are_those_of_the_clock_that_is_changed():
    times = pd.date_range("2021-03-26T23:00", periods=24 * 3 - 1, freq="h", tz="UTC")  # three days of Berlin
    local = times.tz_convert("Europe/Berlin").strftime("%Y-%m-%d %H:%M")
    x = np.concatenate([np.full(24, 1.0), np.full(23, 2.0), np.full(24, 3.0)])
    days = daily(table(local, "Europe/Berlin", t=x))
    assert days.values["t"].tolist() == [1.0, 2.0, 3.0]
    assert [day.day for day in days.dates] == [27, 28, 29]


@pytest.mark.parametrize(
    ("times", "said"),
    [
        (["2021-01-01"], r"holds 1 report"),
        (["2021-01-01", "2021-02-01", "2021-03-01"], "most reports are 29.5 days apart; the model needs"),
        (
            ["2021-01-01", "2021-01-02", "2021-01-02T12:00", "2021-01-03", "2021-01-04", "2021-01-05"],
            "rows 3 and 4 are both of 2021-01-02, although most",
        ),
    ],
)
def test_what_is_no_record_of_days_is_named(times, said):
    with pytest.raises(DataError, match=said):
        daily(table(times, rain=np.ones(len(times))))
