"""Tables that were really measured, where they are present: ozone of the Midwest, wind of Ireland."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from diffassim.io.columns import Region, StationTable, TableVariable, TimeColumns
from diffassim.io.layout import WideLayout
from diffassim.io.read_table import read_table
from diffassim.io.write_table import write_table
from diffassim.observations import QCFlag

DATA = Path(os.environ.get("DIFFASSIM_TEST_DATA", Path(__file__).parents[2] / "data"))


def files(name):
    found = DATA / f"{name}.csv", DATA / f"{name}_stations.csv"
    for path in found:
        if not path.is_file():
            pytest.skip(
                f"{path.name} is not in {DATA}; set DIFFASSIM_TEST_DATA to where it is (R packages fields, gstat)"
            )
    return found


def test_ozone_of_the_midwest(tmp_path):
    values, places = files("ozone_midwest")
    layout = WideLayout(
        time=TimeColumns("date", "%y%m%d"), variable=TableVariable("ozone", unit="ppb", bounds="ozone", std=1.0),
        columns="order", stations=StationTable(places, station="id", longitude="X1", latitude="X2"),
        region=Region(west=-95, east=-80, south=35, north=45), step="1D",
    )  # fmt: skip
    table = read_table(values, layout)
    assert len(table.stations.names) == 153 and table.stations.names[0] == "170010006"
    assert table.notes == ("ozone_midwest.csv: 1 of 90 steps hold no report",)
    grid = table.to_grid("1D")
    raw = np.genfromtxt(values, delimiter=",", skip_header=1)[:, 1:]
    held = np.isfinite(grid.values[..., 0]).any(axis=1)
    np.testing.assert_array_equal(grid.values[held, :, 0], raw)
    assert table.counts()["ozone"] == {
        QCFlag.PASS: int(np.isfinite(raw).sum()),
        QCFlag.MISSING: int(np.isnan(raw).sum()),
    }
    for suffix in ("csv", "nc"):
        layout_back = write_table(table, tmp_path / f"ozone.{suffix}")
        assert read_table(tmp_path / f"ozone.{suffix}", layout_back).equals(table)


def test_wind_of_ireland():
    values, places = files("irish_wind")
    layout = WideLayout(
        time=TimeColumns(("year", "month", "day"), century=1900),
        variable=TableVariable("wind", unit="knot", wanted="m s-1", bounds="wind_speed"),
        stations=StationTable(places, station="Code", longitude="Longitude", latitude="Latitude"),
        region=Region(west=-11, east=-5, south=51, north=56), step="1D",
    )  # fmt: skip
    table = read_table(values, layout)
    assert table.notes == () and table.counts() == {"wind": {QCFlag.PASS: 6574 * 12}}
    grid = table.to_grid("1D")
    raw = np.genfromtxt(values, delimiter=",", skip_header=1)[:, 3:]
    np.testing.assert_allclose(grid.values[..., 0], raw * 1852 / 3600, rtol=1e-12)
    assert str(grid.times[0])[:10] == "1961-01-01" and str(grid.times[-1])[:10] == "1978-12-31"
    valentia = list(table.stations.names).index("VAL")
    np.testing.assert_allclose(table.stations.latitude[valentia], 51 + 56 / 60)
    # the mean that the list of stations gives (knots would be twice as large)
    assert abs(grid.values[:, valentia, 0].mean() - 5.48) < 0.05
