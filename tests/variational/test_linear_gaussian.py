"""Closed forms: on linear-Gaussian problems 3D-Var is the Kalman filter and 4D-Var the Kalman smoother."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da

from .problems import linear_gaussian

TIGHT = da.GaussNewton(tolerance=1e-12, inner=da.variational.PrimalCG(1e-10))


def test_three_d_var_is_the_kalman_analysis():
    cost, p = linear_gaussian(times=1)
    gain = p["B"] @ p["H"].T @ np.linalg.inv(p["H"] @ p["B"] @ p["H"].T + p["R"])
    expected = p["x_b"] + gain @ (p["y"][0] - p["H"] @ p["x_b"])
    solution = da.minimize(da.ThreeDVar(p["x_b"], cost.B, cost.observations), TIGHT)
    np.testing.assert_allclose(solution.state, expected, atol=1e-12)


def test_cost_at_the_minimum_is_the_log_evidence_exponent():
    # 2 J_min = d^T (H B H^T + R)^{-1} d over the stacked window.
    cost, p = linear_gaussian()
    rows = [p["H"] @ np.linalg.matrix_power(p["A"], k) for k in range(len(p["y"]))]
    G = np.concatenate(rows)
    d = p["y"].ravel() - G @ p["x_b"]
    S = G @ p["B"] @ G.T + np.kron(np.eye(len(p["y"])), p["R"])
    np.testing.assert_allclose(da.minimize(cost, TIGHT).cost, 0.5 * d @ np.linalg.solve(S, d), rtol=1e-12)


@pytest.mark.slow
def test_the_implicit_gradient_is_the_gain():
    cost, p = linear_gaussian(times=1)
    gain = p["B"] @ p["H"].T @ np.linalg.inv(p["H"] @ p["B"] @ p["H"].T + p["R"])

    def analysis(values):
        obs = cost.observations[0].replace(values=values)
        return da.minimize(cost.replace(observations=obs), TIGHT).state

    np.testing.assert_allclose(jax.jacrev(analysis)(jnp.asarray(p["y"]))[:, 0], gain, atol=1e-9)


@pytest.mark.slow
def test_several_streams_are_one_stream():
    cost, _ = linear_gaussian()
    whole = cost.observations[0]
    parts = tuple(
        da.Observations(whole.values[i : i + 2], whole.steps[i : i + 2], whole.operator, whole.error) for i in (0, 2)
    )
    v = {"state": jnp.asarray(np.random.default_rng(1).normal(size=6))}
    np.testing.assert_allclose(cost.replace(observations=parts)(v), cost(v), rtol=1e-13)
    np.testing.assert_allclose(
        jax.grad(cost.replace(observations=parts))(v)["state"], jax.grad(cost)(v)["state"], rtol=1e-11
    )


def test_order_and_repetition_of_times_do_not_matter():
    cost, _ = linear_gaussian()
    whole = cost.observations[0]
    shuffled = da.Observations(whole.values[::-1], whole.steps[::-1], whole.operator, whole.error)
    v = {"state": jnp.ones(6)}
    np.testing.assert_allclose(cost.replace(observations=shuffled)(v), cost(v), rtol=1e-13)
    twice = da.Observations(
        np.concatenate([whole.values] * 2), np.concatenate([whole.steps] * 2), whole.operator, whole.error
    )
    np.testing.assert_allclose(
        2 * cost.replace(observations=twice)(v) - v["state"] @ v["state"],
        2 * (2 * cost(v) - v["state"] @ v["state"]),
        rtol=1e-13,
    )
