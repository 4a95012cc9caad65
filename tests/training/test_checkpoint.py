"""Checkpoints: what comes back, and what is said of one that does not fit or is damaged."""

from __future__ import annotations

import errno
import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffassim.core.errors import ConfigurationError, DataError
from diffassim.core.shard_files import open_shards
from diffassim.training import load_checkpoint, save_checkpoint

STATE = {"w": jnp.arange(6.0).reshape(2, 3), "half": jnp.ones(2, jnp.bfloat16), "key": jax.random.key(3), "n": 4}


@pytest.fixture
def kept(tmp_path):
    save_checkpoint(tmp_path / "kept", {"w": 1})
    save_checkpoint(tmp_path / "kept", STATE)
    return tmp_path / "kept"


def test_all_leaves_come_back_bit_by_bit(kept):
    found = load_checkpoint(kept, jax.tree.map(lambda leaf: leaf, STATE))
    assert jax.tree.structure(found) == jax.tree.structure(STATE)
    assert np.array_equal(found["w"], STATE["w"]) and found["half"].dtype == jnp.bfloat16 and found["n"] == 4
    assert jax.random.normal(found["key"]) == jax.random.normal(STATE["key"])
    assert [p.name for p in kept.parent.iterdir()] == ["kept"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"w": jnp.zeros((2, 4))}, r"\['w'\] of shape \(2, 3\).*\(2, 4\)"),
        ({"w": jnp.zeros((2, 3), jnp.float32)}, "float64.*float32"),
        ({"z": jnp.zeros(2)}, r"nothing where \['z'\]"),
    ],
)
def test_another_architecture_is_named(kept, change, named):
    with pytest.raises(ConfigurationError, match=named):
        load_checkpoint(kept, STATE | change)


def sign(manifest, content):
    text = json.dumps(content).encode()
    manifest.write_bytes(hashlib.sha256(text).hexdigest().encode() + b"\n" + text)


def test_damage_is_named(kept):
    file, manifest = kept / "rank-00000.bin", kept / "manifest.json"
    sound = file.read_bytes()
    file.write_bytes(bytes([sound[0] ^ 1]) + sound[1:])
    with pytest.raises(DataError, match=r"rank-00000.bin was changed \(checksum of \['half'\]\[0:2\]\)"):
        load_checkpoint(kept, STATE)
    file.write_bytes(sound[:-1])
    with pytest.raises(DataError, match="was changed"):
        load_checkpoint(kept, STATE)
    file.unlink()
    with pytest.raises(DataError, match=r"rank-00000.bin is missing"):
        load_checkpoint(kept, STATE)
    content = json.loads(manifest.read_bytes().partition(b"\n")[2])
    sign(manifest, content | {"format": 3})
    with pytest.raises(ConfigurationError, match="format 3, but this version reads 2"):
        load_checkpoint(kept, STATE)
    sign(manifest, {"format": 2})
    with pytest.raises(DataError, match="is not that of a checkpoint"):
        load_checkpoint(kept, STATE)
    manifest.write_text(json.dumps({"format": 1}))
    with pytest.raises(ConfigurationError, match="format 1"):
        load_checkpoint(kept, STATE)
    manifest.write_text("x")
    with pytest.raises(DataError, match="damaged"):
        load_checkpoint(kept, STATE)
    with pytest.raises(DataError, match="no manifest"):
        load_checkpoint(kept.parent / "none", STATE)


def test_a_hundred_flipped_bits_are_all_found(kept):
    """Drawn over all bytes of all files, so that checksums, names and numbers are hit as well."""
    files = sorted(kept.iterdir())
    sizes = np.cumsum([file.stat().st_size for file in files])
    draws = np.random.default_rng(0)
    found = 0
    for _ in range(100):
        number = int(draws.integers(sizes[-1]))
        which = int(np.searchsorted(sizes, number, side="right"))
        sound = files[which].read_bytes()
        content = bytearray(sound)
        content[number - int(sizes[which])] ^= 1 << int(draws.integers(8))
        files[which].write_bytes(content)
        try:
            load_checkpoint(kept, STATE)
        except (DataError, ConfigurationError):
            found += 1
        files[which].write_bytes(sound)
    assert found == 100
    load_checkpoint(kept, STATE)


def test_what_a_kill_between_two_renamings_leaves_is_read_and_then_kept(kept):
    kept.rename(kept.with_name("kept.old"))
    assert load_checkpoint(kept, STATE)["n"] == 4
    save_checkpoint(kept, STATE | {"n": 5})
    assert load_checkpoint(kept, STATE)["n"] == 5
    assert [p.name for p in kept.parent.iterdir()] == ["kept"]


def test_large_shards_are_cut_into_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("diffassim.core.shard_files.LONGEST", 100)
    x = jnp.arange(130.0).reshape(13, 10)
    save_checkpoint(tmp_path / "kept", {"x": x, "none": jnp.zeros((0, 3))})
    stored = open_shards(tmp_path / "kept")
    assert [len(leaf.pieces) for leaf in stored.leaves] == [1, 13]
    found = load_checkpoint(tmp_path / "kept", {"x": x, "none": jnp.zeros((0, 3))})
    assert np.array_equal(found["x"], x) and found["none"].shape == (0, 3)


def test_a_full_disk_leaves_the_old_checkpoint(kept, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(kept, STATE | {"n": 5})
    assert load_checkpoint(kept, STATE)["n"] == 4
    assert [p.name for p in kept.parent.iterdir()] == ["kept"]
