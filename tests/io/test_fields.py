"""Gridded fields: packed, turned over, in other calendars; read in one order and written back in their own."""

from __future__ import annotations

import sys

import cftime
import jax.numpy as jnp
import netCDF4
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from diffassim import ConfigurationError, DataError, ShapeError
from diffassim.io.analysis import analysis_to_dataset
from diffassim.io.columns import Region
from diffassim.io.fields import Fields, write_fields
from diffassim.io.read_fields import read_fields
from diffassim.models import Variable
from diffassim.observations import Interpolate

LATITUDE, LONGITUDE = np.array([60.0, 50.0, 40.0]), np.arange(0.0, 360.0, 60.0)


def truth(latitude, longitude, day):
    """Return a field that says where and when it is."""
    east = np.mod(longitude, 360.0)
    return latitude[:, None] + east / 1000 + 1000.0 * np.asarray(day)[:, None, None]


def dataset(latitude=LATITUDE, longitude=LONGITUDE, days=(0, 1, 2), dims=("time", "lat", "lon"), **attributes):
    found = xr.Dataset(
        {"t": (("time", "lat", "lon"), truth(latitude, longitude, days), {"units": "degC", "long_name": "air"})},
        {
            "time": pd.Timestamp("2021-02-27") + pd.to_timedelta(np.array(days), "D"),
            "lat": ("lat", latitude, {"units": "degrees_north", "standard_name": "latitude"}),
            "lon": ("lon", longitude, {"units": "degrees_east"}),
        },
        {"title": "a test", **attributes},
    )
    return found.assign(t=found["t"].transpose(*dims))


def written(tmp_path, source, name="t.nc", **settings):
    path = tmp_path / name
    source.to_netcdf(path, engine="netcdf4", **settings)
    return path


def check(fields, days=(0, 1, 2)):
    np.testing.assert_allclose(fields.values["t"], truth(fields.latitude, fields.longitude, days), rtol=1e-12)
    assert (np.diff(fields.latitude) > 0).all() and (np.diff(fields.longitude) > 0).all()


ORDERS = {
    "as it should be": {"latitude": LATITUDE[::-1]},
    "from the north": {},
    "time last": {"dims": ("lat", "lon", "time")},
    "from -180": {"longitude": np.arange(-180.0, 180.0, 60.0)},
    "with a seam": {"longitude": np.array([0.0, 60.0, 120.0, -180.0, -120.0, -60.0])},
}


@pytest.mark.parametrize("kind", ["file", "-180..180", "0..360"])
@pytest.mark.parametrize("order", ORDERS)
def test_any_order_is_read_and_written_back(tmp_path, order, kind):
    source = dataset(**ORDERS[order])
    fields = read_fields(written(tmp_path, source), longitudes=kind)
    check(fields)
    assert fields.values["t"].shape == (3, 3, 6) and fields.variable("t").units == "degC"
    if kind == "-180..180":
        assert fields.longitude.tolist() == [-180, -120, -60, 0, 60, 120]
    back = fields.to_dataset()
    xr.testing.assert_identical(back["t"].drop_attrs(), source["t"].drop_attrs())
    assert back["lat"].attrs == source["lat"].attrs and back.attrs == source.attrs
    write_fields(fields, tmp_path / "back.nc")
    with xr.open_dataset(tmp_path / "back.nc", engine="netcdf4") as opened:
        xr.testing.assert_equal(opened, source)


def test_regions_and_times_are_cut_out(tmp_path):
    path = written(tmp_path, dataset(longitude=np.arange(0.0, 360.0, 30.0)))
    part = read_fields(path, region=Region(west=-75, east=45, south=45, north=90), start="2021-02-28", end="2021-02-28")
    assert part.longitude.tolist() == [-60, -30, 0, 30] and part.latitude.tolist() == [50, 60]
    check(part, days=(1,))
    assert part.to_dataset()["lon"].values.tolist() == [0, 30, 300, 330]  # as the file has them
    same = read_fields(path, region=Region(west=25, east=95))
    assert same.longitude.tolist() == [30, 60, 90]
    with pytest.raises(DataError, match=r"t\.nc: nothing is left of the axis lat"):
        read_fields(path, region=Region(south=-10, north=0))
    with pytest.raises(DataError, match="nothing is left of the axis time"):
        read_fields(path, start="2022")
    with pytest.raises(ConfigurationError, match=r"t\.nc: start 'soon' and end None are no times of its calendar"):
        read_fields(path, start="soon")


def test_packed_values_and_fill_values(tmp_path):
    source = dataset()
    source["t"][0, 0, 0] = np.nan
    packed = {"t": {"dtype": "int16", "scale_factor": 0.1, "add_offset": 1000.0, "_FillValue": -32768}}
    fields = read_fields(written(tmp_path, source, encoding=packed), {"t": "K"})
    assert np.isnan(fields.values["t"][0, -1, 0]) and np.isnan(fields.values["t"]).sum() == 1
    np.testing.assert_allclose(
        fields.values["t"][1], truth(fields.latitude, fields.longitude, [1])[0] + 273.15, atol=0.051
    )
    assert fields.values["t"].dtype.kind == "f" and fields.variable("t").units == "K"
    back = fields.to_dataset()
    assert back["t"].attrs["units"] == "K" and "scale_factor" not in back["t"].encoding


