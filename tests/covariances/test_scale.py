"""Covariances on a million points: matrix-free in time and memory."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffassim.covariances import Diffusion, Gaussian, LowRank, Matern, forecast_differences
from diffassim.grids import Grid

GRID = Grid(1.0, (True, False))
FAMILIES = {
    "Gaussian": Gaussian(1.5, 20.0, GRID, nugget=1e-4),
    "Matern": Matern(1.5, 20.0, GRID, smoothness=1.5),
    "Diffusion": Diffusion(1.5, 20.0, GRID, order=4),
}


def roundtrip(B, v):
    return B.whiten(B.sqrt(v)), B.apply(v)


@pytest.mark.parametrize("name", FAMILIES)
def test_memory_is_linear_in_the_number_of_points(name):
    def temporary(n):
        v = jax.ShapeDtypeStruct((n, n), jnp.float64)
        compiled = jax.jit(roundtrip).lower(FAMILIES[name], v).compile()
        return compiled.memory_analysis().temp_size_in_bytes / (8 * n * n)

    small, large = temporary(250), temporary(1000)
    assert large <= 1.05 * small + 1
    assert large < 40  # fields of working memory, against a million for a matrix


@pytest.mark.parametrize("name", FAMILIES)
def test_a_million_points(name):
    v = jnp.asarray(np.random.default_rng(0).normal(size=(1000, 1000)))
    back, product = jax.jit(roundtrip)(FAMILIES[name], v)
    np.testing.assert_allclose(back, v, rtol=0, atol=1e-6)
    assert float(jnp.vdot(v, product)) > 0
    point = jnp.zeros((1000, 1000)).at[500, 500].set(1.0)
    column = jax.jit(lambda B, x: B.apply(x))(FAMILIES[name], point)
    np.testing.assert_allclose(column[500, 500], 1.5**2, rtol=1e-9)


@pytest.mark.slow
def test_patterns_of_forecast_differences_of_65536_variables():
    rng, n, cases = np.random.default_rng(0), 256, 50
    longer, shorter = (jnp.asarray(rng.normal(size=(cases, n, n)), jnp.float32) for _ in range(2))
    samples = forecast_differences(longer, shorter)
    B = LowRank.from_samples(samples, 30)
    variance = jnp.var(samples, axis=0, ddof=1)
    x = jnp.zeros((n, n), jnp.float32).at[17, 200].set(1)
    np.testing.assert_allclose(jax.jit(lambda B: B.apply(x))(B)[17, 200], variance[17, 200], rtol=1e-4)
    assert float(B.residual.std.min()) > 0
    compiled = jax.jit(lambda B, x: B.solve(B.apply(x))).lower(B, x).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * n * n * (4 * cases)  # patterns, not matrices
    np.testing.assert_allclose(compiled(B, x), x, rtol=0, atol=1e-4)
