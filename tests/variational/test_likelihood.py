"""The log density of a window's observations: closed forms, the Kalman filter's, derivatives, and refusals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.core.errors import ConfigurationError
from diffassim.covariances import Dense, Diagonal
from diffassim.variational import log_likelihood
from tests.covariances.test_observation_errors import ERRORS, MASK, STEPS, VALUES, N, record
from tests.methods.test_likelihood import MODEL, RECORD, R, exact, n

TIGHT = da.GaussNewton(tolerance=1e-11, inner=da.variational.PrimalCG(1e-10))


def solved(cost):
    return log_likelihood(cost, da.minimize(cost, TIGHT))


def strong(std=0.7, error=RECORD.error):
    return da.StrongConstraint4DVar(MODEL, jnp.ones(n), Diagonal(std=std), RECORD.replace(error=error))


def test_without_model_error_it_is_the_density_of_the_record():
    np.testing.assert_allclose(solved(strong()), exact(Q=0 * np.eye(n)), rtol=1e-10)


def test_with_model_error_it_is_that_of_the_kalman_filter():
    weak = da.WeakConstraint4DVar(MODEL, jnp.ones(n), Diagonal(std=0.7), Diagonal(std=0.3), RECORD)
    assert da.core.tree.size(weak.control()) > RECORD.values.size  # the smaller matrix is that of the observations
    np.testing.assert_allclose(solved(weak), exact(), rtol=1e-10)


@pytest.mark.parametrize("name", [name for name in ERRORS if not name.startswith("own")])
def test_every_error_is_its_matrix(name):
    stream = record(name)
    still = da.models.FunctionModel(lambda x, t: x)
    cost = da.StrongConstraint4DVar(still, jnp.zeros(N), Diagonal(std=1.5), stream)
    rows = np.flatnonzero(MASK.ravel())
    C = 1.5**2 * np.tile(np.eye(N), (len(STEPS), len(STEPS)))
    for k, matrix in enumerate(ERRORS[name][1]):
        C[k * N : (k + 1) * N, k * N : (k + 1) * N] += matrix
    C, d = C[np.ix_(rows, rows)], VALUES.ravel()[rows]
    expected = -0.5 * (d @ np.linalg.solve(C, d) + np.linalg.slogdet(2 * np.pi * C)[1])
    np.testing.assert_allclose(solved(cost), expected, rtol=1e-9)


def test_where_the_density_is_not_normalized_it_is_not_a_number():
    still = da.models.FunctionModel(lambda x, t: x)
    unknown = da.StrongConstraint4DVar(still, jnp.zeros(N), Diagonal(std=1.0), record("own"))
    robust = strong().replace(observations=RECORD.replace(loss=da.observations.Huber()))
    for cost in (unknown, robust):
        assert np.isnan(solved(cost))


def test_a_nonlinear_window_is_near_its_integral():
    """One number is observed through its square, precisely, which leaves two narrow peaks of which one counts here."""
    std, y = 0.05, 2.0
    obs = da.Observations(jnp.array([[y]]), [0], lambda x: x**2, Diagonal(std=std))
    cost = da.ThreeDVar(jnp.array([1.4]), Diagonal(std=0.2), obs)
    x = np.linspace(0.5, 2.5, 200_001)
    prior = np.exp(-0.5 * ((x - 1.4) / 0.2) ** 2) / (0.2 * np.sqrt(2 * np.pi))
    density = prior * np.exp(-0.5 * ((y - x**2) / std) ** 2) / (std * np.sqrt(2 * np.pi))
    assert abs(float(solved(cost)) - np.log(np.trapezoid(density, x))) < 2e-3


def test_single_precision_stays_and_agrees():
    double = strong()

    def short(leaf):
        leaf = jnp.asarray(leaf)
        return leaf.astype(jnp.float32) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    single = jax.tree.map(short, double)
    found = log_likelihood(single, da.minimize(single))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, solved(double), rtol=1e-4)


def test_what_has_no_density_is_named():
    weak = da.StateWeakConstraint4DVar(MODEL, jnp.ones(n), Diagonal(std=0.7), Diagonal(std=0.3), RECORD)
    with pytest.raises(ConfigurationError, match="is not whitened"):
        log_likelihood(weak, da.minimize(weak))

    class Alone(da.variational.Cost, da.core.pytree.Pytree):
        def control(self):
            return jnp.zeros(1)

        def state(self, v):
            return v

        def residuals(self, v):
            return v - 1

    with pytest.raises(ConfigurationError, match="knows no observations"):
        log_likelihood(Alone(), da.minimize(Alone()))


def test_derivatives_by_both_covariances_are_those_of_the_closed_form():
    root = jnp.asarray(np.linalg.cholesky(R))

    @jax.jit
    @jax.value_and_grad
    def density(p):
        cost = strong(p[0], Dense(p[1] * root))
        return log_likelihood(cost, da.minimize(cost, TIGHT))

    value, slope = density(jnp.array([0.9, 1.2]))

    def closed(a, b):
        return exact(Q=0 * np.eye(n), R=b**2 * R, P=a**2 * np.eye(n))

    np.testing.assert_allclose(value, closed(0.9, 1.2), rtol=1e-9)
    h = 1e-5
    expected = [
        (closed(0.9 + h, 1.2) - closed(0.9 - h, 1.2)) / (2 * h), (closed(0.9, 1.2 + h) - closed(0.9, 1.2 - h)) / (2 * h)
    ]  # fmt: skip
    np.testing.assert_allclose(slope, expected, rtol=1e-6)
