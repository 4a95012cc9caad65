"""Layouts of tables of observations: a row for each report, or a row for each time."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from diffassim.core.errors import ConfigurationError
from diffassim.io.columns import Region, StationTable, TableVariable, TextFormat, TimeColumns, one_of

__all__ = ["MISSING", "Layout", "LongLayout", "TableLayout", "WideLayout"]

MISSING = ("", "NA", "N/A", "n/a", "na", "NaN", "nan", "NAN", "null", "NULL", "None", "none", "M", "-", "--", "missing")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """What long and wide tables have in common.

    Args:
        time: columns and form of the times.
        stations: table of the stations' places; None: in the table, or not known.
        text: how a file of text is written.
        missing: numbers or texts that mean missing in every column of numbers.
        duplicates: what becomes of several reports of a station at one time: "error", the "first" or "last" one
            counts, or their "mean"; those that do not count are flagged, or left out where the mean has taken them in.
        step: of the time axis, such as "1h" or "1D"; reports between the steps are said. None: any times.
        region: where all places lie; a station elsewhere is an error.
        chunk: rows that are read at a time.
    """

    time: TimeColumns = dataclasses.field(default_factory=TimeColumns)
    stations: StationTable | None = None
    text: TextFormat = dataclasses.field(default_factory=TextFormat)
    missing: tuple[float | str, ...] = MISSING
    duplicates: Literal["error", "first", "last", "mean"] = "error"
    step: str | None = None
    region: Region | None = None
    chunk: int = 250_000

    def __post_init__(self) -> None:
        one_of(f"{type(self).__name__}: duplicates", self.duplicates, ("error", "first", "last", "mean"))
        if self.chunk < 1:
            raise ConfigurationError(f"{type(self).__name__}: chunk must be at least 1 row, found {self.chunk}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LongLayout(Layout):
    """A row for each report: time, station, and a column for each variable.

    Args:
        variables: the observed variables.
        station: column of the stations' names; None: all of one place are a station.
        longitude: column of degrees east in this table; None: in `stations`, or not known.
        latitude: column of degrees north.
        elevation: column of meters above the sea.
        moving: whether a station may report from several places (ships, drifters).
        only: name of the only station, where no column tells stations or places apart.

    Raises:
        ConfigurationError: if there is no variable, or two have one name.

    Example:
        >>> layout = LongLayout(
        ...     time=TimeColumns("when", "%d.%m.%Y %H:%M", zone="Europe/Berlin", doubled="order"),
        ...     variables=(TableVariable("wind", "ff", "knot", "m s-1", bounds="wind_speed"),),
        ...     station="id", longitude="lon", latitude="lat", text=TextFormat(separator=";", decimal=","),
        ... )
        >>> layout.variables[0].name
        'wind'
    """

    variables: tuple[TableVariable, ...]
    station: str | None = "station"
    longitude: str | None = None
    latitude: str | None = None
    elevation: str | None = None
    moving: bool = False
    only: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        given = (self.variables,) if isinstance(self.variables, TableVariable) else tuple(self.variables)
        object.__setattr__(self, "variables", given)
        names = [variable.name for variable in given]
        if not names or len(set(names)) != len(names):
            raise ConfigurationError(f"LongLayout: variables must have names of their own, found {names}")
        if (self.longitude is None) != (self.latitude is None):
            raise ConfigurationError("LongLayout: give both longitude and latitude, or neither")
        if self.station is None and self.longitude is None and not self.only:
            raise ConfigurationError(
                "LongLayout: without a column of stations, longitude and latitude tell places apart; or name the only "
                "one with `only`"
            )
        if self.only and (self.station is not None or self.longitude is not None):
            raise ConfigurationError("LongLayout: `only` names a station where no column does; give one of them")


@dataclasses.dataclass(frozen=True, kw_only=True)
class WideLayout(Layout):
    """A row for each time, and a column for each station, all of one variable.

    Args:
        variable: what is observed.
        columns: how columns and stations belong together: None: a column has the name of its station, and the file has
            no others; names of those columns that are stations; a mapping from column to station; or "order": the k-th
            column after the times belongs to the k-th row of `stations`.

    Example:
        >>> layout = WideLayout(time=TimeColumns("date"), variable=TableVariable("ozone", unit="ppb"), columns=("A",))
        >>> layout.columns
        ('A',)
    """

    variable: TableVariable
    columns: tuple[str, ...] | Mapping[str, str] | Literal["order"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.columns, str) and self.columns != "order":
            raise ConfigurationError(f"WideLayout: columns must be names, a mapping or 'order', found {self.columns!r}")
        if self.columns == "order" and self.stations is None:
            raise ConfigurationError("WideLayout: columns='order' needs a table of stations")
        if isinstance(self.columns, list):
            object.__setattr__(self, "columns", tuple(self.columns))

    @property
    def variables(self) -> tuple[TableVariable, ...]:
        """The one variable."""
        return (self.variable,)


TableLayout = LongLayout | WideLayout
