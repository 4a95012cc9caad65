"""Reading tables: what is converted, what is flagged, and one clear line for everything that cannot be read."""

from __future__ import annotations

import bz2
import dataclasses
import gzip
import io
import lzma
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffassim import AssimilationError, ConfigurationError, DataError
from diffassim.io.columns import Region, StationTable, TableVariable, TextFormat, TimeColumns
from diffassim.io.layout import LongLayout, WideLayout
from diffassim.io.read_table import read_table
from diffassim.observations import QCFlag

WIND = TableVariable("wind", "ff", "m s-1", bounds="wind_speed", missing=(-999,))
LONG = LongLayout(variables=(WIND,))
WIDE = WideLayout(time=TimeColumns("date"), variable=TableVariable("ozone", unit="ppb", bounds="ozone"))
ROWS = ["time,station,ff", "2021-01-01T00:00,A,1.5", "2021-01-01T00:00,B,2.5", "2021-01-01T06:00,A,3.5"]


def text(*rows, encoding="utf-8"):
    return io.BytesIO("\n".join(rows).encode(encoding))


def read(rows, **changes):
    return read_table(text(*rows), dataclasses.replace(LONG, **changes))


def refused(error, *fragments, rows=ROWS, **changes):
    with pytest.raises(error) as caught:
        read(rows, **changes)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 700
    for fragment in fragments:
        assert fragment in message, message


def with_cell(row, cell):
    return [cell if k == row else line for k, line in enumerate(ROWS)]


def test_a_long_table():
    table = read(ROWS)
    assert table.values["wind"].tolist() == [1.5, 2.5, 3.5]
    assert table.stations.names.tolist() == ["A", "B"] and table.station.tolist() == [0, 1, 0]
    assert table.time.tolist() == [t.astype("datetime64[us]").item() for t in np.array(
        ["2021-01-01T00", "2021-01-01T00", "2021-01-01T06"], "datetime64[h]")]  # fmt: skip
    assert table.row.tolist() == [2, 3, 4] and table.notes == ()
    assert table.counts() == {"wind": {QCFlag.PASS: 3}}


def test_a_wide_table():
    table = read_table(text("date,A,B", "2021-01-01,1,", "2021-01-02,3,4"), WIDE)
    assert table.values["ozone"].tolist()[:1] == [1.0] and table.flags["ozone"].tolist() == [0, 10, 0, 0]
    assert table.stations.names[table.station].tolist() == ["A", "B", "A", "B"]
    assert table.row.tolist() == [2, 2, 3, 3] and table.columns == {"A": "A", "B": "B"}


WRITTEN = {
    "mark": (text(*ROWS, encoding="utf-8-sig"), TextFormat()),
    "utf-16": (text(*ROWS, encoding="utf-16"), TextFormat()),
    "semicolon": (text(*(row.replace(",", ";") for row in ROWS)), TextFormat()),
    "tab": (text(*(row.replace(",", "\t") for row in ROWS)), TextFormat()),
    "comma": (text(*(row.replace(",", ";").replace(".", ",") for row in ROWS)), TextFormat(decimal=",")),
    "blanks": (text(*(row.replace(",", "   ") for row in ROWS)), TextFormat(separator="whitespace")),
    "quoted": (text(ROWS[0], *(f'"{a}","{b}","{c}"' for a, b, c in (r.split(",") for r in ROWS[1:]))), TextFormat()),
    "spaces": (text(*(row.replace(",", " , ") for row in ROWS)), TextFormat()),
    "windows": (io.BytesIO("\r\n".join(ROWS).encode()), TextFormat()),
    "blank rows": (text(ROWS[0], ROWS[1], "", ROWS[2], ",,", ROWS[3], ""), TextFormat()),
    "remarks": (text("# by hand", *ROWS), TextFormat(comment="#")),
    "preamble": (text("a station's own file", "", *ROWS), TextFormat(skip_rows=2)),
    "units row": (text(ROWS[0], "UTC,,m/s", *ROWS[1:]), TextFormat(units_row=True)),
    "text file": (io.StringIO("\n".join(ROWS)), TextFormat()),
}


