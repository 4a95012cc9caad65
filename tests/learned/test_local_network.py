"""The local network: the same function at every point of a periodic line."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from diffassim.learned import LocalNetwork, Network

from .networks import local

N = 7
X = np.random.default_rng(0).normal(size=N)


def test_it_is_the_plain_perceptron_of_each_neighbourhood():
    module = LocalNetwork(radius=2, width=3, depth=2, center=0.5, spread=2.0, rngs=nnx.Rngs(0))
    module.last.kernel[...] = jnp.asarray([[1.0], [-2.0], [0.5]])
    module.last.bias[...] = jnp.asarray([0.25])
    layers = [(np.asarray(layer.kernel[...]), np.asarray(layer.bias[...])) for layer in (*module.hidden, module.last)]

    def at(i):
        h = (np.array([X[(i + k) % N] for k in (2, 1, 0, -1, -2)]) - 0.5) / 2.0
        for kernel, bias in layers[:-1]:
            h = h @ kernel + bias
            h = h / (1 + np.exp(-h))
        return (h @ layers[-1][0] + layers[-1][1]).item()

    np.testing.assert_allclose(module(jnp.asarray(X)), [at(i) for i in range(N)], rtol=1e-12)


@pytest.mark.slow
def test_a_shifted_state_gives_the_shifted_output():
    network = local(N)
    output = network(jnp.asarray(X))
    assert np.ptp(output) > 0.01
    for shift in range(1, N):
        np.testing.assert_allclose(network(jnp.asarray(np.roll(X, shift))), np.roll(output, shift), rtol=1e-12)


def test_a_point_sees_its_neighbours_and_nothing_else():
    network = local(N)  # radius 1
    changed = np.asarray(network(jnp.asarray(X).at[3].add(1.0)) - network(jnp.asarray(X)))
    assert np.flatnonzero(changed).tolist() == [2, 3, 4]


def test_leading_axes_are_batches():
    network = local(N)
    batch = jnp.asarray(np.stack([X, 2 * X]))
    rows = jnp.stack([network(row) for row in batch])
    np.testing.assert_allclose(network(batch), rows, rtol=1e-12)


def test_untrained_it_is_exactly_zero():
    network = Network.from_nnx(LocalNetwork(rngs=nnx.Rngs(3)))
    assert np.array_equal(network(jnp.asarray(X)), np.zeros(N))
