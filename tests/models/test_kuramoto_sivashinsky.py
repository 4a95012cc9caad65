"""Kuramoto-Sivashinsky against its linear solution, independent integrations and another library."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import diffassim as da
from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.models import KuramotoSivashinsky, exponential_runge_kutta_4
from diffassim.models.numerics.exponential import phi_functions

N, LENGTH = 48, 22.0


def numpy_tendency(u, length=LENGTH):
    """Return du/dt with sums over modes written out: no fast transform, no code of the package."""
    n = u.size
    x = np.arange(n) * length / n
    index = np.arange(-(n // 2) + 1, n // 2)
    wave = np.exp(1j * np.outer(2 * np.pi / length * index, x))
    k = 2 * np.pi / length * index
    kept = 3 * np.abs(index) < n
    smooth = ((wave[kept].conj() @ u / n) @ wave[kept]).real
    product = wave.conj() @ smooth**2 / n
    return ((-0.5j * k * kept * product + (k**2 - k**4) * (wave.conj() @ u / n)) @ wave).real


def smooth_state():
    x = 2 * np.pi * np.arange(N) / N
    return 1.3 * np.sin(x) + 0.7 * np.cos(2 * x + 1) + 0.5 * np.sin(3 * x)


def test_the_tendency_agrees_with_sums_over_modes():
    u = smooth_state()
    found = KuramotoSivashinsky(length=LENGTH).tendency(jnp.asarray(u))
    # the fourth derivative multiplies rounding errors by up to 2,200
    np.testing.assert_allclose(found, numpy_tendency(u), rtol=0, atol=1e-11)


def test_steps_converge_with_fourth_order_to_an_integration_by_scipy():
    u, T = smooth_state(), 1.0
    exact = solve_ivp(lambda t, u: numpy_tendency(u), (0, T), u, method="DOP853", rtol=1e-12, atol=1e-13).y[:, -1]

    @jax.jit
    def run(steps):
        model = KuramotoSivashinsky(LENGTH, dt=T / steps)
        return jax.lax.fori_loop(0, steps, lambda k, u: model.step(u, k), jnp.asarray(u))

    errors = [np.abs(run(steps) - exact).max() for steps in (80, 160, 320)]
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert errors[-1] < 1e-9 and np.all(orders > 3.6), (errors, orders)


def test_a_linear_equation_is_solved_exactly_also_where_it_is_stiff():
    rates = jnp.array([-1e4, -3.0, -1.0, -1e-3, 0.0, 0.25])
    source = jnp.ones(6)
    found = exponential_runge_kutta_4(rates, lambda u: source, jnp.full(6, 2.0), 0.7)
    z = 0.7 * np.asarray(rates)
    expected = 2 * np.exp(z) + 0.7 * np.array([np.expm1(v) / v if v else 1.0 for v in z])
    np.testing.assert_allclose(found, expected, rtol=1e-13)


def test_phi_functions_agree_with_contour_integrals():
    z = np.concatenate([-np.logspace(4, -9, 40), [0.0], np.logspace(-9, 0.5, 20)])
    around = z[:, None] + np.exp(2j * np.pi * (np.arange(64) + 0.5) / 64)
    contour = [np.expm1(around) / around]
    contour += [(contour[0] - 1) / around]
    contour += [(contour[1] - 0.5) / around]
    for found, values in zip(phi_functions(jnp.asarray(z)), contour, strict=True):
        np.testing.assert_allclose(found, values.mean(axis=1).real, rtol=1e-12, atol=1e-15)


def test_the_mean_is_conserved():
    u = jnp.asarray(smooth_state() + 0.3)
    end = da.rollout(KuramotoSivashinsky(LENGTH), u, 40, at=[40])[0]
    np.testing.assert_allclose(jnp.mean(end), 0.3, rtol=1e-12)


def test_bad_input_is_named():
    with pytest.raises(ShapeError, match="at least 4 points"):
        KuramotoSivashinsky().step(jnp.ones(3), 0)
    with pytest.raises(ConfigurationError, match="length"):
        KuramotoSivashinsky(length=-1.0)


def test_a_step_equals_that_of_exponax():
    exponax = pytest.importorskip("exponax", reason="exponax, an independent spectral library, is not installed")
    u = smooth_state()
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        peer = exponax.stepper.KuramotoSivashinskyConservative(1, LENGTH, N, 0.1, order=4, num_circle_points=64)
        expected = peer(jnp.asarray(u)[None])[0]
    found = KuramotoSivashinsky(LENGTH, dt=0.1).step(jnp.asarray(u), 0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
