"""Benchmarks of decisions at a tiny size; of peers in other processes stand-ins take the place."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import decisions, lakes, ppo_trainings, storms

BASINS = Path(__file__).parent / "basins.py"


def read(file):
    return {row["what"]: row for row in map(json.loads, file.read_text().splitlines())}


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # gymnasium's own
def test_lakes(capsys, tmp_path):
    file = tmp_path / "records.json"
    decisions.main(parts=("lakes",), count=3, steps=4, workers=0, budget=0.1, json=file)
    assert "machine" in capsys.readouterr().out
    found = read(file)
    labels = ["diffassim", "diffassim, ends at different steps", "NumPy, vectorized by hand"]
    assert {f"{name}, {label}" for name in ("reservoir", "lake") for label in labels} <= set(found)
    assert all(row["seconds"] > 0 for row in found.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reservoir", "lake"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_lakes_of_all_kinds_take_the_same_steps(name, dtype):
    environment, many, single, told = lakes.lakes(name, dtype)
    lakes.same_trajectories(environment, (many, single), told)
    with pytest.raises(AssertionError):
        lakes.same_trajectories(environment, (lambda *a: single(a[0], a[1], 1.01 * a[2]),), told)
    levels = np.array([0.1, 0.9])
    together = many(levels, np.array([20.0, 30.0]), np.array([100.0, 5.0]))
    for k, row in enumerate(((0.1, 20.0, 100.0), (0.9, 30.0, 5.0))):
        np.testing.assert_allclose([part[k] for part in together], single(*row), rtol=1e-12)


STAND_IN = """
import json, sys
assert json.loads(sys.argv[1])["task"] == "CartPole-v1"
for line in sys.stdin:
    row = {"seconds": 1e3, "cpu_seconds": 2e3, "compile_seconds": 1.0, "dtype": "float32", "return": 7.0 * json.loads(line)["seed"]}
    print(json.dumps(row | {"rejax": "0", "jax": "0", "gymnax": "0"}), flush=True)
"""  # noqa: E501


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # gymnax's own
def test_trainings_in_turn_with_those_of_another_process(capsys, tmp_path, monkeypatch):
    pytest.importorskip("gymnax", reason="gymnax is not installed")
    script = tmp_path / "peer.py"
    script.write_text(STAND_IN)
    monkeypatch.setattr(ppo_trainings, "SERVER", script)
    file = tmp_path / "records.json"
    decisions.main(parts=("training",), tasks=("CartPole-v1",), seeds=2, updates=1, rejax=sys.executable, json=file)
    found = read(file)
    ours, theirs = found["PPO on CartPole-v1, diffassim"], found["PPO on CartPole-v1, rejax"]
    assert ours["dtype"] == "float32" and ours["ratio"] == pytest.approx(ours["seconds"] / 1e3)
    assert theirs["more"]["mean return"].startswith("10.5") and theirs["more"]["seeds"] == 2  # of seeds 1 and 2
    assert "machine" in capsys.readouterr().out


def sewer(scenario="theta", **options):
    return storms.Sewer(sys.executable, scenario, server=BASINS, **options)


def test_simulations_of_another_process_are_played_and_lost_ones_counted():
    found = sewer().play(storms.uncontrolled)
    assert found["steps"] == 120 and found["flooded"]["b"][0] == 0
    closed = sewer().play(storms.Constant(np.zeros(2)))
    assert closed["flooded"] == {"a": [28, 28 / 60], "b": [44, 44 / 60]} and closed["cost"] == 7200
    assert sewer().play(storms.uncontrolled, hours=0.5)["steps"] == 30
    assert math.isnan(sewer("broken").play(storms.uncontrolled)["cost"])
    record = storms.row(sewer(), "uncontrolled", found, 1.0)
    assert record.more["flooded steps"] == "none" and record.size.startswith("2 basins")


@pytest.mark.slow
def test_an_evolution_strategy_finds_better_settings():
    pytest.importorskip("cmaes", reason="cmaes is not installed")
    start, bounds = np.full(2, 0.9), np.tile([0.0, 1.0], (2, 1))
    first = sewer().play(storms.Constant(start))["cost"]
    best, lowest, lost = storms.search(sewer(), storms.Constant, start, 31, hours=math.inf, bounds=bounds)
    assert lowest < first and lost == 0 and np.all((best >= 0) & (best <= 1))
    assert sewer().play(storms.Constant(best))["cost"] == lowest
    _, lowest, lost = storms.search(sewer("broken"), storms.Constant, start, 13, hours=math.inf)
    assert math.isnan(lowest) and lost == 13


def test_equal_filling_passes_its_outflow_and_feedback_stays_within_bounds():
    deepest, depths = np.array([2.0, 4.0, 2.0]), np.array([1.0, 2.0, 0.1])
    scenario = dataclasses.replace(storms.SCENARIOS["theta"], outflow=1.0)
    settings = storms.EqualFilling(scenario, deepest, tolerance=0.0)(depths)
    flow = settings * scenario.orifice * np.sqrt(2 * scenario.gravity * depths)
    np.testing.assert_allclose(flow, [0.5, 0.5, 0.0], rtol=1e-12)  # the two are equally full, the third below the mean
    feedback = storms.Feedback(deepest, np.array([0.2, 0.2, 0.2, 1.0, 0.0, -9.0, 0.0, 3.0, 0.0]))
    np.testing.assert_allclose(feedback(depths), [0.7, 1.0, 0.0], rtol=1e-12)


def test_without_the_program_the_benchmark_says_so(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    storms.main(folder=tmp_path / "file" / "environment", json=tmp_path / "records.json")
    said = capsys.readouterr().out
    assert "skipped" in said and "pystorms==1.0.0" in said and "machine" in said


def test_neither_package_nor_benchmarks_import_what_has_another_licence():
    root = Path(storms.__file__).parents[1]
    found = {
        path.relative_to(root).as_posix()
        for part in ("diffassim", "benchmarks")
        for path in (root / part).rglob("*.py")
        if any(
            line.strip().startswith(f"{word} {name}")
            for line in path.read_text().splitlines()
            for word in ("import", "from")
            for name in ("pystorms", "pyswmm", "benchmarks.storms_server")
        )
    }
    assert found == {"benchmarks/storms_server.py"}
