"""Methods and their parts from a file: an object is written as its class with its arguments."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import diffassim.covariances
import diffassim.cycling
import diffassim.ensemble
import diffassim.gaussian
import diffassim.methods
import diffassim.variational
from diffassim.core.errors import AssimilationError, ConfigurationError
from diffassim.io.messages import shortened, single_line, suggested

__all__ = ["built", "find_part"]

PARTS = tuple(
    getattr(diffassim, part) for part in ("ensemble", "gaussian", "cycling", "covariances", "methods", "variational")
)
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def find_part(name: str, word: Any) -> type:
    """Return the public class of that name among methods, covariances, minimizers and their parts.

    Args:
        name: who asks, for messages.
        word: name of the class.

    Raises:
        ConfigurationError: if there is none.

    Example:
        >>> find_part("row 1", "ETKF").__name__
        'ETKF'
    """
    kind = next((getattr(part, word) for part in PARTS if word in part.__all__), None)
    if not isinstance(kind, type):
        known = [word for part in PARTS for word in part.__all__ if isinstance(getattr(part, word), type)]
        raise ConfigurationError(f"{name}: there is no method or part {shortened(repr(word))}{suggested(word, known)}")
    return kind


def built(name: str, value: Any, given: Mapping[str, Any] = _NOTHING, words: Mapping[str, Any] = _NOTHING) -> Any:
    """Return the object that {Class = {argument = value}} describes; numbers, texts and lists stay what they are.

    Args:
        name: who asks, for messages.
        value: the description: a table, or the class's name alone.
        given: arguments by name that a class which takes them gets where the description does not say them.
        words: functions by a name that may stand where a class does.

    Raises:
        ConfigurationError: if there is no such class, or it does not take these arguments.

    Example:
        >>> built("row 1", {"LETKF": {"inflation": 1.04, "localization": {"GaspariCohn": 4.0}}}).inflation
        1.04
        >>> built("row 1", "ETKF").rotation
        False
    """
    if isinstance(value, str):
        return _made(name, value, {}, given, words)
    if isinstance(value, dict):
        if len(value) != 1:
            raise ConfigurationError(
                f"{name}: {shortened(repr(value))} must name one class with its arguments, such as {{ETKF = {{}}}}"
            )
        ((word, arguments),) = value.items()
        return _made(name, word, arguments if isinstance(arguments, dict) else {"": arguments}, given, words)
    return value


def _made(
    name: str, word: str, arguments: dict[str, Any], given: Mapping[str, Any], words: Mapping[str, Any]
) -> Any:  # fmt: skip
    inner = {key: _inside(name, word, key, argument, given, words) for key, argument in arguments.items()}
    positional = [inner.pop("")] if "" in inner else []
    kind = words[word] if word in words else find_part(name, word)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        fields = {field.name: field for field in dataclasses.fields(kind)}
        for key in inner:
            if key not in fields:
                raise ConfigurationError(
                    f"{name}: {word} takes no argument {shortened(repr(key))}{suggested(key, fields)}; it takes: "
                    f"{', '.join(fields) or 'none'}"
                )
        inner = {key: _plain(f"{name}: {word}.{key}", argument, fields[key]) for key, argument in inner.items()}
        taken = set(inner) | set(list(fields)[: len(positional)])
        inner |= {key: value for key, value in given.items() if key in fields and key not in taken}
        missing = [key for key, field in fields.items() if _required(field) and key not in taken | set(inner)]
        if missing:
            raise ConfigurationError(
                f"{name}: {word} needs {missing[0]!r}; write for example {{{word} = {{{missing[0]} = ...}}}}"
            )
    try:
        return kind(*positional, **inner)
    except (AssimilationError, TypeError, ValueError, AttributeError) as error:
        told = single_line(error, 300)
        raise ConfigurationError(f"{name}: {told if told.startswith(word) else f'{word}: {told}'}") from None


def _inside(
    name: str, word: str, key: str, argument: Any, given: Mapping[str, Any], words: Mapping[str, Any]
) -> Any:  # fmt: skip
    """Return an argument of the class `word`; a text that is the name of a part stands for it."""
    if isinstance(argument, dict):
        return built(name, argument, given, words)
    if isinstance(argument, str) and _wants_class(word, key):
        return find_part(name, argument)
    named = isinstance(argument, str) and (argument in words or any(argument in part.__all__ for part in PARTS))
    return built(name, argument, given, words) if named else argument


def _wants_class(word: str, key: str) -> bool:
    """Return whether an argument is a class itself, such as the form of a cost."""
    kind = next((getattr(part, word) for part in PARTS if word in part.__all__), None)
    fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
    return any(field.name == key and isinstance(field.default, type) for field in fields)


def _plain(name: str, value: Any, field: Any) -> Any:
    """Return a whole number as a real one where the argument is one: 1 and 1.0 are the same to whoever writes them.

    Raises:
        ConfigurationError: for a text, or a truth value, where something else belongs.
    """
    truth, flag = isinstance(value, bool), isinstance(field.default, bool)
    number = isinstance(field.default, int | float) and not flag
    wrong = (
        (isinstance(value, str) and not isinstance(field.default, str)) or (truth and number) or (flag and not truth)
    )
    if wrong:
        what = "true or false" if flag else "a number, or a part such as {Class = {...}}"
        raise ConfigurationError(f"{name} must be {what}, found {shortened(repr(value))}")
    return float(value) if isinstance(value, int) and not truth and isinstance(field.default, float) else value


def _required(field: Any) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
