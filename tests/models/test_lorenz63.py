"""Lorenz-63 against closed forms and the known exponents."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import diffassim as da
from tests.models.lyapunov import lyapunov_exponents


def test_fixed_points():
    model = da.models.Lorenz63()
    root = np.sqrt(model.beta * (model.rho - 1))
    for point in ([0.0, 0.0, 0.0], [root, root, model.rho - 1], [-root, -root, model.rho - 1]):
        np.testing.assert_allclose(model.step(jnp.array(point), 0), point, atol=1e-13)


def test_phase_volume_shrinks_at_the_constant_rate():
    model = da.models.Lorenz63()
    for x in np.random.default_rng(0).normal(scale=10, size=(5, 3)):
        divergence = np.trace(jax.jacobian(model.tendency)(jnp.asarray(x)))
        np.testing.assert_allclose(divergence, -(model.sigma + 1 + model.beta), rtol=1e-14)


def test_lyapunov_exponents():
    model = da.models.Lorenz63(dt=0.01)
    x = da.rollout(model, jnp.array([1.0, 1.0, 20.0]), 2000, at=[2000])[0]
    exponents = lyapunov_exponents(model, x, 10, 20_000)
    # 2,000 time units leave a sampling error of about 0.003 in the first
    np.testing.assert_allclose(exponents, [0.906, 0.0, -14.57], atol=0.02)
    np.testing.assert_allclose(np.sum(exponents), -(10 + 1 + 8 / 3), rtol=1e-5)  # error of the scheme


def test_the_scheme_has_order_four():
    def end(steps):
        return da.rollout(da.models.Lorenz63(dt=0.2 / steps), jnp.array([1.5, -1.5, 25.5]), steps, at=[steps])[0]

    exact = end(1280)
    errors = [np.linalg.norm(end(n) - exact) for n in (20, 40, 80)]
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    np.testing.assert_allclose(orders, 4, atol=0.15)
