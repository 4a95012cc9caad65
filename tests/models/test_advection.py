"""Linear advection against exact shifts."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.models import LinearAdvection


@pytest.mark.parametrize("n", [8, 9])
@pytest.mark.parametrize("points", [-3, 0, 1, 5])
def test_whole_courant_numbers_shift_exactly(n, points):
    u = np.random.default_rng(0).normal(size=n)
    model = LinearAdvection(velocity=float(points))
    np.testing.assert_allclose(model.step(jnp.asarray(u), 0), np.roll(u, points), rtol=0, atol=1e-13)


def test_a_wave_travels_without_damping_or_dispersion():
    x = np.arange(64)
    model = LinearAdvection(velocity=0.37, spacing=1.0, dt=1.0)
    u = da.rollout(model, jnp.sin(2 * np.pi * 5 * x / 64), 100, at=[100])[0]
    np.testing.assert_allclose(u, np.sin(2 * np.pi * 5 * (x - 37) / 64), atol=1e-12)


def test_the_sum_is_conserved_and_odd_grids_keep_the_norm():
    u = jnp.asarray(np.random.default_rng(1).normal(size=9))
    moved = LinearAdvection(velocity=0.3).step(u, 0)
    np.testing.assert_allclose(jnp.sum(moved), jnp.sum(u), rtol=1e-13)
    np.testing.assert_allclose(jnp.linalg.norm(moved), jnp.linalg.norm(u), rtol=1e-13)