@pytest.mark.parametrize("written", WRITTEN)
def test_however_it_is_written_the_table_is_the_same(written):
    source, form = WRITTEN[written]
    assert read_table(source, dataclasses.replace(LONG, text=form)).equals(read(ROWS))


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz", "zip", ""])
def test_compressed_files(tmp_path, suffix):
    path, content = tmp_path / f"wind.csv.{suffix}".rstrip("."), "\n".join(ROWS).encode()
    if suffix == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("wind.csv", content)
    else:
        path.write_bytes({"gz": gzip, "bz2": bz2, "xz": lzma}[suffix].compress(content) if suffix else content)
    assert read_table(path, LONG).equals(read(ROWS))


def test_latin_1_is_said():
    table = read_table(text(*(row.replace("A", "Zürich") for row in ROWS), encoding="latin-1"), LONG)
    assert table.stations.names[0] == "Zürich" and "was read as Latin-1" in table.notes[0]


@pytest.mark.parametrize("chunk", [1, 2, 3, 1000])
def test_chunks_make_no_difference(chunk):
    assert read(ROWS, chunk=chunk).equals(read(ROWS))
    rows = ["date,A,B", "2021-01-01,1,", "2021-01-02,3,4", "2021-01-03,5,6"]
    small = dataclasses.replace(WIDE, chunk=chunk)
    assert read_table(text(*rows), small).equals(read_table(text(*rows), WIDE))


def test_thousands_and_a_scale():
    variable = TableVariable("flow", "q", "l s-1", "m3 s-1", scale=10.0, offset=-1.0)
    table = read_table(
        text("time;station;q", "2021-01-01;A;1.234,5"),
        LongLayout(variables=(variable,), text=TextFormat(decimal=",", thousands=".")),
    )
    np.testing.assert_allclose(table.values["flow"], [(12345.0 - 1.0) / 1000], rtol=1e-14)


@pytest.mark.parametrize("marker", ["", "NA", "M", "-999", "-999.0", "-9.99e2", "nan", "  NA "])
def test_whatever_means_missing_is_missing(marker):
    table = read(with_cell(2, f"2021-01-01T00:00,B,{marker}"))
    assert table.flags["wind"].tolist() == [QCFlag.PASS, QCFlag.PASS] and table.stations.names.tolist() == ["A"]
    assert "1 station(s) never report and were left out: B" in table.notes[0]
    table = read(with_cell(3, f"2021-01-01T06:00,A,{marker}"))
    assert table.flags["wind"].tolist() == [0, 0, 10] and np.isnan(table.values["wind"][2])


def test_names_that_look_like_numbers_stay_text():
    rows = ["time,station,ff", "20210101,007,1", "20210102,007,2", "20210102,7,3"]
    table = read(rows, time=TimeColumns("time", "%Y%m%d"))
    assert table.stations.names.tolist() == ["007", "7"]


def test_frames_are_read_like_files():
    frame = pd.DataFrame({
        "time": pd.to_datetime(["2021-01-01T00:00", "2021-01-01T00:00", "2021-01-01T06:00"]).tz_localize("UTC"),
        "station": ["A", "B", "A"], "ff": [1.5, 2.5, 3.5],
    })  # fmt: skip
    assert read_table(frame, LONG).equals(read(ROWS))
    assert read_table(frame.assign(time=frame["time"].dt.tz_convert("Asia/Tokyo")), LONG).equals(read(ROWS))
    assert read_table(frame.set_index("time"), LONG).equals(read(ROWS))
    assert read_table(frame.assign(ff=["1.5", "2.5", "3.5"]), LONG).equals(read(ROWS))
    assert read_table(frame.assign(station=[1.0, 2.0, 1.0]), LONG).stations.names.tolist() == ["1", "2"]


def test_gross_errors_are_flagged_with_their_row():
    variable = TableVariable("wind", "ff", "mph", "m s-1", bounds="wind_speed")
    table = read(with_cell(2, "2021-01-01T00:00,B,1048"), variables=(variable,))
    assert table.flags["wind"].tolist() == [0, QCFlag.BOUNDS, 0]
    (problem,) = table.problems()
    assert (problem.file, problem.column, problem.row, problem.station) == ("table", "ff", 3, "B")
    np.testing.assert_allclose(problem.value, 1048 * 0.44704, rtol=1e-12)
    assert "row 3: 468.498 m s-1 of B at 2021-01-01 00:00:00 is flagged BOUNDS" in table.describe()
    assert not np.isnan(table.values["wind"][1]) and not table.used("wind")[1]


