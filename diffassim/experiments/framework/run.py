"""Run an experiment chunk by chunk into a directory, from the start or from where it stopped."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pandas as pd

from diffassim.core import processes
from diffassim.core.errors import ConfigurationError, DataError
from diffassim.experiments import find_experiment
from diffassim.experiments.framework.base import Experiment, Results
from diffassim.experiments.framework.checkpoints import as_numpy
from diffassim.experiments.framework.configuration import build_configuration, read_toml, to_toml
from diffassim.experiments.framework.run_directory import RunDirectory
from diffassim.experiments.framework.sharing import require_agreement, require_shareable
from diffassim.experiments.framework.spread import advance_spread, placed
from diffassim.io.messages import sized

__all__ = ["resume", "run", "score", "score_table"]

Progress = Callable[[int, int], None]
Tell = Callable[[str], None]
Stop = Callable[[], bool]
T = TypeVar("T")
SHARE = 0.9  # of the machine's memory


def run(
    experiment: Experiment,
    config: Any,
    path: str | Path,
    progress: Progress | None = None,
    tell: Tell | None = None,
    stop: Stop | None = None,
) -> Results:
    """Run an experiment into a new directory.

    Where several processes run it (`diffassim.core.processes.initialize`), all of them call this.

    Args:
        experiment: the experiment.
        config: its configuration.
        path: output directory, made by this call; all processes must see it.
        progress: called as progress(finished chunks, all chunks).
        tell: called with what is done from then on, in words.
        stop: asked after every chunk whether the run should stop there; one process of several is enough.

    Returns:
        `Results`, which are also in the directory; figures in the first process only.

    Raises:
        ConfigurationError: if the directory holds a run already, or other files; if the settings need more memory than
            the machine has; if the processes differ in versions, settings or input, or cannot share the work.
        ProcessError: if another process failed.
        Stopped: if `stop` said so.
    """
    watch = _Watch(progress, tell, stop)
    with _telling_failures():
        require_agreement(experiment, config, Path(path))
        require_shareable(experiment, config, processes.count())
        _require_memory(experiment, config)
        directory = RunDirectory(Path(path), experiment.chains(config))
        _once("making the directory", lambda: directory.create(to_toml(experiment.name, config), config.seed))
        return _from_the_start(experiment, config, directory, watch)


def resume(
    path: str | Path, progress: Progress | None = None, tell: Tell | None = None, stop: Stop | None = None
) -> Results:
    """Go on with an interrupted run; the result is that of an uninterrupted one, bit by bit.

    It may be another number of processes than those that began. Where arrays are split over devices, sums have another
    order then, and results agree up to rounding.

    Args:
        path: the run's directory.
        progress: see `run`.
        tell: see `run`.
        stop: see `run`.

    Raises:
        DataError: if the directory's files are missing or damaged.
        ConfigurationError: if its configuration is.
        ProcessError: if another process failed.
        Stopped: if `stop` said so.
    """
    watch = _Watch(progress, tell, stop)
    with _telling_failures():
        directory = RunDirectory(Path(path))
        experiment, config = processes.together("reading the settings", lambda: _stored(directory))
        directory.chains = experiment.chains(config)
        require_agreement(experiment, config, Path(path))
        if processes.together("looking for output", directory.analysis.exists):
            results = _results(directory, lambda: score(path))
            _once("cleaning up", directory.remove_checkpoint)
            return results
        require_shareable(experiment, config, processes.count())
        _require_memory(experiment, config)
        # Stopped during the preparation: nothing is lost by doing it again.
        if not processes.together("looking for chunks", lambda: directory.has_started):
            _once("completing the directory", lambda: directory.complete(config.seed))
            return _from_the_start(experiment, config, directory, watch)
        _once("reading the checkpoints", directory.read_checkpoints)
        finished = directory.count
        try:
            return _go_on(experiment, config, directory, watch)
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
    """Return the machine's memory in bytes, or 0 where it does not tell; of several processes on it, its part."""
    try:
        whole = float(os.sysconf("SC_PAGE_SIZE")) * float(os.sysconf("SC_PHYS_PAGES"))
        return whole / int(os.environ.get(processes.HERE, "1"))
    except (AttributeError, OSError, ValueError):
        return 0.0


