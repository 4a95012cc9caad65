"""The dual solve is the primal one in other coordinates."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.covariances import Diagonal
from diffassim.variational.minimizers.dual import dual_step
from diffassim.variational.minimizers.trust_region import truncated_cg

from .problems import kalman_smoother_initial_state, linear_gaussian, lorenz96_window

TIGHT = da.GaussNewton(tolerance=1e-11, inner=da.variational.PrimalCG(1e-10))
DUAL = TIGHT.replace(inner=da.variational.DualCG())


@pytest.mark.parametrize(("n", "m", "times"), [(6, 3, 4), (40, 2, 3), (30, 1, 1)])
@pytest.mark.slow
def test_primal_and_dual_are_the_smoother(n, m, times):
    cost, p = linear_gaussian(n, m, times)
    primal, dual = da.minimize(cost, TIGHT), da.minimize(cost, DUAL)
    scale = np.abs(primal.state).max()
    np.testing.assert_allclose(dual.state, primal.state, atol=1e-9 * scale)
    np.testing.assert_allclose(dual.state, kalman_smoother_initial_state(**p), atol=1e-9 * scale)
    assert bool(dual.converged)


def problem(m=4, n=9, seed=0):
    rng = np.random.default_rng(seed)
    A = jnp.asarray(3 * rng.normal(size=(m, n)))
    v, d = jnp.asarray(rng.normal(size=n)), jnp.asarray(5 * rng.normal(size=m))
    return A, v, d


@pytest.mark.parametrize("iterations", [1, 2, 3, 4])
def test_every_iterate_is_that_of_primal_conjugate_gradients(iterations):
    A, _, d = problem()
    v = jnp.zeros(9)  # the primal iterations start from p = 0, the dual ones from p = -v
    dual = dual_step(lambda p: A @ p, lambda w: A.T @ w, v, d, jnp.inf, 1e-14, iterations)
    primal = truncated_cg(lambda p: p + A.T @ (A @ p), A.T @ d, jnp.inf, 1e-14, iterations)
    np.testing.assert_allclose(dual.step, primal.step, atol=1e-11)
    np.testing.assert_allclose(dual.predicted, primal.predicted, rtol=1e-11)


@pytest.mark.parametrize("radius", [0.1, 1.0, 3.0, 100.0])
def test_the_step_keeps_the_radius_and_does_no_worse_than_cauchy(radius):
    A, v, d = problem()

    def model(p):
        return 0.5 * jnp.sum((v + p) ** 2) + 0.5 * jnp.sum((d + A @ p) ** 2)

    found = dual_step(lambda p: A @ p, lambda w: A.T @ w, v, d, radius, 1e-12, 50)
    length = float(jnp.linalg.norm(found.step))
    assert length <= radius * (1 + 1e-12)
    assert bool(found.on_boundary) == (length >= radius * (1 - 1e-9))
    np.testing.assert_allclose(found.predicted, model(jnp.zeros(9)) - model(found.step), rtol=1e-10)
    g = v + A.T @ d
    lengths = jnp.linspace(0, radius / jnp.linalg.norm(g), 2001)
    cauchy = min(float(model(-t * g)) for t in lengths)
    assert float(model(found.step)) <= cauchy * (1 + 1e-6)
    if radius > 50:
        expected = np.linalg.solve(np.eye(9) + A.T @ A, -g)
        np.testing.assert_allclose(found.step, expected, atol=1e-10)


@pytest.mark.slow
def test_a_chaotic_window_with_few_observations_has_the_same_minimum():
    cost, _ = lorenz96_window(times=5, seed=1)
    obs = da.Observations(
        cost.observations[0].values[:, ::8], cost.observations[0].steps, lambda x: x[::8], Diagonal(std=1.0)
    )
    few = cost.replace(observations=obs)
    primal, dual = (da.minimize(few, method) for method in (TIGHT, DUAL))
    np.testing.assert_allclose(dual.state, primal.state, atol=1e-8)


@pytest.mark.slow
def test_windows_are_grown_in_the_dual_too():
    cost, truth = lorenz96_window(40, seed=105)
    solution = da.minimize(cost, da.GaussNewton(inner=da.variational.DualCG()))
    assert bool(solution.converged)
    assert set(np.asarray(solution.search.horizon_history).tolist()) - {-1, cost.steps}, "no shorter window was tried"
    assert float(jnp.sqrt(jnp.mean((solution.state - truth) ** 2))) < 0.5


def test_no_observations_leave_the_background():
    cost, _ = linear_gaussian()
    nothing = cost.replace(observations=cost.observations[0].replace(mask=jnp.zeros((4, 3), bool)))
    np.testing.assert_array_equal(da.minimize(nothing, DUAL).state, cost.background)
