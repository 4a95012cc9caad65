"""The twin experiment of seismograms: its parts and the whole."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

import diffassim as da
from diffassim.core.errors import ConfigurationError
from diffassim.experiments.applications import seismic_setting
from diffassim.experiments.applications.seismic import METHODS, Seismic, SeismicConfiguration, _straight_rays
from diffassim.experiments.applications.seismic_setting import (
    Seismic2D,
    cost_of,
    first_guess,
    pick_times,
    receiver_places,
    record,
    true_model,
)
from diffassim.experiments.framework.configuration import build_configuration
from diffassim.experiments.framework.run import run

SETTING = Seismic2D(1, 4.0, 0.03, 120.0, 200.0, 600.0, 0.15, 3)


def test_straight_rays_find_a_source_in_a_homogeneous_medium():
    receivers = jnp.asarray(receiver_places())
    place, origin, speed = jnp.array([700.0, 1700.0]), 0.4, 2250.0
    times = origin + jnp.sqrt(jnp.sum(jnp.square(receivers - place[None]), axis=1) + 1.0) / speed
    scales = jnp.array([2000.0, 1.0, 2200.0])
    found = _straight_rays(times[None], receivers, jnp.array([[850.0, 1500.0]]), jnp.array([0.3]), scales)[0]
    np.testing.assert_allclose(found[:2], place, atol=40.0)  # the prior of the velocity draws it a little
    np.testing.assert_allclose(found[2:], [origin, speed], rtol=0.05)


@pytest.mark.slow
def test_the_truth_explains_its_own_seismograms_and_nothing_else_does():
    model = true_model(SETTING)
    values = record(SETTING, model)
    assert values.shape == (len(SETTING.sampled), len(receiver_places()))
    cost = cost_of(SETTING, values, 1.0)
    changed = cost.replace(model=model)
    assert float(jax.jit(changed)(changed.control())) < 1e-12
    assert float(jax.jit(cost)(cost.control())) > 1e3
    strongest = pick_times(SETTING, np.asarray(values))
    assert strongest.shape == (1, len(receiver_places())) and np.ptp(strongest) > 0.1
    assert np.all(strongest > float(np.asarray(model.sources.history.time)[0]))


@pytest.mark.slow
@pytest.mark.long
def test_the_gradient_by_velocity_places_and_times_is_right():
    cost = cost_of(SETTING, record(SETTING, true_model(SETTING)), 3000.0)
    keys = jax.random.split(jax.random.key(0), 3)
    v = cost.control()
    leaves, structure = jax.tree.flatten(v)
    v = jax.tree.unflatten(structure, [0.1 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)])
    report = da.diagnostics.check_gradient(jax.jit(cost), v, largest_step=1e-2)
    assert report.passed and report.slopes, str(report)


@pytest.mark.slow
@pytest.mark.long
def test_the_experiment_improves_on_its_references(tmp_path):
    results = run(Seismic(), SeismicConfiguration(chunks=3, rank=10), tmp_path / "out")
    value = results.scores.set_index(["method", "variable", "metric"])["value"]
    errors = [value[m, "place", "median_error"] for m in METHODS]
    assert errors[2] < errors[1] < errors[0]
    assert value["4D-Var", "velocity, all cells", "rmse"] < value["prior", "velocity, all cells", "rmse"]
    assert isinstance(results.figures["seismic"], Figure) and "median" in results.table


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ConfigurationError, match="frequency"):
        build_configuration(SeismicConfiguration, {"frequency": 50.0}, "seismic")
    assert first_guess(SETTING).courant_number() < 0.8  # anomalies may be faster
    assert min(seismic_setting.SHAPE) > seismic_setting.LAYER * 2
