"""Run an experiment chunk by chunk into a directory, from the start or from where it stopped."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from diffassim.core.errors import ConfigurationError
from diffassim.experiments import find_experiment
from diffassim.experiments.framework.base import Experiment, Results
from diffassim.experiments.framework.configuration import build_configuration, read_toml, to_toml
from diffassim.experiments.framework.run_directory import RunDirectory, as_numpy

__all__ = ["resume", "run", "score"]

Progress = Callable[[int, int], None]


def run(experiment: Experiment, config: Any, path: str | Path, progress: Progress | None = None) -> Results:
    """Run an experiment into a new directory.

    Args:
        experiment: the experiment.
        config: its configuration.
        path: output directory, made by this call.
        progress: called as progress(finished chunks, all chunks).

    Returns:
        `Results`, which are also in the directory.

    Raises:
        ConfigurationError: if the directory holds a run already, or other files.
    """
    directory = RunDirectory(Path(path))
    directory.create(to_toml(experiment.name, config), config.seed)
    return _from_the_start(experiment, config, directory, progress)


def resume(path: str | Path, progress: Progress | None = None) -> Results:
    """Go on with an interrupted run; the result is that of an uninterrupted one, bit by bit.

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
        results = score(path)
        directory.remove_checkpoint()
        return results
    if not directory.has_started:  # stopped during the preparation: nothing is lost by doing it again
        return _from_the_start(experiment, config, directory, progress)
    finished, carry = directory.read_checkpoint()
    return _go_on(experiment, config, directory, finished, carry, progress)


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
    directory.write_results(results)
    return results


def _stored(directory: RunDirectory) -> tuple[Experiment, Any]:
    if not directory.path.is_dir():
        raise ConfigurationError(f"{directory.path}: no such directory")
    name, settings = read_toml(directory.config)
    experiment = find_experiment(name)
    return experiment, build_configuration(experiment.configuration, settings, name)


def _from_the_start(experiment: Experiment, config: Any, directory: RunDirectory, progress: Progress | None) -> Results:
    if progress is not None:
        progress(0, experiment.chunks(config))
    carry = as_numpy(experiment.start(config))
    directory.write_checkpoint(carry)
    return _go_on(experiment, config, directory, 0, carry, progress)


def _go_on(
    experiment: Experiment,
    config: Any,
    directory: RunDirectory,
    first: int,
    carry: dict[str, Any],
    progress: Progress | None,
) -> Results:
    count = experiment.chunks(config)
    for index in range(first, count):
        if progress is not None:
            progress(index, count)
        # Through NumPy after every chunk, so that a resumed run sees the very types that an uninterrupted one sees.
        carry, dataset = experiment.advance(config, as_numpy(carry), index)
        directory.write_chunk(index, dataset, carry)
    if progress is not None:
        progress(count, count)
    results = experiment.finish(config, directory.collect(_attributes(experiment)))
    directory.write_results(results)
    directory.remove_checkpoint()
    return results


def _attributes(experiment: Experiment) -> dict[str, str]:
    try:
        source = f"diffassim {version('diffassim')}"
    except PackageNotFoundError:
        source = "diffassim"
    return {"Conventions": "CF-1.11", "title": experiment.summary, "source": f"{source}, experiment {experiment.name}"}