def test_infinite_values_are_flagged():
    assert read(with_cell(2, "2021-01-01T00:00,B,inf"), variables=(TableVariable("wind", "ff", "m s-1"),)).flags[
        "wind"
    ].tolist() == [0, QCFlag.BOUNDS, 0]


def test_the_order_of_rows_does_not_matter_and_is_said():
    table = read([ROWS[0], ROWS[3], ROWS[2], ROWS[1]])
    assert table.values["wind"][table.station == 0].tolist() == [1.5, 3.5]
    assert (np.diff(table.time) >= np.timedelta64(0)).all()
    assert "1 time(s) are earlier than the one before of their station, the first in row 4, of 'A'" in table.notes[0]
    by_station = read([ROWS[0], ROWS[1], ROWS[3], ROWS[2]])  # one station after the other is no flaw
    assert by_station.notes == () and by_station.values["wind"].tolist() == [1.5, 2.5, 3.5]


DOUBLED = [*ROWS, "2021-01-01T06:00,A,5.5"]


@pytest.mark.parametrize(("rule", "used", "value"), [("first", [4], 3.5), ("last", [5], 5.5), ("mean", [4], 4.5)])
def test_duplicates(rule, used, value):
    table = read(DOUBLED, duplicates=rule)
    late = table.time == table.time.max()
    assert table.row[late & table.used("wind")].tolist() == used
    assert table.values["wind"][late & table.used("wind")].tolist() == [value]
    assert sorted(table.flags["wind"][late].tolist()) == [QCFlag.PASS, QCFlag.DUPLICATE]


def test_of_duplicates_a_missing_or_impossible_value_does_not_count():
    rows = [*ROWS[:3], "2021-01-01T06:00,A,NA", "2021-01-01T06:00,A,500", "2021-01-01T06:00,A,5.5"]
    for rule in ("first", "last", "mean"):
        table = read(rows, duplicates=rule)
        assert table.flags["wind"].tolist() == [0, 0, QCFlag.MISSING, QCFlag.BOUNDS, QCFlag.PASS]
        assert table.values["wind"][4] == 5.5


def test_spikes_and_stuck_values():
    hours = [f"2021-01-01T{h:02d}:00" for h in range(12)]
    values = [1.0, 1.2, 30.0, 1.1, 1.3, 2.0, 2.0, 2.0, 2.0, 1.0, 1.1, 1.2]
    rows = ["time,station,ff", *(f"{t},A,{v}" for t, v in zip(hours, values, strict=True))]
    variable = TableVariable("wind", "ff", "m s-1", spike=10.0, stuck=4)
    flags = read(rows, variables=(variable,)).flags["wind"]
    assert np.flatnonzero(flags == QCFlag.SPIKE).tolist() == [2]
    assert np.flatnonzero(flags == QCFlag.STUCK).tolist() == [5, 6, 7, 8]
    free = dataclasses.replace(variable, stuck_except=(2.0,))
    assert QCFlag.STUCK not in read(rows, variables=(free,)).flags["wind"]


def test_a_station_that_always_says_the_same_is_noted():
    rows = ["time,station,ff", *(f"2021-01-01T{h:02d}:00,A,4" for h in range(12))]
    notes = read(rows).notes
    assert "all values of wind are the same at 1 station(s): A" in notes[1]
    assert "one station only, 'A'" in notes[0]


def test_flags_of_the_file_are_kept():
    rows = ["time,station,ff,q", "2021-01-01,A,1,G", "2021-01-02,A,2,B", "2021-01-03,A,3,"]
    variable = TableVariable("wind", "ff", "m s-1", flag="q", good=("G",))
    assert read(rows, variables=(variable,)).flags["wind"].tolist() == [0, QCFlag.PRE_QC, QCFlag.PRE_QC]
    numbered = ["time,station,ff,q", "2021-01-01,A,1,0", "2021-01-02,A,2,102", "2021-01-03,A,3,77"]
    flags = read(numbered, variables=(dataclasses.replace(variable, good=None),)).flags["wind"]
    assert flags.tolist() == [0, QCFlag.SPIKE, QCFlag.PRE_QC]


