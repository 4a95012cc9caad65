"""The twin experiment of emissions: its parts, exact answers where the model is linear, and the whole."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure

import diffassim as da
from diffassim.core.errors import ConfigurationError
from diffassim.covariances import Blocks
from diffassim.experiments.applications.air_quality import (
    METHODS,
    AirQuality,
    AirQualityConfiguration,
    footprint,
    source_receptor,
)
from diffassim.experiments.applications.air_quality_setting import (
    STEPS,
    AirQuality2D,
    cost_of,
    draw_case,
    rate_covariance,
)
from diffassim.experiments.framework.configuration import build_configuration
from diffassim.experiments.framework.run import run

SMALL = AirQuality2D((8, 9), sources=2, stations=5, window=3, forecast=1, seed=4)
LINEAR = SMALL._replace(order=1)


@pytest.mark.slow
def test_a_case_is_what_it_says():
    case = draw_case(SMALL, 0)
    across_y, across_x = case.truth.wind
    divergence = np.diff(across_y, axis=1) + np.diff(across_x, axis=2)
    np.testing.assert_allclose(divergence, 0, atol=1e-12)
    # One kg/h adds 1e9 ug in an hour to cells of 2.5 km x 2.5 km x 500 m.
    np.testing.assert_allclose(np.sum(case.truth.patterns, axis=(1, 2)), 1e9 / (2500.0**2 * 500.0), rtol=1e-12)
    np.testing.assert_allclose(case.model.emissions, np.tile(case.model.emissions[:1], (4, 1)), rtol=0)
    assert float(jnp.min(case.start)) >= 0 and float(jnp.max(jnp.abs(case.start - case.background))) > 0
    everywhere = np.concatenate([case.stations, case.withheld])
    assert len(np.unique(everywhere, axis=0)) == 10
    other = draw_case(SMALL, 1)
    assert not np.array_equal(case.stations, other.stations)
    wrong = draw_case(SMALL._replace(wind_error=1.0), 0)
    np.testing.assert_array_equal(wrong.truth.wind[0], case.truth.wind[0])
    assert float(jnp.max(jnp.abs(wrong.model.wind[0] - case.truth.wind[0]))) > 0.1


def test_the_prior_of_the_rates_is_a_correlation():
    correlation = rate_covariance(30)
    np.testing.assert_allclose(np.diag(correlation), 1.0, rtol=1e-14)
    np.testing.assert_allclose(correlation[0, 6], 0.75 + 0.25 / np.e, rtol=1e-12)
    assert np.linalg.eigvalsh(correlation).min() > 0


@pytest.mark.slow
def test_the_source_receptor_matrix_finds_constant_rates_exactly_where_the_model_is_linear():
    case = draw_case(LINEAR._replace(missing=0.0), 2)
    factors = np.array([0.4, 2.5])
    true = case.model.replace(emissions=factors[None] * case.model.emissions)
    rows = jax.jit(lambda m, c: da.rollout(m, c, 3 * STEPS))(true, case.background)[STEPS::STEPS]
    values = rows[:, case.stations[:, 0], case.stations[:, 1]]
    values = values.at[1, 2].set(jnp.nan)
    y = da.Observations(values, case.observations.steps, case.observations.operator, case.observations.error)
    np.testing.assert_allclose(source_receptor(case._replace(observations=y), 3 * STEPS), factors, rtol=1e-9)
    negative = y.replace(values=-y.values)
    assert np.all(source_receptor(case._replace(observations=negative), 3 * STEPS) >= 0)


@pytest.mark.slow
@pytest.mark.long
def test_4d_var_equals_the_normal_equations_and_the_kalman_filter_where_the_model_is_linear():
    case = draw_case(LINEAR, 0)
    cost = cost_of(LINEAR, case, bounded=False)
    solution = da.minimize(cost, da.GaussNewton(tolerance=1e-9, growth=None))
    start = {"state": case.background, "emissions": case.model.emissions}
    flat, shaped = ravel_pytree(start)

    def seen(z):
        x = shaped(z)
        rows = da.rollout(case.model.replace(emissions=x["emissions"]), x["state"], cost.steps, at=y.steps)
        return rows[:, case.stations[:, 0], case.stations[:, 1]]

    y = case.observations
    used = np.asarray(y.mask)
    h, G = (np.asarray(a) for a in jax.jit(lambda z: (seen(z), jax.jacfwd(seen)(z)))(flat))
    assert not used.all()
    h, G, values = h[used], G[used], np.asarray(y.values)[used]
    P = Blocks({"state": cost.B, "emissions": cost.parameters["emissions"]})
    root = np.asarray(jax.vmap(lambda v: ravel_pytree(P.sqrt(v))[0])(_units(P.control_like(start)))).T
    A = G @ root / LINEAR.noise
    inverse = np.linalg.inv(np.eye(root.shape[1]) + A.T @ A)
    exact = np.asarray(flat) + root @ (inverse @ (A.T @ (values - h)))
    found = ravel_pytree({"state": solution.state, "emissions": solution.model.emissions})[0]
    np.testing.assert_allclose(found, exact, atol=1e-7 * np.abs(exact).max())

    posterior = da.variational.posterior(cost, solution, tolerance=1e-9)
    variance = jax.jit(lambda p: p.variance_of(lambda v: p.cost.controlled_model(v).emissions))(posterior)
    expected = shaped(jnp.asarray(np.einsum("ij,jk,ik->i", root, inverse, root)))["emissions"]
    np.testing.assert_allclose(variance, expected, rtol=1e-6)

    model = da.models.WithParameters(case.model, ("emissions",))
    prior = Blocks({"state": cost.B, "parameters": Blocks({"emissions": cost.parameters["emissions"]})})
    belief = da.gaussian.Gaussian.from_covariance(model.augmented(case.background), prior)
    stations = y.replace(operator=da.observations.Compose(da.observations.Field("state"), y.operator))
    end, _ = da.cycle(da.gaussian.EKF(), model, belief, stations)
    np.testing.assert_allclose(end.mean["parameters"]["emissions"], solution.model.emissions, rtol=1e-6)
    np.testing.assert_allclose(end.mean["state"], cost.state(solution.control, cost.steps), atol=1e-6)


def _units(control):
    """Return the unit vectors of a control vector, with a leading axis."""
    flat, shaped = ravel_pytree(control)
    return jax.vmap(shaped)(jnp.eye(flat.size))


@pytest.mark.slow
@pytest.mark.long
def test_the_gradient_by_fields_and_bounded_rates_is_right():
    cost = cost_of(SMALL, draw_case(SMALL, 1))
    flat, shaped = ravel_pytree(cost.control())
    v = shaped(0.1 * jax.random.normal(jax.random.key(0), flat.shape))
    report = da.diagnostics.check_gradient(jax.jit(cost), v, largest_step=1e-2)
    assert report.passed and report.slopes, str(report)
    far = cost.control()
    far["parameters"]["emissions"] = far["parameters"]["emissions"] - 5.0
    assert float(jnp.min(cost.controlled_model(far).emissions)) > 0


@pytest.mark.slow
@pytest.mark.long
def test_the_experiment_improves_on_its_references(tmp_path):
    config = AirQualityConfiguration(
        cases=2, height=12, width=14, sources=3, stations=8, window=8, forecast=2, rank=60, seed=1
    )
    results = run(AirQuality(), config, tmp_path / "out")
    value = results.scores.set_index(["method", "variable", "lead", "metric"])["value"]
    fields = {m: value[m, "concentration, all cells", 0, "rmse"] for m in METHODS}
    rates = {m: value[m, "emission rate", 0, "mean_relative_error"] for m in METHODS}
    assert fields["4D-Var"] < 0.7 * fields["prior"] and fields["4D-Var"] < fields["interpolation"]
    assert rates["4D-Var"] < rates["prior"] == rates["interpolation"]
    assert 0 < value["4D-Var", "emission rate", 0, "median_log_std"] < config.spread
    assert isinstance(results.figures["air_quality"], Figure) and "90 % intervals" in results.table
    assert results.counted == 2
    with xr.open_dataset(tmp_path / "out" / "analysis.nc") as dataset:
        d = dataset["departure"].values[:, 1] / config.noise  # of 4D-Var
        J = [row[np.isfinite(row)] for row in dataset["cost"].values]
        misfit = dataset["misfit"].values * np.isfinite(d).sum(axis=(1, 2))
    for k in range(2):
        assert np.all(np.diff(J[k]) < 1e-9) and 2 * J[k][-1] >= misfit[k] * (1 - 1e-3)
        assert np.nansum(d[k] ** 2) < misfit[k]  # what is left of 2 J is that of the prior
    assert set(results.figures) == {"air_quality", "observations"}


@pytest.mark.slow
def test_the_footprint_is_the_derivative_of_the_withheld_mean():
    case = draw_case(LINEAR, 3)
    hours, rng = 2, np.random.default_rng(0)
    change = rng.normal(size=case.background.shape)
    field = footprint(LINEAR, case, hours)
    rolled = lambda x: jnp.roll(x, -(LINEAR.window - hours), axis=0)  # noqa: E731
    model = case.model.replace(wind=tuple(rolled(w) for w in case.model.wind), emissions=rolled(case.model.emissions))
    ends = [da.rollout(model, case.background + s * change, hours * STEPS)[-1] for s in (0.0, 1.0)]
    y, x = case.withheld.T
    difference = float(jnp.mean(ends[1][y, x]) - jnp.mean(ends[0][y, x]))
    np.testing.assert_allclose(np.sum(field * change), difference, rtol=1e-9)
    assert np.all(field > -1e-12)


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ConfigurationError, match="sources"):
        build_configuration(AirQualityConfiguration, {"sources": 1}, "air-quality")
    with pytest.raises(ConfigurationError, match="missing"):
        build_configuration(AirQualityConfiguration, {"missing": 1.0}, "air-quality")
