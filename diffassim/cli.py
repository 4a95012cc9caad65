"""The command line: nothing here that a notebook cannot call."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import cyclopts
from cyclopts import Parameter

from diffassim.core.errors import AssimilationError, ConfigurationError
from diffassim.io.messages import shortened, single_line

__all__ = ["app", "main"]

FAILED = 1  # exit code where nothing was reached, or of an error that nobody foresaw
USER_ERROR = 2  # exit code where the user can help it
INTERRUPTED, TERMINATED = 130, 143  # exit codes after Ctrl-C and SIGTERM, as shells have them
LARGEST_COUNT = 10**7  # of seeds or cycles of one row of the literature
HEARTBEAT = 60.0  # seconds of silence after which a run that nobody watches says what it does


def _version() -> str:
    try:
        return version("diffassim")
    except PackageNotFoundError:
        return "not installed"


app = cyclopts.App(
    name="diffassim",
    help="Differentiable data assimilation. With --debug, an error is shown with its traceback.",
    version=_version,
    result_action="return_value",
)


bench = cyclopts.App(name="bench", help="Measure the package against published scores.")
app.command(bench)


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
    _need_data_extra()
    from diffassim.experiments import find_experiment
    from diffassim.experiments.framework import run as runs
    from diffassim.experiments.framework.configuration import build_configuration, parse_setting, read_toml

    if resume is not None:
        if experiment is not None or settings or out is not None:
            raise ConfigurationError("--resume DIR stands alone: DIR holds the experiment and its settings")
        _configure_jax(read_toml(resume / "config.toml")[1].get("dtype"))
        directory = resume
        with _interruptible(directory), _progress() as watcher:
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
        _configure_jax(config.dtype)
        directory = Path("results") / name if out is None else out
        with _interruptible(directory), _progress() as watcher:
            results = runs.run(found, config, directory, watcher.progress, watcher.tell)
    print(results.table.rstrip())
    print(f"\nFigures, scores.csv and analysis.nc: {directory}")
    _require_something(results)


@app.command
def score(directory: Path, /) -> None:
    """Compute scores and figures of a finished run anew, and print its table."""
    _need_data_extra()
    from diffassim.experiments.framework import run as runs
    from diffassim.experiments.framework.configuration import read_toml

    _configure_jax(read_toml(directory / "config.toml")[1].get("dtype"))
    results = runs.score(directory)
    print(results.table.rstrip())
    _require_something(results)


@bench.command
def literature(
    *,
    case: str = "",
    method: str = "",
    seeds: int = 5,
    cycles: int | None = None,
    rows: Path | None = None,
    out: Path | None = None,
    listing: Annotated[bool, Parameter(name="--list", negative=())] = False,
) -> None:
    """Rerun documented scores of filters and smoothers, and print ours beside them.

    Parameters
    ----------
    case
        Part of the name of a set-up, for example lorenz96; default: all.
    method
        Part of the name of a method, for example LETKF; default: all.
    seeds
        Runs of each row, each with its own truth, observations and members.
    cycles
        Observation times of one run; default: those of the row.
    rows
        TOML file of rows of your own, in place of the documented ones: tables [[row]] with case (a set-up, see --list),
        method, for example {ETKF = {inflation = 1.02}}, members, documented, and changes of the set-up, for example
        setup = {interval = 8, law = "laplace", model_error = 0.1}.
    out
        File for all numbers, .json or .csv, written after every row.
    listing
        Only list the rows.
    """
    _need_data_extra()
    from diffassim.experiments.literature import LEFT_OUT, ROWS, find_rows, read_rows, rerun, write_outcomes

    for name, count in (("seeds", seeds), ("cycles", cycles)):
        if count is not None and not 1 <= count <= LARGEST_COUNT:
            raise ConfigurationError(f"--{name} {shortened(count, 20)}: must be between 1 and {LARGEST_COUNT}")
    chosen = find_rows(case, method, ROWS if rows is None else read_rows(rows))
    if not chosen:
        raise ConfigurationError(f"no row of the literature has {case!r} and {method!r} in its names; see --list")
    if listing:
        for row in chosen:
            print(f"{row.name} ({row.members} members): {row.documented:g}")
        _print_left_out(LEFT_OUT)
        return
    _check_numbers_file(out)
    _configure_jax("float64")
    outcomes = []
    with _progress() as watcher:
        for finished, row in enumerate(chosen):
            watcher.progress(finished, len(chosen))
            watcher.tell(row.name)
            outcomes.append(rerun(row, seeds, cycles=cycles))
            if out is not None:
                write_outcomes(outcomes, out)
    _print_outcomes(outcomes)


@bench.command
def learned(
    *rows: str,
    seeds: int = 1,
    minutes: float = 15.0,
    full: bool = False,
    out: Path | None = None,
    listing: Annotated[bool, Parameter(name="--list", negative=())] = False,
) -> None:
    """Train what is learned, and score it beside published scores and classical methods that know the same.

    Parameters
    ----------
    rows
        Names of rows, for example L11; default: all.
    seeds
        Runs of each row, each with its own data and its own training.
    minutes
        Time in which the networks of one run are trained.
    full
        The size for an accelerator, where a row has one.
    out
        File for all numbers, .json or .csv, written after every row.
    listing
        Only list the rows.
    """
    _need_data_extra()
    from diffassim.experiments.learning.bench import Settings, measure, write_outcomes
    from diffassim.experiments.learning.rows import LEFT_OUT, ROWS, find_row

    chosen = [find_row(name) for name in rows or ROWS]
    if listing:
        for row in chosen:
            print(f"{row.name}: {row.title} ({row.source})")
        _print_left_out(LEFT_OUT)
        return
    _check_numbers_file(out)
    _configure_jax("float64")
    outcomes = []
    with _progress() as watcher:
        for finished, row in enumerate(chosen):
            watcher.progress(finished, len(chosen))
            watcher.tell(row.name)
            outcomes += measure(row, seeds, Settings(minutes=minutes, full=full, tell=watcher.tell))
            if out is not None:
                write_outcomes(outcomes, out)
    _print_learned(outcomes)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the command `diffassim`: every error is one line.

    The exit code is 2 for what the user can help (words, settings, files), 1 for everything else.

    Args:
        arguments: words of the command line; default: those of this process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    warnings.showwarning = _show_warning
    try:
        app([word for word in words if word != "--debug"], exit_on_error=False, print_error=False)
    except (AssimilationError, cyclopts.CycloptsError, OSError) as error:
        if debug:
            raise
        print(f"diffassim: {single_line(error)}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except Exception as error:
        if debug:
            raise
        print(f"diffassim: {_unforeseen(error)}", file=sys.stderr)
        sys.exit(FAILED)


def _unforeseen(error: Exception) -> str:
    """Return a line about an error that no check foresaw, with advice."""
    text = single_line(f"{type(error).__name__}: {error}", 300)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text or "Out of memory" in text:
        return f"the memory does not suffice; choose fewer members, points, steps or cycles ({text})"
    return f"{text}. No check foresaw this: --debug shows where it arose, for a report"


def _require_something(results: Any) -> None:
    """End with an error where the scores rest on nothing, or are no numbers."""
    if results.counted < 1:
        print("diffassim: nothing that counts has finished; the table says what failed", file=sys.stderr)
        sys.exit(FAILED)
    value = results.scores["value"].to_numpy(dtype=float)
    bad = results.scores[~(abs(value) < float("inf"))]
    if len(bad):
        first = bad.iloc[0]
        print(
            f"diffassim: {len(bad)} of {len(value)} scores are not finite, the first of them {first['metric']} of "
            f"{first['method']}: these forecasts or analyses count as failed",
            file=sys.stderr,
        )
        sys.exit(FAILED)


def _show_warning(message: Any, category: type[Warning], *_: Any, **__: Any) -> None:
    print(f"diffassim: {category.__name__}: {single_line(message)}", file=sys.stderr)


def _check_numbers_file(out: Path | None) -> None:
    if out is not None and out.suffix not in (".json", ".csv"):
        raise ConfigurationError(f"--out {out}: the name must end in .json or .csv")


def _print_left_out(reasons: Mapping[str, str]) -> None:
    for name, reason in reasons.items():
        print(f"not here: {name}: {reason}")


def _print_outcomes(outcomes: list[Any]) -> None:
    """Print reruns of the literature as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Mean analysis error +- two standard errors", title_justify="left")
    for column in ("case", "method", "N", "ours", "lost", "published", "rerun of it", "reached"):
        table.add_column(column, justify="left" if column in ("case", "method") else "right")
    for outcome in outcomes:
        row = outcome.row
        score, error = row.rerun or (None, 0.0)
        table.add_row(
            row.case, row.label, str(row.members), f"{outcome.mean:.3f} +- {2 * outcome.standard_error:.3f}",
            f"{outcome.lost}/{outcome.errors.size}", f"{row.documented:g}",
            "" if score is None else f"{score:.3f} +- {2 * error:.3f}", outcome.reached,
        )  # fmt: skip
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table, highlight=False)
    for note in dict.fromkeys(f"{o.row.label}: {o.row.note}" for o in outcomes if o.row.note and o.reached != "yes"):
        console.print(note, highlight=False)


