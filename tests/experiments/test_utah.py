"""Travel times, the location of events, and the Utah experiment."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy.integrate import solve_ivp

from diffassim.core.errors import DataError
from diffassim.experiments.applications.hypocenters import Medium, Setting, grid_search, locate, travel_time
from diffassim.experiments.applications.utah import METHODS, Utah, UtahConfiguration, station_places
from diffassim.experiments.framework.configuration import build_configuration
from diffassim.experiments.framework.run import run
from diffassim.io.picks import PickCatalog, read_picks, utah_files

MEDIUM = Medium(5.0, 0.06)


def carried():
    """Return the files, or skip where the package that carries them is missing."""
    try:
        return utah_files()
    except DataError as error:
        pytest.skip(str(error))


def test_the_travel_time_is_that_of_a_traced_ray():
    """A ray by its differential equations: dx/dt = v sin, dz/dt = v cos, d(angle)/dt = -g sin."""
    g, v0 = MEDIUM.gradient, MEDIUM.speed

    def ray(t, s):
        _, z, angle = s
        v = v0 + g * z
        return [v * np.sin(angle), v * np.cos(angle), g * np.sin(angle)]

    end = solve_ivp(ray, (0, 11.0), [0.0, 8.0, 1.2], rtol=1e-11, atol=1e-11).y[:, -1]
    source, receiver = jnp.array([0.0, 0.0, 8.0]), jnp.array([0.6 * end[0], 0.8 * end[0], end[1]])
    np.testing.assert_allclose(travel_time(source, receiver, MEDIUM), 11.0, rtol=1e-6)
    np.testing.assert_allclose(travel_time(receiver, source, MEDIUM), 11.0, rtol=1e-6)


def test_the_travel_time_obeys_the_eikonal_equation():
    source, receiver = jnp.array([1.0, 2.0, 4.0]), jnp.array([30.0, -20.0, 7.0])
    slowness = jax.grad(travel_time, argnums=1)(source, receiver, MEDIUM)
    np.testing.assert_allclose(jnp.linalg.norm(slowness), 1 / (5.0 + 0.06 * 7.0), rtol=1e-6)
    nearly = travel_time(source, receiver, Medium(5.0, 1e-7))
    np.testing.assert_allclose(nearly, jnp.linalg.norm(source - receiver) / 5.0, rtol=1e-5)
    gradient = jax.grad(travel_time)(source, source, MEDIUM)
    assert bool(jnp.all(jnp.isfinite(gradient)))


def synthetic(seed=0, noise=0.0, outlier=False):
    """Return a setting in which event 0 is to be located, the true places, and the picks' receivers."""
    rng = np.random.default_rng(seed)
    stations = np.column_stack([rng.uniform(-40, 40, (15, 2)), np.full(15, -1.5)])
    place = np.column_stack([rng.normal(0, 3, (6, 2)), rng.uniform(0, 4, 6)])
    terms, origin = rng.normal(0, 0.1, 15), rng.uniform(-3, -2, 6)
    event, station = (a.ravel() for a in np.meshgrid(np.arange(6), np.arange(15), indexing="ij"))
    time = origin[event] + np.asarray(travel_time(place[event], stations[station], MEDIUM)) + terms[station]
    time = time + noise * rng.normal(size=time.shape)
    if outlier:
        time[3] += 4.0
    background, std = place.copy(), np.full(place.shape, 0.3)
    background[0], std[0] = [9.0, -7.0, 0.0], [20.0, 20.0, 2.0]
    setting = Setting(
        jnp.asarray(event), jnp.asarray(station), jnp.asarray(time), jnp.full(time.shape, 0.05), jnp.asarray(stations),
        jnp.asarray(background), jnp.asarray(std), jnp.full(6, -2.5), jnp.full(6, 2.0), Medium(4.6, 0.04),
    )  # fmt: skip
    return setting, place


@pytest.mark.slow
def test_an_event_is_found_in_an_unknown_medium_with_unknown_station_terms():
    setting, place = synthetic()
    found = locate(setting, 0)
    assert bool(found.converged)
    np.testing.assert_allclose(found.place[:2], place[0, :2], atol=0.1)
    assert abs(float(found.medium.speed) - 5.0) < 0.2
    eigenvalues = np.linalg.eigvalsh(found.covariance)
    assert eigenvalues[0] > 0 and eigenvalues[-1] < 4.0


@pytest.mark.slow
def test_a_wrong_pick_and_missing_picks_do_little_harm():
    clean, place = synthetic(noise=0.03)
    wrong, _ = synthetic(noise=0.03, outlier=True)
    a, b = (np.asarray(locate(s, 0).place)[:2] for s in (clean, wrong))
    gaussian = np.asarray(locate(wrong.replace(threshold=1e6), 0).place)[:2]
    assert np.hypot(*(b - a)) < 0.15 < np.hypot(*(gaussian - a))
    without = clean.replace(time=clean.time.at[3].set(jnp.nan))
    assert np.hypot(*(np.asarray(locate(without, 0).place)[:2] - place[0, :2])) < 0.3


