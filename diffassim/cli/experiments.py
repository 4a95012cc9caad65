"""The commands about experiments: list, template, check, run, score, observe."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import cyclopts
from cyclopts import Parameter

from diffassim.cli.environment import (
    check_numbers_file,
    checked_stop_code,
    configure_jax,
    need_data_extra,
    require_something,
)
from diffassim.cli.launching import count_of, launch
from diffassim.cli.watching import interruptible, progress, stoppable
from diffassim.core.errors import ConfigurationError
from diffassim.core.processes import count as process_count
from diffassim.core.processes import rank

__all__ = ["add_commands"]


def list_experiments() -> None:
    """List the experiments."""
    need_data_extra()
    from diffassim.experiments import EXPERIMENTS, find_experiment

    width = max(map(len, EXPERIMENTS))
    for name in EXPERIMENTS:
        print(f"{name:<{width}}  {find_experiment(name).summary}")


def run(
    experiment: str | None = None,
    /,
    *,
    settings: Annotated[tuple[str, ...], Parameter(name="--set", negative=(), show_default=False)] = (),
    out: Path | None = None,
    resume: Path | None = None,
    processes: str = "1",
    stop_code: int = 0,
) -> None:
    """Run an experiment, or go on with an interrupted one.

    Parameters
    ----------
    experiment
        Name of an experiment (see `diffassim list`), or a TOML file with the key `experiment`.
    settings
        A changed setting, key=value; may be repeated.
    out
        Output directory; default results/NAME.
    resume
        Directory of an interrupted run to go on with.
    processes
        Number of processes of this machine that share the work; or the word cluster, where SLURM, Kubernetes or a TPU
        pod has started this command many times.
    stop_code
        Exit code after SIGTERM, once everything is kept that the run goes on from; 143 for schedulers that take 0 for
        finished.
    """
    need_data_extra()
    checked_stop_code(stop_code)
    if resume is not None and (experiment is not None or settings or out is not None):
        raise ConfigurationError("--resume DIR stands alone: DIR holds the experiment and its settings")
    if resume is None and experiment is None:
        raise ConfigurationError("run: name an experiment (diffassim list shows them), a TOML file, or --resume DIR")
    count = count_of(processes)
    found, config, directory = _asked_for(experiment, settings, out, resume)
    if count > 1:
        from diffassim.experiments.framework.run_directory import LOGS

        _require_processes(found, config, count)
        words = [] if experiment is None else [experiment]
        words += [word for setting in settings for word in ("--set", setting)]
        words += ["--out", str(directory)] if resume is None else ["--resume", str(directory)]
        words += ["--stop-code", str(stop_code)]
        advice = f"What is finished is kept: diffassim run --resume {directory} goes on, with any number of --processes"
        sys.exit(launch(["run", *words], count, directory / LOGS, advice))
    results = _computed(found, config, directory, resume is not None, stop_code)
    if rank() == 0:
        print(results.table.rstrip())
        print(f"\nindex.html, figures, scores.csv and analysis.nc: {directory}")
    require_something(results)


def _asked_for(
    experiment: str | None, settings: tuple[str, ...], out: Path | None, resume: Path | None
) -> tuple[Any, Any, Path]:
    """Return an experiment, its configuration and its directory."""
    from diffassim.experiments import find_experiment
    from diffassim.experiments.framework.base import Experiment
    from diffassim.experiments.framework.configuration import build_configuration, parse_setting, read_toml

    if resume is not None:
        name, values = read_toml(resume / "config.toml")
    elif str(experiment).endswith(".toml"):
        name, values = read_toml(Path(str(experiment)))
    else:
        name, values = str(experiment), {}
    values |= dict(map(parse_setting, settings))
    found = find_experiment(name)
    if not isinstance(found, Experiment):
        raise ConfigurationError(f"run: {name} is a loop; use: diffassim loop {experiment}")
    config = build_configuration(found.configuration, values, name)
    configure_jax(config.dtype)
    return found, config, resume or out or Path("results") / name


def _computed(found: Any, config: Any, directory: Path, resumed: bool, stop_code: int) -> Any:
    """Run an experiment, or go on with it, alone or as one of several processes."""
    from diffassim.experiments.framework import run as runs

    stop: Callable[[], bool] | None
    with contextlib.ExitStack() as stack:
        if process_count() > 1:
            stop = stack.enter_context(stoppable(directory, stop_code))
        else:
            stop = stack.enter_context(interruptible(directory, stop_code=stop_code))
        watcher = stack.enter_context(progress())
        if resumed:
            return runs.resume(directory, watcher.progress, watcher.tell, stop)
        return runs.run(found, config, directory, watcher.progress, watcher.tell, stop)


def _require_processes(found: Any, config: Any, count: int) -> None:
    """Raise `ConfigurationError` before anything starts, if so many processes cannot share an experiment's work."""
    import jax

    from diffassim.experiments.framework.sharing import require_shareable

    jax.config.update("jax_platforms", "cpu")  # here nothing is computed: the devices are for the others
    require_shareable(found, config, count)


Settings = Annotated[tuple[str, ...], Parameter(name="--set", negative=(), show_default=False)]
Names = Annotated[tuple[str, ...], Parameter(name="--name", negative=(), show_default=False)]


