"""Inverse roots by matrix products: accuracy at any condition number, the exact way out, derivatives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffassim.core.newton_schulz import LARGEST, at_least_one, gram_inverse_sqrt, gram_transform, newton_schulz
from tests.core.test_gram_roots import N, problems

iterated = jax.jit(lambda A: jax.lax.map(newton_schulz, A))
single = jax.jit(lambda A: jax.lax.map(gram_inverse_sqrt, A))
batched = jax.jit(jax.vmap(gram_inverse_sqrt))
exact = jax.jit(jax.vmap(at_least_one))


@pytest.mark.parametrize("condition", [1.0, 3.0, 30.0, 1e3, 1e5, 1e8, 1e12, 1e14])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_root_at_any_condition_number(condition, dtype):
    A, _ = problems(condition, dtype)
    eps = float(np.finfo(dtype).eps)
    assert bool(iterated(A)[1][0]) == (condition < LARGEST)  # beyond, the eigenvectors answer
    for found in (single(A), batched(A)):
        assert found.dtype == dtype
        np.testing.assert_allclose(found, exact(A), atol=20 * N * eps * condition)
        assert jnp.isfinite(found).all()  # no rounding makes an identity plus a Gram matrix singular
    if condition < LARGEST:
        values, vectors = np.linalg.eigh(np.asarray(A, np.float64))
        T = np.einsum("bij,bj,bkj->bik", vectors, values**-0.5, vectors)
        np.testing.assert_allclose(iterated(A)[0], T, atol=50 * eps * condition**0.5)


@pytest.mark.parametrize("condition", [1e5, 1e8, 1e11])
def test_with_the_factor_single_precision_is_enough(condition):
    """The smallest eigenvalues are right although the sum of identity and Gram matrix has lost them."""
    V = np.random.default_rng(0).normal(size=(4, N, 2)) * condition**0.5
    d = np.random.default_rng(1).normal(size=(4, 2)) * condition**0.5
    values, vectors = np.linalg.eigh(np.eye(N) + V @ V.swapaxes(1, 2))
    T = np.einsum("bij,bj,bkj->bik", vectors, np.maximum(values, 1) ** -0.5, vectors)
    w = np.einsum("bik,bk->bi", V, np.linalg.solve(np.eye(2) + V.swapaxes(1, 2) @ V, d[..., None])[..., 0])
    single = [jnp.asarray(x, jnp.float32) for x in (V, d)]
    A = jnp.eye(N, dtype=jnp.float32)[None] + single[0] @ jnp.swapaxes(single[0], 1, 2)
    given = A, jnp.einsum("bij,bj->bi", *single), *single
    for run in (jax.vmap(gram_transform), lambda *all: jax.lax.map(lambda one: gram_transform(*one), all)):
        found = jax.jit(run)(*given)
        for a, b in zip(found, (T, w), strict=True):  # the rounding is that of V, not of its square
            np.testing.assert_allclose(a, b, atol=5 * float(np.finfo(np.float32).eps) * condition**0.5)


def test_a_batch_takes_one_way():
    """One matrix that is not finite, or too badly conditioned, changes the others by rounding alone."""
    A, _ = problems(30.0)
    bad, worse = A.at[1].set(jnp.nan), A.at[1].set(problems(1e8)[0][0])
    for changed in (bad, worse):
        assert not newton_schulz(changed)[1]
        found = batched(changed)
        np.testing.assert_array_equal(np.isnan(found).all((1, 2)), np.isnan(np.asarray(changed)).all((1, 2)))
        np.testing.assert_allclose(np.delete(found, 1, 0), np.delete(batched(A), 1, 0), rtol=0, atol=1e-13)


@pytest.mark.parametrize("condition", [1.0, 40.0, 1e5])
def test_derivatives_are_those_of_the_root(condition):
    A, _ = problems(condition)
    A_dot, W = (jnp.asarray(x) for x in np.random.default_rng(2).normal(size=(2, *A.shape)))
    A_dot = A_dot + jnp.swapaxes(A_dot, 1, 2)
    found, expected = (jax.jvp(f, (A,), (A_dot,))[1] for f in (batched, exact))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    gradients = [jax.jit(jax.grad(lambda A, f=f: jnp.vdot(W, f(A))))(A) for f in (batched, single, exact)]
    assert np.isfinite(gradients[0]).all()
    for gradient in gradients[:2]:
        np.testing.assert_allclose(gradient, gradients[2], rtol=0, atol=1e-12)
    h = 1e-4
    if condition < LARGEST:
        along = [float(jnp.vdot(W, jax.lax.map(newton_schulz, 2 * A + s * h * A_dot)[0])) for s in (1, -1)]
        doubled = jnp.vdot(jax.grad(lambda A: jnp.vdot(W, exact(A)))(2 * A), A_dot)
        np.testing.assert_allclose((along[0] - along[1]) / (2 * h), doubled, rtol=1e-5)