@pytest.mark.slow
@pytest.mark.long
def test_the_ellipses_hold_what_they_promise():
    """Noise as assumed: the squared distance in units of the covariance is chi-square with two degrees of freedom."""
    distances = []
    for seed in range(60):
        setting, place = synthetic(seed, noise=0.05)
        rng = np.random.default_rng(1000 + seed)
        others = setting.place.at[1:].add(jnp.asarray(0.3 * rng.normal(size=(5, 3))))
        found = locate(setting.replace(place=others, station_std=0.1), 0)
        error = np.asarray(found.place)[:2] - place[0, :2]
        distances.append(error @ np.linalg.solve(np.asarray(found.covariance)[:2, :2], error))
    assert 0.8 <= np.mean(np.array(distances) < 4.605) <= 0.98, np.sort(distances)


def toy_catalog():
    hypocenter = np.array([[40.5, -112.1, 0.0], [40.52, -112.12, 1.0]])
    origin = np.array(["2013-04-04T15:10:57", "2013-04-04T16:00:00"], "datetime64[ns]")
    places = np.array([[40.6, -112.0, 1.5], [np.nan] * 3])
    return PickCatalog(
        ["a", "b"], hypocenter, np.full(2, np.nan), origin,
        np.array([0, 1]), np.array([0, 1]), np.zeros(2), np.zeros(2, bool), origin,
        ["UU.A", "UU.B"], places, np.array([0, 1]), np.array([1, 1]), np.array([0.5, 0.5]), np.array([90.0, 0.0]),
    )  # fmt: skip


def test_a_station_is_placed_by_the_other_events_alone():
    picks = toy_catalog()
    first, origin = station_places(picks, 0)
    assert origin == (40.6, -112.0)
    by_second = (picks.hypocenter[1, 0] - 40.6 + 0.5) * 111.195
    np.testing.assert_allclose(first[1, 1], by_second, rtol=1e-9)
    changed = picks._replace(hypocenter=np.array([[45.0, -100.0, 0.0], picks.hypocenter[1]]))
    np.testing.assert_array_equal(station_places(changed, 0)[0], first)  # the event's own place changes nothing
    alone = picks._replace(arrival_station=np.array([1, 0]))
    assert np.isnan(station_places(alone, 0)[0][1]).all()


def test_the_grid_search_needs_a_unique_minimum():
    stations = np.array([[10.0, 0.0, 0.0], [-8.0, 6.0, -1.0], [0.0, -9.0, 0.0], [7.0, 7.0, -2.0]])
    times = 3.0 + np.sqrt(np.sum((stations - [2.0, -1.0, 0.0]) ** 2, axis=1)) / 5.5
    np.testing.assert_allclose(grid_search(times, stations, np.zeros(2), 5.5, 5.0, 0.25), [2.0, -1.0])


def test_files_are_refused_by_name(tmp_path):
    bad = tmp_path / "events.xml"
    bad.write_text("<quakeml><event>")
    with pytest.raises(DataError, match="not a whole XML file"):
        read_picks(bad, bad)
    with pytest.raises(DataError, match="no such file"):
        read_picks(tmp_path / "none.xml", tmp_path / "none.xml")
    bad.write_text("<quakeml/>")
    with pytest.raises(DataError, match="no event has a hypocenter"):
        read_picks(bad, bad)
    with pytest.raises(Exception, match="catalog and inventory belong together"):
        build_configuration(UtahConfiguration, {"catalog": str(bad)}, "utah")


def test_the_catalog_is_read():
    picks = read_picks(*carried())
    assert len(picks.events) == 11 and np.all(np.diff(picks.origin) > np.timedelta64(0))
    assert len({(e, s) for e, s in zip(picks.event, picks.station, strict=True)}) == len(picks.event)
    first = np.array([picks.time[picks.event == k].min() for k in range(11)])
    np.testing.assert_array_equal(first, 0.0)
    assert np.isfinite(picks.station_place[:, 0]).sum() == 12
    travel = (picks.first - picks.origin) / np.timedelta64(1, "s")
    assert np.all(travel > 0) and np.all(travel < 20)


@pytest.mark.slow
@pytest.mark.long
def test_the_experiment_locates_better_than_its_references(tmp_path):
    carried()
    results = run(Utah(), UtahConfiguration(), tmp_path / "out")
    value = results.scores.set_index(["method", "metric"])["value"]
    assert value[METHODS[-1], "median_error"] < 1.35
    assert value[METHODS[-1], "median_error"] < min(value[m, "median_error"] for m in METHODS[:2])
    assert 0.6 <= value[METHODS[-1], "coverage_90_with_catalog"] <= 1
    assert "median" in results.table and isinstance(results.figures["epicenters"], Figure)
