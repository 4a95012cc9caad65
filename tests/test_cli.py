"""The command line: one line and exit code 2 for whatever the user can help."""

from __future__ import annotations

import time

import pytest

pytest.importorskip("xarray")
pytest.importorskip("pydantic")

import jax

from diffassim.cli import main
from diffassim.experiments import EXPERIMENTS
from tests.command_line import refused
from tests.experiments.countdown import LOCATION, Countdown

pytestmark = pytest.mark.usefixtures("command_line")


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """Give the command line a test experiment."""
    monkeypatch.setitem(EXPERIMENTS, "countdown", LOCATION)


def test_list_names_every_experiment(capsys, monkeypatch):
    for name in set(EXPERIMENTS) - {"countdown", "lorenz96"}:
        monkeypatch.delitem(EXPERIMENTS, name)  # tested with their own files
    main(["list"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(EXPERIMENTS)
    assert "countdown  Counts chunks." in lines


def test_run_prints_the_table_and_where_the_files_are(capsys, tmp_path):
    main(["run", "countdown", "--set", "chunks=2", "--set", "length=2 days"])
    shown = capsys.readouterr()
    table = (tmp_path / "results" / "countdown" / "table.txt").read_text()
    assert shown.out.startswith(table)
    assert "results/countdown" in shown.out
    assert shown.err == ""  # no progress bar where nobody watches


def test_a_stored_configuration_repeats_the_run(capsys, tmp_path):
    main(["run", "countdown", "--set", "seed=3", "--out", "a"])
    main(["run", "a/config.toml", "--out", "b"])
    main(["run", "a/config.toml", "--set", "seed=4", "--out", "c"])
    scores = [(tmp_path / d / "scores.csv").read_bytes() for d in "abc"]
    assert scores[0] == scores[1] != scores[2]


def test_score_and_resume_of_a_finished_run_print_its_table(capsys):
    main(["run", "countdown", "--out", "a"])
    first = capsys.readouterr().out
    main(["run", "--resume", "a"])
    assert capsys.readouterr().out == first
    main(["score", "a"])
    assert first.startswith(capsys.readouterr().out)


def test_precision_is_double_unless_the_configuration_says_otherwise():
    main(["run", "countdown", "--set", "dtype=float32", "--out", "a"])
    assert not jax.config.jax_enable_x64
    main(["run", "countdown", "--out", "b"])
    assert jax.config.jax_enable_x64


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("run", "name an experiment"),
        ("run lorenz69", "did you mean 'lorenz96'?"),
        ("run mine.toml", "mine.toml: No such file or directory"),
        ("run countdown --set chunk=2", "unknown key 'chunk'; did you mean 'chunks'?"),
        ("run countdown --set chunks", "write it as key=value"),
        ("run countdown --set chunks=0", "chunks: Input should be greater than or equal to 1 (found 0)"),
        ("run countdown --set limit=1", "length: the window of 3.0 days is longer than limit = 1.0 days"),
        ("run countdown --resume a", "--resume DIR stands alone"),
        ("run countdown --reusme a", "--resume"),
        ("run --resume nowhere", "nowhere/config.toml: No such file or directory"),
        ("score nowhere", "nowhere/config.toml: No such file or directory"),
        ("score", "DIRECTORY"),
        ("bench literature --case lorenz63 --cycles " + "9" * 400, "--cycles 99999999999999999999... (400 characters)"),
        ("bench literature --case lorenz63 --seeds 0", "--seeds 0: must be between 1 and"),
        ("run correction --set cycles=1000000000000", "correction: these settings need about"),
        ("assimilate", "assimilate"),
        ("run countdown --out file", "file"),
        ("run countdown --out \udce4", "is no UTF-8"),
        ("run --resume \udce4", "is no UTF-8"),
    ],
)
def test_a_user_error_is_one_line(capsys, tmp_path, words, message):
    (tmp_path / "file").write_text("not a directory")
    assert message in refused(capsys, *words.split())


@pytest.mark.parametrize("error", [KeyError("x\ny"), RuntimeError("RESOURCE_EXHAUSTED: 9 TB"), RecursionError("deep")])
def test_an_unforeseen_error_is_one_line_with_advice_and_a_traceback_on_request(capsys, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr("tests.experiments.countdown.Countdown.start", fail)
    with pytest.raises(SystemExit) as caught:
        main(["run", "countdown", "--out", "a"])
    shown = capsys.readouterr().err
    assert caught.value.code == 1 and shown.count("\n") == 1
    assert ("--debug" in shown) != ("memory does not suffice" in shown)
    with pytest.raises(type(error)):
        main(["run", "countdown", "--out", "b", "--debug"])


def test_a_run_of_which_nothing_counts_ends_with_an_error(capsys, monkeypatch):
    finish = Countdown.finish
    monkeypatch.setattr(Countdown, "finish", lambda *words: finish(*words)._replace(counted=0))
    with pytest.raises(SystemExit) as caught:
        main(["run", "countdown", "--out", "a"])
    assert caught.value.code == 1
    assert "nothing that counts has finished" in capsys.readouterr().err


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers_end_with_an_error(capsys, monkeypatch, number):
    finish = Countdown.finish

    def spoiled(*words):
        results = finish(*words)
        return results._replace(scores=results.scores.assign(value=number))

    monkeypatch.setattr(Countdown, "finish", spoiled)
    with pytest.raises(SystemExit) as caught:
        main(["run", "countdown", "--out", "a"])
    assert caught.value.code == 1
    assert "scores are not finite" in capsys.readouterr().err


def test_a_long_run_that_nobody_watches_gives_signs_of_life(capsys, monkeypatch):
    monkeypatch.setattr("diffassim.cli.watching.HEARTBEAT", 0.05)
    start = Countdown.start
    monkeypatch.setattr(Countdown, "start", lambda *words: (time.sleep(0.3), start(*words))[1])
    main(["run", "countdown", "--out", "a"])
    assert "diffassim: preparing, 0 s" in capsys.readouterr().err


def test_a_run_is_not_overwritten(capsys):
    main(["run", "countdown", "--out", "a"])
    assert "a holds a run already" in refused(capsys, "run", "countdown", "--out", "a")


def test_a_missing_extra_is_named(capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "xarray", None)
    assert "pip install 'diffassim[data]'" in refused(capsys, "list")


def test_version(capsys):
    main(["--version"])
    assert capsys.readouterr().out.strip()
