"""The directory of a run: everything computed so far is in it, readable at any moment."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from flax import serialization

from diffassim.core.errors import AssimilationWarning, ConfigurationError, DataError
from diffassim.experiments.framework.base import Results
from diffassim.experiments.framework.report import report_page
from diffassim.io.messages import require_plain_name, shortened
from diffassim.training.checkpoint import save_checkpoint

__all__ = ["RunDirectory", "as_numpy"]

_PACKAGES = ("diffassim", "jax", "jaxlib", "flax", "optax", "numpy", "xarray", "scores", "spotpy")
_DIGEST = 32  # bytes of SHA-256 in front of the checkpoint's content


class RunDirectory:
    """Files of one run.

    config.toml, provenance.json, chunks/*.nc (one for each finished chunk), checkpoint.msgpack (the carry after the
    last of them); at the end analysis.nc, scores.csv, table.txt, figures, what is kept for later use, and index.html
    with all of that. Every file is written beside its place and then moved, so that a run killed at any moment leaves
    whole files. The checkpoint holds the checksums of the files that it belongs to: a resumed run either gives the same
    result or says which file stands in its way.

    Args:
        path: the directory.
    """

    def __init__(self, path: Path) -> None:
        require_plain_name("directory", path)
        self.path = path
        self.config, self.provenance = path / "config.toml", path / "provenance.json"
        self.checkpoint, self.analysis = path / "checkpoint.msgpack", path / "analysis.nc"
        self.scores, self.table, self.page = path / "scores.csv", path / "table.txt", path / "index.html"
        self._chunks = path / "chunks"
        self._digests: list[str] = []

    @property
    def has_started(self) -> bool:
        """Whether a chunk or a checkpoint has been written."""
        return any(p.exists() for p in (self.analysis, self.checkpoint, self.chunk(0)))

    @property
    def count(self) -> int:
        """Number of chunks written so far."""
        return len(self._digests)

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
        if self._chunks.is_dir() and not any(self._chunks.iterdir()):
            left.add(self._chunks.name)
        return sorted(entry.name for entry in self.path.iterdir() if entry.name not in left)

    def _write_provenance(self, seed: int) -> None:
        facts = {"seed": seed, "python": platform.python_version(), "versions": _versions()}
        _replace(self.provenance, lambda path: path.write_text(json.dumps(facts, indent=2) + "\n"))

    def chunk(self, index: int) -> Path:
        """Return the path of a chunk's file."""
        return self._chunks / f"{index:05d}.nc"

    def write_chunk(self, index: int, dataset: xr.Dataset, carry: dict[str, Any]) -> None:
        """Write a chunk's output, then the carry that follows it."""
        self._chunks.mkdir(exist_ok=True)
        _replace(self.chunk(index), lambda path: dataset.to_netcdf(path, engine="netcdf4"))
        self._digests.append(_digest(self.chunk(index)))
        self.write_checkpoint(carry)

    def write_checkpoint(self, carry: dict[str, Any]) -> None:
        """Write the carry after the chunks written so far."""
        content = {"carry": as_numpy(carry), "chunks": dict(_numbered(self._digests)), "config": _digest(self.config)}
        packed = serialization.msgpack_serialize(content)
        _replace(self.checkpoint, lambda path: path.write_bytes(hashlib.sha256(packed).digest() + packed))

    def read_checkpoint(self) -> tuple[int, dict[str, Any]]:
        """Return the number of finished chunks and the carry.

        Raises:
            DataError: if a file that the rest of the run depends on is missing or damaged; it says what to do.

        Warns:
            AssimilationWarning: if other versions are installed than those that started the run.
        """
        advice = "Nothing was changed. Restore it from a copy, or start again in another --out directory."
        if not self.checkpoint.exists():
            raise DataError(f"{self.checkpoint}: missing. {advice}")
        signed = self.checkpoint.read_bytes()
        if hashlib.sha256(signed[_DIGEST:]).digest() != signed[:_DIGEST]:
            raise DataError(f"{self.checkpoint}: damaged (its checksum is wrong). {advice}")
        content = _unpacked(signed[_DIGEST:])
        if content is None:
            raise DataError(f"{self.checkpoint}: its content is not that of a run. {advice}")
        if _digest(self.config) != content["config"]:
            raise DataError(f"{self.config}: changed since the run started. {advice}")
        self._digests = [content["chunks"][name] for name in sorted(content["chunks"])]
        for index, digest in enumerate(self._digests):
            if not self.chunk(index).exists():
                raise DataError(f"{self.chunk(index)}: missing. {advice}")
            if _digest(self.chunk(index)) != digest:
                raise DataError(f"{self.chunk(index)}: damaged (its checksum is wrong). {advice}")
        self._compare_versions()
        return len(self._digests), content["carry"]

    def collect(self, attributes: dict[str, str]) -> xr.Dataset:
        """Return all chunks as one dataset with these global attributes, and write it."""
        chunks = [_load(self.chunk(index)) for index in range(len(self._digests))]
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
        self.require_finished()
        return _load(self.analysis)

    def require_finished(self) -> None:
        """Raise `DataError` unless the run is finished."""
        if not self.analysis.exists():
            raise DataError(f"{self.analysis}: missing; finish the run with: diffassim run --resume {self.path}")

    def write_results(self, experiment: Any, results: Results) -> None:
        """Write scores, table, figures, and the page that holds them all."""
        _replace(self.scores, lambda path: results.scores.to_csv(path, index=False))
        _replace(self.table, lambda path: path.write_text(results.table.rstrip() + "\n"))
        for name, table in results.tables.items():
            _replace(self.path / f"{name}.csv", _table_writer(table))
        for name, figure in results.figures.items():
            _replace(self.path / f"{name}.png", _figure_writer(figure))
        for name, kept in results.artifacts.items():
            save_checkpoint(self.path / name, kept)
        page = report_page(experiment, results, self.config.read_text("utf-8"), self._made_with(), self.path)
        _replace(self.page, lambda path: path.write_text(page, encoding="utf-8"))

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
        shutil.rmtree(self.path / "chunks", ignore_errors=True)

    def _compare_versions(self) -> None:
        then = self._made_with().get("versions", {})
        differences = [f"{p} {then.get(p, 'unknown')} -> {now}" for p, now in _versions().items() if then.get(p) != now]
        if differences:
            warnings.warn(
                f"{self.path}: other versions than when the run started ({', '.join(differences)}); the rest may "
                "differ from an uninterrupted run by rounding",
                AssimilationWarning,
                stacklevel=3,
            )


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


def _unpacked(packed: bytes) -> dict[str, Any] | None:
    """Return a checkpoint's content, or None where it is something else (of which a checksum knows nothing)."""
    try:
        content = serialization.msgpack_restore(packed)
        chunks = content["chunks"]
        names = [name for name, _ in _numbered([""] * len(chunks))]
        sound = sorted(chunks) == names and all(isinstance(digest, str) for digest in chunks.values())
        as_numpy(content["carry"])
        return content if sound and isinstance(content["carry"], dict) and "config" in content else None
    except Exception:  # whatever foreign bytes make the decoder raise
        return None


def _numbered(digests: list[str]) -> list[tuple[str, str]]:
    return [(f"{index:05d}", digest) for index, digest in enumerate(digests)]


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
    beside = _beside(path)
    write(beside)
    os.replace(beside, path)  # noqa: PTH105 (atomic on every platform)


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
