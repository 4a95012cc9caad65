"""On one linear-Gaussian problem every formulation, primal and dual, is the Kalman filter and smoother."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.covariances import Dense, Ensemble, Zero

from .problems import kalman_smoother, linear_gaussian

TIGHT = da.GaussNewton(tolerance=1e-11, inner=da.variational.PrimalCG(1e-10))
METHODS = {"primal": TIGHT, "dual": TIGHT.replace(inner=da.variational.DualCG()), "L-BFGS": da.LBFGS(tolerance=1e-9)}
COST, P = linear_gaussian()
N = len(P["x_b"])
Q = np.diag([0.5, 1.0, 0.2, 0.7, 0.3, 0.9]) + 0.1
PERFECT = kalman_smoother(**P)[0]
ERRING = kalman_smoother(**P, Q=Q)[0]

# Members whose sample covariance is B, N + 1 of them: an orthonormal basis of the space of no mean, times a root of B.
BASIS = np.linalg.qr(np.column_stack([np.ones(N + 1), np.eye(N + 1)[:, :N]]))[0][:, 1:]
COMPLETE = P["x_b"] + np.sqrt(N) * BASIS @ np.linalg.cholesky(P["B"]).T


def weak(kind, Q, **options):
    return kind(COST.model, COST.background, COST.B, Q, COST.observations, steps=3, **options)


FORMULATIONS = {
    "strong": (COST, PERFECT),
    "strong, hybrid of B and B": (COST.replace(B=0.3 * COST.B + 0.7 * Ensemble(COMPLETE)), PERFECT),
    "4DEnVar, complete ensemble": (
        da.FourDEnVar.from_model(COST.model, P["x_b"], COMPLETE, COST.observations), PERFECT
    ),
    "forcing, no model error": (weak(da.WeakConstraint4DVar, Zero()), PERFECT),
    "forcing": (weak(da.WeakConstraint4DVar, Dense.from_matrix(Q)), ERRING),
    "state": (weak(da.StateWeakConstraint4DVar, Dense.from_matrix(Q)), ERRING),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "method"),
    [(name, "primal") for name in FORMULATIONS]
    + [(name, "dual") for name in ("strong", "4DEnVar, complete ensemble", "forcing", "state")]
    + [(name, "L-BFGS") for name in ("strong", "state")],
)
def test_every_formulation_is_the_smoother(name, method):
    cost, expected = FORMULATIONS[name]
    if name == "state" and method == "dual":
        with pytest.raises(da.ConfigurationError, match="StateWeakConstraint4DVar has no dual"):
            da.minimize(cost, METHODS[method])
        return
    solution = da.minimize(cost, METHODS[method])
    assert bool(solution.converged)
    trajectory = cost.rows if hasattr(cost, "rows") else cost.trajectory
    np.testing.assert_allclose(trajectory(solution.control), expected, atol=1e-8)


@pytest.mark.parametrize("method", ["primal", "dual"])
def test_three_d_var_at_the_last_time_is_the_kalman_filter(method):
    # The smoother's last state is the filter's, reached step by step with the covariance carried along.
    mean, covariance = P["x_b"], P["B"]
    for k, y in enumerate(P["y"]):
        if k:
            mean, covariance = P["A"] @ mean, P["A"] @ covariance @ P["A"].T + Q
        stream = COST.observations[0]
        obs = da.Observations(y[None], [0], stream.operator, stream.error)
        mean = np.asarray(da.minimize(da.ThreeDVar(mean, Dense.from_matrix(covariance), obs), METHODS[method]).state)
        gain = covariance @ P["H"].T @ np.linalg.inv(P["H"] @ covariance @ P["H"].T + P["R"])
        covariance = covariance - gain @ P["H"] @ covariance
        covariance = (covariance + covariance.T) / 2
    np.testing.assert_allclose(mean, ERRING[-1], atol=1e-8)


@pytest.mark.slow
def test_the_two_forms_translate_into_each_other():
    state = FORMULATIONS["state"][0]
    v = jax.tree.map(lambda leaf: jnp.asarray(np.random.default_rng(1).normal(size=leaf.shape)), state.control())
    forcing, w = state.forcing_form(v)
    np.testing.assert_allclose(forcing.trajectory(w), state.trajectory(v), atol=1e-12)
    np.testing.assert_allclose(forcing.trajectory(w, 6), state.trajectory(v, 6), atol=1e-12)
    np.testing.assert_allclose(forcing.model_error(w), state.model_error(v), atol=1e-12)
    assert float(forcing(w)) == pytest.approx(float(state(v)), rel=1e-12)
    # a shorter horizon as well, for which later sub-windows only have to follow the model
    short = {"horizon": jnp.asarray(1)}
    assert float(forcing.replace(**short)(w)) == pytest.approx(float(state.replace(**short)(v)), rel=1e-12)
    with pytest.raises(da.ConfigurationError, match=r"posterior: .* use cost.forcing_form"):
        da.variational.posterior(state, da.minimize(state))


@pytest.mark.parametrize("every", [2, 3])
@pytest.mark.slow
def test_sub_windows_and_an_incomplete_one_have_the_same_minimum(every):
    """Nonlinear, with parameters: 5 steps in sub-windows of 2 (one step over) or 3 (two over)."""
    rng = np.random.default_rng(4)
    obs = da.Observations(rng.normal(size=(3, 4)), [1, 4, 5], error=da.covariances.Diagonal(std=0.5))
    model = da.models.FunctionModel(
        lambda x, t, a: x + 0.2 * jnp.sin(a * x + t.astype(x.dtype)) * jnp.roll(x, 1), arguments=1.0
    )
    arguments = (model, rng.normal(size=4), da.covariances.Diagonal(std=1.0), da.covariances.Diagonal(std=0.3), obs)
    options = {"every": every, "parameters": {"arguments": da.covariances.Diagonal(std=0.2)}, "start": 7}
    pair = [kind(*arguments, **options) for kind in (da.WeakConstraint4DVar, da.StateWeakConstraint4DVar)]
    forcing, state = (da.minimize(cost, TIGHT) for cost in pair)
    np.testing.assert_allclose(pair[1].trajectory(state.control), pair[0].trajectory(forcing.control), atol=1e-8)
    np.testing.assert_allclose(state.model.arguments, forcing.model.arguments, atol=1e-8)
    assert float(state.cost) == pytest.approx(float(forcing.cost), rel=1e-10)
    # the guess moves the origin of v, and nothing else
    ends = every * np.arange(1, 5 // every + 1)
    guessed = pair[1].replace(guess=pair[0].trajectory(forcing.control)[ends] + 0.1)
    np.testing.assert_allclose(guessed.trajectory(da.minimize(guessed, TIGHT).control),
                               pair[0].trajectory(forcing.control), atol=1e-8)  # fmt: skip


def test_a_model_error_without_inverse_is_named():
    with pytest.raises(da.ConfigurationError, match=r"Q needs `whiten` \(Zero has no whiten.*WeakConstraint4DVar"):
        weak(da.StateWeakConstraint4DVar, Zero())