def _print_learned(outcomes: list[Any]) -> None:
    """Print the rows of learned assimilation as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Mean score +- two standard errors over the seeds", title_justify="left")
    for column in ("row", "method", "kind", "ours", "published", "aim", "reached", "score"):
        table.add_column(column, justify="right" if column in ("ours", "published", "aim") else "left")
    for outcome in outcomes:
        score, error = outcome.score, outcome.standard_error
        ours = f"{outcome.mean:.3f}" + ("" if error != error else f" +- {2 * error:.3f}")
        known = ["" if value is None else f"{value:g}" for value in (score.published, score.aim)]
        table.add_row(outcome.row.name, score.method, score.kind, ours, *known, outcome.reached, outcome.row.metric)
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table, highlight=False)
    for note in dict.fromkeys(f"{o.row.name}, {o.score.method}: {o.score.note}" for o in outcomes if o.score.note):
        console.print(note, highlight=False)


def _need_data_extra() -> None:
    try:
        import matplotlib  # noqa: F401
        import netCDF4  # noqa: F401
        import pandas  # noqa: F401
        import pydantic  # noqa: F401
        import tomlkit  # noqa: F401
        import xarray  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(f"{error.name} is not installed; run: pip install 'diffassim[data]'") from None


def _configure_jax(dtype: Any) -> None:
    """Set the precision, and keep compiled programs between runs (compilation dominates short runs)."""
    import jax
    from platformdirs import user_cache_path

    jax.config.update("jax_enable_x64", dtype != "float32")
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(user_cache_path("diffassim") / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


class _Terminated(BaseException):
    """Somebody sent SIGTERM, as schedulers do at the end of a job's time."""


