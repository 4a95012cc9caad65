"""Texts for messages: one line, and never longer than a person reads."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import Any

from diffassim.core.errors import ConfigurationError

__all__ = ["require_plain_name", "shortened", "single_line", "sized", "suggested"]

_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def shortened(text: Any, length: int = 80) -> str:
    """Return a text for a message: its start and its length where it is long.

    Example:
        >>> shortened("9" * 1000, 5)
        '99999... (1000 characters)'
    """
    text = str(text)
    return text if len(text) <= length else f"{text[:length]}... ({len(text)} characters)"


def single_line(text: Any, length: int = 1000) -> str:
    r"""Return a message as one line of at most about so many characters.

    Example:
        >>> single_line("no such  key\n  here")
        'no such key here'
    """
    return " ".join(shortened(text, length).split())


def sized(count: float) -> str:
    """Return a number of bytes with its unit.

    Example:
        >>> sized(3 * 2**30), sized(100)
        ('3.0 GiB', '100 bytes')
    """
    if count < 2**10:
        return f"{count:.0f} bytes"
    power = min(int(math.log2(count) // 10), len(_UNITS))
    return f"{count / 2 ** (10 * power):.1f} {_UNITS[power - 1]}"


def require_plain_name(name: str, path: Any) -> None:
    """Raise `ConfigurationError` for a path that files of text cannot hold: no UTF-8, or a NUL character.

    Args:
        name: of the setting.
        path: its value.
    """
    text = str(path)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ConfigurationError(
            f"{name}: {shortened(ascii(text), 200)} is no UTF-8; rename the file or directory"
        ) from None
    if "\0" in text:
        raise ConfigurationError(f"{name}: {shortened(ascii(text), 200)} holds a NUL character")


def suggested(wanted: Any, known: Iterable[Any]) -> str:
    """Return "; did you mean 'NAME'?" for the most similar of the known names, or nothing where none is similar.

    Example:
        >>> suggested("Ozon", ["date", "ozone"]), suggested("x", ["date"])
        ("; did you mean 'ozone'?", '')
    """
    names = {str(name).strip().casefold(): str(name) for name in known}
    found = difflib.get_close_matches(str(wanted).strip().casefold(), list(names), n=1, cutoff=0.6)
    return f"; did you mean {shortened(names[found[0]])!r}?" if found else ""
