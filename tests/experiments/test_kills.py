"""A run whose arrays lie in parts, killed at random moments and continued by other numbers of processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from tests.experiments.test_run import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.long]

KILLS = 5
SETTINGS = {"n": 20_000, "members": 8, "cycles": 100, "discarded_cycles": 10}
MOMENTS = (6.0, 16.0)  # seconds after the start of a command; the first half of them goes into imports
LIMIT = 600  # seconds of a command, on a machine that is busy with others
PROCESSES = ("2", "2", "4", "2", "1")  # of the runs that are killed; the last one goes on with two


def started(*words: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "diffassim.cli", "run", *words]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | {"NPROC": "4"}, stderr=subprocess.PIPE, text=True)


def settings() -> list[str]:
    return [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]


def victims(launcher: int, count: int) -> list[int]:
    """Return the processes of a run: those that the launcher has started, or it alone."""
    if count == 1:
        return [launcher]
    listed = Path(f"/proc/{launcher}/task/{launcher}/children")
    return [int(number) for number in listed.read_text().split()] if listed.exists() else []


def kill_at_random(process: subprocess.Popen, count: int, draws: np.random.Generator) -> bool:
    """Kill one process of a run at a random moment, most often while it computes; return whether that ended it."""
    end = time.monotonic() + draws.uniform(*MOMENTS)
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    alive = victims(process.pid, count) if process.poll() is None else []
    if alive:
        os.kill(alive[int(draws.integers(len(alive)))], signal.SIGKILL)
    process.communicate(timeout=LIMIT)
    return process.returncode != 0


def test_five_kills_at_random_moments_and_other_numbers_of_processes_lose_nothing(tmp_path):
    draws = np.random.default_rng(int(os.environ.get("KILL_SEED", "0")))
    whole, path = tmp_path / "whole", tmp_path / "run"
    process = started("large-state", *settings(), "--out", str(whole))
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, errors
    killed = []
    for count in PROCESSES:
        resumed = (path / "config.toml").exists()
        words = ["--resume", str(path)] if resumed else ["large-state", *settings(), "--out", str(path)]
        process = started(*words, "--processes", count)
        killed.append(kill_at_random(process, int(count), draws))
    assert sum(killed) >= KILLS - 1, "too few runs were killed before they had ended"
    process = started("--resume", str(path), "--processes", "2")
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, errors
    found, wanted = (xr.load_dataset(each / "analysis.nc") for each in (path, whole))
    for name in wanted:  # up to the order of sums
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-8, err_msg=name)
    stored, other = (xr.open_zarr(each / "fields.zarr", consolidated=False) for each in (path, whole))
    np.testing.assert_allclose(stored["ensemble"], other["ensemble"], rtol=0, atol=1e-8)
