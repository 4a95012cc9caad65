"""The reservoir with two objectives: the optimum is the published one, and every agent comes near it."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("xarray")
pytest.importorskip("pydantic")

import xarray as xr

from diffassim.core.errors import ConfigurationError
from diffassim.experiments.control.water_reservoir import (
    CORNER,
    PUBLISHED,
    WEIGHTS,
    WaterReservoirConfiguration,
    WaterReservoirFronts,
    interval,
)
from diffassim.experiments.control.water_reservoir_agents import AGENTS
from diffassim.experiments.framework import run as runs
from diffassim.experiments.framework.configuration import build_configuration


def value(results, method, metric):
    rows = results.scores
    return float(rows["value"][(rows["method"] == method) & (rows["metric"] == metric)].iloc[0])


@pytest.mark.long
def test_dynamic_programming_finds_the_published_front(tmp_path):
    config = WaterReservoirConfiguration(agents=("policy iteration",))
    results = runs.run(WaterReservoirFronts(), config, tmp_path / "run")
    with xr.open_dataset(tmp_path / "run" / "analysis.nc") as dataset:
        optimum = dataset["optimum"].values.reshape(-1, len(WEIGHTS), 2)[0]
        assert dataset["front"].shape == (1, 9, 2)
    np.testing.assert_allclose(optimum, PUBLISHED, atol=0.02)  # published with two digits
    assert value(results, "optimum", "hypervolume") == pytest.approx(1.80, abs=0.005)
    assert value(results, "policy iteration", "hypervolume_share") > 0.99
    regrets = results.scores[results.scores["metric"] == "regret"]["value"]
    assert regrets.min() > -1e-6 and regrets.max() < 0.003  # it does not know the end
    assert "published" in results.table and (tmp_path / "run" / "overview.png").stat().st_size > 10_000
    assert config.runs() == [("policy iteration", 0)] and CORNER == (-2.5, -11.0)


@pytest.mark.long
def test_tables_learn_nearly_the_optimum_and_a_resumed_run_is_the_same(tmp_path):
    config = WaterReservoirConfiguration(agents=("Q-learning", "pathwise gradient"), weights=(0.2, 0.5), seeds=2)
    whole = runs.run(WaterReservoirFronts(), config, tmp_path / "whole")

    def stop(finished, count):
        if finished == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.run(WaterReservoirFronts(), config, tmp_path / "parts", stop)
    runs.resume(tmp_path / "parts")
    assert (tmp_path / "whole" / "scores.csv").read_bytes() == (tmp_path / "parts" / "scores.csv").read_bytes()
    for name in config.agents:
        assert value(whole, name, "hypervolume_share") > 0.95
        assert np.isfinite(value(whole, name, "hypervolume_share_half_interval"))


def test_settings_are_checked():
    for wrong, message in (
        ({"agents": ["Q"]}, "there are policy iteration"),
        ({"agents": ["SARSA", "SARSA"]}, "one twice"),
        ({"weights": [0.5]}, "at least two"),
        ({"weights": [0.5, 1.5]}, "less than or equal to 1"),
        ({"effort": 0}, "effort"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            build_configuration(WaterReservoirConfiguration, wrong, "water-reservoir")
    assert len(WaterReservoirConfiguration().runs()) == 1 + 3 * (len(AGENTS) - 1)


def test_intervals_are_those_of_student():
    rng = np.random.default_rng(0)
    samples = rng.normal(5.0, 2.0, (4000, 4))
    means, halves = np.array([interval(row) for row in samples]).T
    assert abs(np.mean(np.abs(means - 5) < halves) - 0.95) < 0.012
    assert np.isnan(interval([1.0])[1])
