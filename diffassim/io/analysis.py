"""An analysis as a table beside what was observed, or as a dataset with coordinates, units and times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.io.fields import Fields
from diffassim.io.observation_table import ObservationTable
from diffassim.io.stations import FLAGS

__all__ = ["analysis_to_dataset", "analysis_to_table", "stations_to_dataset"]


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


def stations_to_dataset(frame: pd.DataFrame) -> xr.Dataset:
    """Return the frame of an analysis at stations as a dataset of (time, station) with CF attributes.

    Args:
        frame: as `analysis_to_table` returns it: a row for each time and station.

    Returns:
        Dataset with times in UTC (the zone of the frame stands in its attributes), names and places of the stations as
        coordinates; flags that are not there are -1.

    Raises:
        ConfigurationError: if the frame has no times and stations, or two rows of one.

    Example:
        >>> time = pd.DatetimeIndex(["2021-01-01", "2021-01-01"], tz="Europe/Berlin")
        >>> frame = pd.DataFrame({"time": time, "station": ["A", "B"], "t_analysis": [280.0, 281.0]})
        >>> found = stations_to_dataset(frame)
        >>> found["t_analysis"].values.tolist(), found.attrs["time_zone"]
        ([[280.0, 281.0]], 'Europe/Berlin')
    """
    if not {"time", "station"} <= set(frame.columns):
        raise ConfigurationError(f"stations_to_dataset: needs columns time and station, found {list(frame.columns)}")
    zone = str(frame["time"].dt.tz or "UTC")
    naive = (
        frame["time"].dt.tz_convert("UTC").dt.tz_localize(None) if frame["time"].dt.tz is not None else frame["time"]
    )
    row, times = pd.factorize(naive, sort=True)
    column, names = pd.factorize(frame["station"])
    shape = (len(times), len(names))
    cell = row * shape[1] + column
    if len(np.unique(cell)) != len(cell):
        raise ConfigurationError("stations_to_dataset: the frame has two rows of one station and time")
    units = dict(frame.attrs.get("units", {}))
    first = np.unique(column, return_index=True)[1]
    dataset = xr.Dataset(
        coords={"time": ("time", np.asarray(times)), "station": ("station", np.asarray(names, dtype=object))},
        attrs={"Conventions": "CF-1.11", "featureType": "timeSeries", "time_zone": zone},
    )
    dataset["station"].attrs = {"cf_role": "timeseries_id"}
    for name in frame.columns.drop(["time", "station"]):
        attributes: dict[str, Any] = {"units": str(units[name])} if name in units else {}
        if name in ("longitude", "latitude", "elevation"):
            values = frame[name].to_numpy(dtype=float)[first]
            dataset.coords[name] = ("station", values, {**attributes, "standard_name": _STANDARD[name]})
            continue
        flags = pd.api.types.is_integer_dtype(frame[name].dtype)
        out = np.full(shape[0] * shape[1], -1 if flags else np.nan, np.int32 if flags else float)
        out[cell] = frame[name].to_numpy(dtype=np.int32, na_value=-1) if flags else frame[name].to_numpy(dtype=float)
        if flags:
            attributes |= {"flag_values": np.array(list(FLAGS), np.int32), "flag_meanings": _meanings()}
        dataset[name] = (("time", "station"), out.reshape(shape), attributes)
    return dataset


_STANDARD = {"longitude": "longitude", "latitude": "latitude", "elevation": "surface_altitude"}


def _meanings() -> str:
    return " ".join(flag.name.lower() for flag in FLAGS.values())
