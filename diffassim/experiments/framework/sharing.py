"""How an experiment is shared out over several processes, and what these have to agree upon before."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from pydantic import BaseModel

from diffassim.core import processes
from diffassim.core.errors import ConfigurationError
from diffassim.experiments import EXPERIMENTS, find_experiment
from diffassim.experiments.framework.base import Experiment
from diffassim.experiments.framework.configuration import to_toml
from diffassim.experiments.framework.run_directory import versions

__all__ = ["digest_of", "require_agreement", "require_shareable"]

WHOLE = 2**30  # bytes up to which all of a file is compared
SAMPLES, SAMPLE = 64, 2**20  # of a larger file: so many blocks of so many bytes


def require_shareable(experiment: Experiment, config: Any, count: int) -> None:
    """Raise `ConfigurationError` if several processes cannot share an experiment's work.

    Args:
        experiment: the experiment.
        config: its configuration.
        count: number of processes.
    """
    if count == 1 or len(experiment.chains(config)) > 1 or experiment.axes(config):
        return
    if _may_share(experiment):
        raise ConfigurationError(
            f"{experiment.name}: with these settings there is a single part, which {count} processes cannot share out; "
            "run it without --processes, or sweep something"
        )
    others = [name for name in sorted(EXPERIMENTS) if _may_share(find_experiment(name))]
    raise ConfigurationError(
        f"{experiment.name} cannot be shared out: every part of it needs the one before; run it without --processes. "
        f"Those that can: {', '.join(others)}"
    )


def _may_share(experiment: Any) -> bool:
    kind = type(experiment)
    if not issubclass(kind, Experiment):  # a loop, whose rounds follow one another
        return False
    return kind.chains is not Experiment.chains or kind.axes is not Experiment.axes


def require_agreement(experiment: Experiment, config: Any, path: Path) -> None:
    """Raise `ConfigurationError` in all processes if they have other versions, settings, input files or directories."""
    facts = {f"version of {package}": found for package, found in versions().items()}
    facts |= {"settings": to_toml(experiment.name, config), "output directory": str(path)}
    facts |= {"kind of device": jax.default_backend()}
    facts |= {f"input file {file.name}": digest_of(file) for file in input_files(config)}
    processes.agree(facts)


def input_files(config: Any) -> Iterator[Path]:
    """Return the files and directories that settings name, those in tables of the settings included."""
    for value in dict(config).values() if isinstance(config, BaseModel) else config.values():
        if isinstance(value, Path):
            yield value
        elif isinstance(value, BaseModel | Mapping):
            yield from input_files(value)


def digest_of(path: Path) -> str:
    """Return a checksum of a file, or of all files of a directory (a zarr store); of very large files, of samples.

    Args:
        path: of the file.

    Returns:
        SHA-256 as text, or "missing".

    Example:
        >>> _ = Path("table.csv").write_text("a,b")
        >>> digest_of(Path("table.csv"))[:12], digest_of(Path("nowhere.csv"))
        ('1eb7c54d5283', 'missing')
    """
    if path.is_dir():
        found = hashlib.sha256()
        for inside in sorted(p for p in path.rglob("*") if p.is_file()):
            found.update(f"{inside.relative_to(path)} {digest_of(inside)}".encode())
        return found.hexdigest()
    if not path.is_file():
        return "missing"
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= WHOLE:
            return hashlib.file_digest(file, "sha256").hexdigest()
        found = hashlib.sha256(str(size).encode())
        for number in range(SAMPLES):
            file.seek(number * (size - SAMPLE) // (SAMPLES - 1))
            found.update(file.read(SAMPLE))
    return found.hexdigest()
