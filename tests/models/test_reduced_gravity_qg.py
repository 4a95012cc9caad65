"""The 1.5-layer quasi-geostrophic model: conservation laws, the discrete equation, and an independent version of it."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sparse
from scipy.sparse.linalg import spsolve

import diffassim as da
from diffassim.core.errors import ShapeError
from diffassim.models import ReducedGravityQG
from diffassim.models.numerics.arakawa import arakawa_jacobian
from diffassim.models.numerics.helmholtz import laplacian, solve_helmholtz

N = 17
CALM = {"rossby": 0.0, "hyperviscosity": 0.0, "wind": 0.0}


def inner(seed, shape=(N - 2, N - 2)):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def with_walls(x):
    return jnp.pad(x, 1)


def test_the_jacobian_conserves_energy_and_enstrophy():
    for shape in ((N - 2, N - 2), (6, 9)):
        a, b, c = (inner(seed, shape) for seed in range(3))
        J = lambda a, b: arakawa_jacobian(a, b, 0.1)  # noqa: E731
        size = float(jnp.linalg.norm(a) * jnp.linalg.norm(J(a, b)))
        assert abs(float(jnp.vdot(a, J(a, b)))) < 1e-13 * size
        assert abs(float(jnp.vdot(b, J(a, b)))) < 1e-13 * size
        assert abs(float(jnp.sum(J(a, a)))) < 1e-13 * size
        np.testing.assert_allclose(J(a, b), -J(b, a), rtol=0, atol=1e-12)
        np.testing.assert_allclose(jnp.vdot(c, J(a, b)), jnp.vdot(a, J(b, c)), rtol=0, atol=1e-12 * size)


def test_the_jacobian_is_that_of_polynomials():
    # Away from the walls, where the fields are continued by zeros, the forms are exact for these.
    y, x = np.meshgrid(0.5 * np.arange(8), 0.5 * np.arange(9), indexing="ij")
    found = arakawa_jacobian(jnp.asarray(x * y), jnp.asarray(x - 2 * y), 0.5)
    np.testing.assert_allclose(found[1:-1, 1:-1], (-2 * y - x)[1:-1, 1:-1], rtol=0, atol=1e-12)


def test_the_jacobian_has_the_derived_adjoint():
    a, b, bar = (inner(seed, (5, 6)) for seed in range(3))
    dense = jnp.stack([arakawa_jacobian(a, e.reshape(5, 6), 0.3).ravel() for e in jnp.eye(30)], axis=1)
    _, pull_back = jax.vjp(lambda b: arakawa_jacobian(a, b, 0.3), b)
    np.testing.assert_allclose(pull_back(bar)[0].ravel(), dense.T @ bar.ravel(), rtol=0, atol=1e-12)
    dense = jnp.stack([arakawa_jacobian(e.reshape(5, 6), b, 0.3).ravel() for e in jnp.eye(30)], axis=1)
    _, pull_back = jax.vjp(lambda a: arakawa_jacobian(a, b, 0.3), a)
    np.testing.assert_allclose(pull_back(bar)[0].ravel(), dense.T @ bar.ravel(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (7, 7), (8, 5), (127, 127)])
def test_the_helmholtz_equation_holds_to_rounding(shape):
    h, F = 1 / 128, 1600.0
    x = inner(0, (2, *shape))
    psi = solve_helmholtz(x, h, F)
    np.testing.assert_allclose(laplacian(psi, h) - F * psi, x, rtol=0, atol=1e-12 * float(jnp.abs(x).max()))
    # The solution is exact as well as the residual, and symmetric.
    np.testing.assert_allclose(solve_helmholtz(laplacian(x, h) - F * x, h, F), x, rtol=0, atol=1e-12)
    y = inner(1, (2, *shape))
    np.testing.assert_allclose(jnp.vdot(y, psi), jnp.vdot(x, solve_helmholtz(y, h, F)), rtol=0, atol=1e-14)


def test_advection_conserves_energy_and_potential_enstrophy():
    model = ReducedGravityQG(rossby=1e-2, hyperviscosity=0.0, wind=0.0)
    psi = with_walls(inner(0))
    q, q_t = model.potential_vorticity(psi), model.potential_vorticity(model.tendency(psi))
    beta = model.replace(rossby=0.0)
    q_t_beta = beta.potential_vorticity(beta.tendency(psi))
    size = float(jnp.linalg.norm(q) * jnp.linalg.norm(q_t))
    assert abs(float(jnp.vdot(psi, q_t))) < 1e-12 * size  # energy, beta included
    assert abs(float(jnp.vdot(q, q_t - q_t_beta))) < 1e-12 * size


def numpy_tendency(psi, F, rossby, drag, viscosity, hyperviscosity):
    """Return dq/dt and the matrix from psi to q, with sparse matrices and loops in plain NumPy."""
    n = psi.shape[0]
    h, m = 1 / (n - 1), n - 2
    second = sparse.diags([1.0, -2.0, 1.0], [-1, 0, 1], shape=(m, m)) / h**2
    L = sparse.kron(second, sparse.eye(m)) + sparse.kron(sparse.eye(m), second)
    zeta = (L @ psi[1:-1, 1:-1].ravel()).reshape(m, m)
    q = np.pad(zeta - F * psi[1:-1, 1:-1], 1)
    slope = np.zeros((m, m))
    for i, j in itertools.product(range(1, n - 1), repeat=2):
        a, b = psi[i - 1 : i + 2, j - 1 : j + 2], q[i - 1 : i + 2, j - 1 : j + 2]
        x = lambda f, row=slice(None): f[row, 2] - f[row, 0]  # noqa: E731
        y = lambda f, column=slice(None): f[2, column] - f[0, column]  # noqa: E731
        plus = x(a, 1) * y(b, 1) - y(a, 1) * x(b, 1)  # the three forms as Arakawa gives them
        cross = a[1, 2] * y(b, 2) - a[1, 0] * y(b, 0) - a[2, 1] * x(b, 2) + a[0, 1] * x(b, 0)
        flux = b[2, 1] * x(a, 2) - b[0, 1] * x(a, 0) - b[1, 2] * y(a, 2) + b[1, 0] * y(a, 0)
        slope[i - 1, j - 1] = -rossby * (plus + cross + flux) / (12 * h**2) - x(a, 1) / (2 * h)
        slope[i - 1, j - 1] -= 2 * math.pi * math.sin(2 * math.pi * i * h)
    z = zeta.ravel()
    friction = -drag * z + viscosity * (L @ z) - hyperviscosity * (L @ (L @ z))
    return slope + friction.reshape(m, m), L - F * sparse.eye(m * m)


def test_the_tendency_is_that_of_an_independent_version():
    psi = np.pad(np.random.default_rng(3).normal(size=(N - 2, N - 2)), 1)
    q_t, matrix = numpy_tendency(psi, 300.0, 2e-2, 0.3, 1e-3, 1e-6)
    model = ReducedGravityQG(froude=300.0, rossby=2e-2, drag=0.3, viscosity=1e-3, hyperviscosity=1e-6)
    found = model.tendency(jnp.asarray(psi))
    expected = np.pad(spsolve(matrix.tocsc(), q_t.ravel()).reshape(N - 2, N - 2), 1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max())
    np.testing.assert_allclose(
        model.potential_vorticity(found)[1:-1, 1:-1], q_t, rtol=0, atol=1e-11 * np.abs(q_t).max()
    )


def test_friction_alone_decays_modes_exactly():
    # A sine is an eigenvector of the discrete Laplacian: with one linear term, Runge-Kutta multiplies it by a number.
    y, x = np.meshgrid(np.linspace(0, 1, N), np.linspace(0, 1, N), indexing="ij")
    mode = jnp.asarray(np.sin(2 * np.pi * x) * np.sin(3 * np.pi * y))
    eigenvalue = -4 * (N - 1) ** 2 * (math.sin(np.pi / (N - 1)) ** 2 + math.sin(1.5 * np.pi / (N - 1)) ** 2)
    F, drag, A_2, A_4 = 50.0, 0.2, 2e-3, 1e-5
    model = ReducedGravityQG(froude=F, rossby=0.1, drag=drag, viscosity=A_2, hyperviscosity=A_4, wind=0.0, dt=0.5)
    # J(psi, zeta) vanishes; the planetary wave is taken out.
    rate = (-drag * eigenvalue + A_2 * eigenvalue**2 - A_4 * eigenvalue**3) / (eigenvalue - F)
    wave = ReducedGravityQG(froude=F, **CALM).tendency(mode)
    np.testing.assert_allclose(model.tendency(mode) - wave, rate * mode, rtol=0, atol=1e-12)


def test_steps_converge_with_fourth_order_and_walls_stay_at_rest():
    model = ReducedGravityQG(froude=100.0, rossby=1e-3, hyperviscosity=1e-9, wind=1.0)
    start = 0.2 * with_walls(inner(1)) + 7.0 * with_walls(jnp.ones((N - 2, N - 2))) - 7.0
    ends = [da.rollout(model.replace(dt=2.0 / n), start, n, at=[n])[0] for n in (20, 40, 80)]
    coarse, fine = (float(jnp.abs(a - b).max()) for a, b in itertools.pairwise(ends))
    assert 13 < coarse / fine < 19
    np.testing.assert_array_equal(ends[0], with_walls(ends[0][1:-1, 1:-1]))
    np.testing.assert_array_equal(model.step(start, 0), model.step(with_walls(start[1:-1, 1:-1]), 0))


def test_bad_input_is_named():
    for shape in ((5, 6), (3, 3), (9,)):
        with pytest.raises(ShapeError, match="two trailing axes of equal length, at least 4"):
            ReducedGravityQG().step(jnp.ones(shape), 0)
