"""Pytrees in files that all processes write together: each its own shards, every piece under a checksum."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.core import processes
from diffassim.core.errors import ConfigurationError, DataError

__all__ = ["FORMAT", "MANIFEST", "Leaf", "Piece", "Stored", "is_key", "on_host", "open_shards", "write_shards"]

FORMAT = 2
MANIFEST = "manifest.json"
LONGEST = 2**26  # bytes of a piece: what is read and checked at once, when another mesh needs a part of it
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class Piece:
    """A part of a leaf.

    Args:
        start: its first index along every axis.
        shape: its shape.
        file: name of the file that holds it.
        offset: where it begins there, in bytes.
        digest: SHA-256 of its bytes.
    """

    start: tuple[int, ...]
    shape: tuple[int, ...]
    file: str
    offset: int
    digest: str


@dataclasses.dataclass(frozen=True)
class Leaf:
    """An array of a pytree.

    Args:
        path: as `jax.tree_util.keystr` writes it.
        shape: of the whole array; for random keys that of their data.
        dtype: name of its type; for random keys that of the kind of key.
        stored: name of the type in the file, which for random keys is that of their data.
        pieces: of which it consists.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    stored: str
    pieces: tuple[Piece, ...]


@dataclasses.dataclass(frozen=True)
class HostShards:
    """What this process writes of one leaf, copied to the host: (first indices, values) of every shard of its own."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    stored: str
    parts: tuple[tuple[tuple[int, ...], np.ndarray], ...]


def on_host(tree: Any) -> list[HostShards]:
    """Return copies of the shards that this process has to write; the pytree may change or go afterwards.

    Of values that several devices hold, one process writes them; arrays that belong to no mesh are written by the
    first process.

    Args:
        tree: pytree of arrays, random keys and numbers.
    """
    return [_host_shards(path, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def _host_shards(path: Any, leaf: Any) -> HostShards:
    name, dtype = jax.tree_util.keystr(path), str(jnp.asarray(leaf).dtype)
    data = jax.random.key_data(leaf) if is_key(leaf) else leaf
    if isinstance(data, jax.Array) and len(data.sharding.device_set) > 1:
        own = [shard for shard in data.addressable_shards if shard.replica_id == 0]
        parts = [(tuple(s.start or 0 for s in shard.index), np.array(shard.data)) for shard in own]
        return HostShards(name, data.shape, dtype, str(data.dtype), tuple(parts))
    array = np.array(data)
    whole = (((0,) * array.ndim, array),) if processes.rank() == 0 else ()
    return HostShards(name, array.shape, dtype, str(array.dtype), whole)


def write_shards(directory: Path, leaves: list[HostShards], about: Mapping[str, Any] = _NOTHING) -> None:
    """Write the shards of all processes into a directory, in place of what it held; every process calls this.

    Each process writes one file. The first one then writes the manifest with the checksum of every piece, and moves
    the complete directory to its place: a process that is killed, or a full disk, leaves the old content.

    Args:
        directory: where to write, in a file system that all processes share.
        leaves: `on_host` of the pytree.
        about: what else the manifest says, as JSON.

    Raises:
        OSError: if this process cannot write, for example because the disk is full.
        ProcessError: if another one cannot.

    Example:
        >>> write_shards(Path("kept"), on_host({"x": jnp.arange(3.0)}), {"step": 7})
        >>> stored = open_shards(Path("kept"))
        >>> stored.about["step"], stored.read(0).tolist()
        (7, [0.0, 1.0, 2.0])
    """
    new, old = _beside(directory, "new"), _beside(directory, "old")
    first = processes.rank() == 0
    limit = processes.TIMEOUT
    processes.together("preparing a checkpoint", lambda: _prepare(new, old, directory) if first else None, limit)
    try:
        pieces = processes.together("writing a checkpoint", lambda: _write_own(new, leaves), limit)
        everyone = [json.loads(text) for text in processes.exchange("checkpoint", json.dumps(pieces))]
        manifest = {
            "format": FORMAT,
            "about": dict(about),
            "leaves": [
                {
                    "path": leaf.path, "shape": leaf.shape, "dtype": leaf.dtype, "stored": leaf.stored,
                    "pieces": [piece for theirs in everyone for piece in theirs[number]],
                }
                for number, leaf in enumerate(leaves)
            ],
        }  # fmt: skip
        processes.together(
            "finishing a checkpoint", lambda: _commit(new, old, directory, manifest) if first else None, limit
        )
    except Exception:
        if first:
            shutil.rmtree(new, ignore_errors=True)
        raise


def _beside(directory: Path, word: str) -> Path:
    return directory.with_name(f"{directory.name}.{word}")


def _prepare(new: Path, old: Path, directory: Path) -> None:
    if not directory.exists() and old.exists():  # killed between the two renamings
        old.rename(directory)
    for left_over in (new, old):
        shutil.rmtree(left_over, ignore_errors=True)
    new.mkdir(parents=True)


def _write_own(new: Path, leaves: list[HostShards]) -> list[list[dict[str, Any]]]:
    """Write the file of this process, and return the pieces of every leaf."""
    name, offset = f"rank-{processes.rank():05d}.bin", 0
    found: list[list[dict[str, Any]]] = []
    with (new / name).open("wb") as file:
        for leaf in leaves:
            found.append([])
            for start, values in leaf.parts:
                for first, piece in _cut(start, values):
                    content = piece.tobytes()
                    file.write(content)
                    digest = hashlib.sha256(content).hexdigest()
                    found[-1].append(
                        {"start": first, "shape": piece.shape, "file": name, "offset": offset, "digest": digest}
                    )
                    offset += len(content)
        file.flush()
        os.fsync(file.fileno())
    return found


def _cut(start: tuple[int, ...], values: np.ndarray) -> list[tuple[tuple[int, ...], np.ndarray]]:
    """Return a shard in pieces along its first axis that are not too long."""
    if not values.ndim or values.nbytes <= LONGEST:
        return [(start, values)]
    rows = max(1, LONGEST * values.shape[0] // values.nbytes)
    return [((start[0] + first, *start[1:]), values[first : first + rows]) for first in range(0, values.shape[0], rows)]


def _commit(new: Path, old: Path, directory: Path, manifest: Mapping[str, Any]) -> None:
    text = json.dumps(manifest, indent=1).encode()
    with (new / MANIFEST).open("wb") as file:
        file.write(hashlib.sha256(text).hexdigest().encode() + b"\n" + text)
        file.flush()
        os.fsync(file.fileno())
    _sync(new)
    if directory.exists():
        directory.rename(old)
    new.rename(directory)
    _sync(directory.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Make the names in a folder outlive a power failure, where the system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


@dataclasses.dataclass
class Stored:
    """A stored pytree, of which nothing but the manifest has been read.

    Args:
        directory: where it lies.
        about: what `write_shards` was told about it.
        leaves: its arrays.
    """

    directory: Path
    about: dict[str, Any]
    leaves: list[Leaf]
    _last: tuple[Piece, np.ndarray] | None = None

    def read(self, number: int, sharding: Any = None) -> Any:
        """Return a leaf, of which every piece that is needed here is read and checked.

        Args:
            number: of the leaf.
            sharding: how it should lie on devices, which may be other ones than those that wrote it; default: a NumPy
                array with all of it.

        Raises:
            DataError: if a piece is missing or was changed.
        """
        leaf = self.leaves[number]
        shape = leaf.shape
        if sharding is None:
            return self._part(leaf, tuple(slice(0, length) for length in shape))
        return jax.make_array_from_callback(shape, sharding, lambda index: self._part(leaf, index))

    def _part(self, leaf: Leaf, index: tuple[slice, ...]) -> np.ndarray:
        """Return a rectangular part of a leaf."""
        low = [s.start or 0 for s in index]
        high = [length if s.stop is None else s.stop for s, length in zip(index, leaf.shape, strict=True)]
        found = np.empty([b - a for a, b in zip(low, high, strict=True)], jnp.dtype(leaf.stored))
        filled = 0
        for piece in leaf.pieces:
            ends = [a + length for a, length in zip(piece.start, piece.shape, strict=True)]
            begin = [max(a, b) for a, b in zip(low, piece.start, strict=True)]
            end = [min(a, b) for a, b in zip(high, ends, strict=True)]
            if any(a >= b for a, b in zip(begin, end, strict=True)):
                continue
            here = tuple(slice(a - o, b - o) for a, b, o in zip(begin, end, low, strict=True))
            there = tuple(slice(a - o, b - o) for a, b, o in zip(begin, end, piece.start, strict=True))
            found[here] = self._values(leaf, piece)[there]
            filled += found[here].size
        if filled != found.size:
            raise DataError(f"{self.directory}: {leaf.path} is not complete; take an older checkpoint")
        return found

    def _values(self, leaf: Leaf, piece: Piece) -> np.ndarray:
        """Return the values of a piece, whose checksum is right."""
        if self._last is not None and self._last[0] is piece:
            return self._last[1]
        path, dtype = self.directory / piece.file, jnp.dtype(leaf.stored)
        try:
            with path.open("rb") as file:
                file.seek(piece.offset)
                content = file.read(dtype.itemsize * int(np.prod(piece.shape, dtype=np.int64)))
        except FileNotFoundError:
            raise DataError(f"in {self.directory} the file {piece.file} is missing; take an older checkpoint") from None
        if hashlib.sha256(content).hexdigest() != piece.digest:
            where = ", ".join(f"{a}:{a + length}" for a, length in zip(piece.start, piece.shape, strict=True))
            raise DataError(
                f"in {self.directory} the file {piece.file} was changed (checksum of {leaf.path}[{where}]); take an "
                "older checkpoint"
            )
        values = np.frombuffer(content, dtype).reshape(piece.shape)
        self._last = piece, values
        return values


def open_shards(directory: Path) -> Stored:
    """Read the manifest of a stored pytree.

    Args:
        directory: where it lies.

    Raises:
        DataError: if there is none, or its checksum is wrong.
        ConfigurationError: if another version of the format wrote it.
    """
    old = _beside(directory, "old")
    if not directory.exists() and old.exists():  # killed between the two renamings
        directory = old
    try:
        signed = (directory / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{directory} holds no {MANIFEST}; is it a checkpoint?") from None
    digest, _, text = signed.partition(b"\n")
    if signed.startswith(b"{"):  # before checksums of the manifest itself
        raise ConfigurationError(f"{directory} has format 1, but this version reads {FORMAT}")
    if hashlib.sha256(text).hexdigest().encode() != digest:
        raise DataError(f"{directory / MANIFEST} is damaged; take an older checkpoint")
    try:
        content = json.loads(text)
        if content["format"] != FORMAT:
            raise ConfigurationError(f"{directory} has format {content['format']}, but this version reads {FORMAT}")
        return Stored(directory, content["about"], [_leaf(entry) for entry in content["leaves"]])
    except (KeyError, TypeError, json.JSONDecodeError) as error:  # of foreign content a checksum knows nothing
        raise DataError(f"{directory / MANIFEST} is not that of a checkpoint ({error})") from None


def _leaf(entry: Mapping[str, Any]) -> Leaf:
    pieces = tuple(
        Piece(tuple(p["start"]), tuple(p["shape"]), Path(p["file"]).name, p["offset"], p["digest"])
        for p in entry["pieces"]
    )
    return Leaf(entry["path"], tuple(entry["shape"]), entry["dtype"], entry["stored"], pieces)


def is_key(leaf: Any) -> bool:
    """Return whether a leaf holds random keys.

    Example:
        >>> is_key(jax.random.key(0)), is_key(jnp.zeros(2))
        (True, False)
    """
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