@contextmanager
def _interruptible(directory: Path) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into one line that says how to go on."""

    def terminate(*_: Any) -> None:
        raise _Terminated

    here = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, terminate) if here else None
    try:
        yield
    except (KeyboardInterrupt, _Terminated) as stop:
        word, code = ("interrupted", INTERRUPTED) if isinstance(stop, KeyboardInterrupt) else ("terminated", TERMINATED)
        print(
            f"\ndiffassim: {word}. What is finished lies in {directory}; go on with: "
            f"diffassim run --resume {directory}",
            file=sys.stderr,
        )
        sys.exit(code)
    finally:
        if here:
            signal.signal(signal.SIGTERM, before)


class _Watcher:
    """Tells what a run does: a bar on a terminal; elsewhere a line a minute, so that a long run is not silent."""

    def __init__(self, bar: Any, watched: bool) -> None:
        self._bar, self._watched = bar, watched
        self._task = bar.add_task("preparing", total=None)
        self._doing, self._finished, self._count = "preparing", 0, 0
        self._start = time.monotonic()

    def progress(self, finished: int, count: int) -> None:
        self._finished, self._count = finished, count
        self._bar.update(self._task, completed=finished, total=count)

    def tell(self, doing: str) -> None:
        self._doing = doing
        self._bar.update(self._task, description=doing)

    def beat(self, stop: threading.Event) -> None:
        while not self._watched and not stop.wait(HEARTBEAT):
            seconds = time.monotonic() - self._start
            of = f", {self._finished} of {self._count} parts finished" if self._count else ""
            print(f"diffassim: {self._doing}, {seconds:.0f} s{of}", file=sys.stderr, flush=True)


@contextmanager
def _progress() -> Iterator[_Watcher]:
    """Show a progress bar with the remaining time where somebody can watch it, and else a sign of life."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    console = Console(stderr=True)
    stop = threading.Event()
    # Chunks may take minutes: the speed is the mean over an hour.
    with Progress(
        *columns, console=console, disable=not console.is_terminal, transient=True, speed_estimate_period=3600
    ) as bar:
        watcher = _Watcher(bar, console.is_terminal)
        threading.Thread(target=watcher.beat, args=(stop,), daemon=True).start()
        try:
            yield watcher
        finally:
            stop.set()


if __name__ == "__main__":
    main()
