"""Windows of fields from files: the values of the record, gaps, and what does not fit."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pandas as pd
import pytest
import xarray as xr

from diffassim.core.errors import ConfigurationError, DataError, ShapeError
from diffassim.io.field_files import FieldFiles
from diffassim.io.windows import WindowsOfFields
from diffassim.models import Variable
from diffassim.training import Source, StoredArrays, TrainingError, fit

RNG = np.random.default_rng(0)
T = RNG.normal(280.0, 10.0, size=(20, 3, 4))
DAYS = pd.date_range("1979-01-01", periods=20)


def record(first=0, last=20, times=DAYS, **changes):
    t = T[first:last].astype(changes.get("dtype", np.float64))
    attributes = {"units": changes.get("units", "K")}
    return xr.Dataset(
        {
            "t": (("time", "y", "x"), t, attributes),
            "p": (("y", "time"), 1e5 + t[:, :, 0].T, {"units": "Pa"}),
            "mask": (("y", "x"), np.ones((3, 4))),
        },
        {"time": times[first:last], "y": changes.get("y", [10.0, 20.0, 30.0])},
    )


def on_disk(tmp_path, kind, pieces=((0, 7), (7, 12), (12, 20))):
    """Files in another order than that of time."""
    paths = []
    for k, (first, last) in enumerate(pieces):
        paths.insert(0, tmp_path / f"{k}.{kind}")
        if kind == "zarr":
            pytest.importorskip("zarr")
            record(first, last).to_zarr(paths[0], consolidated=False, encoding={"t": {"chunks": (3, 3, 4)}})
        else:
            record(first, last).to_netcdf(paths[0], engine="netcdf4")
    return paths


@pytest.mark.parametrize("kind", ["nc", "zarr"])
def test_windows_go_on_from_file_to_file(kind, tmp_path):
    with WindowsOfFields(on_disk(tmp_path, kind), {"a": "t", "b": "p"}, length=4, dtype=np.float64) as windows:
        assert len(windows) == 17 and windows.left_out == 0 and isinstance(windows, Source)
        numbers = np.array([16, 3, 5, 3])
        found = windows.read(numbers)
        for row, k in enumerate(numbers):
            np.testing.assert_array_equal(found["a"][row], T[k : k + 4])
            np.testing.assert_array_equal(found["b"][row], 1e5 + T[k : k + 4, :, 0])
        assert windows.label(5) == "5 (1979-01-06T00:00:00.000000000 to 1979-01-09T00:00:00.000000000 in 0.nc)".replace(
            "nc", kind
        )
        assert repr(windows) == "WindowsOfFields(17 windows of 4 times of t, p, 0 left out over gaps)"


def test_normalization_is_that_of_the_record_and_single_precision_comes_out():
    first = WindowsOfFields(record(), ["t", "p"], length=2)
    mean, std = first.moments()
    np.testing.assert_allclose([mean[0], std[0]], [T.mean(), T.std()], rtol=1e-13)
    np.testing.assert_allclose([mean[1], std[1]], [1e5 + T[:, :, 0].mean(), T[:, :, 0].std()], rtol=1e-10)
    t, p = WindowsOfFields(record(), ["t", "p"], length=2, mean=mean, std=std).read(np.arange(19))
    assert t.dtype == p.dtype == np.float32 and t.shape == (19, 2, 3, 4) and p.shape == (19, 2, 3)
    np.testing.assert_allclose(t[:, 0], (T[:19] - T.mean()) / T.std(), rtol=1e-5, atol=1e-6)
    climate = T.mean(axis=0)
    found = WindowsOfFields(record(), "t", length=1, mean=climate, dtype=np.float64).read(np.arange(20))
    np.testing.assert_allclose(found[:, 0], T - climate, rtol=1e-12, atol=1e-12)


def test_loaders_get_single_windows():
    windows = WindowsOfFields(record(), {"t": "t"}, length=3)
    np.testing.assert_array_equal(windows[-1]["t"], T[17:].astype(np.float32))
    assert len(list(windows)) == 18
    grain = pytest.importorskip("grain")
    batch = grain.MapDataset.source(windows).batch(6)[1]["t"]
    np.testing.assert_array_equal(batch, windows.read(np.arange(6, 12))["t"])


def test_moments_combine_blocks_and_leave_out_what_is_missing(monkeypatch):
    dataset = record()
    dataset["t"][3, 1] = np.nan
    dataset["t"][4:6] = np.nan
    monkeypatch.setattr("diffassim.io.windows.BLOCK", 2 * 8 * 12)
    mean, std = WindowsOfFields(dataset, "t", length=1).moments()
    np.testing.assert_allclose([mean, std], [np.nanmean(dataset["t"]), np.nanstd(dataset["t"])], rtol=1e-13)
    assert np.isnan(WindowsOfFields(dataset, "t", length=1).read(np.array([4]))).all()
    with pytest.raises(DataError, match="all the same"):
        WindowsOfFields(dataset.fillna(0) * 0, "t", length=1).moments()


@pytest.mark.parametrize("stride", [1, 3])
def test_windows_over_a_gap_are_left_out_and_counted(stride):
    times = DAYS.delete([6, 13])
    dataset = record(times=pd.DatetimeIndex([*times, "1980-01-01", "1980-01-02"]))
    windows = WindowsOfFields(dataset, "t", length=4, stride=stride)
    days = (dataset["time"].values - dataset["time"].values[0]) / np.timedelta64(1, "D")
    kept = [k for k in range(0, 17, stride) if days[k + 3] - days[k] == 3]
    assert windows.starts.tolist() == kept and windows.left_out == len(range(0, 17, stride)) - len(kept) > 0
    found = windows.read(np.arange(len(windows)))
    np.testing.assert_array_equal(found, np.stack([T[k : k + 4] for k in kept]).astype(np.float32))


@pytest.mark.parametrize(
    "times",
    [
        np.arange(20),
        0.1 * np.arange(20) + 1e4,
        pd.timedelta_range("0h", periods=20, freq="6h"),
        xr.date_range("2000-02-20", periods=20, calendar="noleap", use_cftime=True),
    ],
    ids=["integers", "floating", "timedelta", "noleap"],
)
def test_times_may_be_numbers_or_dates_of_any_calendar(times):
    assert len(WindowsOfFields(record(times=times), "t", length=5)) == 16


def test_the_dimensions_and_units_of_a_variable_hold():
    turned = WindowsOfFields(record(), Variable("t", ("x", "y"), "K"), length=2, dtype=np.float64)
    np.testing.assert_array_equal(turned.read(np.array([4]))[0], T[4:6].transpose(0, 2, 1))


@pytest.mark.slow
def test_a_training_over_files_is_that_over_arrays(tmp_path):
    def loss(w, batch, key):
        return np.float32(1e-4) * ((w * batch[:, 0] - batch[:, 1]) ** 2).mean()

    options = {"optimizer": optax.sgd(0.1), "steps": 13, "batch_size": 4, "chunk": 5, "key": jax.random.key(0)}
    windows = WindowsOfFields(on_disk(tmp_path, "nc"), "t", length=2)
    arrays = StoredArrays(np.stack([T[k : k + 2] for k in range(19)]).astype(np.float32))
    start = np.float32(0.5)
    found, expected = fit(loss, start, windows, **options), fit(loss, start, arrays, **options)
    assert np.array_equal(found.losses, expected.losses) and found.losses[-1] < found.losses[0]
    broken = record()
    broken["t"][9] = np.nan
    with pytest.raises(
        TrainingError, match=r"NaN or infinite in . of 4 samples: .*(8|9) \(1979-01-(09|10).* in dataset 0"
    ):
        fit(loss, start, WindowsOfFields(broken, "t", length=2), **options)


def test_netcdf_keeps_few_chunks_in_memory_while_files_are_open(tmp_path, monkeypatch):
    netcdf = pytest.importorskip("netCDF4")
    before, seen, whole = netcdf.get_chunk_cache(), [], xr.open_dataset

    def opened(*args, **options):
        seen.append(netcdf.get_chunk_cache()[0])
        return whole(*args, **options)

    monkeypatch.setattr(xr, "open_dataset", opened)
    monkeypatch.setattr("diffassim.io.field_files.CACHE", 3 * 2 * 2**21)
    with WindowsOfFields(on_disk(tmp_path, "nc"), ["t", "p"], length=2) as windows:
        windows.read(np.arange(3))
    assert seen == [2**21] * 3 and netcdf.get_chunk_cache() == before


def make(files, variables="t", length=2, **changes):
    return WindowsOfFields(files, variables, length=length, **changes)


HALVES = (record(0, 10), record(10, 20))
MONTHS = record(times=pd.date_range("1979-01-01", periods=20, freq="MS"))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: make(record(), "u"), DataError, "dataset 0: the variable 'u' is missing; there are t, p, mask"),
        (lambda: make(record(), "mask"), DataError, "mask has the dimensions .* and no 'time'"),
        (lambda: make((HALVES[0], record(10, 20, units="degC"))), DataError, "dataset 1: t is in 'degC', expected 'K'"),
        (lambda: make(record(), Variable("t", ("y", "x"), "degC")), DataError, "t is in 'K', expected 'degC'"),
        (lambda: make(record(), Variable("t", ("y", "z"), "K")), DataError, r"\('y', 'x'\) beside time, expected"),
        (lambda: make((HALVES[0], HALVES[1].isel(x=slice(2)))), ShapeError, "dataset 1: t has 2 values along 'x'"),
        (lambda: make((HALVES[0], record(10, 20, y=[30.0, 20.0, 10.0]))), DataError, "other coordinates along 'y'"),
        (lambda: make((record(0, 11), HALVES[1])), DataError, "dataset 1 begins with .*01-11.*before the end"),
        (lambda: make(record().isel(time=slice(None, None, -1))), DataError, "goes back in time or repeats"),
        (lambda: make((HALVES[0], record(10, 20, times=np.arange(20)))), DataError, "times are of different types"),
        (lambda: make(MONTHS), DataError, "1979-0.* is no multiple of the shortest step .*count months"),
        (lambda: make(record().drop_vars("time")), DataError, "no coordinate 'time'"),
        (lambda: make(record(), time="date"), DataError, "no coordinate 'date'"),
        (lambda: make(record(0, 0)), DataError, "holds no time"),
        (lambda: make(record(), length=21), DataError, "length=21 is longer than the record of 20 times"),
        (lambda: make(record().isel(time=[0, 1, 3, 4, 6]), length=3), DataError, "over a gap.*; 2 times are the most"),
        (lambda: make(record(), length=0), ConfigurationError, "length must be at least 1"),
        (lambda: make(record(), dtype=int), ConfigurationError, "dtype=int64"),
        (lambda: make(record(), []), ConfigurationError, "at least one variable"),
        (lambda: make([]), ConfigurationError, "at least one file"),
        (lambda: make(record(), mean={"t": 1.0}), ShapeError, "mean has not the structure"),
        (lambda: make(record(), mean=np.ones(3)), ShapeError, r"mean of t has the shape \(3,\).*\(3, 4\)"),
        (lambda: make(record(), std=0.0), ConfigurationError, "std of t must be finite and positive"),
        (lambda: make(record(), mean=np.nan), DataError, "mean of t holds 1 non-finite"),
        (lambda: make(record(), mean=7.0, std=10.0), DataError, "of t lies 27.* standard deviations .* another unit"),
        (lambda: make("nowhere.nc"), DataError, "nowhere.nc does not exist"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_file_that_is_none_and_a_library_that_is_missing_are_named(tmp_path, monkeypatch):
    (tmp_path / "a.nc").write_text("no netCDF")
    (tmp_path / "b.zarr").mkdir()
    with pytest.raises(DataError, match=r"a\.nc cannot be read as netCDF"):
        make(tmp_path / "a.nc")
    pytest.importorskip("zarr")
    with pytest.raises(DataError, match=r"b\.zarr cannot be read as zarr"):
        make(tmp_path / "b.zarr")
    monkeypatch.setattr("diffassim.io.field_files.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'diffassim\[files\]'"):
        make(tmp_path / "b.zarr")


def test_only_what_is_asked_for_is_read(monkeypatch):
    asked = []
    whole = FieldFiles.rows
    monkeypatch.setattr(
        FieldFiles, "rows", lambda self, name, rows: asked.append(rows.tolist()) or whole(self, name, rows)
    )
    make(record(), length=3).read(np.array([4, 5, 11]))
    assert asked == [[4, 5, 6, 7, 11, 12, 13]]
