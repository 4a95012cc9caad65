"""Two-layer quasi-geostrophic turbulence: conservation laws, an independent version, and pyqg-jax."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.models import AdamsBashforth3, Lorenz63, TwoLayerQG
from diffassim.models.numerics.fourier import to_grid, to_modes

N = 12


def eddies(n=N, seed=0, smooth=False):
    q = np.random.default_rng(seed).normal(size=(2, n, n))
    if smooth:
        k = np.abs(np.fft.fftfreq(n, 1 / n))
        q = np.fft.ifft2(np.fft.fft2(q) * ((3 * k[:, None] < n) & (3 * k < n))).real
    return jnp.asarray(1e-5 * (q - q.mean((1, 2), keepdims=True)))


def waves(n, length):
    k = 2 * np.pi / length * np.fft.fftfreq(n, 1 / n)
    return np.meshgrid(k, k, indexing="ij")


def numpy_tendency(q, model):
    """Return dq/dt by full complex transforms and a 2 x 2 system for every mode, from the equations as they stand."""
    n, L = q.shape[-1], model.length
    y, x = waves(n, L)
    F_1 = 1 / (model.deformation_radius**2 * (1 + model.thickness_ratio))
    F_2 = model.thickness_ratio * F_1
    square = x**2 + y**2
    modes, psi = np.fft.fft2(q), np.zeros((2, n, n), complex)
    for i, j in zip(*np.nonzero(square), strict=True):
        A = np.array([[-square[i, j] - F_1, F_1], [F_2, -square[i, j] - F_2]])
        psi[:, i, j] = np.linalg.solve(A, modes[:, i, j])
    U = (model.upper_flow, model.lower_flow)
    shear = U[0] - U[1]
    slopes = []
    for layer, Q in enumerate((model.beta + F_1 * shear, model.beta - F_2 * shear)):
        u, v = np.fft.ifft2(-1j * y * psi[layer]).real, np.fft.ifft2(1j * x * psi[layer]).real
        slope = -1j * x * np.fft.fft2((u + U[layer]) * q[layer]) - 1j * y * np.fft.fft2(v * q[layer])
        slope -= 1j * x * Q * psi[layer]
        if layer == 1:
            slope += model.drag * square * psi[layer]
        slopes.append(np.fft.ifft2(slope).real)
    return np.stack(slopes), np.fft.ifft2(psi).real


@pytest.mark.parametrize("n", [N, 9])
@pytest.mark.slow
def test_the_tendency_is_that_of_an_independent_version(n):
    model = TwoLayerQG(length=3e5, upper_flow=0.04, lower_flow=0.01, drag=1e-6)
    # without the shortest waves, whose derivative depends on the kind of transform
    q = eddies(n, smooth=True)
    slope, psi = numpy_tendency(np.asarray(q), model)
    found = model.tendency(q)
    k = np.abs(np.fft.fftfreq(n, 1 / n))
    kept = (2 * k[:, None] < n) & (2 * k < n)
    resolved = lambda f: np.fft.ifft2(np.fft.fft2(f) * kept).real  # noqa: E731
    np.testing.assert_allclose(resolved(found), resolved(slope), rtol=0, atol=1e-13 * np.abs(slope).max())
    np.testing.assert_allclose(model.streamfunction(q), psi, rtol=0, atol=1e-12 * np.abs(psi).max())


def test_energy_is_conserved_and_enstrophy_of_each_layer_changes_by_the_mean_gradient_alone():
    model = TwoLayerQG(length=3e5, drag=0.0, upper_flow=0.0)
    q = eddies(smooth=True)
    slope, psi = model.tendency(q), model.streamfunction(q)
    thickness = jnp.array([model.thickness_ratio, 1.0])[:, None, None]  # of the layers, in units of the lower one
    size = float(jnp.linalg.norm(psi) * jnp.linalg.norm(slope))
    assert abs(float(jnp.vdot(thickness * psi, slope))) < 1e-12 * size
    advection = slope - model.tendency(1e-30 * q) * 1e30  # without the linear part
    for layer in range(2):
        size = float(jnp.linalg.norm(q[layer]) * jnp.linalg.norm(advection[layer]))
        assert abs(float(jnp.vdot(q[layer], advection[layer]))) < 1e-12 * size
    assert np.abs(np.asarray(slope.sum((1, 2)))).max() < 1e-12 * float(jnp.abs(slope).sum())


def test_small_disturbances_grow_at_the_rate_of_baroclinic_instability():
    model = TwoLayerQG(length=2e5, drag=0.0, beta=0.0, filter_strength=0.0, dt=1800.0)
    n, wave = 16, 1
    k = 2 * np.pi * wave / model.length
    F_1 = 1 / (model.deformation_radius**2 * (1 + model.thickness_ratio))
    F_2, U = model.thickness_ratio * F_1, model.upper_flow
    inverse = np.linalg.inv(np.array([[-(k**2) - F_1, F_1], [F_2, -(k**2) - F_2]]))
    matrix = -1j * k * (np.diag([U, 0.0]) + np.diag([F_1 * U, -F_2 * U]) @ inverse)
    rates, vectors = np.linalg.eig(matrix)
    fastest = np.argmax(rates.real)
    assert rates[fastest].real > 1e-7
    phase = np.exp(1j * k * model.length / n * np.arange(n))
    mode = lambda factor: 1e-12 * (factor * vectors[:, fastest, None] * phase).real  # noqa: E731
    q = jnp.asarray(np.repeat(mode(1.0)[:, None, :], n, axis=1))
    steps = 48
    end = da.rollout(model, q, steps, at=[steps])[0]
    expected = mode(np.exp(rates[fastest] * steps * model.dt))
    np.testing.assert_allclose(end, np.repeat(expected[:, None], n, axis=1), rtol=0, atol=1e-9 * np.abs(expected).max())


def test_the_spectral_form_steps_alike():
    model, q = TwoLayerQG(length=3e5), eddies()
    core = model.spectral(N)
    np.testing.assert_allclose(to_grid(core.step(to_modes(q, 2), 0), (N, N)), model.step(q, 0), rtol=0, atol=1e-20)
    batch = jnp.stack([q, 2 * q[::-1]])
    both = model.step(batch, 0)
    np.testing.assert_allclose(both[1], model.step(batch[1], 0), rtol=0, atol=1e-20)


@pytest.mark.slow
def test_the_written_adjoints_are_the_derived_ones():
    core = TwoLayerQG(length=3e5).spectral(N)
    q = to_modes(eddies(), 2)

    def derived(modes):
        velocity = core.velocity[:, 0] * modes[:1] + core.velocity[:, 1] * modes[1:]
        fields = jnp.fft.irfftn(jnp.concatenate([velocity, modes]), (N, N), (-2, -1))
        fluxes = jnp.concatenate([fields[:2] * fields[4:], fields[2:4] * fields[4:]])
        products = jnp.fft.rfftn(fluxes, axes=(-2, -1))
        advection = core.divergence[:1] * products[:2] + core.divergence[1:] * products[2:]
        return advection + core.linear[:, 0] * modes[:1] + core.linear[:, 1] * modes[1:]

    found, pull_back = jax.vjp(core.tendency, q)
    expected, derived_pull_back = jax.vjp(derived, q)
    bar = to_modes(eddies(seed=1), 2)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13 * float(jnp.abs(expected).max()))
    reference = derived_pull_back(bar)[0]
    np.testing.assert_allclose(pull_back(bar)[0], reference, rtol=0, atol=1e-13 * float(jnp.abs(reference).max()))


@pytest.mark.slow
def test_adams_bashforth_steps_have_third_order():
    x = jnp.array([1.5, -1.5, 25.5])
    exact = da.rollout(Lorenz63(dt=1e-3), x, 200, at=[200])[0]

    def error(n):
        model = AdamsBashforth3(Lorenz63(dt=0.2 / n))
        fine = Lorenz63(dt=0.2 / n)
        first, second = fine.step(x, 0), fine.step(fine.step(x, 0), 0)
        slopes = [fine.tendency(x), fine.tendency(first)]
        state = da.models.AdamsBashforthState(second, slopes[1], slopes[0], jnp.asarray(2.0))
        return float(jnp.linalg.norm(da.rollout(model, state, n - 2, at=[n - 2]).x[0] - exact))

    assert 6.5 < error(200) / error(400) < 9.5


def test_bad_input_is_named():
    for shape in ((2, 5, 6), (3, 8, 8), (2, 3, 3), (8, 8)):
        with pytest.raises(ShapeError, match=r"trailing axes \(2, n, n\) with n of at least 4"):
            TwoLayerQG().step(jnp.ones(shape), 0)
    with pytest.raises(ConfigurationError, match="deformation_radius"):
        TwoLayerQG(deformation_radius=0.0)
    with pytest.raises(ConfigurationError, match="no method tendency"):
        AdamsBashforth3(da.models.FunctionModel(lambda x, t: x))


@pytest.mark.parametrize("n", [9, 64])
@pytest.mark.slow
def test_tendencies_and_trajectories_equal_those_of_pyqg_jax(n):
    pyqg_jax = pytest.importorskip("pyqg_jax", reason="pyqg-jax, a peer, is not installed")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        peer = pyqg_jax.qg_model.QGModel(nx=n, precision=pyqg_jax.state.Precision.DOUBLE)
        stepped = pyqg_jax.steppers.SteppedModel(peer, pyqg_jax.steppers.AB3Stepper(dt=7200.0))
        state = stepped.create_initial_state(jax.random.key(0))
        q = eddies(n)  # rough: aliases and the shortest waves count
        slope = peer.get_updates(state.state.update(q=q)).qh
        expected = stepped.initialize_stepper_state(state.state.update(q=q))
        step = jax.jit(stepped.step_model)
        for _ in range(6):
            expected = step(expected)
        expected = expected.state.q
    model = TwoLayerQG()
    core = model.spectral(n)
    found = core.tendency(to_modes(q, 2))
    np.testing.assert_allclose(found, slope, rtol=0, atol=1e-12 * float(jnp.abs(slope).max()))
    scheme = AdamsBashforth3(core)
    end = da.rollout(scheme, scheme.start(to_modes(q, 2)), 6, at=[6]).x[0]
    np.testing.assert_allclose(to_grid(end, (n, n)), expected, rtol=0, atol=1e-11 * float(jnp.abs(expected).max()))
