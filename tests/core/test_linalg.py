"""Symmetric square roots: values, derivatives at repeated eigenvalues, second order, singular input."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from diffassim.core.linalg import safe_sqrt, symmetric_inverse_sqrt, symmetric_sqrt

RNG = np.random.default_rng(0)
Q = np.linalg.qr(RNG.normal(size=(5, 5)))[0]
SPECTRA = {
    "distinct": [1.0, 2.0, 3.5, 5.0, 9.0],
    "repeated": [2.0, 2.0, 2.0, 7.0, 7.0],
    "identity": [1.0] * 5,
    "nearly repeated": [1.0, 1.0 + 1e-14, 1.0 + 1e-9, 4.0, 4.0],
}
ROOTS = {"sqrt": (symmetric_sqrt, 0.5), "inverse sqrt": (symmetric_inverse_sqrt, -0.5)}


def matrix(name):
    A = (Q * SPECTRA[name]) @ Q.T
    return (A + A.T) / 2


def symmetric(seed=1):
    E = np.random.default_rng(seed).normal(size=(5, 5))
    return (E + E.T) / 2


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("root", ROOTS)
def test_value(root, spectrum):
    function, power = ROOTS[root]
    exact = (Q * np.array(SPECTRA[spectrum]) ** power) @ Q.T
    np.testing.assert_allclose(function(jnp.asarray(matrix(spectrum))), exact, rtol=0, atol=1e-13)


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_derivative_solves_the_lyapunov_equation(spectrum):
    A, E = matrix(spectrum), symmetric()
    S = (Q * np.sqrt(SPECTRA[spectrum])) @ Q.T
    S_dot = scipy.linalg.solve_continuous_lyapunov(S, E)
    found = jax.jvp(symmetric_sqrt, (jnp.asarray(A),), (jnp.asarray(E),))[1]
    np.testing.assert_allclose(found, S_dot, rtol=0, atol=1e-12)
    T = np.linalg.inv(S)
    found = jax.jvp(symmetric_inverse_sqrt, (jnp.asarray(A),), (jnp.asarray(E),))[1]
    np.testing.assert_allclose(found, -T @ S_dot @ T, rtol=0, atol=1e-12)


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("root", ROOTS)
def test_reverse_mode_is_the_transpose_of_forward_mode(root, spectrum):
    function, _ = ROOTS[root]
    A, E, W = jnp.asarray(matrix(spectrum)), jnp.asarray(RNG.normal(size=(5, 5))), jnp.asarray(RNG.normal(size=(5, 5)))
    forward = jnp.vdot(jax.jvp(function, (A,), (E,))[1], W)
    backward = jnp.vdot(E, jax.vjp(function, A)[1](W)[0])
    assert np.isfinite(float(forward))
    np.testing.assert_allclose(forward, backward, rtol=1e-12)


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("root", ROOTS)
def test_gradient_and_hessian_against_finite_differences(root, spectrum):
    function, _ = ROOTS[root]
    A, E, W = (jnp.asarray(M) for M in (matrix(spectrum), symmetric(), RNG.normal(size=(5, 5))))

    def along(h):
        return jnp.vdot(W, function(A + h * E))

    h = 1e-4
    first = (float(along(h)) - float(along(-h))) / (2 * h)
    slope = jax.grad(along)
    second = (float(slope(h)) - float(slope(-h))) / (2 * h)
    zero = jnp.asarray(0.0)
    np.testing.assert_allclose(slope(zero), first, rtol=1e-6, atol=1e-6)  # differences of step 1e-4: error h^2
    np.testing.assert_allclose(jax.grad(slope)(zero), second, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(jax.jvp(slope, (zero,), (jnp.ones(()),))[1], jax.grad(slope)(zero), rtol=1e-10)


def test_plain_eigh_would_fail_here():
    """Negative control: the derivative through the eigenvectors is not finite at a repeated eigenvalue."""

    def naive(A):
        values, vectors = jnp.linalg.eigh(A)
        return jnp.sum((vectors * jnp.sqrt(values)[None, :]) @ vectors.T * jnp.asarray(Q))

    eye = jnp.eye(5)
    assert not bool(jnp.all(jnp.isfinite(jax.grad(naive)(eye))))
    assert bool(jnp.all(jnp.isfinite(jax.grad(lambda A: jnp.sum(symmetric_sqrt(A) * jnp.asarray(Q)))(eye))))


@pytest.mark.parametrize("root", ROOTS)
def test_batches_and_jit(root):
    function, _ = ROOTS[root]
    batch = jnp.asarray(np.stack([matrix(name) for name in SPECTRA]))
    single = np.stack([function(A) for A in batch])
    np.testing.assert_allclose(function(batch), single, rtol=0, atol=1e-14)
    np.testing.assert_allclose(jax.jit(jax.vmap(function))(batch), single, rtol=0, atol=1e-14)
    gradient = jax.grad(lambda A: jnp.sum(function(A) ** 3))
    np.testing.assert_allclose(jax.vmap(gradient)(batch), np.stack([gradient(A) for A in batch]), rtol=0, atol=1e-12)
    np.testing.assert_allclose(gradient(batch), np.stack([gradient(A) for A in batch]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("root", ROOTS)
def test_float32(root):
    function, power = ROOTS[root]
    A = jnp.asarray(matrix("repeated"), jnp.float32)
    found, gradient = function(A), jax.grad(lambda A: jnp.sum(function(A) ** 2))(A)
    assert found.dtype == gradient.dtype == jnp.float32
    np.testing.assert_allclose(found, (Q * np.array(SPECTRA["repeated"]) ** power) @ Q.T, atol=5e-6)
    assert bool(jnp.all(jnp.isfinite(gradient)))


def test_only_the_symmetric_part_counts():
    A, N = matrix("distinct"), RNG.normal(size=(5, 5))
    np.testing.assert_allclose(symmetric_sqrt(jnp.asarray(A + N - N.T)), symmetric_sqrt(jnp.asarray(A)), atol=1e-12)
    gradient = jax.grad(lambda A: jnp.sum(symmetric_sqrt(A) * jnp.asarray(N)))(jnp.asarray(A))
    np.testing.assert_allclose(gradient, gradient.T, rtol=0, atol=0)


def test_semidefinite_matrix():
    u = np.array([3.0, 0.0, 4.0])
    S = symmetric_sqrt(jnp.asarray(np.outer(u, u)))
    np.testing.assert_allclose(S, np.outer(u, u) / 5, atol=1e-12)
    # along the matrix itself the derivative of sqrt((1 + h) A) is S / 2; the null space does not disturb it
    S_dot = jax.jvp(symmetric_sqrt, (jnp.asarray(np.outer(u, u)),), (jnp.asarray(np.outer(u, u)),))[1]
    np.testing.assert_allclose(S_dot, np.outer(u, u) / 10, atol=1e-12)
    assert bool(jnp.all(jnp.isfinite(jax.grad(lambda A: jnp.sum(symmetric_sqrt(A)))(jnp.zeros((3, 3))))))


def test_indefinite_singular_and_non_finite_input_is_nan():
    indefinite, singular = jnp.diag(jnp.array([1.0, -0.1])), jnp.diag(jnp.array([1.0, 0.0]))
    assert bool(jnp.all(jnp.isnan(symmetric_sqrt(indefinite))))
    assert bool(jnp.all(jnp.isnan(symmetric_inverse_sqrt(indefinite))))
    assert bool(jnp.all(jnp.isnan(symmetric_inverse_sqrt(singular))))
    assert bool(jnp.all(jnp.isnan(symmetric_sqrt(jnp.full((2, 2), jnp.nan)))))
    both = jnp.stack([indefinite, jnp.eye(2)])
    np.testing.assert_array_equal(jnp.isnan(symmetric_sqrt(both)).any(axis=(1, 2)), [True, False])


def test_badly_conditioned_matrix():
    values = np.array([1e-8, 1e-5, 1.0, 1e3, 1e3])
    A, E = jnp.asarray((Q * values) @ Q.T), jnp.asarray(symmetric())
    S = symmetric_sqrt(A)
    np.testing.assert_allclose(S @ S, A, rtol=0, atol=1e-11)
    S_dot = jax.jvp(symmetric_sqrt, (A,), (E,))[1]
    # rounding of S S', where S' is as large as 1 / (2 sqrt(1e-8))
    np.testing.assert_allclose(S @ S_dot + S_dot @ S, E, rtol=0, atol=1e-9)


def test_the_safe_root_differs_from_the_root_in_the_derivative_at_zero_alone():
    x = jnp.array([0.0, 4.0, jnp.inf, jnp.nan, -1.0])
    np.testing.assert_array_equal(safe_sqrt(x), np.array([0.0, 2.0, np.inf, np.nan, np.nan]))
    np.testing.assert_array_equal(jax.grad(lambda x: jnp.sum(safe_sqrt(x)))(x[:2]), [0.0, 0.25])
    assert safe_sqrt(jnp.float32(4)).dtype == jnp.float32
