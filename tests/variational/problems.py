"""Problems shared by the tests of variational assimilation."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

import diffassim as da
from benchmarks.problems import lorenz96_window
from diffassim.models.base import Model

__all__ = ["LinearModel", "kalman_smoother", "kalman_smoother_initial_state", "linear_gaussian", "lorenz96_window"]


class LinearModel(Model):
    """x -> A x, for closed forms."""

    matrix: object
    dt: float = 1.0

    def step(self, x, t):
        return jnp.einsum("ij,j->i", self.matrix, x)


def linear_gaussian(n=6, m=3, times=4, seed=0):
    """A linear-Gaussian window with full B and R: the cost, and the dense matrices of the same problem."""
    rng = np.random.default_rng(seed)
    A = np.linalg.qr(rng.normal(size=(n, n)))[0] @ np.diag(rng.uniform(0.8, 1.2, n))
    H = rng.normal(size=(m, n))
    B, R = (f @ f.T + np.eye(len(f)) for f in (rng.normal(size=(n, n)), 0.5 * rng.normal(size=(m, m))))
    x_b, y = rng.normal(size=n), rng.normal(size=(times, m))
    obs = da.Observations(
        y, np.arange(times), operator=da.observations.Linear(jnp.asarray(H)), error=da.covariances.Dense.from_matrix(R)
    )
    cost = da.StrongConstraint4DVar(LinearModel(jnp.asarray(A)), x_b, da.covariances.Dense.from_matrix(B), obs)
    return cost, {"A": A, "H": H, "B": B, "R": R, "x_b": x_b, "y": y}


def kalman_smoother_initial_state(A, H, B, R, x_b, y):
    """Mean of the initial state given all observations, without model error."""
    return kalman_smoother(A, H, B, R, x_b, y)[0][0]


def kalman_smoother(A, H, B, R, x_b, y, Q=0.0):
    """Rauch-Tung-Striebel smoother: means and covariances of the states at all times given all observations."""
    means, covariances, forecasts = [], [], []
    mean, P = x_b, B
    for k, value in enumerate(y):
        if k:
            mean, P = A @ mean, A @ P @ A.T + Q
        forecasts.append((mean, P))
        gain = P @ H.T @ np.linalg.inv(H @ P @ H.T + R)
        mean, P = mean + gain @ (value - H @ mean), P - gain @ H @ P
        means.append(mean)
        covariances.append(P)
    for k in range(len(y) - 2, -1, -1):
        forecast_mean, forecast_P = forecasts[k + 1]
        gain = covariances[k] @ A.T @ np.linalg.inv(forecast_P)
        means[k] = means[k] + gain @ (means[k + 1] - forecast_mean)
        covariances[k] = covariances[k] + gain @ (covariances[k + 1] - forecast_P) @ gain.T
    return np.array(means), np.array(covariances)
