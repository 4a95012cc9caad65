"""The discharge analysis, its reference forecasts, and the Fulda experiment."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import diffassim as da
from diffassim.core import tree
from diffassim.experiments.applications.fulda import METHODS, Fulda, FuldaConfiguration
from diffassim.experiments.framework.configuration import build_configuration
from diffassim.experiments.framework.run import run
from diffassim.experiments.rivers import discharge_analysis, discharge_folds
from diffassim.experiments.rivers.discharge_analysis import (
    DischargeAnalysis,
    ErrorStatistics,
    analyze_days,
    issue_days,
)
from diffassim.experiments.rivers.discharge_calibration import (
    _bounded,
    _objective,
    _unbounded,
    calibrate,
    open_loop,
)
from diffassim.experiments.rivers.discharge_combination import Combination, fit_persistence
from diffassim.experiments.rivers.discharge_folds import forecast_block
from diffassim.experiments.rivers.discharge_record import Record, blocks_of_days
from diffassim.experiments.rivers.discharge_references import (
    Dressing,
    autoregression,
    climatology,
    fit_autoregression,
    persistence,
)
from diffassim.models import GR4J, CatchmentForcing
from diffassim.plotting.discharge import _name_what_is_cut

LEADS = (1, 3)
WINDOW = 3


def weather(days, seed=0):
    rng = np.random.default_rng(seed)
    rain = rng.gamma(0.5, 8.0, days) * (rng.uniform(size=days) < 0.5)
    return CatchmentForcing(jnp.asarray(rain), jnp.full(days, 1.5), jnp.asarray(8 + 4 * rng.normal(size=days)))


@pytest.fixture(scope="module")
def catchment():
    """A model, an observed record that another model made, and the days on which forecasts are issued."""
    forcing = weather(200)
    truth = GR4J(x1=250.0, x2=0.5, x3=70.0, x4=2.1, forcing=forcing)
    observed = np.array(open_loop(truth).discharge[1:])
    return GR4J(x1=300.0, x3=80.0, x4=1.8, forcing=forcing), observed, np.arange(100, 190)


def windows(catchment, observed=None):
    model, record, issued = catchment
    record = record if observed is None else observed
    return issue_days(
        open_loop(model), jnp.asarray(record), model.forcing, jnp.asarray(issued), WINDOW, max(LEADS)
    )  # fmt: skip


def analysis(model, statistics=None, persistence=(0.0, 0.0)):
    statistics = jax.tree.map(jnp.asarray, ErrorStatistics() if statistics is None else statistics)
    return DischargeAnalysis(model, statistics, jnp.asarray(persistence), LEADS)


@pytest.mark.slow
def test_without_background_errors_it_is_the_open_loop_with_ar1(catchment):
    model, observed, issued = catchment
    rho = 0.6
    nothing = ErrorStatistics(
        production=1e-6, routing=1e-6, snow=1e-6, hydrograph=1e-6, temperature=1e-6, precipitation=1e-6
    )
    method = analysis(model, nothing, [rho**lead for lead in LEADS])
    _, forecasts, code = analyze_days(method, windows(catchment))
    simulated = np.asarray(open_loop(model).discharge[1:])
    expected = [autoregression(simulated, observed, issued, lead, rho) for lead in LEADS]
    # Stores keep an uncertainty of 1e-3 mm, so that an empty one can be whitened.
    np.testing.assert_allclose(forecasts, np.stack(expected, axis=1), atol=3e-3)
    assert np.all(np.asarray(code) == da.Result.CONVERGED)


def test_without_observations_the_forecast_is_the_open_loop(catchment):
    model, observed, issued = catchment
    states, forecasts, _ = analyze_days(
        analysis(model, persistence=(0.5, 0.2)), windows(catchment, np.full_like(observed, np.nan))
    )
    simulated = np.asarray(open_loop(model).discharge[1:])
    np.testing.assert_allclose(states.discharge, simulated[issued], rtol=1e-12)
    np.testing.assert_allclose(forecasts, np.stack([simulated[issued + lead] for lead in LEADS], 1), rtol=1e-12)


def test_the_analysis_comes_closer_to_the_observations_and_its_forecasts_to_the_future(catchment):
    model, observed, issued = catchment
    states, forecasts, _ = analyze_days(analysis(model), windows(catchment))
    simulated = np.asarray(open_loop(model).discharge[1:])
    assert np.mean((states.discharge - observed[issued]) ** 2) < 0.5 * np.mean((simulated - observed)[issued] ** 2)
    for i, lead in enumerate(LEADS):
        valid = issued + lead
        assert np.mean((forecasts[:, i] - observed[valid]) ** 2) < np.mean((simulated - observed)[valid] ** 2)


def test_missing_days_are_as_if_they_were_not_in_the_window(catchment):
    """J of a window with a gap is the cost of the known days alone, of which the one after the gap has no memory."""
    model, _, _ = catchment
    method = analysis(model, ErrorStatistics(memory=0.4, timing=0.7))
    day = jax.tree.map(lambda leaf: leaf[5], windows(catchment))
    gap = day.replace(discharge=jnp.asarray([2.0, jnp.nan, 3.0]))
    cost, s = method.cost(gap), method.statistics
    (stream,) = cost.observations
    known = jnp.asarray([0, 2])
    alone = da.Observations(
        stream.values[known], stream.steps[known], operator=stream.operator, error=stream.error,
        where=jax.tree.map(lambda leaf: leaf[known], stream.where),
    )  # fmt: skip
    v = jax.tree.map(lambda leaf: leaf + 0.3, cost.control())
    np.testing.assert_allclose(cost(v), cost.replace(observations=(alone,))(v), rtol=1e-13)
    remembered, std = stream.where
    np.testing.assert_array_equal(remembered[known], 0)  # no day here has a known day before it
    expected = s.discharge + s.discharge_share * np.array([2.0, 3.0])
    np.testing.assert_allclose(std[known], expected, rtol=1e-14)


def test_gaps_in_the_record_leave_every_forecast_finite(catchment):
    model, observed, issued = catchment
    gaps = observed.copy()
    gaps[issued - 2] = np.nan  # every window's first day (and, where windows overlap, others)
    _, forecasts, code = analyze_days(analysis(model, persistence=(0.5, 0.2)), windows(catchment, gaps))
    assert np.all(np.isfinite(forecasts)) and not np.any(np.asarray(code) == da.Result.NON_FINITE)


def test_a_window_that_reaches_before_the_record_is_refused(catchment):
    model, record, _ = catchment
    with pytest.raises(da.DataError, match="a window of 3 days that ends on day 1 reaches before the record"):
        issue_days(open_loop(model), jnp.asarray(record), model.forcing, jnp.arange(1, 9), 3, 3)


def test_a_day_of_one_window_has_no_other_forcing_than_the_window(catchment):
    model, _, _ = catchment
    day = jax.tree.map(lambda leaf: leaf[0], windows(catchment))
    inside = analysis(model).cost(day).model
    assert inside.forced_steps() == (0, WINDOW)
    with pytest.raises(da.DataError, match="has forcing for steps 0 to 2"):
        da.rollout(inside, analysis(model).cost(day).state(analysis(model).cost(day).control()), WINDOW + 1)


@pytest.mark.slow
def test_the_gradient_of_the_objective_passes_through_the_analysis(catchment):
    model, observed, issued = catchment
    days = jax.tree.map(lambda leaf: leaf[:12], windows(catchment))
    targets = np.stack([observed[issued[:12] + lead] for lead in LEADS], axis=1)
    prior = _unbounded(jax.tree.map(jnp.asarray, ErrorStatistics()))
    trainable = {"statistics": prior, "persistence": jnp.asarray([0.6, 0.2])}

    def objective(u):
        return _objective(model.replace(forcing=None), LEADS, np.array([0.1, 0.2]), prior, u, days, targets)

    gradient = jax.jit(jax.grad(objective))(trainable)
    assert float(tree.norm(gradient["statistics"])) > 1e-3
    h, evaluate = 1e-4, jax.jit(objective)
    for name in ("routing", "timing", "memory", "precipitation"):
        shifted = [
            {**trainable, "statistics": prior.replace(**{name: getattr(prior, name) + s * h})} for s in (1, -1)
        ]  # fmt: skip
        difference = (evaluate(shifted[0]) - evaluate(shifted[1])) / (2 * h)
        # The analyses stop at |dJ/dv| <= 1e-2 and at thresholds of the model.
        np.testing.assert_allclose(getattr(gradient["statistics"], name), difference, rtol=0.05, atol=2e-3)


def test_transformed_statistics_return():
    statistics = jax.tree.map(jnp.asarray, ErrorStatistics())
    back = _bounded(_unbounded(statistics))
    for name, value in vars(statistics).items():
        np.testing.assert_allclose(getattr(back, name), value, rtol=1e-12)


@pytest.mark.slow
def test_calibration_finds_the_parameters_of_a_perfect_model():
    forcing = weather(500, seed=3)
    truth = GR4J(x1=280.0, x2=0.4, x3=75.0, x4=2.2, melt_factor=3.3, melt_temperature=0.2, forcing=forcing)
    observed = np.array(open_loop(truth).discharge[1:])
    observed[200:210] = np.nan
    found = calibrate(forcing, observed, 150, 500)
    simulated = np.asarray(open_loop(found).discharge[1:])
    assert np.sqrt(np.nanmean((simulated - observed)[150:] ** 2)) < 0.02
    np.testing.assert_allclose([found.x1, found.x3, found.x4], [280.0, 75.0, 2.2], rtol=0.05)


def test_autoregression_recovers_its_coefficient_with_gaps():
    rng = np.random.default_rng(0)
    errors = np.zeros(20_000)
    for k in range(1, len(errors)):
        errors[k] = 0.7 * errors[k - 1] + rng.normal()
    errors[::50] = np.nan
    np.testing.assert_allclose(fit_autoregression(errors), 0.7, atol=0.02)


def test_autoregression_of_a_missing_observation_is_the_simulation():
    observed = np.array([1.0, np.nan, 3.0])
    np.testing.assert_array_equal(autoregression(np.ones(3), observed, np.array([0, 1]), 1, 0.5), [1.0, 1.0])


def test_persistence_is_the_last_observation():
    observed = np.array([1.0, np.nan, np.nan, 4.0])
    np.testing.assert_array_equal(persistence(observed, np.arange(4)), [1.0, 1.0, 1.0, 4.0])


def test_climatology_is_the_mean_of_the_season_around_new_year():
    day_of_year = np.tile(np.arange(1, 366), 3)
    observed = np.where((day_of_year > 350) | (day_of_year <= 16), 5.0, 1.0)
    found = climatology(observed, day_of_year, np.arange(len(observed)), np.array([1, 180]))
    np.testing.assert_allclose(found, [5.0, 1.0], atol=0.02)


def test_dressing_covers_what_it_claims_where_errors_grow_with_the_flow():
    rng = np.random.default_rng(1)
    forecast = rng.gamma(1.0, 3.0, 20_000)
    observed = np.maximum(forecast + (0.1 + 0.2 * forecast) * rng.normal(size=forecast.size), 0)
    probabilities = np.array([0.05, 0.5, 0.95])
    half = forecast.size // 2
    quantiles = Dressing.fit(forecast[:half], observed[:half], probabilities)(forecast[half:])
    for part in (forecast[half:] < 1, forecast[half:] > 6, slice(None)):
        inside = (observed[half:] >= quantiles[:, 0]) & (observed[half:] <= quantiles[:, 2])
        np.testing.assert_allclose(np.mean(inside[part]), 0.9, atol=0.035)


def test_climatology_of_a_season_that_was_never_observed_is_the_mean_of_all():
    observed, day_of_year = np.full(365, np.nan), np.arange(1, 366)
    observed[:10] = 3.0
    np.testing.assert_array_equal(climatology(observed, day_of_year, np.arange(365), np.array([5, 200])), [3.0, 3.0])


def forecasts_with_errors(n, seed, std=(0.6, 0.5)):
    """A flow, and forecasts of it with independent errors, for two leads; they vary a little more than they should."""
    rng = np.random.default_rng(seed)
    flow = rng.gamma(1.0, 1.0, (n, 2))
    return flow, *(1 + 1.1 * (flow + s * rng.normal(size=(n, 2)) - 1) / (1 + s**2) for s in std)


def test_a_combination_varies_as_its_reference_does():
    flow, reference, forecast = forecasts_with_errors(500, 0)
    combination = Combination.fit(forecast, reference, flow)
    assert ((combination.stretch > 1) & (combination.weight > 0.5) & (combination.weight < 0.7)).all()
    combined = combination.center + combination.stretch * (
        reference + combination.weight * (forecast - reference) - combination.center
    )
    np.testing.assert_allclose(combined.std(axis=0), reference.std(axis=0), rtol=1e-12)
    np.testing.assert_allclose(combination(forecast, reference), np.maximum(combined, 0), rtol=1e-12)


def test_a_combination_that_varies_more_than_its_reference_is_left_alone():
    flow, _, forecast = forecasts_with_errors(300, 6)
    smooth = flow.mean() + 0.5 * (flow - flow.mean())
    combination = Combination.fit(np.maximum(forecast, 0), smooth, flow)
    np.testing.assert_array_equal(combination.stretch, 1)


def test_a_combination_is_better_than_its_reference_on_other_days():
    flow, reference, forecast = forecasts_with_errors(500, 0)
    combination = Combination.fit(forecast, reference, flow)
    flow, reference, forecast = forecasts_with_errors(4000, 1)
    combined = combination(forecast, reference)
    for i in range(2):
        error = [np.mean((f[:, i] - flow[:, i]) ** 2) for f in (combined, reference)]
        assert error[0] < error[1]
        assert abs(combined[:, i].std() / reference[:, i].std() - 1) < 0.02


def test_a_combination_of_equal_forecasts_is_the_forecast():
    flow, reference, _ = forecasts_with_errors(200, 2)
    reference = np.maximum(reference, 0)
    combination = Combination.fit(reference, reference, flow)
    np.testing.assert_allclose(combination(reference, reference), reference, rtol=1e-13, atol=1e-15)


def test_a_forecast_without_information_gets_no_weight_and_missing_days_none():
    flow, reference, _ = forecasts_with_errors(2000, 3)
    noise = reference + 3 * np.random.default_rng(4).normal(size=flow.shape)
    combination = Combination.fit(noise, reference, flow)
    np.testing.assert_allclose(combination.weight, 0.25, atol=0.02)  # halfway between none and equal weights
    gaps = flow.copy()
    gaps[::3] = np.nan
    kept = np.isfinite(gaps[:, 0])
    for one, other in zip(
        Combination.fit(noise, reference, gaps), Combination.fit(noise[kept], reference[kept], flow[kept]), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_persistence_of_what_is_unexplained_is_a_least_squares_slope():
    rng = np.random.default_rng(5)
    forecast, unexplained = rng.normal(size=(2, 300, 2))
    observed = forecast + unexplained * [0.8, 0.3]
    observed[::7] = np.nan
    np.testing.assert_allclose(fit_persistence(forecast, unexplained, observed), [0.8, 0.3], rtol=1e-12)
    np.testing.assert_array_equal(fit_persistence(forecast, 0 * unexplained, observed), 0)


def test_a_block_is_forecast_by_a_model_that_has_not_seen_it(catchment, monkeypatch):
    model, observed, _ = catchment
    record = SimpleNamespace(discharge=observed, forcing=model.forcing, calibration=(20, 180))
    seen = []

    def calibrated(forcing, discharge, first, last):
        seen.append(discharge)
        return model

    monkeypatch.setattr(discharge_folds, "calibrate", calibrated)
    monkeypatch.setattr(discharge_analysis, "BATCH", 90)  # compiled for the tests above
    statistics = jax.tree.map(jnp.asarray, ErrorStatistics())
    found = forecast_block(record, statistics, (2, 62), window=WINDOW, leads=LEADS)
    assert np.isnan(seen[0][2:62]).all() and np.array_equal(seen[0][62:], observed[62:])
    simulated = np.asarray(open_loop(model).discharge[1:])
    np.testing.assert_allclose(found.open_loop[1:, 0], simulated[3:62], rtol=1e-12)
    # The first window ends on day 2, so that days 3 (lead 1) and 5 (lead 3) are the first with a forecast.
    assert np.isfinite(found.forecast).argmax(axis=0).tolist() == [1, 3]
    states, forecasts, _ = analyze_days(analysis(model), windows(catchment))
    issued = np.arange(100, 190)
    later = forecast_block(record, statistics, (104, 160), window=WINDOW, leads=LEADS)
    for i, lead in enumerate(LEADS):
        np.testing.assert_allclose(later.forecast[:, i], np.asarray(forecasts)[4 - lead : 60 - lead, i], rtol=1e-9)
        left = observed[issued] - np.asarray(states.discharge)
        np.testing.assert_allclose(later.unexplained[:, i], left[4 - lead : 60 - lead], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("days", [365, 366, 500, 730, 1461, 3653, 20_000])
def test_blocks_cover_the_calibration_once(days):
    blocks = blocks_of_days(7, 7 + days)
    assert 2 <= len(blocks) <= 6
    assert [k for block in blocks for k in range(*block)] == list(range(7, 7 + days))


SHORT_PERIODS = {
    "calibration_start": "2001-01-01", "calibration_end": "2002-12-31",
    "verification_start": "2003-01-01", "verification_end": "2003-12-31",
}  # fmt: skip


def record_of(tmp_path, change=lambda q: q, **settings):
    """The record of a file with four years of made-up weather and discharge."""
    dates = pd.date_range("2000-01-01", "2003-12-31")
    rng = np.random.default_rng(0)
    flow = pd.Series(change(5 + rng.gamma(1.0, 4.0, len(dates))), dates)
    table = pd.DataFrame({"date": dates.strftime("%d.%m.%Y"), "Q": flow.to_numpy(), "Prec": 2.0, "tmean": 8.0})
    table.to_csv(tmp_path / "catchment.csv", index=False)
    return Record(FuldaConfiguration(file=tmp_path / "catchment.csv", **(SHORT_PERIODS | settings)))


def where(condition):
    return lambda q: np.where(condition(np.arange(len(q))), np.nan, q)


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (lambda q: 0 * q + 7, {}, r"calibration: discharge is constant \(7 m3/s\)"),
        (lambda q: 0 * q, {}, r"calibration: discharge is constant \(0 m3/s\)"),
        (lambda q: np.nan * q, {}, "catchment.csv: all 1461 values of Q are missing"),
        (where(lambda k: k < 1096), {}, "calibration: discharge is known on 0 days"),
        (where(lambda k: k % 20 > 0), {}, "calibration: discharge is known on 36 days of .*; at least 100"),
        (where(lambda k: k % 7 > 0), {}, "calibration: discharge is known on 0 pairs of days 1 day"),
        (where(lambda k: k >= 1096), {}, "verification: discharge is known on 0 days"),
        (where(lambda k: (k >= 1096) & (k % 4 > 0)), {"leads": (1,)}, "verification: discharge is known on 0 pairs"),
        (lambda q: np.where(np.arange(len(q)) >= 1096, 3.0, q), {}, "verification: discharge is constant"),
        (lambda q: q, {"calibration_end": "2001-01-06"}, "calibration: 6 days are too few"),
    ],
)
def test_a_record_that_cannot_carry_the_fit_is_refused_before_anything_is_computed(tmp_path, change, settings, message):
    with pytest.raises(da.DataError, match=message):
        record_of(tmp_path, change, **settings)


def test_a_missing_year_is_no_obstacle(tmp_path):
    record = record_of(tmp_path, where(lambda k: (k >= 366) & (k < 731)))
    assert np.isnan(record.discharge[slice(*blocks_of_days(*record.calibration)[0])]).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 0}, "window: Input should be greater than or equal to 1"),
        ({"window": "3 hours"}, "window: found the unit 'hours', expected 'days'"),
        ({"leads": [2, 1]}, "leads: .* must increase"),
        ({"verification_start": "1983-06-01"}, "verification_start: 1983-06-01 is not after the calibration"),
        ({"calibration_end": "1979-01-01"}, "calibration_end: 1979-01-01 is not after"),
        ({"area": -1.0}, "area: Input should be greater than 0"),
    ],
)
def test_impossible_settings_are_named(settings, message):
    with pytest.raises(da.ConfigurationError, match=message):
        build_configuration(FuldaConfiguration, settings, "fulda")


def test_periods_outside_of_the_record_are_named(tmp_path):
    config = FuldaConfiguration(verification_end="1999-01-01")
    with pytest.raises(da.DataError, match="runs from 1979-01-01 to 1988-12-31 and does not hold 1999-01-01"):
        run(Fulda(), config, tmp_path / "run")


def test_what_a_figure_cuts_off_is_written_at_its_edge():
    axes = Figure().subplots()
    axes.plot([1, 2, 3], [0.95, 0.93, 0.9])
    axes.plot([1, 2, 3], [0.8, 0.31, -4.2])
    _name_what_is_cut(axes)
    assert [text.get_text() for text in axes.texts] == ["below 0.6, as numbers:", "0.31", "-4.20"]
    assert 0.5 < axes.get_ylim()[0] < 0.6
    np.testing.assert_array_equal(axes.lines[1].get_ydata(), [0.8, np.nan, np.nan])
    whole = Figure().subplots()
    whole.plot([1, 2], [0.9, 0.7])
    _name_what_is_cut(whole)
    assert not whole.texts


@pytest.mark.slow
def test_the_main_job_beats_the_references_at_every_lead(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the plotting and file libraries
        results = run(Fulda(), FuldaConfiguration(), tmp_path / "run")
    scores = results.scores.pivot_table(index=["metric", "method"], columns="lead", values="value")
    assimilation = scores.xs("assimilation", level="method")
    for method in set(METHODS) - {"assimilation"}:
        assert (assimilation.loc["nse"] >= scores.loc[("nse", method)]).all(), method
        assert (assimilation.loc["kge"] >= scores.loc[("kge", method)]).all(), method
        assert (assimilation.loc["crps"] < scores.loc[("crps", method)]).all(), method
    assert assimilation.loc["coverage_90"].between(0.85, 0.95).all()
    assert (results.scores.loc[results.scores["variable"] == "discharge", "n"] == 1827).all()
    for name in ("forecasts", "warnings"):
        assert (tmp_path / "run" / f"{name}.png").stat().st_size > 50_000
    for variable in ("discharge > 58.7 m3/s", "discharge > 86.5 m3/s"):  # 10 and 5 % of the calibration days
        warned = results.scores[results.scores["variable"] == variable].set_index(["metric", "method", "lead"])["value"]
        for lead in (1, 2, 3, 5):
            skill = warned["brier_skill", "assimilation", lead]
            assert skill > 0.6 and skill > warned["brier_skill", "persistence", lead] + 0.1
            assert warned["roc_area", "assimilation", lead] > 0.97
