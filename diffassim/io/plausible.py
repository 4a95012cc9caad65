"""Bounds of what can be measured on Earth, by kind of variable."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from diffassim.core.errors import ConfigurationError
from diffassim.io.messages import shortened, suggested
from diffassim.io.units import converted

__all__ = ["PLAUSIBLE", "plausible_bounds"]

PLAUSIBLE: Mapping[str, tuple[float, float, str]] = MappingProxyType(
    {
        "air_temperature": (-90.0, 60.0, "degC"),
        "dew_point": (-95.0, 40.0, "degC"),
        "water_temperature": (-3.0, 50.0, "degC"),
        "soil_temperature": (-80.0, 90.0, "degC"),
        "sea_level_pressure": (850.0, 1090.0, "hPa"),
        "station_pressure": (300.0, 1100.0, "hPa"),
        "relative_humidity": (0.0, 105.0, "percent"),
        "wind_speed": (0.0, 115.0, "m s-1"),
        "wind_component": (-115.0, 115.0, "m s-1"),
        "wind_direction": (0.0, 360.0, "degree"),
        "hourly_precipitation": (0.0, 410.0, "mm"),
        "daily_precipitation": (0.0, 1900.0, "mm"),
        "precipitation_rate": (0.0, 2400.0, "mm / hour"),
        "snow_depth": (0.0, 12.0, "m"),
        "solar_radiation": (-10.0, 2000.0, "W m-2"),
        "thermal_radiation": (40.0, 800.0, "W m-2"),
        "discharge": (0.0, 4e5, "m3 s-1"),
        "salinity": (0.0, 400.0, "g kg-1"),
        "ozone": (0.0, 1000.0, "ppb"),
        "carbon_dioxide": (100.0, 10000.0, "ppm"),
        "particulate_matter": (0.0, 1e4, "ug m-3"),
    }
)
"""Least and greatest value and their unit: a little beyond the records (World Meteorological Organization, archive of
weather and climate extremes: -89.2 and 56.7 degrees Celsius, 870 and 1083.8 hPa, a gust of 113 m s-1, 1825 mm within a
day, 305 mm within an hour; snow 11.82 m), or what instruments can show. Whatever lies outside is an error for certain;
most errors lie inside, and are a matter for checks against neighbors and the background."""


def plausible_bounds(name: str, kind: str, unit: str) -> tuple[float, float]:
    """Return the bounds of a kind in a unit.

    Args:
        name: of the variable, for messages.
        kind: one of `PLAUSIBLE`.
        unit: of the bounds that come back.

    Raises:
        ConfigurationError: if the kind is unknown, or measured in other units.

    Example:
        >>> plausible_bounds("t", "air_temperature", "K")
        (183.15, 333.15)
    """
    if kind not in PLAUSIBLE:
        raise ConfigurationError(
            f"{name}: no bounds are known for {shortened(repr(kind))}{suggested(kind, PLAUSIBLE)}; kinds are "
            f"{', '.join(sorted(PLAUSIBLE))}; or give two numbers"
        )
    low, high, own = PLAUSIBLE[kind]
    ends = np.round(np.sort(converted(name, [low, high], own, unit)), 9)
    return float(ends[0]), float(ends[1])
