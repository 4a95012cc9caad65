"""How a table of observations is written: what every command that reads one needs to be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from diffassim.core.errors import ConfigurationError
from diffassim.experiments.framework.base import Configuration
from diffassim.io.columns import StationTable, TableVariable, TextFormat, TimeColumns
from diffassim.io.layout import MISSING, LongLayout, TableLayout, WideLayout
from diffassim.io.observation_table import ObservationTable
from diffassim.io.read_table import read_table

__all__ = ["StationVariable", "TableConfiguration"]


class StationVariable(BaseModel):
    """An observed variable, as `TableVariable` describes it, and the scale on which its departures are nearly normal.

    Args:
        name: for files, tables and figures.
        column: in the file; empty: like the name.
        unit: in the file.
        wanted: unit of the results; empty: as in the file.
        scale: of the cells.
        bounds: least and greatest plausible value, or a kind such as "air_temperature"; empty: any.
        spike: what stands out by more than this from the values around it is left out; 0: not checked.
        stuck: as many equal values of a station one after another, or more, are left out; 0: not checked.
        stuck_except: values that may stay for long, such as a rain of 0.
        std: standard deviation of the errors: a number in the unit of the results, or a column in the unit of the file;
            empty: not known.
        root: whether square roots are closer to a normal law, as of wind speeds and precipitation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: Annotated[str, Field(min_length=1)]
    column: str = ""
    unit: str = ""
    wanted: str = ""
    scale: float = 1.0
    bounds: tuple[float, float] | str = ""
    spike: Annotated[float, Field(ge=0)] = 0.0
    stuck: Annotated[int, Field(ge=0)] = 0
    stuck_except: tuple[float, ...] = ()
    std: Annotated[float, Field(gt=0)] | str = ""
    root: bool = False

    @property
    def of_table(self) -> TableVariable:
        """What the reader of tables is told."""
        return TableVariable(
            self.name, self.column or None, self.unit or None, self.wanted or None, scale=self.scale,
            bounds=self.bounds or None, spike=self.spike or None, stuck=self.stuck or None,
            stuck_except=self.stuck_except, std=self.std or None,
        )  # fmt: skip


class TableConfiguration(Configuration):
    """Settings of a table of observations.

    Args:
        file: CSV, parquet, or netCDF in the layout of IODA.
        layout: "long" has a row for each report, "wide" a row for each time and a column for each station.
        variables: what was observed; one for the wide layout.
        time: column of the times, or columns of their parts (year, month, day, hour, minute).
        time_format: as for strptime; empty: ISO 8601, or what the columns' names say.
        zone: time zone of the times, such as "Europe/Berlin".
        century: is added to years below 100.
        doubled: what becomes of a local hour that comes twice: "error", "first", "second", "order" or "missing".
        skipped: what becomes of a local hour that does not exist: "error", "missing" or "shift".
        station: column of the stations' names (long layout), or of `stations_file`.
        longitude: column of degrees east, in the file or in `stations_file`; empty: places are not known.
        latitude: column of degrees north.
        elevation: column of meters above the sea; empty: not known.
        stations_file: table of the stations; empty: places are in the file, or not known.
        stations_in_order: whether its rows are in the order of the wide file's columns, rather than named like them.
        separator: between cells; empty: found out.
        decimal: "." or ",".
        encoding: of the characters; empty: found out.
        missing: numbers or texts that mean missing, beside the usual ones.
        duplicates: of one station and time: "error", "first", "last" or "mean".
    """

    file: Path | None = None
    layout: Literal["long", "wide"] = "long"
    variables: Annotated[tuple[StationVariable, ...], Field(min_length=1)]
    time: str | tuple[str, ...] = "time"
    time_format: str = ""
    zone: str = "UTC"
    century: int = 0
    doubled: Literal["error", "first", "second", "order", "missing"] = "error"
    skipped: Literal["error", "missing", "shift"] = "error"
    station: str = "station"
    longitude: str = ""
    latitude: str = ""
    elevation: str = ""
    stations_file: Path | None = None
    stations_in_order: bool = False
    separator: str = ""
    decimal: Literal[".", ","] = "."
    encoding: str = ""
    missing: tuple[float | str, ...] = ()
    duplicates: Literal["error", "first", "last", "mean"] = "error"

    @model_validator(mode="after")
    def _is_a_table(self) -> Self:
        if self.layout == "wide" and len(self.variables) != 1:
            raise ValueError(f"variables: the wide layout has one, found {len(self.variables)}")
        if len({each.name for each in self.variables}) < len(self.variables):
            raise ValueError("variables: two have the same name")
        if bool(self.longitude) != bool(self.latitude):
            raise ValueError("longitude: give both longitude and latitude, or neither")
        return self

    def table_layout(self) -> TableLayout:
        """Return what the reader of tables is told."""
        text = TextFormat(self.encoding or None, self.separator or None, self.decimal)
        stations = None
        if self.stations_file is not None:
            stations = StationTable(
                self.stations_file, self.station, self.longitude, self.latitude, self.elevation or None, text
            )
        common: dict[str, Any] = {
            "time": TimeColumns(
                self.time, self.time_format or None, zone=self.zone, doubled=self.doubled, skipped=self.skipped,
                century=self.century or None,
            ),
            "stations": stations, "text": text, "missing": (*MISSING, *self.missing), "duplicates": self.duplicates,
        }  # fmt: skip
        variables = tuple(each.of_table for each in self.variables)
        if self.layout == "wide":
            return WideLayout(variable=variables[0], columns="order" if self.stations_in_order else None, **common)
        here = stations is None
        return LongLayout(
            variables=variables, station=self.station, longitude=(self.longitude or None) if here else None,
            latitude=(self.latitude or None) if here else None,
            elevation=(self.elevation or None) if here else None, **common,
        )  # fmt: skip

    def read(self) -> ObservationTable:
        """Return the table of observations.

        Raises:
            ConfigurationError: if the settings do not fit the file, or name none.
            DataError: if the file cannot be read.
        """
        if self.file is None:
            raise ConfigurationError("file: name a table of observations; `diffassim new stations` writes a template")
        return read_table(self.file, self.table_layout())
