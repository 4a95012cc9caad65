"""An analysis as a table beside what was observed, or as a dataset with coordinates, units and times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from diffassim.core.errors import ShapeError
from diffassim.io.fields import Fields
from diffassim.io.observation_table import ObservationTable

__all__ = ["analysis_to_dataset", "analysis_to_table"]


def analysis_to_table(
    analysis: Mapping[str, Any],
    times: Any,
    table: ObservationTable,
    *,
    spread: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Return an analysis at the stations of a table, a row for each time and station, beside what was observed there.

    Args:
        analysis: by variable, in the unit of the table, shape (time, station).
        times: datetime64 in UTC, shape (time,).
        table: the reports that went in: stations, units, zone, flags.
        spread: standard deviations of the analysis, likewise.

    Returns:
        Frame with time (in the zone of the table), station, place, and for each variable its analysis, spread, and the
        observed value and flag at that very time (missing where there is none); units in `attrs["units"]`.
        `write_table` writes it.

    Raises:
        ShapeError: if an array does not fit times and stations.
        ConfigurationError: if a variable is not in the table.

    Example:
        >>> from diffassim.io.columns import TableVariable
        >>> from diffassim.io.layout import LongLayout
        >>> from diffassim.io.read_table import read_table
        >>> frame = pd.DataFrame({"time": ["2021-01-01"], "station": ["A"], "t": [280.0]})
        >>> table = read_table(frame, LongLayout(variables=(TableVariable("t", unit="K"),)))
        >>> found = analysis_to_table({"t": [[280.5], [281.0]]}, np.array(["2021-01-01", "2021-01-02"], "M8[D]"), table)
        >>> found["t_analysis"].tolist(), found["t_observed"].tolist()
        ([280.5, 281.0], [280.0, nan])
    """
    times = np.asarray(times, "datetime64[us]")
    stations = table.stations
    shape = (len(times), len(stations.names))
    zoned = pd.DatetimeIndex(times).tz_localize("UTC").tz_convert(table.zone)
    columns: dict[str, Any] = {
        "time": zoned.repeat(shape[1]),
        "station": np.tile(stations.names, shape[0]),
        "longitude": np.tile(stations.longitude, shape[0]),
        "latitude": np.tile(stations.latitude, shape[0]),
        "elevation": np.tile(stations.elevation, shape[0]),
    }
    units = {"longitude": "degrees_east", "latitude": "degrees_north", "elevation": "m"}
    slot = pd.Index(times).get_indexer(pd.Index(table.time)) if len(times) else np.full(len(table), -1)
    for name, values in analysis.items():
        unit = table.variable(name).units
        given = {"analysis": values} | ({} if spread is None or name not in spread else {"spread": spread[name]})
        for what, array in given.items():
            array = np.asarray(array, float)
            if array.shape != shape:
                raise ShapeError(
                    f"analysis_to_table: {what} of {name} has shape {array.shape}, expected (time, station) {shape}"
                )
            columns[f"{name}_{what}"], units[f"{name}_{what}"] = array.ravel(), unit
        known = np.flatnonzero((slot >= 0) & ~np.isnan(table.values[name]))[::-1]  # of duplicates the first is left
        flags = table.final(name)[known]
        known = known[np.argsort(flags == 0, kind="stable")]  # what was used is written last
        cell = slot[known] * shape[1] + table.station[known]
        observed, flag = np.full(shape[0] * shape[1], np.nan), np.full(shape[0] * shape[1], -1, np.int32)
        observed[cell], flag[cell] = table.values[name][known], table.final(name)[known]
        columns[f"{name}_observed"], units[f"{name}_observed"] = observed, unit
        columns[f"{name}_flag"] = pd.array(np.where(flag < 0, 0, flag), dtype="Int32")
        columns[f"{name}_flag"][flag < 0] = pd.NA
    frame = pd.DataFrame(columns)
    frame.attrs["units"] = units
    return frame


def analysis_to_dataset(
    analysis: Mapping[str, Any],
    fields: Fields,
    *,
    times: Any = None,
    leading: Mapping[str, Any] | None = None,
    spread: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Return an analysis on the grid of fields that were read, with their coordinates, order, units and calendar.

    Args:
        analysis: by variable, shaped like the fields (or with another number of times).
        fields: what was read: coordinates, units, attributes.
        times: of the analysis, where they are not those of the fields.
        leading: name and values of axes in front of all others, such as {"member": range(20)}.
        spread: standard deviations, likewise; they are named `NAME_spread`.

    Raises:
        ShapeError: if an array does not fit.
        ConfigurationError: if a variable is not in the fields.
    """
    dataset = fields.to_dataset(analysis, times=times, leading=leading)
    if spread:
        more = fields.to_dataset(spread, times=times)
        for name in more.data_vars:
            wider = more[name].assign_attrs(long_name=f"standard deviation of {name}")
            wider.attrs.pop("standard_name", None)
            dataset[f"{name}_spread"] = wider
    return dataset
