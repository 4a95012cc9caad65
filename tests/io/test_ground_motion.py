"""Tables of ground motion."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("pandas")

from diffassim.core.errors import DataError
from diffassim.io.ground_motion import local_kilometers, read_ground_motion, ridgecrest_file

HEADER = (
    "EarthquakeId,EarthquakeTime,EarthquakeLatitude,EarthquakeLongitude,EarthquakeDepth,EarthquakeMagnitude,StationID,"
    "StationLatitude,StationLongitude,StationElevation,RuptureDistance,PGA,Vs30_mps_CA_map,Vs30_mps_slope"
)
ROWS = (
    "b,2019-07-05T00:00:00.5Z,35.8,-117.5,5,4.5,CI.Y,35.0,-117.0,100,60,0.5,,300",
    "a,2019-07-04T17:02:55Z,35.7,-117.5,10,4.0,CI.Y,35.0,-117.0,100,50,0.2,,300",
    "a,2019-07-04T17:02:55Z,35.7,-117.5,10,4.0,CI.X,34.0,-117.0,200,150,1.0,400,350",
    "a,2019-07-04T17:02:55Z,35.7,-117.5,10,4.0,CI.Z,34.0,-117.0,200,150,,400,350",
)


def written(tmp_path, *rows, header=HEADER):
    path = tmp_path / "table.csv"
    path.write_text("\n".join((header, *rows)) + "\n")
    return path


def test_events_come_in_their_order_and_units_are_converted(tmp_path):
    table = read_ground_motion(written(tmp_path, *ROWS))
    assert table.events == ["a", "b"] and table.stations == ["CI.X", "CI.Y"]
    assert table.event.tolist() == [0, 0, 1] and table.station.tolist() == [0, 1, 1]
    np.testing.assert_allclose(table.log_pga, np.log10([0.01, 0.002, 0.005]), rtol=1e-12)
    assert table.vs30.tolist() == [400.0, 300.0]
    np.testing.assert_allclose(table.event_place[0], [0.0, 0.0, 10.0])
    np.testing.assert_allclose(table.event_place[1, :2], [0.0, 11.1195], rtol=1e-9)


def test_local_kilometers_agree_with_great_circles():
    place = local_kilometers(np.array([36.2]), np.array([-117.1]), (35.7, -117.5))[0]
    a, b = np.radians([[35.7, -117.5], [36.2, -117.1]])
    half = np.sin((b - a) / 2) ** 2
    exact = 2 * 6371.0 * np.arcsin(np.sqrt(half[0] + np.cos(a[0]) * np.cos(b[0]) * half[1]))
    assert abs(np.hypot(*place) - exact) < 0.3


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (ROWS[0].replace(",0.5,", ",-0.5,"), "PGA holds -0.005|PGA holds -0.5"),
        (ROWS[0].replace(",0.5,", ",much,"), "PGA holds 'much', which is no number"),
        (ROWS[1].replace("4.0", "4.1").replace("CI.Y", "CI.W"), "event 'a' differ in its time, place or magnitude"),
        (ROWS[1], "a station appears twice"),
        (ROWS[0].replace("2019-07-05T00:00:00.5Z", "yesterday"), "EarthquakeTime is no time"),
    ],
)
def test_bad_tables_are_refused_by_name(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        read_ground_motion(written(tmp_path, *ROWS[1:], row))


def test_missing_columns_and_empty_tables_are_named(tmp_path):
    with pytest.raises(DataError, match="no column 'PGA'"):
        read_ground_motion(written(tmp_path, header=HEADER.replace("PGA", "PGV")))
    with pytest.raises(DataError, match="no record has"):
        read_ground_motion(written(tmp_path, ROWS[3]))


def test_the_ridgecrest_records_are_those_of_the_package():
    try:
        path = ridgecrest_file()
    except DataError as error:
        pytest.skip(str(error))
    table = read_ground_motion(path)
    assert (len(table.event), len(table.events), len(table.stations)) == (22375, 131, 968)
    assert table.magnitude.max() == 7.1 and np.isfinite(table.vs30).all()
