"""Networks as frozen pytrees, from nnx and from linen."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

import diffassim as da
from diffassim.core.errors import ConfigurationError, DataError, ShapeError
from diffassim.diagnostics import check_adjoint, check_gradient
from diffassim.learned import CorrectedModel, LowRankAdapted, Network, Normalized
from diffassim.training import fit

from .networks import NETWORKS, NNXDense, from_linen

N = 6
KEY = jax.random.key(0)
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


class Counting(nnx.Module):
    def __init__(self):
        self.calls = nnx.Variable(jnp.zeros(()))

    def __call__(self, x):
        self.calls[...] += 1
        return x


def test_hidden_state_and_what_is_no_module_are_refused():
    with pytest.raises(ConfigurationError, match=r"Variable.*as an argument"):
        Network.from_nnx(Counting())
    linen = nn.Dense(2)
    for given, message in ((linen, "from_linen"), (jnp.tanh, "found .*function")):
        with pytest.raises(ConfigurationError, match=message):
            Network.from_nnx(given)
    with pytest.raises(ConfigurationError, match="float12"):
        Network.from_nnx(NNXDense(N, jnp.float64), compute="float12")
    with pytest.raises(ConfigurationError, match=r"module\.init"):
        Network.from_linen(linen, {"kernel": jnp.ones(2)})
    with pytest.raises(ConfigurationError, match="callable, found int"):
        Network(3)


class Normalizing(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.5)(x)
        return nn.Dropout(0.5, deterministic=not train)(x)


def normalizing(kind):
    """Return a network of one batch normalization (momentum 0.5) and its running statistics."""
    if kind == "nnx":
        net = Network.from_nnx(nnx.BatchNorm(2, momentum=0.5, rngs=nnx.Rngs(0)))
        return net, lambda fixed: fixed
    module = Normalizing()
    net = Network.from_linen(module, module.init(KEY, jnp.ones((1, 2), "float32")), training={"train": True})
    return net, lambda fixed: fixed["batch_stats"]["BatchNorm_0"]


@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_running_statistics_are_followed_in_training_and_never_trained(kind):
    net, statistics = normalizing(kind)
    x = jnp.asarray(3 + 2 * np.random.default_rng(1).normal(size=(50, 2)), "float32")
    np.testing.assert_allclose(net(x), x / (1 + 1e-5) ** 0.5, rtol=1e-5)  # by the first statistics: mean 0, variance 1
    out, after = net.updated(x, key=KEY)
    given, x = x, np.asarray(x)
    np.testing.assert_allclose(statistics(after)["mean"], 0.5 * x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(statistics(after)["var"], 0.5 + 0.5 * x.var(0), rtol=1e-5)
    kept = np.asarray(out) != 0  # dropout doubles what it keeps
    expected = (x - x.mean(0)) / (x.var(0) + 1e-5) ** 0.5 * (1 if kind == "nnx" else 2)
    np.testing.assert_allclose(out[kept], expected[kept], rtol=1e-4)

    def loss(net, batch, key, following):
        out, following = net.replace(fixed=following).updated(batch, key=key)
        return jnp.mean((out - batch) ** 2), {}, following

    options = {"optimizer": optax.adamw(1e-2, weight_decay=0.5), "steps": 20, "batch_size": 10, "key": KEY}
    found = fit(loss, net, given, carry=net.fixed, **options)
    assert all(map(np.array_equal, jax.tree.leaves(found.trained.fixed), jax.tree.leaves(net.fixed)))
    np.testing.assert_allclose(statistics(found.state.carry)["mean"], x.mean(0), atol=0.6)
    with pytest.raises(ConfigurationError, match="no running statistics"):
        from_linen(N).updated(X)


def test_a_network_prints_in_a_line():
    corrected = CorrectedModel(da.models.Lorenz96(), Network.from_nnx(NNXDense(400, jnp.float64)))
    assert repr(corrected.network) == "Network(NNXDense, 3604 weights)" and len(repr(corrected)) < 200
    assert "float64[400, 3]" in repr(Network(jnp.multiply).replace(weights=1.0)) + repr(
        da.covariances.Diagonal(std=jnp.ones((400, 3)))
    )


def test_dropout_draws_from_the_key_of_a_call_and_is_off_without_one():
    options = {"rngs": nnx.Rngs(0), "param_dtype": jnp.float64}
    module = nnx.Sequential(nnx.Linear(N, N, **options), nnx.Dropout(0.5, rngs=nnx.Rngs(1)))
    network = Network.from_nnx(module)
    plain = module.layers[0](X)
    assert np.array_equal(network(X), plain)
    first, again, other = (jax.jit(lambda net, k: net(X, key=k))(network, jax.random.key(k)) for k in (1, 1, 4))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    np.testing.assert_allclose(first, np.where(first == 0, 0, 2 * plain), rtol=1e-12)
    assert 0 < np.sum(first == 0) < N


def test_half_precision_and_recomputation_are_arguments():
    module = NNXDense(N, jnp.float32)
    x = X.astype(jnp.float32)
    plain, half, again = (Network.from_nnx(module, **o) for o in ({}, {"compute": jnp.bfloat16}, {"remat": True}))
    assert half(x).dtype == jnp.float32 and not np.array_equal(half(x), plain(x))
    np.testing.assert_allclose(half(x), plain(x), atol=0.05)
    gradients = [jax.tree.leaves(jax.grad(lambda net: net(x).sum())(net)) for net in (plain, half, again)]
    assert all(leaf.dtype == jnp.float32 for leaf in gradients[1])
    for a, b in zip(gradients[0], gradients[2], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_a_module_of_another_library_needs_no_adapter():
    eqx = pytest.importorskip("equinox")
    linear = eqx.nn.Linear(N, N, key=jax.random.key(0), dtype=jnp.float64)
    model = CorrectedModel(da.models.Lorenz96(), linear)
    expected = da.models.Lorenz96().step(X, 0) + da.models.Lorenz96().dt * (linear.weight @ X + linear.bias)
    np.testing.assert_allclose(model.step(X, 0), expected, rtol=1e-12)


def test_normalization_is_fitted_carried_and_not_trained():
    rng = np.random.default_rng(1)
    inputs, outputs = 3 + 2 * rng.normal(size=(50, N)), 5 * rng.normal(size=(50, N))
    network = Normalized.fit(from_linen(N), inputs, outputs)
    np.testing.assert_allclose(network.spread, inputs.std(0), rtol=1e-12)
    z = (inputs[0] - inputs.mean(0)) / inputs.std(0)
    expected = outputs.mean(0) + outputs.std(0) * network.network(jnp.asarray(z))
    np.testing.assert_allclose(network(jnp.asarray(inputs[0])), expected, rtol=1e-12)
    gradient = jax.grad(lambda net: jnp.sum(net(jnp.asarray(inputs[0])) ** 2))(network)
    assert not gradient.center.any() and not gradient.output_spread.any()
    with pytest.raises(DataError, match="inputs holds 1 non-finite"):
        Normalized.fit(network, np.where(np.arange(50 * N).reshape(50, N) == 3, np.nan, inputs))


def test_normalization_of_pytrees_integers_and_other_data():
    same = Network(lambda w, x: x)
    state = {"u": jnp.arange(3.0), "v": jnp.ones(())}
    for given in (Normalized(same), Normalized(same, center=jnp.asarray(0.0))):
        found = jax.jit(lambda net, x: net(x))(given, state)  # where the constants are traced
        assert jax.tree.all(jax.tree.map(jnp.array_equal, found, state))
    assert Normalized(same, center=0.5)(jnp.array([1, 2])).tolist() == [0.5, 1.5]
    samples = np.random.default_rng(2).normal(size=(30, N))
    fitted = Normalized.fit(same, samples)
    fitted.check(samples)
    for wrong, message in (
        (1000 * samples, "another unit"),
        (samples + 273.15, "another unit"),
        (samples * np.nan, "non-"),
    ):
        with pytest.raises(DataError, match=message):
            fitted.check(wrong)
    for x in (jnp.ones(N + 1), state):
        with pytest.raises(ShapeError, match="fitted to other data"):
            fitted(x)
    with pytest.raises(ShapeError, match="number of samples"):
        Normalized.fit(same, samples, samples[:10])
    with pytest.raises(DataError, match="center"):
        Normalized(same, center=jnp.nan)
    with pytest.raises(DataError, match="masked array"):
        Normalized.fit(same, np.ma.masked_array(samples, samples > 1))


def test_constants_of_a_network_stay_under_weight_decay():
    samples = jnp.asarray(5 + np.random.default_rng(2).normal(size=(30, N)))
    base = from_linen(N)
    adapted = Normalized.fit(LowRankAdapted.create(base, rank=1, key=KEY), samples)
    options = {"optimizer": optax.adamw(0.1, weight_decay=0.5), "steps": 5, "batch_size": 10, "key": KEY}
    found = fit(lambda net, x, key: jnp.mean(jax.vmap(net)(x) ** 2), adapted, samples, **options)
    assert np.array_equal(found.trained.center, adapted.center)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, found.trained.network.network, base))
    assert not np.array_equal(*(jax.tree.leaves(net.network.left)[0] for net in (found.trained, adapted)))
    moments = sum(leaf.size for leaf in jax.tree.leaves(found.state.memory))
    assert moments == 2 * adapted.network.count() + 1  # nothing for what is frozen


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_input_that_never_changes_is_refused_even_where_its_mean_is_rounded(dtype):
    same = jnp.full((64, 1), 23**-0.5, dtype)
    samples = jnp.concatenate([same, jax.random.normal(jax.random.key(0), (64, 1), dtype)], axis=1)
    with pytest.raises(da.ConfigurationError, match="never change"):
        Normalized.fit(lambda x: x, samples)
    Normalized.fit(lambda x: x, samples[:, 1:])
