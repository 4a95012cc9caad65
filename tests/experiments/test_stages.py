"""Experiments whose chunks are of several kinds."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from diffassim.experiments import EXPERIMENTS
from diffassim.experiments.applications.fulda import Fulda, FuldaConfiguration
from diffassim.experiments.framework import run as runs
from diffassim.experiments.framework.base import Configuration, Results, Stage, StagedExperiment, score_rows
from diffassim.experiments.learning.correction import Correction, CorrectionConfiguration


class Staged(StagedExperiment):
    """Two chunks that prepare, three that count on from there."""

    name, summary, configuration = "staged", "Counts in stages.", Configuration

    def stages(self, config):
        return Stage("preparing", 2, self.prepare), Stage("nothing", 0, self.count), Stage("counting", 3, self.count)

    def start(self, config):
        return {"x": np.asarray(1.0)}

    def prepare(self, config, carry, index):
        return {"x": carry["x"] * 10 + index}, xr.Dataset()

    def count(self, config, carry, index):
        x = carry["x"] + index
        return {"x": x}, xr.Dataset({"x": ("time", x[None])}, {"time": [float(index)]})

    def finish(self, config, dataset):
        return Results(score_rows([("staged", "x", 0.0, "last", float(dataset["x"][-1]), 3)]), {}, "")


def test_chunks_are_counted_from_their_stage():
    staged, config = Staged(), Configuration()
    assert staged.chunks(config) == 5
    assert [staged.stage(config, k) for k in range(5)] == ["preparing"] * 2 + ["counting"] * 3
    with pytest.raises(IndexError, match="no chunk 5"):
        staged.stage(config, 5)


@pytest.mark.parametrize("stop", [1, 2, 4])
def test_a_run_that_stops_in_any_stage_goes_on_to_the_same_output(tmp_path, monkeypatch, stop):
    monkeypatch.setitem(EXPERIMENTS, "staged", "tests.experiments.test_stages:Staged")

    def interrupt(finished, count):
        if finished == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.run(Staged(), Configuration(), tmp_path / "run", interrupt)
    results = runs.resume(tmp_path / "run")
    dataset = xr.load_dataset(tmp_path / "run" / "analysis.nc", engine="netcdf4")
    assert dataset["x"].values.tolist() == [101.0, 102.0, 104.0]  # those that prepare leave no output
    assert results.scores["value"].tolist() == [104.0]


@pytest.mark.parametrize(
    ("experiment", "config", "expected"),
    [
        (Fulda(), FuldaConfiguration(), [1, 1, 4, 1, 5]),
        (Correction(), CorrectionConfiguration(), [1, 2, 1, 3]),
    ],
)
def test_experiments_name_their_stages(experiment, config, expected):
    stages = experiment.stages(config)
    assert [stage.count for stage in stages] == expected
    assert len({stage.name for stage in stages}) == len(stages)
    assert experiment.stage(config, experiment.chunks(config) - 1).startswith("assimilating")
