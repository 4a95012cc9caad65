"""What every covariance must satisfy."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from diffassim import covariances
from diffassim.core.errors import ShapeError
from diffassim.covariances import NotAvailableError
from diffassim.diagnostics import check_adjoint, check_gradient
from tests.covariances.zoo import COVARIANCES, flat

BY_NAME = {entry.name: entry for entry in COVARIANCES}
sweep = pytest.mark.parametrize("name", BY_NAME)


@cache
def matrices(name, dtype="float64"):
    """All operators of a covariance as dense matrices, from one compiled function."""
    entry = BY_NAME[name]
    x = entry.example_state(jnp.dtype(dtype))

    @jax.jit
    def build(B, x):
        v = B.control_like(x)
        result = {"L": flat(B.sqrt, v), "LT": flat(B.sqrt_transpose, x), "B": flat(B.apply, x)}
        if entry.whitens:
            result |= {"W": flat(B.whiten, x), "logdet": B.logdet(x)}
        if entry.solves:
            result["S"] = flat(B.solve, x)
        return result

    return {key: np.asarray(value) for key, value in build(entry.covariance, x).items()}


@sweep
def test_square_root(name):
    M = matrices(name)
    scale = np.abs(M["B"]).max()
    np.testing.assert_allclose(M["L"] @ M["L"].T, M["B"], rtol=0, atol=1e-12 * scale)
    np.testing.assert_allclose(M["LT"], M["L"].T, rtol=0, atol=1e-12 * scale)
    np.testing.assert_allclose(M["B"], M["B"].T, rtol=0, atol=1e-12 * scale)
    assert np.abs(M["B"]).max() > 0


@sweep
def test_inverse(name):
    M = matrices(name)
    identity = np.eye(len(M["B"]))
    if "S" in M:
        tolerance = 1e-12 * max(1.0, np.linalg.cond(M["B"]) / 10)  # a residual is as large as rounding times condition
        np.testing.assert_allclose(M["S"] @ M["B"], identity, rtol=0, atol=tolerance)
    if "W" in M:
        scale = np.abs(M["S"]).max()
        np.testing.assert_allclose(M["W"].T @ M["W"], M["S"], rtol=0, atol=1e-12 * scale)
        np.testing.assert_allclose(M["W"] @ M["B"] @ M["W"].T, identity, rtol=0, atol=1e-11)
        np.testing.assert_allclose(M["logdet"], np.linalg.slogdet(M["B"])[1], rtol=1e-11, atol=1e-11)


@sweep
def test_unavailable_operations_say_what_to_use(name):
    entry = BY_NAME[name]
    x = entry.example_state(jnp.float64)
    for operation, available in (("whiten", entry.whitens), ("logdet", entry.whitens), ("solve", entry.solves)):
        if not available:
            with pytest.raises(NotAvailableError, match=r"has no .*\. \w+"):
                getattr(entry.covariance, operation)(x)
    if not entry.masks:
        with pytest.raises(NotAvailableError, match=r"has no .*\. \w+"):
            entry.covariance.masked(jax.tree.map(lambda leaf: leaf > 0, x))


@sweep
def test_adjoint(name):
    entry = BY_NAME[name]
    B, v = entry.covariance, entry.covariance.control_like(entry.example_state(jnp.float64))
    assert check_adjoint(B.sqrt, v, adjoint=jax.jit(B.sqrt_transpose)).passed
    assert check_adjoint(B.sqrt, v).passed


def test_a_wrong_adjoint_is_caught():
    entry = BY_NAME["Gaussian bounded, field"]
    B, v = entry.covariance, entry.example_state(jnp.float64)
    assert not check_adjoint(B.sqrt, v, adjoint=B.sqrt).passed
    assert not check_adjoint(B.sqrt, v, adjoint=lambda x: -B.sqrt_transpose(x)).passed


@sweep
def test_batch_axes(name):
    entry = BY_NAME[name]
    B, x = entry.covariance, entry.example_state(jnp.float64)
    batch = jax.tree.map(
        lambda leaf: jnp.stack([jnp.stack([a * leaf for a in row]) for row in ((1, 2, 3), (4, 5, 6))]), x
    )

    @jax.jit
    def both(B, batch):
        direct = B.apply(batch), B.sqrt_transpose(batch)
        mapped = jax.vmap(jax.vmap(lambda x: (B.apply(x), B.sqrt_transpose(x))))(batch)
        return direct, mapped

    direct, mapped = both(B, batch)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * np.abs(b).max(initial=1)), direct, mapped
    )
    v = B.control_like(batch)
    assert jax.tree.structure(v) == jax.tree.structure(direct[1])
    assert [leaf.shape for leaf in jax.tree.leaves(v)] == [leaf.shape for leaf in jax.tree.leaves(direct[1])]
    assert all(float(jnp.sum(jnp.abs(leaf))) == 0 for leaf in jax.tree.leaves(v))
    if entry.whitens:
        copies = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), x)
        np.testing.assert_allclose(B.logdet(copies), 3 * B.logdet(x), rtol=1e-12)


@sweep
def test_float32(name):
    single, double = matrices(name, "float32"), matrices(name)
    for key, exact in double.items():
        assert single[key].dtype == np.float32, key
        inverse = key in ("W", "S", "logdet")
        condition = np.sqrt(np.linalg.cond(double["B"])) if inverse else 1.0
        scale = np.abs(exact).max(initial=1)
        np.testing.assert_allclose(single[key], exact, rtol=0, atol=1e-5 * scale * condition, err_msg=key)


@sweep
def test_gradient_in_all_parameters(name):
    entry = BY_NAME[name]
    x = entry.example_state(jnp.float64)
    leaves, structure = jax.tree.flatten(entry.covariance)
    leaves = [jnp.asarray(leaf) for leaf in leaves]
    if not leaves:
        pytest.skip("no parameters")

    def score(leaves):
        B = jax.tree.unflatten(structure, leaves)
        v = jax.tree.map(lambda leaf: jnp.cos(jnp.arange(float(leaf.size))).reshape(leaf.shape), B.control_like(x))
        total = jnp.sum(jnp.sin(ravel_pytree(B.sqrt(v))[0]))
        if entry.whitens:
            total = total + 0.1 * B.logdet(x) + jnp.sum(jnp.cos(ravel_pytree(B.whiten(x))[0]))
        return total

    report = check_gradient(score, leaves, largest_step=1e-3)
    assert report.passed, str(report)
    # a gradient that is zero where the function is not constant would pass no Taylor test, so this cannot be empty
    assert report.slopes or name.startswith(("blocks with zero", "ensemble"))


@sweep
def test_new_parameters_do_not_compile_again(name):
    entry = BY_NAME[name]
    x = entry.example_state(jnp.float64)
    apply = jax.jit(lambda B, x: B.apply(x))
    first = apply(entry.covariance, x)
    second = apply(jax.tree.map(lambda leaf: 1.1 * leaf, entry.covariance), x)
    assert apply._cache_size() == 1
    assert not np.array_equal(ravel_pytree(first)[0], ravel_pytree(second)[0])


# `sample` is defined once, in the base class: these differ in their control vectors.
@pytest.mark.parametrize("name", ["diagonal pytree", "dense", "Kronecker", "ensemble localized", "hybrid"])
def test_samples_have_this_covariance(name):
    entry = BY_NAME[name]
    x, exact = entry.example_state(jnp.float64), matrices(name)["B"]
    count = 20_000

    @jax.jit
    def second_moments(B, key):
        copies = jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape)), x)
        draws = jax.vmap(lambda x: ravel_pytree(x)[0])(B.sample(key, copies))
        return draws.T @ draws / count, jnp.mean(draws, axis=0)

    moments, mean = second_moments(entry.covariance, jax.random.key(1))
    # standard error of a second moment of Gaussians: sqrt((B_ii B_jj + B_ij^2) / count); 5 of them over all entries
    deviation = np.sqrt((np.outer(np.diag(exact), np.diag(exact)) + exact**2) / count)
    assert np.all(np.abs(moments - exact) <= 5 * deviation + 1e-15)
    assert np.all(np.abs(mean) <= 5 * np.sqrt(np.diag(exact) / count) + 1e-15)


def test_every_public_covariance_is_in_the_zoo():
    public = {c for c in vars(covariances).values() if isinstance(c, type) and issubclass(c, covariances.Covariance)}
    parts = {type(node) for entry in COVARIANCES for node in parts_of(entry.covariance)}
    assert public - {covariances.Covariance} <= parts


def parts_of(node):
    """Yield a covariance and all covariances inside of it."""
    yield node
    inside = jax.tree.leaves(vars(node), is_leaf=lambda n: isinstance(n, covariances.Covariance))
    for part in inside:
        if isinstance(part, covariances.Covariance):
            yield from parts_of(part)


@sweep
def test_check(name):
    entry = BY_NAME[name]
    x = entry.example_state(jnp.float64)
    entry.covariance.check("B", x)
    if name != "diagonal number":
        # a number instead of a field, or longer fields: what fits a grid of any size does not fit both
        wrong = [(jnp.zeros(()), x), jax.tree.map(lambda leaf: jnp.zeros((*jnp.shape(leaf), 13)), (x, x))]
        errors = []
        for state in wrong:
            try:
                entry.covariance.check("B", state)
            except ShapeError as error:
                errors.append(str(error))
        assert errors
        assert all(message.startswith("B") for message in errors)


def test_sample_has_batch_axes_and_independent_draws():
    draws = BY_NAME["dense"].covariance.sample(jax.random.key(0), jnp.zeros((5, 6)))
    assert draws.shape == (5, 6)
    assert len(np.unique(np.asarray(draws))) == 30
