"""Units of measurement, converted once, at the edge, by the library pint."""

from __future__ import annotations

import functools
import re
from typing import Any

import numpy as np

from diffassim.core.errors import ConfigurationError
from diffassim.io.messages import shortened, single_line

__all__ = ["converted", "require_convertible"]

# What the conventions of CF and common tables write and pint does not know.
SPELLINGS = {
    "Celsius": "degC", "deg_C": "degC", "degree_C": "degC", "degrees_C": "degC", "degrees_celsius": "degC",
    "Fahrenheit": "degF", "Kelvin": "K",
    "degrees_north": "degree", "degree_north": "degree", "degrees_east": "degree", "degree_east": "degree",
}  # fmt: skip
DEFINITIONS = ("ppb = 1e-9", "ppbv = 1e-9", "ppmv = 1e-6", "ppt_volume = 1e-12 = pptv", "psu = 1e-3")
LONGEST = 100  # characters of a unit; the parser's time grows with their square
HINTS = {
    "C": "C is the coulomb; degrees Celsius are 'degC'",
    "F": "F is the farad; degrees Fahrenheit are 'degF'",
    "mb": "mb is the millibarn; millibars are 'mbar'",
}


def converted(name: str, values: Any, found: str, wanted: str, *, difference: bool = False) -> np.ndarray:
    """Return values in another unit.

    Args:
        name: of the column, for the message.
        values: numbers, any shape.
        found: unit they are in.
        wanted: unit that comes back.
        difference: whether they are differences or standard deviations, which know no zero point.

    Raises:
        ConfigurationError: if a unit is unknown, or they measure different things.

    Example:
        >>> converted("wind", [1048.0], "mph", "m s-1").round(1).tolist()
        [468.5]
        >>> converted("t", [20.0], "degC", "K").tolist(), converted("t", [2.0], "degC", "K", difference=True).tolist()
        ([293.15], [2.0])
    """
    values = np.asarray(values, float)
    if found == wanted:
        return values
    require_convertible(name, found, wanted)
    registry = _registry()
    first, second = _parsed(found), _parsed(wanted)
    if difference:
        ends = registry.Quantity(np.array([0.0, 1.0]), first).to(second).magnitude
        return values * float(f"{ends[1] - ends[0]:.12g}")  # 274.15 - 273.15 is not quite 1
    return np.asarray(registry.Quantity(values, first).to(second).magnitude)


def require_convertible(name: str, found: str, wanted: str) -> None:
    """Raise `ConfigurationError`, naming the column, unless one unit can be converted into the other.

    Example:
        >>> require_convertible("flow", "m3 s-1", "l/s")
    """
    if found == wanted:
        return
    first, second = _parsed(found), _parsed(wanted)
    for unit, parsed in ((found, first), (wanted, second)):
        if isinstance(parsed, str):
            raise ConfigurationError(
                f"{name}: the unit {shortened(repr(unit), 60)} is not known ({parsed}){_hint(unit)}; write it as in "
                f"'m s-1', 'degC', 'hPa', 'ppb' or '1' (found {shortened(repr(found), 60)}, expected "
                f"{shortened(repr(wanted), 60)})"
            )
    if first.dimensionality != second.dimensionality:
        hint = _hint(found) or _hint(wanted)
        raise ConfigurationError(
            f"{name}: found the unit {found!r}, expected one that can be converted into {wanted!r}{hint}"
        )


def _hint(unit: str) -> str:
    return f" ({HINTS[unit.strip()]})" if unit.strip() in HINTS else ""


@functools.cache
def _registry() -> Any:
    try:
        import pint
    except ImportError:
        raise ConfigurationError("converting units needs the package pint: pip install 'diffassim[data]'") from None
    power = re.compile(r"(?<=[^\W\d_])(?=[-+]?\d)")  # CF writes m s-2, pint m s**-2
    registry: Any = pint.UnitRegistry(preprocessors=[lambda text: power.sub("**", text)])
    for definition in DEFINITIONS:
        registry.define(definition)
    return registry


@functools.lru_cache(256)
def _parsed(unit: str) -> Any:
    """Return pint's unit, or as text why there is none."""
    if len(unit) > LONGEST:
        return f"{len(unit)} characters"
    text = " ".join(SPELLINGS.get(word, word) for word in unit.strip().split())
    try:
        return _registry().parse_units(text)
    except ConfigurationError:
        raise
    except Exception as error:  # whatever a text makes its tokenizer and its arithmetic raise
        return single_line(f"{type(error).__name__}: {error}", 80)
