"""All runs of a sweep: settings with the swept numbers put in, one run for each combination and method."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError

from diffassim.core.errors import ConfigurationError
from diffassim.experiments.framework.assimilation import needs_members, needs_window
from diffassim.experiments.framework.parts import find_part
from diffassim.io.messages import shortened, single_line, suggested

__all__ = ["PlannedRun", "planned_runs"]

MOST = 100_000  # runs
SECTIONS = ("cycles", "discarded_cycles", "model", "truth", "start", "observe")
OF_METHOD = ("members", "lag", "shift")
EVERY_METHOD = "method"


class PlannedRun(NamedTuple):
    """One run, before anything is computed.

    Args:
        number: from 0 on.
        values: what was put in, by its path; paths that mean nothing to the method are left out.
        settings: a configuration with one method and without a sweep.
    """

    number: int
    values: dict[str, Any]
    settings: Any

    @property
    def method(self) -> Any:
        """The method's settings."""
        return self.settings.methods[0]


def planned_runs(config: Any) -> list[PlannedRun]:
    """Return the runs of a configuration.

    A path begins with a table of the settings ("observe.std"), with "method" for every method that takes the rest
    ("method.inflation", "method.members", "method.localization.radius"), or with a method's label.

    Args:
        config: `TwinConfiguration`.

    Raises:
        ConfigurationError: if a path leads nowhere, or a value is not possible there.

    Example:
        >>> from diffassim.experiments.twins.twin_settings import TwinConfiguration
        >>> config = TwinConfiguration(sweep={"method.inflation": [1.0, 1.1], "observe.std": [0.5, 1.0]})
        >>> [run.values for run in planned_runs(config)][1]
        {'method.inflation': 1.0, 'observe.std': 1.0}
    """
    if not config.sweep:
        return [
            PlannedRun(number, {}, config.model_copy(update={"methods": (method,)}))
            for number, method in enumerate(config.methods)
        ]
    axes = [_axis(key, values) for key, values in config.sweep.items()]
    labels = [method.name for method in config.methods]
    for paths, _ in axes:
        for path in paths:
            _check_path(path, config, labels)
    count = len(config.methods) * math.prod(len(values) for _, values in axes)
    if count > MOST:
        raise ConfigurationError(f"sweep: these are {count} runs; at most {MOST} are possible")
    plain = config.model_dump(mode="python") | {"sweep": {}, "best_over": ()}
    found: list[PlannedRun] = []
    for method in config.methods:
        its = [axis for axis in axes if any(_concerns(path, method) for path in axis[0])]
        for combination in itertools.product(*(values for _, values in its)):
            values = {
                path: value
                for (paths, _), together in zip(its, combination, strict=True)
                for path, value in zip(paths, together, strict=True)
                if _concerns(path, method)
            }
            found.append(PlannedRun(len(found), values, _settings(config, plain, method, values)))
    return found


def _axis(key: str, values: Sequence[Any]) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """Return the paths that change together, and what they become."""
    paths = tuple(path.strip() for path in key.split(","))
    if not values:
        raise ConfigurationError(f"sweep: the list of {key!r} is empty; give the values it should take")
    if len(paths) == 1:
        return paths, [(value,) for value in values]
    for value in values:
        if not isinstance(value, list | tuple) or len(value) != len(paths):
            raise ConfigurationError(
                f"sweep: {key!r} needs {len(paths)} values at a time, such as [[10, 1.1], [20, 1.0]]; found "
                f"{shortened(repr(value))}"
            )
    return paths, [tuple(value) for value in values]


def _check_path(path: str, config: Any, labels: list[str]) -> None:
    """Raise `ConfigurationError` if a path leads nowhere."""
    first, _, rest = path.partition(".")
    label = _label(path, labels)
    if label is not None or first == EVERY_METHOD:
        if not any(_concerns(path, method) for method in config.methods):
            rest = rest if label is None else path[len(label) + 1 :]
            known = sorted({word for method in config.methods for word in _words(method)})
            raise ConfigurationError(
                f"sweep: {path!r} leads nowhere: no method here has {rest!r}{suggested(rest, known)}; there are: "
                f"{', '.join(known)}"
            )
        return
    if first not in SECTIONS:
        known = [*SECTIONS, EVERY_METHOD, *labels]
        raise ConfigurationError(
            f"sweep: {path!r} leads nowhere: there is no {first!r}{suggested(first, known)}; a path begins with one "
            f"of: {', '.join(known)}"
        )
    table = getattr(config, first)
    fields = getattr(type(table), "model_fields", None)
    if (fields is None) == bool(rest):
        raise ConfigurationError(f"sweep: {path!r} leads nowhere: {first} is {'one number' if rest else 'a table'}")
    word = rest.partition(".")[0]
    if fields is not None and word not in fields and table.model_config.get("extra") == "forbid":
        raise ConfigurationError(
            f"sweep: {path!r} leads nowhere: {first} has no {word!r}{suggested(word, fields)}; it has: "
            f"{', '.join(fields)}"
        )


