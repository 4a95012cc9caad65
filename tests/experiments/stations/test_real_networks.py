"""Networks that were really measured, where their tables are present: ozone of the Midwest, wind of Ireland.

`pytest -m long -s tests/experiments/stations/test_real_networks.py` prints what docs/stations.md says of them.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("xarray")
pytest.importorskip("pydantic")
pytest.importorskip("pint")

import pandas as pd

from diffassim.cli import main

pytestmark = pytest.mark.usefixtures("command_line")

DATA = Path(os.environ.get("DIFFASSIM_TEST_DATA", Path(__file__).parents[3] / "data"))

OZONE = """
time = "date"
time_format = "%y%m%d"
station = "id"
longitude = "X1"
latitude = "X2"
stations_in_order = true
verify_from = 1987-08-02
leads = ["1D", "2D"]
unseen = 0.2
[[variables]]
name = "ozone"
unit = "ppb"
bounds = "ozone"
"""
WIND = """
time = ["year", "month", "day"]
century = 1900
station = "Code"
longitude = "Longitude"
latitude = "Latitude"
verify_from = 1973-01-01
unseen = ["CLA", "DUB", "MUL"]
[[variables]]
name = "wind_speed"
unit = "knot"
wanted = "m s-1"
bounds = "wind_speed"
root = true
"""


def scored(name: str, settings: str, folder: Path) -> pd.DataFrame:
    """Return the scores of a run by method, variable, metric and lead; skip where the table is absent."""
    values, places = DATA / f"{name}.csv", DATA / f"{name}_stations.csv"
    for path in (values, places):
        if not path.is_file():
            pytest.skip(
                f"{path.name} is not in {DATA}; set DIFFASSIM_TEST_DATA to where it is (R packages fields, gstat)"
            )
    head = f'experiment = "stations"\nfile = "{values}"\nstations_file = "{places}"\nlayout = "wide"\nstep = "1D"'
    (folder / "my.toml").write_text(head + settings)
    main(["run", "my.toml", "--out", "out"])
    return pd.read_csv(folder / "out" / "scores.csv").set_index(["method", "variable", "metric", "lead"])["value"]


@pytest.mark.slow
@pytest.mark.long
def test_ozone_of_the_midwest(tmp_path):
    value = scored("ozone_midwest", OZONE, tmp_path)
    own = value["assimilation"]
    assert round(own["ozone", "rmse", 1.0], 1) == 14.4
    assert round(value["damped persistence", "ozone", "rmse", 1.0], 1) == 15.7
    assert own["ozone", "rmse", 2.0] < value["damped persistence", "ozone", "rmse", 2.0]
    assert round(own["ozone, unseen", "rmse", 0.0], 2) == 8.10
    assert round(value["inverse distance", "ozone, unseen", "rmse", 0.0], 2) == 8.47
    coverage = [own["ozone", "coverage_90", lead] for lead in (1.0, 2.0)]
    assert all(0.85 <= each <= 0.95 for each in coverage)


@pytest.mark.slow
@pytest.mark.long
def test_wind_of_ireland(tmp_path):
    value = scored("irish_wind", WIND, tmp_path)
    own = value["assimilation"]
    assert round(own["wind_speed", "rmse_root", 1.0], 3) == 0.462
    assert round(value["damped persistence", "wind_speed", "rmse_root", 1.0], 3) == 0.476
    assert round(own["wind_speed, unseen", "rmse_root", 0.0], 3) == 0.285
    assert round(value["inverse distance", "wind_speed, unseen", "rmse_root", 0.0], 3) == 0.283
    assert 0.85 <= own["wind_speed", "coverage_90", 1.0] <= 0.95
