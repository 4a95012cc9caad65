"""Differentially private gradients: clipped one by one, noise of the stated size, and the account of a training."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from diffassim import ConfigurationError, ShapeError
from diffassim.training import Private, fit, privacy_spent

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(12, 3)), RNG.normal(size=12)
W = {"a": jnp.asarray(RNG.normal(size=3)), "b": jnp.asarray(0.3)}


def loss(w, batch, key):
    x, y = batch
    return jnp.mean((x @ w["a"] + w["b"] - y) ** 2)


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def gradient(private, batch=(X, Y), w=W, key=1):
    return flat(jax.grad(private)(w, batch, jax.random.key(key)))


def test_without_noise_and_clipping_value_and_gradient_are_those_of_the_loss():
    private = Private(loss, clip=1e6, noise=0.0)
    value, slope = jax.jit(jax.value_and_grad(private))(W, (X, Y), jax.random.key(0))
    expected = jax.value_and_grad(loss)(W, (X, Y), None)
    np.testing.assert_allclose(value, expected[0], rtol=1e-13)
    np.testing.assert_allclose(flat(slope), flat(expected[1]), rtol=1e-12)


def test_a_sample_changes_the_sum_by_no_more_than_the_clip():
    private = Private(loss, clip=0.7, noise=0.0)
    alone = np.stack([gradient(private, (X[i : i + 1], Y[i : i + 1])) for i in range(12)])
    norms = np.linalg.norm(
        np.stack([flat(jax.grad(loss)(W, (X[i : i + 1], Y[i : i + 1]), None)) for i in range(12)]), axis=1
    )
    assert norms.min() < 0.7 < norms.max()
    np.testing.assert_allclose(np.linalg.norm(alone, axis=1), np.minimum(norms, 0.7), rtol=1e-12)
    np.testing.assert_allclose(gradient(private), alone.mean(0), rtol=1e-12)
    extreme = Y.copy()
    extreme[4] = 1e9
    assert np.linalg.norm(gradient(private, (X, extreme)) - gradient(private)) <= 2 * 0.7 / 12 * (1 + 1e-9)


def test_the_noise_has_the_stated_size_and_hangs_on_the_key():
    quiet, loud = Private(loss, clip=0.7, noise=0.0), Private(loss, clip=0.7, noise=2.0)
    keys = jax.random.split(jax.random.key(3), 4000)
    drawn = jax.vmap(lambda key: jax.grad(loud)(W, (X, Y), key))(keys)
    rest = np.concatenate([np.asarray(drawn["a"]), np.asarray(drawn["b"])[:, None]], axis=1) - gradient(quiet)
    np.testing.assert_allclose(rest.mean(0), 0, atol=4 * 2.0 * 0.7 / 12 / 4000**0.5)
    np.testing.assert_allclose(np.cov(rest.T), (2.0 * 0.7 / 12) ** 2 * np.eye(4), atol=1.2e-3)


def test_single_precision_stays():
    w, batch = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), (W, (X, Y)))
    value, slope = jax.value_and_grad(Private(loss))(w, batch, jax.random.key(0))
    assert value.dtype == jnp.float32 and all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(slope))


def test_a_training_with_noise_finds_the_regression():
    x = RNG.normal(size=(2048, 3))
    data = x, x @ np.array([1.0, -2.0, 0.5]) + 0.1 * RNG.normal(size=2048)
    start = jax.tree.map(jnp.zeros_like, W)
    options = {"optimizer": optax.sgd(0.3), "steps": 60, "batch_size": 512, "key": jax.random.key(0), "chunk": 60}
    found = fit(Private(loss, clip=1.0, noise=1.0), start, data, **options).trained
    np.testing.assert_allclose(found["a"], [1.0, -2.0, 0.5], atol=0.1)


def test_what_is_spent_is_that_of_the_gaussian_mechanism():
    pytest.importorskip("dp_accounting", reason="the account needs dp-accounting: pip install 'diffassim[privacy]'")
    noise, epochs, delta = 4.0, 10, 1e-5
    mu = epochs**0.5 / noise

    def excess(epsilon):
        tail = norm.cdf(mu / 2 - epsilon / mu) - np.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)
        return tail - delta

    found = privacy_spent(noise, samples=1000, batch_size=100, steps=100, delta=delta)
    np.testing.assert_allclose(found, brentq(excess, 0, 50), rtol=2e-3)
    assert privacy_spent(noise, samples=1000, batch_size=100, steps=101, delta=delta) > found  # an epoch is begun


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"noise": -1.0}, "noise must be a finite number"),
        ({"delta": 0.0}, "delta=0.0 must lie between 0 and 1"),
        ({"batch_size": 2000}, "batch_size=2000 is larger than samples=1000"),
        ({"steps": -1}, "steps must be at least 0"),
    ],
)
def test_what_cannot_be_accounted_is_named(changed, said):
    settings = {"noise": 1.0, "samples": 1000, "batch_size": 100, "steps": 10, "delta": 1e-5} | changed
    with pytest.raises(ConfigurationError, match=said):
        privacy_spent(**settings)


def test_no_updates_spend_nothing_and_no_noise_everything():
    settings = {"samples": 10, "batch_size": 5, "delta": 1e-5}
    assert privacy_spent(1.0, steps=0, **settings) == 0 and privacy_spent(0.0, steps=1, **settings) == np.inf


def test_a_loss_that_is_no_number_is_named():
    with pytest.raises(ShapeError, match="one number"):
        Private(lambda w, batch, key: w["a"])(W, (X, Y), jax.random.key(0))
    with pytest.raises(ConfigurationError, match="clip"):
        Private(loss, clip=0.0)
