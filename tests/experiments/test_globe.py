"""The twin experiment on the sphere: states to start from, network, model, tuning, scores, and the whole."""

from __future__ import annotations

import importlib.util
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

import diffassim as da
from diffassim.core.errors import ConfigurationError, DataError
from diffassim.covariances import ZonallyHomogeneous
from diffassim.experiments.applications import globe_setting, globe_start
from diffassim.experiments.applications.globe import Globe, GlobeConfiguration
from diffassim.experiments.applications.globe_methods import ENSEMBLES, METHODS, VARIATIONAL, variational_day
from diffassim.experiments.applications.globe_output import LEADS, kind_errors
from diffassim.experiments.applications.globe_scores import (
    analysis_errors,
    coverage,
    globe_scores,
    globe_table,
    interval_name,
    spreads,
)
from diffassim.experiments.applications.globe_setting import (
    DAY,
    FIELDS,
    GlobeSetting,
    RelaxedModel,
    area_weights,
    draw_network,
    forced_model,
    land_density,
    observe_day,
    satellite_track,
)
from diffassim.experiments.framework.run import run
from diffassim.models.spherical_shallow_water import ShallowWaterState
from diffassim.plotting.globe import globe_overview

installed = importlib.util.find_spec("dinosaur") is not None
needs_dinosaur = pytest.mark.skipif(not installed, reason="dinosaur, of the extra sphere, is not installed")
SETTING = GlobeSetting(members=4, stations=30, points=4)
LATITUDE = np.degrees(np.arcsin(np.polynomial.legendre.leggauss(32)[0]))
LONGITUDE = 360 / 64 * np.arange(64)


def gaussian_state(seed=0):
    rng = np.random.default_rng(seed)
    return ShallowWaterState(*(jnp.asarray(rng.normal(size=(32, 64))) for _ in FIELDS))


def test_stations_stand_where_land_is_and_another_seed_moves_them():
    network = draw_network(SETTING)
    assert network.stations.shape == (30, 2)
    land = land_density(LATITUDE[:, None], LONGITUDE)
    density = area_weights(32, 64) * (globe_setting.ISLANDS + land)
    many = draw_network(SETTING._replace(stations=1000)).stations
    np.testing.assert_allclose(land_density(*many.T).mean(), np.sum(density * land) / np.sum(density), rtol=0.05)
    assert not np.allclose(network.stations, draw_network(SETTING._replace(seed=1)).stations)
    np.testing.assert_array_equal(network.stations, draw_network(SETTING).stations)


def test_the_satellite_keeps_its_inclination_and_moves_on_by_the_earths_rotation():
    network = draw_network(SETTING)
    track = satellite_track(SETTING, network, np.arange(1, 25)).reshape(-1, 2)
    assert np.abs(track[:, 0]).max() <= 180 - globe_setting.INCLINATION + 1e-9
    assert np.abs(track[:, 0]).max() > 70
    fine = SETTING._replace(points=60)  # every minute: after an orbit of 101 minutes the same latitude, further west
    minutes = satellite_track(fine, network, np.arange(1, 9)).reshape(-1, 2)
    np.testing.assert_allclose(minutes[101:, 0], minutes[:-101, 0], atol=1e-6)
    west = (minutes[:-101, 1] - minutes[101:, 1]) % 360
    np.testing.assert_allclose(west, 360 * 101 / (24 * 60), atol=1e-6)


def test_a_relaxed_model_is_drawn_to_its_target():
    still = da.models.FunctionModel(lambda x, t: x)
    model = RelaxedModel(still, jnp.array([10.0]), 0.25)
    np.testing.assert_allclose(da.rollout(model, jnp.array([2.0]), 3)[:, 0], 10 - 8 * 0.75 ** np.arange(4))


@needs_dinosaur
@pytest.mark.slow
def test_two_jets_are_balanced_on_both_hemispheres():
    x = globe_start.two_jets(jax.random.key(3))
    assert float(x.u[:16].max()) > 60 and float(x.u[16:].max()) > 60
    np.testing.assert_allclose(np.asarray(x.u[:16].mean(-1)), np.asarray(x.u[16:].mean(-1))[::-1], atol=0.5)
    end = jax.jit(lambda x: da.rollout(forced_model(SETTING).model, x, 6, at=[6]))(x)
    assert float(jnp.abs(end.u[0] - x.u).max()) < 3 and float(jnp.abs(end.v[0]).max()) < 3


