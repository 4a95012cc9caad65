"""3D-Var FGAT against 3D-Var and 4D-Var where they are the same."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import diffassim as da
from tests.variational.zoo import SWIRL, VALUES, X_B, example_control, observed, spd

B = da.covariances.Dense.from_matrix(spd(8))
DRIFT = da.models.FunctionModel(lambda x, t: x + jnp.sin(0.3 * (jnp.arange(8.0) + jnp.asarray(t, float))))


def same(cost, other):
    v = example_control(cost)
    ours, theirs = jax.jit(lambda v: (jax.value_and_grad(cost)(v), jax.value_and_grad(other)(v)))(v)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-13)
    np.testing.assert_allclose(ravel_pytree(ours[1])[0], ravel_pytree(theirs[1])[0], rtol=1e-11, atol=1e-12)


def test_at_step_zero_it_is_3d_var():
    obs = observed(VALUES[:2], [0, 0], jnp.tanh)
    same(da.ThreeDVarFGAT(SWIRL, X_B, B, obs), da.ThreeDVar(X_B, B, obs))


def test_where_increments_do_not_move_it_is_4d_var():
    obs = observed(VALUES, [0, 2, 5], jnp.tanh).replace(fraction=[0.5, 0.0, 0.25])
    same(da.ThreeDVarFGAT(DRIFT, X_B, B, obs, start=3), da.StrongConstraint4DVar(DRIFT, X_B, B, obs, start=3))


def test_the_departures_are_from_the_background_at_the_right_time():
    obs = observed(VALUES, [0, 2, 5])
    cost = da.ThreeDVarFGAT(SWIRL, X_B, B, obs)
    rows = da.rollout(SWIRL, jnp.asarray(X_B), 5)[jnp.array([0, 2, 5])]
    np.testing.assert_allclose(cost.residuals(cost.control())[1][0], (VALUES - rows) / 0.8, rtol=1e-13)


def test_cycles_know_it_and_want_no_model_error_with_it():
    da.FourDVar(B, cost=da.variational.PerfectModel(da.ThreeDVarFGAT))  # cycled in the test of bias correction
    with pytest.raises(da.ConfigurationError, match="ThreeDVarFGAT has no model error; take PerfectModel"):
        da.variational.WithModelError(B, form=da.ThreeDVarFGAT)
