"""Fields from a few points: the model, the filter, what the choice may see, and the whole application."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("xarray")
pytest.importorskip("pydantic")

import xarray as xr
from matplotlib.figure import Figure

from diffassim.core.errors import ConfigurationError, DataError
from diffassim.experiments.applications import field_choice
from diffassim.experiments.applications.field_choice import Training, choose_settings, interval_factors
from diffassim.experiments.applications.field_model import FieldModel, FieldSettings, annual_waves
from diffassim.experiments.applications.field_network import UNRESOLVED, PointNetwork
from diffassim.experiments.applications.field_record import FieldRecord
from diffassim.experiments.applications.field_references import (
    damping,
    inverse_distance,
    monthly_means,
    optimal_interpolation,
    pattern_fit,
)
from diffassim.experiments.applications.sea_surface import SeaSurface, SeaSurfaceConfiguration, draw_points
from diffassim.experiments.framework.configuration import build_configuration
from diffassim.experiments.framework.run import run

MONTHS = 54


def sea(seed: int = 0, months: int = MONTHS) -> FieldRecord:
    """Return fields with a yearly wave, two persistent patterns, a rough remainder and some land."""
    rng = np.random.default_rng(seed)
    latitude, longitude = np.linspace(-5, 5, 5), np.arange(0, 360, 15.0)
    wet = np.ones((5, 24), bool)
    wet[1:3, 4:7] = False
    times = pd.date_range("2006-04-15", periods=months, freq="MS")
    record = FieldRecord(times, latitude, longitude, wet, np.zeros((months, int(wet.sum()))))
    x, y = np.deg2rad(record.places[:, 0]), record.places[:, 1] / 5
    E = np.stack([np.sin(x), np.cos(2 * x) * (1 + y / 2)])
    a, rest = np.zeros((months, 2)), np.zeros(record.values.shape)
    for k in range(1, months):
        a[k] = 0.85 * a[k - 1] + 0.5 * rng.normal(size=2)
        rest[k] = 0.6 * rest[k - 1] + 0.15 * rng.normal(size=rest.shape[1])
    year = np.cos(2 * np.pi * np.arange(months) / 12)[:, None] * (1 + y)
    return record._replace(values=300 + 3 * np.cos(x) + year + a @ E + rest)


def learned(settings: FieldSettings | None = None, months: int = 36) -> tuple[FieldModel, np.ndarray]:
    """Return a model, and the departures from its cycle."""
    record = sea()
    settings = FieldSettings(patterns=3) if settings is None else settings
    model = FieldModel.learn(settings, record.times, record.values, np.arange(months), record.places)
    return model, record.values - model.climatology(record.times)


def test_a_record_leaves_out_cells_with_gaps_and_goes_back_to_the_grid():
    values = np.arange(24.0).reshape(2, 3, 4)
    values[0, 1, 2] = np.nan
    coordinates = {"time": pd.date_range("2000", periods=2), "latitude": [0.0, 1, 2], "longitude": [0.0, 1, 2, 3]}
    record = FieldRecord.from_array("field", xr.DataArray(values, coordinates, ["time", "latitude", "longitude"]))
    assert record.values.shape == (2, 11)
    assert [2.0, 1.0] not in record.places.tolist()
    back = record.on_grid(record.values)
    assert np.isnan(back[:, 1, 2]).all()
    np.testing.assert_array_equal(back[:, record.wet], values[:, record.wet])
    nothing = xr.DataArray(np.full((2, 3, 4), np.nan), coordinates, ["time", "latitude", "longitude"])
    with pytest.raises(DataError, match="no cell"):
        FieldRecord.from_array("field", nothing)


def test_patterns_have_unit_amplitudes_and_are_orthogonal_to_the_remainder():
    model, departures = learned()
    known = departures[:36]
    a = known @ model.patterns.T / np.sum(model.patterns**2, axis=1)
    np.testing.assert_allclose(a.T @ a / 36, np.eye(3), atol=1e-12)
    np.testing.assert_allclose((known - a @ model.patterns) @ model.patterns.T, 0, atol=1e-10)
    _, values, _ = np.linalg.svd(known / 6)
    np.testing.assert_allclose(np.sqrt(np.sum(model.patterns**2, axis=1)), values[:3], rtol=1e-10)


def test_without_ridge_the_evolution_is_the_regression_and_with_much_it_is_decay():
    free, departures = learned(FieldSettings(patterns=2, ridge=0.0))
    a = departures[:36] @ free.patterns.T / np.sum(free.patterns**2, axis=1)
    expected = np.linalg.lstsq(a[:-1], a[1:], rcond=None)[0].T
    np.testing.assert_allclose(free.transition, expected, atol=1e-12)
    held, _ = learned(FieldSettings(patterns=2, ridge=1e12, decay=0.8))
    np.testing.assert_allclose(held.transition, 0.8 * np.eye(2), atol=1e-10)


def test_steps_over_a_gap_do_not_count():
    record = sea()
    rows = np.concatenate([np.arange(0, 20), np.arange(26, 36)])
    model = FieldModel.learn(FieldSettings(patterns=2, ridge=0.0), record.times, record.values, rows, record.places)
    changed = record.values.copy()
    changed[20:26] = 0.0
    again = FieldModel.learn(FieldSettings(patterns=2, ridge=0.0), record.times, changed, rows, record.places)
    np.testing.assert_array_equal(model.transition, again.transition)
    a = (record.values - model.climatology(record.times))[rows] @ model.patterns.T / np.sum(model.patterns**2, axis=1)
    pairs = [k for k in range(len(rows) - 1) if k != 19]
    expected = np.linalg.lstsq(a[pairs], a[np.array(pairs) + 1], rcond=None)[0].T
    np.testing.assert_allclose(model.transition, expected, atol=1e-10)


def test_two_steps_ahead_are_one_step_twice():
    model, departures = learned()
    once, _ = model.ahead(departures, 1)
    twice, variance = model.ahead(departures, 2)
    np.testing.assert_allclose(model.ahead(once, 1)[0], twice, atol=1e-12)
    same, none = model.ahead(departures, 0)
    np.testing.assert_allclose(same, departures, atol=1e-12)
    assert not none.any()
    assert (variance > 0).all()


def whole_filter(model: FieldModel, points: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return means and variances of the field by a Kalman filter of the whole field, written out with matrices."""
    count, m, n = len(model.patterns), len(points), model.patterns.shape[1]
    every = np.arange(n)
    joint = model.covariance(np.concatenate([points, every]), np.concatenate([points, every]))
    own = UNRESOLVED * np.diag(joint)[:m]
    joint[:m, :m] += np.diag(own)
    P = np.zeros((count + m + n, count + m + n))
    P[:count, :count], P[count:, count:] = np.eye(count), joint
    M = model.settings.memory * np.eye(len(P))
    M[:count, :count] = model.transition
    Q = (1 - model.settings.memory**2) * P
    Q[:count, :count] = model.error()
    H = np.concatenate([model.patterns[:, points].T, np.eye(m), np.zeros((m, n))], axis=1)
    G = np.concatenate([model.patterns.T, np.zeros((n, m)), np.eye(n)], axis=1)
    R, x, means, variances = np.diag(own), np.zeros(len(P)), [], []
    for y in seen:
        x, P = M @ x, M @ P @ M.T + Q
        known = np.isfinite(y)
        h = H[known]
        K = np.linalg.solve(h @ P @ h.T + R[np.ix_(known, known)], h @ P).T
        x, P = x + K @ (y[known] - h @ x), P - K @ h @ P
        means.append(G @ x)
        variances.append(np.einsum("ij,jk,ik->i", G, P, G))
    return np.array(means), np.array(variances)


