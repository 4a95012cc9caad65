"""Large networks in parts: what each part sees, and that the whole is hardly better."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("pandas")

import pandas as pd
from scipy.stats import multivariate_normal

from diffassim.experiments.stations import filtering, regional_filter, spatial
from diffassim.experiments.stations.covariance import _minus_log_density
from diffassim.experiments.stations.network import Network
from diffassim.experiments.stations.record import Record, great_circle
from diffassim.experiments.stations.references import spatial_references
from diffassim.experiments.stations.regional_filter import learn_regional_filter, regions_of
from diffassim.experiments.stations.regions import divide, unit_vectors, whole
from diffassim.experiments.stations.spatial import learn_kriging
from diffassim.models.base import Variable

STATIONS, STEPS = 48, 260


def network(seed: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return places, departures that hang together over 100 km and two steps, and the same with gaps."""
    rng = np.random.default_rng(seed)
    places = np.stack([rng.uniform(0, 12, STATIONS), rng.uniform(46, 52, STATIONS), np.full(STATIONS, np.nan)], axis=1)
    L = np.linalg.cholesky(np.exp(-great_circle(places, places) / 150))
    x = np.zeros((STEPS, STATIONS))
    for k in range(1, STEPS):
        x[k] = 0.7 * x[k - 1] + 0.71 * L @ rng.normal(size=STATIONS)
    return places, x, np.where(rng.uniform(size=x.shape) < 0.15, np.nan, x + 0.1 * rng.normal(size=x.shape))


@pytest.fixture(autouse=True)
def quick_filter(monkeypatch):
    monkeypatch.setattr(filtering, "DEAREST", 0)  # that of large networks, which compiles fast


@pytest.fixture
def small_regions(monkeypatch):
    monkeypatch.setattr(regional_filter, "LARGEST", 20)
    monkeypatch.setattr(regional_filter, "OWN", 12)
    monkeypatch.setattr(regional_filter, "AROUND", 12)


def test_every_station_belongs_to_one_region_that_sees_it_and_those_nearest():
    points = np.random.default_rng(0).normal(size=(157, 3))
    regions = divide(points, 20, 10)
    assert sorted(np.concatenate([region.own for region in regions])) == list(range(157))
    assert len({len(region.seen) for region in regions}) == 1
    for region in regions:
        assert len(region.own) <= 20
        np.testing.assert_array_equal(region.seen[: len(region.own)], region.own)
        assert len(np.unique(region.seen)) == len(region.seen)
        distance = np.linalg.norm(points[:, None] - points[region.own][None], axis=-1).min(1)
        rest = np.setdiff1d(np.arange(157), region.seen)
        assert distance[region.seen].max() <= distance[rest].min()
    (one,) = divide(points, 157, 10)
    np.testing.assert_array_equal(one.own, one.seen)
    np.testing.assert_array_equal(one.own, whole(157)[0].own)


def test_places_at_one_point_are_divided_too():
    regions = divide(np.zeros((9, 3)), 2, 1)
    assert sorted(np.concatenate([region.own for region in regions])) == list(range(9))


