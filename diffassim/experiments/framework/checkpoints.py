"""What a run goes on from: outputs of finished chunks, and carries under checksums, of one process or of many."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from flax import serialization

from diffassim.core import processes
from diffassim.core.errors import DataError
from diffassim.core.shard_files import on_host, open_shards, write_shards
from diffassim.io.messages import sized

__all__ = ["RunCheckpoints", "as_numpy", "beside", "replace_file"]

ADVICE = "Nothing was changed. Restore it from a copy, or start again in another --out directory."
_DIGEST = 32  # bytes of SHA-256 in front of the checkpoint's content


class RunCheckpoints:
    """Files from which a run goes on.

    chunks/*.nc: the output of each finished chunk. checkpoint.msgpack: the carry after the last of them; where the
    chunks form several chains (`Experiment.chains`), that before all of them, and chains/*.msgpack that of each chain,
    so that any number of processes can go on. shards: a carry in parts, of which each process has written its own.
    Every file is written beside its place and then moved. A carry lies with the checksums of the outputs before it.

    Args:
        path: the directory of the run.
        chains: of the experiment.
    """

    def __init__(self, path: Path, chains: tuple[range, ...] = ()) -> None:
        self.path, self.chains = path, chains
        self.config = path / "config.toml"
        self.checkpoint, self.shards = path / "checkpoint.msgpack", path / "shards"
        self._chunks, self._chains = path / "chunks", path / "chains"
        self._digests: dict[int, str] = {}

    @property
    def begun(self) -> bool:
        """Whether a chunk or a carry has been written."""
        return any(p.exists() for p in (self.checkpoint, self.chunk(0))) or bool(self._of_shards())

    @property
    def count(self) -> int:
        """Number of chunks that this process has written or read the checkpoints of."""
        return len(self._digests)

    @property
    def finished(self) -> int:
        """Number of chunks in the directory, of all processes."""
        return sum(1 for _ in self._chunks.glob("*.nc"))

    def chunk(self, index: int) -> Path:
        """Return the path of a chunk's file."""
        return self._chunks / f"{index:05d}.nc"

    def write_chunk(self, index: int, dataset: xr.Dataset, carry: dict[str, Any]) -> None:
        """Write a chunk's output, then the carry that follows it."""
        self.write_output(index, dataset)
        chain = next(number for number, chunks in enumerate(self.chains) if index in chunks)
        self._write_carry(self._file_of(chain), carry, self.chains[chain])
        gone = beside(self.shards)
        for folder in self._of_shards():  # of several processes, before this one went on alone
            shutil.rmtree(gone, ignore_errors=True)
            folder.rename(gone)  # first: without its manifest it must not lie there
        shutil.rmtree(gone, ignore_errors=True)

    def write_output(self, index: int, dataset: xr.Dataset) -> None:
        """Write a chunk's output."""
        self._chunks.mkdir(exist_ok=True)
        replace_file(self.chunk(index), lambda path: dataset.to_netcdf(path, engine="netcdf4"))
        self._digests[index] = _digest(self.chunk(index))

    def write_checkpoint(self, carry: dict[str, Any]) -> None:
        """Write the carry before all chunks."""
        self._write_carry(self.checkpoint, carry, range(0))

    def write_spread(self, carry: dict[str, Any]) -> None:
        """Write a carry that lies in parts on all processes, each its own part; every process calls this."""
        paths, structure = _flattened(carry)
        about = {"keys": paths, "chunks": self.digests(self.chains[0]) if processes.rank() == 0 else {}}
        about["config"] = _digest(self.config)
        write_shards(self.shards, on_host(structure), about)
        if processes.rank() == 0:
            self.checkpoint.unlink(missing_ok=True)

    def read_spread(self, place: Callable[[str, tuple[int, ...]], Any]) -> tuple[int, dict[str, Any]]:
        """Return the number of finished chunks, and the carry in parts, which any number of processes may have written.

        Args:
            place: sharding by path and shape of an array; None for NumPy arrays.

        Raises:
            DataError: if a file is missing or was changed.
        """
        if not self._of_shards():
            return self._read_carry(self.checkpoint, self.chains[0])
        try:
            stored = open_shards(self.shards)
            paths = stored.about["keys"]
            arrays = [stored.read(k, place(".".join(path), stored.leaves[k].shape)) for k, path in enumerate(paths)]
        except DataError as error:
            raise DataError(f"{error}. {ADVICE}") from None
        self.require_configuration(stored.about["config"])
        self.know(stored.about["chunks"])
        return len(stored.about["chunks"]), _nested(paths, arrays)

    def _of_shards(self) -> list[Path]:
        """Return the directories of shards that are there: one, or between two renamings the one before."""
        return [folder for folder in (self.shards, self.shards.with_name("shards.old")) if folder.exists()]

    def _file_of(self, chain: int) -> Path:
        return self.checkpoint if len(self.chains) == 1 else self._chains / f"{chain:05d}.msgpack"

    def digests(self, chunks: range) -> dict[str, str]:
        """Return the checksums of the finished ones of these chunks, by their number as text."""
        return {f"{index:05d}": digest for index, digest in sorted(self._digests.items()) if index in chunks}

    def _write_carry(self, file: Path, carry: dict[str, Any], chunks: range) -> None:
        content = {"carry": as_numpy(carry), "chunks": self.digests(chunks), "config": _digest(self.config)}
        packed = serialization.msgpack_serialize(content)
        file.parent.mkdir(exist_ok=True)
        replace_file(file, lambda path: path.write_bytes(hashlib.sha256(packed).digest() + packed))

    def read_checkpoints(self) -> None:
        """Make sure that everything on which the rest of the run depends is there and sound.

        Raises:
            DataError: if a file that the rest of the run depends on is missing or damaged; it says what to do.
        """
        if len(self.chains) > 1:
            self._read_carry(self.checkpoint, range(0))
        for chain in range(len(self.chains)):
            self.read_chain(chain)
        for index in sorted(self._digests):
            self.require_sound(index)

    def read_chain(self, chain: int) -> tuple[int, dict[str, Any]]:
        """Return the number of finished chunks of a chain, and the carry after them.

        Raises:
            DataError: if the checkpoint is missing or damaged.
        """
        file = self._file_of(chain)
        if self._of_shards():
            return self.read_spread(lambda *_: None)
        if len(self.chains) > 1 and not file.exists():
            return self._read_carry(self.checkpoint, range(0))
        return self._read_carry(file, self.chains[chain])

    def _read_carry(self, file: Path, chunks: range) -> tuple[int, dict[str, Any]]:
        if not file.exists():
            raise DataError(f"{file}: missing. {ADVICE}")
        signed = file.read_bytes()
        if hashlib.sha256(signed[_DIGEST:]).digest() != signed[:_DIGEST]:
            raise DataError(f"{file}: damaged (its checksum is wrong). {ADVICE}")
        content = _unpacked(signed[_DIGEST:], chunks)
        if content is None:
            raise DataError(f"{file}: its content is not that of a run. {ADVICE}")
        self.require_configuration(content["config"])
        self.know(content["chunks"])
        return len(content["chunks"]), dict(content["carry"])

    def know(self, chunks: dict[str, str]) -> None:
        """Take over the checksums of finished chunks."""
        self._digests |= {int(name): digest for name, digest in chunks.items()}

    def require_configuration(self, digest: str) -> None:
        """Raise `DataError` if the configuration is not the one that a checkpoint belongs to."""
        if _digest(self.config) != digest:
            raise DataError(f"{self.config}: changed since the run started. {ADVICE}")

    def require_sound(self, index: int) -> None:
        """Raise `DataError` if the output of a finished chunk is missing or damaged."""
        if not self.chunk(index).exists():
            raise DataError(f"{self.chunk(index)}: missing. {ADVICE}")
        if _digest(self.chunk(index)) != self._digests[index]:
            raise DataError(f"{self.chunk(index)}: damaged (its checksum is wrong). {ADVICE}")

    def remove_checkpoint(self) -> None:
        """Drop what only a resumed run needs."""
        self.checkpoint.unlink(missing_ok=True)
        for folder in (self._chunks, self._chains, *self._of_shards()):
            shutil.rmtree(folder, ignore_errors=True)


def _flattened(carry: dict[str, Any], above: tuple[str, ...] = ()) -> tuple[list[list[str]], list[Any]]:
    """Return the keys that lead to every array of a nested dict, and the arrays."""
    paths: list[list[str]] = []
    arrays: list[Any] = []
    for key in sorted(carry):
        inner = _flattened(carry[key], (*above, key)) if isinstance(carry[key], dict) else None
        paths += [[*above, key]] if inner is None else inner[0]
        arrays += [carry[key]] if inner is None else inner[1]
    return paths, arrays


def _nested(paths: list[list[str]], arrays: list[Any]) -> dict[str, Any]:
    """Return the nested dict of which `_flattened` returned this."""
    found: dict[str, Any] = {}
    for path, array in zip(paths, arrays, strict=True):
        inner = found
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
        inner[path[-1]] = array
    return found


def as_numpy(carry: Any) -> Any:
    """Return a nested dict with all leaves as NumPy arrays.

    Raises:
        TypeError: if a container is not a dict with text keys.
    """
    if isinstance(carry, dict):
        if not all(isinstance(key, str) for key in carry):
            raise TypeError(f"a carry is a nested dict with text keys, found the keys {list(carry)}")
        return {key: as_numpy(value) for key, value in carry.items()}
    if isinstance(carry, list | tuple) or carry is None:
        raise TypeError(f"a carry is a nested dict of arrays, found a {type(carry).__name__}")
    return np.asarray(carry)


def _unpacked(packed: bytes, expected: range) -> dict[str, Any] | None:
    """Return a checkpoint's content, or None where it is something else (of which a checksum knows nothing)."""
    try:
        content = serialization.msgpack_restore(packed)
        chunks = content["chunks"]
        names = [f"{index:05d}" for index in expected[: len(chunks)]]
        sound = sorted(chunks) == names and all(isinstance(digest, str) for digest in chunks.values())
        as_numpy(content["carry"])
        return content if sound and isinstance(content["carry"], dict) and "config" in content else None
    except Exception:  # whatever foreign bytes make the decoder raise
        return None


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def beside(path: Path) -> Path:
    """Return the name under which a file is written before it is moved to its place."""
    return path.with_name(f".{path.name}.part")


def replace_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file beside its place, and move it there when it is on the disk.

    Raises:
        OSError: if it cannot be written, for example because the disk is full; the file that was there is still there.
    """
    part = beside(path)
    try:
        write(part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # netCDF's is a RuntimeError without the file's name
        part.unlink(missing_ok=True)
        free = sized(shutil.disk_usage(part.parent).free)
        raise OSError(
            f"{path}: cannot be written ({error}; {free} are free there); what was finished before it is kept"
        ) from error
    os.replace(part, path)  # noqa: PTH105 (atomic on every platform)