def test_errors_come_with_the_values():
    rows = ["time,station,ff,sd", "2021-01-01,A,1,0.5", "2021-01-02,A,2,NA"]
    variable = TableVariable("wind", "ff", "degC", "K", std="sd")
    table = read(rows, variables=(variable,))
    assert table.std["wind"][0] == 0.5 and np.isnan(table.std["wind"][1])  # a difference knows no zero point
    assert table.values["wind"].tolist() == [274.15, 275.15]
    assert read(rows, variables=(dataclasses.replace(variable, std=2.0),)).std["wind"].tolist() == [2.0, 2.0]
    refused(DataError, "column sd, row 3: -1", rows=[*rows[:2], "2021-01-02,A,2,-1"], variables=(variable,))


def test_the_unit_may_stand_in_the_file():
    rows = ["time,station,ff", ",,knot", *ROWS[1:]]
    told = TableVariable("wind", "ff", wanted="m s-1")
    table = read(rows, variables=(told,), text=TextFormat(units_row=True))
    np.testing.assert_allclose(table.values["wind"], np.array([1.5, 2.5, 3.5]) * 1852 / 3600, rtol=1e-12)
    refused(
        ConfigurationError, "the file says that its unit is 'knot', the layout 'm s-1'", rows=rows,
        text=TextFormat(units_row=True),
    )  # fmt: skip


def variable(**changes):
    return {"variables": (dataclasses.replace(WIND, **changes),)}


@pytest.mark.parametrize(
    ("error", "rows", "changes", "fragments"),
    [
        (DataError, [], {}, ("table: is empty",)),
        (DataError, ROWS[:1], {}, ("is empty; there is no row of data",)),
        (DataError, ["time,station,ff,ff"], {}, ("the column 'ff' appears twice",)),
        (ConfigurationError, ROWS, variable(column="FF"), ("has no column 'FF'; did you mean 'ff'?; it has time",)),
        (ConfigurationError, ROWS, {"station": "stations"}, ("no column 'stations'; did you mean 'station'?",)),
        (DataError, with_cell(2, "2021-01-01T00:00,B,calm"), {}, ("column ff, row 3: 'calm' is not a number",)),
        (DataError, with_cell(2, '2021-01-01T00:00,B,"2,5"'), {}, ("row 3: '2,5'", "a decimal comma?")),
        (DataError, with_cell(2, "2021-01-01T00:00,B,True"), {}, ("row 3: 'True' is not a number",)),
        (DataError, with_cell(2, "2021-01-01T00:00,B,2,5"), {}, ("from row 2 on", "3 columns", "line 3, saw 4")),
        (DataError, with_cell(1, "2021-01-01T00:00,A,2,5"), {}, ("from row 2 on", "3 columns")),
        (DataError, with_cell(2, "31.02.2021,B,2.5"), {}, ("column time, row 3: '31.02.2021' is no date",)),
        (DataError, with_cell(2, "2021-02-30,B,2.5"), {}, ("row 3: '2021-02-30' is no date",)),
        (DataError, with_cell(2, ",B,2.5"), {}, ("row 3 has values, but no time",)),
        (DataError, with_cell(2, "2021-01-01T00:00,,2.5"), {}, ("row 3 has values, but no station",)),
        (DataError, [ROWS[0], "2021-01-01,A,NA", "2021-01-02,A,-999"], {}, ("all 2 values of ff are missing",)),
        (DataError, DOUBLED, {}, ("rows 4 and 5 are both of the station 'A' at 2021-01-01 06:00:00 UTC", "first")),
        (ConfigurationError, ROWS, variable(unit="m s-2", wanted="m s-1"), ("column ff", "'m s-2'", "'m s-1'")),
        (ConfigurationError, ROWS, variable(unit="bf", wanted="m s-1"), ("the unit 'bf' is not known",)),
        (ConfigurationError, ROWS, variable(unit=None), ("column ff: its unit is not known",)),
        (ConfigurationError, ROWS, variable(bounds="wind"), ("no bounds are known for 'wind'", "wind_speed")),
        (ConfigurationError, ROWS, variable(unit="degC"), ("wind", "'m s-1'", "'degC'")),
        (DataError, with_cell(2, "2021-01-01T00:00,B," + "9" * 10**6 + "x"), {}, ("not a number",)),
    ],
)  # fmt: skip
def test_every_flaw_is_one_clear_line(error, rows, changes, fragments):
    refused(error, *fragments, rows=rows, **changes)


