"""Warnings of floods: probabilities from quantiles, and their verification."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("scores")
import xarray as xr
from scipy import stats

from diffassim import ShapeError
from diffassim.experiments.applications.discharge_output import PROBABILITIES
from diffassim.experiments.applications.discharge_warning_scores import (
    RATIOS,
    reliability,
    value_curve,
    warned_days,
    warning_results,
    warning_scores,
    warning_table,
)
from diffassim.experiments.rivers.discharge_warnings import default_thresholds, exceedance, with_exceedance

METHODS = ("climatology", "open loop", "assimilation")
SPREAD = {"climatology": 10.0, "open loop": 4.0, "assimilation": 2.0}


@pytest.mark.parametrize("law", [stats.uniform(1, 5), stats.expon(2, 3), stats.laplace(10, 2)])
@pytest.mark.parametrize("threshold", [3.0, 4.7, 12.0, 30.0])
def test_laws_with_straight_or_exponential_tails(law, threshold):
    p = np.linspace(0.01, 0.99, 99)
    found = exceedance(law.ppf(p), p, threshold)
    if law.dist.name == "uniform" or 0.01 < found < 0.99:  # straight between quantiles; a uniform law has no tail
        np.testing.assert_allclose(found, law.sf(threshold), atol=0.01)
    else:
        np.testing.assert_allclose(found, law.sf(threshold), rtol=1e-9)


def test_at_the_quantiles_it_is_exact_and_it_never_increases():
    q = np.sort(np.random.default_rng(0).gamma(1, 5, (7, 19)), axis=1)
    for k, p in enumerate(PROBABILITIES):
        for row in q:
            np.testing.assert_allclose(exceedance(row, PROBABILITIES, row[k]), 1 - p, rtol=1e-12)
    curve = np.array([exceedance(q, PROBABILITIES, c) for c in np.linspace(0, 100, 401)])
    assert (np.diff(curve, axis=0) <= 1e-15).all() and (curve >= 0).all() and (curve <= 1).all()
    assert curve[-1].max() < 0.01 and curve[-1].min() > 0  # tails do not end


def test_distributions_of_a_single_value_and_of_repeated_zeros():
    certain = np.full(19, 4.0)
    assert [float(exceedance(certain, PROBABILITIES, c)) for c in (3.9, 4.1)] == [1.0, 0.0]
    zeros = np.where(PROBABILITIES < 0.5, 0.0, PROBABILITIES)
    np.testing.assert_allclose(exceedance(zeros, PROBABILITIES, 0.6), 0.4, rtol=1e-12)
    assert float(exceedance(zeros, PROBABILITIES, -1.0)) == 1.0


def test_missing_quantiles_give_missing_probabilities_and_wrong_shapes_are_named():
    q = np.tile(PROBABILITIES, (2, 1))
    q[1, 4] = np.nan
    assert np.isnan(exceedance(q, PROBABILITIES, 0.5)).tolist() == [False, True]
    with pytest.raises(ShapeError, match=r"quantiles of shape \(2, 19\) and probabilities of shape \(18,\)"):
        exceedance(q, PROBABILITIES[1:], 0.5)


def test_thresholds_nobody_named_are_quantiles():
    discharge = np.append(np.random.default_rng(1).gamma(1, 30, 5000), np.nan)
    expected = np.nanquantile(discharge, [0.9, 0.95])
    np.testing.assert_allclose(default_thresholds(discharge), expected, rtol=1e-3)
    assert default_thresholds(np.full(9, 7.0)) == (7.0,)


def made_up(days=3000, seed=0):
    """Forecasts that are as uncertain as they say they are: y = center + spread * z, by method, on two leads."""
    rng = np.random.default_rng(seed)
    time = pd.date_range("2001-01-01", periods=days)
    y = 50 + 10 * rng.normal(size=days)
    center, quantile = [], []
    for method, spread in SPREAD.items():
        signal = np.sqrt(100 - spread**2)
        # A forecast with error variance spread^2 and the best linear center.
        noisy = 50 + (signal / 10) * ((y - 50) * signal / 10 + spread * rng.normal(size=days))
        center.append(np.full(days, 50.0) if method == "climatology" else noisy)
        quantile.append(center[-1][:, None] + spread * stats.norm.ppf(PROBABILITIES))
    ahead = np.stack([np.append(y[lead:], np.full(lead, np.nan)) for lead in (1, 2)], axis=1)
    shifted = [[np.concatenate([q[lead:], np.full((lead, 19), np.nan)]) for lead in (1, 2)] for q in quantile]
    dataset = xr.Dataset(
        {
            "observed": ("time", y), "verifying": (("time", "lead"), ahead),
            "quantile": (("time", "method", "lead", "probability"), np.moveaxis(shifted, 2, 0)),
        },
        {"time": time, "method": list(METHODS), "lead": [1, 2], "probability": PROBABILITIES},
    )  # fmt: skip
    return dataset, time[5:-5]


def test_forecasts_that_know_their_spread_are_reliable_and_the_sharper_ones_better():
    dataset, dates = made_up()
    dataset = with_exceedance(dataset, (60.0,))
    assert dataset["exceedance"].dims == ("time", "method", "lead", "threshold")
    scores = warning_scores(dataset, dates, 0.5)
    value = scores.set_index(["metric", "method", "lead"])["value"]
    for lead in (1, 2):
        for metric in ("brier_skill", "roc_area", "greatest_value"):
            assert value[metric, "assimilation", lead] > value[metric, "open loop", lead] + 0.02
        assert value["brier_skill", "climatology", lead] == 0
        np.testing.assert_allclose(value["event_frequency", "assimilation", lead], stats.norm.sf(1), atol=0.02)
    table = reliability(warned_days(dataset, dates, 1, 60.0), "assimilation")
    assert table["number"].sum() == len(dates)
    error = 4 * np.sqrt(0.25 / table["number"])
    assert ((table["observed"] - table["forecast"]).abs() < error).all()
    drawn = scores[scores["metric"].str.startswith("observed_frequency") & (scores["method"] == "assimilation")]
    assert drawn[drawn["lead"] == 1]["n"].sum() == len(dates)
    assert "Warnings: discharge > 60 m3/s on" in warning_table(scores, 0.5)


def test_scores_are_those_of_their_definitions():
    dataset, dates = made_up(400)
    dataset = with_exceedance(dataset, (60.0, 65.0))
    warned = warned_days(dataset, dates, 2, 65.0)
    p, o = warned.probability.sel({"method": "open loop"}).values, warned.event.values
    scores = warning_scores(dataset, dates, 0.3)
    own = scores[
        (scores["variable"] == "discharge > 65 m3/s") & (scores["method"] == "open loop") & (scores["lead"] == 2)
    ]
    value = own.set_index("metric")["value"]
    np.testing.assert_allclose(value["brier"], np.mean((p - o) ** 2), rtol=1e-12)
    hits, alarms = ((p >= 0.3) & (o == 1)).sum(), (p >= 0.3).sum()
    np.testing.assert_allclose(value["hit_rate"], hits / o.sum(), rtol=1e-12)
    np.testing.assert_allclose(value["false_alarm_ratio"], 1 - hits / alarms, rtol=1e-12)
    pairs = p[o == 1][:, None] - p[o == 0]
    np.testing.assert_allclose(value["roc_area"], np.mean(pairs > 0) + np.mean(pairs == 0) / 2, rtol=1e-12)
    expected = [relative_value(p, o, ratio) for ratio in RATIOS]
    np.testing.assert_allclose(value_curve(warned).sel({"method": "open loop"}), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(value["greatest_value"], max(expected), rtol=1e-9)
    assert value["cost_loss_ratio"] == RATIOS[int(np.argmax(expected))]


def relative_value(p, o, ratio):
    """Expenses of those who act at their ratio, between those without and with perfect forecasts; the loss is one."""
    acts = p >= ratio
    expense = np.mean(np.where(acts, ratio, o))
    climate = min(ratio, o.mean())
    return (climate - expense) / (climate - ratio * o.mean())


def test_perfect_warnings_have_all_the_value():
    dataset, dates = made_up(300)
    exact = dataset["verifying"].values[:, None, :, None] + 0 * dataset["quantile"].values
    dataset["quantile"] = (dataset["quantile"].dims, exact)
    scores = warning_scores(with_exceedance(dataset, (60.0,)), dates, 0.5)
    value = scores[scores["lead"] == 1].set_index(["metric", "method"])["value"]
    for metric, expected in (("brier", 0), ("roc_area", 1), ("hit_rate", 1), ("false_alarm_ratio", 0)):
        assert value[metric, "assimilation"] == expected
    np.testing.assert_allclose(value["greatest_value", "assimilation"], 1, rtol=1e-12)


def test_where_nothing_happens_the_scores_are_not_defined_and_said_so():
    dataset, dates = made_up(200)
    dataset = dataset.sel(lead=[1])
    scores, table, drawn = warning_results(with_exceedance(dataset, (500.0,)), dates, 0.5)
    value = scores[scores["lead"] == 1].set_index(["metric", "method"])["value"]
    assert not {"roc_area", "hit_rate", "greatest_value", "cost_loss_ratio"} & set(value.index.get_level_values(0))
    assert np.isfinite(scores["value"]).all()  # others would count as failures of the run
    assert value["brier", "assimilation"] < 1e-6
    assert "on 0 of" in table and "-/-" in table
    titles = [axes.get_title(loc="left")[:3] for part in drawn.subfigs for axes in part.axes]
    assert [title for title in titles if title] == ["(a)", "(b)", "(c)"]  # of one lead


def test_forecasts_that_failed_are_not_left_out_of_the_scores():
    dataset, dates = made_up(200)
    dataset = with_exceedance(dataset, (60.0,))
    dataset["exceedance"].loc[{"method": "open loop"}] = np.nan
    scores = warning_scores(dataset, dates, 0.5)
    assert np.isnan(scores[(scores["metric"] == "brier") & (scores["method"] == "open loop")]["value"]).all()


@pytest.mark.slow
def test_the_figure_is_of_the_highest_threshold_with_enough_events(tmp_path):
    dataset, dates = made_up(800)
    _, table, drawn = warning_results(with_exceedance(dataset, (60.0, 75.0)), dates, 0.5)
    assert table.count("Warnings: ") == 2
    legends = [text.get_text() for sub in drawn.subfigs for axes in sub.axes for text in
               (axes.get_legend().get_texts() if axes.get_legend() else [])]  # fmt: skip
    assert any("60 m" in text for text in legends)
    titles = [axes.get_title(loc="left") for sub in drawn.subfigs for axes in sub.axes]
    assert [title[:3] for title in titles if title] == ["(a)", "(b)", "(c)", "(d)", "(e)"]
    drawn.savefig(tmp_path / "warnings.png")
