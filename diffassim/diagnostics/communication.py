"""What the devices of a mesh send each other, counted from the compiled program."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax

from diffassim.core.errors import ConfigurationError
from diffassim.core.pytree import Pytree, static
from diffassim.diagnostics.memory import size_in_words

__all__ = ["Communication", "explain_communication"]

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_NUMBER = re.compile(r"\b(pred|[a-z]+?)(\d*)(?:e\dm\d\w*)?\[([\d,]*)\]")
_OPERATION = re.compile(r"^\s*(?:ROOT )?%?[\w.\-]+ = (.*?) ([a-z][\w\-]*)\(")
_HEADER = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_CALLED = re.compile(r"(?:body|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


class Communication(Pytree):
    """What `explain_communication` returns; its text is a table.

    Args:
        sent: bytes that one device sends in a call, by the kind of message.
        messages: number of messages, by kind; a loop counts as often as it turns.
        largest: bytes of the largest array that a device receives whole, which bounds what it must hold.
        open_loops: loops with messages whose turns are not known before the run; they count as one turn.
        devices: of the program.
    """

    sent: Mapping[str, float] = static()
    messages: Mapping[str, int] = static()
    largest: int = static()
    open_loops: int = static()
    devices: int = static()

    @property
    def total(self) -> float:
        """Bytes that one device sends in a call."""
        return sum(self.sent.values())

    def __str__(self) -> str:
        lines = [f"{size_in_words(size):>10s}  {self.messages[kind]:>6d}  {kind}" for kind, size in self.sent.items()]
        lines.append(
            f"{size_in_words(self.total):>10s}  {sum(self.messages.values()):>6d}  sent by each of {self.devices}"
        )
        if self.open_loops:
            lines.append(f"{self.open_loops} loop(s) of unknown length count as one turn")
        return "\n".join(lines)


def explain_communication(function: Callable[..., Any], *arguments: Any) -> Communication:
    """Count what devices send each other in a call, from the program that is compiled for these arguments.

    A device of D sends, of an array of b bytes, b (D - 1) / D in an all-to-all and in an all-gather of b bytes
    altogether, twice that in an all-reduce (in a ring), and b to a neighbour in a permutation.

    Args:
        function: compiled here with `jax.jit`, or compiled already (`jax.jit(f).lower(...).compile()`).
        *arguments: its arguments, in parts (`da.distribute`); shapes with a sharding are enough.

    Returns:
        `Communication`; print it.

    Raises:
        ConfigurationError: if the program tells nothing of itself.

    Example:
        >>> explain_communication(lambda x: x.sum(), jnp.ones(4)).total
        0
    """
    program = function if isinstance(function, jax.stages.Compiled) else jax.jit(function).lower(*arguments).compile()
    text = program.as_text()
    if text is None:
        raise ConfigurationError("explain_communication: this backend does not show its programs")
    return count_messages(text)


def count_messages(text: str) -> Communication:
    """Return what a program in XLA's text form sends; see `explain_communication`."""
    bodies, entry, devices = _computations(text)
    sent: dict[str, float] = {}
    messages: dict[str, int] = {}
    largest, loops = 0, set()

    def visit(name: str, times: int, loop: str | None) -> None:
        nonlocal largest
        for line in bodies.get(name, ()):
            found = _OPERATION.match(line)
            if found is None:
                continue
            kind = found[2].removesuffix("-start")
            if kind in KINDS:
                size, whole = _sent(kind, found[1], line, devices)
                sent[kind] = sent.get(kind, 0) + times * size
                messages[kind] = messages.get(kind, 0) + times
                largest = max(largest, whole)
                if loop is not None:
                    loops.add(loop)
                continue
            trips = _TRIPS.search(line) if kind == "while" else None
            inside = f"{name}:{line}" if kind == "while" and trips is None else loop
            turns = times * (int(trips[1]) if trips else 1)
            for called in [*_CALLED.findall(line), *_branches(line)]:
                visit(called, turns, inside)

    visit(entry, 1, None)
    order = sorted(sent, key=lambda kind: -sent[kind])
    return Communication({k: sent[k] for k in order}, {k: messages[k] for k in order}, largest, len(loops), devices)


def _computations(text: str) -> tuple[dict[str, list[str]], str, int]:
    bodies: dict[str, list[str]] = {}
    name = entry = ""
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header is not None:
            name = header[1]
            bodies[name] = []
            if line.startswith("ENTRY"):
                entry = name
        elif name:
            bodies[name].append(line)
    partitions = re.search(r"num_partitions=(\d+)", text)
    return bodies, entry, int(partitions[1]) if partitions else 1


def _branches(line: str) -> list[str]:
    found = _BRANCHES.search(line)
    return [name.strip().lstrip("%") for name in found[1].split(",")] if found else []


def _sent(kind: str, result: str, line: str, devices: int) -> tuple[float, int]:
    """Return the bytes that one device sends, and those of what it then holds."""
    size = _bytes(result)
    if kind == "collective-permute":
        pairs = re.findall(r"\{(\d+),(\d+)\}", line.split("source_target_pairs=")[1].split("}}")[0] + "}}")
        return size * sum(a != b for a, b in pairs) / devices, size
    D = _group(line, devices)
    share = (D - 1) / D
    return {
        "all-reduce": 2 * size * share,
        "all-gather": size * share,
        "reduce-scatter": size * (D - 1),
        "all-to-all": size * share,
    }[kind], size


def _group(line: str, devices: int) -> int:
    """Return how many devices take part in one message."""
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", line)
    if listed:
        return len(listed[1].split(","))
    shaped = re.search(r"replica_groups=\[(\d+),(\d+)\]", line)
    if shaped:
        return int(shaped[2])
    by_mesh = re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", line)
    if by_mesh:
        sizes = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", by_mesh[1])}
        return math.prod(sizes[name] for name in re.findall(r"'(\w+)'", by_mesh[2])) or devices
    return devices


def _bytes(result: str) -> int:
    """Return the bytes of the arrays of a type, for example (f32[4,2]{1,0}, f64[])."""
    total = 0
    for name, bits, shape in _NUMBER.findall(result):
        width = 8 if name == "pred" or not bits else int(bits)
        total += math.prod(int(n) for n in shape.split(",") if n) * width // 8
    return total
