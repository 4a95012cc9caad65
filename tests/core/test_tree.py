"""Tree algebra against raveled vectors."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from diffassim.core import tree

X = {"a": jnp.arange(3.0), "b": (jnp.full((2, 2), -1.5),)}
Y = {"a": jnp.full(3, 2.0), "b": (jnp.arange(4.0).reshape(2, 2),)}


def flat(x):
    return np.asarray(ravel_pytree(x)[0])


def test_algebra_equals_raveled_vectors():
    np.testing.assert_allclose(tree.dot(X, Y), flat(X) @ flat(Y), rtol=1e-15)
    np.testing.assert_allclose(flat(tree.axpy(0.3, X, Y)), 0.3 * flat(X) + flat(Y), rtol=1e-15)
    np.testing.assert_allclose(flat(tree.subtract(X, Y)), flat(X) - flat(Y), rtol=1e-15)
    np.testing.assert_allclose(tree.norm(X), np.linalg.norm(flat(X)), rtol=1e-15)
    assert tree.size(X) == 7


def test_norm_has_a_finite_derivative_at_zero():
    zero = tree.zeros_like(X)
    assert float(tree.norm(zero)) == 0.0
    assert all(bool(jnp.all(g == 0)) for g in jax.tree.leaves(jax.grad(tree.norm)(zero)))


def test_all_finite_sees_every_leaf():
    assert bool(tree.all_finite(X))
    assert not bool(tree.all_finite({**X, "c": jnp.asarray([1.0, jnp.nan])}))


def test_dtype_is_kept():
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), X)
    assert {leaf.dtype for leaf in jax.tree.leaves(tree.axpy(np.float64(0.1), single, single))} == {
        jnp.dtype("float32")
    }


def test_norm_of_a_non_finite_vector_is_not_finite():
    assert np.isnan(float(tree.norm({**X, "c": jnp.asarray([jnp.nan])})))
    assert np.isinf(float(tree.norm(jnp.asarray([jnp.inf, 1.0]))))
