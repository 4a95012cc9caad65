"""The columns of a table of observations: how they are written, their units, times, places, what is missing."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from diffassim.core.errors import ConfigurationError
from diffassim.io.messages import shortened, suggested

__all__ = [
    "Region",
    "StationTable",
    "TableVariable",
    "TextFormat",
    "TimeColumns",
    "one_of",
]

PARTS = ("year", "month", "day", "hour", "minute", "second")


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise `ConfigurationError` unless a setting has one of the allowed values."""
    if value not in allowed:
        raise ConfigurationError(
            f"{name} must be one of {', '.join(allowed)}; found {shortened(repr(value))}{suggested(value, allowed)}"
        )


@dataclasses.dataclass(frozen=True)
class TextFormat:
    """How a file of text is written.

    Args:
        encoding: of the characters; None: by the byte order mark, else UTF-8, else Latin-1.
        separator: between cells; None: the one of comma, semicolon, tab and bar that the first line has most of;
            "whitespace": any number of blanks and tabs.
        decimal: mark before the decimals, "." or ",".
        thousands: mark between groups of three digits, or None.
        quote: character around cells that hold separators.
        comment: character from which on a line is a remark, or None.
        skip_rows: lines before the row of names.
        units_row: whether the row after that of names holds units.

    Raises:
        ConfigurationError: if a mark has another meaning already.

    Example:
        >>> TextFormat(separator=";", decimal=",").decimal
        ','
    """

    encoding: str | None = None
    separator: str | None = None
    decimal: str = "."
    thousands: str | None = None
    quote: str = '"'
    comment: str | None = None
    skip_rows: int = 0
    units_row: bool = False

    def __post_init__(self) -> None:
        if self.decimal not in (".", ","):
            raise ConfigurationError(f"TextFormat: decimal must be '.' or ',', found {self.decimal!r}")
        if self.thousands == self.decimal or (self.separator is not None and self.separator == self.decimal):
            raise ConfigurationError(f"TextFormat: {self.decimal!r} cannot be the decimal mark and a separator as well")
        if self.skip_rows < 0:
            raise ConfigurationError(f"TextFormat: skip_rows must not be negative, found {self.skip_rows}")
        for name in ("quote", "comment", "thousands"):
            mark = getattr(self, name)
            if mark is not None and len(mark) != 1:
                raise ConfigurationError(f"TextFormat: {name} must be one character, found {mark!r}")


