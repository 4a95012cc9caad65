"""Run an experiment chunk by chunk into a directory, from the start or from where it stopped."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd

from diffassim.core.errors import ConfigurationError, DataError
from diffassim.experiments import find_experiment
from diffassim.experiments.framework.base import Experiment, Results
from diffassim.experiments.framework.configuration import build_configuration, read_toml, to_toml
from diffassim.experiments.framework.run_directory import RunDirectory, as_numpy
from diffassim.io.messages import sized

__all__ = ["resume", "run", "score", "score_table"]

Progress = Callable[[int, int], None]
Tell = Callable[[str], None]
SHARE = 0.9  # of the machine's memory


def run(
    experiment: Experiment, config: Any, path: str | Path, progress: Progress | None = None, tell: Tell | None = None
) -> Results:
    """Run an experiment into a new directory.

    Args:
        experiment: the experiment.
        config: its configuration.
        path: output directory, made by this call.
        progress: called as progress(finished chunks, all chunks).
        tell: called with what is done from then on, in words.

    Returns:
        `Results`, which are also in the directory.

    Raises:
        ConfigurationError: if the directory holds a run already, or other files; if the settings need more memory than
            the machine has.
    """
    _require_memory(experiment, config)
    directory = RunDirectory(Path(path))
    directory.create(to_toml(experiment.name, config), config.seed)
    return _from_the_start(experiment, config, directory, progress, tell)


def resume(path: str | Path, progress: Progress | None = None, tell: Tell | None = None) -> Results:
    """Go on with an interrupted run; the result is that of an uninterrupted one, bit by bit.

    Args:
        path: the run's directory.
        progress: see `run`.
        tell: see `run`.

    Raises:
        DataError: if the directory's files are missing or damaged.
        ConfigurationError: if its configuration is.
    """
    directory = RunDirectory(Path(path))
    experiment, config = _stored(directory)
    if directory.analysis.exists():
        results = score(path)
        directory.remove_checkpoint()
        return results
    _require_memory(experiment, config)
    if not directory.has_started:  # stopped during the preparation: nothing is lost by doing it again
        directory.complete(config.seed)
        return _from_the_start(experiment, config, directory, progress, tell)
    finished, carry = directory.read_checkpoint()
    try:
        return _go_on(experiment, config, directory, finished, carry, progress, tell)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        if directory.count > finished:
            raise
        raise DataError(
            f"{directory.checkpoint}: its content does not fit this experiment ({type(error).__name__}: {error}). "
            "Nothing was changed. Restore it from a copy, or start again in another --out directory."
        ) from error


def score(path: str | Path) -> Results:
    """Compute scores and figures of a finished run anew from its output.

    Args:
        path: the run's directory.

    Raises:
        DataError: if the run is not finished, or its output is damaged.
        ConfigurationError: if its configuration is missing or damaged.
    """
    directory = RunDirectory(Path(path))
    experiment, config = _stored(directory)
    results = experiment.finish(config, directory.read_analysis())
    directory.write_results(experiment, results)
    return results


def score_table(path: str | Path, table: str | Path) -> tuple[pd.DataFrame, str] | None:
    """Return scores of what a run has kept on another table, tidy and as text; None if its experiment keeps nothing.

    Args:
        path: the run's directory.
        table: of the form that the experiment reads.

    Raises:
        DataError: if the run is not finished, what it kept was altered, or the table cannot be used.
        ConfigurationError: if the run does not fit the table.
    """
    directory = RunDirectory(Path(path))
    if not directory.config.exists():
        return None
    experiment, config = _stored(directory)
    if not experiment.judges_tables:
        return None
    directory.require_finished()
    return experiment.against(config, directory.path, Path(table))


def _stored(directory: RunDirectory) -> tuple[Experiment, Any]:
    if not directory.path.is_dir():
        raise ConfigurationError(f"{directory.path}: no such directory")
    if not directory.config.exists():
        raise ConfigurationError(
            f"{directory.config}: No such file or directory: here is no run, or it was stopped before its settings "
            f"were written; start it with: diffassim run EXPERIMENT --out {directory.path}"
        )
    name, settings = read_toml(directory.config)
    experiment = find_experiment(name)
    return experiment, build_configuration(experiment.configuration, settings, name)


def _require_memory(experiment: Experiment, config: Any) -> None:
    """Raise where the largest things do not fit into the machine's memory together."""
    needed = experiment.memory(config)
    total, available = sum(needed.values()), _memory()
    if needed and available and total > SHARE * available:
        what, most = max(needed.items(), key=lambda item: item[1])
        raise ConfigurationError(
            f"{experiment.name}: these settings need about {sized(total)} of memory, and the machine has "
            f"{sized(available)}; most of it is for {what} ({sized(most)})"
        )


def _memory() -> float:
    """Return the machine's memory in bytes, or 0 where it does not tell."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE")) * float(os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):
        return 0.0


def _from_the_start(
    experiment: Experiment, config: Any, directory: RunDirectory, progress: Progress | None, tell: Tell | None
) -> Results:
    if progress is not None:
        progress(0, experiment.chunks(config))
    if tell is not None:
        tell("preparing")
    carry = as_numpy(experiment.start(config))
    directory.write_checkpoint(carry)
    return _go_on(experiment, config, directory, 0, carry, progress, tell)


def _go_on(
    experiment: Experiment,
    config: Any,
    directory: RunDirectory,
    first: int,
    carry: dict[str, Any],
    progress: Progress | None,
    tell: Tell | None,
) -> Results:
    count = experiment.chunks(config)
    seconds: dict[str, float] = {}
    for index in range(first, count):
        before = time.monotonic()
        if progress is not None:
            progress(index, count)
        if tell is not None:
            tell(experiment.stage(config, index))
        # Through NumPy after every chunk, so that a resumed run sees the very types that an uninterrupted one sees.
        carry, dataset = experiment.advance(config, as_numpy(carry), index)
        directory.write_chunk(index, dataset, carry)
        stage = experiment.stage(config, index)
        seconds[stage] = seconds.get(stage, 0.0) + time.monotonic() - before
    if progress is not None:
        progress(count, count)
    results = experiment.finish(config, directory.collect(_attributes(experiment)))
    directory.write_seconds(seconds)
    directory.write_results(experiment, results)
    directory.remove_checkpoint()
    return results


def _attributes(experiment: Experiment) -> dict[str, str]:
    try:
        source = f"diffassim {version('diffassim')}"
    except PackageNotFoundError:
        source = "diffassim"
    return {"Conventions": "CF-1.11", "title": experiment.summary, "source": f"{source}, experiment {experiment.name}"}
