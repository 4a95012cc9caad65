"""Correlations at a distance against their formulas, far from walls."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import gamma, kv

from diffassim.covariances import Diffusion, ExplicitDiffusion, Gaussian, Matern, MeasuredSpectrum
from diffassim.grids import Grid

N, H = 240, 0.5  # points and spacing
LAGS = np.array([0, 1, 5, 10, 20, 40])


def matern(r, length, nu):
    s = np.sqrt(2 * nu) * np.maximum(r, 1e-12) / length
    return np.where(r == 0, 1.0, 2 ** (1 - nu) / gamma(nu) * s**nu * kv(nu, s))


def gaussian(r, length):
    return np.exp(-0.5 * (r / length) ** 2)


def column(B, shape=(N,)):
    """Return the covariances of the middle point with all points."""
    middle = tuple(n // 2 for n in shape)
    return np.asarray(jax.jit(lambda B, x: B.apply(x))(B, jnp.zeros(shape).at[middle].set(1.0)))


@pytest.mark.parametrize("periodic", [True, False])
def test_gaussian_is_exact(periodic):
    found = column(Gaussian(2.0, 6.0, Grid(H, periodic), nugget=0.0))
    np.testing.assert_allclose(found[N // 2 + LAGS], 4 * gaussian(H * LAGS, 6.0), atol=1e-12)
    np.testing.assert_allclose(found[N // 2 - LAGS], found[N // 2 + LAGS], atol=1e-12)


def test_the_nugget_takes_its_share_of_the_variance():
    found = column(Gaussian(1.0, 6.0, Grid(H, True), nugget=0.1))
    expected = 0.9 * gaussian(H * LAGS, 6.0) + 0.1 * (LAGS == 0)
    np.testing.assert_allclose(found[N // 2 + LAGS], expected, atol=1e-12)


def test_gaussian_in_two_dimensions_is_exact_and_anisotropic():
    found = column(Gaussian(1.5, (2.0, 3.0), Grid((0.5, 0.75), (True, False)), nugget=0.0), (64, 72))
    for i, j in ((0, 0), (3, 0), (0, 4), (5, 6)):
        expected = 2.25 * gaussian(0.5 * i, 2.0) * gaussian(0.75 * j, 3.0)
        np.testing.assert_allclose(found[32 + i, 36 + j], expected, atol=1e-12)


@pytest.mark.parametrize("nu", [0.5, 1.5, 2.5, 4.0])
@pytest.mark.parametrize("periodic", [True, False])
def test_matern_converges_to_its_formula_with_the_second_order_of_the_grid(nu, periodic):
    def error(spacing, n):
        lags = (LAGS * H / spacing).astype(int)
        found = column(Matern(1.0, 6.0, Grid(spacing, periodic), smoothness=nu), (n,))
        return np.abs(found[n // 2 + lags] - matern(LAGS * H, 6.0, nu)).max()

    coarse, fine = error(H, N), error(H / 2, 2 * N)
    assert coarse < 0.01
    # second order; the exponential correlation has a kink at lag zero that is resolved with the first
    assert 1.8 * fine < coarse if nu == 0.5 else 3.5 * fine < coarse


def test_matern_in_two_dimensions_converges_with_the_second_order():
    def error(points):  # points to a unit
        n = 64 * points
        found = column(Matern(1.0, 4.0, Grid(1 / points, (True, True)), smoothness=1.5), (n, n))
        places = [(2, 0), (4, 0), (3, 4)]
        at = [found[n // 2 + points * i, n // 2 + points * j] for i, j in places]
        return np.abs(at - matern(np.array([np.hypot(*place) for place in places]), 4.0, 1.5)).max()

    coarse, fine = error(2), error(4)
    assert coarse < 0.01
    assert 3.5 * fine < coarse


@pytest.mark.parametrize("order", [2, 4, 10])
def test_diffusion_is_matern_in_one_dimension(order):
    # Two programs for one operator: M tridiagonal solves, and a multiplication in the spectral basis.
    for periodic in (True, False):
        grid = Grid(H, periodic)
        found = column(Diffusion(1.3, 6.0, grid, order=order))
        # the diffusion length l^2 / (2 M - 1) is that of a Matern correlation of smoothness M - 1/2
        expected = column(Matern(1.3, 6.0, grid, smoothness=order - 0.5))
        np.testing.assert_allclose(found, expected, atol=1e-11)


def test_high_order_diffusion_is_nearly_isotropic_and_gaussian():
    found = column(Diffusion(1.0, 4.0, Grid(0.5, (False, False)), order=30), (128, 128))
    for i, j in ((8, 0), (0, 8), (6, 8), (10, 0)):
        np.testing.assert_allclose(found[64 + i, 64 + j], gaussian(0.5 * np.hypot(i, j), 4.0), atol=0.015)


@pytest.mark.parametrize("periodic", [True, False])
def test_explicit_diffusion_is_gaussian_with_its_standard_deviation_at_every_point(periodic):
    std, length = 1 + 0.3 * np.sin(np.arange(40.0)), 1.5 * np.ones(40)
    found = [ExplicitDiffusion(std, ell, Grid(0.5, periodic), order=80) for ell in (1.5, length)]
    constant, varying = (np.asarray(jax.jit(lambda B: B.apply(jnp.eye(40)))(B)) for B in found)
    np.testing.assert_allclose(varying, constant, rtol=0, atol=1e-13)  # normalized in the spectral basis, by columns
    np.testing.assert_allclose(np.diag(constant), std**2, rtol=1e-12)
    lags = 0.5 * np.arange(8)
    # three cells a length: the fourth cumulant of the grid's kernel is about (spacing / length)^2
    np.testing.assert_allclose(constant[20, 20:28] / (std[20] * std[20:28]), gaussian(lags, 1.5), rtol=0, atol=0.012)


@pytest.mark.parametrize("family", [Gaussian, Matern, Diffusion])
def test_the_variance_is_exact_at_walls(family):
    std = 1 + 0.3 * np.sin(np.arange(30.0))
    B = family(std, 4.0, Grid(1.0, False))
    matrix = jax.jit(jax.vmap(B.apply))(jnp.eye(30))
    np.testing.assert_allclose(jnp.diagonal(matrix), std**2, rtol=1e-10)


def test_lengths_of_diffusion_vary():
    length = np.linspace(2.0, 8.0, 200)
    B = Diffusion(1.0, length, Grid(1.0, False), order=10)
    matrix = np.asarray(jax.jit(jax.vmap(B.apply))(jnp.eye(200)))
    for i in (60, 100, 140):  # locally as with the length there, to the first order of its change over a length
        assert abs(matrix[i - 4, i + 4] - matern(8.0, length[i], 9.5)) < 0.02


@pytest.mark.parametrize("shape", [(6,), (4, 5), (5, 4)])
def test_a_measured_spectrum_is_the_mean_product_over_samples_and_places(shape):
    samples = np.random.default_rng(0).normal(size=(3, *shape))
    B = MeasuredSpectrum.from_samples(jnp.asarray(samples), Grid((1.0,) * len(shape), (True,) * len(shape)))
    places = list(np.ndindex(shape))
    axes = tuple(range(len(shape)))
    moved = np.stack([np.roll(sample, place, axes) for sample in samples for place in places])
    expected = np.mean(moved[(slice(None), *(0,) * len(shape))][:, None] * moved.reshape(len(moved), -1), axis=0)
    found = B.apply(jnp.zeros(shape).at[(0,) * len(shape)].set(1.0))
    np.testing.assert_allclose(found.ravel(), expected, rtol=0, atol=1e-13)


def test_a_measured_spectrum_of_a_known_covariance_is_that_covariance():
    known = Matern(1.3, (2.0, 3.0), Grid(1.0, (True, True)), smoothness=1.5)
    powers = jnp.fft.rfftn(known.apply(jnp.zeros((8, 9)).at[0, 0].set(1.0))).real
    B = MeasuredSpectrum(powers, known.grid)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 8, 9)))
    for operation in ("apply", "solve", "whiten", "logdet"):
        np.testing.assert_allclose(getattr(B, operation)(x), getattr(known, operation)(x), rtol=1e-10, atol=1e-10)


def test_a_floor_lets_an_empty_mode_be_inverted():
    grid, waves = Grid(1.0, True), jnp.cos(2 * np.pi / 8 * jnp.arange(8.0))[None]
    with_floor = MeasuredSpectrum.from_samples(waves, grid, floor=1e-3)
    np.testing.assert_allclose(with_floor.spectrum.min() / 0.5, 1e-3, rtol=1e-12)
    x = jnp.arange(8.0)
    np.testing.assert_allclose(with_floor.apply(with_floor.solve(x)), x, atol=1e-10)
