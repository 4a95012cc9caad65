"""Running, stopping and resuming: the same final result, and nothing lost."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from flax import serialization

from diffassim.cli.environment import checked_stop_code
from diffassim.cli.watching import interruptible
from diffassim.core.errors import AssimilationWarning, ConfigurationError, DataError
from diffassim.experiments.framework import run as runs
from diffassim.experiments.framework.checkpoints import as_numpy
from tests.experiments.countdown import Countdown, CountdownConfiguration

ROOT = Path(__file__).parents[2]
RESULTS = ("scores.csv", "table.txt", "config.toml")


@pytest.fixture
def whole(tmp_path):
    runs.run(Countdown(), CountdownConfiguration(), tmp_path / "whole")
    return tmp_path / "whole"


def assert_same_result(one: Path, other: Path) -> None:
    for name in RESULTS:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    a, b = (xr.load_dataset(path / "analysis.nc", engine="netcdf4") for path in (one, other))
    assert a.identical(b)


def stopped(path: Path, monkeypatch, at: str) -> Path:
    monkeypatch.setenv("DISTURB_AT", at)
    monkeypatch.setenv("DISTURB_HOW", "interrupt")
    with pytest.raises(KeyboardInterrupt):
        runs.run(Countdown(), CountdownConfiguration(), path)
    monkeypatch.delenv("DISTURB_AT")
    return path


def test_the_directory_holds_everything(whole):
    assert sorted(p.name for p in whole.iterdir()) == [
        "analysis.nc", "config.toml", "index.html", "provenance.json", "scores.csv", "table.txt", "x.png",
    ]  # fmt: skip
    dataset = xr.load_dataset(whole / "analysis.nc", engine="netcdf4")
    assert dataset.sizes == {"time": 20}
    assert dataset["level"].dims == ()
    assert dataset.attrs["Conventions"].startswith("CF-1.")
    assert dataset["time"].dtype.kind == "M"
    scores = pd.read_csv(whole / "scores.csv")
    assert list(scores.columns) == ["method", "variable", "lead", "metric", "value", "n"]
    assert scores["value"][0] == float(dataset["x"].mean())
    facts = json.loads((whole / "provenance.json").read_text())
    assert facts["seed"] == 0
    assert facts["versions"]["numpy"] == np.__version__
    assert (whole / "x.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("at", ["start", "0", "1", "3"])
def test_resuming_gives_the_result_of_an_uninterrupted_run(whole, tmp_path, monkeypatch, at):
    path = stopped(tmp_path / "stopped", monkeypatch, at)
    runs.resume(path)
    assert_same_result(path, whole)


def test_a_run_may_be_stopped_again_and_again(whole, tmp_path, monkeypatch):
    path = stopped(tmp_path / "stopped", monkeypatch, "1")
    for at in ("2", "3"):
        monkeypatch.setenv("DISTURB_AT", at)
        with pytest.raises(KeyboardInterrupt):
            runs.resume(path)
    monkeypatch.delenv("DISTURB_AT")
    runs.resume(path)
    assert_same_result(path, whole)


def test_finished_chunks_are_readable_while_the_run_is_not_finished(tmp_path, monkeypatch):
    path = stopped(tmp_path / "stopped", monkeypatch, "2")
    files = sorted((path / "chunks").iterdir())
    assert [f.name for f in files] == ["00000.nc", "00001.nc"]
    assert all(xr.load_dataset(f, engine="netcdf4").sizes["time"] == 5 for f in files)
    with pytest.raises(DataError, match="finish the run with: diffassim run --resume"):
        runs.score(path)


def test_resuming_a_finished_run_scores_it_again(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "copy")
    (whole / "scores.csv").unlink()
    runs.resume(whole)
    assert_same_result(whole, tmp_path / "copy")


def test_score_repeats_the_scores_of_the_stored_output(whole):
    before = (whole / "scores.csv").read_bytes()
    (whole / "scores.csv").write_text("spoiled")
    assert runs.score(whole).table == (whole / "table.txt").read_text()
    assert (whole / "scores.csv").read_bytes() == before


def test_progress_counts_chunks(tmp_path):
    seen = []
    runs.run(Countdown(), CountdownConfiguration(chunks=2), tmp_path / "run", lambda *args: seen.append(args))
    assert seen == [(0, 2), (0, 2), (1, 2), (2, 2)]


def test_a_run_is_never_overwritten(whole):
    before = {p.name: p.read_bytes() for p in whole.iterdir()}
    with pytest.raises(ConfigurationError, match="holds a run already"):
        runs.run(Countdown(), CountdownConfiguration(seed=1), whole)
    assert {p.name: p.read_bytes() for p in whole.iterdir()} == before


def test_other_files_are_never_overwritten(tmp_path):
    (tmp_path / "scores.csv").write_text("mine")
    with pytest.raises(ConfigurationError, match="not empty"):
        runs.run(Countdown(), CountdownConfiguration(), tmp_path)
    assert (tmp_path / "scores.csv").read_text() == "mine"


def test_a_stopped_preparation_is_repeated_with_its_own_settings_only(whole, tmp_path, monkeypatch):
    path = stopped(tmp_path / "run", monkeypatch, "start")
    with pytest.raises(ConfigurationError, match="other settings, which are not written over"):
        runs.run(Countdown(), CountdownConfiguration(seed=1), path)
    assert "seed = 0" in (path / "config.toml").read_text()
    runs.run(Countdown(), CountdownConfiguration(), path)
    assert_same_result(path, whole)


@pytest.mark.parametrize("name", ["config.toml", "provenance.json", "chunks/mine.nc", ".hidden"])
def test_a_foreign_file_is_left_alone(tmp_path, name):
    path = tmp_path / "run" / name
    path.parent.mkdir(parents=True)
    path.write_text('experiment = "mine"')
    with pytest.raises(ConfigurationError, match=r"other settings|not empty"):
        runs.run(Countdown(), CountdownConfiguration(), tmp_path / "run")
    assert path.read_text() == 'experiment = "mine"'


def test_what_a_kill_leaves_in_the_first_moments_is_written_over_or_completed(whole, tmp_path, monkeypatch):
    path = tmp_path / "killed"  # while config.toml was written
    (path / "chunks").mkdir(parents=True)
    (path / ".config.toml.part").write_text("exper")
    with pytest.raises(ConfigurationError, match="stopped before its settings were written; start it with"):
        runs.resume(path)
    runs.run(Countdown(), CountdownConfiguration(), path)
    assert_same_result(path, whole)
    path = stopped(tmp_path / "later", monkeypatch, "start")  # between config.toml and provenance.json
    (path / "provenance.json").unlink()
    (path / "chunks").rmdir()
    runs.resume(path)
    assert (path / "provenance.json").exists()
    assert_same_result(path, whole)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: [1, 2],
        lambda content: {"carry": {}},
        lambda content: content | {"carry": {"foreign": np.zeros(2)}},
        lambda content: content | {"chunks": {"00007": "0"}},
        lambda content: content | {"chunks": {"00000": 5}},
    ],
)
def test_a_checkpoint_with_a_right_checksum_and_foreign_content_is_named(tmp_path, monkeypatch, change):
    path = stopped(tmp_path / "stopped", monkeypatch, "2")
    content = serialization.msgpack_restore((path / "checkpoint.msgpack").read_bytes()[32:])
    packed = serialization.msgpack_serialize(change(content))
    (path / "checkpoint.msgpack").write_bytes(hashlib.sha256(packed).digest() + packed)
    with pytest.raises(DataError, match=r"checkpoint.msgpack: its content"):
        runs.resume(path)


def test_settings_beyond_the_memory_are_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(Countdown, "memory", lambda self, config: {"chunks": 8e15, "limit": 1.0})
    with pytest.raises(ConfigurationError, match=r"about 7.1 PiB of memory.*most of it is for chunks"):
        runs.run(Countdown(), CountdownConfiguration(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [flip, empty, Path.unlink], ids=["flipped bit", "emptied", "removed"])
@pytest.mark.parametrize("name", ["checkpoint.msgpack", "chunks/00000.nc", "chunks/00001.nc"])
def test_a_damaged_directory_is_named_and_left_alone(tmp_path, monkeypatch, name, damage):
    path = stopped(tmp_path / "stopped", monkeypatch, "2")
    damage(path / name)
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    with pytest.raises(DataError, match=rf"{name}: (damaged|missing).*another --out"):
        runs.resume(path)
    assert {p: p.read_bytes() for p in path.rglob("*") if p.is_file()} == before


def test_a_changed_configuration_cannot_be_resumed(tmp_path, monkeypatch):
    path = stopped(tmp_path / "stopped", monkeypatch, "2")
    config = path / "config.toml"
    config.write_text(config.read_text().replace("seed = 0", "seed = 1"))
    with pytest.raises(DataError, match=r"config.toml: changed since the run started"):
        runs.resume(path)


def test_a_missing_configuration_or_directory_is_named(tmp_path, monkeypatch):
    path = stopped(tmp_path / "stopped", monkeypatch, "2")
    (path / "config.toml").unlink()
    with pytest.raises(ConfigurationError, match=r"config.toml: No such file"):
        runs.resume(path)
    with pytest.raises(ConfigurationError, match="no such directory"):
        runs.resume(tmp_path / "nowhere")


def test_a_damaged_output_is_named(whole):
    (whole / "analysis.nc").write_bytes((whole / "analysis.nc").read_bytes()[:300])
    with pytest.raises(DataError, match=r"analysis.nc: cannot be read as netCDF"):
        runs.score(whole)


def test_other_versions_are_mentioned(whole, tmp_path, monkeypatch):
    path = stopped(tmp_path / "stopped", monkeypatch, "2")
    facts = (path / "provenance.json").read_text()
    (path / "provenance.json").write_text(facts.replace(f'"numpy": "{np.__version__}"', '"numpy": "1.0"'))
    with pytest.warns(AssimilationWarning, match=r"numpy 1.0 -> "):
        runs.resume(path)
    assert_same_result(path, whole)


def test_a_carry_is_a_nested_dict_of_arrays():
    with pytest.raises(TypeError, match="found a tuple"):
        as_numpy({"x": (1.0, 2.0)})
    with pytest.raises(TypeError, match="found the keys"):
        as_numpy({1: 2.0})


@pytest.mark.parametrize(
    ("number", "words", "code", "word"),
    [
        (signal.SIGINT, (), 130, "interrupted"),
        (signal.SIGINT, ("--stop-code", "143"), 130, "interrupted"),
        (signal.SIGTERM, (), 0, "terminated"),
        (signal.SIGTERM, ("--stop-code", "143"), 143, "terminated"),
    ],
)
def test_a_signal_is_one_line_that_says_how_to_go_on(whole, tmp_path, number, words, code, word):
    flag, path = tmp_path / "flag", tmp_path / "stopped"
    process = start_process(path, *words, DISTURB_AT="2", DISTURB_HOW="wait", DISTURB_FLAG=str(flag))
    while not flag.exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert word in errors and errors.strip().endswith(f"go on with: diffassim run --resume {path}")
    assert "Traceback" not in errors
    runs.resume(path)
    assert_same_result(path, whole)


def test_a_stop_that_leaves_nothing_to_go_on_with_is_no_success(tmp_path, capsys):
    with pytest.raises(SystemExit) as end, interruptible(tmp_path / "none"):
        signal.raise_signal(signal.SIGTERM)
    assert end.value.code == 143 and "Nothing had begun" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end, interruptible(tmp_path / "none", "diffassim loop mine"):
        signal.raise_signal(signal.SIGTERM)
    assert end.value.code == 0 and "go on with: diffassim loop mine" in capsys.readouterr().err


@pytest.mark.parametrize("code", [-1, 1, 2, 130, 256])
def test_exit_codes_that_say_something_else_are_refused(code):
    with pytest.raises(ConfigurationError, match=f"--stop-code {code}: must be an exit code, 0 to 255"):
        checked_stop_code(code)
    assert [checked_stop_code(sound) for sound in (0, 3, 143, 255)] == [0, 3, 143, 255]


def start_process(path: Path, *words: str, **environment: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.experiments.countdown", "run", "countdown", "--out", str(path), *words]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, stderr=subprocess.PIPE, text=True)


def test_after_a_kill_the_run_goes_on_with_the_same_result(whole, tmp_path):
    process = start_process(tmp_path / "killed", DISTURB_AT="2", DISTURB_HOW="kill")
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    runs.resume(tmp_path / "killed")
    assert_same_result(tmp_path / "killed", whole)
