"""From tables to observations and back: every report at its time and place, every flag back in its row."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import diffassim as da
from diffassim import ConfigurationError, DataError, ShapeError
from diffassim.io.analysis import analysis_to_table, stations_to_dataset
from diffassim.io.assimilate import observations_from_table
from diffassim.io.columns import StationTable, TableVariable, TimeColumns
from diffassim.io.layout import LongLayout
from diffassim.io.read_table import read_table
from diffassim.io.write_table import write_table
from diffassim.observations import Bounds, Interpolate, QCFlag, quality_control

SPACING = 0.5
STATIONS = pd.DataFrame({"id": list("ABC"), "lon": [0.3, 1.75, 3.1], "lat": 50.0})


def example(zone="UTC"):
    rng = np.random.default_rng(3)
    minutes = np.sort(rng.choice(48 * 60, 40, replace=False))
    time = pd.Timestamp("2021-01-01", tz="UTC") + pd.to_timedelta(minutes, "min")
    frame = pd.DataFrame({
        "time": time, "station": rng.choice(list("ABC"), 40), "t": rng.normal(10, 1, 40), "u": rng.normal(0, 1, 40),
    })  # fmt: skip
    frame.loc[[3, 8], "t"] = [np.nan, 1048.0]
    variables = (
        TableVariable("t", unit="degC", bounds="air_temperature", std=0.5),
        TableVariable("u", unit="m s-1"),
    )
    layout = LongLayout(variables=variables, time=TimeColumns(zone=zone), stations=StationTable(STATIONS, station="id"))
    return read_table(frame, layout)


def along(longitude, latitude, elevation):
    return longitude[:, None]


def observations(table=None, variables="t", **changes):
    settings = {"operator": Interpolate(spacing=(SPACING,), periodic=(False,)), "origin": "2021-01-01", "dt": "6h",
                "places": along}  # fmt: skip
    return observations_from_table(example() if table is None else table, variables, **(settings | changes))


def test_observations_are_what_the_reports_say():
    table = example()
    found = observations(table)
    # a state that is linear in space and time is interpolated exactly
    states = jnp.asarray(np.arange(10.0) * SPACING + 100.0 * np.arange(10.0)[:, None])
    predicted = found.observations.predict(states[np.asarray(found.observations.rows)])
    by_report = found.to_reports(predicted, fill=np.nan)["t"]
    hours = (table.time - np.datetime64("2021-01-01", "us")) / np.timedelta64(6, "h")
    expected = table.places()[:, 0] + 100.0 * hours
    used = table.used("t")
    np.testing.assert_allclose(by_report[used], expected[used], rtol=1e-12)
    assert np.isnan(by_report[~used]).all() and int(found.observations.count()) == used.sum() == 38
    np.testing.assert_array_equal(
        found.to_reports(found.observations.values, np.nan)["t"][used], table.values["t"][used]
    )


def test_more_variables_are_streams_with_errors_of_their_own():
    operator = Interpolate(spacing=(SPACING,), periodic=(False,))
    found = observations(
        variables=None,
        operator={"t": operator, "u": operator},
        std={"t": 0.7, "u": 2.0},
        loss=da.observations.Huber(1.5),
    )
    assert found.variables == ("t", "u") and len(found.observations) == 2
    for stream, std in zip(found.observations, (0.7, 2.0), strict=True):
        np.testing.assert_allclose(stream.error.variance(stream.values)[stream.mask], std**2, rtol=1e-12)
        assert stream.loss is not None


def test_windows_and_places():
    table = example()
    day = observations(table, start="2021-01-01T12:00", end="2021-01-02")
    inside = (table.time >= np.datetime64("2021-01-01T12:00")) & (table.time < np.datetime64("2021-01-02"))
    assert sorted(day.report[0][day.report[0] >= 0]) == np.flatnonzero(inside & table.used("t")).tolist()
    by_station = observations(
        table, places=np.array([[0.3], [1.75], [3.1]])[[list("ABC").index(n) for n in table.stations.names]]
    )
    np.testing.assert_array_equal(by_station.observations.where, observations(table).observations.where)
    sphere = observations(table, places=None, operator=lambda x, where: where[:, 0])
    np.testing.assert_array_equal(np.asarray(sphere.observations.where)[0, 0], [50.0, table.places()[0, 0]])


def test_a_station_without_a_place_is_missing():
    table = example()
    found = observations(table, places=lambda lon, lat, z: np.where(lon == 0.3, np.nan, lon)[:, None])
    assert int(found.observations.count()) == (table.used("t") & (table.places()[:, 0] != 0.3)).sum()


def test_flags_come_back_to_the_table(tmp_path):
    table = example()
    found = observations(table)
    screened = quality_control(found.observations, [Bounds(lower=9.0, upper=11.0)])
    flagged = table.with_flags(found.to_reports(screened))
    values, final = table.values["t"], flagged.final("t")
    used = table.used("t")
    assert (final[used] == np.where((values[used] < 9) | (values[used] > 11), QCFlag.BOUNDS, 0)).all()
    assert (final[~used] == table.flags["t"][~used]).all() and (flagged.final("u") == table.flags["u"]).all()
    assert 0 < flagged.counts()["t"][QCFlag.PASS] < 38
    again = observations(flagged)  # what was rejected is not assimilated again
    assert int(again.observations.count()) == flagged.used("t").sum()


def test_an_analysis_is_written_beside_what_was_observed(tmp_path):
    zone = "America/New_York"
    table = example(zone)
    times = np.unique(table.time)[:5]
    analysis = np.arange(15.0).reshape(5, 3)
    frame = analysis_to_table({"t": analysis}, times, table, spread={"t": np.ones((5, 3))})
    assert len(frame) == 15 and str(frame["time"].dt.tz) == zone
    np.testing.assert_array_equal(frame["t_analysis"], analysis.ravel())
    for k in range(5):
        row = frame[(frame["time"] == pd.Timestamp(table.time[k], tz="UTC"))
                    & (frame["station"] == table.stations.names[table.station[k]])].iloc[0]  # fmt: skip
        np.testing.assert_array_equal(row["t_observed"], table.values["t"][k])
        if not np.isnan(table.values["t"][k]):
            assert row["t_flag"] == table.flags["t"][k]
    assert frame["t_observed"].notna().sum() == np.isfinite(table.values["t"][:5]).sum()
    assert frame.attrs["units"]["t_analysis"] == "degC"
    write_table(frame, tmp_path / "analysis.csv")
    back = pd.read_csv(tmp_path / "analysis.csv")
    assert back.columns[5] == "t_analysis [degC]" and back["time"][0].endswith("-0500")
    np.testing.assert_array_equal(back["t_analysis [degC]"], analysis.ravel())
    write_table(frame, tmp_path / "analysis.nc")
    with xr.open_dataset(tmp_path / "analysis.nc", engine="netcdf4") as opened:
        np.testing.assert_array_equal(opened["t_analysis"], analysis)
        np.testing.assert_array_equal(opened["time"], times)
        np.testing.assert_array_equal(opened["longitude"], table.stations.longitude)
        assert opened["station"].values.tolist() == table.stations.names.tolist()
        assert opened["t_spread"].attrs["units"] == "degC" and opened.attrs["time_zone"] == zone
        known = frame["t_flag"].notna().to_numpy()
        np.testing.assert_array_equal(opened["t_flag"].values.ravel() >= 0, known)
    with pytest.raises(ShapeError, match=r"analysis of t has shape \(2,\), expected \(time, station\) \(5, 3\)"):
        analysis_to_table({"t": [1.0, 2.0]}, times, table)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"variables": "x"}, ConfigurationError, "no variable 'x'; there are t, u"),
        ({"variables": "u"}, ConfigurationError, "the error of u is not known; give std=... in m s-1"),
        ({"dt": 6}, ConfigurationError, "dt: 6 is no length of time"),
        ({"origin": "x"}, ConfigurationError, "origin: 'x' is no time"),
        ({"origin": "2022-01-01"}, DataError, "no usable value of t from 2022-01-01 00:00:00 UTC; the table has 38"),
        ({"operator": {"u": None}}, ConfigurationError, "operator is given for u, but not for t"),
        ({"places": np.zeros((2, 1))}, ShapeError, "but the table has 3 stations"),
    ],
)
def test_what_cannot_be_assimilated_is_one_line(changes, error, message):
    with pytest.raises(error, match=message) as caught:
        observations(**changes)
    assert "\n" not in str(caught.value)


def test_an_analysis_comes_back_from_parquet(tmp_path):
    pytest.importorskip("pyarrow", reason="parquet needs pyarrow: pip install 'diffassim[files]'")
    table = example("Europe/Berlin")
    frame = analysis_to_table({"t": np.ones((1, 3))}, table.time[:1], table)
    write_table(frame, tmp_path / "analysis.parquet")
    back = pd.read_parquet(tmp_path / "analysis.parquet")
    assert str(back["time"].dt.tz) == "Europe/Berlin" and back["t_analysis"].tolist() == [1.0, 1.0, 1.0]
    np.testing.assert_array_equal(back["t_observed"], frame["t_observed"])


def test_two_rows_of_one_time_and_station_are_no_dataset():
    table = example()
    frame = analysis_to_table({"t": np.ones((1, 3))}, table.time[:1], table)
    with pytest.raises(ConfigurationError, match="two rows of one station and time"):
        stations_to_dataset(pd.concat([frame, frame]))
    with pytest.raises(ConfigurationError, match="needs columns time and station"):
        stations_to_dataset(frame.drop(columns="time"))


def test_entries_that_do_not_fit():
    found = observations()
    with pytest.raises(ShapeError, match="t has shape"):
        found.to_reports(np.zeros(3))
    with pytest.raises(ShapeError, match="2 arrays for 1 streams"):
        found.to_reports((np.zeros(3), np.zeros(3)))


def test_other_reports_of_a_similar_number_compile_nothing_anew():
    table = example()
    one, other = observations(table), observations(table.rows(np.arange(1, len(table) - 1)))
    assert one.observations.values.shape == other.observations.values.shape
