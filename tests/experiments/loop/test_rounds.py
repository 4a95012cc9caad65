"""The rounds of a loop: finished once and for all, the same after any interruption, refused when altered."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from diffassim.cli import main
from diffassim.core.errors import ConfigurationError, DataError
from diffassim.experiments.loop import artifacts
from diffassim.experiments.loop.artifacts import STAGES, LoopFiles
from diffassim.experiments.loop.ledger import in_use
from diffassim.experiments.loop.lock import locked
from diffassim.experiments.loop.rounds import roll_back_loop, run_loop
from tests.command_line import refused
from tests.experiments.loop.level import LevelConfiguration, LevelLoop, write_table

PAGE = {"index.html", "rounds.png", "scores.csv", "table.txt", "manifest.json"}


@pytest.fixture
def settings(tmp_path):
    write_table(tmp_path / "table.csv")
    return LevelConfiguration(file=tmp_path / "table.csv")


def content(path):
    """Return all files but the log and the lock."""
    return {
        str(p.relative_to(path)): p.read_bytes()
        for p in path.rglob("*")
        if p.is_file() and p.name not in ("log.txt", "lock")
    }


@pytest.fixture
def whole(tmp_path, settings):
    outcome = run_loop(LevelLoop(), settings, tmp_path / "whole")
    return tmp_path / "whole", outcome


@pytest.mark.slow
def test_rounds_follow_a_drift_and_a_second_call_changes_nothing(settings, whole):
    path, outcome = whole
    assert outcome.finished == [1, 2, 3] and outcome.waiting == ""
    before = content(path)
    again = run_loop(LevelLoop(), settings, path)
    assert again.finished == [] and "all 3 rounds are finished" in again.waiting
    assert content(path) == before
    files = LoopFiles(path)
    assert in_use(files) == [1, 2, 3]
    told = [files.read_json(n, STAGES[6], "feedback.json") for n in (1, 2, 3)]
    assert [t["drift"] for t in told] == [False, True, True]
    page = (path / "index.html").read_text()
    assert "model 3" in page and "data:image/png" in page and "<script" not in page
    manifest = json.loads((path / "manifest.json").read_text())
    assert set(manifest) == set(before) - {"manifest.json"}
    current = json.loads((path / "models" / "current.json").read_text())
    assert (current["model"], current["former"]) == (3, 2)
    assert "models 1 and 2 (in use after the first two rounds) on the same later rows" in outcome.table


@pytest.mark.slow
def test_without_a_drift_none_is_found_and_nothing_worse_is_promoted(tmp_path):
    found, promoted = 0, []
    for seed in range(4):
        write_table(tmp_path / "table.csv", drift=0.0, seed=seed)
        config = LevelConfiguration(file=tmp_path / "table.csv", confidence=0.99)
        run_loop(LevelLoop(), config, tmp_path / f"{seed}")
        files = LoopFiles(tmp_path / f"{seed}")
        found += sum(files.read_json(n, STAGES[6], "feedback.json")["drift"] for n in (2, 3))
        for number in (2, 3):
            decision = files.read_json(number, STAGES[5], "decision.json")
            test = files.read_json(number, STAGES[4], "evaluation.json")["comparison"]
            promoted.append(decision["promoted"])
            assert decision["promoted"] == (test["confidence"] >= 0.99)
    assert found == 0 and sum(promoted) <= 1


@pytest.mark.long
def test_a_loop_stopped_at_any_write_goes_on_to_the_same_files(tmp_path, settings, whole, monkeypatch):
    """Half of a file is written, and the process is gone."""
    expected = content(whole[0])
    write = artifacts._write_durably
    calls = 0

    class Gone(BaseException):
        pass

    def stopping(path, content):
        nonlocal calls
        calls += 1
        if calls == stop:
            path.write_bytes(content[: len(content) // 2])
            raise Gone
        write(path, content)

    monkeypatch.setattr(artifacts, "_write_durably", stopping)
    path = tmp_path / "stopped"
    for stop in (1, 2, 6, 13, 28, 41, 66):  # noqa: B007 (read where it stops)
        shutil.rmtree(path, ignore_errors=True)
        calls = 0
        with pytest.raises(Gone):
            run_loop(LevelLoop(), settings, path)
        calls = 1000
        run_loop(LevelLoop(), settings, path)
        assert content(path) == expected


def test_a_finished_stage_is_not_repeated(tmp_path, settings, monkeypatch):
    learner = type(LevelLoop.learner)
    run_loop(LevelLoop(), settings, tmp_path / "a", once=True)
    monkeypatch.setattr(learner, "train", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run_loop(LevelLoop(), settings, tmp_path / "a", once=True)
    monkeypatch.undo()
    for name in ("source", "screen", "scaling", "features"):  # all of them finished before
        monkeypatch.setattr(learner, name, lambda *_: (_ for _ in ()).throw(AssertionError("again")))
    assert run_loop(LevelLoop(), settings, tmp_path / "a", once=True).finished == [2]


@pytest.mark.slow
def test_every_altered_or_missing_or_foreign_file_is_named(settings, whole):
    path, _ = whole
    names = [name for name in content(path) if name not in PAGE]
    assert len(names) > 50
    for name in names:
        file = path / name
        before = file.read_bytes()
        file.write_bytes(before[:-2] + b"#\n")
        with pytest.raises((DataError, ConfigurationError), match=str(path)) as caught:
            run_loop(LevelLoop(), settings, path)
        assert file.name in str(caught.value), name
        file.write_bytes(before)
    lost = path / "store" / "002.csv"
    before = lost.read_bytes()
    lost.unlink()
    with pytest.raises(DataError, match=r"002\.csv: missing"):
        run_loop(LevelLoop(), settings, path)
    lost.write_bytes(before)
    for foreign in (path / "store" / "009.csv", path / "rounds" / "001" / STAGES[1] / "more.csv"):
        foreign.write_text("a")
        with pytest.raises(DataError, match="not written by the loop"):
            run_loop(LevelLoop(), settings, path)
        foreign.unlink()
    (path / "store" / "link").symlink_to("/")
    with pytest.raises(DataError, match="a link"):
        run_loop(LevelLoop(), settings, path)


def test_names_in_a_manifest_cannot_leave_the_directory(tmp_path, settings):
    run_loop(LevelLoop(), settings, tmp_path / "a", once=True)
    place = LoopFiles(tmp_path / "a").stage(1, STAGES[0])
    manifest = artifacts.unsigned(place / artifacts.MANIFEST)
    for key, name in (("files", "../../../secret"), ("inputs", "../secret"), ("files", "a/../../b")):
        altered = {**manifest, key: {**manifest[key], name: "0"}}
        (place / artifacts.MANIFEST).write_bytes(artifacts.signed(altered))
        with pytest.raises(DataError, match="is no plain file name"):
            run_loop(LevelLoop(), settings, tmp_path / "a")


@pytest.mark.slow
def test_rollback_is_kept_and_the_next_round_starts_from_the_former_model(tmp_path, settings):
    path = tmp_path / "a"
    run_loop(LevelLoop(), settings, path, until="2001-09-15")
    files = LoopFiles(path)
    assert in_use(files) == [1, 2]
    kept = content(path)
    assert roll_back_loop(LevelLoop(), settings, path) == (2, 1)
    assert in_use(files) == [1] and files.model(2).is_file()
    assert json.loads((path / "models" / "current.json").read_text())["model"] == 1
    assert {name for name in kept if name not in PAGE} <= set(content(path))
    with pytest.raises(ConfigurationError, match="no former model"):
        roll_back_loop(LevelLoop(), settings, path)
    written = path / "models" / "rollback-001.json"
    kept = written.read_bytes()
    written.unlink()  # would put the model in use again that was rolled back
    with pytest.raises(DataError, match=r"rollback-001\.json: missing"):
        run_loop(LevelLoop(), settings, path)
    written.with_name("rollback-002.json").write_bytes(kept)
    with pytest.raises(DataError, match=r"rollback-002\.json: rollback 1 of this loop is missing"):
        roll_back_loop(LevelLoop(), settings, path)
    written.with_name("rollback-002.json").rename(written)
    run_loop(LevelLoop(), settings, path)
    assert files.read_json(3, STAGES[1], "prepared.json")["incumbent"] == 1
    assert in_use(files) == [1, 3]
    assert "rolled back after round 2: from model 2 to 1" in (path / "table.txt").read_text()


def test_a_challenger_is_not_promoted_over_a_model_that_was_rolled_back_meanwhile(tmp_path, settings, monkeypatch):
    path = tmp_path / "a"
    run_loop(LevelLoop(), settings, path, until="2001-09-15")
    with monkeypatch.context() as stopped:
        stopped.setattr(type(LevelLoop.learner), "train", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_loop(LevelLoop(), settings, path)
    roll_back_loop(LevelLoop(), settings, path)
    run_loop(LevelLoop(), settings, path)
    decision = LoopFiles(path).read_json(3, STAGES[5], "decision.json")
    assert not decision["promoted"] and "rolled back meanwhile" in decision["reason"]


@pytest.mark.slow
def test_a_poisoned_round_is_flagged_and_does_not_worsen_the_model_in_use(tmp_path):
    frame = write_table(tmp_path / "table.csv", drift=0.0)
    poisoned = frame.copy()
    poisoned.iloc[150:200] *= 30.0  # an error of unit ...
    poisoned.iloc[205:215] = 55.0  # ... and a sensor that is stuck
    poisoned.to_csv(tmp_path / "table.csv")
    config = LevelConfiguration(file=tmp_path / "table.csv")
    run_loop(LevelLoop(), config, tmp_path / "a")
    files = LoopFiles(tmp_path / "a")
    flagged = files.read_json(2, STAGES[1], "prepared.json")["flagged"]
    assert flagged == {"FIRST_GUESS": 50, "STUCK": 10}
    level = artifacts.unsigned(files.model(in_use(files)[-1]))["model"]["level"]
    assert abs(level - 10.0) < 0.5
    assert files.read_json(3, STAGES[6], "feedback.json")["spread"] < 1.3


def test_a_period_without_usable_rows_keeps_the_model(tmp_path):
    frame = write_table(tmp_path / "table.csv")
    frame.iloc[125:240] = np.nan
    frame.to_csv(tmp_path / "table.csv")
    config = LevelConfiguration(file=tmp_path / "table.csv")
    assert run_loop(LevelLoop(), config, tmp_path / "a").finished == [1, 2, 3]
    files = LoopFiles(tmp_path / "a")
    assert "fewer than 60" in files.read_json(2, STAGES[5], "decision.json")["reason"]
    assert in_use(files, after=2) == [1] and in_use(files) == [1, 3]


def test_a_round_of_which_most_values_are_flagged_is_left_to_a_person(tmp_path):
    frame = write_table(tmp_path / "table.csv", drift=0.0)
    frame.iloc[120:243] += 500.0
    frame.to_csv(tmp_path / "table.csv")
    config = LevelConfiguration(file=tmp_path / "table.csv")
    assert run_loop(LevelLoop(), config, tmp_path / "a", until="2001-09-15").finished == [1, 2]
    files = LoopFiles(tmp_path / "a")
    assert "100% of the new values are flagged" in files.read_json(2, STAGES[5], "decision.json")["reason"]
    assert in_use(files) == [1]


def test_a_failed_training_keeps_the_model(tmp_path, settings, monkeypatch):
    run_loop(LevelLoop(), settings, tmp_path / "a", once=True)

    def fail(*_):
        raise DataError("the loss is not finite")

    monkeypatch.setattr(type(LevelLoop.learner), "train", fail)
    run_loop(LevelLoop(), settings, tmp_path / "a", once=True)
    reason = LoopFiles(tmp_path / "a").read_json(2, STAGES[5], "decision.json")["reason"]
    assert reason == "the training failed: the loss is not finite"


def test_late_rows_and_corrections_are_kept_and_said(tmp_path):
    frame = write_table(tmp_path / "table.csv")
    frame.drop(frame.index[50]).iloc[:130].to_csv(tmp_path / "table.csv")
    config = LevelConfiguration(file=tmp_path / "table.csv")
    assert run_loop(LevelLoop(), config, tmp_path / "a").finished == [1]
    frame.iloc[60] = 11.5
    shuffled = frame.sample(frac=1.0, random_state=0)
    pd.concat([shuffled, shuffled.iloc[:3]]).to_csv(tmp_path / "table.csv")
    run_loop(LevelLoop(), config, tmp_path / "a")
    files = LoopFiles(tmp_path / "a")
    told = files.read_json(2, STAGES[0], "collected.json")
    assert (told["late"], told["corrected"], told["repeated"]) == (1, 1, 3) and told["out_of_order"] > 100
    corrections = artifacts.from_csv(files.read(2, STAGES[0], "corrections.csv"))
    assert corrections["now"].tolist() == [11.5] and str(corrections.index[0].date()) == "2001-03-02"
    assert told["new"] == 243 - 120 + 1


def test_two_loops_at_once(tmp_path, settings, capsys):
    run_loop(LevelLoop(), settings, tmp_path / "a", once=True)
    with locked(tmp_path / "a" / "lock"), pytest.raises(ConfigurationError, match=f"process {os.getpid()} on"):
        run_loop(LevelLoop(), settings, tmp_path / "a", once=True)
    (tmp_path / "a" / "lock").write_text("process 999999999 on nowhere")  # dead: the system has released its lock
    run_loop(LevelLoop(), settings, tmp_path / "a", once=True)
    assert "took over the lock of process 999999999" in (tmp_path / "a" / "log.txt").read_text()


def test_a_full_disk_loses_nothing(tmp_path, settings, monkeypatch):
    run_loop(LevelLoop(), settings, tmp_path / "a", once=True)
    before = content(tmp_path / "a")

    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(artifacts, "_write_durably", full)
        with pytest.raises(OSError, match="No space left"):
            run_loop(LevelLoop(), settings, tmp_path / "a", once=True)
    assert {k: v for k, v in content(tmp_path / "a").items() if ".part" not in k} == before
    assert run_loop(LevelLoop(), settings, tmp_path / "a", once=True).finished == [2]


@pytest.mark.usefixtures("command_line")
def test_the_command_line_says_in_one_line_what_is_wrong(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frame = write_table(tmp_path / "table.csv")
    main(["loop", "level-loop", "--once", "--out", "a"])
    assert "in use: model 1" in capsys.readouterr().out
    before = content(tmp_path / "a")
    assert "began with patience = 1.0, and now it is 2.0" in refused(
        capsys, "loop", "level-loop", "--set", "patience=2.0", "--out", "a"
    )
    frame.rename(columns={"y": "z"}).to_csv("table.csv")
    assert "the column 'y' is in the store" in refused(capsys, "loop", "level-loop", "--out", "a")
    frame.assign(z=1.0).to_csv("table.csv")
    assert "the column 'z' is not in the store" in refused(capsys, "loop", "level-loop", "--out", "a")
    (frame + 1).to_csv("table.csv")
    assert "it is another table" in refused(capsys, "loop", "level-loop", "--out", "a")
    frame.iloc[:0].to_csv("table.csv")
    assert "holds no rows" in refused(capsys, "loop", "level-loop", "--out", "a")
    assert "holds no rows" in refused(capsys, "loop", "level-loop", "--out", "b")
    frame.iloc[:50].to_csv("table.csv")
    assert "needs rows until 2001-05-01" in _nothing(capsys, "loop", "level-loop", "--once", "--out", "c")
    assert "no former model" in refused(capsys, "loop", "level-loop", "--rollback", "--out", "a")
    assert "here is no loop" in refused(capsys, "loop", "level-loop", "--rollback", "--out", "none")
    assert "is a run and no loop" in refused(capsys, "loop", "fulda")
    assert "is a loop; use: diffassim loop" in refused(capsys, "run", "level-loop")
    assert "write a day as" in refused(capsys, "loop", "level-loop", "--until", "soon", "--out", "a")
    assert "is the directory of 'level-loop'" in refused(capsys, "loop", "twin-loop", "--out", "a")
    assert content(tmp_path / "a") == before


def test_a_table_whose_clock_goes_backwards_is_refused(tmp_path, settings):
    frame = write_table(tmp_path / "table.csv")
    run_loop(LevelLoop(), settings, tmp_path / "a", until="2001-09-15")
    frame.iloc[:200].to_csv(tmp_path / "table.csv")
    with pytest.raises(DataError, match="its clock goes backwards"):
        run_loop(LevelLoop(), settings.model_copy(update={"rounds": 3}), tmp_path / "a", once=True)


def _nothing(capsys, *words):
    with pytest.raises(SystemExit) as caught:
        main(list(words))
    assert caught.value.code == 1
    return capsys.readouterr().out


KILLED = """
import os, random, signal, sys
from diffassim.cli import main
from diffassim.experiments.loop import artifacts
place = int(sys.argv[1])
write, calls = artifacts._write_durably, [0]
def killing(path, content):
    calls[0] += 1
    if calls[0] == place:
        path.write_bytes(content[: len(content) // 3])
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, content)
artifacts._write_durably = killing
main(sys.argv[2:])
"""


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_twin_killed_twenty_times_ends_with_the_same_files(tmp_path):
    small = {
        "rounds": 2, "first_months": 2, "period_months": 1, "sites": 8, "members": 6, "leads": [1], "updates": 2,
        "memory_months": 2, "fewest": 20,
    }  # fmt: skip
    words = ["loop", "twin-loop", *(word for key, value in small.items() for word in ("--set", f"{key}={value}"))]
    call = [sys.executable, "-c", KILLED]
    subprocess.run([*call, "0", *words, "--out", str(tmp_path / "whole")], check=True, capture_output=True)
    places = np.random.default_rng(13).integers(1, 6, 20)
    killed = 0
    for place in places:
        ended = subprocess.run([*call, str(place), *words, "--out", str(tmp_path / "killed")], capture_output=True)
        killed += ended.returncode == -9
    subprocess.run([*call, "0", *words, "--out", str(tmp_path / "killed")], check=True, capture_output=True)
    assert killed == 20
    whole, resumed = ((tmp_path / name / "manifest.json").read_bytes() for name in ("whole", "killed"))
    assert whole == resumed
