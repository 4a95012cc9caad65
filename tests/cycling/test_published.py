"""Published scores of cycled 4D-Var on the model of Lorenz (1996)."""

from __future__ import annotations

import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from benchmarks import published_cycles, published_windows
from tests.published import assert_reached

SEEDS = 5


class Row(NamedTuple):
    """Length of the window in observation times, variance of B, and the documented error."""

    lag: int
    variance: float
    documented: float


# Set up and documented in mods/Lorenz96/sakov2008.py of DAPPER (MIT license): everything observed every four steps of
# .05 with unit error variance. Windows of `lag` observation times move on by one; only the newest observation is new.
# The documented scores are those of B proportional to the identity, and of the end of the window.
ROWS = [Row(1, 0.2, 0.46), Row(2, 0.1, 0.39), Row(4, 0.02, 0.37), Row(6, 0.015, 0.385)]
INTERVAL, CYCLES, BURN_IN = 4, 1000, 100


def scores(row):
    model, n = da.models.Lorenz96(dt=0.05), 40
    at = INTERVAL * np.arange(1, CYCLES + 1)
    search = da.GaussNewton(tolerance=1e-2, max_iterations=10, consistency=float("inf"))
    method = da.FourDVar(da.covariances.Diagonal(std=row.variance**0.5), search)
    count = CYCLES - row.lag + 1

    @jax.jit
    @jax.vmap
    def run(key):
        keys = jax.random.split(key)
        start = jnp.eye(n)[0]
        truth = da.rollout(model, start + 0.001**0.5 * jax.random.normal(keys[0], (n,)), int(at[-1]), at=at)
        values = truth + jax.random.normal(keys[1], truth.shape)
        obs = da.Observations(values, at, error=da.covariances.Diagonal(std=1.0))
        windows = da.split_windows(obs, INTERVAL * row.lag, count, shift=INTERVAL)
        _, _, history = da.cycle(method, model, start, windows, steps=INTERVAL * row.lag, shift=INTERVAL)
        error = jnp.sqrt(jnp.mean((history.analysis[:, 1] - truth[row.lag - 1 :]) ** 2, axis=1))
        return jnp.mean(error[BURN_IN:])

    return np.asarray(run(jax.random.split(jax.random.key(2024), SEEDS)))


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=[f"lag {row.lag}" for row in ROWS])
def test_the_documented_score_of_shifting_windows_is_reached(row):
    assert_reached(scores(row), row.documented)


@pytest.mark.slow
def test_strong_and_hybrid_cycles_are_at_or_below_the_published_errors(tmp_path, capsys):
    # Some cells of the table of Solvik, Penny and Hoyer (2025), with fewer seeds; all of them: the benchmark.
    options = {"seeds": 5, "places": (24, 36), "errors": (0.5,), "estimated": (36,), "timing": False}
    found = records(published_cycles.main, tmp_path, **options)
    assert sorted(row.split(",")[0] for row in found) == ["4D-Var"] * 3 + ["hybrid"] * 2
    for what, row in found.items():
        assert row["ratio"] <= 1 and row["more"]["diverged"] == 0, (what, row["more"])


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