@pytest.mark.slow
def test_the_state_at_the_points_loses_nothing_against_a_filter_of_the_whole_field():
    model, departures = learned(FieldSettings(patterns=2, share=1.0))
    points = np.array([3, 17, 40, 41, 90])
    seen = departures[20:26, points].copy()
    seen[2, 1] = seen[4, 0] = np.nan
    network = PointNetwork.build(model, points)
    state = network.run(seen)
    means, variances = whole_filter(model, points, seen)
    np.testing.assert_allclose(state.mean @ network.field, means, atol=1e-9)
    np.testing.assert_allclose(network.variance(state), variances, atol=1e-9)


@pytest.mark.slow
def test_where_nothing_is_observed_nothing_is_known():
    model, _ = learned(FieldSettings(patterns=2))
    network = PointNetwork.build(model, np.array([3, 17]))
    state = network.run(np.full((4, 2), np.nan))
    assert not state.mean.any()
    remainder = np.diag(state.covariance[-1])[2:]
    np.testing.assert_allclose(remainder, np.diag(network.start)[2:], rtol=1e-12)
    later = network.ahead(state, 2)
    np.testing.assert_allclose(np.diag(later.covariance[0])[2:], remainder, rtol=1e-12)


def test_simple_analyses_meet_the_points_or_the_mean():
    model, departures = learned()
    points = np.array([3, 17, 40, 41, 90])
    seen = departures[40:43, points]
    std = np.sqrt(np.mean(departures[:36] ** 2, axis=0))
    near = inverse_distance(model.places, points, seen)
    np.testing.assert_allclose(near[:, points], seen, atol=1e-4)
    assert (near.max(1) <= seen.max(1) + 1e-9).all()
    found = optimal_interpolation(model.places, points, seen, std, 1e-3)  # no correlations: only the points are known
    np.testing.assert_allclose(found[:, points], seen / 1.01, rtol=1e-9)
    assert not np.delete(found, points, axis=1).any()
    amplitudes = np.array([[1.0, -2.0, 0.5]])
    many = np.arange(0, model.patterns.shape[1])
    sure = model._replace(std=1e-6 * model.std)
    np.testing.assert_allclose(
        pattern_fit(sure, many, amplitudes @ model.patterns), amplitudes @ model.patterns, atol=1e-6
    )  # fmt: skip


