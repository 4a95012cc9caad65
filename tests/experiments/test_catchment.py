"""A basin of one's own, through the command line."""

from __future__ import annotations

import datetime

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("xarray")
pytest.importorskip("pydantic")
pytest.importorskip("pint")

import jax.numpy as jnp
import xarray as xr

from diffassim import ConfigurationError, DataError
from diffassim.cli import main
from diffassim.experiments.applications.catchment import Catchment
from diffassim.experiments.applications.fulda import FuldaConfiguration
from diffassim.experiments.framework.configuration import build_configuration, read_toml, to_toml
from diffassim.experiments.rivers.catchment_settings import CatchmentConfiguration, periods_of
from diffassim.experiments.rivers.discharge_calibration import open_loop
from diffassim.experiments.rivers.discharge_record import record_of
from diffassim.experiments.templates import template
from diffassim.models import GR4J, CatchmentForcing
from tests.command_line import refused

pytestmark = pytest.mark.usefixtures("command_line")

AREA = 86.4  # km2: 1 m3/s is 1 mm per day


SETTINGS = """
experiment = "catchment"
file = "basin.csv"
area = "8640 ha"
latitude = 45
date = "Tag"
date_format = "%d.%m.%Y"
precipitation = "N"
precipitation_unit = "inch"
temperature = "T"
temperature_unit = "degF"
discharge = "Q"
discharge_unit = "ft3/s"
decimal = ","
missing = [-99]
leads = [1, 2]
updates = 0
flood_thresholds = [2.0]
"""


def basin(days: int = 900, simulated: bool = False) -> pd.DataFrame:
    """Return weather in mm and degrees Celsius, and a discharge in m3/s: of a model, or made up."""
    rng = np.random.default_rng(4)
    rain = rng.gamma(0.6, 9.0, days) * (rng.uniform(size=days) < 0.45)
    t = 9 - 8 * np.cos(2 * np.pi * np.arange(days) / 365) + 2 * rng.normal(size=days)
    flow = 1 + rng.gamma(1.0, 1.0, days)
    if simulated:
        series = (rain * np.exp(0.3 * rng.normal(size=days)), np.maximum(0.2 * t, 0), t)
        forcing = CatchmentForcing(*(jnp.asarray(each) for each in series))
        model = GR4J(x1=250.0, x2=0.2, x3=60.0, x4=1.8, forcing=forcing)
        flow = np.asarray(open_loop(model).discharge[1:]) * np.exp(0.1 * rng.normal(size=days))
    return pd.DataFrame({"N": rain, "T": t, "Q": flow}, pd.date_range("2001-01-01", periods=days, name="Tag"))


def messy(table: pd.DataFrame) -> str:
    """Return a table in semicolons and decimal commas, inches, Fahrenheit and cubic feet, with gaps."""
    table = table.assign(N=table["N"] / 25.4, T=table["T"] * 1.8 + 32, Q=table["Q"] / 0.3048**3)
    table.iloc[300:303, 0] = -99
    table.iloc[400:420, 2] = np.nan
    table = table.drop(index=table.index[500])
    return "\ufeff" + table.to_csv(sep=";", decimal=",", date_format="%d.%m.%Y", float_format="%.6f")


def written(tmp_path, text: str, settings: str = SETTINGS):
    (tmp_path / "basin.csv").write_text(text, encoding="utf-8")
    (tmp_path / "my.toml").write_text(settings)


def test_check_says_what_was_understood_and_computes_nothing(tmp_path, capsys):
    written(tmp_path, messy(basin()))
    main(["check", "my.toml"])
    said = capsys.readouterr().out
    for part in (
        "basin.csv: 899 reports",
        "column N: 4 missing day(s), the first 2001-10-28, in gaps of up to 3, were filled by the straight line",
        "900 days, 2001-01-01 to 2003-06-19, of 86.4 km2; the 90 days before the calibration warm the model up",
        "calibration: 2001-04-01 to 2002-06-24, 450 days, discharge missing on 21 (2 gap(s), the longest of 20 days)",
        "warnings above 2 m3/s (as set)",
        "First rows:",
        "Nothing was computed",
    ):
        assert part in said, part
    assert not (tmp_path / "results").exists()


