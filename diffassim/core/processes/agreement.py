"""What processes do together: they compare, wait for one another, share work out, and hear of failures."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import jax

from diffassim.core.errors import ConfigurationError
from diffassim.core.processes.service import ProcessError, client, count, directory_of, lost, rank, set_text, text_of
from diffassim.core.processes.signs import LONGEST, fail, failures, places

__all__ = ["TIMEOUT", "Stopped", "agree", "claim", "exchange", "raised", "share_out", "together"]

TIMEOUT = 3600.0  # seconds that living processes wait for one another where none has long work to do
T = TypeVar("T")

_numbers: dict[str, int] = {}


class Stopped(Exception):  # noqa: N818 (no error: what is finished is kept)
    """Work has come to a point from which it can go on, because somebody asked it to stop."""


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
    set_text(f"{folder}{rank():06d}", text)
    end = time.monotonic() + timeout
    if rank() > 0:
        while True:
            answer = text_of(f"{folder}all")
            if answer is not None:
                return list(json.loads(answer))
            _look_around(name, end, folder)
    pause = 0.001
    while len(there := directory_of(folder)) < count():
        _look_around(name, end, folder)
        time.sleep(pause)
        pause = min(2 * pause, 0.2)
    texts = [there[key] for key in sorted(there)]
    set_text(f"{folder}all", json.dumps(texts))
    if number > 1:  # everybody has read what came two exchanges ago
        client().key_value_delete(f"diffassim/exchange/{name}/{number - 2}/")
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
    result: T | None = None
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
    return result  # type: ignore[return-value]


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
        client().key_value_set(f"diffassim/claim/{name}", str(rank()))
    except jax.errors.JaxRuntimeError as error:
        if "ALREADY_EXISTS" in str(error):
            return False
        raise lost(error) from None
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
                set_text(f"done/{run}/{k}", own[k])
            if rank() == 0:
                there = own if count() == 1 else {int(key): text for key, text in directory_of(f"done/{run}/").items()}
                seen({key: there[key] for key in sorted(there)})
    exchange(f"the end of {name}", "", math.inf)
    there = own if count() == 1 else {int(key): text for key, text in directory_of(f"done/{run}/").items()}
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
        set_text(f"flag/{name}/{rank()}", "raised")
    return mine or bool(directory_of(f"flag/{name}/"))


def _look_around(name: str, end: float, folder: str) -> None:
    """Raise `ProcessError` if another process failed, or the time is over."""
    for number, text in failures().items():
        if number != rank():
            raise ProcessError(f"rank {number} failed at {text}")
    if time.monotonic() > end:
        here = {int(key) for key in directory_of(folder) if key.isdigit()}
        last = places()
        absent = ", ".join(f"{k} (at {last.get(k, 'unknown')})" for k in range(count()) if k not in here)
        raise ProcessError(f"{name}: no answer in time from rank {absent or '0'}")
