"""The discharge analysis, its reference forecasts, and the Fulda experiment."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import diffassim as da
from diffassim.core import tree
from diffassim.experiments.applications.discharge_analysis import (
    DischargeAnalysis,
    ErrorStatistics,
    analyze_days,
    issue_days,
)
from diffassim.experiments.applications.discharge_calibration import (
    _bounded,
    _objective,
    _unbounded,
    calibrate,
    open_loop,
)
from diffassim.experiments.applications.discharge_references import (
    Dressing,
    autoregression,
    climatology,
    fit_autoregression,
    persistence,
)
from diffassim.experiments.applications.fulda import METHODS, Fulda, FuldaConfiguration
from diffassim.experiments.framework.configuration import build_configuration
from diffassim.experiments.framework.run import run
from diffassim.models import GR4J, CatchmentForcing

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
    model, observed, issued = catchment
    gaps = observed.copy()
    gaps[issued - 2] = np.nan  # every window's first day (and, where windows overlap, others)
    _, forecasts, code = analyze_days(analysis(model, persistence=(0.5, 0.2)), windows(catchment, gaps))
    assert np.all(np.isfinite(forecasts)) and not np.any(np.asarray(code) == da.Result.NON_FINITE)


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


@pytest.mark.slow
def test_the_main_job_beats_the_references_at_every_lead(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the plotting and file libraries
        results = run(Fulda(), FuldaConfiguration(), tmp_path / "run")
    scores = results.scores.pivot_table(index=["metric", "method"], columns="lead", values="value")
    assimilation = scores.xs("assimilation", level="method")
    for method in set(METHODS) - {"assimilation"}:
        assert (assimilation.loc["nse"] > scores.loc[("nse", method)]).all(), method
        assert (assimilation.loc["crps"] < scores.loc[("crps", method)]).all(), method
    assert assimilation.loc["coverage_90"].between(0.85, 0.95).all()
    assert (pd.Series(results.scores["n"]) == 1827).all()
    assert (tmp_path / "run" / "forecasts.png").stat().st_size > 50_000
