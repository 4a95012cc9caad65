"""minimize: codes, errors, missing observations, window growth, compile-once."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.core.errors import AssimilationWarning, ConfigurationError, DataError, ShapeError
from diffassim.models.base import FunctionModel
from diffassim.variational import MinimizationError
from diffassim.variational.minimizers.minimize import _minimize

from .problems import lorenz96_window

IDENTITY = da.covariances.Diagonal(std=1.0)


def lorenz_cost(times=4, seed=0):
    return lorenz96_window(times, seed)[0]


@pytest.mark.parametrize("kind", ["none", "all missing"])
@pytest.mark.slow
def test_without_observations_the_analysis_is_the_background_bitwise(kind):
    values = np.zeros((0, 40)) if kind == "none" else np.full((2, 40), np.nan)
    obs = da.Observations(values, np.arange(len(values)), error=IDENTITY)
    cost = lorenz_cost().replace(observations=obs, steps=15)
    solution = da.minimize(cost)
    assert np.array_equal(solution.state, cost.background)
    assert solution.search.result == da.Result.CONVERGED and float(solution.cost) == 0.0


@pytest.mark.slow
def test_masked_observations_equal_removed_ones_in_solution_and_gradient():
    cost = lorenz_cost()
    stream = cost.observations[0]
    mask = np.random.default_rng(0).uniform(size=40) < 0.6
    masked = cost.replace(
        observations=da.Observations(jnp.where(mask, stream.values, jnp.nan), stream.steps, error=IDENTITY)
    )
    subset = da.observations.Subset(jnp.asarray(np.flatnonzero(mask)))
    removed = cost.replace(observations=da.Observations(stream.values[:, mask], stream.steps, subset, IDENTITY))
    tight = da.GaussNewton(tolerance=1e-9)

    def mean(cost, x_b):
        return jnp.mean(da.minimize(cost.replace(background=x_b), tight).state)

    np.testing.assert_allclose(da.minimize(masked, tight).state, da.minimize(removed, tight).state, atol=1e-9)
    np.testing.assert_allclose(
        jax.grad(mean, 1)(masked, cost.background), jax.grad(mean, 1)(removed, cost.background), atol=1e-9
    )


def test_new_numbers_reuse_the_compiled_program():
    cost, method = lorenz_cost(), da.GaussNewton(tolerance=1e-2)
    da.minimize(cost, method)
    before = _minimize._cache_size()
    stream = cost.observations[0]
    da.minimize(cost.replace(background=cost.background + 0.1), method)
    da.minimize(cost.replace(model=cost.model.replace(forcing=7.9)), method)
    da.minimize(cost.replace(B=da.covariances.Diagonal(std=0.7)), method.replace(tolerance=1e-1))
    other = da.Observations(
        stream.values.at[0, 3].set(jnp.nan), stream.steps - 0, error=da.covariances.Diagonal(std=2.0)
    )
    da.minimize(cost.replace(observations=other), method)
    da.minimize(cost.replace(observations=da.Observations(stream.values, [0, 3, 4, 11], error=IDENTITY)), method)
    assert _minimize._cache_size() == before


def test_a_trial_that_is_not_finite_shrinks_the_step_instead_of_poisoning_it():
    # The full Gauss-Newton step from x = 0.5 ends at x = 0.5 - 0.5 * 4.3 < 0, where log(x) is undefined.
    obs = da.Observations(np.array([[-5.0]]), [0], operator=jnp.log, error=da.covariances.Diagonal(std=0.1))
    solution = da.minimize(da.ThreeDVar(jnp.array([0.5]), da.covariances.Diagonal(std=10.0), obs))
    assert solution.search.result == da.Result.CONVERGED
    np.testing.assert_allclose(jnp.log(solution.state), -5.0, atol=1e-3)


def test_a_model_that_blows_up_raises_and_keeps_the_best_state():
    model = FunctionModel(lambda x, t: x**2)
    obs = da.Observations(np.ones((1, 2)), [12], error=IDENTITY)
    cost = da.StrongConstraint4DVar(model, jnp.full(2, 10.0), IDENTITY, obs)
    with pytest.raises(MinimizationError, match=r"NON_FINITE.*unstable over the window") as caught:
        da.minimize(cost, da.LBFGS())
    assert np.array_equal(caught.value.solution.state, cost.background)


@pytest.mark.slow
def test_too_few_iterations_warn_with_advice():
    with pytest.warns(AssimilationWarning, match="MAX_ITERATIONS.*raise the limit"):
        solution = da.minimize(lorenz_cost(), da.GaussNewton(max_iterations=2))
    assert not bool(solution.converged)


def test_inside_jit_a_code_comes_back_instead_of_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        code = jax.jit(lambda c: da.minimize(c, da.GaussNewton(max_iterations=2)).result)(lorenz_cost())
    assert int(code) == da.Result.MAX_ITERATIONS


@pytest.mark.slow
def test_vmap_over_windows_equals_one_by_one():
    costs = [lorenz_cost(seed=s) for s in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *costs)
    together = jax.vmap(lambda c: da.minimize(c).state)(stacked)
    for state, cost in zip(together, costs, strict=True):
        np.testing.assert_allclose(state, da.minimize(cost).state, atol=1e-9)


@pytest.mark.slow
def test_float32_stays_float32_and_converges():
    cost = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, jnp.float32) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating) else leaf,
        lorenz_cost(),
    )
    solution = da.minimize(cost, da.GaussNewton(tolerance=1e-2))
    assert solution.state.dtype == jnp.float32 and bool(solution.converged)
    np.testing.assert_allclose(solution.state, da.minimize(lorenz_cost()).state, atol=2e-3)


@pytest.mark.filterwarnings("ignore::diffassim.AssimilationWarning")  # the plain search may converge or not
@pytest.mark.slow
def test_a_long_window_reaches_the_minimum_that_plain_gauss_newton_misses():
    cost, truth = lorenz96_window(40, seed=105)
    grown = da.minimize(cost)
    plain = da.minimize(cost, da.GaussNewton(growth=None))
    assert float(grown.cost) < float(cost({"state": jnp.asarray(truth) - cost.background}))
    assert float(plain.cost) > float(grown.cost) + 100
    assert set(np.asarray(grown.search.horizon_history).tolist()) - {-1, cost.steps}, "no shorter window was tried"


@pytest.mark.parametrize("horizon", [None, 8])
@pytest.mark.slow
def test_storing_the_linearization_does_not_change_the_search(horizon):
    cost = lorenz_cost().replace(horizon=horizon)
    stored, recomputed = (da.minimize(cost, da.GaussNewton(store_linearization=store)) for store in (True, False))
    assert int(stored.search.work) == int(recomputed.search.work)
    np.testing.assert_allclose(stored.state, recomputed.state, rtol=0, atol=1e-11)


@pytest.mark.slow
def test_the_linearization_is_stored_only_where_it_fits_in_memory():
    cost = lorenz_cost()

    def temporary_bytes(method):
        return _minimize.lower(cost, method, None, False).compile().memory_analysis().temp_size_in_bytes

    small = temporary_bytes(da.GaussNewton(memory=1))
    assert small == temporary_bytes(da.GaussNewton(store_linearization=False))
    assert small < temporary_bytes(da.GaussNewton())


@pytest.mark.slow
def test_a_horizon_of_the_cost_is_respected():
    cost = lorenz_cost()
    stream = cost.observations[0]
    first = da.Observations(stream.values[:2], stream.steps[:2], error=IDENTITY)
    limited = da.minimize(cost.replace(horizon=jnp.asarray(9, jnp.int32)))
    np.testing.assert_allclose(limited.state, da.minimize(cost.replace(observations=first)).state, atol=1e-9)


@pytest.mark.slow
def test_parameters_are_found_within_their_bounds():
    truth = da.models.Lorenz96(forcing=8.0)
    x0 = da.rollout(truth, jnp.asarray(np.random.default_rng(0).normal(size=40)) + 2.0, 400, at=[400])[0]
    steps = np.arange(0, 21, 2)
    obs = da.Observations(da.rollout(truth, x0, 20, at=steps), steps, error=da.covariances.Diagonal(std=0.1))
    cost = da.StrongConstraint4DVar(
        truth.replace(forcing=6.5), x0, da.covariances.Diagonal(std=0.1), obs,
        parameters={"forcing": da.covariances.Diagonal(std=2.0)},
    )  # fmt: skip
    solution = da.minimize(cost)
    np.testing.assert_allclose(solution.model.forcing, 8.0, atol=0.02)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"steps": 10}, ShapeError, "observation at step 15 lies outside the window of 10 steps"),
        ({"background": jnp.full(40, jnp.nan)}, DataError, "the background holds 40 non-finite"),
        ({"B": None}, ShapeError, "nothing to control"),
        ({"B": da.covariances.Dense.from_matrix(np.eye(3))}, ShapeError, "StrongConstraint4DVar.B"),
    ],
)
def test_bad_input_is_named(change, error, message):
    with pytest.raises(error, match=message):
        lorenz_cost().replace(**change)


def test_a_start_of_another_shape_is_named():
    with pytest.raises(ShapeError, match="`start` has the shapes"):
        da.minimize(lorenz_cost(), start={"state": jnp.zeros(3)})


def test_an_unknown_parameter_is_named():
    with pytest.raises(ConfigurationError, match="Lorenz96 has no parameter 'forcng'; it has forcing"):
        da.minimize(lorenz_cost().replace(parameters={"forcng": IDENTITY}))


@pytest.mark.parametrize(
    "build",
    [lambda: da.GaussNewton(tolerance=0.0), lambda: da.variational.PrimalCG(-1.0), lambda: da.variational.DualCG(0)],
)
def test_tolerances_must_be_positive(build):
    with pytest.raises(ConfigurationError, match="must be finite and positive"):
        build()
