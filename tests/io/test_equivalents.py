"""Model equivalents at reports: closed forms in time and space, stations by name and place, and what has none."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("xarray")
pytest.importorskip("pint")

import xarray as xr

from diffassim.core.errors import DataError
from diffassim.io import equivalents
from diffassim.io.columns import TableVariable
from diffassim.io.equivalents import equivalents_at, status_of
from diffassim.io.layout import LongLayout
from diffassim.io.read_table import read_table
from diffassim.observations import QCFlag

DAYS = np.arange("2021-01-01", "2021-01-06", dtype="M8[D]").astype("M8[ns]")


def table(times, longitude=None, latitude=None, station="A", values=1.0):
    frame = pd.DataFrame({"time": times, "t": values})
    if longitude is None:
        frame["station"] = station
        layout = LongLayout(variables=(TableVariable("t", unit="K"),), duplicates="first")
    else:
        frame["lon"], frame["lat"] = longitude, latitude
        layout = LongLayout(
            variables=(TableVariable("t", unit="K"),), station=None, longitude="lon", latitude="lat", duplicates="first"
        )
    return read_table(frame, layout)


def fields(longitude, latitude, descending=False):
    """Return fields that are linear in time (days), latitude and longitude."""
    lat = np.asarray(latitude, float)[:: -1 if descending else 1]
    days = np.arange(len(DAYS), dtype=float)
    values = 10 * days[:, None, None] + 2 * lat[:, None] + 0.5 * np.asarray(longitude, float)
    attributes = {"latitude": {"units": "degrees_north"}, "longitude": {"units": "degrees_east"}}
    array = xr.DataArray(values, {"time": DAYS, "latitude": lat, "longitude": np.asarray(longitude, float)},
                         ("time", "latitude", "longitude"))  # fmt: skip
    for name, attrs in attributes.items():
        array[name].attrs = attrs
    return array


@pytest.mark.parametrize("descending", [False, True])
def test_what_is_linear_is_met_exactly_at_any_time_and_place(descending):
    draw = np.random.default_rng(0)
    times = DAYS[0] + (draw.uniform(0, 4, 50) * 86400e6).astype("m8[us]")
    lon, lat = draw.uniform(5, 9, 50), draw.uniform(40, 44, 50)
    found = equivalents_at(fields(np.arange(5, 10), [40, 41.5, 42, 44], descending), reports := table(times, lon, lat))
    days = (reports.time - DAYS[0].astype("M8[us]")) / np.timedelta64(1, "D")
    longitude, latitude, _ = reports.places().T
    np.testing.assert_allclose(found.values, 10 * days + 2 * latitude + 0.5 * longitude, rtol=1e-9)
    assert (found.flags == QCFlag.PASS).all() and found.dims == ()


def test_longitudes_of_other_turns_and_across_the_seam_are_the_same_places():
    around = np.arange(0, 360, 30.0)
    array = xr.zeros_like(fields(around, [40, 44])) + np.cos(np.deg2rad(around))
    reports = table(["2021-01-01"] * 3, [-15.0, 345.0, -15.0], [41.0, 42.0, 43.0])
    found = equivalents_at(array, reports)
    np.testing.assert_allclose(found.values, (1 + np.cos(np.deg2rad(30))) / 2, rtol=1e-12)


def test_outside_of_time_and_domain_and_missing_cells_are_flagged_but_a_weight_of_zero_needs_no_value():
    array = fields([5.0, 6.0, 7.0], [40.0, 41.0])
    array[:, 0, 2] = np.nan
    times = ["2020-12-31", "2021-01-02", "2021-01-03", "2021-01-03", "2021-01-09"]
    reports = table(times, [5.0, 4.9, 6.5, 6.0, 5.0], [40.0, 40.0, 40.5, 40.0, 40.0])
    found = equivalents_at(array, reports)
    expected = [QCFlag.EXCLUDED, QCFlag.DOMAIN, QCFlag.H_FAILED, QCFlag.PASS, QCFlag.EXCLUDED]
    assert found.flags[np.argsort(reports.row)].tolist() == [int(flag) for flag in expected]
    assert np.isfinite(found.values).sum() == 1  # on a point beside a missing one
    assert status_of([0, 13, 14, 15, 10]).tolist() == [
        "used", "outside of the domain", "outside of the time", "missing in the run", "missing",
    ]  # fmt: skip


def test_nothing_is_interpolated_across_a_gap():
    times = np.concatenate([DAYS, DAYS + np.timedelta64(20, "D")])
    array = xr.DataArray(np.arange(10.0)[:, None], {"time": times, "station": ["A"]}, ("time", "station"))
    found = equivalents_at(array, table(["2021-01-02T12", "2021-01-10", "2021-01-21"]))
    assert found.flags.tolist() == [QCFlag.PASS, QCFlag.EXCLUDED, QCFlag.PASS]
    np.testing.assert_allclose(found.values[[0, 2]], [1.5, 5.0])


def test_stations_are_found_by_name_and_else_by_place():
    array = xr.DataArray([[1.0, 2.0]], {"time": DAYS[:1], "station": ["A", "B"]}, ("time", "station"))
    found = equivalents_at(array, table(["2021-01-01"] * 3, station=["B", "A", "C"]))
    assert found.values.tolist()[:2] == [2.0, 1.0] and found.flags[2] == QCFlag.DOMAIN
    array = array.assign_coords(longitude=("station", [5.0, 359.9999]), latitude=("station", [40.0, 41.0]))
    found = equivalents_at(array, table(["2021-01-01"] * 2, [-0.0001, 5.0], [41.0, 40.5]))
    assert found.values[0] == 2.0 and found.flags.tolist() == [QCFlag.PASS, QCFlag.DOMAIN]


def test_other_axes_stay_and_blocks_make_no_difference(monkeypatch):
    members = fields([5.0, 6.0], [40.0, 41.0]).expand_dims(member=3) * xr.DataArray([1.0, 2.0, 3.0], dims="member")
    reports = table(["2021-01-02"] * 7, np.linspace(5, 6, 7), np.linspace(40, 41, 7))
    whole = equivalents_at(members, reports)
    monkeypatch.setattr(equivalents, "BLOCK", 3)
    assert whole.dims == ("member",) and np.array_equal(equivalents_at(members, reports).values, whole.values)
    np.testing.assert_allclose(whole.values[:, 1], 2 * whole.values[:, 0])


def test_times_that_are_no_dates_and_unknown_places_are_refused():
    array = xr.DataArray([[1.0]], {"time": [0.0], "station": ["A"]}, ("time", "station"))
    with pytest.raises(DataError, match="no dates of the usual calendar"):
        equivalents_at(array, table(["2021-01-01"]))
    with pytest.raises(DataError, match="places of its stations are not known"):
        equivalents_at(fields([5.0, 6.0], [40.0, 41.0]), table(["2021-01-01"]))


def test_what_is_of_one_place_serves_one_station_only():
    array = xr.DataArray(np.arange(5.0), {"time": DAYS}, ("time",))
    assert equivalents_at(array, table(["2021-01-02T12"])).values.tolist() == [1.5]
    with pytest.raises(DataError, match="reports of 2 stations"):
        equivalents_at(array, table(["2021-01-02"] * 2, station=["A", "B"]))