@needs_dinosaur
def test_a_day_of_observations_has_errors_gaps_and_places():
    setting = SETTING._replace(stations=300, points=40, outage=0.0)
    base = gaussian_state()
    rows = jax.tree.map(lambda leaf: jnp.stack([leaf * k for k in range(DAY + 1)]), base)
    network = draw_network(setting)
    stations, satellite = observe_day(setting, network, rows, 0, 0)
    assert stations.values.shape == (4, 3, 300) and satellite.values.shape == (24, 1, 40)
    assert stations.steps.tolist() == [6, 12, 18, 24] and satellite.steps.tolist() == list(range(1, 25))
    for stream, missing, std in ((stations, 0.1, [2.0, 2.0, 10.0]), (satellite, 0.3, [20.0])):
        mask = np.asarray(stream.mask)
        np.testing.assert_allclose(1 - mask.mean(), missing, atol=0.05)
        exact = jax.vmap(stream.operator)(jax.tree.map(lambda leaf, at=stream.steps: leaf[at], rows), stream.where)
        error = np.where(mask, np.asarray(stream.values) - np.asarray(exact), np.nan)
        np.testing.assert_allclose(np.nanstd(error, axis=(0, 2)), std, rtol=0.1)
    again = observe_day(setting, network, rows, 0, 0)[0]
    np.testing.assert_array_equal(again.values, stations.values)
    assert not np.array_equal(observe_day(setting, network, rows, 0, 1)[0].values, stations.values)
    nothing = observe_day(setting._replace(outage=1.0), network, rows, 0, 0)[1]
    assert int(nothing.count()) == 0


def weather(latitude=LATITUDE, longitude=LONGITUDE, **changes):
    """Return a dataset like that of the package: axes (level, longitude, latitude)."""
    rng = np.random.default_rng(1)
    shape, dims = (2, len(longitude), len(latitude)), ("level", "longitude", "latitude")
    fields = {name: (dims, rng.normal(size=shape)) for name in ("u_component_of_wind", "v_component_of_wind")}
    fields["geopotential"] = (dims, 9.80665 * rng.normal(5500, 100, shape))
    axes = {"level": [500, 1000], "longitude": longitude, "latitude": latitude}
    return xr.Dataset(fields | changes, axes)


def package(path, dataset, monkeypatch):
    """Install a stub of the package into a directory, with what `importlib.metadata` looks for."""
    (path / "neuralgcm" / "data").mkdir(parents=True)
    dataset.to_netcdf(path / globe_start.FILE)
    info = path / "neuralgcm-9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: neuralgcm\nVersion: 9\n")
    monkeypatch.setattr(sys, "path", [str(path), *sys.path])


@needs_dinosaur
def test_the_weather_of_the_package_becomes_a_state(tmp_path, monkeypatch):
    dataset = weather()
    package(tmp_path, dataset.sortby("latitude", ascending=False), monkeypatch)
    path = globe_start.reanalysis_file()
    assert path == tmp_path / globe_start.FILE == globe_start.require_reanalysis()
    x = globe_start.reanalysis_state(path)
    chosen = dataset.sel(level=500).transpose("latitude", "longitude")
    np.testing.assert_allclose(x.u, chosen["u_component_of_wind"].values)
    height = chosen["geopotential"].values / 9.80665
    np.testing.assert_allclose(np.diff(x.height, axis=-1), np.diff(height, axis=-1), atol=1e-8)
    np.testing.assert_allclose(np.sum(area_weights(32, 64) * np.asarray(x.height)), 10_000, rtol=1e-12)


@needs_dinosaur
@pytest.mark.parametrize(
    ("dataset", "error", "message"),
    [
        (weather(latitude=LATITUDE + 1), ConfigurationError, "the latitudes, 32 from"),
        (weather(longitude=LONGITUDE[::2]), ConfigurationError, "the longitudes, 32 from"),
        (weather().drop_vars("geopotential"), DataError, "geopotential is missing"),
        (weather().isel(level=[1]), DataError, "the level 500 hPa is missing"),
        (weather() * np.nan, DataError, "one complete field of each variable"),
    ],
)
def test_another_file_in_its_place_is_refused(dataset, error, message, tmp_path):
    dataset.to_netcdf(tmp_path / "x.nc")
    with pytest.raises(error, match=message):
        globe_start.reanalysis_state(tmp_path / "x.nc")


