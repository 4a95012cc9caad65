"""Several processes on this machine: starting them, watching them, and ending them together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from diffassim.cli.environment import USER_ERROR
from diffassim.core.errors import ConfigurationError
from diffassim.core.processes import ADDRESS, COUNT, HERE, LAUNCHER, PLACE_FILE, RANK, initialize
from diffassim.io.messages import shortened

__all__ = ["MOST", "count_of", "launch"]

CLUSTER = "cluster"  # in place of a number: somebody else has started the processes
GRACE = 10.0  # seconds that the others have to end after one of them has failed
LOOK = 0.1  # seconds between looks at them
MOST = 1024


class _Rank(NamedTuple):
    number: int
    process: Any
    place: Path

    def told(self) -> str:
        """Return what it did last."""
        try:
            return self.place.read_text() or "its start"
        except OSError:
            return "its start"


def count_of(word: str) -> int:
    """Return how many processes to start in place of this one; 1: none, this one goes on.

    Where others have started it as one of several, it becomes one of them.

    Args:
        word: what --processes says, a number or "cluster".

    Raises:
        ConfigurationError: if it is something else.
    """
    if word == CLUSTER:
        initialize()
        return 1
    if not word.isdecimal() or not 1 <= int(word) <= MOST:
        raise ConfigurationError(f"--processes {shortened(word)}: must be 1 to {MOST}, or the word {CLUSTER}")
    return int(word)


def launch(words: list[str], count: int, directory: Path, advice: str) -> int:
    """Run a command of diffassim in several processes of this machine, and return their worst exit code.

    The first process has this one's terminal; the others write directory/rank-N.log. Ctrl-C and SIGTERM go to all of
    them, once; they then end at the next point from which the run can go on. Where one fails, the others are stopped.

    Args:
        words: of the command, without the number of processes.
        count: number of processes.
        directory: for the logs; made by this call.
        advice: what to do where one of them failed.

    Raises:
        ConfigurationError: if there are fewer accelerators.
    """
    accelerators = _accelerators()
    if 0 < accelerators < count:
        raise ConfigurationError(
            f"--processes {count}: this machine has {accelerators} accelerators, and every process needs one; choose "
            "fewer, or compute on the CPU: JAX_PLATFORMS=cpu"
        )
    directory.mkdir(parents=True, exist_ok=True)
    address = f"localhost:{_free_port()}"
    ranks = [_start(words, number, count, address, directory, accelerators > 0) for number in range(count)]
    return _watched(ranks, directory, advice)


def _start(words: list[str], number: int, count: int, address: str, directory: Path, own_device: bool) -> _Rank:
    place = directory / f"rank-{number}.place"
    place.unlink(missing_ok=True)
    environment = os.environ | {
        ADDRESS: address, COUNT: str(count), RANK: str(number), PLACE_FILE: str(place), HERE: str(count),
        LAUNCHER: str(os.getpid()),
    }  # fmt: skip
    if own_device:
        environment.setdefault("JAX_LOCAL_DEVICE_IDS", str(number))
    command = [sys.executable, *_program(), *words, "--processes", CLUSTER]
    if number == 0:
        return _Rank(number, subprocess.Popen(command, env=environment, start_new_session=True), place)
    with (directory / f"rank-{number}.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    return _Rank(number, process, place)


def _program() -> list[str]:
    """Return how this program was started, so that the others are the same one."""
    specification = getattr(sys.modules["__main__"], "__spec__", None)
    if specification is not None and specification.name:
        return ["-m", specification.name.removesuffix(".__main__")]
    return ["-m", "diffassim.cli"]


def _watched(ranks: list[_Rank], directory: Path, advice: str) -> int:
    """Wait for all of them, hand on signals, and stop all of them where one fails."""
    asked: list[int] = []
    before = {number: signal.signal(number, lambda n, _: asked.append(n)) for number in (signal.SIGINT, signal.SIGTERM)}
    handed, deadline = 0, float("inf")
    failed: _Rank | None = None
    try:
        while any(rank.process.poll() is None for rank in ranks):
            for number in asked[handed:]:
                _send(ranks, number)
            handed = len(asked)
            if failed is None and not asked:
                failed = next((rank for rank in ranks if rank.process.poll() not in (None, 0)), None)
                deadline = float("inf") if failed is None else time.monotonic() + GRACE
            # The others know of an error, and end by themselves; of a killed one they do not know.
            if failed is not None and time.monotonic() > deadline - (GRACE if _killed(failed) else GRACE / 2):
                _send(ranks, signal.SIGKILL if time.monotonic() > deadline else signal.SIGTERM)
            time.sleep(LOOK)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _send(ranks, signal.SIGKILL)
    codes = [_code(rank) for rank in ranks]
    if asked and failed is None:
        return max(codes)
    if failed is None:  # it was the last one to end
        failed = next((rank for rank in ranks if _code(rank)), None)
    if failed is None:
        return 0
    if _killed(failed):
        _tell(failed, directory, advice)
        return _code(failed)
    worst = max((rank for rank in ranks if _code(rank) <= USER_ERROR), key=_code, default=failed)
    if not _code(ranks[0]):  # which has told nothing
        _tell(worst, directory, advice)
    return _code(worst)


def _killed(rank: _Rank) -> bool:
    return bool(rank.process.returncode < 0)


def _send(ranks: list[_Rank], number: int) -> None:
    for rank in ranks:
        if rank.process.poll() is None:
            rank.process.send_signal(number)


def _code(rank: _Rank) -> int:
    """Return the exit code of an ended process, as shells have it."""
    found = rank.process.wait()
    return 128 - found if found < 0 else int(found)


def _tell(rank: _Rank, directory: Path, advice: str) -> None:
    """Say which process failed, how, and where."""
    found = rank.process.returncode
    how = f"was killed by {signal.Signals(-found).name}" if found < 0 else f"ended with exit code {found}"
    log = "" if rank.number == 0 else f" (its log: {directory / f'rank-{rank.number}.log'})"
    print(
        f"diffassim: rank {rank.number} {how} at {rank.told()}{log}; the others are stopped. {advice}",
        file=sys.stderr,
        flush=True,
    )


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return int(found.getsockname()[1])


def _accelerators() -> int:
    """Return the number of NVIDIA devices that jax would use, without starting jax."""
    if os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([word for word in visible.split(",") if word.strip()])
    return len(list(Path("/dev").glob("nvidia[0-9]*")))