@pytest.mark.slow
def test_a_small_network_is_one_region_with_the_filter_of_its_stations():
    places, _, y = network()
    regions = regions_of(y, places)
    found, near = learn_regional_filter(y, places, regions)
    assert len(regions) == 1 and near.shape == (STATIONS, 8) and (near[:, 0] == np.arange(STATIONS)).all()
    alone = found.filters[0].run(y)
    for ours, theirs in zip(found.run(y), alone, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("known", [True, False], ids=["with places", "without places"])
def test_parts_fill_gaps_about_as_well_as_the_whole(small_regions, known):
    places, truth, y = network()
    where = places if known else np.full_like(places, np.nan)
    regions = regions_of(y, where)
    assert len(regions) == 4
    parts, near = learn_regional_filter(y[:180], where, regions)
    assert all(set(near[i]) <= set(region.seen) for region in regions for i in region.own)
    one, _ = learn_regional_filter(y[:180], where, whole(STATIONS))
    missing = np.isnan(y[180:])
    errors = [np.sqrt(np.mean((each.run(y).mean[180:] - truth[180:])[missing] ** 2)) for each in (parts, one)]
    assert errors[0] < 1.08 * errors[1] and errors[1] < 0.8 * truth.std()


@pytest.mark.slow
def test_a_divided_network_comes_back_from_its_arrays(small_regions):
    places, _, y = network()
    times = pd.date_range("2020-01-01", periods=STEPS, freq="D", tz="UTC")
    names = tuple(map(str, range(STATIONS)))
    record = Record(times, names, places, (Variable("t", "K", ()),), y[:, :, None])
    found = Network.learn(record, 200, (False,), (1, 2))
    again = Network.from_arrays(found.to_arrays())
    np.testing.assert_array_equal(found.filtered(record, 200, STEPS).mean, again.filtered(record, 200, STEPS).mean)
    assert len(again.filter.regions) == 4


def test_kriging_from_the_stations_around_is_nearly_that_from_all(monkeypatch):
    places, x, _ = network()
    rng = np.random.default_rng(1)
    targets = np.stack([rng.uniform(1, 11, 9), rng.uniform(47, 51, 9), np.full(9, np.nan)], axis=1)
    every = learn_kriging(x, x, places, targets)
    monkeypatch.setattr(spatial, "LARGEST", 20)
    monkeypatch.setattr(spatial, "OWN", 12)
    monkeypatch.setattr(spatial, "AROUND", 20)
    some = learn_kriging(x, x, places, targets)
    assert len(every.groups) == 1 < len(some.groups)
    assert sorted(np.concatenate([group.places for group in some.groups])) == list(range(9))
    difference = np.sqrt(np.mean((some(x) - every(x)) ** 2))
    assert 0 < difference < 0.15 * np.sqrt(np.mean(every.std**2))
    np.testing.assert_allclose(some.std, every.std, rtol=0.1)


def test_the_density_of_rows_with_gaps_is_that_of_what_is_known():
    rng = np.random.default_rng(2)
    A = rng.normal(size=(6, 6))
    C = A @ A.T + np.eye(6)
    rows = np.where(rng.uniform(size=(5, 6)) < 0.4, np.nan, rng.normal(size=(5, 6)))
    rows[0], rows[1] = rng.normal(size=6), np.nan
    expected = 0.0
    for row in rows:
        at = np.isfinite(row)
        if at.any():
            expected -= multivariate_normal(np.zeros(at.sum()), C[np.ix_(at, at)]).logpdf(row[at])
            expected -= 0.5 * at.sum() * np.log(2 * np.pi)
    np.testing.assert_allclose(_minus_log_density(C, rows), expected, rtol=1e-10)


def test_the_nearest_station_is_the_nearest_that_reports():
    rng = np.random.default_rng(4)
    values, distances = rng.normal(size=(30, 7)), rng.uniform(1, 9, size=(4, 7))
    values[rng.uniform(size=values.shape) < 0.5] = np.nan
    values[3] = np.nan
    found = spatial_references(values, distances)["nearest station"]
    for t in range(30):
        at = np.flatnonzero(np.isfinite(values[t]))
        for p in range(4):
            expected = values[t, at[np.argmin(distances[p, at])]] if at.size else np.nan
            np.testing.assert_equal(found[t, p], expected)


def test_points_of_the_sphere_are_as_far_apart_as_their_chords():
    places = np.array([[0.0, 0.0, np.nan], [90.0, 0.0, np.nan], [10.0, 50.0, np.nan]])
    points = unit_vectors(places)
    chords = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.testing.assert_allclose(2 * 6371 * np.arcsin(chords / 2), great_circle(places, places), atol=1e-9)
