"""What a process says of itself: where it is, that it lives, that it fails; and who is named where it says nothing."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from pathlib import Path

import jax

from diffassim.core.processes.service import ProcessError, count, directory_of, rank, set_text

__all__ = ["HEARTBEAT", "LAUNCHER", "PLACE_FILE", "fail", "failures", "give_signs_of_life", "place", "places"]

LAUNCHER = "DIFFASSIM_LAUNCHER"  # number of the process that started this one, and ends it when it ends itself
PLACE_FILE = "DIFFASSIM_PLACE_FILE"  # where a process writes what it does, for the launcher on its machine
HEARTBEAT = 30  # seconds without a sign of life after which jax ends the whole job
SILENT = 10.0  # seconds without one after which the first process names the silent one and its place
BEAT = 2.0  # seconds between signs of life
LONGEST = 2000  # characters of a failure that are told to others

_beating = threading.Lock()
_doing = {"place": "starting"}


def give_signs_of_life() -> None:
    """Begin to, in a thread of its own, where there are other processes."""
    if count() > 1 and _beating.acquire(blocking=False):
        threading.Thread(target=_beat, daemon=True).start()


def place(doing: str) -> None:
    """Say what this process does from now on: it is named with that if it is lost.

    Args:
        doing: in a few words.
    """
    _doing["place"] = doing
    path = os.environ.get(PLACE_FILE)
    if path:
        with contextlib.suppress(OSError):  # a full disk must not stop a run for this
            Path(path).write_text(doing)
    if count() > 1:
        set_text(f"alive/{rank()}", f"{time.monotonic()} {doing}")


def places() -> dict[int, str]:
    """Return what every process does, as far as it has said so."""
    return {int(key): text.partition(" ")[2] for key, text in directory_of("alive/").items()}


def fail(text: str) -> None:
    """Tell the others that this process ends with an error, so that they do not wait for it."""
    if count() > 1:
        with contextlib.suppress(ProcessError):
            set_text(f"failed/{rank()}", f"{_doing['place']}: {text}"[:LONGEST])


def failures() -> dict[int, str]:
    """Return place and error of the processes that said that they failed."""
    if count() == 1:
        return {}
    return {int(key): text for key, text in directory_of("failed/").items()}


def _beat() -> None:
    """Give signs of life; the first process names those that give none, before jax ends the job."""
    seen: dict[str, tuple[str, float]] = {}
    named: set[str] = set()
    beats = 0
    launcher = os.environ.get(LAUNCHER)
    while jax.distributed.is_initialized():
        if launcher is not None and str(os.getppid()) != launcher:  # killed: nobody would end this process
            print("diffassim: the process that started this one is gone; it ends", file=sys.stderr, flush=True)
            os._exit(1)
        beats += 1
        try:
            set_text(f"alive/{rank()}", f"{beats} {_doing['place']}")
            found = directory_of("alive/") if rank() == 0 else {}
        except (ProcessError, AttributeError):  # the service, or this process, ends
            return
        now = time.monotonic()
        for key, text in found.items():
            if seen.get(key, ("", 0.0))[0] != text:
                seen[key] = text, now
            elif now - seen[key][1] > SILENT and key not in named:
                named.add(key)
                print(
                    f"diffassim: rank {key} has given no sign of life for {SILENT:.0f} s; it was last at: "
                    f"{text.partition(' ')[2]}. The job ends within {HEARTBEAT} s",
                    file=sys.stderr,
                    flush=True,
                )
        time.sleep(BEAT)
