"""Tables of observations as netCDF files in the layout of IODA: a group for each aspect, a variable in each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffassim.core.errors import ConfigurationError, DataError
from diffassim.io.messages import shortened, single_line
from diffassim.io.observation_table import ObservationTable
from diffassim.io.places import check_places, places_as_names
from diffassim.io.stations import FLAGS, Stations
from diffassim.models.base import Variable
from diffassim.observations.flags import QCFlag

__all__ = ["IODA_SUFFIXES", "read_ioda", "write_ioda"]

IODA_SUFFIXES = (".nc", ".nc4", ".h5", ".hdf5")
FILL = -3.3687953e38  # what JEDI writes for missing numbers
MOST_PASSED = 3  # PreQC marks of other systems up to here are good: the limit usual for conventional data in JEDI
SECOND = np.timedelta64(1, "s")
EPOCH = np.datetime64("1970-01-01", "us")


def write_ioda(table: ObservationTable, path: str | Path, *, single: bool = False) -> None:
    r"""Write a table as netCDF with the groups MetaData, ObsValue, ObsError, PreQC and EffectiveQC.

    PreQC holds what reading has found, EffectiveQC the flags of the analysis (`with_flags`), or the same; both are
    numbers of `QCFlag` and say so in their attributes.

    Args:
        table: the reports.
        path: of the file.
        single: whether numbers are written in single precision, which JEDI expects; otherwise they come back the same.

    Raises:
        ConfigurationError: if netCDF4 is not installed.

    Example:
        >>> import io
        >>> from diffassim.io.columns import TableVariable
        >>> from diffassim.io.layout import LongLayout
        >>> from diffassim.io.read_table import read_table
        >>> layout = LongLayout(variables=(TableVariable("t", unit="K"),))
        >>> table = read_table(io.StringIO("time,station,t\n2021-01-01,A,280.0\n"), layout)
        >>> write_ioda(table, "t.nc")
        >>> read_ioda("t.nc").equals(table)
        True
    """
    netcdf = _netcdf4()
    real = "f4" if single else "f8"
    with netcdf.Dataset(str(path), "w", format="NETCDF4") as file:
        file.setncatts({"_ioda_layout": "ObsGroup", "_ioda_layout_version": np.int32(0), "title": table.file})
        if table.zone != "UTC":
            file.setncattr("time_zone", table.zone)
        file.createDimension("Location", len(table))
        location = file.createVariable("Location", "i4", ("Location",))
        location[:] = np.arange(len(table), dtype=np.int32)
        meta = file.createGroup("MetaData")
        whole = bool((table.time.astype("datetime64[s]") == table.time).all())
        time = meta.createVariable("dateTime", "i8" if whole else "f8", ("Location",))
        time.units = "seconds since 1970-01-01T00:00:00Z"
        apart = (table.time - EPOCH).astype(np.int64)
        time[:] = apart // 1_000_000 if whole else apart / 1e6
        places = table.places()
        named = (("longitude", "degrees_east"), ("latitude", "degrees_north"), ("stationElevation", "m"))
        for k, (name, unit) in enumerate(named):
            _write(meta, name, real, places[:, k], {"units": unit})
        names = meta.createVariable("stationIdentification", str, ("Location",))
        names[:] = table.stations.names[table.station].astype(object)
        row = meta.createVariable("sequenceNumber", "i4", ("Location",))
        row.long_name = "row in the file that the table was read from"
        row[:] = table.row
        for variable in table.variables:
            name, attributes = (
                variable.name,
                {"units": variable.units, "long_name": variable.long_name or variable.name},
            )
            _write(_group(file, "ObsValue"), name, real, table.values[name], attributes)
            if name in table.std:
                _write(_group(file, "ObsError"), name, real, table.std[name], attributes)
            _write_flags(_group(file, "PreQC"), name, table.flags[name])
            if table.effective is not None:
                _write_flags(_group(file, "EffectiveQC"), name, table.effective[name])


def read_ioda(path: str | Path) -> ObservationTable:
    """Read a netCDF file in the layout of IODA.

    Marks of PreQC that are no `QCFlag`s pass up to 3, which is usual for conventional data in JEDI. Stations are told
    apart by name; one that reports from several places moves.

    Raises:
        DataError: if the file is missing or damaged, or lacks groups or variables.
        ConfigurationError: if netCDF4 is not installed.
    """
    path = Path(path)
    name = shortened(path.name)
    if not path.is_file():
        raise DataError(f"{shortened(path, 300)}: no such file")
    netcdf = _netcdf4()
    try:
        file = netcdf.Dataset(str(path), "r")
    except OSError as error:
        raise DataError(f"{name}: not a whole netCDF file ({single_line(error, 100)})") from None
    with file:
        for group in ("MetaData", "ObsValue"):
            if group not in file.groups:
                raise DataError(
                    f"{name}: has no group {group!r}, so it is not in the layout of IODA; it has "
                    f"{shortened(', '.join([*file.groups, *file.variables]), 200) or 'nothing'}"
                )
        values = file.groups["ObsValue"].variables
        if not values:
            raise DataError(f"{name}: the group 'ObsValue' holds no variables")
        for variable in values.values():
            if variable.ndim != 1:
                raise DataError(f"{name}: ObsValue/{variable.name} has the axes {variable.dimensions}, expected one")
        table = _table(name, file, values)
    return table.rows(np.argsort(table.time, kind="stable"))


def _table(name: str, file: Any, values: Any) -> ObservationTable:
    meta = file.groups["MetaData"].variables
    time = _times(name, meta)
    count = len(time)
    place = np.full((count, 3), np.nan)
    for k, options in enumerate((("longitude",), ("latitude",), ("stationElevation", "elevation", "height"))):
        given = [option for option in options if option in meta]
        if given:
            place[:, k] = _numbers(meta[given[0]])
    if "stationIdentification" in meta:
        labels = np.asarray(meta["stationIdentification"][:], dtype=object)
    else:
        codes, labels = places_as_names(place[:, 0], place[:, 1])
        if (codes < 0).any():
            raise DataError(f"{name}: {int((codes < 0).sum())} reports have neither stationIdentification nor a place")
        labels = labels[codes]
    station, names = pd.factorize(labels)
    first = np.unique(station, return_index=True)[1]
    row = np.asarray(meta["sequenceNumber"][:], np.int32) if "sequenceNumber" in meta else np.arange(1, count + 1)
    check_places(name, labels, place[:, 0], place[:, 1], row, None)
    stations = Stations(np.asarray(names, dtype=object), *place[first].T)
    moves = not np.array_equal(place[first][station], place, equal_nan=True)
    found: dict[str, dict[str, np.ndarray]] = {"values": {}, "std": {}, "flags": {}, "effective": {}}
    for key, variable in values.items():
        found["values"][key] = _numbers(variable)
        found["flags"][key] = _flags(file, "PreQC", key, count)
        found["flags"][key][np.isnan(found["values"][key])] = QCFlag.MISSING
        if "ObsError" in file.groups and key in file.groups["ObsError"].variables:
            found["std"][key] = _numbers(file.groups["ObsError"].variables[key])
        if "EffectiveQC" in file.groups:
            found["effective"][key] = _flags(file, "EffectiveQC", key, count)
    described = tuple(
        Variable(key, ("report",), str(getattr(v, "units", "1")), _long_name(key, v)) for key, v in values.items()
    )
    return ObservationTable(
        time=time, station=station.astype(np.int32), stations=stations, variables=described, values=found["values"],
        flags=found["flags"], std=found["std"], row=row.astype(np.int32), file=name,
        zone=str(getattr(file, "time_zone", "UTC")), effective=found["effective"] or None,
        track=place if moves else None,
    )  # fmt: skip


def _times(name: str, meta: Any) -> np.ndarray:
    for option in ("dateTime", "datetime"):
        if option not in meta:
            continue
        variable = meta[option]
        if variable.dtype is str or variable.dtype.kind in "SUO":
            return np.array([str(text).rstrip("Z") for text in variable[:]], "datetime64[us]")
        unit, _, since = str(getattr(variable, "units", "")).partition(" since ")
        lengths = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
        length = lengths.get(unit.strip().lower().rstrip("s"))
        if length is None or not since:
            raise DataError(f"{name}: MetaData/{option} has the units {getattr(variable, 'units', None)!r}")
        raw = np.ma.filled(np.ma.asarray(variable[:]).astype(float), np.nan)
        if np.isnan(raw).any():
            raise DataError(f"{name}: {int(np.isnan(raw).sum())} times of MetaData/{option} are missing")
        start = np.datetime64(since.strip().rstrip("Z").replace(" ", "T"), "us")
        return start + np.round(raw * length * 1e6).astype(np.int64) * np.timedelta64(1, "us")
    raise DataError(f"{name}: MetaData holds no dateTime; it has {shortened(', '.join(meta), 200)}")


def _numbers(variable: Any) -> np.ndarray:
    values = np.ma.filled(np.ma.asarray(variable[:]).astype(float), np.nan)
    return np.where(np.abs(values) > 1e37, np.nan, values)  # fill values of other conventions


def _flags(file: Any, group: str, key: str, count: int) -> np.ndarray:
    variables = file.groups[group].variables if group in file.groups else {}
    if key not in variables:
        return np.zeros(count, np.uint8)
    marks = np.ma.filled(np.ma.asarray(variables[key][:]), QCFlag.MISSING).astype(np.int64)
    if group == "PreQC" and not hasattr(variables[key], "flag_values"):
        return np.where(marks <= MOST_PASSED, QCFlag.PASS, QCFlag.PRE_QC).astype(np.uint8)
    return np.where(np.isin(marks, list(FLAGS)), marks, QCFlag.PRE_QC).astype(np.uint8)


def _long_name(key: str, variable: Any) -> str:
    text = str(getattr(variable, "long_name", ""))
    return "" if text == key else text


def _write(group: Any, name: str, kind: str, values: np.ndarray, attributes: dict[str, str]) -> None:
    fill = np.array(FILL, kind)
    variable = group.createVariable(name, kind, ("Location",), fill_value=fill)
    variable.setncatts(attributes)
    variable[:] = np.where(np.isnan(values), fill, values)


def _write_flags(group: Any, name: str, flags: np.ndarray) -> None:
    variable = group.createVariable(name, "i4", ("Location",))
    variable.flag_values = np.array(list(FLAGS), np.int32)
    variable.flag_meanings = " ".join(flag.name.lower() for flag in FLAGS.values())
    variable[:] = flags.astype(np.int32)


def _group(file: Any, name: str) -> Any:
    return file.groups[name] if name in file.groups else file.createGroup(name)


def _netcdf4() -> Any:
    try:
        import netCDF4
    except ImportError:
        raise ConfigurationError("netCDF files need the package netCDF4: pip install 'diffassim[data]'") from None
    return netCDF4
