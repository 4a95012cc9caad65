"""The catchment reader: units, and one clear line for every flaw of a file."""

from __future__ import annotations

import gzip

import numpy as np
import pandas as pd
import pytest

from diffassim import ConfigurationError, DataError
from diffassim.io.catchment import CatchmentLimits, fulda_file, oudin_evaporation, read_catchment

AREA = 86.4  # km2: 1 m3/s is 1 mm per day


def table(days=5):
    dates = [f"{d:02d}.01.1979" for d in range(1, days + 1)]
    rows = [[date, f"{i + 1.0}", "2.0", "3.5"] for i, date in enumerate(dates)]
    return [["date", "Q", "Prec", "tmean"], ["dd.mm.yyyy", "m3/s", "mm", "degC"], *rows]


def written(tmp_path, rows):
    path = tmp_path / "gauge.csv"
    path.write_text("\n".join(",".join(row) for row in rows))
    return path


def read(path):
    return read_catchment(path, area=AREA, latitude=50.6)


def test_units(tmp_path):
    record = read(written(tmp_path, table()))
    np.testing.assert_allclose(record.discharge, [1, 2, 3, 4, 5], rtol=1e-14)
    np.testing.assert_allclose(record.cubic_meters_per_second(record.discharge), [1, 2, 3, 4, 5], rtol=1e-14)
    assert record.dates[0] == pd.Timestamp("1979-01-01")
    assert record.day("1979-01-03") == 2


def test_missing_discharge_is_normal(tmp_path):
    rows = table()
    rows[4][1] = ""
    assert np.isnan(read(written(tmp_path, rows)).discharge).tolist() == [False, False, True, False, False]


def change(row, column, value):
    def apply(rows):
        rows[row][column] = value

    return apply


@pytest.mark.parametrize(
    ("flaw", "message"),
    [
        (change(4, 0, "31.02.1979"), "column date, row 5: '31.02.1979' is no date of the form %d.%m.%Y"),
        (change(4, 0, " "), "column date, row 5: the date is missing"),
        (change(4, 0, "02.01.1979"), "1979-01-02 appears twice; keep one row for each day"),
        (lambda rows: rows.pop(4), "1979-01-04 follows 1979-01-02: days are left out"),
        (lambda rows: rows.append(["01.12.1978", "1", "1", "1"]), "1978-12-01 is out of order"),
        (change(3, 2, ""), "Prec on 1979-01-02 is nan; the model needs a value between 0 and 2000 for every day"),
        (change(3, 2, "-1"), "Prec on 1979-01-02 is -1; the model needs a value between 0 and 2000"),
        (change(3, 3, "warm"), "column tmean, row 4: 'warm' is not a number"),
        (change(3, 1, "-4"), "Q on 1979-01-02 is -4; .*: leave it empty if it is unknown"),
        (change(3, 1, "inf"), "Q on 1979-01-02 is inf; "),
        (change(3, 1, "999.9"), r"Q on 1979-01-02 is 999.9, more than 3 times all other values: probably a fill value"),
        (change(3, 2, "9999"), r"Prec on 1979-01-02 is 9999 \(a fill value\?\)"),
        (change(3, 2, "9" * 10**7), r"column Prec, row 4: '9+\.\.\. \(10000002 characters\) is not a number"),
        (change(3, 2, "x" * 10**7), r"column Prec, row 4: 'x+\.\.\. \(10000002 characters\) is not a number"),
        (change(3, 3, "278.15"), r"tmean on 1979-01-02 is 278.15 \(in Kelvin\?\); .* between -90 and 60"),
        (change(0, 2, "Q"), "the column 'Q' appears twice"),
        (lambda rows: rows.__delitem__(slice(3, None)), r"holds 1 day\(s\) of data"),
    ],
)
def test_every_flaw_is_one_clear_line(tmp_path, flaw, message):
    rows = table()
    flaw(rows)
    with pytest.raises(DataError, match=message) as caught:
        read(written(tmp_path, rows))
    assert "gauge.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_column_that_is_not_there_is_named(tmp_path):
    rows = table()
    rows[0][1] = "q"
    with pytest.raises(ConfigurationError, match=r"has no column 'Q'; did you mean 'q'\?; it has date, q, Prec, tmean"):
        read(written(tmp_path, rows))


