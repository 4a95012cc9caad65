"""The directory of a run: everything computed so far is in it, readable at any moment."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from flax import serialization

from diffassim.core import processes
from diffassim.core.errors import AssimilationWarning, ConfigurationError, DataError
from diffassim.core.shard_files import on_host, open_shards, write_shards
from diffassim.experiments.framework.base import Results
from diffassim.experiments.framework.report import report_page
from diffassim.io.messages import require_plain_name, shortened, sized
from diffassim.io.parts import write_parts

__all__ = ["LOGS", "RunDirectory", "as_numpy", "versions"]

LOGS = "processes"  # directory of what each of several processes tells

_PACKAGES = ("diffassim", "jax", "jaxlib", "flax", "optax", "numpy", "xarray", "scores", "spotpy")
ADVICE = "Nothing was changed. Restore it from a copy, or start again in another --out directory."
_DIGEST = 32  # bytes of SHA-256 in front of the checkpoint's content


class RunDirectory:
    """Files of one run.

    config.toml, provenance.json, chunks/*.nc (one for each finished chunk), checkpoint.msgpack (the carry after the
    last of them); at the end analysis.nc, scores.csv, table.txt, figures, and index.html with all of that. Where the
    chunks form several chains (`Experiment.chains`), checkpoint.msgpack is the carry before all of them, and
    chains/*.msgpack that of each chain: any number of processes can go on with them. Every file is written beside its
    place and then moved, so that a run killed at any moment leaves whole files. A checkpoint holds the checksums of the
    files that it belongs to: a resumed run either gives the same result or says which file stands in its way.

    Args:
        path: the directory.
        chains: of the experiment.
    """

    def __init__(self, path: Path, chains: tuple[range, ...] = ()) -> None:
        require_plain_name("directory", path)
        self.path, self.chains = path, chains
        self.config, self.provenance = path / "config.toml", path / "provenance.json"
        self.checkpoint, self.shards = path / "checkpoint.msgpack", path / "shards"
        self.analysis = path / "analysis.nc"
        self.scores, self.table, self.page = path / "scores.csv", path / "table.txt", path / "index.html"
        self._chunks, self._chains = path / "chunks", path / "chains"
        self._digests: dict[int, str] = {}

    @property
    def has_started(self) -> bool:
        """Whether a chunk or a checkpoint has been written."""
        return any(p.exists() for p in (self.analysis, self.checkpoint, self.shards, self.chunk(0)))

    @property
    def count(self) -> int:
        """Number of chunks that this process has written or read the checkpoints of."""
        return len(self._digests)

    @property
    def finished(self) -> int:
        """Number of chunks in the directory, of all processes."""
        return sum(1 for _ in self._chunks.glob("*.nc"))

    def create(self, configuration: str, seed: int) -> None:
        """Make the directory for a new run. Only what a run with the same settings left there is written over.

        Args:
            configuration: content of config.toml.
            seed: the run's seed.

        Raises:
            ConfigurationError: if it holds a run already, or other files.
        """
        if self.has_started:
            raise ConfigurationError(
                f"{self.path} holds a run already; give another --out, remove it, or go on with: "
                f"diffassim run --resume {self.path}"
            )
        if self.config.exists() and self.config.read_bytes() != configuration.encode():
            raise ConfigurationError(
                f"{self.config} holds other settings, which are not written over; give another --out, remove it, or "
                f"use them with: diffassim run --resume {self.path}"
            )
        others = self._others()
        if others:
            raise ConfigurationError(
                f"{self.path} is not empty: it holds {shortened(others[0])}; give another --out directory"
            )
        self._chunks.mkdir(parents=True, exist_ok=True)
        _replace(self.config, lambda path: path.write_bytes(configuration.encode()))
        self._write_provenance(seed)

    def complete(self, seed: int) -> None:
        """Write what a run that was stopped before its first checkpoint may lack."""
        self._chunks.mkdir(exist_ok=True)
        if not self.provenance.exists():
            self._write_provenance(seed)

    def _others(self) -> list[str]:
        """Return the names of files that no stopped preparation leaves."""
        if not self.path.exists():
            return []
        left = {_beside(self.config).name, _beside(self.checkpoint).name}
        if self.config.exists():
            left |= {self.config.name, self.provenance.name, _beside(self.provenance).name}
        left |= {f.name for f in (self._chunks, self._chains) if f.is_dir() and not any(f.iterdir())}
        left.add(LOGS)  # of several processes, written before everything else
        return sorted(entry.name for entry in self.path.iterdir() if entry.name not in left)

    def _write_provenance(self, seed: int) -> None:
        facts = {"seed": seed, "python": platform.python_version(), "versions": versions()}
        _replace(self.provenance, lambda path: path.write_text(json.dumps(facts, indent=2) + "\n"))

    def chunk(self, index: int) -> Path:
        """Return the path of a chunk's file."""
        return self._chunks / f"{index:05d}.nc"

    def write_chunk(self, index: int, dataset: xr.Dataset, carry: dict[str, Any]) -> None:
        """Write a chunk's output, then the carry that follows it."""
        self.write_output(index, dataset)
        chain = next(number for number, chunks in enumerate(self.chains) if index in chunks)
        self._write_carry(self._file_of(chain), carry, self.chains[chain])
        if self.shards.exists():  # of several processes, before this one went on alone
            gone = _beside(self.shards)
            self.shards.rename(gone)  # first: without its manifest it must not lie there
            shutil.rmtree(gone, ignore_errors=True)

    def write_output(self, index: int, dataset: xr.Dataset) -> None:
        """Write a chunk's output."""
        self._chunks.mkdir(exist_ok=True)
        _replace(self.chunk(index), lambda path: dataset.to_netcdf(path, engine="netcdf4"))
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
        if not self.shards.exists():
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

    def write_fields(self, fields: Mapping[str, tuple[tuple[str, ...], Any]]) -> None:
        """Write large arrays, every process its own parts; every process calls this."""
        if fields:
            write_parts(self.path / "fields.zarr", fields)

    def _file_of(self, chain: int) -> Path:
        return self.checkpoint if len(self.chains) == 1 else self._chains / f"{chain:05d}.msgpack"

    def digests(self, chunks: range) -> dict[str, str]:
        """Return the checksums of the finished ones of these chunks, by their number as text."""
        return {f"{index:05d}": digest for index, digest in sorted(self._digests.items()) if index in chunks}

    def _write_carry(self, file: Path, carry: dict[str, Any], chunks: range) -> None:
        content = {"carry": as_numpy(carry), "chunks": self.digests(chunks), "config": _digest(self.config)}
        packed = serialization.msgpack_serialize(content)
        file.parent.mkdir(exist_ok=True)
        _replace(file, lambda path: path.write_bytes(hashlib.sha256(packed).digest() + packed))

    def read_checkpoints(self) -> None:
        """Make sure that everything on which the rest of the run depends is there and sound.

        Raises:
            DataError: if a file that the rest of the run depends on is missing or damaged; it says what to do.

        Warns:
            AssimilationWarning: if other versions are installed than those that started the run.
        """
        if len(self.chains) > 1:
            self._read_carry(self.checkpoint, range(0))
        for chain in range(len(self.chains)):
            self.read_chain(chain)
        for index in sorted(self._digests):
            self.require_sound(index)
        self._compare_versions()

    def read_chain(self, chain: int) -> tuple[int, dict[str, Any]]:
        """Return the number of finished chunks of a chain, and the carry after them.

        Raises:
            DataError: if the checkpoint is missing or damaged.
        """
        file = self._file_of(chain)
        if self.shards.exists():
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

    def collect(self, attributes: dict[str, str]) -> xr.Dataset:
        """Return all chunks as one dataset with these global attributes, and write it."""
        chunks = [_load(self.chunk(index)) for index in sorted(self._digests)]
        chunks = [chunk for chunk in chunks if chunk.sizes]  # those that prepare have no output
        dataset = xr.concat(chunks, dim="time", data_vars="minimal", coords="minimal", compat="override", join="exact")
        dataset = dataset.assign_attrs(attributes)
        _replace(self.analysis, lambda path: dataset.to_netcdf(path, engine="netcdf4"))
        return dataset

    def read_analysis(self) -> xr.Dataset:
        """Return the finished run's output.

        Raises:
            DataError: if the run is not finished, or the file is damaged.
        """
        if not self.analysis.exists():
            raise DataError(f"{self.analysis}: missing; finish the run with: diffassim run --resume {self.path}")
        return _load(self.analysis)

    def write_results(self, experiment: Any, results: Results) -> None:
        """Write scores, table, figures, and the page that holds them all."""
        _replace(self.scores, lambda path: results.scores.to_csv(path, index=False))
        _replace(self.table, lambda path: path.write_text(results.table.rstrip() + "\n"))
        for name, table in results.tables.items():
            _replace(self.path / f"{name}.csv", _table_writer(table))
        for name, figure in results.figures.items():
            _replace(self.path / f"{name}.png", _figure_writer(figure))
        page = report_page(experiment, results, self.config.read_text("utf-8"), self._made_with(), self.path)
        _replace(self.page, lambda path: path.write_text(page, encoding="utf-8"))

    def read_results(self, counted: int) -> Results:
        """Return scores and table that another process has written; it had this count."""
        return Results(pd.read_csv(self.scores), {}, self.table.read_text(), counted)

    def write_seconds(self, seconds: dict[str, float]) -> None:
        """Add what each stage took since the run was last started to the provenance."""
        found = self._made_with() | {"seconds": {name: round(value, 1) for name, value in seconds.items()}}
        _replace(self.provenance, lambda path: path.write_text(json.dumps(found, indent=2) + "\n"))

    def _made_with(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self.provenance.read_text()))
        except (OSError, ValueError, TypeError):
            return {}

    def remove_checkpoint(self) -> None:
        """Drop what only a resumed run needs."""
        self.checkpoint.unlink(missing_ok=True)
        for folder in (self._chunks, self._chains, self.shards):
            shutil.rmtree(folder, ignore_errors=True)

    def _compare_versions(self) -> None:
        then = self._made_with().get("versions", {})
        differences = [f"{p} {then.get(p, 'unknown')} -> {now}" for p, now in versions().items() if then.get(p) != now]
        if differences:
            warnings.warn(
                f"{self.path}: other versions than when the run started ({', '.join(differences)}); the rest may "
                "differ from an uninterrupted run by rounding",
                AssimilationWarning,
                stacklevel=3,
            )


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


def _load(path: Path) -> xr.Dataset:
    try:
        return xr.load_dataset(path, engine="netcdf4")
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise DataError(f"{path}: cannot be read as netCDF ({error}); restore it from a copy, or run again") from None


def _figure_writer(figure: Any) -> Callable[[Path], Any]:
    return lambda path: figure.savefig(path, dpi=150, format="png")


def _table_writer(table: Any) -> Callable[[Path], Any]:
    return lambda path: table.to_csv(path, index=False)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file beside its place, and move it there when it is on the disk.

    Raises:
        OSError: if it cannot be written, for example because the disk is full; the file that was there is still there.
    """
    beside = _beside(path)
    try:
        write(beside)
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # netCDF's is a RuntimeError without the file's name
        beside.unlink(missing_ok=True)
        free = sized(shutil.disk_usage(beside.parent).free)
        raise OSError(
            f"{path}: cannot be written ({error}; {free} are free there); what was finished before it is kept"
        ) from error
    os.replace(beside, path)  # noqa: PTH105 (atomic on every platform)


def versions() -> dict[str, str]:
    """Return the versions of what results depend on, by package."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
