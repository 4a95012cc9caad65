"""The river and the twin in the loop: poisoned rows are flagged, drifts are followed, nothing depends on the length."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from diffassim.cli import main
from diffassim.core.errors import ConfigurationError
from diffassim.experiments.framework.configuration import build_configuration, read_toml
from diffassim.experiments.loop import river, twin
from diffassim.experiments.loop.artifacts import STAGES, LoopFiles
from diffassim.experiments.loop.drifting_truth import twin_rows
from diffassim.experiments.loop.ledger import in_use, read_model
from diffassim.experiments.loop.river import RiverLearner, RiverLoop, RiverLoopConfiguration
from diffassim.experiments.loop.river_record import loop_record
from diffassim.experiments.loop.rounds import run_loop
from diffassim.experiments.loop.settings import collection_ends
from diffassim.experiments.loop.store import SourceRows
from diffassim.experiments.loop.twin import TwinLearner, TwinLoop, TwinLoopConfiguration
from diffassim.experiments.templates import template


def small_twin(**changes):
    # Half a year is what the forcing needs to drift; few sites and members are quick.
    settings = {"rounds": 2, "sites": 16, "members": 20, "leads": (1, 4), "updates": 20, "damping": 0.0}
    return TwinLoopConfiguration(**{**settings, **changes})


def test_the_template_is_a_loop_on_the_fulda(tmp_path):
    (tmp_path / "my.toml").write_text(template("loop"))
    name, values = read_toml(tmp_path / "my.toml")
    assert build_configuration(RiverLoopConfiguration, values, name) == RiverLoopConfiguration()


def test_check_says_what_was_understood(tmp_path, capsys, command_line):
    (tmp_path / "my.toml").write_text(template("loop"))
    main(["check", str(tmp_path / "my.toml")])
    shown = capsys.readouterr().out
    assert "round 4: rows before 1988-01-01" in shown and "3653 rows" in shown
    assert "Go on with: diffassim loop" in shown


def test_settings_that_are_no_loop_are_refused():
    for changes in ({"held_back": 0.9}, {"confidence": 0.2}, {"first_months": 0}, {"calibration_start": "1980-01-01"}):
        with pytest.raises(ConfigurationError, match=next(iter(changes))):
            build_configuration(RiverLoopConfiguration, changes, "river-loop")


@pytest.mark.slow
def test_rows_of_a_twin_do_not_depend_on_how_many_there_are():
    short, long = (twin_rows(small_twin(rounds=n), 2, "2001-01-01") for n in (1, 2))
    assert len(long) > len(short) > 300
    np.testing.assert_array_equal(short.to_numpy(), long.to_numpy()[: len(short)])


@pytest.mark.long
@pytest.mark.parametrize(("drift", "found"), [(4.0, True), (0.0, False)])
def test_a_twin_s_drift_is_found_and_followed(tmp_path, drift, found):
    config = small_twin(drift=drift)
    run_loop(TwinLoop(), config, tmp_path / "a")
    files = LoopFiles(tmp_path / "a")
    told = files.read_json(2, STAGES[6], "feedback.json")
    assert told["drift"] == found
    forcing = [files.read_json(n, STAGES[3], "model.json")["forcing"] for n in (1, 2)]
    held_back = collection_ends(config, pd.Timestamp("2001-01-01"), 2)[1]
    expected = 8 + drift * (held_back - pd.Timestamp("2001-01-01")).days / 365.25
    assert abs(forcing[1] - expected) < 0.5
    decision = files.read_json(2, STAGES[5], "decision.json")
    if found:
        assert decision["promoted"]
        test = files.read_json(2, STAGES[4], "evaluation.json")["comparison"]
        assert test["upper"] < 0


@pytest.mark.long
@pytest.mark.parametrize("size", [15.0, -9.0])
def test_poisoned_rows_of_a_twin_are_flagged_and_spoil_nothing(tmp_path, monkeypatch, size):
    config = small_twin(drift=0.0)
    clean = TwinLearner().source(config).frame
    poisoned = clean.copy()
    first, _ = collection_ends(config, clean.index[0], 1)
    at = clean.index.searchsorted(first)
    poisoned.iloc[at + 20 : at + 60, 3:6] += size
    poisoned.iloc[at + 80 : at + 120, 9] = 2.5  # stuck
    monkeypatch.setattr(twin.TwinLearner, "source", lambda self, config: SourceRows(poisoned, "poisoned"))
    run_loop(TwinLoop(), config, tmp_path / "a")
    files = LoopFiles(tmp_path / "a")
    flagged = files.read_json(2, STAGES[1], "prepared.json")["flagged"]
    assert flagged["FIRST_GUESS"] >= 119 and flagged["STUCK"] == 40
    assert flagged["FIRST_GUESS"] <= 125  # and little that is right
    model = read_model(files, in_use(files)[-1])["model"]
    assert abs(model["forcing"] - 8.0) < 0.5
    assert not files.read_json(2, STAGES[6], "feedback.json")["drift"]  # one that passes would pull the filter away


def test_gaps_of_the_weather_are_filled_and_long_ones_not_trusted():
    days = pd.date_range("2001-01-01", periods=400)
    table = pd.DataFrame({"precipitation": 2.0, "temperature": 5.0, "discharge": 30.0}, days)
    table.iloc[100:103, 0] = np.nan
    table.iloc[200:220, 1] = np.nan
    record = loop_record(RiverLoopConfiguration(), table.drop(days[50]), "m3 s-1")
    precipitation = np.asarray(record.forcing.precipitation)[:400]
    assert np.isfinite(precipitation).all() and (precipitation == 2.0).all()
    assert record.doubtful[200:250].all() and not record.doubtful[:200].any() and not record.doubtful[251:].any()
    assert np.isnan(record.discharge[200:250]).all() and np.isnan(record.discharge[400:]).all()
    assert np.isnan(record.discharge[50]) and len(record.discharge) == 4096


@pytest.mark.long
@pytest.mark.timeout(900)
def test_poisoned_rows_of_the_river_are_flagged_and_spoil_nothing(tmp_path, monkeypatch):
    config = RiverLoopConfiguration(rounds=2)
    clean = RiverLearner().source(config).frame
    poisoned = clean.copy()
    poisoned.loc["1982-03-01":"1982-05-15", "discharge"] *= 35.3  # cubic feet among cubic meters
    poisoned.loc["1982-08-01":"1982-08-31", "discharge"] = 17.0  # stuck
    poisoned.loc["1982-10-10", "discharge"] = 900.0  # a spike
    changed = ~np.isclose(poisoned["discharge"], clean["discharge"])
    models = {}
    for name, frame in (("clean", clean), ("poisoned", poisoned)):
        monkeypatch.setattr(river.RiverLearner, "source", lambda self, config, frame=frame: SourceRows(frame, "t"))
        run_loop(RiverLoop(), config, tmp_path / name)
        files = LoopFiles(tmp_path / name)
        models[name] = read_model(files, in_use(files)[-1])["model"]
        prepared = files.read_json(2, STAGES[1], "prepared.json")
        count = sum(prepared["flagged"].values())
        if name == "clean":
            assert count <= 5  # of two years
        else:
            assert count >= 0.95 * changed.sum()
    learner, since = RiverLearner(), pd.Timestamp("1984-01-01")
    scores = {
        name: learner.forecast(config, model, clean, since, 1)["crps"].mean() for name, model in models.items()
    }  # fmt: skip
    assert scores["poisoned"] < 1.03 * scores["clean"]
