"""The zoo: what each network is invariant to, its derivatives, and its precision."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.diagnostics import check_gradient
from diffassim.learned import Network, networks, parameter_count

RNG = np.random.default_rng(0)
LINE, PLANE = RNG.normal(size=(8, 2)), RNG.normal(size=(4, 8, 2))
NEAR = np.stack([(np.arange(8) + k) % 8 for k in (1, 3)], axis=1)
SEEN = {"gauge": (RNG.normal(size=(5, 3)), RNG.random(5) < 0.8), "radar": (RNG.normal(size=(3, 4)), np.ones(3, bool))}
ZOO = {
    "MLP": (lambda **o: networks.MLP([2, 4, 1], **o), (LINE,)),
    "RecurrentCell": (lambda **o: networks.RecurrentCell(2, 3, **o), (LINE, RNG.normal(size=(8, 3)))),
    "PeriodicResidualNet": (lambda **o: networks.PeriodicResidualNet(2, 1, 3, 2, 1, **o), (LINE,)),
    "PeriodicGatedNet": (lambda **o: networks.PeriodicGatedNet(2, 1, 3, 2, 1, **o), (LINE,)),
    "plane": (lambda **o: networks.PeriodicResidualNet(2, 1, 3, 1, 1, 2, **o), (PLANE,)),
    "PeriodicUNet": (lambda **o: networks.PeriodicUNet(2, 1, 2, 2, ndim=2, **o), (PLANE,)),
    "FourierOperator": (lambda **o: networks.FourierOperator(2, 1, 3, 2, 3, **o), (LINE,)),
    "Fourier plane": (lambda **o: networks.FourierOperator(2, 1, 3, 1, 2, 2, **o), (PLANE,)),
    "GraphNetwork": (lambda **o: networks.GraphNetwork(2, 1, 1, 4, **o), (LINE, NEAR, RNG.normal(size=(8, 2, 1)))),
    "SetEncoder": (lambda **o: networks.SetEncoder({"gauge": 3, "radar": 4}, 2, 1, 4, 2, **o), (SEEN, LINE)),
}


def make(name, dtype=jnp.float64):
    build, inputs = ZOO[name]
    network = Network.from_nnx(build(rngs=nnx.Rngs(0), dtype=dtype))
    leaves, structure = jax.tree.flatten(network)  # last layers start at zero: move them
    rng = np.random.default_rng(1)
    leaves = [leaf + jnp.asarray(0.2 * rng.normal(size=leaf.shape), dtype) for leaf in leaves]
    return jax.tree.unflatten(structure, leaves), jax.tree.map(lambda x: _cast(x, dtype), inputs)


def _cast(x, dtype):
    return jnp.asarray(x, dtype if np.asarray(x).dtype.kind == "f" else None)


def test_every_network_is_in_the_zoo():
    assert {name for name in networks.__all__ if name[0].isupper()} <= set(ZOO)


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_precision_and_count(name):
    for dtype in (jnp.float64, jnp.float32):
        network, inputs = make(name, dtype)
        assert jax.jit(network)(*inputs).dtype == dtype
        assert parameter_count(network) == sum(leaf.size for leaf in jax.tree.leaves(network))


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_gradient(name):
    network, inputs = make(name)
    report = check_gradient(jax.jit(lambda net: jnp.sum(net(*inputs) ** 2)), network)
    assert report.passed, str(report)


@pytest.mark.parametrize(
    ("name", "shift"),
    [("PeriodicResidualNet", 3), ("PeriodicGatedNet", 3), ("plane", 1), ("FourierOperator", 3), ("PeriodicUNet", 4)],
)
def test_a_shifted_field_gives_the_shifted_output(name, shift):
    network, (x,) = make(name)
    run, axis = jax.jit(network), x.ndim - 2
    np.testing.assert_allclose(run(jnp.roll(x, shift, axis)), jnp.roll(run(x), shift, axis), rtol=1e-10, atol=1e-12)


def test_a_fourier_operator_belongs_to_no_resolution():
    network, _ = make("FourierOperator")

    def point(n):
        angle = 2 * np.pi * np.arange(n) / n
        return jnp.asarray(np.stack([np.sin(angle), np.cos(angle)], axis=-1))

    fine = network(point(64))
    np.testing.assert_allclose(network(point(32)), fine[::2], atol=1e-3)
    with pytest.raises(ShapeError, match="3 modes need at least 6 points"):
        network(point(4))


def test_the_encoder_knows_no_order_and_does_not_see_what_is_masked():
    network, (seen, queries) = make("SetEncoder")
    run = jax.jit(network)
    expected = run(seen, queries)
    features, mask = seen["gauge"]
    turned = seen | {"gauge": (features[::-1], mask[::-1])}
    np.testing.assert_allclose(run(turned, queries), expected, rtol=1e-10)
    hidden = seen | {"gauge": (jnp.where(mask[:, None], features, jnp.nan), mask)}
    assert np.array_equal(run(hidden, queries), expected)
    gradient = jax.grad(lambda f: jnp.sum(network({"gauge": (f, mask)} | {"radar": seen["radar"]}, queries)))(features)
    assert not gradient[~mask].any() and gradient[mask].any()
    nothing = jax.tree.map(lambda x: jnp.zeros_like(x), seen)
    assert np.isfinite(run(nothing, queries)).all()
    with pytest.raises(ConfigurationError, match="unknown kind 'satellite'"):
        network({"satellite": seen["gauge"]}, queries)


def test_edges_that_are_masked_say_nothing():
    network, (x, near, edges) = make("GraphNetwork")
    run = jax.jit(network)
    mask = jnp.asarray(np.arange(16).reshape(8, 2) % 3 > 0)
    elsewhere = jnp.where(mask, near, 0)
    np.testing.assert_allclose(run(x, near, edges, mask), run(x, elsewhere, edges, mask), rtol=1e-12)


def test_grids_that_do_not_fit_are_named():
    with pytest.raises(ShapeError, match="multiples of 4 points"):
        make("PeriodicUNet")[0](jnp.ones((6, 8, 2)))


@pytest.mark.slow
def test_the_encoder_takes_kinds_that_are_empty_and_values_that_are_missing(monkeypatch):
    network, (seen, places) = make("SetEncoder")
    gauge, radar = seen["gauge"], seen["radar"]
    empty = (jnp.zeros((0, 3)), jnp.zeros(0, bool))
    np.testing.assert_allclose(network({"gauge": empty, "radar": radar}, places), network({"radar": radar}, places))
    masked = (gauge[0], jnp.zeros(5, bool))
    np.testing.assert_allclose(network({"gauge": empty}, places), network({"gauge": masked}, places), rtol=1e-12)
    missing = (radar[0].at[1, 0].set(jnp.nan), radar[1])
    left_out = (radar[0][jnp.array([0, 2])], radar[1][:2])
    np.testing.assert_allclose(network({"radar": missing}, places), network({"radar": left_out}, places), rtol=1e-12)

    def error(network):
        return jnp.sum(network(seen, places) ** 2)

    whole = jax.value_and_grad(error)(network)
    monkeypatch.setattr("diffassim.learned.networks.sets.BLOCK", 40)  # two queries at a time
    blocks = jax.value_and_grad(error)(network)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(blocks), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-10, atol=1e-12)
    for given, kind, message in (
        ({}, ConfigurationError, "no kind is given"),
        ({"gauge": radar}, ShapeError, r"expected \(k, 3\)"),
        ({"gauge": (gauge[0], gauge[1][:4])}, ShapeError, "mask of shape"),
    ):
        with pytest.raises(kind, match=message):
            network(given, places)
