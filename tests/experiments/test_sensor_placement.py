"""Sensors in a twin: near the best of all choices, and better than others where it counts."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("xarray")
pytest.importorskip("pydantic")

import jax

from diffassim.core.errors import ConfigurationError
from diffassim.experiments.control.sensor_placement import SensorPlacement, SensorPlacementConfiguration
from diffassim.experiments.control.sensor_placement_trial import SEARCHES, spread_out
from diffassim.experiments.control.sensor_placement_worlds import WORLDS
from diffassim.experiments.framework import run as runs
from diffassim.experiments.framework.configuration import build_configuration


@pytest.mark.long
def test_choices_are_near_the_best_and_save_what_they_promise(tmp_path):
    config = SensorPlacementConfiguration(seeds=2, worlds=("plume",), candidates=9, sensors=2, truths=300)
    found = runs.run(SensorPlacement(), config, tmp_path / "whole")
    value = found.scores.set_index(["metric", "method", "lead"])["value"]
    for lead in (0.0, 2.0):
        for search in SEARCHES:
            assert value["percent_of_best_worst", search, lead] >= 95
            # members and truths are of one kind, 40 and 300 of them
            left, promised = (value[m, search, lead] for m in ("error_left_percent", "variance_left_percent"))
            assert abs(left - promised) < 15
            assert left < value["error_left_percent", "random", lead]
        assert value["percent_of_best", "random", lead] < 90

    def stop(finished, count):
        if finished == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.run(SensorPlacement(), config, tmp_path / "parts", stop)
    runs.resume(tmp_path / "parts")
    assert (tmp_path / "whole" / "scores.csv").read_bytes() == (tmp_path / "parts" / "scores.csv").read_bytes()
    assert (tmp_path / "whole" / "overview.png").stat().st_size > 10_000


@pytest.mark.slow
def test_places_that_are_spread_out_lie_as_far_apart_as_possible():
    world = WORLDS["plume"](jax.random.key(0), 6, 2, 16, np.dtype("float32"))
    random, apart = spread_out(world, 2, 0, 5)
    assert random.shape == (5, 2) and len(apart) <= 20 and world.members.dtype == np.float32
    assert {float(world.distance[tuple(pair)]) for pair in apart} == {float(world.distance.max())}
    assert spread_out(world, 1, 0, 5)[1].shape == (16, 1)
    assert all(len(set(row)) == 2 for row in random.tolist())


def test_settings_are_checked():
    for wrong, message in (
        ({"sensors": 5, "candidates": 4}, "5 for 4 candidates"),
        ({"sensors": 0}, "sensors"),
        ({"sensors": 6, "candidates": 40}, "sets on the way"),
        ({"worlds": ["ocean"]}, "worlds"),
        ({"leads": [1, 1]}, "twice"),
        ({"leads": [-1]}, "leads"),
        ({"members": 1}, "members"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            build_configuration(SensorPlacementConfiguration, wrong, "sensor-placement")
