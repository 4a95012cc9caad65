"""Watching a run: progress, signs of life, and a clean end where somebody interrupts it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffassim.cli.environment import INTERRUPTED, TERMINATED
from diffassim.core import processes
from diffassim.core.processes import Stopped

__all__ = ["interruptible", "progress", "stoppable"]

HEARTBEAT = 60.0  # seconds of silence after which a run that nobody watches says what it does


class _Terminated(BaseException):
    """Somebody sent SIGTERM, as schedulers do at the end of a job's time."""


@contextmanager
def interruptible(directory: Path, again: str = "", stop_code: int = 0) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into one line that says how to go on.

    Args:
        directory: where everything finished lies.
        again: the command that goes on; default: that of a run.
        stop_code: exit code after SIGTERM, if something is there to go on with.
    """
    resumable = bool(again)
    again = again or f"diffassim run --resume {directory}"

    def terminate(*_: Any) -> None:
        raise _Terminated

    here = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, terminate) if here else None
    try:
        yield
    except (KeyboardInterrupt, _Terminated) as stop:
        number = signal.SIGINT if isinstance(stop, KeyboardInterrupt) else signal.SIGTERM
        sys.exit(_ended(number, directory, again, stop_code, resumable))
    finally:
        if here:
            signal.signal(signal.SIGTERM, before)


@contextmanager
def stoppable(directory: Path, stop_code: int = 0) -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C and SIGTERM stop one of several processes where all of them can stop; a second one ends it at once.

    Args:
        directory: where everything finished lies.
        stop_code: exit code after SIGTERM.

    Yields what says whether somebody asked.
    """
    asked: list[int] = []

    def ask(number: int, _: Any) -> None:
        if asked:
            os._exit(INTERRUPTED if number == signal.SIGINT else TERMINATED)  # nobody waits for the end of a part
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    except Stopped:
        numbers = set(processes.exchange("the signals", str(asked[0] if asked else "")))
        again = f"diffassim run --resume {directory} --processes {processes.count()}"
        number = signal.SIGINT if str(int(signal.SIGINT)) in numbers else signal.SIGTERM
        sys.exit(_ended(number, directory, again, stop_code, quiet=processes.rank() > 0))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ended(
    number: int, directory: Path, again: str, stop_code: int, resumable: bool = False, quiet: bool = False
) -> int:
    """Say how to go on after a signal, and return the exit code."""
    resumable = resumable or (directory / "config.toml").exists()
    word = "interrupted" if number == signal.SIGINT else "terminated"
    told = f"What is finished lies in {directory}; go on with: {again}" if resumable else "Nothing had begun"
    if not quiet:
        print(f"\ndiffassim: {word}. {told}", file=sys.stderr)
    if number == signal.SIGINT:
        return INTERRUPTED
    return stop_code if resumable else TERMINATED


class Watcher:
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

    def note(self, found: str) -> None:
        """Print a line that stays: a result should not wait for the others, nor be lost with them."""
        self._bar.console.print(f"diffassim: {found}", highlight=False, markup=False, soft_wrap=True)

    def beat(self, stop: threading.Event) -> None:
        while not self._watched and not stop.wait(HEARTBEAT):
            seconds = time.monotonic() - self._start
            of = f", {self._finished} of {self._count} parts finished" if self._count else ""
            print(f"diffassim: {self._doing}, {seconds:.0f} s{of}", file=sys.stderr, flush=True)


@contextmanager
def progress() -> Iterator[Watcher]:
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
        watcher = Watcher(bar, console.is_terminal)
        threading.Thread(target=watcher.beat, args=(stop,), daemon=True).start()
        try:
            yield watcher
        finally:
            stop.set()
