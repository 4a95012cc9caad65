"""Gradients through the solution: against differences, unrolled iterations, and second order."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.variational.minimizers.implicit import implicit_minimum

from .problems import lorenz96_window

TIGHT = da.GaussNewton(tolerance=1e-9)
COST = lorenz96_window(6, seed=0)[0]
WEIGHTS = jnp.asarray(np.random.default_rng(1).normal(size=40))


def with_hyperparameters(theta):
    stream = COST.observations[0]
    return COST.replace(
        model=COST.model.replace(forcing=theta[0]),
        B=da.covariances.Diagonal(std=theta[1]),
        observations=stream.replace(error=da.covariances.Diagonal(std=theta[2]), values=stream.values + theta[3]),
        background=COST.background + theta[4],
    )


def score(theta, **options):
    return WEIGHTS @ da.minimize(with_hyperparameters(theta), options.pop("method", TIGHT), **options).state


THETA = jnp.array([8.0, 1.0, 1.0, 0.0, 0.0])


@pytest.fixture(scope="module")
def differences():
    h = 1e-5
    return np.array([(score(THETA.at[i].add(h)) - score(THETA.at[i].add(-h))) / (2 * h) for i in range(5)])


@pytest.mark.slow
def test_implicit_gradient_equals_central_differences(differences):
    # Forcing, B, R, observations and background: error of the differences themselves about 1e-8.
    np.testing.assert_allclose(jax.grad(score)(THETA), differences, rtol=1e-6)


def test_default_tolerance_gives_gradients_to_a_thousandth(differences):
    gradient = jax.grad(lambda t: score(t, method=da.GaussNewton()))(THETA)
    assert np.linalg.norm(gradient - differences) <= 1e-3 * np.linalg.norm(differences)


@pytest.mark.slow
def test_unrolled_gradient_agrees(differences):
    method = da.GaussNewton(tolerance=1e-7, max_iterations=15, inner=da.variational.PrimalCG(max_iterations=40))
    np.testing.assert_allclose(
        jax.grad(lambda t: score(t, method=method, unrolled=True))(THETA), differences, rtol=1e-4
    )


def test_the_hessian_of_gauss_newton_would_give_a_biased_gradient(differences):
    cost = with_hyperparameters(THETA)
    v = da.minimize(cost, TIGHT).control

    @jax.jit
    def hessians(x):
        gradient = jax.grad(lambda x: cost({"state": x}))
        A = jax.jacfwd(lambda x: cost.residuals({"state": x})[1][0].ravel())(x)
        return jax.jacfwd(gradient)(x), jnp.eye(40) + A.T @ A

    @jax.jit
    def by(hessian):
        w = {"state": jnp.linalg.solve(hessian, WEIGHTS)}  # the derivative of the state by v is the identity here

        def total(theta):
            changed = with_hyperparameters(theta)
            return WEIGHTS @ changed.state(v) - jax.jvp(lambda v: changed(v), (v,), (w,))[1]

        return jax.grad(total)(THETA)

    full, gauss_newton = hessians(v["state"])
    np.testing.assert_allclose(by(full), differences, rtol=1e-6)
    assert np.max(np.abs(by(gauss_newton) / differences - 1)) > 1e-3


@pytest.mark.slow
def test_second_derivatives_agree_with_differences_of_the_gradient():
    # A curved, converged problem small enough to differentiate twice quickly.
    obs = da.Observations(jnp.array([[1.0, 0.2]]), [0], operator=jnp.tanh, error=da.covariances.Diagonal(std=0.5))

    def value(s):
        cost = da.ThreeDVar(jnp.array([0.1, 0.3]), da.covariances.Diagonal(std=s), obs)
        return jnp.sum(da.minimize(cost, da.GaussNewton(tolerance=1e-11)).state ** 2)

    first = jax.grad(value)
    h = 1e-5
    expected = (first(1.0 + h) - first(1.0 - h)) / (2 * h)
    np.testing.assert_allclose(jax.grad(first)(1.0), expected, rtol=1e-6)


@pytest.mark.slow
def test_memory_does_not_depend_on_the_number_of_iterations():
    def temporary_bytes(limit):
        method = da.GaussNewton(tolerance=1e-9, max_iterations=limit)
        compiled = jax.jit(jax.grad(lambda x: WEIGHTS @ da.minimize(COST.replace(background=x), method).state)).lower(
            COST.background
        )
        return compiled.compile().memory_analysis().temp_size_in_bytes

    history = 100 * (8 + 4)  # cost and horizon history are the only arrays that grow, twelve bytes an iteration
    assert temporary_bytes(110) - temporary_bytes(10) <= 8 * history


@pytest.mark.slow
def test_gradient_is_nan_where_the_solution_is_no_minimum():
    class Maximum(da.GaussNewton):
        def search(self, cost, start, unrolled=False):
            found = super().search(cost, start, unrolled)
            return found.replace(control=jax.tree.map(lambda leaf: leaf + 40.0, found.control))

    # Far in the flat tail of a bounded operator, the full Hessian of this cost is indefinite.
    obs = da.Observations(
        jnp.array([[0.0]]), [0], operator=lambda x: 1e3 * jnp.sin(x), error=da.covariances.Diagonal(std=1.0)
    )
    cost = da.ThreeDVar(jnp.array([0.0]), da.covariances.Diagonal(std=1.0), obs)
    gradient = jax.grad(
        lambda x: implicit_minimum(cost.replace(background=x), Maximum(), cost.control()).control["state"][0]
    )
    hessian = jax.hessian(lambda v: cost({"state": v}))(jnp.array([40.0]))
    assert hessian[0, 0] < 0 and np.isnan(gradient(jnp.array([0.0]))).all()
