"""Lorenz-96 against a plain formula, its energy budget and its attractor."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.models import TwoScaleLorenz96, TwoScaleState
from tests.models.lyapunov import lyapunov_exponents


def on_the_attractor(model, n=40, seed=0):
    x = jnp.asarray(np.random.default_rng(seed).normal(size=n) + 2.0)
    return da.rollout(model, x, 1000, at=[1000])[0]


@pytest.mark.parametrize("n", [4, 5, 40, 300])
def test_tendency_and_step_equal_the_plain_formula(n):
    def tendency(x):
        return (np.roll(x, -1) - np.roll(x, 2)) * np.roll(x, 1) - x + 8.0

    x = np.random.default_rng(1).normal(size=n) * 3.6 + 2.3
    model = da.models.Lorenz96(dt=0.05)
    np.testing.assert_allclose(model.tendency(jnp.asarray(x)), tendency(x), rtol=0, atol=1e-12 * 50)
    k1 = tendency(x)
    k2 = tendency(x + 0.025 * k1)
    k3 = tendency(x + 0.025 * k2)
    k4 = tendency(x + 0.05 * k3)
    expected = x + 0.05 / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    np.testing.assert_allclose(model.step(jnp.asarray(x), 0), expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_advection_conserves_energy():
    model = da.models.Lorenz96(forcing=0.0)
    x = on_the_attractor(da.models.Lorenz96())
    np.testing.assert_allclose(jnp.vdot(x, model.tendency(x) + x), 0, atol=1e-11)


def test_statistics_of_the_attractor():
    model = da.models.Lorenz96(dt=0.05)
    x = jax.jit(lambda x: da.rollout(model, x, 40_000))(on_the_attractor(model))
    mean, std, energy = (float(v) for v in (jnp.mean(x), jnp.std(x), jnp.mean(x**2)))
    assert mean == pytest.approx(2.34, abs=0.02)
    assert std == pytest.approx(3.64, abs=0.02)
    # dE/dt = F sum(x) - sum(x^2) averages to (E(end) - E(start)) / time, up to the error of the scheme
    assert energy == pytest.approx(8.0 * mean, rel=1e-3)


def test_thirteen_exponents_are_positive():
    model = da.models.Lorenz96(dt=0.05)
    exponents = np.asarray(lyapunov_exponents(model, on_the_attractor(model), 4, 20_000))
    assert exponents[0] == pytest.approx(1.68, abs=0.04)
    # the thirteenth is 0.024, the fourteenth zero (the direction of the flow); sampling leaves about 0.003
    assert np.sum(exponents > 0.012) == 13
    assert exponents[13] == pytest.approx(0, abs=0.01)
    assert np.sum(exponents) == pytest.approx(-40, rel=1e-3)  # the divergence is -1 for each variable


def test_energy_budget_of_the_two_scale_model():
    # advection and coupling exchange energy between places and scales and create none
    rng = np.random.default_rng(2)
    x = TwoScaleState(jnp.asarray(rng.normal(size=6)), jnp.asarray(rng.normal(size=(6, 10))))
    model = TwoScaleLorenz96(forcing=0.0)
    slope = model.tendency(x)
    change = jnp.vdot(x.slow, slope.slow) + jnp.vdot(x.fast, slope.fast)
    dissipation = jnp.sum(x.slow**2) + model.time_scale * jnp.sum(x.fast**2)
    np.testing.assert_allclose(change, -dissipation, rtol=1e-12)


def test_without_coupling_the_slow_part_is_lorenz96():
    x = on_the_attractor(da.models.Lorenz96(), n=8)
    state = TwoScaleState(x, jnp.zeros((8, 5)))
    both = da.rollout(TwoScaleLorenz96(forcing=8.0, coupling=0.0), state, 10)
    alone = da.rollout(da.models.Lorenz96(dt=0.005), x, 10)
    np.testing.assert_allclose(both.slow, alone, rtol=0, atol=1e-12 * 10)
    np.testing.assert_array_equal(both.fast, 0)


def test_a_short_state_is_named():
    with pytest.raises(da.ShapeError, match=r"at least 4 variables .* found shape \(3,\)"):
        da.models.Lorenz96().step(jnp.zeros(3), 0)


def test_a_field_of_another_length_is_named():
    with pytest.raises(da.ShapeError, match=r"forcing of shape \(5,\) does not broadcast"):
        da.models.Lorenz96(forcing=jnp.ones(5)).step(jnp.zeros(8), 0)
