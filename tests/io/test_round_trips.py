"""Tables come back from CSV, parquet and the layout of IODA as they were."""

from __future__ import annotations

import dataclasses
import sys

import netCDF4
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffassim import ConfigurationError, DataError, ShapeError
from diffassim.io.columns import StationTable, TableVariable, TimeColumns
from diffassim.io.ioda import read_ioda, write_ioda
from diffassim.io.layout import LongLayout
from diffassim.io.read_table import read_table
from diffassim.io.write_table import write_table
from diffassim.observations import QCFlag

VARIABLES = (
    TableVariable("wind", "ff", "knot", "m s-1", bounds="wind_speed", std=1.5, long_name="wind speed at 10 m"),
    TableVariable("t", unit="degC", wanted="K"),
)
STATIONS = pd.DataFrame({"id": ["Zürich", "B, or 'b'", "C"], "lon": [8.55, 10.0, 1 / 3], "lat": [47.4, 48.0, 1 / 7]})


def example(zone="UTC", count=7, seed=0):
    rng = np.random.default_rng(seed)
    moments = pd.date_range("2021-10-30T20:00", periods=count, freq="2h", tz="UTC").tz_convert(zone)
    frame = pd.DataFrame({
        "time": np.repeat(moments, 3), "station": np.tile(STATIONS["id"], count),
        "ff": rng.gamma(2.0, 5.0, 3 * count), "t": rng.normal(10, 5, 3 * count),
    })  # fmt: skip
    frame.loc[1, "ff"] = np.nan
    frame.loc[2, "ff"] = 1048.0
    frame = frame[frame.index != 5]
    layout = LongLayout(variables=VARIABLES, time=TimeColumns(zone=zone), stations=StationTable(STATIONS, station="id"))
    return read_table(frame, layout)


