"""Checkpoints of pytrees under checksums; nothing in them is executed when they are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from diffassim.core.errors import ConfigurationError
from diffassim.core.partition import joined, partition
from diffassim.core.shard_files import Stored, is_key, on_host, open_shards, write_shards
from diffassim.training.state import TrainingState

__all__ = ["load_checkpoint", "position_of", "save_checkpoint"]

POSITION = "position"
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def save_checkpoint(directory: str | Path, state: Any, about: Mapping[str, Any] = _NOTHING) -> None:
    """Write a pytree of arrays, in place of what the directory held.

    The new files are complete before the old ones go: a process that is killed leaves the one or the other. Where
    several processes train together, all of them call this, and each writes the shards that it holds.

    Args:
        directory: where to write, which all processes see.
        state: pytree of arrays and random keys, for example a `TrainingState` (with its position in the data).
            Functions and flags in it (those of modules of Equinox) are not stored.
        about: what should be known of the checkpoint, as JSON.

    Raises:
        OSError: if the files cannot be written; what the directory held is still there.

    Example:
        >>> save_checkpoint("kept", {"w": jnp.arange(3.0)})
        >>> load_checkpoint("kept", {"w": jnp.zeros(3)})["w"].tolist()
        [0.0, 1.0, 2.0]
    """
    state, _ = partition("save_checkpoint: the state", state)
    write_shards(Path(directory).absolute(), on_host(state), {**about, **position_of(state)})


def position_of(state: Any) -> dict[str, Any]:
    """Return where the data of a training stand, which lies beside the leaves: its length changes.

    Example:
        >>> position_of({"w": 1.0})
        {}
    """
    return {POSITION: state.position} if isinstance(state, TrainingState) and state.position is not None else {}


def load_checkpoint(directory: str | Path, like: Any) -> Any:
    """Read a pytree that `save_checkpoint` wrote.

    Args:
        directory: where it lies.
        like: pytree of the same structure, shapes and dtypes, for example a `TrainingState.create(...)`, or what
            `jax.eval_shape` says of it. Functions and flags, which are not stored, are those of `like`. Leaves
            that lie on a mesh are read onto it, by every process its own part; it may be another mesh than that of the
            processes that wrote them.

    Returns:
        The pytree.

    Raises:
        DataError: if there is no checkpoint, or a file is missing or was changed.
        ConfigurationError: if it belongs to another architecture, precision, optimizer or version.
    """
    stored, (like, rest) = open_shards(Path(directory).absolute()), partition("load_checkpoint: like", like)
    _require_alike(stored, like)
    leaves, structure = jax.tree.flatten(like)
    kept = jax.tree.unflatten(structure, [_read(stored, number, leaf) for number, leaf in enumerate(leaves)])
    kept = joined(kept, rest)
    return kept.replace(position=stored.about.get(POSITION)) if isinstance(kept, TrainingState) else kept


def _require_alike(stored: Stored, like: Any) -> None:
    """Raise `ConfigurationError` at the first leaf that differs in path, shape or dtype."""
    written = [(leaf.path, leaf.shape, leaf.dtype) for leaf in stored.leaves]
    expected = [
        (
            jax.tree_util.keystr(path),
            jnp.shape(_data(leaf)),
            str(leaf.dtype if hasattr(leaf, "dtype") else jnp.asarray(leaf).dtype),
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(like)
    ]
    if written != expected:
        here = next((a, b) for a, b in zip([*written, None], [*expected, None], strict=False) if a != b)
        raise ConfigurationError(
            f"load_checkpoint: {stored.directory} holds {_text(here[0])} where {_text(here[1])} is expected; `like` "
            "must have the architecture, precision and optimizer of the training that wrote it"
        )


def _text(entry: tuple[str, Any, str] | None) -> str:
    return "nothing" if entry is None else f"{entry[0]} of shape {tuple(entry[1])} and type {entry[2]}"


def _data(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if is_key(leaf) else leaf


def _read(stored: Stored, number: int, leaf: Any) -> Any:
    """Return a stored leaf, on the devices on which `leaf` lies."""
    data = _data(leaf)
    spread = isinstance(data, jax.Array) and len(data.sharding.device_set) > 1
    found = jnp.asarray(stored.read(number, data.sharding if spread else None))
    return jax.random.wrap_key_data(found, impl=jax.random.key_impl(leaf)) if is_key(leaf) else found
