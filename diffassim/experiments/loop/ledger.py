"""Which model is in use: replayed from the decisions of all rounds and from rollbacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffassim.core.errors import ConfigurationError, DataError
from diffassim.experiments.loop.artifacts import ADVICE, STAGES, LoopFiles, signed, unsigned

__all__ = ["in_use", "read_model", "roll_back", "rollbacks", "write_pointer"]

POINTER = "current.json"


def in_use(files: LoopFiles, after: int | None = None) -> list[int]:
    """Return the models that were promoted and not rolled back, the one in use last.

    Args:
        files: of the loop.
        after: up to the decision of this round and the rollbacks that follow it; default: all.
    """
    promoted: list[int] = []
    back = rollbacks(files)
    for number in range(files.count() + 1 if after is None else after + 1):
        if number and files.finished(number, STAGES[5]):
            decision = files.read_json(number, STAGES[5], "decision.json")
            promoted += [number] if decision["promoted"] else []
        for each in back:
            if each["after_round"] == number and promoted and promoted[-1] == each["from"]:
                promoted.pop()
    return promoted


def rollbacks(files: LoopFiles) -> list[dict[str, Any]]:
    """Return all rollbacks in their order.

    Raises:
        DataError: if one was altered, is missing before another, or is a copy of another.
    """
    found = []
    for number, path in enumerate(sorted(files.models.glob("rollback-*.json")), start=1):
        found.append(unsigned(path))
        if path.name != _name(number) or found[-1].get("number") != number:
            raise DataError(f"{path}: rollback {number} of this loop is missing, or this is none of its own. {ADVICE}")
    return found


def roll_back(files: LoopFiles) -> tuple[int, int]:
    """Go back to the former model; nothing is deleted. Return the models from and to.

    Raises:
        ConfigurationError: if there is no former one.
    """
    promoted = in_use(files)
    if len(promoted) < 2:
        raise ConfigurationError(
            f"{files.path}: there is no former model to go back to; "
            + (f"model {promoted[0]} is the first" if promoted else "none has been promoted")
        )
    decided = max((n for n in range(1, files.count() + 1) if files.finished(n, STAGES[5])), default=0)
    number = len(rollbacks(files)) + 1
    entry = {"number": number, "after_round": decided, "from": promoted[-1], "to": promoted[-2]}
    files.write(files.models / _name(number), signed(entry))
    write_pointer(files)
    return promoted[-1], promoted[-2]


def read_model(files: LoopFiles, number: int) -> Mapping[str, Any]:
    """Return a promoted model with all that is kept with it."""
    return unsigned(files.model(number))


def write_pointer(files: LoopFiles) -> None:
    """Write which model is in use, for whoever applies it.

    Raises:
        DataError: if the file names a model that no decision has put there, or knows of a rollback that is missing.
    """
    promoted, back = in_use(files), len(rollbacks(files))
    if not promoted:
        return
    pointer = files.models / POINTER
    ever = {n for n in range(1, files.count() + 1) if files.model(n).is_file()}
    if pointer.is_file():
        before = unsigned(pointer)
        if before.get("model") not in ever:
            raise DataError(f"{pointer}: names a model that is not there. {ADVICE}")
        if before.get("rollbacks", 0) > back:
            raise DataError(f"{files.models / _name(back + 1)}: missing. {ADVICE}")
    former = promoted[-2] if len(promoted) > 1 else None
    model = {"model": promoted[-1], "file": files.model(promoted[-1]).name, "former": former, "rollbacks": back}
    content = signed(model)
    if not pointer.is_file() or pointer.read_bytes() != content:
        files.write(pointer, content)


def _name(number: int) -> str:
    return f"rollback-{number:03d}.json"
