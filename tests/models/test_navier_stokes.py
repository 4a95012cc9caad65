"""Navier-Stokes in two dimensions against exact flows, conservation laws and another library."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.models import NavierStokes
from diffassim.models.numerics.fourier import to_grid, to_modes

N = 24
POINTS = 2 * np.pi / N * np.arange(N)
Y, X = np.meshgrid(POINTS, POINTS, indexing="ij")


def smooth_state():
    return np.sin(X + 2 * Y) + 0.7 * np.cos(3 * X - Y + 1) + 0.5 * np.sin(2 * Y) + 0.2 * np.cos(4 * X)


def numpy_tendency(w, viscosity, drag, force, m):
    """Return the tendency as -u . grad(w) + ..., by full complex transforms in plain NumPy."""
    k = np.fft.fftfreq(N, 1 / N)
    ky, kx = np.meshgrid(k, k, indexing="ij")
    modes = np.fft.fft2(w)
    kept = modes * ((3 * np.abs(kx) < N) & (3 * np.abs(ky) < N))
    squared = np.where(kx**2 + ky**2 > 0, kx**2 + ky**2, 1)

    def field(factor):
        return np.fft.ifft2(factor * kept).real

    advection = field(1j * ky / squared) * field(1j * kx) + field(-1j * kx / squared) * field(1j * ky)
    filtered = np.fft.ifft2(np.fft.fft2(advection) * ((3 * np.abs(kx) < N) & (3 * np.abs(ky) < N))).real
    damped = np.fft.ifft2(-(viscosity * (kx**2 + ky**2) + drag) * modes).real
    return -filtered + damped - force * m * np.cos(m * Y)


def test_the_tendency_is_that_of_another_form_of_the_equation():
    w = smooth_state()
    found = NavierStokes(viscosity=0.03, drag=0.1, force=0.6, wavenumber=3).tendency(jnp.asarray(w))
    np.testing.assert_allclose(found, numpy_tendency(w, 0.03, 0.1, 0.6, 3), rtol=0, atol=1e-12)


def test_energy_and_enstrophy_are_conserved_without_viscosity_and_force():
    model = NavierStokes(viscosity=0.0)
    kept = np.abs(np.fft.fftfreq(N, 1 / N)) < N / 3
    rough = np.fft.fft2(np.random.default_rng(0).normal(size=(N, N))) * (kept[:, None] & kept[None, :])
    w = jnp.asarray(np.fft.ifft2(rough).real)  # all modes that the model keeps, so that aliases would show
    slope = model.tendency(w)
    u, v = model.velocity(w)
    du, dv = model.velocity(slope)
    size = float(jnp.linalg.norm(slope) * jnp.linalg.norm(w))
    assert abs(float(jnp.vdot(w, slope))) < 1e-12 * size  # enstrophy
    assert abs(float(jnp.vdot(u, du) + jnp.vdot(v, dv))) < 1e-12 * size  # energy
    assert abs(float(jnp.sum(slope))) < 1e-12 * size


def test_vortices_of_taylor_and_green_decay_exactly():
    model = NavierStokes(viscosity=0.05, drag=0.1, dt=0.5)
    vortices = jnp.asarray(2 * np.cos(2 * X) * np.cos(Y))  # an eigenfunction of the Laplacian: no advection of itself
    end = da.rollout(model, vortices, 8, at=[8])[0]
    np.testing.assert_allclose(end, math.exp(-4.0 * (0.05 * 5 + 0.1)) * vortices, rtol=0, atol=1e-13)


def test_laminar_kolmogorov_flow_is_stationary():
    model = NavierStokes(viscosity=0.1, drag=0.05, force=0.3, wavenumber=2, length=4 * math.pi)
    k = 1.0  # 2 pi m / L
    w = jnp.asarray(-0.3 * k / (0.1 * k**2 + 0.05) * np.cos(2 * Y))
    np.testing.assert_allclose(model.step(w, 0), w, rtol=0, atol=1e-13)
    np.testing.assert_allclose(model.velocity(w)[0], 0.3 / 0.15 * np.sin(2 * Y), atol=1e-13)


def test_transforms_have_the_derived_adjoint():
    rng = np.random.default_rng(1)
    for shape in ((6,), (5,), (4, 6), (6, 5)):
        x = jnp.asarray(rng.normal(size=(2, *shape)))
        dims, axes = len(shape), tuple(range(-len(shape), 0))
        found, pull_back = jax.vjp(lambda x, d=dims: to_modes(x, d), x)
        expected, derived = jax.vjp(lambda x, a=axes: jnp.fft.rfftn(x, axes=a), x)
        bar = jnp.asarray(rng.normal(size=found.shape) + 1j * rng.normal(size=found.shape))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)
        np.testing.assert_allclose(pull_back(bar)[0], derived(bar)[0], rtol=0, atol=1e-12)
        np.testing.assert_allclose(to_grid(found, shape), x, rtol=0, atol=1e-14)


def test_energy_changes_by_what_the_force_does_and_what_viscosity_and_drag_take():
    model = NavierStokes(viscosity=0.03, drag=0.1, force=0.6, wavenumber=3)
    w = jnp.asarray(smooth_state())
    (u, v), (du, dv) = model.velocity(w), model.velocity(model.tendency(w))
    change = jnp.mean(u * du + v * dv)
    work = jnp.mean(0.6 * np.sin(3 * Y) * u)
    taken = 0.03 * jnp.mean(w**2) + 0.1 * jnp.mean(u**2 + v**2)
    np.testing.assert_allclose(change, work - taken, rtol=0, atol=1e-13)
    moved = w + jnp.asarray(0.4 * np.cos(3 * Y))  # a flow on which the force does work
    (u, v), (du, dv) = model.velocity(moved), model.velocity(model.tendency(moved))
    work = jnp.mean(0.6 * np.sin(3 * Y) * u)
    taken = 0.03 * jnp.mean(moved**2) + 0.1 * jnp.mean(u**2 + v**2)
    assert abs(float(work)) > 0.01
    np.testing.assert_allclose(jnp.mean(u * du + v * dv), work - taken, rtol=0, atol=1e-13)


def test_bad_input_is_named():
    with pytest.raises(ShapeError, match="two trailing axes of equal length"):
        NavierStokes().step(jnp.ones((4, 6)), 0)
    with pytest.raises(ShapeError, match="cannot carry the force's wavenumber 4; take more than 8"):
        NavierStokes(force=1.0).step(jnp.ones((8, 8)), 0)
    with pytest.raises(ConfigurationError, match="positive integer"):
        NavierStokes(wavenumber=0)


@pytest.mark.slow
def test_kolmogorov_flow_is_that_of_exponax_to_the_error_of_the_steps():
    exponax = pytest.importorskip("exponax", reason="exponax, an independent spectral library, is not installed")
    w = jnp.asarray(smooth_state())
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        # The sign of its vorticity is turned, as below, and that of the force with it.
        peer = exponax.stepper.KolmogorovFlowVorticity(
            2, 2 * math.pi, N, 0.02, diffusivity=0.02, drag=-0.1, injection_mode=3, injection_scale=-0.6,
            order=4, num_circle_points=64,
        )  # fmt: skip
        other = -w.T[None]
        for _ in range(25):
            other = peer(other)
    model = NavierStokes(viscosity=0.02, drag=0.1, force=0.6, wavenumber=3, dt=0.02)
    found = da.rollout(model, w, 25, at=[25])[0]
    np.testing.assert_allclose(found, -other[0].T, rtol=0, atol=1e-10)
    still = da.rollout(model.replace(force=0.0), w, 25, at=[25])[0]
    assert float(jnp.abs(found - still).max()) > 0.1  # the force matters


def test_a_step_equals_that_of_exponax():
    exponax = pytest.importorskip("exponax", reason="exponax, an independent spectral library, is not installed")
    w = jnp.asarray(smooth_state())
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        # There the stream function has the other sign, which turns the advection around.
        peer = exponax.stepper.NavierStokesVorticity(
            2, 2 * math.pi, N, 0.05, diffusivity=0.02, drag=-0.1, order=4, num_circle_points=64
        )
        expected = -peer(-w.T[None])[0].T
    found = NavierStokes(viscosity=0.02, drag=0.1, dt=0.05).step(w, 0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
