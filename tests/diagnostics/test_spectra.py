"""Spectra: single waves, Parseval's identity, and derivatives."""

from __future__ import annotations

import importlib.util
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.diagnostics import power_spectrum, spherical_power_spectrum

RNG = np.random.default_rng(0)
needs_dinosaur = pytest.mark.skipif(
    importlib.util.find_spec("dinosaur") is None, reason="dinosaur, of the extra sphere, is not installed"
)


@pytest.mark.parametrize(
    ("shape", "length"), [((8,), 1.0), ((9,), 3.0), ((8, 8), 2.0), ((7, 10), (1.0, 3.0)), ((4, 5, 6), (1.0, 2.0, 2.0))]
)
def test_the_sum_is_the_mean_square(shape, length):
    x = jnp.asarray(RNG.normal(size=(3, 2, *shape)))
    spectrum = power_spectrum(x, len(shape), length)
    axes = tuple(range(2, x.ndim))
    np.testing.assert_allclose(spectrum.power.sum(-1), jnp.mean(x**2, axis=axes), rtol=1e-14)
    np.testing.assert_allclose(spectrum.power[..., 0], jnp.mean(x, axis=axes) ** 2, rtol=1e-13, atol=1e-16)
    step = float(spectrum.wavenumber[1])
    assert math.isclose(step, 2 * math.pi / max(length if isinstance(length, tuple) else (length,)), rel_tol=1e-14)


def test_it_is_the_sum_over_all_modes_of_the_full_transform():
    x, lengths = RNG.normal(size=(6, 9)), (4.0, 10.0)
    modes = np.abs(np.fft.fft2(x) / x.size) ** 2
    y, kx = (np.fft.fftfreq(n, L / n) for n, L in zip(x.shape, lengths, strict=True))
    total = np.hypot(*np.meshgrid(y, kx, indexing="ij")) * 10.0
    spectrum = power_spectrum(jnp.asarray(x), 2, lengths)
    for j, power in enumerate(spectrum.power):
        np.testing.assert_allclose(power, modes[(total >= j - 0.5) & (total < j + 0.5)].sum(), rtol=1e-12, atol=1e-16)


def test_a_wave_has_its_wavenumber_in_any_direction():
    points = 2 * math.pi / 16 * np.arange(16)
    y, x = np.meshgrid(points, points, indexing="ij")
    for wave in (np.cos(5 * x), np.cos(5 * y), np.cos(3 * x + 4 * y), np.cos(4 * x - 3 * y)):
        spectrum = power_spectrum(jnp.asarray(3 + 2 * wave), 2)
        expected = np.zeros(spectrum.power.size)
        expected[[0, 5]] = 9.0, 2.0
        np.testing.assert_allclose(spectrum.power, expected, rtol=0, atol=1e-14)
    assert float(spectrum.wavenumber[5]) == 5.0


def test_it_is_differentiable_and_keeps_precision():
    x = jnp.asarray(RNG.normal(size=(6, 6)))
    found = jax.grad(lambda x: power_spectrum(x, 2).power.sum())(x)
    np.testing.assert_allclose(found, 2 * x / x.size, rtol=1e-13)
    assert power_spectrum(x.astype(jnp.float32), 2).power.dtype == jnp.float32


@needs_dinosaur
def test_on_the_sphere_the_sum_is_the_mean_square_of_band_limited_fields():
    mu, weights = np.polynomial.legendre.leggauss(32)
    longitude = 2 * np.pi / 64 * np.arange(64)
    sectoral = (1 - mu[:, None] ** 2) ** 2.5 * np.cos(5 * longitude)  # degree 5
    second = np.broadcast_to(1.5 * mu[:, None] ** 2 - 0.5, sectoral.shape)
    x = jnp.asarray(2.0 + sectoral + 3 * second)
    spectrum = spherical_power_spectrum(x, 21)
    area = lambda f: float(np.sum(weights[:, None] * np.asarray(f)) / 128)  # noqa: E731
    expected = np.zeros(23)
    expected[[0, 2, 5]] = 4.0, area(9 * second**2), area(sectoral**2)
    np.testing.assert_allclose(spectrum.power, expected, rtol=0, atol=1e-13)
    np.testing.assert_allclose(spectrum.power.sum(), area(x**2), rtol=1e-13)
    with pytest.raises(ShapeError, match="32 latitudes and 64 longitudes"):
        spherical_power_spectrum(x.T, 21)


def test_bad_input_is_named(monkeypatch):
    with pytest.raises(ConfigurationError, match="ndim must be 1, 2 or 3, found 4"):
        power_spectrum(jnp.ones((2,) * 4), 4)
    with pytest.raises(ShapeError, match="2 axes and as many lengths"):
        power_spectrum(jnp.ones(4), 2)
    with pytest.raises(ConfigurationError, match="length"):
        power_spectrum(jnp.ones(4), 1, -1.0)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"diffassim\[sphere\]"):
        spherical_power_spectrum(jnp.ones((32, 64)), 21)