SUFFIXES = ["csv", "csv.gz", "parquet", "nc"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
def test_tables_come_back(tmp_path, suffix, zone):
    if suffix == "parquet":
        pytest.importorskip("pyarrow", reason="parquet needs pyarrow: pip install 'diffassim[files]'")
    table = example(zone)  # the night in which Berlin sets the clock back
    assert set(np.unique(table.flags["wind"])) == {QCFlag.PASS, QCFlag.MISSING, QCFlag.BOUNDS}
    layout = write_table(table, tmp_path / f"table.{suffix}")
    back = read_table(tmp_path / f"table.{suffix}", layout)
    assert back.equals(table) and back.zone == zone
    assert [v.long_name for v in back.variables] == [v.long_name for v in table.variables]
    again = write_table(back, tmp_path / f"again.{suffix}")
    assert read_table(tmp_path / f"again.{suffix}", again).equals(table)


def test_from_one_format_to_the_next(tmp_path):
    pytest.importorskip("pyarrow", reason="parquet needs pyarrow: pip install 'diffassim[files]'")
    table = current = example("Europe/Berlin")
    for suffix in SUFFIXES:
        layout = write_table(current, tmp_path / f"table.{suffix}")
        current = read_table(tmp_path / f"table.{suffix}", layout)
    assert current.equals(table)


def test_what_differs_is_not_equal():
    table = example()
    assert (
        table.equals(example()) and not table.equals(example(seed=1)) and not table.equals(table.rows(slice(1, None)))
    )
    flags = {"wind": np.where(table.flags["wind"] == 0, 19, -1)}
    assert not table.equals(table.with_flags(flags))


def test_flags_of_an_analysis_are_kept_beside_those_of_reading(tmp_path):
    table = example()
    rejected = np.full(len(table), -1)
    rejected[:4] = QCFlag.FIRST_GUESS
    flagged = table.with_flags({"wind": rejected})
    assert flagged.effective is not None
    first = flagged.effective["wind"][:4].tolist()
    assert first == [QCFlag.FIRST_GUESS, QCFlag.MISSING, QCFlag.BOUNDS, QCFlag.FIRST_GUESS]
    assert flagged.flags["wind"] is table.flags["wind"] and flagged.used("t").all()
    write_ioda(flagged, tmp_path / "flagged.nc")
    assert read_ioda(tmp_path / "flagged.nc").equals(flagged)
    layout = write_table(flagged, tmp_path / "flagged.csv")
    back = read_table(tmp_path / "flagged.csv", layout)
    np.testing.assert_array_equal(back.flags["wind"], flagged.effective["wind"])  # a column of flags: the last word
    with pytest.raises(ShapeError, match="with_flags: wind has shape"):
        table.with_flags({"wind": [0]})
    with pytest.raises(ConfigurationError, match="no variable 'wnd'; did you mean 'wind'"):
        table.with_flags({"wnd": rejected})


def test_the_groups_are_those_of_ioda(tmp_path):
    write_ioda(example(), tmp_path / "table.nc", single=True)
    with netCDF4.Dataset(tmp_path / "table.nc") as file:
        assert set(file.groups) == {"MetaData", "ObsValue", "ObsError", "PreQC"}
        assert file.dimensions["Location"].size == 20
        assert file["ObsValue/wind"].units == "m s-1" and file["ObsValue/wind"].dtype == np.float32
        assert file["MetaData/dateTime"].units == "seconds since 1970-01-01T00:00:00Z"
        assert file["PreQC/wind"].flag_meanings.split()[3] == "pre_qc"
        assert file["ObsValue/wind"][:].mask.sum() == 1
    single = read_ioda(tmp_path / "table.nc")
    np.testing.assert_allclose(single.values["t"], example().values["t"], rtol=1e-7)


def foreign(path, **changes):
    """Write what another system might: text as dates, its own marks, no names of stations."""
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("Location", 3)
        meta, value, marks = (file.createGroup(name) for name in ("MetaData", "ObsValue", "PreQC"))
        for name, numbers in (("longitude", [350.0, 10.0, 350.0]), ("latitude", changes.get("latitude", [1, 2, 1]))):
            meta.createVariable(name, "f4", ("Location",))[:] = numbers
        if changes.get("times", True):
            times = meta.createVariable("datetime", str, ("Location",))
            times[:] = np.array(["2021-01-01T06:00:00Z", "2021-01-01T00:00:00Z", "2021-01-01T03:00:00Z"], object)
        field = value.createVariable("airTemperature", "f4", ("Location",), fill_value=np.float32(9.9e36))
        field.units = "K"
        field[:] = [280.0, 281.0, 9.9e36]
        marks.createVariable("airTemperature", "i4", ("Location",))[:] = [2, 9, 0]


def test_files_of_others_are_read(tmp_path):
    foreign(tmp_path / "other.nc")
    table = read_table(tmp_path / "other.nc")
    assert table.time.astype("datetime64[h]").astype(int).tolist() == sorted(
        table.time.astype("datetime64[h]").astype(int)
    )
    assert table.flags["airTemperature"].tolist() == [QCFlag.PRE_QC, QCFlag.MISSING, QCFlag.PASS]
    assert table.stations.names.tolist() == ["1 350", "2 10"] and table.values["airTemperature"][2] == 280.0
    assert table.variable("airTemperature").units == "K"


def test_flaws_of_netcdf_files(tmp_path):
    (tmp_path / "broken.nc").write_bytes(b"CDF")
    with pytest.raises(DataError, match=r"broken\.nc: not a whole netCDF file"):
        read_table(tmp_path / "broken.nc")
    with pytest.raises(DataError, match=r"nowhere\.nc: no such file"):
        read_table(tmp_path / "nowhere.nc")
    foreign(tmp_path / "a.nc", times=False)
    with pytest.raises(DataError, match=r"a\.nc: MetaData holds no dateTime; it has longitude, latitude"):
        read_table(tmp_path / "a.nc")
    foreign(tmp_path / "b.nc", latitude=[1, 95, 1])
    with pytest.raises(DataError, match=r"b\.nc: row 2: the place of '95 10', latitude 95"):
        read_table(tmp_path / "b.nc")
    with netCDF4.Dataset(tmp_path / "c.nc", "w") as file:
        file.createDimension("x", 1)
        file.createVariable("t", "f4", ("x",))
    with pytest.raises(
        DataError, match=r"c\.nc: has no group 'MetaData', so it is not in the layout of IODA; it has t"
    ):
        read_table(tmp_path / "c.nc")


def test_ships_and_fractions_of_seconds_come_back(tmp_path):
    frame = pd.DataFrame({
        "time": ["2021-01-01T00:00:00.25", "2021-01-01T00:00:01.5"], "station": "ship", "x": [1.0, 2.0],
        "y": [3.0, 4.0], "t": [280.0, 281.0],
    })  # fmt: skip
    layout = LongLayout(variables=(TableVariable("t", unit="K"),), longitude="x", latitude="y", moving=True)
    table = read_table(frame, layout)
    for suffix in ("csv", "nc"):
        back = read_table(tmp_path / f"ship.{suffix}", write_table(table, tmp_path / f"ship.{suffix}"))
        assert back.equals(table), suffix


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from("AB"), st.floats(-1e6, 1e6) | st.none()), min_size=1))
def test_any_numbers_come_back(tmp_path_factory, rows):
    rows = list({(minute, station): (minute, station, value) for minute, station, value in rows}.values())
    if all(value is None for *_, value in rows):
        return
    path = tmp_path_factory.mktemp("any") / "any.csv"
    frame = pd.DataFrame(rows, columns=["time", "station", "t"])
    layout = LongLayout(variables=(TableVariable("t", unit="K"),), time=TimeColumns(format="minutes since 2000-01-01"))
    table = read_table(frame, layout)
    assert read_table(path, write_table(table, path)).equals(table)


def test_unknown_endings_and_absent_libraries(tmp_path, monkeypatch):
    table = example()
    with pytest.raises(ConfigurationError, match=r"table\.xls must end with \.csv, \.csv\.gz, \.parquet or \.nc"):
        write_table(table, tmp_path / "table.xls")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigurationError, match=r"parquet needs pyarrow: pip install 'diffassim\[files\]'"):
        write_table(table, tmp_path / "table.parquet")


def test_selections_and_a_station_too_few():
    table = example()
    some = table.select(stations=["C"], start="2021-10-30T22:00", end="2021-10-31T02:00+01:00")
    assert set(some.stations.names[some.station]) == {"C"} and len(some) == 1
    with pytest.raises(ConfigurationError, match="no station 'Zurich'; did you mean 'Zürich'"):
        table.select(stations=["Zurich"])
    table.require_stations(3)
    with pytest.raises(DataError, match=r"1 station\(s\) report usable values \(C\), at least 2 are needed"):
        some.require_stations(2)
    with pytest.raises(ConfigurationError, match="start: 'soon' is no time"):
        table.select(start="soon")
    with pytest.raises(ShapeError, match="ObservationTable: station has shape"):
        dataclasses.replace(table, station=table.station[:1])
