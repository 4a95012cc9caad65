"""The paired test of two models, its intervals, and the monitoring of departures."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from diffassim.experiments.loop.comparison import compare, losses_of, model_scores, rmse_difference
from diffassim.experiments.loop.learner import Departures
from diffassim.experiments.loop.monitoring import drift_alarms, feedback, reference_of

DAYS = pd.date_range("2001-01-01", periods=400, name="time")


def losses(model, error, scale=1.0, leads=(1, 2)):
    observed = np.zeros((len(error), 1))
    forecast = np.repeat(error[:, None, None], len(leads), axis=1)
    return losses_of(model, DAYS[: len(error)], leads, observed, forecast, scale * np.abs(forecast))


def test_the_same_forecasts_are_as_good_and_few_times_say_nothing():
    error = np.random.default_rng(0).normal(size=400)
    both = pd.concat([losses(1, error), losses(2, error)])
    assert compare(both, 2, 1)[:4] == (0.0, 0.0, 0.0, 0.5)
    assert np.isnan(compare(both[both.index < DAYS[20]], 2, 1).confidence)
    assert all(np.isnan(rmse_difference(both[both.index < DAYS[20]], 1, 2, 1, 5, 0)))


def test_the_test_is_that_of_a_mean_where_times_are_independent():
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=400), rng.normal(size=400)
    both = pd.concat([losses(1, first), losses(2, 0.9 * second)])
    d = (np.abs(0.9 * second) - np.abs(first)) / np.abs(first).mean()
    found = compare(both, 2, 1)
    assert found.difference == pytest.approx(d.mean()) and found.n == 400
    half = 1.966 * d.std(ddof=1) / 20
    assert found.upper - found.difference == pytest.approx(half, rel=0.25)
    turned = compare(both, 1, 2)
    assert turned.confidence == pytest.approx(1 - found.confidence, abs=0.05)


def test_only_common_times_count():
    error = np.random.default_rng(2).normal(size=400)
    both = pd.concat([losses(1, error), losses(2, error[:200])])
    assert compare(both, 2, 1).n == 200


@pytest.mark.slow
def test_intervals_of_the_rmse_hold_the_difference_that_is_there():
    """Errors with a memory of some days; the true difference is known."""
    held = 0
    for seed in range(60):
        noise = np.random.default_rng(seed).normal(size=(2, 400))
        for k in range(1, 400):
            noise[:, k] += 0.5 * noise[:, k - 1]
        both = pd.concat([losses(1, noise[0]), losses(2, 1.2 * noise[1])])
        _, lower, upper = rmse_difference(both, 1, 2, 1, 15, 0)
        held += lower <= 0.2 / (1 - 0.25) ** 0.5 <= upper
    assert held >= 50  # 95 percent of 60, less what blocks of a short record miss and chance


def test_scores_are_those_of_their_definitions():
    rng = np.random.default_rng(3)
    y, f = rng.normal(size=(2, 400))
    table = losses_of(7, DAYS, (1,), y[:, None], f[:, None, None], np.abs(f - y)[:, None, None])
    found = model_scores(table, "q").set_index("metric")["value"]
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean((f - y) ** 2)))
    assert found["nse"] == pytest.approx(1 - np.sum((f - y) ** 2) / np.sum((y - y.mean()) ** 2))
    several = losses_of(7, DAYS, (1,), np.stack([y, y], 1), np.stack([f, f], 1)[:, None], np.abs(f - y)[:, None, None])
    assert set(model_scores(several, "x")["metric"]) == {"rmse", "crps"}
    y[5] = np.nan
    assert len(losses_of(7, DAYS, (1,), y[:, None], f[:, None, None], np.abs(f - y)[:, None, None])) == 399


@pytest.mark.slow
def test_drift_is_found_with_few_false_alarms_also_where_departures_remember():
    alarms = found = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        z = rng.normal(size=1000)
        for k in range(1, 1000):
            z[k] = 0.7 * z[k - 1] + (1 - 0.49) ** 0.5 * z[k]
        statistic = pd.Series(np.exp(z), pd.date_range("2001-01-01", periods=1000))  # heavy tails
        reference = reference_of(Departures(pd.DataFrame(), 5.0, statistic[:400]))
        alarms += bool(drift_alarms(statistic[400:], reference, 10_000.0))
        found += bool(drift_alarms(4 * statistic[400:], reference, 10_000.0))
    assert found == 40 and alarms <= 8  # 600 times, 10,000 apart: 2.4 expected, and the reference is estimated


def test_feedback_without_any_departure_changes_nothing():
    empty = pd.DataFrame({"y": np.full(50, np.nan)}, DAYS[:50])
    reference = reference_of(Departures(empty, 5.0, pd.Series(np.ones(50), DAYS[:50])))
    told = feedback(Departures(empty, 5.0, empty["y"]), reference, 0.0, 1000.0, empty.notna())
    assert told["spread"] == 1.0 and not told["drift"]
    assert reference_of(Departures(empty, 5.0, empty["y"]))["quantiles"] == []
