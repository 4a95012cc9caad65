"""The learned correction, small but real: files, scores, and a training that helps."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from diffassim.core.errors import ConfigurationError
from diffassim.experiments.framework import run as runs
from diffassim.experiments.framework.configuration import build_configuration
from diffassim.experiments.learning.correction import METHODS, Correction, CorrectionConfiguration
from diffassim.experiments.learning.correction_training import tune

SMALL = CorrectionConfiguration(
    members=2, training_cycles=16, validation_cycles=16, cycles=16, discarded_cycles=6, width=8, offline_updates=80,
    epochs=1, updates=15, lead=20, forecast_leads=(10, 50),
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One run that is interrupted before the test stretch and resumed, as its compilation is the expense here."""
    path = tmp_path_factory.mktemp("run") / "correction"
    told = []

    def stop_before_the_test(chunk, chunks):
        told.append((chunk, chunks))
        if chunk == chunks - 1 and len(told) < chunks + 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.run(Correction(), SMALL, path, stop_before_the_test)
    results = runs.resume(path)
    return path, told, results


@pytest.mark.slow
def test_the_directory_holds_scores_figure_and_output(finished):
    path, told, results = finished
    assert told[-1] == (3, 4)
    assert {"analysis.nc", "scores.csv", "table.txt", "correction.png", "config.toml"} <= {
        p.name for p in path.iterdir()
    }
    dataset = xr.load_dataset(path / "analysis.nc", engine="netcdf4")
    assert dict(dataset.sizes) == {"time": 16, "member": 2, "site": 36, "method": 4, "lead": 2}
    assert dataset.attrs["Conventions"].startswith("CF-") and dataset["time"].attrs["axis"] == "T"
    assert all({"units", "long_name"} <= set(dataset[name].attrs) for name in dataset.data_vars)
    np.testing.assert_allclose(np.diff(dataset["time"]), 0.1)
    assert np.isfinite(dataset["analysis"]).all() and np.isfinite(dataset["truth"]).all()
    scores = pd.read_csv(path / "scores.csv")
    assert list(scores.columns) == ["method", "variable", "lead", "metric", "value", "n"]
    assert set(scores["method"]) == set(METHODS)
    assert set(scores["metric"]) == {"rmse", "spread", "skill", "gap closed"}
    assert np.isfinite(scores["value"]).all()
    assert all(method in results.table for method in METHODS)


@pytest.mark.slow
def test_scores_are_those_of_the_output(finished):
    path, _, results = finished
    dataset = xr.load_dataset(path / "analysis.nc", engine="netcdf4").isel(time=slice(6, None))
    value = results.scores.set_index(["variable", "metric", "method", "lead"])["value"].sort_index()
    for m, method in enumerate(METHODS):
        error = dataset["analysis"].values[:, :, m] - dataset["truth"].values
        np.testing.assert_allclose(value["slow", "rmse", method, 0.0], np.sqrt(np.mean(error**2)), rtol=1e-12)
    assert value["slow", "gap closed", "uncorrected", 0.0] == 0
    assert value["slow", "gap closed", "perfect model", 0.0] == 1


@pytest.mark.slow
def test_starts_and_ends_of_consecutive_windows_are_the_same_truth(finished):
    dataset = xr.load_dataset(finished[0] / "analysis.nc", engine="netcdf4")
    assert np.array_equal(dataset["truth_start"][1:], dataset["truth"][:-1])


@pytest.mark.slow
def test_training_helps_and_online_training_helps_more(finished):
    value = finished[2].scores.set_index(["variable", "metric", "method", "lead"])["value"].sort_index()
    rmse = value["slow", "rmse"]
    for lead in (-0.1, 0.0, 0.1, 0.5):
        assert rmse["online", lead] < 0.9 * rmse["uncorrected", lead], lead
        assert rmse["perfect model", lead] < 0.9 * rmse["uncorrected", lead], lead
    assert rmse["online", 0.5] < rmse["offline", 0.5]
    tendency = value["tendency", "rmse"]
    assert tendency["online", 0.0] < 0.7 * tendency["uncorrected", 0.0]


@pytest.mark.slow
def test_an_uninterrupted_run_gives_the_same_result(finished, tmp_path):
    path, _, results = finished
    again = runs.run(Correction(), SMALL, tmp_path / "again")
    pd.testing.assert_frame_equal(again.scores, results.scores, check_exact=True)
    a, b = (xr.load_dataset(p / "analysis.nc", engine="netcdf4") for p in (path, tmp_path / "again"))
    assert a.identical(b)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 7}, "window: 7 steps are no multiple of observation_interval = 5"),
        ({"lead": 12}, "lead: 12 steps are no multiple"),
        ({"observed": 40}, "observed: .*less than or equal to 36"),
        ({"forecast_leads": (20, 10)}, "forecast_leads: .* must increase"),
        ({"training_cycles": 12}, "training_cycles: 12 windows leave no sample.*at least 16"),
        ({"validation_cycles": 10}, "validation_cycles: 10 must be at least 11"),
        ({"cycles": 12}, "cycles: 12 leave no forecast.*at least 14"),
    ],
)
def test_impossible_settings_are_named(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        build_configuration(CorrectionConfiguration, settings, "correction")


@pytest.mark.parametrize("optimum", [0.05, 1.0, 9.0])
def test_tuning_finds_the_minimum_from_either_side(optimum):
    asked = []

    def score(std):
        asked.append(std)
        return np.log(std / optimum) ** 2

    assert abs(np.log2(tune(score, 0.7) / optimum)) <= 0.25 + 1e-9
    assert len(asked) == len(set(asked))
