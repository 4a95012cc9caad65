"""Hybrid covariances and 4DEnVar against their pure cases and against dense algebra."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.covariances import Ensemble, Gaussian
from diffassim.grids import Grid

from .problems import LinearModel, linear_gaussian

TIGHT = da.GaussNewton(tolerance=1e-11, inner=da.variational.PrimalCG(1e-10))
N, CIRCLE = 6, Grid(1.0, True)
COST, P = linear_gaussian()
MEMBERS = P["x_b"] + np.random.default_rng(8).normal(size=(4, N))
DEPARTURES = (MEMBERS - MEMBERS.mean(0)) / np.sqrt(3)
P_F = DEPARTURES.T @ DEPARTURES
G = np.concatenate([P["H"] @ np.linalg.matrix_power(P["A"], k) for k in range(4)])
D = P["y"].ravel() - G @ P["x_b"]
R = np.kron(np.eye(4), P["R"])


def dense_analysis(B):
    return P["x_b"] + B @ G.T @ np.linalg.solve(G @ B @ G.T + R, D)


def analysis(B, method=TIGHT):
    return da.minimize(COST.replace(B=B), method)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_a_hybrid_is_the_weighted_sum_and_its_ends_are_the_pure_cases(weight):
    hybrid = analysis((1 - weight) * COST.B + weight * Ensemble(MEMBERS))
    np.testing.assert_allclose(hybrid.state, dense_analysis((1 - weight) * P["B"] + weight * P_F), atol=1e-9)
    pure = {0.0: COST.B, 1.0: Ensemble(MEMBERS)}.get(weight)
    if pure is not None:
        np.testing.assert_allclose(hybrid.state, analysis(pure).state, atol=1e-10)
        assert float(hybrid.cost) == pytest.approx(float(analysis(pure).cost), rel=1e-12)


def test_the_minimum_of_the_hybrid_cost_is_the_exponent_of_the_evidence():
    B = 0.4 * P["B"] + 0.6 * P_F
    expected = 0.5 * D @ np.linalg.solve(G @ B @ G.T + R, D)
    assert float(analysis(0.4 * COST.B + 0.6 * Ensemble(MEMBERS)).cost) == pytest.approx(expected, rel=1e-11)


@pytest.mark.slow
def test_gradients_in_weight_and_radius_are_those_of_the_dense_analysis():
    target = jnp.arange(6.0)

    def hybrid(weight, radius, static):
        localized = Ensemble(jnp.asarray(MEMBERS), Gaussian(1.0, radius, CIRCLE))
        return (1 - weight) * static + weight * localized

    def through_the_minimizer(weight, radius):
        return jnp.sum((analysis(hybrid(weight, radius, COST.B)).state - target) ** 2)

    def through_matrices(weight, radius):
        B = jax.vmap(hybrid(weight, radius, COST.B).apply)(jnp.eye(N))
        x = P["x_b"] + B @ G.T @ jnp.linalg.solve(G @ B @ G.T + R, D)
        return jnp.sum((x - target) ** 2)

    found = jax.grad(through_the_minimizer, argnums=(0, 1))(0.6, 1.3)
    expected = jax.grad(through_matrices, argnums=(0, 1))(0.6, 1.3)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    # Negative control: neither derivative is small by accident.
    assert min(abs(float(e)) for e in expected) > 1e-3


@pytest.mark.slow
def test_localization_is_the_schur_product():
    C = np.asarray(jax.vmap(Gaussian(1.0, 1.5, CIRCLE).apply)(jnp.eye(N)))
    np.testing.assert_allclose(
        analysis(Ensemble(MEMBERS, Gaussian(1.0, 1.5, CIRCLE))).state, dense_analysis(C * P_F), atol=1e-9
    )


def test_4denvar_is_strong_constraint_with_the_ensemble_covariance():
    cost = da.FourDEnVar.from_model(COST.model, P["x_b"], MEMBERS, COST.observations)
    found, strong = da.minimize(cost, TIGHT), analysis(Ensemble(MEMBERS))
    np.testing.assert_allclose(found.state, strong.state, atol=1e-10)
    np.testing.assert_allclose(found.control["state"], strong.control["state"], atol=1e-10)
    assert float(found.cost) == pytest.approx(float(strong.cost), rel=1e-11)
    expected = COST.replace(B=Ensemble(MEMBERS)).trajectory(strong.control)
    np.testing.assert_allclose(cost.rows(found.control), expected, atol=1e-9)


def test_localized_4denvar_is_exact_where_nothing_moves():
    still = LinearModel(jnp.eye(N))
    localization = Gaussian(1.0, 1.5, CIRCLE)
    found = da.minimize(da.FourDEnVar.from_model(still, P["x_b"], MEMBERS, COST.observations, localization), TIGHT)
    strong = da.minimize(COST.replace(model=still, B=Ensemble(MEMBERS, localization)), TIGHT)
    np.testing.assert_allclose(found.state, strong.state, atol=1e-10)


def test_4denvar_needs_no_derivative_of_the_model():
    # The model rounds to integers: its derivative is zero everywhere, the trajectories are not.
    steps = da.models.FunctionModel(lambda x, t: jnp.round(100 * (x @ P["A"].T)) / 100)
    cost = da.FourDEnVar.from_model(steps, P["x_b"], MEMBERS, COST.observations)
    found = da.minimize(cost, TIGHT)
    assert bool(found.converged)
    np.testing.assert_allclose(found.state, analysis(Ensemble(MEMBERS)).state, atol=0.05)


def test_members_that_do_not_differ_are_refused_and_in_compiled_code_leave_the_background():
    good = da.FourDEnVar.from_model(COST.model, P["x_b"], MEMBERS, COST.observations)

    def equal(cost):
        def all_the_first(rows):
            return jnp.broadcast_to(rows[:1], rows.shape)

        return cost.replace(members=all_the_first(cost.members), member_rows=all_the_first(cost.member_rows))

    with pytest.raises(da.DataError, match="members of the ensemble are equal"):
        equal(good)
    np.testing.assert_array_equal(jax.jit(lambda cost: da.minimize(equal(cost)).state)(good), P["x_b"])


def test_bad_input_is_named():
    good = da.FourDEnVar.from_model(COST.model, P["x_b"], MEMBERS, COST.observations)
    with pytest.raises(da.ShapeError, match=r"background_rows has shape \(3, 6\), expected \(4, 6\)"):
        good.replace(background_rows=good.background_rows[:3])
    with pytest.raises(da.ShapeError, match=r"member_rows has shape \(3, 4, 6\), expected \(4, 4, 6\)"):
        good.replace(member_rows=good.member_rows[:3])
    with pytest.raises(da.ShapeError, match=r"members have shape \(5,\), the state has \(6,\)"):
        good.replace(members=MEMBERS[:, :5])
    with pytest.raises(da.DataError, match="the background holds 1 non-finite value"):
        good.replace(background=np.where(np.arange(N) == 2, np.nan, P["x_b"]))
