"""Checkpoints of pytrees under checksums, written by orbax; nothing in them is executed when they are read."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.core.errors import ConfigurationError, DataError
from diffassim.training.state import TrainingState

__all__ = ["load_checkpoint", "save_checkpoint"]

FORMAT = 1
MANIFEST, ARRAYS, POSITION = "manifest.json", "arrays", "position.json"


def save_checkpoint(directory: str | Path, state: Any) -> None:
    """Write a pytree of arrays, in place of what the directory held.

    The new files are complete before the old ones go: a process that is killed leaves the one or the other.

    Args:
        directory: where to write.
        state: pytree of arrays and random keys, for example a `TrainingState` (with its position in the data).

    Example:
        >>> save_checkpoint("kept", {"w": jnp.arange(3.0)})
        >>> load_checkpoint("kept", {"w": jnp.zeros(3)})["w"].tolist()
        [0.0, 1.0, 2.0]
    """
    import orbax.checkpoint as ocp

    directory = Path(directory).absolute()
    new, old = directory.with_name(directory.name + ".new"), directory.with_name(directory.name + ".old")
    for left_over in (new, old):
        shutil.rmtree(left_over, ignore_errors=True)
    new.mkdir(parents=True)
    leaves = [_as_array(leaf) for leaf in jax.tree.leaves(state)]
    with ocp.PyTreeCheckpointer() as writer:
        writer.save(new / ARRAYS, {f"{k:06d}": leaf for k, leaf in enumerate(leaves)})
    if isinstance(state, TrainingState) and state.position is not None:  # beside the leaves: its length changes
        (new / ARRAYS / POSITION).write_text(state.position)
    manifest = {"format": FORMAT, "leaves": _description(state), "files": _checksums(new / ARRAYS)}
    (new / MANIFEST).write_text(json.dumps(manifest, indent=1))
    if directory.exists():
        directory.rename(old)
    new.rename(directory)
    shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(directory: str | Path, like: Any) -> Any:
    """Read a pytree that `save_checkpoint` wrote.

    Args:
        directory: where it lies.
        like: pytree of the same structure, shapes and dtypes, for example a `TrainingState.create(...)`.

    Returns:
        The pytree.

    Raises:
        DataError: if there is no checkpoint, or a file is missing or was changed.
        ConfigurationError: if it belongs to another architecture, precision, optimizer or version.
    """
    import orbax.checkpoint as ocp

    directory = Path(directory).absolute()
    old = directory.with_name(directory.name + ".old")
    if not directory.exists() and old.exists():  # killed between the two renamings
        directory = old
    try:
        manifest = json.loads((directory / MANIFEST).read_text())
        written, files = manifest["leaves"], manifest["files"]
    except FileNotFoundError:
        raise DataError(f"load_checkpoint: {directory} holds no {MANIFEST}; is it a checkpoint?") from None
    except (ValueError, KeyError, TypeError):
        raise DataError(f"load_checkpoint: {directory / MANIFEST} is damaged; take an older checkpoint") from None
    if manifest.get("format") != FORMAT:
        raise ConfigurationError(
            f"load_checkpoint: {directory} has format {manifest.get('format')}, but this version reads {FORMAT}"
        )
    found = _checksums(directory / ARRAYS)
    damaged = sorted(name for name in files if found.get(name) != files[name])
    if damaged:
        state = "was changed" if damaged[0] in found else "is missing"
        raise DataError(f"load_checkpoint: in {directory} the file {damaged[0]} {state}; take an older checkpoint")
    expected = _description(like)
    if written != expected:
        here = next((a, b) for a, b in zip([*written, None], [*expected, None], strict=False) if a != b)
        raise ConfigurationError(
            f"load_checkpoint: {directory} holds {_text(here[0])} where {_text(here[1])} is expected; `like` must have "
            "the architecture, precision and optimizer of the training that wrote it"
        )
    with ocp.PyTreeCheckpointer() as reader:
        arrays = reader.restore(directory / ARRAYS)
    leaves, structure = jax.tree.flatten(like)
    restored = [_like(arrays[f"{k:06d}"], leaf) for k, leaf in enumerate(leaves)]
    kept = jax.tree.unflatten(structure, restored)
    if not isinstance(kept, TrainingState):
        return kept
    position = (directory / ARRAYS / POSITION).read_text() if POSITION in files else None
    return kept.replace(position=position)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _as_array(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _like(array: Any, leaf: Any) -> Any:
    if _is_key(leaf):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(leaf))
    return jnp.asarray(array)


def _description(state: Any) -> list[list[Any]]:
    """Return path, shape and dtype of every leaf."""
    return [
        [jax.tree_util.keystr(path), list(jnp.shape(leaf)), str(jnp.asarray(leaf).dtype)]
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    ]


def _text(entry: list[Any] | None) -> str:
    return "nothing" if entry is None else f"{entry[0]} of shape {tuple(entry[1])} and type {entry[2]}"


def _checksums(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
