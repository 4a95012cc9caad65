"""A basin's table as its owner has it: units, gaps, impossible values, and one line for what cannot be used."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from diffassim import ConfigurationError, DataError
from diffassim.io.basin import BasinColumns, read_basin
from diffassim.io.catchment import fulda_file, oudin_evaporation, read_catchment
from diffassim.io.columns import TextFormat, TimeColumns

pytest.importorskip("pint")

AREA = 86.4  # km2: 1 m3/s is 1 mm per day
DAYS = 40


def frame(**changes):
    rng = np.random.default_rng(0)
    dates = pd.date_range("2001-01-01", periods=DAYS).strftime("%Y-%m-%d")
    columns = {
        "date": dates, "precipitation": rng.gamma(1.0, 3.0, DAYS).round(2), "temperature": rng.normal(8, 5, DAYS),
        "discharge": rng.gamma(2.0, 2.0, DAYS),
    }  # fmt: skip
    return pd.DataFrame(columns | changes)


def read(tmp_path, table, columns=None, gap=5, **how):
    table.to_csv(tmp_path / "basin.csv", index=False, **how)
    return read_basin(tmp_path / "basin.csv", columns or BasinColumns(), area=AREA, latitude=50.0, gap=gap)


def with_missing(name, *days, value=np.nan):
    table = frame()
    table[name] = table[name].astype(object) if isinstance(value, str) else table[name]
    table.loc[list(days), name] = value
    return table


def test_the_record_is_what_the_table_says(tmp_path):
    table = frame()
    record, _, notes = read(tmp_path, table)
    np.testing.assert_allclose(record.discharge, table["discharge"], rtol=1e-12)
    np.testing.assert_array_equal(record.precipitation, table["precipitation"])
    expected = oudin_evaporation(table["temperature"].to_numpy(), np.arange(1, DAYS + 1), 50.0)
    np.testing.assert_allclose(record.evaporation, expected, rtol=1e-9)
    assert notes == ()


def test_it_reads_the_fulda_as_the_reader_of_its_format_does():
    pytest.importorskip("spotpy")
    columns = BasinColumns(
        time=TimeColumns("date", "%d.%m.%Y"), precipitation="Prec", temperature="tmean", discharge="Q"
    )  # fmt: skip
    found = read_basin(fulda_file(), columns, area=2976.41, latitude=50.6)
    expected = read_catchment(fulda_file(), area=2976.41, latitude=50.6)
    for name, values in expected._asdict().items():
        np.testing.assert_array_equal(getattr(found.record, name), values, err_msg=name)


@pytest.mark.parametrize(
    ("name", "unit", "change"),
    [
        ("precipitation", "inch", lambda x: x / 25.4),
        ("precipitation", "mm/hour", lambda x: x / 24),
        ("temperature", "degF", lambda x: x * 1.8 + 32),
        ("temperature", "K", lambda x: x + 273.15),
        ("discharge", "l/s", lambda x: x * 1000),
        ("discharge", "ft3/s", lambda x: x / 0.3048**3),
        ("discharge", "mm/day", lambda x: x),  # of this area
        ("discharge", "inch/day", lambda x: x / 25.4),
    ],
)
def test_units_are_those_of_the_file(tmp_path, name, unit, change):
    plain = read(tmp_path, frame()).record
    columns = BasinColumns(**{f"{name}_unit": unit})
    other = read(tmp_path, frame(**{name: change(frame()[name])}), columns).record
    for one, two in zip(plain[1:5], other[1:5], strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-9)


def test_short_gaps_of_the_weather_are_straight_lines_and_said(tmp_path):
    table = with_missing("precipitation", 10, 11)
    table.loc[20, "temperature"] = 999.9
    table.loc[30:39, "discharge"] = np.nan
    table = table.drop(index=25)
    record, _, notes = read(tmp_path, table)
    rain = frame()["precipitation"]
    np.testing.assert_allclose(record.precipitation[[10, 11]], np.interp([1, 2], [0, 3], rain[[9, 12]]), rtol=1e-12)
    t = frame()["temperature"]
    np.testing.assert_allclose(record.temperature[[20, 25]], [(t[19] + t[21]) / 2, (t[24] + t[26]) / 2], rtol=1e-12)
    assert np.flatnonzero(np.isnan(record.discharge)).tolist() == [25, *range(30, 40)]
    said = "\n".join(notes)
    assert "column precipitation: 3 missing day(s), the first 2001-01-11, in gaps of up to 2, were filled" in said
    assert "column temperature: 2 missing day(s), the first 2001-01-21" in said
    assert "column temperature, row 22: 999.9 degC is impossible and counts as missing (1 such value(s))" in said


def test_days_without_weather_at_the_ends_are_cut_off(tmp_path):
    table = with_missing("temperature", *range(8), 39)
    record, _, notes = read(tmp_path, table)
    assert [str(day.date()) for day in record.dates[[0, -1]]] == ["2001-01-09", "2001-02-08"]
    assert "used from 2001-01-09 to 2001-02-08; on 9 days before or after" in notes[0]


def test_evaporation_of_the_table_and_no_temperature_is_a_basin_without_snow(tmp_path):
    pet = np.linspace(1, 3, DAYS)
    table = frame(pet=pet).drop(columns="temperature")
    record = read(tmp_path, table, BasinColumns(temperature="", evaporation="pet")).record
    np.testing.assert_array_equal(record.evaporation, pet)
    assert (record.temperature == 20).all()


def test_a_row_of_units_is_found_out(tmp_path):
    table = frame()
    units = pd.DataFrame([["yyyy-mm-dd", "mm", "degC", "m3/s"]], columns=table.columns)
    both = pd.concat([units, table.astype(object)], ignore_index=True)
    np.testing.assert_allclose(read(tmp_path, both).record.discharge, read(tmp_path, table).record.discharge)


def test_other_ways_to_write_a_table(tmp_path):
    table = frame()
    columns = BasinColumns(
        time=TimeColumns(("year", "month", "day")), text=TextFormat(decimal=","), missing=("x", -99)
    )  # fmt: skip
    dates = pd.to_datetime(table.pop("date"))
    for part in ("year", "month", "day"):
        table[part] = getattr(dates.dt, part)
    table.loc[3, "discharge"] = -99
    record = read(tmp_path, table, columns, sep=";", decimal=",").record
    assert np.flatnonzero(np.isnan(record.discharge)).tolist() == [3]


def test_rows_of_one_day_are_resolved_as_said(tmp_path):
    table = pd.concat([frame(), frame().iloc[[4]].assign(discharge=9.0)], ignore_index=True)
    for rule, expected in (("first", frame()["discharge"][4]), ("last", 9.0)):
        record, _, _ = read(tmp_path, table, BasinColumns(duplicates=rule))
        np.testing.assert_allclose(record.discharge[4], expected)


def test_hours_become_days(tmp_path):
    hours = pd.date_range("2001-01-01", periods=24 * DAYS, freq="h").strftime("%Y-%m-%d %H:%M")
    table = pd.DataFrame({"date": hours, "precipitation": 0.5, "temperature": 7.0, "discharge": 2.0})
    record, _, notes = read(tmp_path, table)
    assert len(record.dates) == DAYS
    for name, value in (("precipitation", 12.0), ("temperature", 7.0), ("discharge", 2.0)):
        np.testing.assert_allclose(getattr(record, name), value)
    assert "24 reports a day became sums (precipitation) and means" in "\n".join(notes)


@pytest.mark.parametrize(
    ("table", "columns", "said"),
    [
        (with_missing("precipitation", *range(10, 16)), {}, "precipitation, row 12: no value from 2001-01-11 to"),
        (frame().drop(index=range(10, 16)), {}, r"column precipitation, after row 11: no value .* \(6 days\)"),
        (frame(temperature=285.0), {}, r"row 2: 285 degC is impossible \(40 of 40 .*temperature_unit, now 'degC"),
        (frame(discharge=5e6), {}, r"row 2: 5e\+06 m3 s-1 is impossible .*discharge_unit, now 'm3 s-1', or the area"),
        (with_missing("precipitation", 4, value="wet"), {}, "column precipitation, row 6: 'wet' is not a number"),
        (frame(date="2001-01-40"), {}, "column date, row 2: '2001-01-40' is no"),
        (frame(date="2001-01-01"), {}, "rows 2 and 3 are both of"),
        (with_missing("discharge", 4, value=999.0), {}, "discharge on 2001-01-05 is 999, more than 3 times"),
        (frame(discharge=np.nan), {}, "all 40 values of discharge are missing"),
        (frame()[:1], {}, "known together on 1 days|holds 1 report"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_one_line(tmp_path, table, columns, said):
    with pytest.raises(DataError, match=said) as caught:
        read(tmp_path, table, BasinColumns(**columns))
    assert "\n" not in str(caught.value) and "basin.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"discharge": "Q"}, "has no column 'Q'"),
        ({"discharge_unit": "kg"}, "discharge_unit: column discharge: found the unit 'kg'"),
        ({"precipitation_unit": "milimetre"}, "precipitation_unit: .*: the unit 'milimetre' is not known"),
        ({"temperature_unit": "C"}, "temperature_unit: .*degrees Celsius are 'degC'"),
        ({"temperature": ""}, "temperature: name its column, or one of potential evaporation"),
        ({"discharge": "precipitation"}, "the column 'precipitation' is named twice"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_one_line(tmp_path, columns, said):
    with pytest.raises(ConfigurationError, match=said):
        read(tmp_path, frame(), BasinColumns(**columns))