def score(
    directory: Path,
    /,
    *,
    against: Path | None = None,
    layout: Path | None = None,
    settings: Settings = (),
    names: Names = (),
    out: Path | None = None,
) -> None:
    """Compute scores and figures of a finished run anew, or score it, or the policies it kept, against a table.

    Parameters
    ----------
    directory
        Directory of a run; with --against also a file of fields, netCDF or zarr.
    against
        Table of observations: CSV, parquet, or netCDF in the layout of IODA; of a run that keeps policies: a table like
        the one that it was made with.
    layout
        TOML file that says how the table is written, as `diffassim new stations` writes it; default: that of the run.
    settings
        A setting of the table that is another one, key=value; may be repeated.
    names
        Which variable of the run belongs to one of the table, TABLE=RUN; may be repeated.
    out
        File for the scores against the table, .json or .csv.
    """
    need_data_extra()
    if against is None:
        if layout is not None or settings or names or out is not None:
            raise ConfigurationError("score: --layout, --set, --name and --out are about a table; name it: --against")
        _score_anew(directory)
        return
    from diffassim.experiments.framework import run as runs
    from diffassim.experiments.framework.configuration import parse_setting
    from diffassim.experiments.verification.scoring import score_against, scores_as_text
    from diffassim.experiments.verification.sources import open_run, read_observations

    check_numbers_file(out)
    configure_jax("float64")
    judged = runs.score_table(directory, against)
    if judged is not None:
        if layout is not None or settings or names:
            raise ConfigurationError(
                f"score: {directory} reads tables of one form; leave out --layout, --set and --name"
            )
        _write_scores(judged[0], out)
        print(judged[1])
        return
    table = read_observations(against, layout, dict(map(parse_setting, settings)), directory)
    with open_run(directory) as dataset:
        scores = score_against(dataset, table, str(directory), _pairs(names))
    _write_scores(scores, out)
    print(scores_as_text(scores, table))


def _write_scores(scores: Any, out: Path | None) -> None:
    if out is not None:
        scores.to_csv(out, index=False) if out.suffix == ".csv" else scores.to_json(out, orient="records", indent=1)


def _score_anew(directory: Path) -> None:
    from diffassim.experiments.framework import run as runs
    from diffassim.experiments.framework.configuration import read_toml

    configure_jax(read_toml(directory / "config.toml")[1].get("dtype"))
    results = runs.score(directory)
    print(results.table.rstrip())
    require_something(results)


def observe(
    run: Path,
    table: Path,
    /,
    *,
    out: Path,
    layout: Path | None = None,
    settings: Settings = (),
    names: Names = (),
) -> None:
    """Write what a run, or fields, have at the times and places of a table of observations, without assimilating it.

    Parameters
    ----------
    run
        Directory of a finished run, or a file of fields, netCDF or zarr.
    table
        The observations: CSV, parquet, or netCDF in the layout of IODA.
    out
        File for the table with equivalents, departures, spreads and flags: .csv, .csv.gz or .parquet.
    layout
        TOML file that says how the table is written, as `diffassim new stations` writes it; default: that of the run.
    settings
        A setting of the table that is another one, key=value; may be repeated.
    names
        Which variable of the run belongs to one of the table, TABLE=RUN; may be repeated.
    """
    need_data_extra()
    from diffassim.experiments.framework.configuration import parse_setting
    from diffassim.experiments.verification.observing import observe_run
    from diffassim.experiments.verification.sources import open_run, read_observations
    from diffassim.io.write_table import write_table

    if out.exists() and table.exists() and out.samefile(table):
        raise ConfigurationError(f"--out {out}: is the table itself; give another name")
    if not out.name.endswith((".csv", ".csv.gz", ".parquet")):
        raise ConfigurationError(f"--out {out}: must end in .csv, .csv.gz or .parquet")
    configure_jax("float64")
    found = read_observations(table, layout, dict(map(parse_setting, settings)), run)
    with open_run(run) as dataset:
        frame, text = observe_run(dataset, found, str(run), _pairs(names))
    write_table(frame, out)
    print(text)
    print(f"\nequivalents, departures and flags of {len(frame)} reports: {out}")


def _pairs(words: tuple[str, ...]) -> dict[str, str]:
    """Return names of the run by names of the table."""
    found = {}
    for word in words:
        mine, equals, theirs = word.partition("=")
        if not equals or not mine or not theirs:
            raise ConfigurationError(f"--name {word}: write it as NAME_IN_TABLE=NAME_IN_RUN")
        found[mine] = theirs
    return found


def new(kind: str, /) -> None:
    """Print a commented template of settings: `diffassim new stations > my.toml`.

    Parameters
    ----------
    kind
        What the settings are for: the name of an experiment that has a template.
    """
    need_data_extra()
    from diffassim.experiments.templates import template

    print(template(kind), end="")


def check(file: Path, /) -> None:
    """Read settings and data, say what was understood, and compute nothing.

    Parameters
    ----------
    file
        TOML file with the key `experiment`.
    """
    need_data_extra()
    from diffassim.experiments import find_experiment
    from diffassim.experiments.framework.base import Experiment
    from diffassim.experiments.framework.configuration import build_configuration, read_toml

    name, values = read_toml(file)
    found = find_experiment(name)
    config = build_configuration(found.configuration, values, name)
    configure_jax(config.dtype)
    print(found.check(config).rstrip())
    command = "run" if isinstance(found, Experiment) else "loop"
    print(f"\nNothing was computed. Go on with: diffassim {command} {file}")


def add_commands(app: cyclopts.App) -> None:
    """Register the commands."""
    app.command(list_experiments, name="list")
    for command in (new, check, run, score, observe):
        app.command(command)