def test_a_missing_file_and_a_damaged_one(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.csv: no such file"):
        read_table(tmp_path / "nowhere.csv", LONG)
    damaged = tmp_path / "wind.csv.gz"
    damaged.write_bytes(gzip.compress("\n".join(ROWS * 1000).encode())[:-20])
    with pytest.raises(DataError, match=r"wind.csv.gz: ") as caught:
        read_table(damaged, LONG)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="layout must be a LongLayout or a WideLayout, found NoneType"):
        read_table(text(*ROWS))


PLACES = ["time,station,lon,lat,ff", "2021-01-01,A,8.5,50.1,1", "2021-01-01,B,10.0,48.0,2", "2021-01-02,A,8.5,50.1,3"]
PLACED = {"longitude": "lon", "latitude": "lat"}


def test_places_in_the_table():
    table = read(PLACES, **PLACED)
    assert table.stations.longitude.tolist() == [8.5, 10.0] and table.stations.latitude.tolist() == [50.1, 48.0]
    assert table.places()[2, :2].tolist() == [8.5, 50.1]
    nameless = read(PLACES, station=None, **PLACED)
    assert nameless.stations.names.tolist() == ["50.1 8.5", "48 10"] and nameless.station.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("change", "changes", "fragments"),
    [
        ({"8.5": "108.5", "50.1": "150.1"}, {}, ("row 2: the place of 'A', latitude 150.1",)),
        ({"8.5,50.1": "50.1,138.5"}, {}, ("latitude 138.5", "seem to be exchanged")),
        ({"8.5,50.1": "50.1,8.5"}, {"region": Region(5, 15, 45, 55)}, ("outside of the region", "exchanged")),
        ({"10.0,48.0": "30.0,48.0"}, {"region": Region(5, 15, 45, 55)}, ("row 3: the place of 'B'", "outside")),
        ({"2021-01-02,A,8.5": "2021-01-02,A,8.6"}, {}, ("station 'A' is at", "row 2, but at [8.6, 50.1] in row 4")),
        ({"2021-01-02,A,8.5": "2021-01-02,A,east"}, {}, ("column lon, row 4: 'east' is neither",)),
    ],
)
def test_impossible_places(change, changes, fragments):
    rows = PLACES
    for old, new in change.items():
        rows = [row.replace(old, new) for row in rows]
    refused(DataError, *fragments, rows=rows, **PLACED, **changes)


def test_ships_move():
    rows = [row.replace("2021-01-02,A,8.5", "2021-01-02,A,8.6") for row in PLACES]
    table = read(rows, moving=True, **PLACED)
    assert table.places()[:, 0].tolist() == [8.5, 10.0, 8.6] and len(table.stations.names) == 2


STATIONS = pd.DataFrame({
    "id": ["B", "A", "C"], "lon": ["10d15'W", "8d30'E", "0"], "lat": ["51d56'N", "50.5", "0"], "z": [1.0, 2.0, 3.0],
})  # fmt: skip


def stations(frame=STATIONS, **changes):
    return StationTable(frame, station="id", elevation="z", **changes)


