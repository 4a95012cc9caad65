"""Linear model, Gaussian errors: closed forms, and methods that must agree with them and with each other."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.gaussian import Gaussian

RNG = np.random.default_rng(3)
n, m, TIMES = 4, 2, 5
M = np.linalg.qr(RNG.normal(size=(n, n)))[0] * 0.95 + 0.1 * RNG.normal(size=(n, n))
H = RNG.normal(size=(m, n))
P0, R, Q = (A @ A.T / 4 + 0.2 * np.eye(len(A)) for A in (RNG.normal(size=(k, k)) for k in (n, m, n)))
x0, y = RNG.normal(size=n), RNG.normal(size=(TIMES, m))
COVARIANCE = {name: da.covariances.Dense.from_matrix(A) for name, A in (("P0", P0), ("R", R), ("Q", Q))}
MODEL = da.models.FunctionModel(lambda x, t: jnp.asarray(M) @ x)
START = Gaussian.from_covariance(jnp.asarray(x0), COVARIANCE["P0"])
# The initial time has a row as well, so that the smoother reaches it.
RECORD = da.Observations(
    np.concatenate([np.full((1, m), np.nan), y]), np.arange(TIMES + 1), da.observations.Linear(H), COVARIANCE["R"]
)


def kalman_filter(Q):
    x, P, seen = x0, P0, []
    for value in y:
        x, P = M @ x, M @ P @ M.T + Q
        K = P @ H.T @ np.linalg.inv(H @ P @ H.T + R)
        x, P = x + K @ (value - H @ x), P - K @ H @ P
        seen.append((x, P))
    return seen


def joint_smoother(Q):
    """Return means and covariances of all states given all observations, from their joint distribution."""
    size = n * (TIMES + 1)
    F = np.eye(size)  # (x_0, q_1, ...) to (x_0, x_1, ...)
    for k in range(1, TIMES + 1):
        F[k * n : (k + 1) * n] += M @ F[(k - 1) * n : k * n]
    C = F @ np.kron(np.diag(np.arange(TIMES + 1) > 0), Q) @ F.T
    C += F[:, :n] @ P0 @ F[:, :n].T
    G = np.kron(np.eye(TIMES + 1)[1:], H)
    gain = C @ G.T @ np.linalg.inv(G @ C @ G.T + np.kron(np.eye(TIMES), R))
    mean = F[:, :n] @ x0
    mean, C = mean + gain @ (y.ravel() - G @ mean), C - gain @ G @ C
    blocks = [slice(k * n, (k + 1) * n) for k in range(TIMES + 1)]
    return np.stack([mean[b] for b in blocks]), np.stack([C[b, b] for b in blocks])


METHODS = {
    "EKF": da.EKF(),
    "UKF": da.UKF(),
    "UKF, narrow": da.UKF(alpha=0.01, kappa=-1.0),
    "KF": da.gaussian.KalmanFilter(),
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_filter_and_smoother_are_the_closed_forms(method):
    method = method.replace(Q=COVARIANCE["Q"])
    last, history = da.cycle(method, MODEL, START, RECORD, members=True)
    expected = kalman_filter(Q)
    for k, (x, P) in enumerate(expected, 1):
        found = jax.tree.map(lambda leaf: leaf[k], history.members)  # noqa: B023
        np.testing.assert_allclose(found.mean, x, rtol=1e-10, atol=1e-11)
        np.testing.assert_allclose(found.covariance(), P, rtol=1e-10, atol=1e-11)
        np.testing.assert_allclose(history.analysis.spread[k], np.diag(P) ** 0.5, rtol=1e-10)
    np.testing.assert_array_equal(last.mean, history.members.mean[-1])
    smoothed = da.smooth(method, MODEL, history)
    mean, covariance = joint_smoother(Q)
    np.testing.assert_allclose(smoothed.mean, mean, atol=1e-10)
    np.testing.assert_allclose(jax.vmap(Gaussian.covariance)(smoothed), covariance, atol=1e-10)


@pytest.mark.slow
def test_without_model_error_filter_and_smoother_are_strong_constraint_4d_var():
    _, history = da.cycle(da.EKF(), MODEL, START, RECORD, members=True)
    cost = da.StrongConstraint4DVar(MODEL, jnp.asarray(x0), COVARIANCE["P0"], RECORD)
    solution = da.minimize(cost, da.GaussNewton(tolerance=1e-12, inner=da.variational.PrimalCG(1e-12)))
    trajectory = da.rollout(MODEL, solution.state, TIMES)
    np.testing.assert_allclose(history.analysis.mean[-1], trajectory[-1], atol=1e-10)
    np.testing.assert_allclose(da.smooth(da.EKF(), MODEL, history).mean, trajectory, atol=1e-10)


@pytest.mark.slow
def test_with_model_error_the_smoother_is_weak_constraint_4d_var():
    method = da.EKF(Q=COVARIANCE["Q"])
    _, history = da.cycle(method, MODEL, START, RECORD, members=True)
    cost = da.WeakConstraint4DVar(MODEL, jnp.asarray(x0), COVARIANCE["P0"], COVARIANCE["Q"], RECORD)
    solution = da.minimize(cost, da.GaussNewton(tolerance=1e-12, inner=da.variational.PrimalCG(1e-12)))
    np.testing.assert_allclose(da.smooth(method, MODEL, history).mean, cost.trajectory(solution.control), atol=1e-10)


def test_few_columns_are_a_covariance_of_low_rank():
    low = Gaussian(START.mean, START.columns[:2])
    full = Gaussian.from_covariance(START.mean, COVARIANCE["P0"])
    full = full.replace(columns=full.columns.at[2:].set(0.0))
    for record in (RECORD, RECORD.replace(values=jnp.where(RECORD.mask, RECORD.values, jnp.nan)[:, ::-1])):
        found, _ = da.cycle(da.EKF(), MODEL, low, record)
        expected, _ = da.cycle(da.EKF(), MODEL, full, record)
        assert found.columns.shape == (2, n)
        np.testing.assert_allclose(found.mean, expected.mean, atol=1e-12)
        np.testing.assert_allclose(found.covariance(), expected.covariance(), atol=1e-12)


@pytest.mark.slow
def test_the_static_methods_are_their_gains():
    climate = Gaussian(jnp.ones(n), START.columns)
    here = da.Observations(y[:1], [0], da.observations.Linear(H), COVARIANCE["R"])
    K = lambda P: P @ H.T @ np.linalg.inv(H @ P @ H.T + R)  # noqa: E731
    found, _ = da.gaussian.OptimalInterpolation(climate).analyze(None, x0, here)
    np.testing.assert_allclose(found.mean, 1 + K(P0) @ (y[0] - H @ np.ones(n)), atol=1e-12)
    method = da.gaussian.CycledThreeDVar(climate, scale=0.3)
    found, _ = method.analyze(None, x0, here)
    np.testing.assert_allclose(found.mean, x0 + K(0.3 * P0) @ (y[0] - H @ x0), atol=1e-12)
    _, history = da.cycle(method, MODEL, jnp.asarray(x0), RECORD)
    x = x0
    for value in y:
        x = M @ x + K(0.3 * P0) @ (value - H @ M @ x)
    np.testing.assert_allclose(history.analysis.mean[-1], x, atol=1e-11)
    np.testing.assert_allclose(
        history.background.spread[2:], np.tile(np.diag(0.3 * P0) ** 0.5, (TIMES - 1, 1)), rtol=1e-12
    )
    found, _ = da.cycle(da.gaussian.Climatology(climate), MODEL, jnp.asarray(x0), RECORD)
    np.testing.assert_array_equal(found.mean, np.ones(n))
