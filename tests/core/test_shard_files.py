"""Pytrees in files: what was written by some devices is read by others, and nothing changed goes unseen."""

from __future__ import annotations

import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import diffassim as da
from diffassim.core.errors import ConfigurationError, DataError
from diffassim.core.finite_parts import require_finite_parts
from diffassim.core.shard_files import on_host, open_shards, write_shards
from diffassim.io.parts import read_parts, write_parts
from diffassim.training import TrainingState, load_checkpoint, save_checkpoint
from tests.many_devices import on_devices


def message(call) -> str:
    try:
        call()
    except (DataError, ConfigurationError) as error:
        return str(error)
    return "no error"


def same(a, b) -> bool:
    return all(
        x.dtype == y.dtype and bool(np.array_equal(np.asarray(x), np.asarray(y)))
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def found_flips(directory: Path, read, count: int) -> int:
    draws, found = np.random.default_rng(3), 0
    files = sorted(directory.iterdir())
    for _ in range(count):
        file = files[int(draws.integers(len(files)))]
        sound = file.read_bytes()
        content = bytearray(sound)
        content[int(draws.integers(len(content)))] ^= 1 << int(draws.integers(8))
        file.write_bytes(content)
        found += message(read) != "no error"
        file.write_bytes(sound)
    return found


def what_four_devices_write() -> dict:
    folder = Path(tempfile.mkdtemp())
    square, pair = da.device_mesh({"a": 2, "b": 2}), da.device_mesh({"a": 2})
    whole = {
        "field": jnp.arange(96.0).reshape(8, 12), "half": jnp.ones(8, jnp.bfloat16), "number": jnp.asarray(3),
        "empty": jnp.zeros((0, 4)), "keys": jax.random.key_data(jax.random.split(jax.random.key(0), 8)),
    }  # fmt: skip
    save_checkpoint(folder / "four", da.distribute(whole, square, {"a": 0, "b": 1}))
    readers = {
        "two": da.distribute(whole, pair, {"a": 0}),
        "other": da.distribute(whole, square, {"b": 0}),
        "one": whole,
    }
    found = {name: same(load_checkpoint(folder / "four", like), whole) for name, like in readers.items()}
    read = load_checkpoint(folder / "four", readers["two"])
    found["spec"] = str(read["field"].sharding.spec)
    pieces = [len(leaf.pieces) for leaf in open_shards(folder / "four").leaves]
    flips = found_flips(folder / "four", lambda: load_checkpoint(folder / "four", readers["two"]), 100)
    another = message(lambda: load_checkpoint(folder / "four", readers["two"] | {"field": jnp.zeros((8, 13))}))

    optimizer = optax.adam(0.1)
    state = TrainingState.create({"w": jnp.ones((8, 6))}, optimizer, jax.random.key(1))
    save_checkpoint(folder / "training", da.distribute(state, pair))
    training = same(
        jax.tree.map(_plain, load_checkpoint(folder / "training", state)), jax.tree.map(_plain, state)
    )  # fmt: skip

    x = da.distribute(jnp.arange(24.0).reshape(4, 6), square, {"a": 0, "b": 1})
    write_parts(folder / "x.zarr", {"x": (("row", "column"), x), "t": (("row",), np.arange(4.0))})
    stored = [read_parts(folder / "x.zarr", "x"), read_parts(folder / "x.zarr", "x", pair, 1)]
    spoiled = x.at[3, 4].set(jnp.inf)
    return found | {
        "pieces": pieces,
        "flips": flips,
        "another": another,
        "training": training,
        "zarr": [same(each, x) for each in stored] + [str(stored[1].sharding.spec)],
        "chunks": len([p for p in (folder / "x.zarr" / "x" / "c").rglob("*") if p.is_file()]),
        "place": message(lambda: require_finite_parts("state", {"x": spoiled, "n": jnp.asarray(1)})),
        "sound": message(lambda: require_finite_parts("state", {"x": x})),
    }


def _plain(leaf):
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


@pytest.mark.slow
@pytest.mark.long
def test_shards_of_four_devices():
    found = on_devices(what_four_devices_write)
    assert found["two"] and found["other"] and found["one"] and found["training"]
    assert found["spec"] == "P('a',)"
    assert found["pieces"] == [2, 4, 2, 4, 1], "as many as different parts: empty, field, half, keys, number"
    assert found["flips"] == 100
    assert "holds ['field'] of shape (8, 12)" in found["another"] and "(8, 13)" in found["another"]
    assert found["zarr"] == [True, True, "P(None, 'a')"] and found["chunks"] == 4
    assert found["place"] == "state['x'][3, 4] is inf on rank 0 (device 3): 1 of 6 values there are not finite"
    assert found["sound"] == "no error"


def test_the_kinds_of_leaves(tmp_path):
    tree = {"x": np.arange(3, dtype=np.float32), "b": True, "n": 4, "f": 0.5, "c": np.array([1 + 2j])}
    write_shards(tmp_path / "kept", on_host(tree), {"note": "mine"})
    stored = open_shards(tmp_path / "kept")
    values = [stored.read(k) for k in range(5)]
    assert [leaf.path for leaf in stored.leaves] == ["['b']", "['c']", "['f']", "['n']", "['x']"]
    assert values[0] and values[1][0] == 1 + 2j and values[2] == 0.5 and values[3] == 4
    assert values[4].dtype == np.float32 and stored.about == {"note": "mine"}


def test_a_file_outside_of_the_directory_is_not_read(tmp_path):
    (tmp_path / "secret").write_bytes(b"\0" * 8)
    write_shards(tmp_path / "kept", on_host({"x": np.zeros(1)}))
    stored = open_shards(tmp_path / "kept")
    assert all("/" not in piece.file for leaf in stored.leaves for piece in leaf.pieces)


def test_a_zarr_store_that_does_not_fit_is_named(tmp_path):
    with pytest.raises(DataError, match="no array 'x'"):
        read_parts(tmp_path / "nowhere.zarr", "x")
    write_parts(tmp_path / "x.zarr", {"y": ((), np.float64(1.0))})
    with pytest.raises(DataError, match=r"no array 'x' that could be read \(there are \['y'\]\)"):
        read_parts(tmp_path / "x.zarr", "x")
    with pytest.raises(ValueError, match="has not the axes"):
        write_parts(tmp_path / "x.zarr", {"y": (("a", "b"), np.zeros(3))})
    assert float(read_parts(tmp_path / "x.zarr", "y")) == 1.0