def test_without_the_packages_the_command_that_brings_them_is_named(monkeypatch):
    def absent(name):
        raise globe_start.PackageNotFoundError(name)

    monkeypatch.setattr(globe_start, "distribution", absent)
    assert globe_start.reanalysis_file() is None
    with pytest.raises(ConfigurationError, match="pip install --no-deps neuralgcm"):
        globe_start.require_reanalysis()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r'pip install "diffassim\[sphere\]"'):
        Globe().start(GlobeConfiguration())


def test_settings_that_leave_nothing_to_score_are_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    with pytest.raises(ConfigurationError, match="burn_in=3 leaves nothing of 3 days"):
        Globe().start(GlobeConfiguration(days=3))


def output(error, spread, windows=8):
    """Return a dataset in which every method is wrong by the same amount everywhere, and filters expect `spread`."""
    grid, fields = ("latitude", "longitude"), {}
    for name in FIELDS:
        truth = np.asarray(getattr(gaussian_state(1), name))
        fields[f"true_{name}"] = (("time", *grid), np.tile(truth, (windows, 1, 1)))
        wrong = truth + np.asarray(error)[:, None, None]
        for part in ("analysis", "background"):
            fields[f"{part}_{name}"] = (("time", "method", *grid), np.tile(wrong, (windows, 1, 1, 1)))
        fields[f"spread_{name}"] = (("time", "filter", *grid), np.full((windows, 2, 32, 64), spread))
    many = len(METHODS)
    fields["failed"] = (("time", "method"), np.zeros((windows, many), int))
    forecasts = np.full((windows, many, 3, 2), np.nan)
    forecasts[3::4] = np.arange(1.0, 4.0)[:, None]
    fields["forecast_error"] = (("time", "method", "lead", "kind"), forecasts)
    fields["spectrum"] = (("time", "method", "kind", "degree"), np.ones((windows, many, 2, 23)))
    places = np.tile([[10.0, 20.0], [-30.0, 200.0]], (windows, 1, 1))
    fields |= {
        "station": (("time", "number", "coordinate"), places),
        "track": (("time", "point", "coordinate"), places),
    }
    fields |= {
        "reports": (("time", "number"), np.ones((windows, 2))),
        "seen": (("time", "point"), np.ones((windows, 2))),
    }
    facts = {"members": 24.0, "observed": 300.0, "from_reanalysis": 0.0, "chosen_radius": 1300.0}
    facts |= {interval_name(method, name): 1.7 for method in ENSEMBLES for name in FIELDS}
    fields |= {name: ("time", np.full(windows, value)) for name, value in facts.items()}
    axes = {"time": (np.arange(windows) + 1) / 4, "method": list(METHODS), "filter": list(ENSEMBLES)}
    axes |= {"latitude": LATITUDE, "longitude": LONGITUDE, "lead": list(LEADS), "kind": ["wind", "height"]}
    return xr.Dataset(fields, axes)


def test_scores_count_what_is_finite_after_the_burn_in():
    dataset = output(np.arange(1.0, 8.0), 4.0)
    dataset["failed"][6, 4] = 1
    dataset["analysis_height"][6, 4] = np.nan
    value = globe_scores(dataset, 1).set_index(["method", "variable", "lead", "metric"])
    np.testing.assert_allclose(value.loc[("3D-Var", "wind", 0, "rmse"), "value"], np.sqrt(2) * 4)
    np.testing.assert_allclose(value.loc[("LETKF", "height", 0, "rmse"), "value"], 7.0)
    assert value.loc[("4D-Var", "height", 0, "rmse"), "n"] == 3 and value.loc[("LETKF", "wind", 0, "rmse"), "n"] == 4
    assert value.loc[("4D-Var", "all", 0, "failed_windows"), "value"] == 1
    np.testing.assert_allclose(value.loc[("4D-Var", "height", 48, "rmse"), "value"], 2.0)
    # The half width of the intervals is 1.7 times 4 = 6.8: errors of 6 lie inside, errors of 7 do not.
    assert value.loc[("ETKF, not localized", "wind", 0, "coverage_90"), "value"] > 1 - 1e-12
    assert value.loc[("LETKF", "height", 0, "coverage_90"), "value"] == 0
    np.testing.assert_allclose(
        value.loc[("LETKF", "wind", 0, "expected_error"), "value"], 4 * np.sqrt(2 * 25 / 24), rtol=1e-12
    )