class _Watch(NamedTuple):
    """Who is told of a run, and who may stop it."""

    progress: Progress | None
    tell: Tell | None
    stop: Stop | None

    def show(self, finished: int, count: int, doing: str | None = None) -> None:
        """Tell what is done from now on."""
        if self.progress is not None:
            self.progress(finished, count)
        if doing is not None:
            processes.place(f"part {finished + 1} of {count}, {doing}")
            if self.tell is not None:
                self.tell(doing)

    @property
    def stopped(self) -> bool:
        """Whether somebody asked this process to stop."""
        return self.stop is not None and self.stop()


@contextlib.contextmanager
def _telling_failures() -> Iterator[None]:
    """Let the other processes know of an error that ends this one."""
    try:
        yield
    except (processes.ProcessError, processes.Stopped):
        raise
    except BaseException as error:
        processes.fail(f"{type(error).__name__}: {error}")
        raise


def _once(name: str, act: Callable[[], T]) -> T | None:
    """Return what the first process does, after it has succeeded; None in the others."""
    return processes.together(name, act if processes.rank() == 0 else lambda: None)  # type: ignore[arg-type, return-value]


def _results(directory: RunDirectory, act: Callable[[], Results]) -> Results:
    """Return what the first process finds and writes; the others read it."""
    found = _once("writing the results", act)
    counted = processes.exchange("what counts", "" if found is None else str(found.counted))[0]
    return directory.read_results(int(counted)) if found is None else found


def _from_the_start(experiment: Experiment, config: Any, directory: RunDirectory, watch: _Watch) -> Results:
    watch.show(0, experiment.chunks(config))
    if watch.tell is not None:
        watch.tell("preparing")
    processes.place("preparing")
    if processes.count() > 1 and _is_spread(experiment, config):
        carry = placed(experiment, config, processes.together("preparing", lambda: experiment.start(config)))
        directory.write_spread(carry)
    else:
        _once("preparing", lambda: directory.write_checkpoint(as_numpy(experiment.start(config))))
    return _go_on(experiment, config, directory, watch)


def _is_spread(experiment: Experiment, config: Any) -> bool:
    """Return whether all processes compute every chunk together, each its part of the arrays."""
    return len(experiment.chains(config)) == 1 and bool(experiment.axes(config))


def _go_on(experiment: Experiment, config: Any, directory: RunDirectory, watch: _Watch) -> Results:
    """Compute what is missing, and write the results."""
    count = experiment.chunks(config)
    if processes.count() > 1 and _is_spread(experiment, config):
        seconds, stopped = advance_spread(experiment, config, directory, watch)
    else:
        seconds, stopped = _advance_chains(experiment, config, directory, watch)
    processes.place("waiting for the others")
    if "stopped" in processes.exchange("the end of the run", "stopped" if stopped else "", math.inf):
        raise processes.Stopped
    watch.show(count, count)
    processes.place("writing the results")
    return _results(directory, lambda: _finish(experiment, config, directory, seconds))


def _advance_chains(
    experiment: Experiment, config: Any, directory: RunDirectory, watch: _Watch
) -> tuple[dict[str, float], bool]:
    """Compute chains of chunks one after the other; of several processes each takes the next one that nobody has."""
    seconds: dict[str, float] = {}
    number = processes.exchange("the start of the run", str(time.time_ns()))[0]
    for chain, chunks in enumerate(directory.chains):
        if not processes.claim(f"{number}/{chain}"):
            continue
        finished, carry = directory.read_chain(chain)
        for index in chunks[finished:]:
            stage, before = experiment.stage(config, index), time.monotonic()
            watch.show(directory.finished if processes.count() > 1 else index, experiment.chunks(config), stage)
            # Through NumPy after every chunk, so that a resumed run sees the very types that an uninterrupted one sees.
            carry, dataset = experiment.advance(config, as_numpy(carry), index)
            directory.write_chunk(index, dataset, carry)
            seconds[stage] = seconds.get(stage, 0.0) + time.monotonic() - before
            if processes.raised(f"stop {number}", watch.stopped):
                return seconds, True
        if len(directory.chains) == 1:
            directory.write_fields(experiment.fields(config, carry))
    return seconds, False


def _finish(experiment: Experiment, config: Any, directory: RunDirectory, seconds: dict[str, float]) -> Results:
    """Write what the whole output gives."""
    if processes.count() > 1:  # what the others have written
        directory.read_checkpoints()
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
