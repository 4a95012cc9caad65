"""Published scores of cycled 4D-Var on the model of Lorenz (1996)."""

from __future__ import annotations

import json

import jax
import pytest

from benchmarks import published_cycles, published_windows


@pytest.mark.ci
@pytest.mark.slow
def test_strong_and_hybrid_cycles_are_at_or_below_the_published_errors(tmp_path, capsys):
    # Some cells of the table of Solvik, Penny and Hoyer (2025), with fewer seeds; all of them: the benchmark.
    options = {"seeds": 5, "places": (24, 36), "errors": (0.5,), "estimated": (36,), "timing": False}
    found = records(published_cycles.main, tmp_path, **options)
    assert sorted(row.split(",")[0] for row in found) == ["4D-Var"] * 3 + ["hybrid"] * 2
    for what, row in found.items():
        assert row["ratio"] <= 1 and row["more"]["diverged"] == 0, (what, row["more"])


@pytest.mark.ci
@pytest.mark.slow
def test_the_forcing_is_found_from_windows_that_share_it(tmp_path, capsys):
    found = records(published_windows.main, tmp_path, windows=64, forcings=(8.0,), seeds=1, single=32)
    assert found.keys() == {"strong 4D-Var, middle of the window", "forcing 8, seed 0"}
    for what, row in found.items():
        assert row["ratio"] <= 1, (what, row["more"])


def records(run, tmp_path, **options):
    with jax.enable_x64(True):
        run(**options, json=tmp_path / "records.json")
    return {row["what"]: row for row in map(json.loads, (tmp_path / "records.json").read_text().splitlines())}
