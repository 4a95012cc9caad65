"""A run beside a table: equivalents and departures, scores by lead, and every bad input in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("xarray")
pytest.importorskip("pydantic")
pytest.importorskip("pint")

import xarray as xr

from diffassim.cli import main
from diffassim.diagnostics import crps
from diffassim.experiments.verification.sources import lead_times

HOURS = np.arange("2021-01-01T00", "2021-01-03T00", dtype="M8[h]").astype("M8[ns]")
VARIABLE = 'variables=[{name = "temperature", column = "temp", unit = "degF", wanted = "degC"}]'


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("warnings.showwarning", None)


def truth(hours, station):
    """Return degrees Celsius."""
    return 10 + 0.25 * np.asarray(hours, float) + 3 * station


def write_run(lead_error=1.0, spread=0.5):
    """Write what a run of `stations` has: analyses, forecasts of two methods and leads, bounds."""
    hours = np.arange(len(HOURS))
    exact = np.stack([truth(hours, k) for k in (0, 1)], axis=-1)
    forecast = np.stack(
        [
            np.stack([truth(hours + lead, k) for k in (0, 1)], axis=-1)[None]
            + np.array([3.0, lead_error])[:, None, None]
            for lead in (1, 6)
        ],
        axis=0,
    )  # fmt: skip  (lead, method, time, station)
    forecast = np.moveaxis(forecast, (2, 1, 0, 3), (0, 1, 2, 3))
    own = forecast[:, 1]
    dims = ("time", "method", "lead", "station")
    units = {"units": "degC"}
    dataset = xr.Dataset(
        {
            "temperature_analysis": (("time", "station"), exact + 0.5, units),
            "temperature_analysis_std": (("time", "station"), np.full(exact.shape, spread), units),
            "temperature_forecast": (dims, forecast, units),
            "temperature_lower": (("time", "lead", "station"), own - 2, units),
            "temperature_upper": (("time", "lead", "station"), own + 2, units),
        },
        {"time": HOURS, "station": ["A", "B"], "method": ["persistence", "assimilation"],
         "lead": ("lead", [1, 6], {"units": "hours"})},
    )  # fmt: skip
    dataset.to_netcdf("run.nc", engine="netcdf4")


def write_table(name="table.csv", hours=range(48), stations=("A", "B", "C"), **columns):
    rows = [
        {"time": str(HOURS[0].astype("M8[m]") + np.timedelta64(int(60 * h), "m")), "station": s,
         "temp": 32 + 1.8 * truth(h, "ABC".index(s))} | columns
        for h in hours for s in stations
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(name, index=False)


def fails(capsys, *words):
    with pytest.raises(SystemExit) as caught:
        main(list(words))
    error = capsys.readouterr().err
    assert caught.value.code == 2 and error.count("\n") == 1 and len(error) < 900
    return error


def test_equivalents_departures_and_flags_come_back_beside_the_table(capsys):
    write_run()
    write_table(hours=[*range(0, 60, 6), 2.5])
    main(["observe", "run.nc", "table.csv", "--out", "out.csv", "--set", VARIABLE])
    shown = capsys.readouterr().out
    found = pd.read_csv("out.csv")
    assert len(found) == 33 and "18 used" in shown and "outside of the time" in shown
    used = found[found["temperature_status"] == "used"]
    np.testing.assert_allclose(used["temperature_departure [degC]"], -0.5, atol=1e-9)
    np.testing.assert_allclose(used["temperature_equivalent_spread [degC]"], 0.5, atol=1e-12)
    assert set(found[found["station"] == "C"]["temperature_status"]) == {"outside of the domain", "outside of the time"}
    assert (used["temperature_effective_flag"] == 0).all()


def test_scores_by_lead_and_method_are_closed_forms(capsys):
    write_run()
    write_table()
    main(["score", "run.nc", "--against", "table.csv", "--set", VARIABLE, "--out", "scores.csv"])
    assert "temperature [degC] against table.csv" in capsys.readouterr().out
    scores = pd.read_csv("scores.csv").set_index(["method", "lead", "metric"])["value"]
    for lead in (1.0, 6.0):
        assert scores["persistence", lead, "rmse"] == pytest.approx(3.0)
        assert scores["assimilation", lead, "bias"] == pytest.approx(1.0)
        assert scores["assimilation", lead, "coverage_90"] == 1.0 and scores["assimilation", lead, "width_90"] == 4.0
    assert scores["analysis", 0.0, "mae"] == pytest.approx(0.5) and scores["analysis", 0.0, "coverage_90"] == 1.0
    counts = pd.read_csv("scores.csv").groupby("lead")["n"].max()
    assert counts[0.0] == 96 and counts[1.0] == 94 and counts[6.0] == 84  # what is valid within the table


def test_the_error_of_observations_is_part_of_what_is_expected(capsys):
    write_run(spread=0.1)
    write_table()
    for std, covered in (("", 0.0), (", std = 0.5", 1.0)):
        settings = VARIABLE.replace("}", f"{std}}}")
        main(["score", "run.nc", "--against", "table.csv", "--set", settings, "--out", "scores.csv"])
        scores = pd.read_csv("scores.csv").set_index(["method", "metric"])["value"]
        assert scores["analysis", "coverage_90"] == covered  # departures of .5
    capsys.readouterr()


def test_of_members_the_spread_and_the_score_are_theirs(capsys):
    draws = np.random.default_rng(0).normal(size=(8, 48, 1)) + 5
    xr.Dataset(
        {"t": (("member", "time", "station"), draws, {"units": "K"})}, {"time": HOURS, "station": ["A"]}
    ).to_netcdf("run.nc", engine="netcdf4")
    pd.DataFrame({"time": HOURS, "station": "A", "t": 5.0}).to_csv("table.csv", index=False)
    options = ["--set", 'variables=[{name = "t", unit = "K"}]']
    main(["score", "run.nc", "--against", "table.csv", *options, "--out", "scores.json"])
    scores = pd.read_json("scores.json").set_index("metric")["value"]
    np.testing.assert_allclose(scores["crps"], crps(draws[..., 0], np.full(48, 5.0)).mean(), rtol=1e-6)
    main(["observe", "run.nc", "table.csv", *options, "--out", "out.parquet"])
    found = pd.read_parquet("out.parquet")
    np.testing.assert_allclose(found["t_equivalent_spread"], draws[..., 0].std(0, ddof=1), rtol=1e-9)
    capsys.readouterr()


def test_fields_are_observed_with_a_layout_from_a_template_and_other_names(capsys):
    lat, lon = np.array([40.0, 50.0]), np.array([0.0, 10.0])
    values = np.broadcast_to(273.15 + lat[:, None] + 0 * lon, (2, 2, 2))
    xr.Dataset({"t2m": (("time", "lat", "lon"), values, {"units": "K"})},
               {"time": HOURS[:2], "lat": ("lat", lat, {"units": "degrees_north"}),
                "lon": ("lon", lon, {"units": "degrees_east"})}).to_netcdf("f.nc", engine="netcdf4")  # fmt: skip
    row = {"when": ["2021-01-01 00:30"], "name": "X", "x": 5.0, "y": 45.0, "temp": 46.0}
    pd.DataFrame(row).to_csv("t.csv", index=False)
    Path("my.toml").write_text(
        'experiment = "stations"\ntime = "when"\nstation = "name"\nlongitude = "x"\nlatitude = "y"\n'
        'verify_from = 2021-01-01\n[[variables]]\nname = "temp"\nunit = "degC"\n'
    )
    main(["observe", "f.nc", "t.csv", "--layout", "my.toml", "--name", "temp=t2m", "--out", "o.csv"])
    found = pd.read_csv("o.csv")
    assert found["temp_equivalent [degC]"][0] == pytest.approx(45.0) and found["temp_status"][0] == "used"
    capsys.readouterr()


def test_bad_input_is_one_line(capsys):
    write_run()
    write_table()

    def score(*words):
        return fails(capsys, "score", "run.nc", "--against", "table.csv", *words)

    def with_variable(old, new):
        return "--set", VARIABLE.replace(old, new)

    assert "how it is written is not known" in score()
    assert "no such run or file" in fails(capsys, "score", "nowhere", "--against", "table.csv", "--set", VARIABLE)
    assert "no variable 'humidity'" in score("--set", VARIABLE, "--name", "humidity=q")
    assert "there is no variable 'x'" in score("--set", VARIABLE, "--name", "temperature=x")
    assert "write it as NAME_IN_TABLE=NAME_IN_RUN" in score("--set", VARIABLE, "--name", "temperature")
    assert "has nothing of temperatur" in score(*with_variable('name = "temperature"', 'name = "temperatur"'))
    assert "converted into 'hPa'" in score(*with_variable('unit = "degF", wanted = "degC"', 'unit = "hPa"'))
    assert "has no column 'tmp'" in score(*with_variable('"temp"', '"tmp"'))
    observe = "observe", "run.nc", "table.csv", "--set", VARIABLE, "--out"
    assert "must end in .csv" in fails(capsys, *observe, "o.txt")
    assert "is the table itself" in fails(capsys, *observe, "table.csv")
    assert "name it: --against" in fails(capsys, "score", "run.nc", "--set", VARIABLE)
    write_table("late.csv", hours=range(1000, 1010))
    late = fails(capsys, "observe", "run.nc", "late.csv", "--out", "o.csv", "--set", VARIABLE)
    assert "no report lies within the time of run.nc, 2021-01-01" in late and "2021-02-11" in late
    write_table("elsewhere.csv", stations=("C",))
    assert "most are outside of the domain" in fails(
        capsys, "score", "run.nc", "--against", "elsewhere.csv", "--set", VARIABLE
    )


def test_forecasts_of_fields_by_months_and_quantiles_of_one_place(capsys):
    months = np.arange("2020-01", "2021-01", dtype="M8[M]").astype("M8[ns]")
    lat, lon = np.array([0.0, 1.0]), np.array([10.0, 11.0])
    grid = {"latitude": ("latitude", lat, {"units": "degrees_north"}),
            "longitude": ("longitude", lon, {"units": "degrees_east"})}  # fmt: skip
    due = np.arange(12.0)[:, None] + np.array([1, 3])  # what is true one and three months later
    values = np.broadcast_to(due[..., None, None] + 0.5, (12, 2, 2, 2))
    dims = ("time", "step", "latitude", "longitude")
    run = xr.Dataset(
        {
            "forecast": (dims, values, {"units": "K"}),
            "forecast_std": (dims, np.full(values.shape, 1.0), {"units": "K"}),
        },
        {"time": months, "step": ("step", [1, 3], {"units": "months"}), **grid},
    )
    run.to_netcdf("run.nc", engine="netcdf4")
    table = pd.DataFrame({"time": months, "station": "A", "x": 10.5, "y": 0.25, "sst": np.arange(12.0)})
    table.to_csv("table.csv", index=False)
    options = ["--set", 'variables=[{name = "sst", unit = "K"}]', "--set", "longitude=x", "--set", "latitude=y"]
    main(["score", "run.nc", "--against", "table.csv", *options, "--out", "scores.csv"])
    scores = pd.read_csv("scores.csv").set_index(["lead", "metric"])
    for lead, count in ((1.0, 11), (3.0, 9)):
        assert scores["value"][lead, "bias"] == pytest.approx(0.5) and scores["n"][lead, "rmse"] == count
        assert scores["value"][lead, "coverage_90"] == 1.0 and 0 < scores["value"][lead, "crps"] < 0.5

    p = np.round(np.arange(0.05, 0.96, 0.05), 2)
    draws = np.sort(np.random.default_rng(0).normal(size=(12, 1, 1, 19)), axis=-1)
    run = xr.Dataset(
        {"forecast": (("time", "method", "lead"), draws.mean(-1), {"units": "m3 s-1"}),
         "quantile": (("time", "method", "lead", "probability"), draws, {"units": "m3 s-1"})},
        {"time": months, "method": ["assimilation"], "lead": ("lead", [0], {"units": "days"}), "probability": p},
    )  # fmt: skip
    run.to_netcdf("river.nc", engine="netcdf4")
    table.assign(flow=0.2).to_csv("table.csv", index=False)
    options = ["--set", 'variables=[{name = "flow", unit = "m3 s-1"}]']
    main(["score", "river.nc", "--against", "table.csv", *options, "--out", "scores.csv"])
    scores = pd.read_csv("scores.csv").set_index("metric")["value"]
    off = 0.2 - draws[:, 0, 0]
    np.testing.assert_allclose(scores["crps"], 2 * np.where(off >= 0, p * off, (p - 1) * off).mean(), rtol=1e-6)
    inside = (draws[:, 0, 0, 0] <= 0.2) & (draws[:, 0, 0, -1] >= 0.2)
    assert scores["coverage_90"] == pytest.approx(inside.mean())
    capsys.readouterr()


@pytest.mark.parametrize(
    ("lead", "units", "expected"),
    [
        (6, "hours", "2021-01-31T06"),
        (2, "days", "2021-02-02"),
        (1, "months", "2021-02-28"),
        (30, "min", "2021-01-31T00:30"),
    ],
)
def test_leads_are_added_in_their_unit(lead, units, expected):
    assert lead_times(np.array(["2021-01-31"], "M8[ns]"), lead, units)[0] == np.datetime64(expected)
