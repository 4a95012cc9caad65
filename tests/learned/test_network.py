"""Networks as frozen pytrees, from nnx and from linen."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from diffassim.core.errors import ConfigurationError
from diffassim.diagnostics import check_adjoint, check_gradient
from diffassim.learned import Network

from .networks import NETWORKS, NNXDense, from_linen

N = 6
X = jnp.asarray(np.random.default_rng(0).normal(size=N))
every_network = pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)


def test_a_frozen_nnx_module_gives_what_the_module_gives():
    module = NNXDense(N, jnp.float64)
    assert np.array_equal(Network.from_nnx(module)(X), module(X))


def test_a_frozen_linen_module_gives_what_the_module_gives():
    network = from_linen(N)
    assert np.array_equal(network(X), network.function.module.apply(network.weights, X))


def test_the_module_and_its_network_do_not_share_weights():
    module = NNXDense(N, jnp.float64)
    network = Network.from_nnx(module)
    before = network(X)
    module.first.kernel[...] = module.first.kernel[...] + 1.0
    assert np.array_equal(network(X), before) and not np.array_equal(module(X), before)


@every_network
def test_weights_are_the_leaves(make):
    network = make(N)
    leaves, structure = jax.tree.flatten(network)
    assert leaves and all(isinstance(leaf, jax.Array) and leaf.dtype == jnp.float64 for leaf in leaves)
    doubled = jax.tree.unflatten(structure, [2 * leaf for leaf in leaves])
    assert not np.array_equal(doubled(X), network(X))


@every_network
def test_jit_vmap_and_grad_agree_with_the_plain_call(make):
    network = make(N)
    plain = network(X)
    np.testing.assert_allclose(jax.jit(lambda net, x: net(x))(network, X), plain, rtol=1e-12)
    batch = jnp.stack([X, 2 * X])
    np.testing.assert_allclose(jax.vmap(network)(batch), jnp.stack([plain, network(2 * X)]), rtol=1e-12, atol=1e-14)
    many = jax.tree.map(lambda a, b: jnp.stack([a, b]), network, make(N, seed=1))
    outputs = jax.vmap(lambda net: net(X))(many)
    np.testing.assert_allclose(outputs, jnp.stack([plain, make(N, seed=1)(X)]), rtol=1e-12, atol=1e-14)
    assert check_adjoint(network, X).passed
    for function, at in ((lambda net: jnp.sum(net(X) ** 2), network), (lambda x: jnp.sum(network(x) ** 2), X)):
        report = check_gradient(function, at)
        assert report.passed and len(report.slopes) == 3, str(report)


@every_network
def test_single_precision_stays_single(make):
    network = make(N, jnp.float32)
    output = network(X.astype(jnp.float32))
    assert output.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(jax.grad(lambda net: net(output).sum())(network)))


@every_network
def test_equal_architectures_share_one_program(make):
    first, second = make(N, seed=0), make(N, seed=1)
    assert jax.tree.structure(first) == jax.tree.structure(second)
    traces = []

    @jax.jit
    def call(network, x):
        traces.append(1)
        return network(x)

    assert not np.array_equal(call(first, X), call(second, X))
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("layer", "named"),
    [
        (lambda rngs: nnx.Dropout(0.5, rngs=rngs), "RngCount"),
        (lambda rngs: nnx.BatchNorm(N, rngs=rngs), "BatchStat"),
    ],
)
def test_state_that_changes_in_a_call_is_refused(layer, named):
    module = nnx.Sequential(nnx.Linear(N, N, rngs=nnx.Rngs(0)), layer(nnx.Rngs(1)))
    with pytest.raises(ConfigurationError, match=f"{named}.*dropout"):
        Network.from_nnx(module)
