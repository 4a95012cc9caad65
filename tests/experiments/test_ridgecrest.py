"""Gaussian terms of ground motion, their likelihood and predictions, and the Ridgecrest experiment."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from diffassim.core.errors import DataError
from diffassim.experiments.applications.ground_motion_mean import (
    Law,
    fit_law,
    inputs,
    published_law,
    record_inputs,
    simulated_training,
)
from diffassim.experiments.applications.ground_motion_prediction import EventPrior, estimate_magnitudes, predict
from diffassim.experiments.applications.ground_motion_stations import StationTerms
from diffassim.experiments.applications.ground_motion_terms import (
    FIRST_GUESS,
    Records,
    TermCovariances,
    block_factors,
    block_likelihood,
    fit_terms,
    some_blocks,
    station_blocks,
)
from diffassim.experiments.applications.ridgecrest import FULL, REDUCED, Ridgecrest, RidgecrestConfiguration
from diffassim.experiments.framework.run import run
from diffassim.io.ground_motion import GroundMotion, ridgecrest_file

TERMS = TermCovariances(**FIRST_GUESS)
COEFFICIENTS = jnp.array([-1.5, 0.7, -1.2, -0.1, 0.0, -0.3, 0.0, -0.02, 0.05])


def simulated(events=12, stations=25, seed=0, terms=TERMS, share=0.8):
    """Return records drawn from the model itself; every station reports with a probability."""
    rng = np.random.default_rng(seed)
    source = np.column_stack([rng.normal(0, 10, (events, 2)), rng.uniform(2, 12, events)])
    place, magnitude = rng.uniform(-150, 150, (stations, 2)), rng.uniform(3.6, 5.5, events)
    event, station = np.nonzero(rng.uniform(size=(events, stations)) < share)
    distance = np.sqrt(np.sum((place[station] - source[event, :2]) ** 2, axis=1) + source[event, 2] ** 2)
    table = GroundMotion(
        event, station, np.zeros(len(event)), distance, pd.date_range("2019-07-04", periods=events, freq="h"),
        magnitude,
        source, place, rng.uniform(0, 2000, stations), rng.uniform(200, 800, stations),
        [str(k) for k in range(events)], [str(k) for k in range(stations)],
    )  # fmt: skip
    root = np.linalg.cholesky(np.asarray(terms.matrix(Records.of(table))))
    mean = np.asarray(Law(COEFFICIENTS)(record_inputs(table)))
    return table._replace(log_pga=mean + root @ rng.normal(size=len(event)))


TABLE = simulated()
RESIDUAL = TABLE.log_pga - np.asarray(Law(COEFFICIENTS)(record_inputs(TABLE)))


def test_the_predictions_are_those_of_the_whole_gaussian():
    """Station terms in information form, then the event: as if all records were conditioned on at once."""
    known = np.flatnonzero(TABLE.event < 11)
    stations = StationTerms.given(TERMS, TABLE, known, RESIDUAL)
    prior = EventPrior.of(TERMS, stations, TABLE, 11)
    reported = np.arange(len(prior.rows)) % 3 > 0
    mean, variance = predict(TERMS, prior, RESIDUAL[prior.rows], reported)

    given, wanted = np.concatenate([known, prior.rows[reported]]), prior.rows[~reported]
    K = np.asarray(TERMS.matrix(Records.of(TABLE)))
    gain = np.linalg.solve(K[np.ix_(given, given)], K[np.ix_(given, wanted)]).T
    np.testing.assert_allclose(mean[~reported], gain @ RESIDUAL[given], atol=1e-6)  # a nugget of path terms is added
    exact = np.diag(K)[wanted] - np.einsum("ij,ji->i", gain, K[np.ix_(given, wanted)])
    np.testing.assert_allclose(variance[~reported], exact, rtol=1e-5)


def test_without_reports_the_prediction_is_the_prior_of_the_event():
    stations = StationTerms.given(TERMS, TABLE, np.flatnonzero(TABLE.event < 11), RESIDUAL)
    prior = EventPrior.of(TERMS, stations, TABLE, 11)
    mean, variance = predict(TERMS, prior, RESIDUAL[prior.rows], np.zeros(len(prior.rows), bool))
    np.testing.assert_allclose(mean, prior.mean, atol=1e-12)
    np.testing.assert_allclose(variance, np.diag(prior.covariance) + FIRST_GUESS["record"] ** 2, rtol=1e-6)


def test_blocks_hold_every_record_once_and_their_likelihood_is_that_of_the_normal_density():
    chosen = np.flatnonzero(TABLE.event < 9)
    blocks = station_blocks(TABLE, chosen, 60)
    assert blocks.rows.shape[1] <= 60
    assert sorted(blocks.rows[blocks.real].tolist()) == chosen.tolist()
    few = some_blocks(blocks, 70, 0)
    assert 70 <= few.real.sum() < len(chosen)

    rows, real = blocks.rows[0], blocks.real[0]
    records = jax.tree.map(lambda x: jnp.asarray(x)[rows], Records.of(TABLE))
    value = block_likelihood(TERMS, jnp.asarray(RESIDUAL[rows]), records, jnp.asarray(real))
    own = rows[real]
    K = np.asarray(TERMS.matrix(Records.of(TABLE, own)))
    padding = 0.5 * np.log(2 * np.pi) * (~real).sum()
    exact = 0.5 * (RESIDUAL[own] @ np.linalg.solve(K, RESIDUAL[own]) + np.linalg.slogdet(2 * np.pi * K)[1])
    np.testing.assert_allclose(value - padding, exact, rtol=1e-10)
    W = np.asarray(block_factors(TERMS, Records.of(TABLE), blocks))[0][np.ix_(real, real)]
    np.testing.assert_allclose(W @ K @ W.T, np.eye(real.sum()), atol=1e-10)


@pytest.mark.slow
def test_the_law_of_generalized_least_squares_is_the_best_linear_unbiased_one():
    blocks = station_blocks(TABLE, np.arange(len(TABLE.event)), 10_000)
    found = fit_law(TABLE, blocks, TERMS)
    rows = blocks.rows[0]
    X, K = np.asarray(Law.terms(record_inputs(TABLE)))[rows], np.asarray(TERMS.matrix(Records.of(TABLE, rows)))
    exact = np.linalg.solve(X.T @ np.linalg.solve(K, X), X.T @ np.linalg.solve(K, TABLE.log_pga[rows]))
    np.testing.assert_allclose(found.coefficients, exact, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
@pytest.mark.long
def test_the_likelihood_finds_the_covariances_that_made_the_data():
    only = TermCovariances(**FIRST_GUESS | {"station_shared": 1e-6, "path": 1e-6, "within": 1e-6, "bearing": 1e-6})
    table = simulated(25, 14, 3, only)
    residual = table.log_pga - np.asarray(Law(COEFFICIENTS)(record_inputs(table)))
    blocks = station_blocks(table, np.arange(len(table.event)), 1000)
    start = FIRST_GUESS | {"event": 0.3, "station_own": 0.05, "record": 0.3}
    found, account = fit_terms(table, blocks, residual, start, 30, ("station_shared", "path", "within", "bearing"))
    for name in ("event", "station_own", "record"):
        error = 4 * account.relative_error[name]
        assert abs(float(getattr(found, name)) / FIRST_GUESS[name] - 1) < error, (name, getattr(found, name))
    assert float(found.path) == 1e-6


@pytest.mark.slow
def test_a_magnitude_is_that_of_bayes_formula_where_everything_is_linear():
    """A law linear in the magnitude: the posterior of one number in closed form."""
    linear = Law(COEFFICIENTS.at[7:].set(0.0))
    stations = StationTerms.given(TERMS, TABLE, np.flatnonzero(TABLE.event < 10), RESIDUAL)
    priors = [EventPrior.of(TERMS, stations, TABLE, event) for event in (10, 11)]
    found = estimate_magnitudes(linear, TERMS, priors, TABLE, (4, 10_000), (4.2, 0.5))
    for i, count in enumerate((4, 10_000)):
        for j, prior in enumerate(priors):
            near = np.argsort(TABLE.distance[prior.rows], kind="stable")[:count]
            rows = prior.rows[near]
            S = prior.covariance[np.ix_(near, near)] + FIRST_GUESS["record"] ** 2 * np.eye(len(near))
            x = record_inputs(TABLE)[rows]
            at_mean = np.asarray(linear(x.at[:, 0].set(4.2 - 4.5))) + prior.mean[near]
            slope = np.full(len(near), float(COEFFICIENTS[1]))
            precision = slope @ np.linalg.solve(S, slope) + 1 / 0.5**2
            exact = 4.2 + slope @ np.linalg.solve(S, TABLE.log_pga[rows] - at_mean) / precision
            np.testing.assert_allclose(found.estimate[i, j], exact, rtol=1e-6)
            np.testing.assert_allclose(found.std[i, j], precision**-0.5, rtol=1e-6)


@pytest.mark.slow
def test_the_network_learns_the_published_law_from_simulated_events():
    mean = simulated_training(0, 1500)
    m, r = jnp.array([4.0, 5.0, 6.5]), jnp.array([20.0, 100.0, 60.0])
    found = mean(inputs(m, r, 8.0, 500.0, 700.0))
    np.testing.assert_allclose(found, published_law(m, r), atol=0.1)


@pytest.mark.slow
@pytest.mark.long
def test_the_experiment_predicts_better_than_its_references_on_simulated_records(tmp_path):
    table = simulated(26, 40, 5)
    place = np.column_stack([table.station_place[:, 1], table.station_place[:, 0]]) / 111.195
    lon = 1 / np.cos(np.radians(35.0))
    source = table.event_place
    frame = pd.DataFrame({
        "EarthquakeId": np.array(table.events)[table.event], "EarthquakeTime": table.times[table.event].astype(str),
        "EarthquakeLatitude": (35 + source[:, 1] / 111.195)[table.event],
        "EarthquakeLongitude": (-117 + lon * source[:, 0] / 111.195)[table.event],
        "EarthquakeDepth": source[:, 2][table.event], "EarthquakeMagnitude": table.magnitude[table.event],
        "StationID": np.array(table.stations)[table.station], "StationLatitude": 35 + place[table.station, 0],
        "StationLongitude": -117 + lon * place[table.station, 1], "StationElevation": table.elevation[table.station],
        "RuptureDistance": table.distance, "PGA": 100 * 10**table.log_pga,
        "Vs30_mps_CA_map": table.vs30[table.station], "Vs30_mps_slope": table.vs30[table.station],
    })  # fmt: skip
    frame.to_csv(tmp_path / "table.csv", index=False)
    config = RidgecrestConfiguration(
        file=tmp_path / "table.csv", training_events=18, updates=(0, 50), nearest=(2, 8), first=(4,), block=80
    )
    results = run(Ridgecrest(), config, tmp_path / "out")
    value = results.scores.set_index(["method", "variable", "lead", "metric"])["value"]
    rmse = {m: value[m, "log10 PGA", 0, "rmse"] for m in (*REDUCED, f"{FULL}, first 4", FULL)}
    assert rmse[FULL] < 1.02 * rmse["law, event and station terms"] < rmse["law, event term"] < rmse["law"]
    assert value[FULL, "magnitude", 8, "rmse"] < value["no station", "magnitude", 0, "rmse"]
    # Few and correlated values, and a spread that was calibrated on six events.
    assert 0.7 <= value[FULL, "log10 PGA", 0, "coverage_90"] <= 1
    assert isinstance(results.figures["ridgecrest"], Figure) and results.counted == 8


def test_the_file_is_asked_for_with_the_command_that_brings_it(monkeypatch):
    monkeypatch.setattr("diffassim.io.packaged.files", lambda name: [])
    with pytest.raises(DataError, match="pip install --no-deps gmprocess"):
        ridgecrest_file()
