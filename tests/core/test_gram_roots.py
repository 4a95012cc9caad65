"""Inverse square roots of many matrices at once: accuracy at any condition number, the exact way out, derivatives."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffassim.core import batching, gram_roots
from diffassim.core.gram_roots import CONDITIONS, inverse_root_products, loss_products, poles
from diffassim.core.newton_schulz import at_least_one

N, B, C = 7, 5, 2
products = jax.jit(jax.vmap(inverse_root_products))
single = jax.jit(lambda A, R: jax.lax.map(lambda pair: inverse_root_products(*pair), (A, R)))


def problems(condition, dtype=np.float64, ranks=(N - 1, 2, 0, 1, N - 1)):
    """Return identities plus Gram matrices of several ranks, the largest eigenvalue being the condition number."""
    rng = np.random.default_rng(0)
    matrices = []
    for rank in ranks:
        Q = np.linalg.qr(rng.normal(size=(N, N)))[0]
        values = np.ones(N)
        values[:rank] = np.geomspace(condition, min(condition, 2.0), rank)
        matrices.append((Q * values) @ Q.T)
    A = np.stack(matrices)
    return jnp.asarray((A + A.swapaxes(1, 2)) / 2, dtype), jnp.asarray(rng.normal(size=(len(ranks), N, C)), dtype)


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_rational_function_is_the_root_to_rounding(condition, dtype):
    eps = float(np.finfo(dtype).eps)
    shifts, weights = poles(condition, eps / 4)
    assert shifts.min() > 0 and weights.min() > 0
    values = np.geomspace(1, condition, 3001)
    found = (weights / (values[:, None] + shifts)).sum(1) * np.sqrt(values)
    np.testing.assert_allclose(found, 1, rtol=max(eps / 2, 3e-15))


@pytest.mark.parametrize("condition", [1.0, 30.0, 1e3, 1e6, 1e9, 1e12, 1e14])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_products_at_any_condition_number(condition, dtype):
    A, R = problems(condition, dtype)
    found, expected = products(A, R), single(A, R)
    eps = float(np.finfo(dtype).eps)
    assert np.isfinite(found[0]).all()  # no rounding makes an identity plus a Gram matrix singular
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(a, b, atol=20 * N * eps * condition)
    if dtype == np.float64 and condition <= 1e6:  # closer to the exact one than rounding of A allows to expect
        values, vectors = np.linalg.eigh(np.asarray(A))
        T = np.einsum("bij,bj,bkj->bik", vectors, values**-0.5, vectors)
        np.testing.assert_allclose(found[0], T @ np.asarray(R), atol=20 * N * eps * condition)


@pytest.mark.parametrize("condition", [1.0, 30.0, 1e3, 1e6, 1e12])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_losses_at_any_condition_number(condition, dtype):
    B, R = problems(condition, dtype)
    found = jax.jit(jax.vmap(loss_products))(B, R)
    expected = jax.jit(lambda B, R: jax.lax.map(lambda pair: loss_products(*pair), (B, R)))(B, R)
    eps = float(np.finfo(dtype).eps)
    assert np.isfinite(found[0]).all()
    if condition * N * eps >= 1:
        return
    values, vectors = np.linalg.eigh(np.asarray(B, np.float64))
    exact = [np.einsum("bij,bj,bkj,bkc->bic", vectors, f, vectors, R)
             for f in (1 / (values + np.sqrt(values)), 1 / values)]  # fmt: skip
    for a, b, c in zip(found, expected, exact, strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(a, b, atol=20 * N * eps * condition)
        np.testing.assert_allclose(a, c, atol=20 * N * eps * condition)


@pytest.mark.slow
def test_what_is_beyond_the_approximation_takes_the_eigenvectors(monkeypatch):
    """With a wrong rational function only the branch by eigenvectors is right; it is taken for a whole batch."""
    A, R = problems(50.0)
    monkeypatch.setattr(gram_roots, "_shifted_solves", lambda diagonal, beside, shifts, weights, R: 0 * R)
    chunk = partial(gram_roots._chunk_products, gram_roots._by_eigenvectors, False)
    wrong = chunk(A, R)[0]
    np.testing.assert_array_equal(wrong, 0 * R)
    singular = A.at[0].set(jnp.diag(jnp.full(N, 1e16).at[0].set(1.0)))
    found = chunk(singular, R)[0]
    np.testing.assert_allclose(found[1:], single(A, R)[0][1:], rtol=1e-12)


def test_not_finite_is_not_hidden_and_stays_alone():
    A, R = problems(10.0)
    found = products(A.at[3, 0, 0].set(jnp.nan), R)[0]
    np.testing.assert_array_equal(np.isnan(found).all(axis=(1, 2)), np.arange(B) == 3)
    np.testing.assert_allclose(np.delete(found, 3, 0), np.delete(products(A, R)[0], 3, 0), rtol=1e-12)


@pytest.mark.slow
def test_batches_of_batches_and_chunks(monkeypatch):
    A, R = problems(1e3, ranks=tuple(range(N)))
    expected = products(A, R)
    monkeypatch.setattr(batching, "_chunk", lambda *_: 3)  # seven problems in chunks of three
    for found in (jax.vmap(inverse_root_products)(A, R), jax.vmap(jax.vmap(inverse_root_products))(A[None], R[None])):
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a.reshape(b.shape), b, rtol=0, atol=1e-12)
    one = jax.vmap(inverse_root_products, in_axes=(None, 0))(A[2], R)[1]
    np.testing.assert_allclose(one, jnp.linalg.solve(A[2][None], R), rtol=0, atol=1e-12)
    many = jnp.tile(R, (1, 1, 3))  # so many columns take the whole root
    np.testing.assert_allclose(products(A, many)[0], jnp.tile(expected[0], (1, 1, 3)), rtol=0, atol=1e-12)
    tiny = jax.vmap(inverse_root_products)(A[:, :2, :2], R[:, :2])[0]
    np.testing.assert_allclose(tiny[0], R[0, :2], atol=1e-12)


@pytest.mark.parametrize("condition", [1.0, 40.0, 1e5])
@pytest.mark.slow
def test_derivatives_of_both_ways_agree(condition):
    """The second problem has repeated eigenvalues, the third is the identity."""
    A, R = problems(condition)
    rng = np.random.default_rng(1)
    A_dot, R_dot, *W = (jnp.asarray(rng.normal(size=x.shape)) for x in (A, R, R, R))
    A_dot = A_dot + jnp.swapaxes(A_dot, 1, 2)

    def plain(A, R):
        T = at_least_one(A)
        return T @ R, T @ T @ R

    def score(function):
        def total(A, R):
            return sum(jnp.vdot(w, found) for w, found in zip(W, jax.vmap(function)(A, R), strict=True))

        return total

    together = jax.jit(jax.vmap(inverse_root_products))
    for a, b in zip(jax.jvp(together, (A, R), (A_dot, R_dot))[1], jax.jvp(jax.vmap(plain), (A, R), (A_dot, R_dot))[1],
                    strict=True):  # fmt: skip
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)
    gradients = [jax.jit(jax.grad(score(f), (0, 1)))(A, R) for f in (inverse_root_products, plain)]
    for a, b in zip(*gradients, strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)
    h = 1e-5 / condition**0.5  # by differences of the fast way itself
    values = [float(score(inverse_root_products)(A + s * h * A_dot, R + s * h * R_dot)) for s in (1, -1)]
    slope = jnp.vdot(gradients[0][0], A_dot) + jnp.vdot(gradients[0][1], R_dot)
    if condition <= 40:  # beyond it, A + h A_dot has eigenvalues below one that differ too much
        np.testing.assert_allclose(slope, (values[0] - values[1]) / (2 * h), rtol=1e-5, atol=1e-7)
