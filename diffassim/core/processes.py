"""Several processes of one run: who they are, what they agree upon, and what is said of one that fails."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax

from diffassim.core.errors import AssimilationError, ConfigurationError

__all__ = [
    "ADDRESS",
    "COUNT",
    "HEARTBEAT",
    "HERE",
    "LAUNCHER",
    "PLACE_FILE",
    "RANK",
    "TIMEOUT",
    "ProcessError",
    "Stopped",
    "agree",
    "claim",
    "count",
    "exchange",
    "fail",
    "initialize",
    "place",
    "raised",
    "rank",
    "share_out",
    "together",
]

# The variables by which a launcher names the processes; jax itself reads the first one.
ADDRESS, COUNT, RANK = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
SCHEDULERS = ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "JOB_COMPLETION_INDEX", "TPU_WORKER_ID")  # that jax reads
LAUNCHER = "DIFFASSIM_LAUNCHER"  # number of the process that started this one, and ends it when it ends itself
HERE = "DIFFASSIM_PROCESSES_HERE"  # how many processes share the memory of this machine
PLACE_FILE = "DIFFASSIM_PLACE_FILE"  # where a process writes what it does, for the launcher on its machine
HEARTBEAT = 30  # seconds without a sign of life after which jax ends the whole job
SILENT = 10.0  # seconds without one after which the first process names the silent one and its place
BEAT = 2.0  # seconds between signs of life
SLICE = 1000  # milliseconds in one call to the service, between which failures of others are seen
TIMEOUT = 3600.0  # seconds that living processes wait for one another where none has long work to do
LONGEST = 2000  # characters of a failure that are told to others
T = TypeVar("T")

_beating = threading.Lock()
_doing = {"place": "starting"}
_numbers: dict[str, int] = {}


class ProcessError(AssimilationError):
    """Another process of the run failed, was lost, or gave no answer in time; the message names it and its place."""


class Stopped(Exception):  # noqa: N818 (no error: what is finished is kept)
    """Work has come to a point from which it can go on, because somebody asked it to stop."""


def initialize(*, heartbeat: int = HEARTBEAT, timeout: int = 300) -> None:
    """Make this process one of several, if it was started as such; call it before anything is computed.

    The processes are named by JAX_COORDINATOR_ADDRESS (host:port of the first one), JAX_NUM_PROCESSES and
    JAX_PROCESS_ID, or by what SLURM, Open MPI, Kubernetes (Jobs, JobSets) and TPU pods set, which
    `jax.distributed.initialize` knows. Where nothing is set, this is the only process, and nothing happens. A killed
    process ends all others within `heartbeat` seconds.

    Args:
        heartbeat: seconds without a sign of life after which a process counts as dead.
        timeout: seconds in which all processes have to appear.

    Raises:
        ConfigurationError: if only some of the variables are set, or they cannot be what they are; if something has
            been computed already.
        ProcessError: if the others do not appear in time.

    Example:
        >>> initialize()
        >>> rank(), count()
        (0, 1)
    """
    if not jax.distributed.is_initialized() and not _joined(heartbeat, timeout):
        return
    if count() > 1 and _beating.acquire(blocking=False):
        threading.Thread(target=_beat, daemon=True).start()


def _joined(heartbeat: int, timeout: int) -> bool:
    """Return whether there are other processes, which this one then knows."""
    options: dict[str, Any] = {
        "heartbeat_timeout_seconds": heartbeat, "shutdown_timeout_seconds": heartbeat,
        "initialization_timeout": timeout,
    }  # fmt: skip
    options |= _named_processes()
    jax.config.update("jax_enable_preemption_service", False)  # signals are handled by whoever runs the work
    try:
        jax.distributed.initialize(**options)
    except ValueError:
        if options.get("num_processes"):
            raise
        return False  # no cluster that jax knows
    except jax.errors.JaxRuntimeError as error:
        raise ProcessError(
            f"the processes of this run did not find each other within {timeout} s: {str(error)[:300]}"
        ) from None
    except RuntimeError:  # jax has started its devices
        named = [name for name in (RANK, *SCHEDULERS) if name in os.environ]
        if not named:
            return False
        raise ConfigurationError(
            f"{named[0]} says that this is one of several processes, but something has been computed already; call "
            "initialize before the first computation"
        ) from None
    # A precaution: programs of which two run at once could wait for one another's messages.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    return True


def _named_processes() -> dict[str, Any]:
    """Return what the three variables say, or nothing where none of the last two is set."""
    words = {name: os.environ.get(name, "") for name in (ADDRESS, COUNT, RANK)}
    if not words[COUNT] and not words[RANK]:
        return {}
    missing = [name for name, word in words.items() if not word]
    if missing:
        raise ConfigurationError(f"several processes: {missing[0]} is not set; set all of {', '.join(words)}")
    try:
        number, own = int(words[COUNT]), int(words[RANK])
    except ValueError:
        raise ConfigurationError(
            f"several processes: {COUNT} and {RANK} must be integers, found {words[COUNT]!r} and {words[RANK]!r}"
        ) from None
    if not 0 <= own < number:
        raise ConfigurationError(f"several processes: {RANK} = {own} must lie between 0 and {COUNT} - 1 = {number - 1}")
    named = {"coordinator_address": words[ADDRESS], "num_processes": number, "process_id": own}
    return named | {"cluster_detection_method": "deactivate"}


def rank() -> int:
    """Return the number of this process, from 0 on."""
    return int(_state().process_id) if jax.distributed.is_initialized() else 0


def count() -> int:
    """Return the number of processes."""
    return int(_state().num_processes) if jax.distributed.is_initialized() else 1


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
        _set(f"alive/{rank()}", f"{time.monotonic()} {doing}")


def exchange(name: str, text: str, timeout: float = TIMEOUT) -> list[str]:
    """Return the texts of all processes in their order; every process has to call this, in the same order.

    Args:
        name: what is exchanged, for messages.
        text: that of this process.
        timeout: seconds to wait.

    Raises:
        ProcessError: if a process failed, or does not answer in time; it is named with its place.

    Example:
        >>> exchange("greeting", "hello")
        ['hello']
    """
    if count() == 1:
        return [text]
    number = _numbers[name] = _numbers.get(name, -1) + 1
    folder = f"exchange/{name}/{number}/"
    _set(f"{folder}{rank():06d}", text)
    end = time.monotonic() + timeout
    if rank() > 0:
        while True:
            answer = _wait(f"{folder}all")
            if answer is not None:
                return list(json.loads(answer))
            _look_around(name, end, folder)
    pause = 0.001
    while len(there := _directory(folder)) < count():
        _look_around(name, end, folder)
        time.sleep(pause)
        pause = min(2 * pause, 0.2)
    texts = [there[key] for key in sorted(there)]
    _set(f"{folder}all", json.dumps(texts))
    if number > 1:  # everybody has read what came two exchanges ago
        _client().key_value_delete(f"diffassim/exchange/{name}/{number - 2}/")
    return texts


def together(name: str, act: Callable[[], T], timeout: float = math.inf) -> T:
    """Return what `act` returns here, after it has succeeded in all processes.

    Args:
        name: what is done, for messages.
        act: what this process does.
        timeout: seconds to wait for the others; default: as long as all of them live and none has failed.

    Raises:
        ProcessError: where it failed in another process; where it failed here, what it raised.

    Example:
        >>> together("adding", lambda: 1 + 1)
        2
    """
    failure: Exception | None = None
    result: Any = None
    try:
        result = act()
    except Exception as error:  # told to all the others before it goes on here
        failure = error
    told = exchange(name, "" if failure is None else f"{type(failure).__name__}: {failure}"[:LONGEST], timeout)
    if failure is not None:
        raise failure
    failed = [(number, text) for number, text in enumerate(told) if text]
    if failed:
        number, text = failed[0]
        raise ProcessError(f"{name}: rank {number} failed: {text}")
    return result  # type: ignore[no-any-return]


def agree(facts: Mapping[str, str]) -> None:
    """Compare facts of all processes.

    Args:
        facts: texts by what they are; those of several lines are compared line by line.

    Raises:
        ConfigurationError: in every process, if one is not the same everywhere: it names two ranks with their values.

    Example:
        >>> agree({"version of numpy": "2.3"})
    """
    everywhere = [json.loads(text) for text in exchange("facts", json.dumps(dict(facts)))]
    for number, theirs in enumerate(everywhere):
        for what in sorted({*everywhere[0], *theirs}):
            here, there = everywhere[0].get(what), theirs.get(what)
            if here != there:
                one, other = _first_difference(here, there)
                raise ConfigurationError(
                    f"the processes of this run differ in their {what}: rank 0 has {one}, rank {number} has {other}; "
                    "start them all with the same installation, settings and files"
                )


def _first_difference(here: str | None, there: str | None) -> tuple[str, str]:
    """Return the first line in which two texts differ, of both."""
    lines = [("nothing" if text is None else text).splitlines() for text in (here, there)]
    length = max(map(len, lines))
    padded = [[*each, *["nothing"] * (length - len(each))] for each in lines]
    pairs = (pair for pair in zip(*padded, strict=True) if pair[0] != pair[1])
    one, other = next(pairs, ("nothing", "nothing"))
    return repr(one[:100]), repr(other[:100])


def claim(name: str) -> bool:
    """Return whether this process is the first one that asks for something.

    Example:
        >>> claim("part 3")
        True
    """
    if count() == 1:
        return True
    try:
        _client().key_value_set(f"diffassim/claim/{name}", str(rank()))
    except jax.errors.JaxRuntimeError as error:
        if "ALREADY_EXISTS" in str(error):
            return False
        raise _lost(error) from None
    return True


def share_out(name: str, number: int, act: Callable[[int], str], seen: Callable[[dict[int, str]], None]) -> list[str]:
    """Return what `act` returns for every number, each computed by the process that comes to it first.

    Args:
        name: of the work, for messages.
        number: how many pieces of work there are.
        act: what is done for the k-th of them; it returns a text, which all processes get.
        seen: told in the first process, after each piece of its own, which texts there are so far, of all processes.

    Raises:
        ProcessError: if another process failed.

    Example:
        >>> share_out("squares", 3, lambda k: str(k * k), lambda texts: None)
        ['0', '1', '4']
    """
    own: dict[int, str] = {}
    run = exchange(f"the start of {name}", str(time.time_ns()))[0]
    for k in range(number):
        if claim(f"{run}/{k}"):
            try:
                own[k] = act(k)
            except Exception as error:
                fail(f"{type(error).__name__}: {error}")
                raise
            if count() > 1:
                _set(f"done/{run}/{k}", own[k])
            if rank() == 0:
                there = own if count() == 1 else {int(key): text for key, text in _directory(f"done/{run}/").items()}
                seen({key: there[key] for key in sorted(there)})
    exchange(f"the end of {name}", "", math.inf)
    there = own if count() == 1 else {int(key): text for key, text in _directory(f"done/{run}/").items()}
    return [there[k] for k in range(number)]


def raised(name: str, mine: bool) -> bool:
    """Return whether a flag was raised by any process so far, without waiting for the others.

    Args:
        name: of the flag.
        mine: whether this process raises it.

    Example:
        >>> raised("stop", False)
        False
    """
    if count() == 1:
        return mine
    if mine:
        _set(f"flag/{name}/{rank()}", "raised")
    return mine or bool(_directory(f"flag/{name}/"))


def fail(text: str) -> None:
    """Tell the others that this process ends with an error, so that they do not wait for it."""
    if count() > 1:
        with contextlib.suppress(ProcessError):
            _set(f"failed/{rank()}", f"{_doing['place']}: {text}"[:LONGEST])


def failures() -> dict[int, str]:
    """Return place and error of the processes that said that they failed."""
    if count() == 1:
        return {}
    return {int(key): text for key, text in _directory("failed/").items()}


def _look_around(name: str, end: float, folder: str) -> None:
    """Raise `ProcessError` if another process failed, or the time is over."""
    for number, text in failures().items():
        if number != rank():
            raise ProcessError(f"rank {number} failed at {text}")
    if time.monotonic() > end:
        here = {int(key) for key in _directory(folder) if key.isdigit()}
        places = {int(key): text.partition(" ")[2] for key, text in _directory("alive/").items()}
        absent = ", ".join(f"{k} (at {places.get(k, 'unknown')})" for k in range(count()) if k not in here)
        raise ProcessError(f"{name}: no answer in time from rank {absent or '0'}")


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
            _set(f"alive/{rank()}", f"{beats} {_doing['place']}")
            found = _directory("alive/") if rank() == 0 else {}
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


def _state() -> Any:
    """Return what jax knows of the processes; unlike `jax.process_index` this starts no devices."""
    from jax._src import distributed

    return distributed.global_state


def _client() -> Any:
    """Return the client of jax's coordination service, which has no public name."""
    return _state().client


def _set(key: str, text: str) -> None:
    try:
        _client().key_value_set(f"diffassim/{key}", text, allow_overwrite=True)
    except jax.errors.JaxRuntimeError as error:
        raise _lost(error) from None


def _wait(key: str) -> str | None:
    """Return a value, or None if it does not come soon."""
    try:
        return str(_client().blocking_key_value_get(f"diffassim/{key}", SLICE))
    except jax.errors.JaxRuntimeError as error:
        if "DEADLINE_EXCEEDED" in str(error):
            return None
        raise _lost(error) from None


def _directory(folder: str) -> dict[str, str]:
    """Return all values below a folder by the rest of their keys."""
    whole = f"diffassim/{folder}"
    try:
        return {key.removeprefix(whole): value for key, value in _client().key_value_dir_get(whole)}
    except jax.errors.JaxRuntimeError as error:
        raise _lost(error) from None


def _lost(error: Exception) -> ProcessError:
    return ProcessError(f"the first process of this run (rank 0), or the way to it, is lost: {str(error)[:200]}")
