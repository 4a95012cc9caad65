"""Times of tables: formats, several columns, zones, and hours that occur twice or never."""

from __future__ import annotations

import dataclasses
import datetime
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffassim import ConfigurationError, DataError
from diffassim.io.columns import TableVariable, TimeColumns
from diffassim.io.layout import LongLayout
from diffassim.io.read_table import read_table

BERLIN = TimeColumns(zone="Europe/Berlin")


def times_of(cells, how, station="A", **changes):
    columns = cells if isinstance(cells, dict) else {"time": cells}
    frame = pd.DataFrame({**columns, "station": station, "t": 1.0})
    layout = LongLayout(variables=(TableVariable("t", unit="K"),), time=how, **changes)
    return read_table(frame, layout)


def hours(table):
    return table.time.astype("datetime64[m]").astype(str).tolist()


@pytest.mark.parametrize(
    ("cell", "how", "expected"),
    [
        ("2021-05-31", TimeColumns(), "2021-05-31T00:00"),
        ("2021-05-31 06:30", TimeColumns(), "2021-05-31T06:30"),
        ("2021-05-31T06:30:00Z", TimeColumns(), "2021-05-31T06:30"),
        ("2021-05-31T06:30+02:00", TimeColumns(), "2021-05-31T04:30"),
        ("2021-05-31T06:30+02:00", BERLIN, "2021-05-31T04:30"),
        ("2021-05-31T06:30", BERLIN, "2021-05-31T04:30"),
        ("2021-01-31T06:30", BERLIN, "2021-01-31T05:30"),
        ("31.05.2021 06:30", TimeColumns(format="%d.%m.%Y %H:%M"), "2021-05-31T06:30"),
        ("05/31/2021 06:30 -0500", TimeColumns(format="%m/%d/%Y %H:%M %z"), "2021-05-31T11:30"),
        (870603, TimeColumns(format="%y%m%d"), "1987-06-03T00:00"),
        (1.25, TimeColumns(format="days since 2000-01-01"), "2000-01-02T06:00"),
        (1622442600, TimeColumns(format="seconds since 1970-01-01"), "2021-05-31T06:30"),
        (6.5, TimeColumns(format="hours since 2021-05-31", zone="Etc/GMT-1"), "2021-05-31T05:30"),
    ],
)
def test_one_column(cell, how, expected):
    assert hours(times_of([cell], how)) == [expected]


def test_a_table_may_mix_offsets():
    assert hours(times_of(["2021-01-01T06:00+02:00", "2021-01-01T06:00"], BERLIN)) == [
        "2021-01-01T04:00", "2021-01-01T05:00",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"year": 2021, "month": 5, "day": 31, "hour": 6}, "2021-05-31T06:00"),
        ({"Year": 2021, "Month": 5, "Day": 31, "Hour": 24}, "2021-06-01T00:00"),
        ({"year": 2020, "day_of_year": 366}, "2020-12-31T00:00"),
        ({"year": 2021, "month": 5}, "2021-05-01T00:00"),
        ({"year": "2021", "month": "05", "day": "31", "minute": "30"}, "2021-05-31T00:30"),
    ],
)
def test_several_columns(parts, expected):
    cells = {name: [value] for name, value in parts.items()}
    assert hours(times_of(cells, TimeColumns(tuple(parts)))) == [expected]


def test_years_of_two_digits():
    cells = {"y": [61], "m": [1], "d": [2]}
    how = TimeColumns(("y", "m", "d"), parts=("year", "month", "day"), century=1900)
    assert hours(times_of(cells, how)) == ["1961-01-02T00:00"]
    with pytest.raises(DataError, match=r"row 2: y 61, m 1, d 2 is no date \(years of two digits\?"):
        times_of(cells, dataclasses.replace(how, century=None))


@pytest.mark.parametrize(
    "parts",
    [
        {"year": 2021, "month": 13, "day": 1}, {"year": 2021, "month": 2, "day": 29},
        {"year": 2021, "day_of_year": 366},
        {"year": 2021, "month": 1, "hour": 24.5}, {"year": 2021, "month": 1, "hour": 24, "minute": 1},
        {"year": 2021, "month": np.nan, "day": 1}, {"year": 2021, "month": 1, "day": 0},
    ],
)  # fmt: skip
def test_impossible_parts_are_named_with_their_row(parts):
    with pytest.raises(DataError, match=r"table: row 2: .* is no date"):
        times_of({name: [value] for name, value in parts.items()}, TimeColumns(tuple(parts)))


NIGHT = ["2021-10-31T01:30", "2021-10-31T02:00", "2021-10-31T02:30", "2021-10-31T02:00", "2021-10-31T02:30",
         "2021-10-31T03:00"]  # fmt: skip
