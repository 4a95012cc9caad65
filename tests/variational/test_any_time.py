"""The analysis, its variance and its draws at any time of the window, against the Kalman smoother."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.core.errors import ShapeError
from diffassim.variational import posterior

from .problems import kalman_smoother, linear_gaussian

TIGHT = da.GaussNewton(tolerance=1e-10, inner=da.variational.PrimalCG(1e-6))


def problem(kind):
    cost, matrices = linear_gaussian()
    if kind is da.StrongConstraint4DVar:
        return cost, kalman_smoother(**matrices)
    Q = 0.3 * np.eye(6) + 0.1
    cost = kind(cost.model, cost.background, cost.B, da.covariances.Dense.from_matrix(Q), cost.observations)
    return cost, kalman_smoother(**matrices, Q=Q)


@pytest.mark.parametrize("kind", [da.StrongConstraint4DVar, da.WeakConstraint4DVar])
@pytest.mark.slow
def test_states_variances_and_draws_are_those_of_the_smoother(kind):
    cost, (means, covariances) = problem(kind)
    solution = da.minimize(cost, TIGHT)
    found = posterior(cost, solution)
    state = jax.jit(cost.state)
    variance, drawn = jax.jit(lambda at: found.variance(at)), jax.jit(lambda at: found.draw(jax.random.key(0), 3, at))
    trajectories = jax.jit(lambda: jax.vmap(cost.trajectory)(found.draw_controls(jax.random.key(0), 3)))()
    for k in range(4):
        np.testing.assert_allclose(state(solution.control, k), means[k], rtol=0, atol=1e-8)
        np.testing.assert_allclose(variance(k), np.diag(covariances[k]), rtol=1e-8)
        np.testing.assert_allclose(drawn(k), trajectories[:, k], rtol=0, atol=1e-12)
    assert variance._cache_size() == drawn._cache_size() == state._cache_size() == 1  # other times, the same program
    unit = jnp.zeros(6).at[2].set(1.0)
    column = jax.jit(lambda at: found.covariance(unit, at))(3)
    np.testing.assert_allclose(column, covariances[3][:, 2], rtol=0, atol=1e-8)


@pytest.mark.slow
def test_the_state_form_gives_the_same_states_and_steps_outside_of_the_window_are_named():
    cost, (means, _) = problem(da.StateWeakConstraint4DVar)
    v = da.minimize(cost, TIGHT).control
    np.testing.assert_allclose(jax.jit(jax.vmap(cost.state, (None, 0)))(v, jnp.arange(4)), means, rtol=0, atol=1e-8)
    for at in (-1, 4):
        with pytest.raises(ShapeError, match=f"at = {at} is no step of the window of 3 steps"):
            cost.state(v, at)
