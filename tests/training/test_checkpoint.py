"""Checkpoints: what comes back, and what is said of one that does not fit or is damaged."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffassim.core.errors import ConfigurationError, DataError
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


def test_damage_is_named(kept):
    largest = max((p for p in (kept / "arrays").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    sound = largest.read_bytes()
    largest.write_bytes(bytes([sound[0] ^ 1]) + sound[1:])
    with pytest.raises(DataError, match=f"{largest.name} was changed"):
        load_checkpoint(kept, STATE)
    largest.unlink()
    with pytest.raises(DataError, match=f"{largest.name} is missing"):
        load_checkpoint(kept, STATE)
    manifest = kept / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 0}))
    with pytest.raises(ConfigurationError, match="format 0"):
        load_checkpoint(kept, STATE)
    manifest.write_text("{")
    with pytest.raises(DataError, match="damaged"):
        load_checkpoint(kept, STATE)
    with pytest.raises(DataError, match="no manifest"):
        load_checkpoint(kept.parent / "none", STATE)