@dataclasses.dataclass(frozen=True)
class TimeColumns:
    """Where times are and how they are written; they become UTC.

    Args:
        columns: the column of times; or several, each with a part of the time.
        format: as for `strptime` ("%d.%m.%Y %H:%M"); or "UNIT since DATE" ("days since 1970-01-01") where times are
            numbers; None: ISO 8601. Not used with several columns.
        parts: what several columns hold, out of year, month, day, hour, minute, second, "day_of_year"; None: by their
            names.
        zone: name of the time zone (IANA) of times that come without an offset of their own.
        doubled: what becomes of a local time that occurs twice, when the clock is set back: "error"; the "first" or
            "second" of the two; "order": the first row of a station with it is the first; "missing": left out and said.
        skipped: what becomes of a local time that does not exist, when the clock is set forward: "error", "missing",
            or "shift" by the hour that is left out, which is said.
        century: is added to years below 100.

    Raises:
        ConfigurationError: if the zone is unknown, or parts do not make a date.

    Example:
        >>> TimeColumns(("year", "month", "day"), century=1900).parts
        ('year', 'month', 'day')
    """

    columns: str | tuple[str, ...] = "time"
    format: str | None = None
    parts: tuple[str, ...] | None = None
    zone: str = "UTC"
    doubled: Literal["error", "first", "second", "order", "missing"] = "error"
    skipped: Literal["error", "missing", "shift"] = "error"
    century: int | None = None

    def __post_init__(self) -> None:
        one_of("TimeColumns: doubled", self.doubled, ("error", "first", "second", "order", "missing"))
        one_of("TimeColumns: skipped", self.skipped, ("error", "missing", "shift"))
        try:
            ZoneInfo(self.zone)
        except (ValueError, OSError, KeyError):
            raise ConfigurationError(
                f"TimeColumns: no time zone {shortened(repr(self.zone))} is known; use a name such as 'Europe/Dublin', "
                "or 'Etc/GMT-1' for UTC+1 all year"
            ) from None
        if isinstance(self.columns, str):
            return
        object.__setattr__(self, "columns", tuple(self.columns))
        parts = tuple(self.columns) if self.parts is None else tuple(self.parts)
        parts = tuple(part.strip().lower() for part in parts)
        wrong = [part for part in parts if part not in (*PARTS, "day_of_year")]
        if wrong or len(parts) != len(self.columns) or len(set(parts)) != len(parts):
            raise ConfigurationError(
                f"TimeColumns: each of the columns {self.columns} needs one of the parts {', '.join(PARTS)}, "
                f"day_of_year; found {parts}"
            )
        if "year" not in parts or (("month" in parts) == ("day_of_year" in parts)):
            raise ConfigurationError(
                f"TimeColumns: a date needs year and month, or year and day_of_year; found {parts}"
            )
        object.__setattr__(self, "parts", parts)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all columns."""
        return (self.columns,) if isinstance(self.columns, str) else self.columns


@dataclasses.dataclass(frozen=True)
class Region:
    """A box of places, degrees; a longitude counts modulo full turns.

    Args:
        west: least longitude; greater than `east` across the date line.
        east: greatest longitude.
        south: least latitude.
        north: greatest latitude.

    Raises:
        ConfigurationError: if the box is empty.

    Example:
        >>> Region(west=-11, east=-5, south=51, north=56).holds([-8.0, 352.0, 3.0], [53.0, 53.0, 53.0]).tolist()
        [True, True, False]
    """

    west: float = -180.0
    east: float = 180.0
    south: float = -90.0
    north: float = 90.0

    def __post_init__(self) -> None:
        if not (-90 <= self.south <= self.north <= 90 and math.isfinite(self.west) and math.isfinite(self.east)):
            raise ConfigurationError(f"Region: latitudes {self.south} to {self.north} must increase within -90 to 90")

    def holds(self, longitude: Any, latitude: Any) -> Any:
        """Return which places lie inside (boundaries included)."""
        width = 360.0 if self.east - self.west >= 360 else (self.east - self.west) % 360
        longitude, latitude = np.asarray(longitude, float), np.asarray(latitude, float)
        across = np.mod(longitude - self.west, 360.0) <= width + 1e-9
        return across & (latitude >= self.south) & (latitude <= self.north)


@dataclasses.dataclass(frozen=True)
class StationTable:
    """A table with a row for each station: its name and where it is.

    Args:
        source: path of a CSV or parquet file, or a DataFrame.
        station: column of the names that the observations use.
        longitude: column of degrees east, as numbers or as text such as 10d15'W.
        latitude: column of degrees north.
        elevation: column of meters above the sea, or None.
        text: how the file is written.

    Example:
        >>> StationTable(pd.DataFrame({"id": ["A"], "lon": [8.0], "lat": [50.0]}), station="id").longitude
        'lon'
    """

    source: str | Path | pd.DataFrame
    station: str = "station"
    longitude: str = "lon"
    latitude: str = "lat"
    elevation: str | None = None
    text: TextFormat = TextFormat()


@dataclasses.dataclass(frozen=True)
class TableVariable:
    r"""An observed variable: its column, units, and what is plausible.

    A cell c becomes the value \(y = u(s\,c + o)\) with scale s, offset o, and the conversion u from the unit in the
    file to the one wanted.

    Args:
        name: of the variable.
        column: in the file; None: like the name. (In a wide layout every station has a column of its own.)
        unit: in the file, such as "m s-1", "knot", "degC", "ppb", "1"; None: of the file's row of units, or attribute.
        wanted: unit of the values that come back; None: as in the file.
        scale: of the cells.
        offset: of the cells, after the scale, in the unit of the file.
        missing: numbers or texts that mean missing here, beside those of the layout.
        bounds: least and greatest plausible value, in the unit wanted; or the name of a kind in `PLAUSIBLE`; None: any.
        spike: a value that stands out from the two around it by more than this, in the unit wanted, is flagged; None:
            not checked.
        stuck: as many equal values of a station one after another, or more, are flagged; None: not checked.
        stuck_except: values that may stay for long, such as a rain of 0.
        std: standard deviation of the error: a number in the unit wanted, or the name of a column in the unit of the
            file; None: not known.
        flag: column of flags that the file has; None: it has none.
        good: flags of the values that may be used, as they stand in the file; None: the flags are numbers of `QCFlag`.
        long_name: for files and figures.

    Raises:
        ConfigurationError: if a number is impossible, the kind unknown, or the units not convertible.

    Example:
        >>> TableVariable("wind", unit="knot", wanted="m s-1", bounds="wind_speed").column is None
        True
    """

    name: str
    column: str | None = None
    unit: str | None = None
    wanted: str | None = None
    scale: float = 1.0
    offset: float = 0.0
    missing: tuple[float | str, ...] = ()
    bounds: tuple[float, float] | str | None = None
    spike: float | None = None
    stuck: int | None = None
    stuck_except: tuple[float, ...] = ()
    std: float | str | None = None
    flag: str | None = None
    good: tuple[str | float, ...] | None = None
    long_name: str = ""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale != 0 and math.isfinite(self.offset)):
            raise ConfigurationError(f"TableVariable {self.name}: scale {self.scale} and offset {self.offset} must be "
                                     "finite, and the scale not 0")  # fmt: skip
        if self.spike is not None and not (math.isfinite(self.spike) and self.spike > 0):
            raise ConfigurationError(f"TableVariable {self.name}: spike must be positive, found {self.spike}")
        if self.stuck is not None and self.stuck < 2:
            raise ConfigurationError(f"TableVariable {self.name}: stuck must be at least 2 values, found {self.stuck}")
        if isinstance(self.std, int | float) and not (math.isfinite(self.std) and self.std > 0):
            raise ConfigurationError(f"TableVariable {self.name}: std must be positive, found {self.std}")
        if isinstance(self.bounds, tuple | list) and not (len(self.bounds) == 2 and self.bounds[0] < self.bounds[1]):
            raise ConfigurationError(
                f"TableVariable {self.name}: bounds {self.bounds} must be two numbers that increase"
            )