@pytest.mark.parametrize("form", ["NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF4"])
def test_the_bytes_have_the_order_of_the_machine(tmp_path, form):
    fields = read_fields(written(tmp_path, dataset().astype("float32"), format=form))
    assert fields.values["t"].dtype == np.dtype("float32") and fields.values["t"].dtype.isnative
    with netCDF4.Dataset(tmp_path / "big.nc", "w") as file:
        for name, numbers, unit in (("lat", LATITUDE, "degrees_north"), ("lon", LONGITUDE, "degrees_east")):
            file.createDimension(name, len(numbers))
            axis = file.createVariable(name, ">f8", (name,), endian="big")
            axis.units, axis[:] = unit, numbers
        field = file.createVariable("t", ">f4", ("lat", "lon"), endian="big")
        field.units, field[:] = "K", truth(LATITUDE, LONGITUDE, [0])[0]
    big = read_fields(tmp_path / "big.nc")
    assert big.times is None
    np.testing.assert_allclose(jnp.asarray(big.values["t"]), truth(big.latitude, big.longitude, [0])[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("calendar", "third"), [("noleap", "2020-03-01"), ("360_day", "2020-02-30"), ("standard", "2020-02-29")]
)
def test_calendars_are_kept(tmp_path, calendar, third):
    source = dataset().drop_vars("time")
    source["time"] = ("time", np.array([0.0, 1.0, 2.0]), {"units": "days since 2020-02-27", "calendar": calendar})
    if calendar == "360_day":
        source["time"] = ("time", np.array([1.0, 2.0, 3.0]), source["time"].attrs)
    fields = read_fields(written(tmp_path, source), end=third)
    check(fields)
    assert fields.times is not None and isinstance(fields.times[0], cftime.datetime) == (calendar != "standard")
    shown = fields.times[-1].strftime("%Y-%m-%d") if calendar != "standard" else str(fields.times[-1])[:10]
    assert shown == third
    write_fields(fields, tmp_path / "back.nc")
    with xr.open_dataset(tmp_path / "back.nc", engine="netcdf4", decode_times=False) as back:
        assert back["time"].attrs["calendar"].replace("proleptic_gregorian", "standard") == calendar
        assert back["time"].attrs["units"].startswith("days since 2020-02-27")
    again = read_fields(tmp_path / "back.nc")
    np.testing.assert_array_equal(again.times, fields.times)


def test_files_follow_each_other(tmp_path):
    first, second = dataset(days=(0, 1)), dataset(days=(2, 3))
    paths = [written(tmp_path, second, "b.nc"), written(tmp_path, first, "a.nc")]
    check(read_fields(paths), days=(0, 1, 2, 3))
    check(read_fields(paths, end="2021-02-28"), days=(0, 1))
    overlap = written(tmp_path, dataset(days=(1, 2)), "c.nc")
    with pytest.raises(DataError, match=r"the time 2021-02-28.* follows 2021-02-28.*; times must increase"):
        read_fields([*paths, overlap])
    other = written(tmp_path, dataset(latitude=LATITUDE + 1), "d.nc")
    with pytest.raises(DataError, match="the files have different lat"):
        read_fields([*paths, other])


def test_levels_come_between(tmp_path):
    levels = np.array([1000.0, 500.0])
    source = dataset().expand_dims(plev=levels, axis=-1)
    fields = read_fields(written(tmp_path, source))
    assert fields.variable("t").dims == ("time", "plev", "latitude", "longitude")
    assert fields.values["t"].shape == (3, 2, 3, 6) and fields.coordinates["plev"].tolist() == levels.tolist()
    xr.testing.assert_equal(fields.to_dataset(), source)


def test_zarr_stores(tmp_path):
    pytest.importorskip("zarr", reason="zarr stores need zarr: pip install 'diffassim[files]'")
    fields = read_fields(written(tmp_path, dataset()))
    write_fields(fields, tmp_path / "t.zarr")
    back = read_fields(tmp_path / "t.zarr")
    check(back)
    xr.testing.assert_equal(back.to_dataset(), fields.to_dataset())


def test_zarr_must_be_there(tmp_path, monkeypatch):
    fields = read_fields(written(tmp_path, dataset()))
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ConfigurationError, match=r"t\.zarr: zarr stores need zarr: pip install 'diffassim\[files\]'"):
        write_fields(fields, tmp_path / "t.zarr")


