"""The commands that measure the package against published scores."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import cyclopts
from cyclopts import Parameter

from diffassim.cli.environment import check_numbers_file, configure_jax, need_data_extra, version_text
from diffassim.cli.launching import count_of, launch
from diffassim.cli.watching import progress
from diffassim.core.errors import ConfigurationError
from diffassim.core.processes import agree, place, rank, share_out
from diffassim.io.messages import shortened

__all__ = ["bench"]

LARGEST_COUNT = 10**7  # of seeds or cycles of one row of the literature

bench = cyclopts.App(name="bench", help="Measure the package against published scores.")


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
    processes: str = "1",
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
    processes
        Number of processes of this machine that share the rows; or the word cluster, see `diffassim run --help`.
    """
    need_data_extra()
    number = count_of(processes)
    from diffassim.experiments.literature import LEFT_OUT, ROWS, find_rows, read_rows

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
    check_numbers_file(out)
    if number > 1:
        words = ["--case", case, "--method", method, "--seeds", str(seeds)]
        words += [] if cycles is None else ["--cycles", str(cycles)]
        words += [] if rows is None else ["--rows", str(rows)]
        words += [] if out is None else ["--out", str(out)]
        logs = Path(tempfile.mkdtemp(prefix="diffassim-processes-"))
        sys.exit(launch(["bench", "literature", *words], number, logs, "Start again; nothing is lost but these rows"))
    configure_jax("float64")
    _rerun_together(chosen, seeds, cycles, out)


def _rerun_together(chosen: list[Any], seeds: int, cycles: int | None, out: Path | None) -> None:
    """Rerun all rows, of which each process computes some; the first one writes and prints what there is."""
    from diffassim.experiments.literature import as_text, from_text, rerun, write_outcomes

    agree({"rows": "\n".join(f"{row.name} {seeds} {cycles}" for row in chosen), "version": version_text()})

    outcomes: list[Any] = []

    def write(texts: dict[int, str]) -> None:
        watcher.progress(len(texts), len(chosen))
        outcomes[:] = [from_text(chosen[k], texts[k]) for k in sorted(texts)]
        if out is not None:
            write_outcomes(outcomes, out)

    def act(k: int) -> str:
        watcher.tell(chosen[k].name)
        place(chosen[k].name)
        return as_text(rerun(chosen[k], seeds, cycles=cycles))

    try:
        with progress() as watcher:
            watcher.progress(0, len(chosen))
            texts = share_out("the rows", len(chosen), act, write)
        if rank() == 0:
            write(dict(enumerate(texts)))
    finally:  # a row that fails, or is interrupted, takes no other's scores along
        if rank() == 0 and outcomes:
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
    need_data_extra()
    from diffassim.experiments.learning.bench import Settings, measure, write_outcomes
    from diffassim.experiments.learning.rows import LEFT_OUT, ROWS, find_row

    chosen = [find_row(name) for name in rows or ROWS]
    if listing:
        for row in chosen:
            print(f"{row.name}: {row.title} ({row.source})")
        _print_left_out(LEFT_OUT)
        return
    check_numbers_file(out)
    configure_jax("float64")
    outcomes: list[Any] = []
    try:
        with progress() as watcher:
            settings = Settings(minutes=minutes, full=full, tell=watcher.tell, note=watcher.note)
            for finished, row in enumerate(chosen):
                watcher.progress(finished, len(chosen))
                watcher.tell(row.name)
                outcomes += measure(row, seeds, settings)
                if out is not None:
                    write_outcomes(outcomes, out)
    finally:  # a row that fails, or is interrupted, takes no other's scores along
        if outcomes:
            _print_learned(outcomes)


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
