"""The command line: nothing here that a notebook cannot call."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import cyclopts
from cyclopts import Parameter

from diffassim.core.errors import AssimilationError, ConfigurationError

__all__ = ["app", "main"]

app = cyclopts.App(name="diffassim", help="Differentiable data assimilation.", version_flags=["--version"])


@app.command(name="list")
def list_experiments() -> None:
    """List the experiments."""
    _need_data_extra()
    from diffassim.experiments import EXPERIMENTS, find_experiment

    width = max(map(len, EXPERIMENTS))
    for name in EXPERIMENTS:
        print(f"{name:<{width}}  {find_experiment(name).summary}")


@app.command
def run(
    experiment: str | None = None,
    /,
    *,
    set: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    out: Path | None = None,
    resume: Path | None = None,
) -> None:
    """Run an experiment, or go on with an interrupted one.

    Parameters
    ----------
    experiment
        Name of an experiment (see `diffassim list`), or a TOML file with the key `experiment`.
    set
        A changed setting, key=value; may be repeated.
    out
        Output directory; default results/NAME.
    resume
        Directory of an interrupted run to go on with.
    """
    _need_data_extra()
    from diffassim.experiments import find_experiment
    from diffassim.experiments import run as runs
    from diffassim.experiments.configuration import build_configuration, parse_setting, read_toml

    if resume is not None:
        if experiment is not None or set or out is not None:
            raise ConfigurationError("--resume DIR stands alone: experiment, settings and output directory are stored in DIR")
        _configure_jax(read_toml(resume / "config.toml")[1].get("dtype", "float64"))
        directory = resume
        with _progress() as progress, _interruptible(directory):
            results = runs.resume(resume, progress)
    else:
        if experiment is None:
            raise ConfigurationError("run: name an experiment (diffassim list shows them), a TOML file, or --resume DIR")
        name, settings = read_toml(Path(experiment)) if experiment.endswith(".toml") else (experiment, {})
        settings |= dict(map(parse_setting, set))
        found = find_experiment(name)
        config = build_configuration(found.configuration, settings, name)
        _configure_jax(config.dtype)
        directory = Path("results") / name if out is None else out
        with _progress() as progress, _interruptible(directory):
            results = runs.run(found, config, directory, progress)
    print(results.table)
    print(f"\nFigures, scores.csv and analysis.nc: {directory}")


@app.command
def score(directory: Path, /) -> None:
    """Compute scores and figures of a finished run anew, and print its table."""
    _need_data_extra()
    from diffassim.experiments import run as runs

    print(runs.score(directory).table)


def main() -> None:
    """Entry point of the command `diffassim`: user errors are one line and exit code 2."""
    try:
        app()
    except AssimilationError as error:
        print(f"diffassim: {error}", file=sys.stderr)
        sys.exit(2)


def _need_data_extra() -> None:
    try:
        import pandas  # noqa: F401
        import pydantic  # noqa: F401
        import xarray  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(f"{error.name} is not installed; run: pip install 'diffassim[data]'") from None


def _configure_jax(dtype: str) -> None:
    import jax
    from platformdirs import user_cache_path

    jax.config.update("jax_enable_x64", dtype == "float64")
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(user_cache_path("diffassim") / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


class _interruptible:  # noqa: N801 (used as a statement)
    """Turn Ctrl-C into one line that says how to go on."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is KeyboardInterrupt:
            print(
                f"\ndiffassim: interrupted. What is finished lies in {self.directory}; go on with: "
                f"diffassim run --resume {self.directory}",
                file=sys.stderr,
            )
            sys.exit(130)


class _progress:  # noqa: N801 (used as a statement)
    """A progress bar with the remaining time, only where somebody can watch it."""

    def __enter__(self) -> Any:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, disable=not sys.stderr.isatty(), transient=True)
        self.bar.start()
        task = self.bar.add_task("preparing", total=None)

        def update(finished: int, count: int) -> None:
            self.bar.update(task, completed=finished, total=count, description="running" if finished else "preparing")

        return update

    def __exit__(self, *_: Any) -> None:
        self.bar.stop()


if __name__ == "__main__":
    main()