def test_an_analysis_takes_the_place_of_the_fields(tmp_path):
    fields = read_fields(written(tmp_path, dataset(dims=("lat", "time", "lon"))))
    later = pd.date_range("2021-03-02", periods=2).to_numpy()
    members = np.stack([fields.values["t"][:2] + k for k in range(4)])
    found = analysis_to_dataset({"t": members}, fields, times=later, leading={"member": range(4)})
    assert found["t"].dims == ("member", "lat", "time", "lon") and found["t"].attrs["long_name"] == "air"
    np.testing.assert_array_equal(found["t"].sel(member=2, lat=40.0, time="2021-03-03"), fields.values["t"][1, 0] + 2)
    spread = analysis_to_dataset({"t": fields.values["t"]}, fields, spread={"t": np.ones((3, 3, 6))})
    assert spread["t_spread"].attrs == {"units": "degC", "long_name": "standard deviation of t"}
    single = analysis_to_dataset({"t": fields.values["t"][0]}, fields)
    assert single["t"].dims == ("lat", "lon")
    write_fields(found, tmp_path / "analysis.nc")
    with pytest.raises(ShapeError, match=r"to_dataset: t has shape \(2, 3, 6\)"):
        analysis_to_dataset({"t": fields.values["t"][:2]}, fields)
    with pytest.raises(ConfigurationError, match="there is no variable 'T'; did you mean 't'"):
        analysis_to_dataset({"T": fields.values["t"]}, fields)


def test_fields_of_ones_own_grid(tmp_path):
    variable = Variable("h", ("time", "latitude", "longitude"), "m", "depth")
    fields = Fields(
        {"h": np.ones((2, 3, 6))},
        (variable,),
        LATITUDE[::-1],
        LONGITUDE,
        np.array(["2021-01-01", "2021-01-02"], "M8[ns]"),
        {},
    )
    write_fields(fields, tmp_path / "h.nc")
    back = read_fields(tmp_path / "h.nc")
    assert back.variable("h").long_name == "depth" and back.grid().shape == (3, 6)
    np.testing.assert_array_equal(back.times, fields.times)


def test_places_meet_the_grid(tmp_path):
    fields = read_fields(written(tmp_path, dataset(latitude=np.array([40.0, 50.0, 60.0]))))
    H = Interpolate(spacing=(10.0, 60.0), origin=(40.0, 0.0), periodic=(False, True))
    places = fields.places([-60.0, 30.0], [45.0, 55.0])
    np.testing.assert_allclose(H(jnp.asarray(fields.values["t"][0]), jnp.asarray(places)), [45.3, 55.03], rtol=1e-12)
    part = read_fields(tmp_path / "t.nc", region=Region(west=-70, east=70))
    assert part.places([300.0, -59.0, 100.0], [45.0, 45.0, 45.0])[:, 1].tolist()[:2] == [-60.0, -59.0]
    assert np.isnan(part.places([100.0], [45.0])[0, 1]) and np.isnan(part.places([0.0], [70.0])[0, 1])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda d: d.rename(lat="row"), None, ""),  # by its standard name
        (lambda d: d.drop_vars("lat"), DataError, r"t\.nc: latitude is not there"),
        (
            lambda d: d.drop_vars("lat").assign_coords(lat=(("lat", "lon"), np.ones((3, 6)))),
            DataError,
            "latitude is not",
        ),
        (
            lambda d: d.assign_coords(lat=("lat", [0.0, 50.0, 95.0], d["lat"].attrs)),
            DataError,
            "lat holds 95, not within 90",
        ),
        (lambda d: d.assign_coords(lat=("lat", [0.0, 0.0, 5.0], d["lat"].attrs)), DataError, "the same value twice"),
        (lambda d: d.isel(time=[1, 0]), DataError, "times must increase"),
        (lambda d: d.rename(t="temperature"), ConfigurationError, "has no field 't' .*it has temperature"),
        (lambda d: d.assign(t=d["t"].drop_attrs()), ConfigurationError, "t has no unit"),
        (lambda d: d.assign(t=d["t"].assign_attrs(units="m")), ConfigurationError, r"t\.nc: t: found the unit 'm'"),
    ],
)
def test_flaws_of_files(tmp_path, change, error, message):
    path = written(tmp_path, change(dataset()))
    if error is None:
        check(read_fields(path))
        return
    with pytest.raises(error, match=message) as caught:
        read_fields(path, {"t": "K"})
    assert "\n" not in str(caught.value)


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.nc: no such file"):
        read_fields(tmp_path / "nowhere.nc")
    (tmp_path / "broken.nc").write_bytes(b"CDF\x01")
    with pytest.raises(DataError, match=r"broken\.nc: cannot be read"):
        read_fields(tmp_path / "broken.nc")
    with pytest.raises(ConfigurationError, match="no paths were given"):
        read_fields([])
    with pytest.raises(ConfigurationError, match=r"t\.grib must end with \.nc or \.zarr"):
        write_fields(dataset(), tmp_path / "t.grib")
    with pytest.raises(ConfigurationError, match="longitudes must be one of file"):
        read_fields([tmp_path / "nowhere.nc"], longitudes="-180")
