"""What several processes say to each other; with real processes in tests/experiments/test_processes.py."""

from __future__ import annotations

import json

import jax
import pytest

from diffassim.core import processes
from diffassim.core.errors import ConfigurationError
from diffassim.core.processes import agreement


@pytest.fixture
def three(monkeypatch):
    """Pretend that there are two more processes, which say what the test wants."""

    def others(*texts):
        monkeypatch.setattr(agreement, "exchange", lambda name, text, timeout=0.0: [text, *texts])

    return others


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"JAX_NUM_PROCESSES": "2"}, "JAX_COORDINATOR_ADDRESS is not set"),
        ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_PROCESS_ID": "0"}, "JAX_NUM_PROCESSES is not set"),
        ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "x"}, "must be integers"),
        ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"}, "between 0 and"),
    ],
)
def test_half_named_processes_are_refused(monkeypatch, variables, named):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=named):
        processes.initialize()


def test_a_call_that_comes_too_late_is_named(monkeypatch):
    jax.devices()
    processes.initialize()  # alone: nothing happens
    monkeypatch.setenv("SLURM_PROCID", "0")
    with pytest.raises(ConfigurationError, match=r"SLURM_PROCID says.*before the first computation"):
        processes.initialize()


def test_equal_facts_pass_and_others_are_named_with_both_values(three):
    facts = {"settings": "a = 1\nb = 2", "version": "1"}
    three(json.dumps(facts), json.dumps(facts))
    processes.agree(facts)
    three(json.dumps(facts), json.dumps(facts | {"settings": "a = 1\nb = 3\nc = 4"}))
    with pytest.raises(ConfigurationError, match=r"differ in their settings: rank 0 has 'b = 2', rank 2 has 'b = 3'"):
        processes.agree(facts)
    three(json.dumps(facts | {"input file x": "5"}), json.dumps(facts))
    with pytest.raises(ConfigurationError, match=r"input file x: rank 0 has 'nothing', rank 1 has '5'"):
        processes.agree(facts)


def test_an_error_of_another_process_is_raised_here(three):
    three("", "OSError: full")
    with pytest.raises(processes.ProcessError, match="writing: rank 2 failed: OSError: full"):
        processes.together("writing", lambda: 1)
    with pytest.raises(KeyError):  # its own comes first
        processes.together("writing", lambda: {}["x"])
    three("", "")
    assert processes.together("writing", lambda: 1) == 1


def test_work_of_one_process_is_all_of_it():
    seen = []
    assert processes.share_out("work", 3, lambda k: "abc"[k], lambda texts: seen.append(dict(texts))) == ["a", "b", "c"]
    assert seen[0] == {0: "a"} and len(seen[2]) == 3
    with pytest.raises(ZeroDivisionError):
        processes.share_out("work", 1, lambda k: str(1 // k), lambda texts: None)


def test_the_place_is_written_for_the_launcher(monkeypatch, tmp_path):
    monkeypatch.setenv(processes.PLACE_FILE, str(tmp_path / "place"))
    processes.place("part 3")
    assert (tmp_path / "place").read_text() == "part 3"
    monkeypatch.setenv(processes.PLACE_FILE, str(tmp_path / "nowhere" / "place"))
    processes.place("part 4")  # no error: a run is not stopped for this
