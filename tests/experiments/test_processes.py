"""Runs of several processes: the same results as one, whatever is killed, and nothing that waits for ever."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from diffassim.core.errors import DataError
from diffassim.experiments.framework import run as runs
from diffassim.experiments.framework.run_directory import RunDirectory
from tests.experiments.countdown import Countdown, CountdownConfiguration, SpreadCountdown
from tests.experiments.test_run import ROOT, assert_same_result

pytestmark = [pytest.mark.slow, pytest.mark.long]

CONFIG = CountdownConfiguration(chains=6, chunks=3)
SETTINGS = ("--set", "chains=6", "--set", "chunks=3")
LIMIT = 300  # seconds of a command, on a machine that is busy with others
LOST = 30 + 15  # seconds in which a job without a launcher has to notice a killed process, and some to end


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "run"
    runs.run(Countdown(), CONFIG, path)
    return path


def started(*words: str, **environment: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.experiments.countdown", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, **pipes)


def ended(process: subprocess.Popen) -> tuple[int, str, str]:
    try:
        output, errors = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        raise
    return process.returncode, output, errors


def command(*words: str, **environment: str) -> tuple[int, str, str]:
    return ended(started(*words, **environment))


def by_hand(count: int, words: tuple[str, ...], own: dict[int, tuple[str, ...]], **environment: str) -> list:
    """Start processes as a cluster does, without a launcher that watches them."""
    port = 20_000 + os.getpid() % 20_000
    names = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": str(count)}
    return [
        started(*words, *own.get(k, ()), "--processes", "cluster", JAX_PROCESS_ID=str(k), **names, **environment)
        for k in range(count)
    ]


def without_logs(path: Path) -> Path:
    shutil.rmtree(path / "processes", ignore_errors=True)
    return path


def test_four_processes_give_the_very_results_of_one(whole, tmp_path):
    code, output, errors = command("run", "countdown", *SETTINGS, "--out", str(tmp_path / "run"), "--processes", "4")
    assert code == 0, errors
    assert "x 0." in output and output.count("index.html, figures") == 1
    assert_same_result(tmp_path / "run", whole)
    assert sorted(p.name for p in without_logs(tmp_path / "run").iterdir()) == sorted(p.name for p in whole.iterdir())


def test_ten_kills_of_any_process_at_any_point_lose_nothing(whole, tmp_path):
    """Four processes, then two and four in turn, are killed in the middle of computing and writing."""
    draws = np.random.default_rng(5)
    path, words = tmp_path / "run", ("run", "countdown", *SETTINGS)
    chunks, killed = list(range(18)), 0
    while killed < 10:
        count = "2" if killed % 2 else "4"
        left = [k for k in chunks if not (path / "chunks" / f"{k:05d}.nc").exists()]
        at, delay = str(left[min(len(left) - 1, int(draws.integers(3)))]), str(draws.uniform(0, 0.05))
        how = {"DISTURB_AT": at, "DISTURB_HOW": "kill soon", "DISTURB_DELAY": delay, "SLOW": "0.2"}
        resumed = ("run", "--resume", str(path)) if path.exists() else (*words, "--out", str(path))
        code, _, errors = command(*resumed, "--processes", count, **how)
        assert code == 128 + signal.SIGKILL, errors
        assert "was killed by SIGKILL at part" in errors and "--resume" in errors
        killed += 1
    code, _, errors = command("run", "--resume", str(path), "--processes", "2")
    assert code == 0, errors
    assert_same_result(path, whole)


def test_sigterm_stops_all_of_them_and_any_number_goes_on(whole, tmp_path):
    path = tmp_path / "run"
    process = started("run", "countdown", *SETTINGS, "--out", str(path), "--processes", "4", SLOW="1")
    while not list(path.glob("chunks/*.nc")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    code, _, errors = ended(process)
    assert code == 0, errors
    assert errors.strip().endswith(f"terminated. What is finished lies in {path}; go on with: diffassim run --resume "
                                   f"{path} --processes 4")  # fmt: skip
    already = RunDirectory(path, Countdown().chains(CONFIG)).finished
    assert already < 18
    process = started("run", "--resume", str(path), "--processes", "2", SLOW="0.5")  # elastic: 4 -> 2 -> 1
    while len(list(path.glob("chunks/*.nc"))) <= already and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    code, _, errors = ended(process)
    assert code in (0, 130), errors
    runs.resume(path)
    assert_same_result(path, whole)


def test_a_killed_process_of_a_cluster_ends_the_job_with_its_number(whole, tmp_path):
    path = tmp_path / "run"
    words = ("run", "countdown", *SETTINGS, "--out", str(path))
    processes = by_hand(3, words, {}, DISTURB_AT="start", DISTURB_HOW="none", SLOW="3")
    while not list(path.glob("chunks/*.nc")):
        time.sleep(0.1)
    before = time.monotonic()
    processes[2].send_signal(signal.SIGKILL)
    results = [ended(process) for process in processes]
    assert time.monotonic() - before < LOST + 60  # the others may finish their own parts before that
    assert results[2][0] == -signal.SIGKILL
    assert all(code != 0 for code, _, _ in results)
    assert "rank 2 has given no sign of life" in results[0][2] and "part" in results[0][2]
    runs.resume(path)
    assert_same_result(path, whole)


def test_sigterm_to_one_process_of_a_cluster_stops_all(whole, tmp_path):
    path = tmp_path / "run"
    words = ("run", "countdown", *SETTINGS, "--out", str(path), "--stop-code", "143")
    processes = by_hand(3, words, {}, SLOW="1")
    while not list(path.glob("chunks/*.nc")):
        time.sleep(0.1)
    processes[1].send_signal(signal.SIGTERM)
    assert [ended(process)[0] for process in processes] == [143, 143, 143]
    runs.resume(path)
    assert_same_result(path, whole)


def test_the_others_end_where_the_launcher_is_killed(tmp_path):
    path = tmp_path / "run"
    process = started("run", "countdown", *SETTINGS, "--out", str(path), "--processes", "2", SLOW="2")
    while not list(path.glob("chunks/*.nc")):
        time.sleep(0.1)
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    children = listed.read_text().split() if listed.exists() else []
    process.send_signal(signal.SIGKILL)
    ended(process)  # their ends of the pipes are closed as well
    end = time.monotonic() + 30
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < end:
        time.sleep(0.2)
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def test_an_error_of_one_process_ends_the_others_with_its_words(tmp_path):
    path = tmp_path / "run"
    words = ("run", "countdown", *SETTINGS, "--out", str(path), "--processes", "4")
    before = time.monotonic()
    code, _, errors = command(*words, DISTURB_AT="7", DISTURB_HOW="fail", SLOW="0.1")
    assert code == 1 and "no number here" in errors and "Traceback" not in errors
    assert time.monotonic() - before < LIMIT / 2


def test_a_full_disk_is_named_and_loses_nothing(whole, tmp_path):
    path = tmp_path / "run"
    words = ("run", "countdown", *SETTINGS, "--out", str(path), "--processes", "4")
    code, _, errors = command(*words, DISTURB_AT="7", DISTURB_HOW="full disk", SLOW="0.1")
    assert code in (1, 2) and "cannot be written" in errors and "Traceback" not in errors, errors
    runs.resume(path)
    assert_same_result(path, whole)


def test_other_settings_on_one_process_are_found_at_the_start(tmp_path):
    path = tmp_path / "run"
    words = ("run", "countdown", *SETTINGS, "--out", str(path))
    for code, _, errors in map(ended, by_hand(3, words, {2: ("--set", "seed=1")})):
        assert code == 2
        assert "differ in their settings: rank 0 has 'seed = 0', rank 2 has 'seed = 1'" in errors
    assert not path.exists()


def test_another_input_file_or_directory_on_one_process_is_found_at_the_start(tmp_path):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "table.csv").write_text(name)
    words = ("run", "countdown", *SETTINGS, "--out", str(tmp_path / "run"))
    own = {k: ("--set", f"file={tmp_path / ('here', 'there')[k]}/table.csv") for k in range(2)}
    for code, _, errors in map(ended, by_hand(2, words, own)):
        assert code == 2 and "differ in their" in errors and "rank 1 has" in errors


def test_more_processes_than_parts_wait_for_the_others(tmp_path):
    words = ("--set", "chains=2", "--set", "chunks=1")
    code, _, errors = command("run", "countdown", *words, "--out", str(tmp_path / "run"), "--processes", "4")
    assert code == 0, errors
    runs.run(Countdown(), CountdownConfiguration(chains=2, chunks=1), tmp_path / "one")
    assert_same_result(tmp_path / "run", tmp_path / "one")


@pytest.fixture(scope="module")
def whole_spread(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "run"
    runs.run(SpreadCountdown(), CountdownConfiguration(chunks=4), path)
    return path


class TestSpread:
    """All processes compute every chunk together, each with its part of the arrays."""

    def agrees(self, path, whole):
        a, b = (xr.load_dataset(each / "analysis.nc", engine="netcdf4") for each in (path, whole))
        np.testing.assert_array_equal(a["x"], b["x"])  # no sum between the numbers
        np.testing.assert_allclose(a["mean"], b["mean"], rtol=1e-14)

    def test_killed_with_four_it_goes_on_with_two_and_with_one(self, whole_spread, tmp_path, monkeypatch):
        path = tmp_path / "run"
        how = {"DISTURB_RANK": "1", "DISTURB_HOW": "kill"}
        words = ("run", "spread-countdown", "--out", str(path), "--processes", "4")
        code, _, errors = command(*words, DISTURB_AT="2", **how)
        assert code == 128 + signal.SIGKILL and "rank 1 was killed by SIGKILL at part 3 of 4" in errors, errors
        assert {p.name for p in (path / "shards").iterdir()} == {
            "manifest.json", *(f"rank-0000{k}.bin" for k in range(4))
        }  # fmt: skip
        (path / "shards").rename(path / "shards.old")  # as a kill between two renamings leaves it
        code, _, errors = command("run", "--resume", str(path), "--processes", "2", DISTURB_AT="3", **how)
        assert code == 128 + signal.SIGKILL and "rank 1 was killed" in errors, errors
        monkeypatch.setitem(runs.find_experiment.__globals__["EXPERIMENTS"], "spread-countdown", LOCATION)
        self.damage_is_named(path)
        runs.resume(path)
        self.agrees(path, whole_spread)

    def damage_is_named(self, path):
        """Flip a hundred bits of the shards, one after the other."""
        draws, found = np.random.default_rng(1), 0
        directory = RunDirectory(path, (range(4),))
        files = sorted((path / "shards").iterdir())
        for _ in range(100):
            file = files[int(draws.integers(len(files)))]
            sound = file.read_bytes()
            content = bytearray(sound)
            content[int(draws.integers(len(content)))] ^= 1 << int(draws.integers(8))
            file.write_bytes(content)
            try:
                directory.read_spread(lambda *_: None)
            except (DataError, ValueError):
                found += 1
            file.write_bytes(sound)
        assert found == 100

    def test_sigterm_stops_all_at_the_same_chunk(self, whole_spread, tmp_path, monkeypatch):
        path = tmp_path / "run"
        process = started("run", "spread-countdown", "--out", str(path), "--processes", "3", SLOW="1")
        while not (path / "chunks" / "00000.nc").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        code, _, errors = ended(process)
        assert code == 0 and "terminated" in errors, errors
        code, _, errors = command("run", "--resume", str(path), "--processes", "4")
        assert code == 0, errors
        self.agrees(path, whole_spread)

    def test_what_is_not_finite_is_named_with_its_place(self, tmp_path):
        words = ("run", "spread-countdown", "--out", str(tmp_path / "run"), "--processes", "4")
        code, _, errors = command(*words, SPOIL_AT="1")
        assert code == 2
        assert "chunk 1['x'][7] is nan on rank 2 (device" in errors, errors
        assert "1 of 3 values there are not finite" in errors

    def test_processes_that_do_not_divide_the_state_are_named(self, tmp_path):
        words = ("run", "spread-countdown", "--out", str(tmp_path / "run"), "--processes", "5")
        code, _, errors = command(*words)
        assert code == 2 and "12 entries along axis 0, which the 5 devices" in errors, errors

    def test_a_full_disk_leaves_the_checkpoint_before(self, whole_spread, tmp_path, monkeypatch):
        path = tmp_path / "run"
        words = ("run", "spread-countdown", "--out", str(path), "--processes", "2")
        code, _, errors = command(*words, DISTURB_AT="2", DISTURB_HOW="full disk", DISTURB_RANK="1")
        assert code in (1, 2) and "Traceback" not in errors, errors
        assert "writing a checkpoint: rank 1 failed: OSError" in errors, errors
        monkeypatch.setitem(runs.find_experiment.__globals__["EXPERIMENTS"], "spread-countdown", LOCATION)
        runs.resume(path)
        self.agrees(path, whole_spread)


LOCATION = "tests.experiments.countdown:SpreadCountdown"


def test_an_experiment_that_cannot_be_shared_is_refused_with_those_that_can(tmp_path):
    code, _, errors = command("run", "lorenz96", "--out", str(tmp_path / "run"), "--processes", "4")
    assert (
        code == 2 and "lorenz96 cannot be shared out" in errors and "twin" in errors and "lorenz96-ensemble" in errors
    )
    assert not (tmp_path / "run").exists()
    code, _, errors = command("run", "countdown", "--out", str(tmp_path / "run"), "--processes", "4")
    assert code == 2 and "a single part" in errors
    code, _, errors = command("run", "countdown", "--out", str(tmp_path / "run"), "--processes", "many")
    assert code == 2 and "must be 1 to 1024, or the word cluster" in errors
