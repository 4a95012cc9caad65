"""Run an experiment chunk by chunk into a directory, from the start or from where it stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffassim.experiments import find_experiment
from diffassim.experiments.base import Experiment, Results
from diffassim.experiments.configuration import build_configuration, read_toml, write_toml
from diffassim.experiments.run_directory import RunDirectory

__all__ = ["resume", "run", "score"]


def run(
    experiment: Experiment, config: Any, path: str | Path, progress: Callable[[int, int], None] | None = None
) -> Results:
    """Run an experiment into a new directory.

    Args:
        experiment: the experiment.
        config: its configuration.
        path: output directory, made by this call.
        progress: called as progress(finished chunks, all chunks).

    Returns:
        `Results`, which are also in the directory.

    Raises:
        ConfigurationError: if the directory holds a run already.
    """
    directory = RunDirectory(Path(path))
    directory.create(config.seed)
    write_toml(directory.config, experiment.name, config)
    if progress is not None:
        progress(0, experiment.chunks(config))
    carry = experiment.start(config)
    directory.write_checkpoint(0, carry)
    return _go_on(experiment, config, directory, 0, carry, progress)


def resume(path: str | Path, progress: Callable[[int, int], None] | None = None) -> Results:
    """Go on with an interrupted run; the result is that of an uninterrupted one.

    Args:
        path: the run's directory.
        progress: see `run`.

    Raises:
        DataError: if the directory's files are missing or damaged.
        ConfigurationError: if its configuration is.
    """
    directory = RunDirectory(Path(path))
    experiment, config = _stored(directory)
    if directory.analysis.exists():
        return score(path)
    finished, carry = directory.read_checkpoint()
    return _go_on(experiment, config, directory, finished, carry, progress)


def score(path: str | Path) -> Results:
    """Compute scores and figures of a finished run anew from its output.

    Args:
        path: the run's directory.

    Raises:
        DataError: if the run is not finished.
    """
    directory = RunDirectory(Path(path))
    experiment, config = _stored(directory)
    results = experiment.finish(config, directory.read_analysis())
    directory.write_results(results)
    return results


def _stored(directory: RunDirectory) -> tuple[Experiment, Any]:
    name, settings = read_toml(directory.config)
    experiment = find_experiment(name)
    return experiment, build_configuration(experiment.configuration, settings, name)


def _go_on(
    experiment: Experiment, config: Any, directory: RunDirectory, first: int, carry: dict[str, Any], progress: Any
) -> Results:
    count = experiment.chunks(config)
    for index in range(first, count):
        if progress is not None:
            progress(index, count)
        carry, dataset = experiment.advance(config, carry, index)
        directory.write_chunk(index, dataset, carry)
    if progress is not None:
        progress(count, count)
    results = experiment.finish(config, directory.collect(count))
    directory.write_results(results)
    directory.remove_checkpoint()
    return results
