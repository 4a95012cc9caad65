"""What is put on several devices is where it should be, and what does not fit is refused by name."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.core.exchange import plan_exchange
from diffassim.core.layout import Layout
from diffassim.core.sharding import assemble_parts, gathered, leading_mesh, sharding_for
from tests.many_devices import apart, on_devices


def refusal(call) -> str:
    try:
        call()
    except da.AssimilationError as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def experiment(seed):
    x = 8 + jax.random.normal(jax.random.key(seed), (16,))
    return da.rollout(da.models.Lorenz96(), x, 10)[-1]


def what_four_devices_say() -> dict:
    mesh, square = da.device_mesh(), da.device_mesh({"member": 2, "space": 2})
    x = {"u": np.arange(32.0).reshape(8, 4), "rate": 0.5, "one": np.ones((1, 1))}
    placed = da.distribute(x, square, {"member": 0, "space": -1})
    seeds = np.arange(6)
    mapped = da.distributed_map(experiment, seeds, mesh)
    whole = jax.jit(jax.vmap(experiment))(seeds)
    net = {"w": np.ones((300, 64)), "b": np.ones(64), "odd": np.ones((71, 71))}
    spread = da.distribute(net, mesh, da.FullySharded())
    ensemble = da.distribute(np.ones((8, 3, 20)), mesh)
    layout = Layout.of(ensemble)
    turned = jax.jit(layout.turned)(ensemble)
    scaled = jax.jit(lambda x: layout.everywhere(lambda x, a: a * x, x, jnp.asarray(2.0)))(np.ones((8, 3, 21)))
    return {
        "specs": [str(placed["u"].sharding.spec), str(placed["one"].sharding.spec), placed["rate"]],
        "same": apart(gathered(placed), x),
        "mapped": bool((np.asarray(mapped) == np.asarray(whole)).all()),
        "network": {name: str(leaf.sharding.spec) for name, leaf in spread.items()},
        "bytes": spread["w"].addressable_data(0).nbytes,
        "turned": [str(turned.sharding.spec), str(jax.jit(layout.kept)(turned).sharding.spec)],
        "columns": [scaled.shape, float(scaled.min()), float(scaled.max())],
        "leading": [leading_mesh(ensemble) is not None, leading_mesh(spread["w"].T) is None],
        "parts": apart(assemble_parts(np.ones((8, 2)), mesh), np.ones((8, 2))),
        "refused": [
            refusal(lambda: da.distribute({"u": np.ones((6, 4))}, mesh)),
            refusal(lambda: da.distribute(np.ones(8), mesh, {"space": 0})),
            refusal(lambda: da.distribute(np.ones(8), square, 0)),
            refusal(lambda: da.distribute(np.ones(8), square, {"member": 0, "space": 0})),
            refusal(lambda: da.device_mesh(5)),
            refusal(lambda: da.device_mesh({"member": 0})),
            refusal(lambda: da.distribute(np.ones(8), mesh.devices)),
            refusal(lambda: da.distribute(np.ones(8), mesh, {"device": 0.5})),
        ],
    }


@pytest.mark.slow
def test_parts_on_four_devices():
    found = on_devices(what_four_devices_say)
    assert found["specs"] == ["P('member', 'space')", "P()", 0.5]
    assert found["same"] == 0
    assert found["mapped"], "a batch over devices has to be the same bit by bit"
    assert found["network"] == {"w": "P('device',)", "b": "P()", "odd": "P()"}
    assert found["bytes"] == 300 * 64 * 8 / 4
    assert found["turned"] == ["P(None, None, 'device')", "P('device',)"]
    assert found["columns"] == [[8, 3, 21], 2.0, 2.0]
    assert found["leading"] == [True, True]
    assert found["parts"] == 0
    advice = [
        "x['u'] has 6 entries along axis 0, which the 4 devices along 'device' of the mesh {'device': 4} do not divide",
        "none called 'space'",
        "does not say which axis of the mesh",
        "is split twice",
        "there are 4",
        "a positive number of",
        "found ndarray",
        "must be the number of an axis",
    ]
    for text, message in zip(advice, found["refused"], strict=True):
        assert text in message


def test_one_device_is_a_mesh_as_well():
    mesh = da.device_mesh(1)
    assert sharding_for((7, 5), mesh, None).is_fully_replicated
    assert Layout.of(da.distribute(jnp.ones((8, 4)), mesh)) is None
    with pytest.raises(da.ShapeError, match="same leading axis"):
        da.distributed_map(lambda x: x, (jnp.ones(2), jnp.ones(3)), mesh)


@pytest.mark.parametrize(("devices", "owned"), [(1, 5), (3, 4), (4, 7)])
def test_an_exchange_brings_what_is_needed(devices, owned):
    rng = np.random.default_rng(devices)
    needed = [rng.permutation(devices * owned)[: rng.integers(0, devices * owned)] for _ in range(devices)]
    whole = rng.normal(size=devices * owned)
    for ordered in (None, devices * owned):
        exchange, places = plan_exchange(needed, owned, ordered)
        for to, numbers in enumerate(needed):
            buffer = []
            for sent, offset in zip(exchange.sent, exchange.offsets, strict=True):
                own = whole.reshape(devices, owned)[(to - offset) % devices]
                buffer.append(np.append(own, 0)[np.minimum(sent[(to - offset) % devices], owned)])
            buffer = np.concatenate([*buffer, [0.0]])
            if ordered is None:
                assert (buffer[places[to]] == whole[numbers]).all()
            else:
                got = buffer[np.minimum(exchange.order[to], len(buffer) - 1)]
                assert (got[: len(numbers)] == whole[numbers]).all()
                assert (got[len(numbers) :] == 0).all()
