"""The directory of a run: everything computed so far is in it, readable at any moment."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from flax import serialization

from diffassim.core.errors import ConfigurationError, DataError
from diffassim.experiments.base import Results

__all__ = ["RunDirectory"]

_PACKAGES = ("diffassim", "jax", "jaxlib", "flax", "optax", "numpy", "xarray", "scores", "spotpy")
_DIGEST = 32  # bytes of SHA-256 in front of the checkpoint's content


class RunDirectory:
    """Files of one run.

    config.toml, provenance.json, chunks/*.nc (one for each finished chunk), checkpoint.msgpack (the carry after the last
    of them); at the end analysis.nc, scores.csv, table.txt and figures. Every file is written beside its place and then
    moved, so that a run killed at any moment leaves whole files.

    Args:
        path: the directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config, self.provenance = path / "config.toml", path / "provenance.json"
        self.checkpoint, self.analysis = path / "checkpoint.msgpack", path / "analysis.nc"
        self.scores, self.table = path / "scores.csv", path / "table.txt"

    def create(self, seed: int) -> None:
        """Make the directory for a new run.

        Raises:
            ConfigurationError: if it holds a run already.
        """
        if self.config.exists():
            raise ConfigurationError(
                f"{self.path} holds a run already; give another --out, remove it, or go on with: "
                f"diffassim run --resume {self.path}"
            )
        (self.path / "chunks").mkdir(parents=True, exist_ok=True)
        facts = {"versions": _versions(), "python": platform.python_version(), "seed": seed}
        _replace(self.provenance, lambda path: path.write_text(json.dumps(facts, indent=2) + "\n"))

    def chunk(self, index: int) -> Path:
        """Return the path of a chunk's file."""
        return self.path / "chunks" / f"{index:05d}.nc"

    def write_chunk(self, index: int, dataset: xr.Dataset, carry: dict[str, Any]) -> None:
        """Write a chunk's output, then the carry that follows it."""
        _replace(self.chunk(index), lambda path: dataset.to_netcdf(path, engine="h5netcdf"))
        self.write_checkpoint(index + 1, carry)

    def write_checkpoint(self, finished: int, carry: dict[str, Any]) -> None:
        """Write the carry after `finished` chunks."""
        content = serialization.msgpack_serialize({"finished": finished, "carry": _to_numpy(carry)})
        signed = hashlib.sha256(content).digest() + content
        _replace(self.checkpoint, lambda path: path.write_bytes(signed))

    def read_checkpoint(self) -> tuple[int, dict[str, Any]]:
        """Return the number of finished chunks and the carry.

        Raises:
            DataError: if the checkpoint is missing or damaged, or a chunk's file is; it says what to do.
        """
        advice = f"The finished chunks in {self.path / 'chunks'} stay readable; start again in another --out directory."
        if not self.checkpoint.exists():
            raise DataError(f"{self.checkpoint}: missing, there is nothing to resume. {advice}")
        signed = self.checkpoint.read_bytes()
        if hashlib.sha256(signed[_DIGEST:]).digest() != signed[:_DIGEST]:
            raise DataError(f"{self.checkpoint}: damaged (its checksum is wrong). {advice}")
        content = serialization.msgpack_restore(signed[_DIGEST:])
        finished = int(content["finished"])
        for index in range(finished):
            self.read_chunk(index).close()
        return finished, content["carry"]

    def read_chunk(self, index: int) -> xr.Dataset:
        """Return a finished chunk.

        Raises:
            DataError: if its file is missing or damaged.
        """
        path = self.chunk(index)
        try:
            return xr.load_dataset(path, engine="h5netcdf")
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise DataError(
                f"{path}: missing or damaged ({type(error).__name__}). Restore it, or start again in another --out directory."
            ) from None

    def collect(self, count: int) -> xr.Dataset:
        """Return all chunks as one dataset, and write it."""
        dataset = xr.concat([self.read_chunk(i) for i in range(count)], dim="time", data_vars="minimal")
        _replace(self.analysis, lambda path: dataset.to_netcdf(path, engine="h5netcdf"))
        return dataset

    def read_analysis(self) -> xr.Dataset:
        """Return the finished run's output.

        Raises:
            DataError: if the run is not finished.
        """
        if not self.analysis.exists():
            raise DataError(f"{self.analysis}: missing; finish the run with: diffassim run --resume {self.path}")
        return xr.load_dataset(self.analysis, engine="h5netcdf")

    def write_results(self, results: Results) -> None:
        """Write scores, table and figures."""
        _replace(self.scores, lambda path: results.scores.to_csv(path, index=False))
        _replace(self.table, lambda path: path.write_text(results.table.rstrip() + "\n"))
        for name, figure in results.figures.items():
            _replace(self.path / f"{name}.png", lambda path, f=figure: f.savefig(path, dpi=150, format="png"))

    def remove_checkpoint(self) -> None:
        """Drop what only a resumed run needs."""
        self.checkpoint.unlink(missing_ok=True)
        shutil.rmtree(self.path / "chunks", ignore_errors=True)


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    beside = path.with_name(f".{path.name}.part")
    write(beside)
    os.replace(beside, path)  # noqa: PTH105 (atomic on every platform)


def _to_numpy(carry: Any) -> Any:
    if isinstance(carry, dict):
        return {key: _to_numpy(value) for key, value in carry.items()}
    return np.asarray(carry)


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
