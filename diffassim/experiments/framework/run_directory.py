"""The directory of a run: everything computed so far is in it, readable at any moment."""

from __future__ import annotations

import json
import platform
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from diffassim.core.errors import AssimilationWarning, ConfigurationError, DataError
from diffassim.experiments.framework.base import Results
from diffassim.experiments.framework.checkpoints import RunCheckpoints, beside, replace_file
from diffassim.experiments.framework.report import report_page
from diffassim.io.messages import require_plain_name, shortened
from diffassim.io.parts import write_parts
from diffassim.training.checkpoint import save_checkpoint

__all__ = ["LOGS", "RunDirectory", "versions"]

LOGS = "processes"  # directory of what each of several processes tells

_PACKAGES = ("diffassim", "jax", "jaxlib", "flax", "optax", "numpy", "xarray", "scores", "spotpy")


class RunDirectory(RunCheckpoints):
    """Files of one run.

    config.toml, provenance.json, and what a run goes on from (`RunCheckpoints`); at the end analysis.nc, scores.csv,
    table.txt, figures, what is kept for later use, and index.html with all of that. Every file is written beside its
    place and then moved, so that a run killed at any moment leaves whole files. A checkpoint holds the checksums of the
    files that it belongs to: a resumed run either gives the same result or says which file stands in its way.

    Args:
        path: the directory.
        chains: of the experiment.
    """

    def __init__(self, path: Path, chains: tuple[range, ...] = ()) -> None:
        require_plain_name("directory", path)
        super().__init__(path, chains)
        self.provenance, self.analysis = path / "provenance.json", path / "analysis.nc"
        self.scores, self.table, self.page = path / "scores.csv", path / "table.txt", path / "index.html"

    @property
    def has_started(self) -> bool:
        """Whether a chunk or a checkpoint has been written."""
        return self.analysis.exists() or self.begun

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
        replace_file(self.config, lambda path: path.write_bytes(configuration.encode()))
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
        left = {beside(self.config).name, beside(self.checkpoint).name}
        if self.config.exists():
            left |= {self.config.name, self.provenance.name, beside(self.provenance).name}
        left |= {f.name for f in (self._chunks, self._chains) if f.is_dir() and not any(f.iterdir())}
        left |= {"shards.new", LOGS}  # of several processes, written before everything else
        return sorted(entry.name for entry in self.path.iterdir() if entry.name not in left)

    def _write_provenance(self, seed: int) -> None:
        facts = {"seed": seed, "python": platform.python_version(), "versions": versions()}
        replace_file(self.provenance, lambda path: path.write_text(json.dumps(facts, indent=2) + "\n"))

    def write_fields(self, fields: Mapping[str, tuple[tuple[str, ...], Any]]) -> None:
        """Write large arrays, every process its own parts; every process calls this."""
        if fields:
            write_parts(self.path / "fields.zarr", fields)

    def collect(self, attributes: dict[str, str]) -> xr.Dataset:
        """Return all chunks as one dataset with these global attributes, and write it."""
        chunks = [_load(self.chunk(index)) for index in sorted(self._digests)]
        chunks = [chunk for chunk in chunks if chunk.sizes]  # those that prepare have no output
        dataset = xr.concat(chunks, dim="time", data_vars="minimal", coords="minimal", compat="override", join="exact")
        dataset = dataset.assign_attrs(attributes)
        replace_file(self.analysis, lambda path: dataset.to_netcdf(path, engine="netcdf4"))
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
        """Write scores, tables, other texts, figures, and the page that holds them all."""
        replace_file(self.scores, lambda path: results.scores.to_csv(path, index=False))
        replace_file(self.table, lambda path: path.write_text(results.table.rstrip() + "\n"))
        for name, table in results.tables.items():
            replace_file(self.path / f"{name}.csv", _table_writer(table))
        for name, text in results.files.items():
            replace_file(self.path / name, _text_writer(text))
        for name, figure in results.figures.items():
            replace_file(self.path / f"{name}.png", _figure_writer(figure))
        for name, kept in results.artifacts.items():
            save_checkpoint(self.path / name, kept)
        page = report_page(experiment, results, self.config.read_text("utf-8"), self._made_with(), self.path)
        replace_file(self.page, lambda path: path.write_text(page, encoding="utf-8"))

    def read_results(self, counted: int) -> Results:
        """Return scores and table that another process has written; it had this count."""
        return Results(pd.read_csv(self.scores), {}, self.table.read_text(), counted)

    def write_seconds(self, seconds: dict[str, float]) -> None:
        """Add what each stage took since the run was last started to the provenance."""
        found = self._made_with() | {"seconds": {name: round(value, 1) for name, value in seconds.items()}}
        replace_file(self.provenance, lambda path: path.write_text(json.dumps(found, indent=2) + "\n"))

    def _made_with(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self.provenance.read_text()))
        except (OSError, ValueError, TypeError):
            return {}

    def read_checkpoints(self) -> None:
        """Make sure that everything on which the rest of the run depends is there and sound.

        Raises:
            DataError: if a file that the rest of the run depends on is missing or damaged; it says what to do.

        Warns:
            AssimilationWarning: if other versions are installed than those that started the run.
        """
        super().read_checkpoints()
        self._compare_versions()

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


def _load(path: Path) -> xr.Dataset:
    try:
        return xr.load_dataset(path, engine="netcdf4")
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise DataError(f"{path}: cannot be read as netCDF ({error}); restore it from a copy, or run again") from None


def _figure_writer(figure: Any) -> Callable[[Path], Any]:
    return lambda path: figure.savefig(path, dpi=150, format="png")


def _table_writer(table: Any) -> Callable[[Path], Any]:
    return lambda path: table.to_csv(path, index=False)


def _text_writer(text: str) -> Callable[[Path], Any]:
    return lambda path: path.write_text(text, encoding="utf-8")


def versions() -> dict[str, str]:
    """Return the versions of what results depend on, by package."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
