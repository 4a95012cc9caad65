"""Reading gridded fields: packed or not, in any order of axes, calendar and convention of longitudes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from diffassim.core.errors import ConfigurationError, DataError
from diffassim.io.axes import Axes, find_axes, longitude_order
from diffassim.io.columns import Region, one_of
from diffassim.io.fields import LATITUDE, LONGITUDE, TIME, Fields, FileOrder, require_zarr
from diffassim.io.messages import shortened, single_line, suggested
from diffassim.io.units import converted
from diffassim.models.base import Variable

__all__ = ["read_fields"]


def read_fields(
    paths: str | Path | Sequence[str | Path],
    variables: Sequence[str] | Mapping[str, str] | None = None,
    *,
    region: Region | None = None,
    start: Any = None,
    end: Any = None,
    longitudes: str = "file",
) -> Fields:
    """Read fields from one file, or from several that follow each other in time.

    Packed values are unpacked, fill values become NaN, latitudes and longitudes ascend, axes come in the order (time,
    further axes, latitude, longitude), bytes in that of the machine; what the file had is kept for writing back.

    Args:
        paths: netCDF files or zarr stores (.zarr).
        variables: names, or a mapping from name to the unit wanted; None: all that have latitude and longitude.
        region: part that is read.
        start: first time that is read, as text ("2021-05", "2021-05-31T06") in the calendar of the file.
        end: last time that is read ("2021-05" is read to its end).
        longitudes: "file" (ascending), "-180..180" or "0..360".

    Returns:
        The fields.

    Raises:
        ConfigurationError: if a variable is not there, or a unit cannot be converted.
        DataError: if a file is missing or damaged, its axes are not regular, or nothing is left.

    Example:
        >>> coordinates = {"lat": ("lat", [50.0, 40.0], {"units": "degrees_north"}), "lon": [0.0, 120.0, 240.0]}
        >>> source = xr.Dataset({"t": (("lat", "lon"), np.arange(6.0).reshape(2, 3), {"units": "degC"})}, coordinates)
        >>> source.to_netcdf("t.nc", engine="netcdf4")
        >>> fields = read_fields("t.nc", {"t": "K"}, longitudes="-180..180")
        >>> fields.latitude.tolist(), fields.longitude.tolist(), fields.values["t"][0].tolist()
        ([40.0, 50.0], [-120.0, 0.0, 120.0], [278.15, 276.15, 277.15])
    """
    one_of("read_fields: longitudes", longitudes, ("file", "-180..180", "0..360"))
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    if not given:
        raise ConfigurationError("read_fields: no paths were given")
    parts: list[xr.Dataset] = []
    first: Axes | None = None
    names: list[str] = []
    for path in given:
        with _opened(Path(path)) as dataset:
            file = shortened(Path(path).name)
            axes = find_axes(file, dataset)
            names = _chosen(file, dataset, axes, names or variables)
            if first is not None and axes != first:
                raise DataError(f"{file}: has the axes {tuple(axes)}, but the first file {tuple(first)}")
            first = axes
            part = dataset[names]
            if axes.time is not None and axes.time in dataset.dims:
                part = _between(file, part, axes.time, start, end)
            parts.append(_part(part, axes, region).load())
    name = shortened(Path(given[0]).name)
    dataset = _joined(name, parts, axes)
    return _fields(
        name, dataset, axes, names, dict(variables) if isinstance(variables, Mapping) else {}, longitudes, region
    )


def _opened(path: Path) -> xr.Dataset:
    if not path.exists():
        raise DataError(f"{shortened(path, 300)}: no such file or store")
    settings: dict[str, Any] = {"engine": "netcdf4"}
    if path.suffix == ".zarr" or path.is_dir():
        require_zarr(path.name)
        settings = {"engine": "zarr", "consolidated": False}
    try:
        return xr.open_dataset(path, **settings)
    except Exception as error:  # whatever the bytes make the libraries raise
        problem = single_line(f"{type(error).__name__}: {error}", 150)
        raise DataError(f"{shortened(path.name)}: cannot be read ({problem}); restore it from its source") from None


def _between(file: str, dataset: xr.Dataset, axis: str, start: Any, end: Any) -> xr.Dataset:
    _require_increasing(file, dataset[axis].values)
    if start is None and end is None:
        return dataset
    try:
        return dataset.sel({axis: slice(start, end)})
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"{file}: start {shortened(repr(start))} and end {shortened(repr(end))} are no times of its calendar "
            f"({single_line(error, 100)}); write them as '2021-05-31T06'"
        ) from None


def _require_increasing(file: str, times: np.ndarray) -> None:
    if len(times) > 1 and not (times[1:] > times[:-1]).all():
        at = int(np.argmin(times[1:] > times[:-1]))
        raise DataError(f"{file}: the time {times[at + 1]} follows {times[at]}; times must increase")


def _chosen(file: str, dataset: xr.Dataset, axes: Axes, variables: Any) -> list[str]:
    """Return the names of the variables that are read."""
    fields = [
        str(name) for name, variable in dataset.data_vars.items()
        if {axes.latitude, axes.longitude} <= set(variable.dims) and variable.dtype.kind in "fiu"
    ]  # fmt: skip
    for name in variables or ():
        if name not in fields:
            raise ConfigurationError(
                f"{file}: has no field {shortened(repr(name))} on latitude and longitude{suggested(name, fields)}; it "
                f"has {shortened(', '.join(fields), 200) or 'none'}"
            )
    if not fields:
        raise DataError(f"{file}: has no variable with the axes {axes.latitude} and {axes.longitude}")
    return list(variables) if variables else fields


def _part(dataset: xr.Dataset, axes: Axes, region: Region | None) -> xr.Dataset:
    """Return the part of a dataset inside of a region, before anything is read."""
    if region is None:
        return dataset
    latitude, longitude = (dataset[axis].values.astype(float) for axis in (axes.latitude, axes.longitude))
    inside = {
        axes.latitude: np.flatnonzero((latitude >= region.south) & (latitude <= region.north)),
        axes.longitude: np.flatnonzero(region.holds(longitude, np.full(len(longitude), region.south))),
    }
    return dataset.isel(inside)


def _joined(file: str, parts: list[xr.Dataset], axes: Axes) -> xr.Dataset:
    if len(parts) == 1:
        return parts[0]
    if axes.time is None:
        raise DataError(f"{file}: has no axis of time along which several files could follow each other")
    for part in parts[1:]:
        for axis in (axes.latitude, axes.longitude):
            if not np.array_equal(part[axis].values, parts[0][axis].values):
                raise DataError(f"{file}: the files have different {axis}")
    parts = sorted((part for part in parts if part.sizes[axes.time]), key=lambda part: part[axes.time].values[0])
    if not parts:
        raise DataError(f"{file}: no time is left between start and end")
    joined = xr.concat(parts, axes.time, data_vars="minimal", coords="minimal", compat="override", join="exact")
    joined[axes.time].encoding = parts[0][axes.time].encoding
    return joined


def _fields(
    file: str, dataset: xr.Dataset, axes: Axes, names: list[str], wanted: dict[str, str], kind: str,
    region: Region | None,
) -> Fields:  # fmt: skip
    empty = [str(dim) for dim, size in dataset.sizes.items() if not size]
    if empty:
        raise DataError(f"{file}: nothing is left of the axis {empty[0]} inside of the region and times")
    latitude, longitude = (_native(dataset[axis].values).astype(float) for axis in (axes.latitude, axes.longitude))
    _check(file, axes, latitude, longitude)
    latitudes = np.argsort(latitude, kind="stable")
    longitudes, shown = longitude_order(longitude, kind, region)
    times = None
    if axes.time is not None and axes.time in dataset.dims:
        times = dataset[axes.time].values
        _require_increasing(file, times)
    standard = {axes.latitude: LATITUDE, axes.longitude: LONGITUDE, axes.time: TIME}
    values, described, dims, attributes = {}, [], {}, {}
    for name in names:
        found = dataset[name]
        further = [dim for dim in found.dims if dim not in standard]
        order = [*([axes.time] if axes.time in found.dims else []), *further, axes.latitude, axes.longitude]
        array = _native(found.transpose(*order).values)
        array = array if array.dtype.kind == "f" else array.astype(float)
        array = array[..., latitudes, :][..., longitudes]
        unit = str(found.attrs.get("units", "")).strip()
        if name in wanted:
            if not unit:
                raise ConfigurationError(f"{file}: {name} has no unit, so it cannot be converted into {wanted[name]!r}")
            array = converted(f"{file}: {name}", array, unit, wanted[name]).astype(array.dtype)
        long_name = str(found.attrs.get("long_name", ""))
        values[name] = array
        described.append(
            Variable(
                name, tuple(standard.get(str(dim), str(dim)) for dim in order), wanted.get(name, unit or "1"), long_name
            )
        )
        dims[name], attributes[name] = tuple(map(str, found.dims)), dict(found.attrs)
    template = dataset.drop_vars(names)
    for coordinate in template.coords.values():
        coordinate.attrs.pop("bounds", None)  # the cells' bounds are not read
    template.attrs = {**dataset.attrs, "_variables": attributes}
    further_axes = {str(d): dataset[d].values for d in dataset.dims if d not in standard and d in dataset.coords}
    return Fields(
        values, tuple(described), latitude[latitudes], shown, times, further_axes,
        FileOrder(template, axes, latitudes, longitudes, dims),
    )  # fmt: skip


def _check(file: str, axes: Axes, latitude: np.ndarray, longitude: np.ndarray) -> None:
    for axis, values, limit in ((axes.latitude, latitude, 90.0), (axes.longitude, longitude, 540.0)):
        wrong = ~(np.abs(values) <= limit + 1e-6)
        if wrong.any():
            raise DataError(f"{file}: {axis} holds {values[wrong][0]:g}, not within {limit:g} degrees of 0")
        if len(np.unique(values)) != len(values):
            raise DataError(f"{file}: {axis} holds the same value twice")


def _native(array: np.ndarray) -> np.ndarray:
    """Return an array in the byte order of this machine, which JAX needs."""
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