def test_a_wrong_area_shows_in_the_water_balance(tmp_path, capsys):
    written(tmp_path, messy(basin()), SETTINGS.replace("8640 ha", "8640 acre"))
    main(["check", "my.toml"])
    assert "more water runs off than falls" in capsys.readouterr().out
    written(tmp_path, messy(basin()), SETTINGS.replace("8640 ha", "8640 km2"))
    main(["check", "my.toml"])
    assert "hardly any water runs off" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.long
def test_a_messy_table_through_the_command_line(tmp_path, capsys):
    written(tmp_path, messy(basin(simulated=True)))
    main(["run", "my.toml", "--out", "out"])
    table = capsys.readouterr().out
    scores = pd.read_csv(tmp_path / "out" / "scores.csv")
    value = scores.set_index(["metric", "method", "lead"])["value"]
    for lead in (1, 2):
        for metric in ("nse", "brier_skill"):
            own = value[metric, "assimilation", lead]
            assert own > max(value[metric, other, lead] for other in ("climatology", "persistence", "open loop"))
    assert "Warnings: discharge > 2 m3/s on" in table and "were filled by the straight line" in table
    for name in ("forecasts", "warnings"):
        assert (tmp_path / "out" / f"{name}.png").stat().st_size > 30_000
    with xr.open_dataset(tmp_path / "out" / "analysis.nc") as dataset:
        assert dataset["exceedance"].dims == ("time", "method", "lead", "threshold")
        assert dataset["threshold"].values.tolist() == [2.0]
        assert float(dataset["exceedance"].min()) >= 0 and float(dataset["exceedance"].max()) <= 1
    main(["score", "out"])
    assert capsys.readouterr().out.strip() == table.split("\n\nFigures")[0].strip()


def refuses(capsys, tmp_path, old: str, new: str, text: str | None = None) -> str:
    assert old in SETTINGS
    written(tmp_path, messy(basin()) if text is None else text, SETTINGS.replace(old, new))
    return refused(capsys, "check", "my.toml")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('file = "basin.csv"', "", "`diffassim new catchment` writes a template"),
        ('file = "basin.csv"', 'file = "absent.csv"', "absent.csv: no such file"),
        ('area = "8640 ha"', "", "area: Field required"),
        ('area = "8640 ha"', 'area = "8640 kg"', "area: area: found the unit 'kg'"),
        ('area = "8640 ha"', 'area = "many ha"', "area: could not convert"),
        ('discharge = "Q"', 'discharge = "Abfluss"', "has no column 'Abfluss'"),
        ('discharge_unit = "ft3/s"', 'discharge_unit = "ft/s"', "discharge_unit, now 'ft/s', or the area"),
        ('precipitation = "N"', 'precipitation = "T"', "the column 'T' is named twice"),
        (
            'temperature_unit = "degF"',
            'temperature_unit = "degC"',
            "(155 of 899 such values); look at temperature_unit",
        ),
        ('date_format = "%d.%m.%Y"', 'date_format = "%Y-%m-%d"', "column Tag, row 2: '01.01.2001'"),
        ('decimal = ","', 'decimal = "."', "row 2"),
        ("missing = [-99]", "missing = []\ngap = 2", "column N, row 302: no value from 2001-10-28 to"),
        ("latitude = 45", "latitude = 75", "latitude: Input should be less than or equal to 66"),
        ("updates = 0", "calibration_start = 1999-01-01", "does not hold 1999-01-01"),
        ("updates = 0", "calibration_end = 2001-06-01", "calibration: 62 days are too few"),
        ("updates = 0", "verification_start = 2001-03-01", "is not after 2001-04-01"),
        ("flood_thresholds = [2.0]", "flood_thresholds = [2.0, 1.0]", "flood_thresholds: (2.0, 1.0) must increase"),
        ("flood_thresholds = [2.0]", "flood_thresholds = [-2.0]", "flood_thresholds.0: Input should be greater than 0"),
        ("flood_thresholds = [2.0]", "flood_threshold = [2.0]", "did you mean 'flood_thresholds'"),
        ("updates = 0", "warning_probability = 1.5", "warning_probability: Input should be less than 1"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(capsys, tmp_path, old, new, said):
    assert said in refuses(capsys, tmp_path, old, new)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("Tag;N;T;Q\n", "empty"),
        ("Tag;N;T;Q\n01.01.2001;wet;50,0;1,0\n", "column N, row 2: 'wet' is not a number"),
        ("Tag;N;T;Q\n01.01.2001;0,1;50,0;1,0\n32.01.2001;0,1;50,0;1,0\n", "column Tag, row 3: '32.01.2001'"),
    ],
)
def test_tables_that_cannot_be_read_are_one_line(capsys, tmp_path, text, said):
    assert said in refuses(capsys, tmp_path, "updates", "updates", text)