def test_other_separators_and_encodings_are_read(tmp_path):
    path = written(tmp_path, table())
    path.write_bytes(path.read_text().replace(",", ";").encode("utf-16"))
    assert read(path).discharge.tolist() == pytest.approx([1, 2, 3, 4, 5])


def test_a_row_of_units_is_known_by_its_cells(tmp_path):
    plain = [row for k, row in enumerate(table()) if k != 1]
    assert len(read(written(tmp_path, plain)).dates) == len(read(written(tmp_path, table())).dates) == 5
    with pytest.raises(DataError, match=r"is the day 01.01.1979, not a row of units"):
        read_catchment(written(tmp_path, plain), area=AREA, latitude=50.6, units_row=True)


@pytest.mark.parametrize("start", ["\ufeff", " "])
def test_a_byte_order_mark_and_spaces_in_the_header_do_no_harm(tmp_path, start):
    rows = table()
    rows[0] = [start + "date", " Q", "Prec ", " tmean "]
    assert read(written(tmp_path, rows)).discharge[0] == 1


@pytest.mark.parametrize("suffix", ["gz", "bz2", "zip", "xz", "tar", "zst"])
def test_a_damaged_archive_is_one_line(tmp_path, suffix):
    path = tmp_path / f"gauge.csv.{suffix}"
    for content in (b"", b"date,Q\n1,2\n", gzip.compress(b"date,Q\n" * 1000)[:-20]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"gauge.csv.{suffix}: not a whole .{suffix} file") as caught:
            read(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong", [{"area": 0.0}, {"area": -5.0}, {"area": float("nan")}, {"latitude": 500.0}, {"latitude": float("nan")}]
)
def test_an_impossible_catchment_is_refused(tmp_path, wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        read_catchment(written(tmp_path, table()), **({"area": AREA, "latitude": 50.6} | wrong))


def test_limits_can_be_set(tmp_path):
    limits = CatchmentLimits(temperature=(0.0, 3.0))
    with pytest.raises(DataError, match=r"tmean on 1979-01-01 is 3\.5"):
        read_catchment(written(tmp_path, table()), area=AREA, latitude=50.6, limits=limits)
    with pytest.raises(ConfigurationError, match="must be finite and increase"):
        CatchmentLimits(depth=(1.0, float("inf")))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.csv: no such file"):
        read(tmp_path / "nowhere.csv")


def test_an_empty_file_is_named(tmp_path):
    path = tmp_path / "empty.csv"
    path.write_text("")
    with pytest.raises(DataError, match="not a CSV table"):
        read(path)


def test_a_date_outside_of_the_record_is_named(tmp_path):
    with pytest.raises(DataError, match="runs from 1979-01-01 to 1979-01-05 and does not hold 1980-01-01"):
        read(written(tmp_path, table())).day("1980-01-01")


def test_evaporation_of_oudin():
    # Allen et al. (1998), example 8: 20 degrees south on 3 September has 32.2 MJ m-2 of extraterrestrial radiation
    radiation = oudin_evaporation(np.array([95.0]), np.array([246]), -20.0) * 2.45
    np.testing.assert_allclose(radiation, 32.2, atol=0.05)
    assert oudin_evaporation(np.array([-5.0, -20.0]), np.array([1, 1]), 50.0).tolist() == [0.0, 0.0]


def test_the_record_of_the_fulda():
    record = read_catchment(fulda_file(), area=2976.41, latitude=50.6)
    assert (str(record.dates[0].date()), str(record.dates[-1].date())) == ("1979-01-01", "1988-12-31")
    assert np.isfinite(record.discharge).all()
    # runoff is a plausible part of the precipitation
    assert 0.2 < record.discharge.mean() / record.precipitation.mean() < 0.6
