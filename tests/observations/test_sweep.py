"""What every observation operator must satisfy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import diffassim as da
from diffassim import observations
from diffassim.core import tree
from diffassim.diagnostics import check_adjoint, check_gradient
from tests.observations.zoo import OPERATORS

BY_NAME = {entry.name: entry for entry in OPERATORS}
sweep = pytest.mark.parametrize("name", BY_NAME)


def first_place(entry):
    return None if entry.where is None else entry.where[0]


def at(entry):
    """Return the operator as a function of the state alone."""
    return lambda x: entry.operator(x, first_place(entry))


def is_float(leaf):
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def single(node):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32) if is_float(leaf) else leaf, node)


def total(y):
    """A curved function of everything observed."""
    return sum(jnp.sum(jnp.sin(leaf) + leaf**2) for leaf in jax.tree.leaves(y))


def test_every_public_operator_is_in_the_zoo():
    public = {c for c in vars(observations).values() if isinstance(c, type) and issubclass(c, observations.Operator)}
    assert public - {observations.Operator} <= {type(entry.operator) for entry in OPERATORS}


@sweep
def test_adjoint(name):
    entry = BY_NAME[name]
    for x, operator, where in (
        (entry.x, entry.operator, first_place(entry)),
        single((entry.x, entry.operator, first_place(entry))),
    ):
        report = check_adjoint(lambda x, H=operator, w=where: H(x, w), x)
        assert report.passed, str(report)
    assert report.tolerance == 1e-5


@pytest.mark.parametrize("factor", [1.01, -1.0])
def test_a_wrong_adjoint_is_caught(factor):
    entry = BY_NAME["interpolate 2-D (True, False)"]
    pull_back = jax.vjp(at(entry), entry.x)[1]
    assert check_adjoint(at(entry), entry.x, adjoint=lambda w: pull_back(w)[0]).passed
    assert not check_adjoint(at(entry), entry.x, adjoint=lambda w: factor * pull_back(w)[0]).passed


@sweep
def test_taylor_in_the_state_over_three_decades(name):
    entry = BY_NAME[name]
    report = check_gradient(lambda x: total(at(entry)(x)), entry.x)
    assert report.passed and len(report.slopes) == 3, str(report)


@pytest.mark.parametrize("name", [n for n, e in BY_NAME.items() if any(map(is_float, jax.tree.leaves(e.operator)))])
def test_taylor_in_the_parameters(name):
    entry = BY_NAME[name]
    leaves, structure = jax.tree.flatten(entry.operator)
    leaves = [jnp.asarray(leaf) for leaf in leaves]
    numbers = {str(i): leaf for i, leaf in enumerate(leaves) if is_float(leaf)}

    def function(numbers):
        changed = [numbers.get(str(i), leaf) for i, leaf in enumerate(leaves)]
        return total(jax.tree.unflatten(structure, changed)(entry.x, first_place(entry)))

    report = check_gradient(function, numbers, largest_step=1e-3)
    assert report.passed and report.slopes, str(report)


@pytest.mark.parametrize("name", [n for n, e in BY_NAME.items() if e.where is not None and is_float(e.where)])
def test_taylor_in_the_places(name):
    entry = BY_NAME[name]
    report = check_gradient(lambda w: total(entry.operator(entry.x, w)), entry.where[0], largest_step=1e-3)
    assert report.passed and report.slopes, str(report)


@sweep
def test_jit_vmap_and_batch_of_states(name):
    entry = BY_NAME[name]
    states = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), entry.x)
    compiled = jax.jit(lambda H, x, w: H(x, w))
    mapped = jax.jit(jax.vmap(lambda x, w: entry.operator(x, w), in_axes=(0, None if entry.where is None else 0)))
    many = mapped(states, entry.where)
    for k in range(2):
        x, w = jax.tree.map(lambda leaf, k=k: leaf[k], (states, entry.where))
        expected = ravel_pytree(entry.operator(x, w))[0]
        np.testing.assert_allclose(ravel_pytree(compiled(entry.operator, x, w))[0], expected, rtol=1e-14)
        row = jax.tree.map(lambda leaf, k=k: leaf[k], many)
        np.testing.assert_allclose(ravel_pytree(row)[0], expected, rtol=1e-14)
    assert compiled._cache_size() == 1


@sweep
def test_second_derivatives_agree_between_modes(name):
    entry = BY_NAME[name]
    u = jax.tree.map(lambda leaf: jnp.cos(leaf), entry.x)

    @jax.jit
    def products(x, u):
        def value(x):
            return total(at(entry)(x))

        first = jax.grad(value)
        forward = jax.jvp(first, (x,), (u,))[1]
        backward = jax.grad(lambda x: jax.jvp(value, (x,), (u,))[1])(x)
        return forward, backward, jax.grad(lambda x: tree.dot(first(x), u))(x)

    forward, *others = (ravel_pytree(p)[0] for p in products(entry.x, u))
    for other in others:
        np.testing.assert_allclose(other, forward, rtol=1e-12, atol=1e-14)
    assert np.abs(forward).max() > 0


@sweep
def test_single_precision_stays_single_and_agrees(name):
    entry = BY_NAME[name]
    operator, x, where = single((entry.operator, entry.x, first_place(entry)))
    y = operator(x, where)
    assert {leaf.dtype for leaf in jax.tree.leaves(y)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(ravel_pytree(y)[0], ravel_pytree(at(entry)(entry.x))[0], rtol=0, atol=1e-5)


@sweep
def test_a_linear_operator_is_linear_and_the_others_are_not(name):
    entry = BY_NAME[name]
    y, doubled = (ravel_pytree(at(entry)(jax.tree.map(lambda leaf, a=a: a * leaf, entry.x)))[0] for a in (1.0, 2.0))
    assert np.allclose(doubled, 2 * y, rtol=1e-12) == entry.linear


@sweep
def test_observations_predict_each_time_by_itself(name):
    entry = BY_NAME[name]
    y = at(entry)(entry.x)
    values = jax.tree.map(lambda leaf: jnp.zeros((2, *leaf.shape)), y)
    obs = da.Observations(
        values, [0, 3], operator=entry.operator, error=da.covariances.Diagonal(std=2.0), where=entry.where
    )
    states = jax.tree.map(lambda leaf: jnp.stack([leaf, -leaf]), entry.x)
    innovation = obs.innovation(states)
    for k, sign in enumerate((1, -1)):
        x = jax.tree.map(lambda leaf, s=sign: s * leaf, entry.x)
        expected = entry.operator(x, None if entry.where is None else entry.where[k])
        jax.tree.map(
            lambda d, h, k=k: np.testing.assert_allclose(d[k], -h / 2, rtol=1e-13, atol=1e-15), innovation, expected
        )
