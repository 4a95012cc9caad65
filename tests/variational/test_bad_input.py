"""A window that cannot be assimilated ends in a named error or a code with advice, and nothing is lost."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import diffassim as da
from diffassim.models import FunctionModel
from diffassim.variational import MinimizationError

WHITE = da.covariances.Diagonal(std=1.0)
SQUARING = FunctionModel(lambda x, t: x**2)  # from 10, it overflows at the ninth step


def exploding(steps=12, every=12):
    at = np.arange(every, steps + 1, every)
    return da.StrongConstraint4DVar(
        SQUARING, jnp.full(2, 10.0), WHITE, da.Observations(np.ones((len(at), 2)), at, error=WHITE)
    )


def test_a_model_that_blows_up_is_named_by_the_default_minimizer_too():
    with pytest.raises(MinimizationError, match=r"NON_FINITE: .*unstable over the window") as caught:
        da.minimize(exploding())
    assert np.array_equal(caught.value.solution.state, jnp.full(2, 10.0))


@pytest.mark.parametrize("last", [11, 15])
@pytest.mark.slow
def test_a_window_over_which_the_background_overflows_is_grown_from_the_solution_of_shorter_ones(last):
    # 1.05 overflows in the 14th step, the truth of .95 does not: early observations lead away from where J is infinite.
    at = np.arange(1, last + 1)
    values = np.asarray(da.rollout(SQUARING, jnp.array([0.95]), last, at=at))
    small = da.covariances.Diagonal(std=0.01)
    cost = da.StrongConstraint4DVar(SQUARING, jnp.array([1.05]), WHITE, da.Observations(values, at, error=small))
    assert bool(jnp.isfinite(cost(cost.control()))) == (last == 11)
    solution = da.minimize(cost)
    assert bool(solution.converged)
    np.testing.assert_allclose(solution.state, 0.95, atol=0.01)


@pytest.mark.slow
def test_one_window_that_blows_up_leaves_the_others_of_its_batch_as_they_are():
    cost = exploding(steps=12, every=4).replace(model=SQUARING)
    healthy, method = jnp.array([0.5, 0.6]), da.GaussNewton(tolerance=1e-8)

    def analyze(x):
        solution = da.minimize(cost.replace(background=x), method)
        return solution.state, solution.result

    batch = jnp.stack([healthy, jnp.full(2, 1e30), healthy + 0.1])

    def total(x):
        found = analyze(x)
        return jnp.sum(found[0]), found

    @jax.jit
    @jax.vmap
    def everything(x):
        (_, (state, code)), slope = jax.value_and_grad(total, has_aux=True)(x)
        return state, code, slope

    states, codes, slopes = everything(batch)
    alone = everything(batch.at[1].set(healthy))
    assert codes[1] == da.Result.NON_FINITE and np.array_equal(states[1], batch[1]) and np.isnan(slopes[1]).all()
    assert alone[1][1] == codes[0] != da.Result.NON_FINITE
    for found, expected in zip((states, codes, slopes), alone, strict=True):
        np.testing.assert_array_equal(found[jnp.array([0, 2])], expected[jnp.array([0, 2])])
    assert np.isfinite(alone[2]).all()


def test_the_best_state_of_a_window_that_never_was_finite_is_the_solution_of_the_longest_one_that_was():
    # The truth overflows as well: step 12 has no finite value, but the observations before it say something.
    at, one = np.array([1, 2, 12]), da.covariances.Diagonal(std=0.1)
    obs = da.Observations(np.array([[16.0], [256.0], [1.0]]), at, error=da.covariances.Diagonal(std=1.0))
    cost = da.StrongConstraint4DVar(SQUARING, jnp.array([3.9]), one, obs)
    with pytest.raises(MinimizationError, match="NON_FINITE") as caught:
        da.minimize(cost, da.GaussNewton(tolerance=1e-6))
    np.testing.assert_allclose(caught.value.solution.state, 4.0, atol=0.01)


@pytest.mark.parametrize("method", [da.GaussNewton(), da.LBFGS()], ids=["Gauss-Newton", "L-BFGS"])
def test_an_operator_that_is_not_finite_at_the_background(method):
    obs = da.Observations(np.zeros((1, 2)), [0], operator=jnp.log, error=WHITE)
    with pytest.raises(MinimizationError, match=r"NON_FINITE.*operator outside of its domain") as caught:
        da.minimize(da.ThreeDVar(jnp.array([-1.0, 1.0]), WHITE, obs), method)
    assert np.array_equal(caught.value.solution.state, [-1.0, 1.0])


def test_a_descent_whose_steps_are_too_long_keeps_the_best_state():
    obs = da.Observations(np.ones((1, 2)), [0], error=da.covariances.Diagonal(std=0.1))
    cost = da.ThreeDVar(jnp.zeros(2), WHITE, obs)
    with pytest.raises(MinimizationError, match=r"NON_FINITE.*learning rate") as caught:
        da.minimize(cost, da.Descent(optax.sgd(0.1), max_iterations=1000))
    assert np.array_equal(caught.value.solution.state, cost.background)


def test_a_stream_without_observations_has_no_influence():
    real = da.Observations(np.ones((1, 2)), [0], error=WHITE)
    empty = da.Observations(np.zeros((0, 2)), np.zeros(0, int), error=WHITE)
    missing = da.Observations(np.full((1, 2), np.nan), [0], error=WHITE)
    x_b = jnp.array([3.0, 5.0])
    alone = da.minimize(da.ThreeDVar(x_b, WHITE, real)).state
    for nothing in (empty, missing):
        np.testing.assert_array_equal(da.minimize(da.ThreeDVar(x_b, WHITE, (real, nothing))).state, alone)


def test_gradients_of_a_window_without_observations():
    nothing = da.Observations(np.full((1, 2), np.nan), [0], error=WHITE)

    def analysis(x_b, std, values):
        obs = nothing.replace(values=values)
        return da.minimize(da.ThreeDVar(x_b, da.covariances.Diagonal(std=std), obs)).state

    by_background, by_std, by_values = jax.jacrev(analysis, argnums=(0, 1, 2))(jnp.ones(2), 2.0, nothing.values)
    np.testing.assert_array_equal(by_background, np.eye(2))
    assert not np.any(by_std)
    assert np.isfinite(by_values).all()


@pytest.mark.parametrize("std", [1e-3, 1e-8])
def test_perfect_observations_that_contradict_each_other_are_inconsistent(std):
    def stream(value):
        return da.Observations(np.full((1, 2), value), [0], error=da.covariances.Diagonal(std=std))

    solution = da.minimize(da.ThreeDVar(jnp.zeros(2), WHITE, (stream(1.0), stream(0.0))))
    assert solution.result == da.Result.INCONSISTENT and "R or B is too small" in solution.describe()
    np.testing.assert_allclose(solution.state, 0.5, atol=1e-5)


def test_a_negative_weight_in_compiled_code_ends_in_a_code():
    def code(weight):
        B = weight * WHITE + (1 - weight) * WHITE
        return da.minimize(da.ThreeDVar(jnp.zeros(2), B, da.Observations(np.ones((1, 2)), [0], error=WHITE))).result

    bad = da.Result.NON_FINITE
    assert jax.jit(jax.vmap(code))(jnp.array([0.5, -0.5, 1.5])).tolist() == [0, bad, bad]


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (
            lambda: da.ThreeDVar(jnp.ones(2), da.covariances.Ensemble(jnp.ones((5, 2))), ()),
            da.DataError,
            "B: all 5 members of the ensemble are equal.*perturb them",
        ),
        (
            lambda: da.ThreeDVar(jnp.ones(2), 0.5 * WHITE + 0.5 * da.covariances.Ensemble(jnp.ones((5, 2))), ()),
            da.DataError,
            "all 5 members of the ensemble are equal",
        ),
        (
            lambda: da.ThreeDVar(jnp.ones(2), da.covariances.Ensemble(jnp.array([[1.0, 2], [np.nan, 0]])), ()),
            da.DataError,
            "the ensemble holds 1 non-finite .* Leave out the members that have failed",
        ),
        (
            lambda: da.FourDEnVar.from_model(
                SQUARING, jnp.ones(2), jnp.ones((3, 2)), da.Observations(np.ones((1, 2)), [1], error=WHITE)
            ),
            da.DataError,
            "FourDEnVar.members: all 3 members of the ensemble are equal",
        ),
        (
            lambda: 1.5 * WHITE + -0.5 * WHITE,
            da.ConfigurationError,
            "multiplied by a finite number >= 0 only, found -0.5",
        ),
        (
            lambda: da.covariances.Dense.from_matrix(np.ones((2, 2))),
            da.ConfigurationError,
            "not positive definite, its smallest eigenvalue is .*; add a small multiple of the identity",
        ),
        (
            lambda: da.ThreeDVar(jnp.ones(2), da.covariances.Diagonal(std=0.0), ()),
            da.ConfigurationError,
            r"Diagonal: std must be finite and positive, but holds 0.0. Use covariances.Zero\(\)",
        ),
        (
            lambda: da.minimize(
                da.ThreeDVar(jnp.ones(2), WHITE, da.Observations(
                    np.ones((1, 2)), [0], error=da.covariances.Ensemble(jnp.array([[1.0, 2.0], [0.0, 1.0]]))
                ))
            ),
            da.covariances.NotAvailableError,
            "Ensemble has no masked. It is of low rank",
        ),
        (
            lambda: da.ThreeDVar(jnp.ones(2), WHITE, da.Observations(np.ones((1, 2)), [1], error=WHITE)),
            da.ShapeError,
            "an observation at step 1 lies outside the window of 0 steps",
        ),
        (
            lambda: da.StrongConstraint4DVar(
                SQUARING, jnp.ones(2), WHITE, tuple(da.Observations(np.ones((1, 2)), [k], error=WHITE) for k in (1, 7)),
                steps=6,
            ),
            da.ShapeError,
            "an observation at step 7 lies outside the window of 6 steps",
        ),
        (
            lambda: da.ThreeDVar({"a": jnp.array([1.0, np.nan])}, WHITE, ()),
            da.DataError,
            r"the background\['a'\] holds 1 non-finite value\(s\) of 2. Fill or estimate",
        ),
        (
            lambda: da.minimize(
                da.ThreeDVar(jnp.ones(2), WHITE, da.Observations(np.ones((1, 3)), [0], error=WHITE))
            ),
            da.ShapeError,
            r"H\(x\) gives shape \(1, 2\).*values have shape \(1, 3\)",
        ),
        (
            lambda: da.minimize(
                da.StrongConstraint4DVar(
                    FunctionModel(lambda x, t: x[:1]), jnp.ones(2), WHITE,
                    da.Observations(np.ones((1, 2)), [2], error=WHITE),
                )
            ),
            da.ShapeError,
            "FunctionModel.step must return a state like the one it was given",
        ),
    ],
)  # fmt: skip
def test_each_problem_is_named(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_observations_without_error_are_named_and_nearly_perfect_ones_that_disagree_are_inconsistent():
    y = np.array([[1.0], [2.0]])
    with pytest.raises(da.covariances.NotAvailableError, match=r"no density.*nearly perfect a small std"):
        da.minimize(da.ThreeDVar(jnp.zeros(1), WHITE, da.Observations(y, [0, 0], error=da.covariances.Zero())))
    with pytest.raises(da.ConfigurationError, match="std must be finite and positive"):
        da.covariances.Diagonal(std=0.0)
    with pytest.raises(da.AssimilationError, match="positive"):
        da.covariances.Dense.from_matrix(np.ones((2, 2)))
    perfect = da.Observations(y, [1, 1], error=da.covariances.Diagonal(std=1e-6))
    solution = da.minimize(da.StrongConstraint4DVar(FunctionModel(lambda x, t: x), jnp.zeros(1), WHITE, perfect))
    np.testing.assert_allclose(solution.state, [1.5], rtol=1e-9)  # what is best for both
    assert solution.result == da.Result.INCONSISTENT
