"""Read, change and check configurations; every problem is one line that names the field."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any

import tomlkit
from pydantic import ValidationError

from diffassim.core.errors import ConfigurationError
from diffassim.io.messages import require_plain_name, shortened, single_line

__all__ = ["build_configuration", "parse_setting", "read_toml", "to_toml"]


def read_toml(path: Path) -> tuple[str, dict[str, Any]]:
    """Return the experiment's name and its settings from a TOML file.

    Raises:
        ConfigurationError: if the file is missing, is not TOML, or names no experiment.
    """
    require_plain_name("file", path)
    shown = shortened(path, 300)
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigurationError(f"{shown}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # no TOML, no UTF-8, an integer of thousands of digits; nesting
        raise ConfigurationError(f"{shown}: not valid TOML: {single_line(error, 200)}") from None
    name = settings.pop("experiment", None)
    if not isinstance(name, str):
        raise ConfigurationError(f'{shown}: the key `experiment` is missing; write for example: experiment = "fulda"')
    return name, settings


def parse_setting(text: str) -> tuple[str, Any]:
    """Return key and value of `key=value`; the value is read as TOML, or as text where it is none.

    Example:
        >>> parse_setting("window=5"), parse_setting("name=abc")
        (('window', 5), ('name', 'abc'))
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigurationError(f"--set {shortened(text)}: write it as key=value")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits; nesting
        raise ConfigurationError(f"--set {shortened(text)}: {single_line(error, 200)}") from None


def build_configuration(kind: Any, settings: dict[str, Any], name: str) -> Any:
    """Return the checked configuration.

    Args:
        kind: the experiment's configuration class.
        settings: values by key.
        name: the experiment's name, for messages.

    Raises:
        ConfigurationError: one line naming the first field that is wrong.
    """
    for key in settings:
        if key not in kind.model_fields:
            close = difflib.get_close_matches(key[:100], kind.model_fields, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(kind.model_fields)}"
            raise ConfigurationError(f"{name}: unknown key {shortened(repr(key))}; {hint}")
    try:
        return kind(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:  # a check of several fields together, which names them itself
            raise ConfigurationError(f"{name}: {message}") from None
        field = ".".join(map(str, first["loc"]))
        found = shortened(repr(first["input"]))
        raise ConfigurationError(f"{name}: {field}: {single_line(message, 300)} (found {found})") from None


def to_toml(name: str, config: Any) -> str:
    """Return the exact configuration as TOML, so that `diffassim run FILE` repeats the run."""
    document = tomlkit.document()
    document["experiment"] = name
    for key, value in config.model_dump(mode="json", exclude_none=True).items():
        document[key] = value
    return tomlkit.dumps(document)