def test_monthly_means_are_of_the_training_period_alone():
    record = sea()
    means = monthly_means(record.times, record.values, 36)
    np.testing.assert_allclose(means[40], record.values[[4, 16, 28]].mean(0))
    changed = record.values.copy()
    changed[36:] += 5
    np.testing.assert_array_equal(means, monthly_means(record.times, changed, 36))


def test_waves_of_the_year_come_back_after_a_year():
    waves = annual_waves(pd.DatetimeIndex(["2003-06-01", "2004-06-01"]), 2)
    np.testing.assert_allclose(waves[0], waves[1], atol=0.04)  # a quarter to three quarters of a day
    assert waves.shape == (2, 5)


def test_damping_of_what_decays_lies_between_nothing_and_persistence():
    record = sea()
    record = record._replace(times=record.times[:36], values=record.values[:36])
    training = Training(record, draw_points(0, 1, 1, 5, record.values.shape[1]), (1, 3))
    factors = [damping(training, FieldSettings(patterns=2), lead) for lead in (1, 3)]
    assert 0 < factors[1] < factors[0] < 1


@pytest.fixture
def quick(monkeypatch):
    """A small sea, and a choice among few."""
    monkeypatch.setattr(field_choice, "CANDIDATES", {"patterns": (2,), "ridge": (0.3, 1.0)})
    monkeypatch.setattr(SeaSurface, "record", lambda self, config: sea())
    return build_configuration(SeaSurfaceConfiguration, {"points": 12, "draws": 2}, "sea-surface")


@pytest.mark.slow
def test_the_choice_keeps_the_best_of_what_it_tried(quick):
    record = sea(months=36)
    training = Training(record, draw_points(0, 1, 1, 12, record.values.shape[1]), (1, 3))
    settings, tried = choose_settings(training, FieldSettings())
    assert tried[settings] == min(tried.values())
    assert settings.patterns in (2, 4) and len(tried) >= 3
    factors = interval_factors(training, settings)
    assert set(factors) == {("points", 0), ("points", 1), ("points", 3), ("fields", 1), ("fields", 3)}
    assert all(0.5 < factor < 5 for factor in factors.values())