def test_places_in_a_table_of_stations():
    table = read(ROWS, stations=stations())
    assert table.stations.longitude.tolist() == [8.5, -10.25] and table.stations.elevation.tolist() == [2.0, 1.0]
    assert table.notes == ("table: 1 station(s) never report and were left out: C",)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (STATIONS.assign(id=["B", "X", "C"]), "the station 'A' is not in the table of stations"),
        (STATIONS.assign(id=["B", "A", "A"]), "row 4: the station 'A' is there already"),
        (STATIONS.assign(id=["B", "A", ""]), "row 4: a station has no name"),
        (STATIONS.assign(lat=["51d56'N", "x", "0"]), "column lat, row 3: 'x' is neither a number of degrees nor"),
        (STATIONS.assign(lat=["51d76'N", "1", "0"]), 'column lat, row 2: "51d76\'N" is neither'),
        (STATIONS.assign(lat=["51d56'N", "95", "0"]), "row 3: the place of 'A', latitude 95"),
    ],
)
def test_flaws_of_a_table_of_stations(frame, message):
    with pytest.raises(DataError, match=message.replace("(", r"\(")):
        read(ROWS, stations=stations(frame))


def test_columns_of_a_wide_table_by_order_and_by_mapping():
    rows = text("date,V1,V2", "2021-01-01,1,2")
    by_order = dataclasses.replace(WIDE, columns="order", stations=stations(STATIONS.iloc[:2]))
    table = read_table(rows, by_order)
    assert table.stations.names.tolist() == ["B", "A"] and table.columns == {"B": "V1", "A": "V2"}
    rows.seek(0)
    mapped = read_table(rows, dataclasses.replace(WIDE, columns={"V2": "A"}))
    assert mapped.values["ozone"].tolist() == [2.0]
    rows.seek(0)
    with pytest.raises(ConfigurationError, match="has 2 columns of values, but the table of stations has 3 rows"):
        read_table(rows, dataclasses.replace(by_order, stations=stations()))


def test_a_row_of_a_wide_table_without_a_date():
    with pytest.raises(DataError, match="row 3 has values, but no time"):
        read_table(text("date,A", "2021-01-01,1", ",2"), WIDE)


def test_steps_between_which_reports_lie_and_that_are_empty_are_said():
    rows = [*ROWS, "2021-01-01T18:00,A,1", "2021-01-01T18:10,B,1"]
    notes = read(rows, step="6h").notes
    assert "1 report(s) lie between the steps of 360 minutes, the first in row 6" in notes[0]
    assert "1 of 4 steps hold no report" in notes[1]


CELLS = st.sampled_from([
    "time", "station", "ff", "A", "1", "2021-01-01", "2021-13-45", "-999", "NA", "x", "1e400", "True", "1,5", "nan",
    "inf", "é", "#", "-", ";", ",", "'", "", " ", "\0", '"', "\n", "\r", "\ufeff",
])  # fmt: skip


@settings(deadline=None, max_examples=150)
@given(st.lists(CELLS, max_size=40).map("".join) | st.binary(max_size=60), st.booleans())
def test_whatever_a_file_holds_it_is_a_table_or_one_line(content, with_names):
    raw = content if isinstance(content, bytes) else content.encode()
    error, table = None, None
    try:
        table = read_table(io.BytesIO(b"time,station,ff\n" * with_names + raw), LONG)
    except AssimilationError as caught:
        error = str(caught)
    assert (error is not None and "\n" not in error and len(error) < 900) or not np.isnat(table.time).any()


def test_a_damaged_parquet_file(tmp_path):
    pytest.importorskip("pyarrow", reason="parquet needs pyarrow: pip install 'diffassim[files]'")
    path = tmp_path / "wind.parquet"
    path.write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"wind\.parquet: not a whole parquet file"):
        read_table(path, LONG)


def test_parquet_needs_pyarrow(tmp_path, monkeypatch):
    path = tmp_path / "wind.parquet"
    path.write_bytes(b"no parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigurationError, match=r"parquet needs pyarrow: pip install 'diffassim\[files\]'"):
        read_table(path, LONG)


def test_a_million_rows_are_read_without_a_loop():
    count, stations_ = 1_000_000, 100
    number = np.arange(count)
    frame = pd.DataFrame({
        "time": np.datetime64("2000-01-01", "us") + (number // stations_) * np.timedelta64(1, "h"),
        "station": np.array([f"S{k}" for k in range(stations_)])[number % stations_], "ff": (number % 97) / 10,
    })  # fmt: skip
    table = read_table(frame, LONG)
    assert len(table) == count and table.counts()["wind"] == {QCFlag.PASS: count}
    assert table.to_grid("1h").mask.all()
