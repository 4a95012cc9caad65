"""Advection and diffusion: budgets, signs, exact solutions, boundaries, sources."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.grids.grid import Grid
from diffassim.models import AdvectionDiffusion

TORUS = Grid(periodic=(True, True))


def turning_wind(shape, speed, seed=0):
    """Return winds across the faces from a random streamfunction at the corners: they diverge nowhere."""
    rng = np.random.default_rng(seed)
    y, x = (2 * np.pi * np.arange(n) / n for n in shape)
    phase = rng.uniform(0, 2 * np.pi, 4)
    psi = np.sin(x[None, :] + phase[0]) * np.cos(y[:, None] + phase[1])
    psi = psi + 0.5 * np.cos(2 * x[None, :] + phase[2]) * np.sin(y[:, None] + phase[3])
    across_y, across_x = np.roll(psi, -1, 1) - psi, psi - np.roll(psi, -1, 0)
    scale = speed / max(np.abs(across_y).max(), np.abs(across_x).max())
    return scale * across_y, scale * across_x


def test_mass_is_conserved_and_a_constant_is_kept():
    rng = np.random.default_rng(1)
    c = jnp.asarray(rng.exponential(size=(12, 16)))
    model = AdvectionDiffusion(wind=turning_wind((12, 16), 0.2), diffusivity=0.02, grid=TORUS)
    end = da.rollout(model, c, 60, at=[60])[0]
    np.testing.assert_allclose(jnp.sum(end), jnp.sum(c), rtol=1e-12)
    np.testing.assert_allclose(da.rollout(model, jnp.full((12, 16), 3.0), 60, at=[60])[0], 3.0, rtol=1e-12)
    assert float(jnp.max(jnp.abs(end - c))) > 0.5


@pytest.mark.parametrize("periodic", [True, False])
def test_the_field_stays_positive_and_within_its_range_up_to_the_largest_step(periodic):
    rng = np.random.default_rng(2)
    c = jnp.asarray((rng.uniform(size=(12, 16)) > 0.8).astype(float))
    across_y, across_x = turning_wind((12, 16), 1.0)
    if not periodic:  # walls where the streamfunction is cut
        across_y, across_x = np.pad(across_y[1:], ((1, 1), (0, 0))), np.pad(across_x[:, 1:], ((0, 0), (1, 1)))
    grid = Grid(periodic=(periodic, periodic))
    model = AdvectionDiffusion(wind=(across_y, across_x), diffusivity=0.1, grid=grid, dt=1e-3)
    model = model.replace(dt=1e-3 / model.courant_number())
    rows = da.rollout(model, c, 80)
    np.testing.assert_allclose(jnp.sum(rows[-1]), jnp.sum(c), rtol=1e-12)
    assert float(jnp.min(rows)) >= 0
    if periodic:  # a wind that does not diverge makes no new maximum either
        assert float(jnp.max(rows)) <= 1 + 1e-12


@pytest.mark.slow
def test_a_moving_gaussian_converges_with_second_order():
    def error(n):
        h, K, wind, T, width = 1 / n, 1e-3, (0.4, -0.7), 0.5, 0.01
        x = (jnp.arange(float(n)) + 0.5) * h

        def gaussian(t):
            def along(speed):
                away = jnp.mod(x - 0.5 - speed * t + 0.5, 1) - 0.5
                return jnp.sqrt(width / (width + 2 * K * t)) * jnp.exp(-(away**2) / (2 * (width + 2 * K * t)))

            return along(wind[0])[:, None] * along(wind[1])[None, :]

        model = AdvectionDiffusion(wind=wind, diffusivity=K, grid=Grid((h, h), (True, True)), dt=0.2 * h)
        steps = round(T / (0.2 * h))
        end = jax.lax.fori_loop(0, steps, lambda k, c: model.step(c, k), gaussian(0.0))
        return float(jnp.mean(jnp.abs(end - gaussian(T))))

    errors = np.array([error(n) for n in (32, 64, 128)])
    orders = np.log2(errors[:-1] / errors[1:])
    assert np.all(orders > 1.7) and errors[-1] < 1e-3, (orders, errors)


def test_directions_and_axes_are_equivalent():
    c = jnp.asarray(np.random.default_rng(3).uniform(size=(8, 8)))
    advance = jax.jit(lambda wind, c: AdvectionDiffusion(wind=wind, grid=TORUS).step(c, 0))
    step = advance((0.2, 0.1), c)
    turned = advance((0.1, 0.2), c.T).T
    mirrored = advance((-0.2, 0.1), c[::-1])[::-1]
    np.testing.assert_allclose(turned, step, rtol=1e-14)
    np.testing.assert_allclose(mirrored, step, rtol=1e-14)


def test_open_boundaries_take_in_what_is_given_and_let_the_rest_out():
    grid = Grid(periodic=(False,))
    model = AdvectionDiffusion(wind=(0.4,), inflow=2.0, grid=grid)
    c = jnp.asarray([1.0, 3.0, 2.0])
    gained = jnp.sum(model.step(c, 0)) - jnp.sum(c)
    first = c + model.tendency(c, 0)  # the second of the two Euler stages starts here
    np.testing.assert_allclose(gained, 0.4 * 2 - 0.5 * 0.4 * (c[-1] + first[-1]), rtol=1e-13)
    end = da.rollout(model, c, 80, at=[80])[0]
    np.testing.assert_allclose(end, 2.0, rtol=1e-9)


def test_records_of_emissions_hold_and_repeat():
    patterns = jnp.stack([jnp.eye(3)[0], jnp.eye(3)[2]])
    model = AdvectionDiffusion(
        wind=(0.0,), emissions=[[1.0, 0.0], [0.0, 5.0]], patterns=patterns, grid=Grid(), hold=2, dt=0.5
    )
    rows = da.rollout(model, jnp.zeros(3), 6)
    np.testing.assert_allclose(rows[2], [1.0, 0, 0], rtol=1e-14)
    np.testing.assert_allclose(rows[4], [1.0, 0, 5.0], rtol=1e-14)
    np.testing.assert_allclose(rows[6], [2.0, 0, 5.0], rtol=1e-14)
    decaying = AdvectionDiffusion(wind=(0.0,), decay=0.3, grid=Grid(), dt=0.01)
    np.testing.assert_allclose(da.rollout(decaying, jnp.ones(3), 100)[-1], np.exp(-0.3), rtol=2e-6)


def test_first_order_is_upwind_and_linear_and_keeps_mass_and_sign():
    rng = np.random.default_rng(5)
    first, second = jnp.asarray(rng.exponential(size=(2, 9)))
    model = AdvectionDiffusion(wind=(0.4,), grid=Grid(), order=1)
    upwind = first - 0.4 * (first - jnp.roll(first, 1))
    twice = upwind - 0.4 * (upwind - jnp.roll(upwind, 1))
    step = jax.jit(lambda c: model.step(c, 0))
    np.testing.assert_allclose(step(first), 0.5 * (first + twice), rtol=1e-14)
    np.testing.assert_allclose(step(2 * first - second), 2 * step(first) - step(second), atol=1e-14)
    limited = jax.jit(lambda c: AdvectionDiffusion(wind=(0.4,), grid=Grid()).step(c, 0))
    assert float(jnp.max(jnp.abs(limited(2 * first - second) - 2 * limited(first) + limited(second)))) > 1e-3
    peak = jnp.zeros(9).at[4].set(1.0)
    assert float(jnp.sum(step(peak))) == pytest.approx(1.0, abs=1e-14) and float(jnp.min(step(peak))) >= 0


def test_equal_and_tiny_neighbors_have_finite_derivatives():
    model = AdvectionDiffusion(wind=(0.3,), grid=Grid())
    jacobian = jax.jit(jax.jacfwd(lambda c: model.step(c, 0)))
    hessian = jax.jit(jax.jacfwd(jax.grad(lambda c: jnp.sum(model.step(c, 0) ** 2))))
    for dtype in (jnp.float32, jnp.float64):
        for c in ([0.0, 0, 0, 1, 2], [1.0, 1, 1, 1, 1], [1e-30, 2e-30, 4e-30, 0, 1]):
            x = jnp.asarray(c, dtype)
            assert np.isfinite(jacobian(x)).all() and np.isfinite(hessian(x)).all()


@pytest.mark.slow
def test_emissions_are_recovered_from_what_is_seen_downwind():
    patterns = jnp.zeros((2, 6, 8)).at[0, 1, 1].set(1.0).at[1, 4, 2].set(1.0)
    true = AdvectionDiffusion(
        wind=(0.05, 0.3), diffusivity=0.05, emissions=jnp.array([1.0, 2.5]), patterns=patterns, grid=TORUS
    )
    rows = da.rollout(true, jnp.zeros((6, 8)), 8, at=[4, 8])
    obs = da.Observations(rows, [4, 8], error=da.covariances.Diagonal(std=1e-4))
    cost = da.StrongConstraint4DVar(
        true.replace(emissions=jnp.array([1.5, 1.5])), jnp.zeros((6, 8)), None, obs,
        parameters={"emissions": da.covariances.Diagonal(std=1.0)},
    )  # fmt: skip
    np.testing.assert_allclose(da.minimize(cost).model.emissions, [1.0, 2.5], atol=1e-3)


def test_bad_input_is_named():
    with pytest.raises(ConfigurationError, match="take a dt of at most"):
        AdvectionDiffusion(wind=(0.6, 0.0))
    with pytest.raises(ShapeError, match="one entry for each of the 2 axes"):
        AdvectionDiffusion(wind=(0.6,))
    with pytest.raises(ShapeError, match="across axis 1 has shape"):
        AdvectionDiffusion(wind=(0.1, jnp.full((4, 4), 0.1)), grid=Grid(periodic=(True, False))).step(
            jnp.ones((4, 4)), 0
        )
    with pytest.raises(ShapeError, match="emissions of shape"):
        AdvectionDiffusion(emissions=jnp.ones((2, 2))).step(jnp.ones((4, 4)), 0)
    with pytest.raises(ConfigurationError, match="order must be 1 or 2"):
        AdvectionDiffusion(order=3)
    with pytest.raises(ConfigurationError, match="hold"):
        AdvectionDiffusion(hold=0)
