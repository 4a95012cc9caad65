"""Tables on regular times, with steps that a local clock makes longer and shorter."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from diffassim import ConfigurationError, DataError
from diffassim.io.columns import TableVariable, TimeColumns
from diffassim.io.layout import LongLayout
from diffassim.io.read_table import read_table


def table_of(times, values, stations="A", zone="UTC", **columns):
    frame = pd.DataFrame({"time": times, "station": stations, "t": values, **columns})
    variables = tuple(TableVariable(name, unit="K", bounds=(-50.0, 50.0)) for name in ("t", *columns))
    return read_table(frame, LongLayout(variables=variables, time=TimeColumns(zone=zone)))


def test_reports_take_their_place():
    table = table_of(
        ["2021-01-01T00", "2021-01-01T06", "2021-01-01T18", "2021-01-01T06"], [1.0, 2.0, 99.0, 4.0],
        ["A", "A", "A", "B"], u=[5.0, np.nan, 7.0, 8.0],
    )  # fmt: skip
    grid = table.to_grid("6h")
    assert grid.values.shape == grid.mask.shape == (4, 2, 2)
    np.testing.assert_array_equal(grid.times, np.datetime64("2021-01-01", "us") + np.arange(4) * np.timedelta64(6, "h"))
    np.testing.assert_array_equal(grid.values[..., 0], [[1, np.nan], [2, 4], [np.nan, np.nan], [np.nan, np.nan]])
    np.testing.assert_array_equal(grid.values[..., 1], [[5, np.nan], [np.nan, 8], [np.nan, np.nan], [7, np.nan]])
    np.testing.assert_array_equal(grid.mask, np.isfinite(grid.values))
    back = table.values["u"][grid.report[grid.mask[..., 1]]]
    np.testing.assert_array_equal(back, grid.values[..., 1][grid.mask[..., 1]])


OFF = (["2021-01-01T00:00", "2021-01-01T01:00", "2021-01-01T01:10", "2021-01-01T02:00"], [1.0, 2.0, 4.0, 3.0])


@pytest.mark.parametrize(("rule", "middle"), [("nearest", 2.0), ("mean", 3.0), ("missing", 2.0)])
def test_reports_between_the_steps(rule, middle):
    assert table_of(*OFF).to_grid("1h", off_step=rule).values[:, 0, 0].tolist() == [1.0, middle, 3.0]


def test_reports_between_the_steps_are_an_error_unless_said():
    with pytest.raises(DataError, match=r"row 4: the time 2021-01-01 01:10:00 UTC lies 10 minutes off the steps of 60"):
        table_of(*OFF).to_grid("1h")


def test_the_first_report_need_not_be_the_usual_one():
    table = table_of(["2021-01-01T23:50", "2021-01-02T06:00", "2021-01-03T06:00"], [1.0, 2.0, 3.0])
    grid = table.to_grid("1D", off_step="nearest")
    assert grid.times.astype("datetime64[h]").astype(str).tolist() == ["2021-01-02T06", "2021-01-03T06"]
    grid = table_of(["2021-01-01T12:00", "2021-01-02T06:00", "2021-01-04T06:00"], [1.0, 2.0, 3.0]).to_grid(
        "1D", off_step="nearest"
    )
    assert grid.values[:, 0, 0].tolist()[0] == 1.0 and len(grid.times) == 4


def test_days_of_a_local_clock_are_of_23_to_25_hours():
    days = pd.date_range("2021-03-26", periods=6, tz="Europe/Berlin")
    autumn = pd.date_range("2021-10-29", periods=5, tz="Europe/Berlin")
    for moments, hours in ((days, [24, 24, 23, 24, 24]), (autumn, [24, 24, 25, 24])):
        table = table_of(moments, np.arange(float(len(moments))), zone="Europe/Berlin")
        grid = table.to_grid("1D")
        assert grid.values[:, 0, 0].tolist() == list(range(len(moments)))
        assert (np.diff(grid.times) / np.timedelta64(1, "h")).tolist() == hours


def test_start_and_end():
    table = table_of(["2021-01-01", "2021-01-02", "2021-01-03"], [1.0, 2.0, 3.0])
    grid = table.to_grid("1D", start="2021-01-02", end="2021-01-05")
    np.testing.assert_array_equal(grid.values[:, 0, 0], [2.0, 3.0, np.nan, np.nan])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"step": "soon"}, "step: 'soon' is no length of time"),
        ({"step": "-1h"}, "is no length of time"),
        ({"step": 5}, "is no length of time"),
        ({"step": "1us"}, "are too many or none"),
        ({"step": "1D", "end": "1990-01-01"}, "are too many or none"),
        ({"step": "1D", "off_step": "near"}, "did you mean 'nearest'"),
        ({"step": "1D", "start": "when"}, "start: 'when' is no time"),
    ],
)
def test_impossible_settings(settings, message):
    table = table_of(["2021-01-01", "2021-01-02"], [1.0, 2.0])
    with pytest.raises(ConfigurationError, match=message):
        table.to_grid(**settings)
