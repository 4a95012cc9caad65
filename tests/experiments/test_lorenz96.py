"""The 4D-Var twin: what counts, what is lost, what is said about it, and the run itself."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("xarray")
pytest.importorskip("pydantic")

import xarray as xr

from diffassim.core.errors import ConfigurationError
from diffassim.core.results import Result
from diffassim.experiments.framework import run as runs
from diffassim.experiments.framework.configuration import build_configuration
from diffassim.experiments.twins import lorenz96
from diffassim.experiments.twins.lorenz96 import Lorenz96Configuration, Lorenz96Twin
from diffassim.experiments.twins.lorenz96_impact import impact_of_times
from diffassim.experiments.twins.lorenz96_setting import sound_length

SMALL = {"n": 4, "window": 2, "cycles": 6, "discarded_cycles": 2}


def output(config, error=0.5):
    """An output whose analyses and backgrounds have a constant error."""
    shape = (config.cycles * config.window, config.n)
    truth = np.random.default_rng(0).normal(size=shape)
    fields = {"truth": truth, "free_run": truth + 3, "background": truth + 2 * error, "analysis": truth + error}
    dataset = xr.Dataset(
        {name: (("time", "site"), values) for name, values in fields.items()}, {"time": np.arange(shape[0])}
    )
    return dataset.assign(result=("time", np.zeros(shape[0], np.int8)))


def value(results, method):
    return set(results.scores.loc[results.scores["method"] == method, "value"].round(12))


def test_scores_are_root_mean_square_errors_of_the_windows_that_count():
    config = Lorenz96Configuration(**SMALL)
    results = Lorenz96Twin().finish(config, output(config))
    assert (value(results, "analysis"), value(results, "background"), value(results, "free run")) == (
        {0.5},
        {1.0},
        {3.0},
    )
    assert results.counted == 4 and "over 4 windows" in results.table and "0 of these windows failed" in results.table


def test_a_failed_window_is_counted_in_the_table():
    config = Lorenz96Configuration(**SMALL)
    dataset = output(config)
    dataset["result"][6:8] = Result.STALLED
    results = Lorenz96Twin().finish(config, dataset)
    assert results.counted == 3
    assert "1 of these windows failed" in results.table and "STALLED (1 of 6)" in results.table


@pytest.mark.parametrize(("lost", "counted"), [(0, 0), (7, 1)])
def test_a_lost_run_counts_up_to_its_loss(lost, counted):
    config = Lorenz96Configuration(**SMALL)
    dataset = output(config)
    dataset["background"][lost:] = np.nan
    results = Lorenz96Twin().finish(config, dataset)
    assert results.counted == counted and f"over {counted} windows" in results.table
    assert f"LOST from time {lost // 2 * 0.1:g} on" in results.table
    assert np.isfinite(results.scores["value"]).all() == (counted > 0)


def test_the_sound_length_ends_at_the_first_number_that_is_not_finite():
    fields = np.zeros((2, 5, 3))
    assert sound_length(fields, 5) == 5
    fields[1, 3, 2] = np.inf
    assert sound_length(fields, 5) == 3


def test_settings_that_fit_no_memory_are_refused(tmp_path):
    config = Lorenz96Configuration(window=10**12)
    with pytest.raises(ConfigurationError, match=r"about .* PiB of memory.* most of it is for the output"):
        runs.run(Lorenz96Twin(), config, tmp_path / "run")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cycles": 5}, "discarded_cycles: 20 leaves nothing of 5 cycles"),
        ({"observation_interval": 9}, "window: 8 steps hold no observation"),
        ({"forcing": float("inf")}, "forcing: Input should be a finite number"),
    ],
)
def test_impossible_settings_are_named(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        build_configuration(Lorenz96Configuration, settings, "lorenz96")


def test_a_truth_that_blows_up_is_named():
    with pytest.raises(ConfigurationError, match="the truth is not finite after a spin-up"):
        Lorenz96Twin().start(Lorenz96Configuration(forcing=1e4, n=4))


@pytest.mark.slow
def test_the_analysis_is_better_than_the_forecast_and_a_resumed_run_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(lorenz96, "CYCLES_PER_CHUNK", 10)
    config = Lorenz96Configuration(cycles=30, discarded_cycles=10, impact_windows=2)

    def stop(finished, count):
        if finished == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.run(Lorenz96Twin(), config, tmp_path / "parts", stop)
    parts = runs.resume(tmp_path / "parts")
    whole = runs.run(Lorenz96Twin(), config, tmp_path / "whole")
    with xr.open_dataset(tmp_path / "whole" / "analysis.nc") as dataset:
        observed = int(np.isfinite(dataset["observation"][80:]).sum())
        costs = dataset["cost"].values
        found = impact_of_times(config, dataset.load(), 10, 30, 4)
    at = np.flatnonzero(np.isfinite(costs).any(axis=1))
    assert at.tolist() == list(range(7, 240, 8))  # at window ends
    last = [row[np.isfinite(row)][-1] for row in costs[at]]
    assert 0.6 < 2 * np.sum(last[10:]) / observed < 1.4
    assert found.windows == 4 and found.steps.tolist() == list(range(1, 9))
    assert found.change < 0 and 0.4 < found.impact.sum() / found.change < 1.6 and np.all(found.beneficial > 0.4)
    assert set(whole.figures) == {"overview", "search"}
    assert whole.scores.equals(parts.scores) and whole.counted == 20
    assert max(value(whole, "analysis")) < 0.6 < max(value(whole, "background")) < 1.2 < min(value(whole, "free run"))


def test_there_is_no_impact_where_no_window_is_verified():
    config = Lorenz96Configuration(**SMALL)
    assert impact_of_times(config, output(config), 5, 6, 3) is None
    assert impact_of_times(config, output(config), 0, 6, 0) is None