def test_table_and_figure_name_every_method():
    dataset = output(np.arange(1.0, 8.0), 4.0)
    table = globe_table(dataset, globe_scores(dataset, 1))
    assert all(method in table for method in METHODS) and "radius 1300" in table and "4 of 8 windows" in table
    shares = {method: np.ones(8) for method in ENSEMBLES}
    assert isinstance(globe_overview(dataset, analysis_errors(dataset), spreads(dataset), shares, 1), Figure)
    np.testing.assert_allclose(coverage(dataset, "u")[0], [1, 0], atol=1e-12)
    np.testing.assert_allclose(kind_errors(gaussian_state()), [np.sqrt(2), 1], rtol=0.1)


def learned_covariance():
    rng = np.random.default_rng(5)
    smooth = [jax.tree.map(lambda leaf, a=a: a * leaf, globe_start.two_jets(jax.random.key(k))) for k, a in
              enumerate(rng.normal(0, 0.1, 6))]  # fmt: skip
    return ZonallyHomogeneous.from_samples(jax.tree.map(lambda *leaves: jnp.stack(leaves), *smooth))


@needs_dinosaur
@pytest.mark.slow
@pytest.mark.long
def test_the_gradient_of_4d_var_through_the_library_is_right():
    model, network, x = forced_model(SETTING), draw_network(SETTING), globe_start.two_jets(jax.random.key(1))
    rows = jax.jit(lambda m, x: da.rollout(m, x, DAY))(model, x)
    stations, satellite = observe_day(SETTING, network, rows, 0, 0)
    windows = da.split_windows((stations, satellite), 6, 4)
    first = jax.tree.map(lambda leaf: leaf[0], windows)
    background = jax.tree.map(lambda leaf: leaf + 1.0, x)
    cost = da.StrongConstraint4DVar(model, background, learned_covariance(), first, steps=6)
    v = jax.tree.map(lambda leaf: 0.1 * jax.random.normal(jax.random.key(2), leaf.shape), cost.control())
    report = da.diagnostics.check_gradient(jax.jit(cost), v, largest_step=1e-2)
    assert report.passed and report.slopes, str(report)


@needs_dinosaur
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("method", VARIATIONAL)
def test_without_observations_the_analysis_is_the_background(method):
    setting = SETTING._replace(missing=1.0, outage=1.0)
    model, x = forced_model(setting), globe_start.two_jets(jax.random.key(1))
    rows = jax.tree.map(lambda leaf: jnp.stack([leaf] * (DAY + 1)), x)
    day = variational_day(VARIATIONAL[method], learned_covariance(), model, x, observe_day(
        setting, draw_network(setting), rows, 0, 0
    ))  # fmt: skip
    for a, b in zip(jax.tree.leaves(day.analysis), jax.tree.leaves(day.background), strict=True):
        np.testing.assert_array_equal(a, b)
    assert day.failed.tolist() == [0] * 4


@needs_dinosaur
@pytest.mark.slow
@pytest.mark.long
def test_the_experiment_improves_on_its_references(tmp_path, monkeypatch):
    monkeypatch.setattr(globe_setting, "SPIN_UP", 8)
    monkeypatch.setattr(globe_setting, "APART", 1)
    few = (("radius", 1300.0), ("global alpha", 0.5), ("3D-Var", 1.0), ("4D-Var", 1.0))
    for module in ("globe_tuning", "globe"):
        monkeypatch.setattr(f"diffassim.experiments.applications.{module}.CANDIDATES", few)
    config = GlobeConfiguration(days=3, burn_in=1, training_days=3, members=10, stations=120, start="jets", seed=1)
    results = run(Globe(), config, tmp_path / "out")
    value = results.scores.set_index(["method", "variable", "lead", "metric"])["value"]
    height = {method: value[method, "height", 0, "rmse"] for method in METHODS}
    assert height["4D-Var"] < height["optimal interpolation"] < height["climatology"]
    assert height["LETKF"] < height["ETKF, not localized"]
    assert results.counted == 8 and (tmp_path / "out" / "index.html").exists()