@pytest.mark.slow
def test_nothing_is_learned_from_the_months_that_verify(quick, monkeypatch):
    experiment = SeaSurface()
    first, _ = experiment._learn(quick, {}, 0)
    record = sea()
    changed = record.values.copy()
    changed[36:] = 250.0
    monkeypatch.setattr(SeaSurface, "record", lambda self, config: record._replace(values=changed))
    second, _ = experiment._learn(quick, {}, 0)
    for group in ("settings", "factors"):
        assert {key: value.item() for key, value in first[group].items()} == {
            key: value.item() for key, value in second[group].items()
        }
    np.testing.assert_array_equal(first["damping"], second["damping"])
    assert first["length"] == second["length"]


@pytest.mark.slow
@pytest.mark.long
def test_the_application_on_a_small_sea(quick, monkeypatch, tmp_path):
    monkeypatch.setattr(SeaSurface, "record", lambda self, config: sea(months=100))
    results = run(SeaSurface(), quick.model_copy(update={"learn": 72}), tmp_path / "out")
    value = results.scores.set_index(["method", "lead", "metric"])["value"]
    own = value["assimilation", 0, "rmse"]
    assert own < min(value[name, 0, "rmse"] for name in ("climatology", "inverse distance"))
    for lead in (1, 3, 6):
        forecast = value["assimilation of complete fields", lead, "rmse"]
        assert forecast < value["climatology", lead, "rmse"]
        assert lead == 1 or forecast < value["persistence", lead, "rmse"]
        assert 0.75 < value["assimilation", lead, "coverage_90"] < 1
    assert value["assimilation", 0, "rmse_least"] <= own <= value["assimilation", 0, "rmse_most"]
    assert isinstance(results.figures["fields"], Figure)
    assert "optimal interpolation" in results.table
    with xr.open_dataset(tmp_path / "out" / "analysis.nc") as stored:
        stored.load()
    assert stored.sizes["time"] == 100 - 72
    error = (stored["analysis"] - stored["observed"]) ** 2
    first = stored["analysis_error"].isel(draw=0).sel({"analysis_method": "assimilation"})
    np.testing.assert_allclose(error.mean(("latitude", "longitude")), first, rtol=1e-10)


def test_settings_that_cannot_work_are_refused(quick):
    experiment = SeaSurface()
    with pytest.raises(ConfigurationError, match="leaves 4 of 54 months"):
        experiment.start(quick.model_copy(update={"learn": 50}))
    with pytest.raises(ConfigurationError, match="the sea has 114 cells"):
        experiment.start(quick.model_copy(update={"points": 200}))
    with pytest.raises(ConfigurationError, match="leads must increase"):
        build_configuration(SeaSurfaceConfiguration, {"leads": [3, 1]}, "sea-surface")
    assert "Learns from 2006-05 to 2009-04" in experiment.check(quick)


def test_without_the_package_the_message_says_what_to_install(monkeypatch):
    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("diffassim.io.packaged.files", absent)
    with pytest.raises(DataError, match="run: pip install iris-sample-data") as found:
        SeaSurface().record(SeaSurfaceConfiguration())
    assert "\n" not in str(found.value)


def test_persistence_of_the_real_record_has_the_errors_that_are_known_of_it():
    try:
        record = SeaSurface().record(SeaSurfaceConfiguration())
    except DataError as error:
        pytest.skip(str(error))
    assert record.values.shape == (54, 5721)
    departures = record.values - monthly_means(record.times, record.values, 36)
    errors = [np.sqrt(np.mean((departures[36:] - departures[36 - k : 54 - k]) ** 2)) for k in (1, 3, 6)]
    np.testing.assert_allclose(errors, [0.470, 0.836, 1.109], atol=5e-4)
