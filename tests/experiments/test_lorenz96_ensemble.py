"""The twin experiment with ensemble filters: scores against closed forms, resuming, members on request, lost runs."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("xarray")
pytest.importorskip("pydantic")

import xarray as xr

from diffassim import diagnostics
from diffassim.core.errors import AssimilationWarning, ConfigurationError
from diffassim.experiments.framework import run as runs
from diffassim.experiments.framework.configuration import build_configuration
from diffassim.experiments.twins import lorenz96_ensemble
from diffassim.experiments.twins.lorenz96_ensemble import Lorenz96Ensemble, Lorenz96EnsembleConfiguration

SHORT = {"cycles": 90, "discarded_cycles": 20}


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(lorenz96_ensemble, "CYCLES_PER_CHUNK", 30)


def value(results, method, metric):
    rows = results.scores
    return float(rows["value"][(rows["method"] == method) & (rows["metric"] == metric)].iloc[0])


@pytest.mark.slow
def test_scores_are_those_of_the_saved_members(tmp_path, small_chunks):
    config = Lorenz96EnsembleConfiguration(**SHORT, save_members=True)
    results = runs.run(Lorenz96Ensemble(), config, tmp_path / "run")
    with xr.open_dataset(tmp_path / "run" / "analysis.nc") as dataset:
        counted = dataset.isel(time=slice(20, None)).load()
    members, truth = np.swapaxes(counted["members"].values, 0, 1), counted["truth"].values
    np.testing.assert_allclose(counted["analysis"], members.mean(0), rtol=1e-12)
    np.testing.assert_allclose(counted["crps"], diagnostics.crps(members, truth), rtol=1e-5, atol=1e-7)
    ranks = diagnostics.rank_histogram(members, truth)
    np.testing.assert_allclose(value(results, "analysis", "rank_flatness"), ranks.flatness, rtol=1e-5)
    np.testing.assert_allclose(value(results, "analysis", "rank_outliers"), ranks.outliers, rtol=1e-5)
    error = np.sqrt(np.mean((members.mean(0) - truth) ** 2, axis=1)).mean()
    np.testing.assert_allclose(value(results, "analysis", "rmse"), error, rtol=1e-5)
    spread = np.sqrt(np.mean(members.var(0, ddof=1), axis=1)).mean()
    np.testing.assert_allclose(value(results, "analysis", "spread"), spread, rtol=1e-5)
    assert value(results, "analysis", "rmse") < value(results, "background", "rmse") < 0.6
    assert value(results, "free run", "rmse") > 3
    assert (tmp_path / "run" / "overview.png").stat().st_size > 10_000
    left, right = results.figures["reliability"].axes
    found = diagnostics.spread_error(members, truth)
    drawn = next(line for line in left.lines if str(line.get_label()).startswith("analysis"))
    np.testing.assert_allclose(drawn.get_xydata(), np.stack([found.spread, found.error], axis=1), rtol=1e-5)
    size = next(line for line in right.lines if line.get_label() == "size")
    np.testing.assert_allclose(np.mean(size.get_ydata() ** 2), value(results, "analysis", "chi_square"), rtol=0.05)
    assert "LETKF, 10 members, means over 70 analyses" in results.table


@pytest.mark.slow
def test_a_resumed_run_is_that_of_an_uninterrupted_one_bit_by_bit(tmp_path, small_chunks):
    experiment = Lorenz96Ensemble()
    config = Lorenz96EnsembleConfiguration(**SHORT, method="EnKF", members=30, inflation=1.1)  # draws random numbers
    runs.run(experiment, config, tmp_path / "whole")
    seen = []

    def stop(finished, count):
        seen.append((finished, count))
        if finished == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.run(experiment, config, tmp_path / "parts", stop)
    assert seen[-1] == (2, 3)  # progress between chunks
    runs.resume(tmp_path / "parts")
    whole, parts = (xr.load_dataset(tmp_path / name / "analysis.nc") for name in ("whole", "parts"))
    xr.testing.assert_identical(whole, parts)
    assert "members" not in whole  # statistics only, unless asked for
    assert (tmp_path / "whole" / "scores.csv").read_bytes() == (tmp_path / "parts" / "scores.csv").read_bytes()


def test_a_lost_run_says_from_when_on(tmp_path, small_chunks):
    config = Lorenz96EnsembleConfiguration(**SHORT, observation_std=300.0)  # members start where steps are unstable
    with pytest.warns(AssimilationWarning, match="not finite"):
        results = runs.run(Lorenz96Ensemble(), config, tmp_path / "run")
    assert results.counted == 0
    assert "LOST from time" in results.table and "means over 0 analyses" in results.table
    assert np.isnan(value(results, "analysis", "rmse"))
    assert "rank_flatness" not in set(results.scores["metric"])


@pytest.mark.parametrize("method", ["ETKF", "EnSRF", "DEnKF", "EnKF-N"])
def test_every_method_can_be_chosen(method):
    found = Lorenz96EnsembleConfiguration(method=method, inflation=1.05, rotation=True).filter()
    assert type(found).__name__ == method.replace("-", "") and found.inflation == 1.05 and found.rotation


def test_settings_are_checked():
    for wrong, message in (({"method": "KF"}, "method"), ({"cycles": 5}, "discarded_cycles: 200 leaves nothing")):
        with pytest.raises(ConfigurationError, match=message):
            build_configuration(Lorenz96EnsembleConfiguration, wrong, "lorenz96-ensemble")