def _label(path: str, labels: Sequence[str]) -> str | None:
    return next((label for label in sorted(labels, key=len, reverse=True) if path.startswith(f"{label}.")), None)


def _rest(path: str, method: Any) -> str | None:
    """Return what a path says about a method, or None where it is about something else."""
    for start in (method.name, EVERY_METHOD):
        if path.startswith(f"{start}."):
            return path[len(start) + 1 :]
    return None


def _concerns(path: str, method: Any) -> bool:
    """Return whether a path is about all methods' surroundings, or about this method."""
    if path.partition(".")[0] in SECTIONS:
        return True
    rest = _rest(path, method)
    return rest is not None and _with(method.model_dump(), rest.split("."), 0) is not None


def _words(method: Any) -> list[str]:
    kind = find_part("methods", method.kind)
    return [*(word for word in OF_METHOD if _applies(word, kind)), *(f.name for f in dataclasses.fields(kind))]


def _applies(word: str, kind: type) -> bool:
    return needs_members(kind) if word == "members" else needs_window(kind)


def _with(method: dict[str, Any], words: list[str], value: Any) -> dict[str, Any] | None:
    """Return a method's settings with a value at a path, or None where the path leads nowhere."""
    kind = method["method"] if isinstance(method["method"], str) else next(iter(method["method"]))
    arguments = {} if isinstance(method["method"], str) else method["method"][kind]
    found = find_part("methods", kind)
    if len(words) == 1 and words[0] in OF_METHOD and words[0] not in {f.name for f in dataclasses.fields(found)}:
        return method | {words[0]: value} if _applies(words[0], found) else None
    changed = _inside(kind, arguments, words, value)
    return None if changed is None else method | {"method": {kind: changed}}


def _inside(kind: str, arguments: Any, words: list[str], value: Any) -> Any:
    """Return the arguments of a class with a value at a path; the names of classes on the way may be left out."""
    if words[0] == kind:
        return value if len(words) == 1 else _inside(kind, arguments, words[1:], value)
    try:
        names = [field.name for field in dataclasses.fields(find_part("methods", kind))]
    except (ConfigurationError, TypeError):
        return None
    if words[0] not in names:
        return None
    arguments = dict(arguments) if isinstance(arguments, dict) else {names[0]: arguments}
    if len(words) == 1:
        return arguments | {words[0]: value}
    inner = arguments.get(words[0])
    if isinstance(inner, str):
        inner = {inner: {}}
    if not isinstance(inner, dict) or len(inner) != 1:
        return None
    ((word, its),) = inner.items()
    changed = _inside(word, its, words[1:], value)
    return None if changed is None else arguments | {words[0]: {word: changed}}


def _settings(config: Any, plain: dict[str, Any], method: Any, values: dict[str, Any]) -> Any:
    """Return the checked configuration of one run."""
    settings, its = copy.deepcopy(plain), method.model_dump()
    for path, value in values.items():
        rest = _rest(path, method) if path.partition(".")[0] not in SECTIONS else None
        if rest is None:
            _put(settings, path.split("."), value, path)
        else:
            its = _with(its, rest.split("."), value) or its
    try:
        return type(config).model_validate(settings | {"methods": [its]})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if "constrained" not in str(part))
        told = ", ".join(f"{path} = {value!r}" for path, value in values.items())
        message = single_line(first["msg"].removeprefix("Value error, "), 300)
        raise ConfigurationError(f"sweep: {shortened(told, 200)}: {where + ': ' if where else ''}{message}") from None


def _put(settings: dict[str, Any], words: list[str], value: Any, path: str) -> None:
    for word in words[:-1]:
        inner = settings.get(word)
        if not isinstance(inner, dict):
            raise ConfigurationError(f"sweep: {path!r} leads nowhere: {word} is no table")
        settings = inner
    settings[words[-1]] = value
