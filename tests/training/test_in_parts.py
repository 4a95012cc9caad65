"""A training with samples and parameters in parts on four devices is that of one device."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import diffassim as da
from diffassim.training import fit
from tests.many_devices import apart, on_devices

OPTIMIZER = optax.adam(1e-2)
WIDTH = 64


def loss(net, batch, key):
    x, y = batch
    hidden = jnp.tanh(x @ net["in"] + net["bias"][None])
    return jnp.mean(jnp.square(hidden @ net["out"] - y))


def trained() -> dict:
    mesh = da.device_mesh()
    rng = np.random.default_rng(0)
    data = rng.normal(size=(32, 8)), rng.normal(size=(32, 4))
    net = {"in": 0.1 * rng.normal(size=(8, WIDTH)), "bias": np.zeros(WIDTH), "out": 0.1 * rng.normal(size=(WIDTH, 4))}
    net = jax.tree.map(jnp.asarray, net)
    options = {"optimizer": OPTIMIZER, "steps": 6, "batch_size": 8, "key": jax.random.key(0), "chunk": 3}
    here = fit(loss, net, data, **options)
    split = da.distribute(net, mesh, da.FullySharded(least=64))
    found = {}
    for name, parameters, samples in (
        ("samples", net, da.distribute(data, mesh)),
        ("parameters", split, data),
        ("both", split, da.distribute(data, mesh)),
    ):
        there = fit(loss, parameters, samples, **options)
        found[name] = apart(
            (there.trained, there.losses, there.gradient_norms), (here.trained, here.losses, here.gradient_norms)
        )
    moments = there.state.memory[0].mu
    found["specs"] = [str(there.trained["in"].sharding.spec), str(moments["in"].sharding.spec)]
    again = fit(
        loss, None, da.distribute(data, mesh), optimizer=OPTIMIZER, steps=8, batch_size=8, state=there.state, chunk=3
    )
    found["went on"] = len(again.losses)
    return found


@pytest.mark.slow
@pytest.mark.long
def test_a_training_in_parts_is_the_whole_one():
    found = on_devices(trained)
    for name in ("samples", "parameters", "both"):
        assert found[name] < 1e-9, (name, found)
    assert found["specs"] == ["P(None, 'device')"] * 2
    assert found["went on"] == 2
