"""The commands about experiments: list, template, check, run, score."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import cyclopts
from cyclopts import Parameter

from diffassim.cli.environment import configure_jax, need_data_extra, require_something
from diffassim.cli.watching import interruptible, progress
from diffassim.core.errors import ConfigurationError

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
    """
    need_data_extra()
    from diffassim.experiments import find_experiment
    from diffassim.experiments.framework import run as runs
    from diffassim.experiments.framework.configuration import build_configuration, parse_setting, read_toml

    if resume is not None:
        if experiment is not None or settings or out is not None:
            raise ConfigurationError("--resume DIR stands alone: DIR holds the experiment and its settings")
        configure_jax(read_toml(resume / "config.toml")[1].get("dtype"))
        directory = resume
        with interruptible(directory), progress() as watcher:
            results = runs.resume(resume, watcher.progress, watcher.tell)
    else:
        if experiment is None:
            raise ConfigurationError(
                "run: name an experiment (diffassim list shows them), a TOML file, or --resume DIR"
            )
        name, values = read_toml(Path(experiment)) if experiment.endswith(".toml") else (experiment, {})
        values |= dict(map(parse_setting, settings))
        found = find_experiment(name)
        config = build_configuration(found.configuration, values, name)
        configure_jax(config.dtype)
        directory = Path("results") / name if out is None else out
        with interruptible(directory), progress() as watcher:
            results = runs.run(found, config, directory, watcher.progress, watcher.tell)
    print(results.table.rstrip())
    print(f"\nindex.html, figures, scores.csv and analysis.nc: {directory}")
    require_something(results)


def score(directory: Path, /) -> None:
    """Compute scores and figures of a finished run anew, and print its table."""
    need_data_extra()
    from diffassim.experiments.framework import run as runs
    from diffassim.experiments.framework.configuration import read_toml

    configure_jax(read_toml(directory / "config.toml")[1].get("dtype"))
    results = runs.score(directory)
    print(results.table.rstrip())
    require_something(results)


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
    from diffassim.experiments.framework.configuration import build_configuration, read_toml

    name, values = read_toml(file)
    found = find_experiment(name)
    config = build_configuration(found.configuration, values, name)
    configure_jax(config.dtype)
    print(found.check(config).rstrip())
    print(f"\nNothing was computed. Go on with: diffassim run {file}")


def add_commands(app: cyclopts.App) -> None:
    """Register the commands."""
    app.command(list_experiments, name="list")
    for command in (new, check, run, score):
        app.command(command)