UTC = ["2021-10-30T23:30", "2021-10-31T00:00", "2021-10-31T00:30", "2021-10-31T01:00", "2021-10-31T01:30",
       "2021-10-31T02:00"]  # fmt: skip


def test_the_order_tells_the_two_hours_apart():
    table = times_of(NIGHT, dataclasses.replace(BERLIN, doubled="order"))
    assert hours(table) == UTC
    assert "row 3: 2021-10-31 02:00:00 occurs twice in Europe/Berlin (4 such rows): the first row" in table.notes[0]


def test_each_station_has_its_own_order():
    both = [time for time in NIGHT for _ in "AB"]
    table = times_of(both, dataclasses.replace(BERLIN, doubled="order"), station=["A", "B"] * len(NIGHT))
    assert hours(table) == [time for time in UTC for _ in "AB"]


def test_an_hour_that_stands_there_once_is_left_out_and_said():
    table = times_of(["2021-10-31T02:00", "2021-10-31T03:00"], dataclasses.replace(BERLIN, doubled="order"))
    assert hours(table) == ["2021-10-31T02:00"] and "1 of these rows are not two of a station" in table.notes[1]


@pytest.mark.parametrize(
    ("rule", "expected"), [("first", "2021-10-31T00:00"), ("second", "2021-10-31T01:00"), ("missing", None)]
)
def test_doubled_hours_by_rule(rule, expected):
    table = times_of(["2021-10-31T02:00", "2021-10-31T04:00"], dataclasses.replace(BERLIN, doubled=rule))
    assert hours(table) == [*([expected] if expected else []), "2021-10-31T03:00"]
    assert "occurs twice in Europe/Berlin" in table.notes[0]


def test_doubled_hours_are_an_error_unless_said():
    with pytest.raises(DataError, match=r"row 3: 2021-10-31 02:00:00 occurs twice .*clock is set back \(4 such rows\)"):
        times_of(NIGHT, BERLIN)


def test_hours_that_never_were():
    cells = ["2021-03-28T01:30", "2021-03-28T02:30", "2021-03-28T03:00"]
    with pytest.raises(DataError, match=r"row 3: 2021-03-28 02:30:00 does not exist in Europe/Berlin"):
        times_of(cells, BERLIN)
    table = times_of(cells, dataclasses.replace(BERLIN, skipped="missing"))
    assert hours(table) == ["2021-03-28T00:30", "2021-03-28T01:00"] and "left out" in table.notes[0]
    table = times_of(cells, dataclasses.replace(BERLIN, skipped="shift"))
    assert hours(table) == ["2021-03-28T00:30", "2021-03-28T01:00", "2021-03-28T01:30"]
    assert "shifted by the hour" in table.notes[0]
    assert len(times_of(cells, TimeColumns(zone="Etc/GMT-1"))) == 3  # a logger without daylight saving


ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "America/Sao_Paulo"]


@settings(deadline=None, max_examples=60)
@given(
    st.datetimes(datetime.datetime(1950, 1, 1), datetime.datetime(2035, 1, 1)).map(lambda t: t.replace(microsecond=0)),
    st.sampled_from(ZONES),
)
def test_local_times_are_those_of_the_standard_library(moment, zone):
    # every hour of that day, written as a local clock shows it; the doubled ones in their order
    start = moment.replace(tzinfo=datetime.UTC)
    instants = [start + datetime.timedelta(minutes=30 * k) for k in range(48)]
    local = [instant.astimezone(ZoneInfo(zone)) for instant in instants]
    how = TimeColumns(zone=zone, doubled="order")
    twice = [t for t in local if t.replace(fold=0).utcoffset() != t.replace(fold=1).utcoffset()]
    known = [
        t for t in local if sum(t.replace(tzinfo=None, fold=0) == o.replace(tzinfo=None, fold=0) for o in twice) != 1
    ]
    if not known:
        return
    table = times_of([t.strftime("%Y-%m-%dT%H:%M:%S") for t in known], how)
    expected = [np.datetime64(t.astimezone(datetime.UTC).replace(tzinfo=None), "us") for t in known]
    np.testing.assert_array_equal(table.time, np.array(expected))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"zone": "Europe/Atlantis"}, "no time zone 'Europe/Atlantis' is known"),
        ({"doubled": "frist"}, "did you mean 'first'"),
        ({"skipped": "x"}, "skipped must be one of error, missing, shift"),
        ({"columns": ("year", "day")}, "a date needs year and month, or year and day_of_year"),
        ({"columns": ("y", "month")}, "needs one of the parts year, month, day"),
        ({"columns": ("year", "month"), "parts": ("year",)}, "needs one of the parts"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        TimeColumns(**settings)


@pytest.mark.parametrize("form", ["fortnights since 2000-01-01", "days since yesteryear", "%Q"])
def test_impossible_formats(form):
    with pytest.raises(DataError, match="table"):
        times_of([1], TimeColumns(format=form))
