"""What is learned of networks, against what is known in closed form."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("pandas")

from diffassim.experiments.stations.covariance import pairwise_covariance, shrunk_covariance
from diffassim.experiments.stations.evolution import LAGS, fit_evolution, nearest_stations, persisting
from diffassim.experiments.stations.filtering import densities, fit_filter, likeliest
from diffassim.experiments.stations.intervals import Intervals
from diffassim.experiments.stations.mean_cycle import MeanCycle
from diffassim.experiments.stations.record import great_circle
from diffassim.experiments.stations.references import last_known, spatial_references
from diffassim.experiments.stations.ridge import PENALTIES, choose_penalties, fit_ridge, predict_left_out
from diffassim.experiments.stations.spatial import learn_kriging

PLACES = np.array([[8.0, 50.0, 100.0], [9.0, 50.0, 300.0], [8.0, 51.0, 200.0], [9.5, 51.5, 50.0], [8.5, 49.5, 400.0]])


def hours(count: int) -> pd.DatetimeIndex:
    return pd.date_range("2020-03-01", periods=count, freq="h", tz="UTC")


def test_the_mean_cycle_of_waves_is_these_waves():
    times = hours(2 * 8766)
    day = np.asarray((times - times[0]) / pd.Timedelta("1D"), float)
    wave = 3 + 2 * np.cos(2 * np.pi * (day - 0.3)) + 5 * np.sin(2 * np.pi * day / 365.2425)
    values = np.stack([wave, 2 * wave], axis=1)
    values[::7, 0] = np.nan
    cycle = MeanCycle.fit(times, values)
    np.testing.assert_allclose(cycle(times)[:, 0], wave, atol=5e-3)  # the penalty is small, not zero
    np.testing.assert_allclose(cycle(times)[:, 1], 2 * wave, atol=1e-2)


@pytest.mark.parametrize(("count", "yearly"), [(24 * 100, 0), (24 * 250, 1), (24 * 800, 2)])
def test_a_part_of_a_year_has_as_many_waves_as_it_can_tell_apart(count, yearly):
    cycle = MeanCycle.fit(hours(count), np.zeros((count, 1)))
    assert (cycle.daily, cycle.yearly) == (3, yearly)
    assert MeanCycle.fit(pd.date_range("2020", periods=40, freq="D", tz="UTC"), np.zeros((40, 1))).daily == 0


def test_pairwise_covariance_without_gaps_is_the_second_moment():
    x = np.random.default_rng(0).normal(size=(50, 4))
    np.testing.assert_allclose(pairwise_covariance(x), x.T @ x / 50, rtol=1e-12)
    gaps = np.where(np.arange(50)[:, None] < 10, np.nan, x)
    np.testing.assert_allclose(pairwise_covariance(gaps), x[10:].T @ x[10:] / 40, rtol=1e-12)


def test_a_short_record_of_many_stations_is_drawn_to_the_law_of_distance():
    rng = np.random.default_rng(1)
    places = np.stack([rng.uniform(0, 5, 40), rng.uniform(48, 52, 40)], axis=1)
    D = great_circle(places, places)
    C = np.exp(-D / 200)
    x = rng.normal(size=(25, 40)) @ np.linalg.cholesky(C).T
    found, sample = shrunk_covariance(x, D), pairwise_covariance(x)
    std = np.sqrt(np.diag(sample))
    assert np.linalg.norm(found / np.outer(std, std) - C) < 0.7 * np.linalg.norm(sample / np.outer(std, std) - C)
    assert np.linalg.eigvalsh(found).min() > 0
    # with many times the sample is kept
    x = rng.normal(size=(20_000, 40)) @ np.linalg.cholesky(C).T
    np.testing.assert_allclose(shrunk_covariance(x, D), C, atol=0.05)


def test_ridge_is_the_normal_equations_and_predicts_what_it_left_out():
    rng = np.random.default_rng(2)
    X, beta = rng.normal(size=(60, 3)), rng.normal(size=(3, 2))
    Y = X @ beta + 0.1 * rng.normal(size=(60, 2))
    Y[::3, 0] = np.nan  # too many for both targets to share rows
    known = np.isfinite(Y[:, 0])
    by_hand = np.linalg.solve(X[known].T @ X[known] + 0.01 * known.sum() * np.eye(3), X[known].T @ Y[known, 0])
    np.testing.assert_allclose(fit_ridge(X, Y, [0.01, 0.02])[:, 0], by_hand, rtol=1e-9)
    left = predict_left_out(X, Y, [0.01, 0.01])
    rows = np.arange(10, 60)  # the first of six parts is predicted by the others
    first = np.linalg.solve(X[rows].T @ X[rows] + 0.01 * 50 * np.eye(3), X[rows].T @ Y[rows, 1])
    np.testing.assert_allclose(left[:10, 1], X[:10] @ first, rtol=1e-9)
    errors = choose_penalties(X, Y)
    at = int(np.argmin(np.abs(PENALTIES - 0.01)))
    np.testing.assert_allclose(
        errors[at, 1], np.sum((predict_left_out(X, Y, [0.1, PENALTIES[at]])[:, 1] - Y[:, 1]) ** 2), rtol=1e-9
    )


def test_a_known_evolution_is_found():
    rng = np.random.default_rng(3)
    A = np.array([[0.6, 0.3, 0.0], [0.0, 0.7, 0.2], [0.1, 0.0, 0.8]])
    x = np.zeros((4000, 3))
    for k in range(1, len(x)):
        x[k] = A @ x[k - 1] + 0.3 * rng.normal(size=3)
    near = nearest_stations(x, 3)
    assert (near[:, 0] == np.arange(3)).all()
    model, missed = fit_evolution(x, x, near, float(persisting(x).coefficients[0, 0]))
    state = np.stack([x[100], x[99], x[98]])
    following = np.asarray(model.step(state, 0))
    np.testing.assert_allclose(following[1:], state[:-1])
    np.testing.assert_allclose(following[0], A @ x[100], atol=0.08)
    np.testing.assert_allclose(np.nanstd(missed, axis=0), 0.3, rtol=0.05)
    assert np.isnan(missed[:LAGS]).all()


def test_the_filter_of_a_silent_station_beats_its_own_last_value():
    rng = np.random.default_rng(4)
    common = np.zeros(900)
    for k in range(1, 900):
        common[k] = 0.95 * common[k - 1] + 0.3 * rng.normal()
    x = common[:, None] + 0.1 * rng.normal(size=(900, 4))
    x[rng.random(x.shape) < 0.1] = np.nan
    near = nearest_stations(x[:600], 4)
    found = fit_filter(x[:600], near, None, True, likeliest(densities(x[:600], near, None, True)))
    hidden = x.copy()
    hidden[600:, 2] = np.nan
    result = found.run(hidden)
    e = (result.mean - x)[600:, 2]
    assert np.sqrt(np.nanmean(e**2)) < 0.2  # its own spread is about 1
    inside = np.abs(e) < 1.645 * result.std[600:, 2]
    assert 0.8 < inside[np.isfinite(e)].mean() < 1


def test_kriging_of_a_plane_with_drift_and_of_a_station_itself():
    rng = np.random.default_rng(5)
    places = np.stack([rng.uniform(0, 5, 30), rng.uniform(48, 52, 30), np.full(30, np.nan)], axis=1)
    x = (3 * places[:, 0] - 2 * places[:, 1])[None] + 0.1 * rng.normal(size=(50, 30))
    target = np.array([[2.5, 50.0, np.nan]])
    found = learn_kriging(x, x - x.mean(0), places, target)
    assert found.drift == ("longitude", "latitude")
    np.testing.assert_allclose(found.groups[0].weights.sum(1), 1, rtol=1e-9)
    np.testing.assert_allclose(found(x).mean(), 3 * 2.5 - 2 * 50, atol=0.2)
    two = learn_kriging(x[:, :2], x[:, :2], places[:2], target)
    near = 1 / great_circle(target, places[:2]) ** 2
    np.testing.assert_allclose(two.groups[0].weights, near / near.sum(), rtol=1e-12)


def test_errors_without_a_station_are_those_of_leaving_it_out():
    from diffassim.experiments.stations.spatial import _correlations, _left_out, _universal

    D = great_circle(PLACES, PLACES)
    parameters = (0.05, 200.0, 0.2, 30.0)
    x = np.random.default_rng(6).normal(size=(3, 5))
    K, F = _correlations(D, parameters), np.ones((5, 1))
    found, _ = _left_out(K, F, x)
    rest = np.arange(1, 5)
    k = _correlations(D[:1][:, rest], parameters, nugget=False)
    weights, _ = _universal(K[np.ix_(rest, rest)], k, F[rest], np.ones((1, 1)))
    np.testing.assert_allclose(found[:, 0], x[:, 0] - (x[:, rest] @ weights.T)[:, 0], rtol=1e-9)


def test_intervals_know_only_what_has_been_seen():
    times = hours(400)
    rng = np.random.default_rng(7)
    missed = rng.normal(size=(400, 2, 1))
    learned = Intervals.learn(times, missed, (1, 24))
    centers, values = np.zeros((400, 2, 1)), rng.normal(size=(400, 1))
    before = learned.follow(times, centers, values, (1, 24))
    values[300:] = 100.0
    after = learned.follow(times, centers, values, (1, 24))
    np.testing.assert_array_equal(after[:300], before[:300])
    assert (after[301:, 0] > before[301:, 0]).all()
    hits = np.abs(rng.normal(size=(400, 1))) <= before[:, 0]
    assert 0.85 < hits.mean() < 0.95


def test_references_by_hand():
    values = np.array([[1.0, 3.0, np.nan], [np.nan, 5.0, 2.0]])
    D = np.array([[10.0, 20.0, 1.0]])
    found = spatial_references(values, D)
    np.testing.assert_allclose(found["mean of the others"][:, 0], [2.0, 3.5])
    np.testing.assert_allclose(found["nearest station"][:, 0], [1.0, 2.0])
    np.testing.assert_allclose(found["inverse distance"][0, 0], (1 / 100 + 3 / 400) / (1 / 100 + 1 / 400))
    np.testing.assert_array_equal(last_known(values), [[1, 3, 0], [1, 5, 2]])


def test_distances_are_those_of_the_great_circle():
    quarter = great_circle(np.array([[0.0, 0.0]]), np.array([[90.0, 0.0], [0.0, 90.0], [180.0, 0.0]]))
    np.testing.assert_allclose(quarter[0], 6371 * np.pi * np.array([0.5, 0.5, 1.0]), rtol=1e-12)


def test_the_static_filter_is_cycled_three_d_var():
    import jax.numpy as jnp

    import diffassim as da
    from diffassim.experiments.stations.evolution import LinearEvolution
    from diffassim.experiments.stations.filtering import Latest
    from diffassim.experiments.stations.static_filter import StaticFilter

    rng = np.random.default_rng(8)
    A = rng.normal(size=(6, 6))
    B, R = A @ A.T / 6 + 0.1 * np.eye(6), rng.uniform(0.1, 0.4, 6)
    coefficients, regressors = 0.3 * rng.normal(size=(6, 4)), rng.integers(0, 18, (6, 4))
    evolution = LinearEvolution(jnp.asarray(coefficients), jnp.asarray(regressors))
    y = np.where(rng.random((40, 6)) < 0.3, np.nan, rng.normal(size=(40, 6)))
    y[5] = np.nan
    mean, std, density = StaticFilter(evolution, jnp.asarray(B), jnp.asarray(R)).run(jnp.zeros((3, 6)), y)
    columns = np.concatenate([np.linalg.cholesky(B).T[:, None], np.zeros((6, 2, 6))], axis=1)
    background = da.gaussian.Gaussian(jnp.zeros((3, 6)), jnp.asarray(columns))
    error = da.covariances.Diagonal(std=jnp.sqrt(jnp.asarray(R)))
    record = da.Observations(y, np.arange(1, 41), operator=Latest(), error=error)
    _, history = da.cycle(da.gaussian.CycledThreeDVar(background), evolution, jnp.zeros((3, 6)), record)
    np.testing.assert_allclose(mean, history.analysis.mean[:, 0], atol=1e-12)
    np.testing.assert_allclose(std, history.analysis.spread[:, 0], atol=1e-12)
    np.testing.assert_allclose(density, history.info.log_likelihood, atol=1e-11)


def test_moments_of_squares_of_normal_numbers_and_their_quantiles():
    from diffassim.experiments.stations.anomalies import SCALES

    root, center, std = SCALES["sqrt"], np.array([3.0]), np.array([0.4])
    x = (3.0 + 0.4 * np.random.default_rng(9).normal(size=1_000_000)) ** 2
    np.testing.assert_allclose(root.mean(center, std), x.mean(), rtol=1e-3)
    np.testing.assert_allclose(root.std(center, std), x.std(), rtol=5e-3)
    np.testing.assert_allclose(root.quantile(center + 1.6449 * std), np.quantile(x, 0.95), rtol=3e-3)
    assert SCALES["none"].std(center, std) is std