def test_a_long_gap_of_the_weather_names_its_first_day_and_row(capsys, tmp_path):
    table = basin()
    table.iloc[600:640, 1] = np.nan
    said = refuses(capsys, tmp_path, "updates", "updates", messy(table))
    assert "basin.csv: column T, row 601: no value from 2002-08-24 to 2002-10-02 (40 days)" in said


def test_the_template_is_what_it_says(tmp_path):
    text = template("catchment")
    (tmp_path / "my.toml").write_text(text)
    name, values = read_toml(tmp_path / "my.toml")
    config = build_configuration(Catchment.configuration, values, name)
    assert config.area == 360.0
    plain = CatchmentConfiguration(area=360.0, latitude=45.0, file="basin.csv")
    assert config == plain  # the template shows the defaults
    every = "\n".join(line.removeprefix("# ") for line in text.splitlines())
    for field in set(CatchmentConfiguration.model_fields) - {"seed", "dtype", "updates"}:
        assert f"\n{field} = " in every, field


def test_settings_are_stored_and_read_again(tmp_path):
    (tmp_path / "my.toml").write_text(SETTINGS)
    name, values = read_toml(tmp_path / "my.toml")
    config = build_configuration(Catchment.configuration, values, name)
    np.testing.assert_allclose(config.area, AREA, rtol=1e-12)
    (tmp_path / "again.toml").write_text(to_toml(name, config))
    name, values = read_toml(tmp_path / "again.toml")
    assert build_configuration(Catchment.configuration, values, name) == config


def test_the_fulda_is_a_catchment_with_defaults():
    pytest.importorskip("spotpy")
    assert issubclass(FuldaConfiguration, CatchmentConfiguration)
    assert set(FuldaConfiguration.model_fields) == set(CatchmentConfiguration.model_fields)
    record = record_of(FuldaConfiguration())
    assert record.notes == () and len(record.table.dates) == 3653
    learned = record.table.cubic_meters_per_second(record.table.discharge[slice(*record.calibration)])
    np.testing.assert_allclose(record.thresholds, np.nanquantile(learned, [0.9, 0.95]), rtol=1e-3)


def test_a_record_is_read_anew_when_its_file_changes(tmp_path):
    import os

    written(tmp_path, messy(basin()))
    name, values = read_toml(tmp_path / "my.toml")
    config = build_configuration(Catchment.configuration, values, name)
    first = record_of(config)
    assert record_of(config) is first
    written(tmp_path, messy(basin(850)))
    os.utime(tmp_path / "basin.csv", ns=(1, 1))
    assert len(record_of(config).table.dates) == 850


def test_periods_that_are_named_decide_on_the_others():
    dates = pd.date_range("2001-01-01", "2010-12-31")
    settings = {"area": 1.0, "latitude": 0.0}
    given = CatchmentConfiguration(**settings, verification_start=datetime.date(2008, 1, 1))
    found = periods_of(given, dates)
    assert [str(day) for day in found] == ["2002-01-01", "2007-12-31", "2008-01-01", "2010-12-31"]
    late = CatchmentConfiguration(**settings, calibration_end=datetime.date(2012, 1, 1))
    with pytest.raises(DataError, match=r"verification_end: 2010-12-31 is not after 2012-01-02 \(the record runs from"):
        periods_of(late, dates)
    with pytest.raises(ConfigurationError, match="temperature: name its column"):
        CatchmentConfiguration(**settings, temperature="").columns()
