"""Gridded fields from netCDF and zarr with CF attributes, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.grids import Sphere
from diffassim.io.axes import Axes
from diffassim.io.messages import shortened, suggested
from diffassim.models.base import Variable

__all__ = ["Fields", "FileOrder", "write_fields"]

TIME, LATITUDE, LONGITUDE = "time", "latitude", "longitude"
PLAIN = {
    LATITUDE: {"standard_name": "latitude", "units": "degrees_north", "axis": "Y"},
    LONGITUDE: {"standard_name": "longitude", "units": "degrees_east", "axis": "X"},
    TIME: {"standard_name": "time", "axis": "T"},
}
GLOBAL = 1.5  # of a step: a smaller gap between the last longitude and the first is none


class FileOrder(NamedTuple):
    """How a file has what `Fields` hold in ascending order.

    template, a dataset of its coordinates and attributes; axes, their names; latitudes and longitudes, the entry of the
    file that each entry of the fields is; dims, of each variable, in the file's order.
    """

    template: xr.Dataset
    axes: Axes
    latitudes: np.ndarray
    longitudes: np.ndarray
    dims: dict[str, tuple[str, ...]]


@dataclasses.dataclass(frozen=True, eq=False)
class Fields:
    """Fields on latitude and longitude in the order (time, further axes, latitude, longitude), both ascending.

    Args:
        values: by variable, floating point, NaN where missing.
        variables: name, dimensions, unit and long name of each.
        latitude: degrees north, shape (latitude,).
        longitude: degrees east, shape (longitude,).
        times: datetime64, or dates of another calendar (cftime), shape (time,); None without an axis of time.
        coordinates: of further axes, such as levels, by name.
        order: of the file they come from; None: there is none.

    Example:
        >>> fields = Fields(
        ...     {"t": np.zeros((2, 3))}, (Variable("t", ("latitude", "longitude"), "K"),), np.array([40.0, 50.0]),
        ...     np.array([0.0, 120.0, 240.0]), None, {},
        ... )
        >>> fields.grid().shape, fields.places([-10.0], [45.0]).tolist()
        ((2, 3), [[45.0, 350.0]])
    """

    values: Mapping[str, np.ndarray]
    variables: tuple[Variable, ...]
    latitude: np.ndarray
    longitude: np.ndarray
    times: np.ndarray | None
    coordinates: Mapping[str, np.ndarray]
    order: FileOrder | None = None

    def variable(self, name: str) -> Variable:
        """Return name, dimensions and unit of a variable; raise `ConfigurationError` if there is none."""
        for variable in self.variables:
            if variable.name == name:
                return variable
        known = [variable.name for variable in self.variables]
        raise ConfigurationError(
            f"Fields: there is no variable {shortened(repr(name))}{suggested(name, known)}; there are "
            f"{', '.join(known)}"
        )

    def grid(self) -> Sphere:
        """Return the grid of the two trailing axes."""
        return Sphere(self.latitude[:, None], self.longitude)

    def places(self, longitude: Any, latitude: Any, elevation: Any = None) -> np.ndarray:
        """Return (latitude, longitude) of places in the convention of these fields, NaN outside of a regional grid.

        It is what `observations_from_table(places=fields.places)` needs beside `Interpolate` with the spacing and
        origin of `latitude` and `longitude`.

        Args:
            longitude: degrees east, shape (n,).
            latitude: degrees north, shape (n,).
            elevation: not used.

        Returns:
            Array of shape (n, 2).
        """
        longitude, latitude = np.asarray(longitude, float), np.asarray(latitude, float)
        first, last = float(self.longitude[0]), float(self.longitude[-1])
        step = (last - first) / max(len(self.longitude) - 1, 1)
        along = first + np.mod(longitude - first, 360.0)
        if 360.0 - (last - first) > GLOBAL * step:
            outside = (along > last) | (latitude < self.latitude[0]) | (latitude > self.latitude[-1])
            along = np.where(outside, np.nan, along)
        return np.stack([latitude, along], axis=-1)

    def to_dataset(
        self,
        values: Mapping[str, Any] | None = None,
        *,
        times: Any = None,
        leading: Mapping[str, Any] | None = None,
    ) -> xr.Dataset:
        """Return a dataset with the coordinates, order, attributes and calendar of the file that was read.

        Args:
            values: by variable, shaped like those of the fields; default: the fields' own. A variable of the file with
                an axis of time may come without it.
            times: instead of those of the fields.
            leading: name and values of axes in front of all others, such as {"member": range(20)}.

        Raises:
            ShapeError: if an array does not fit.
            ConfigurationError: if a variable is not in the fields.
        """
        values = self.values if values is None else values
        leading = {} if leading is None else dict(leading)
        times = self.times if times is None else np.asarray(times)
        names = self._names()
        dataset = self._coordinates(times, leading, names)
        for name, array in values.items():
            variable, array = self.variable(name), np.asarray(array)
            dims = (*leading, *variable.dims)
            if TIME in dims and array.ndim == len(dims) - 1:
                dims = tuple(dim for dim in dims if dim != TIME)
            sizes = {names.get(dim, dim): size for dim, size in zip(dims, array.shape, strict=False)}
            known = {dim: size for dim, size in dataset.sizes.items() if dim in sizes}
            if array.ndim != len(dims) or any(sizes[str(dim)] != size for dim, size in known.items()):
                raise ShapeError(f"to_dataset: {name} has shape {array.shape}, expected {dims} of lengths {known}")
            attributes = {"units": variable.units, "long_name": variable.long_name or name}
            if self.order is not None:
                attributes = {**self.order.template.attrs.get("_variables", {}).get(name, {}), **attributes}
                for axis, order in ((-2, self.order.latitudes), (-1, self.order.longitudes)):
                    array = np.take(array, np.argsort(order), axis=axis)
            dataset[name] = (tuple(names.get(dim, dim) for dim in dims), array, attributes)
            if self.order is not None:
                dataset[name] = dataset[name].transpose(
                    *leading, *(d for d in self.order.dims[name] if d in dataset[name].dims)
                )
        return dataset

    def _names(self) -> dict[str, str]:
        """Return the names of the axes in the file."""
        axes = Axes(LATITUDE, LONGITUDE, TIME) if self.order is None else self.order.axes
        return {LATITUDE: axes.latitude, LONGITUDE: axes.longitude, TIME: axes.time or TIME}

    def _coordinates(self, times: Any, leading: Mapping[str, Any], names: dict[str, str]) -> xr.Dataset:
        if self.order is None:
            coordinates = {
                LATITUDE: (LATITUDE, self.latitude, PLAIN[LATITUDE]),
                LONGITUDE: (LONGITUDE, self.longitude, PLAIN[LONGITUDE]),
                **{name: (name, array) for name, array in self.coordinates.items()},
            }
            dataset = xr.Dataset(coords=coordinates, attrs={"Conventions": "CF-1.11"})
        else:
            dataset = self.order.template.copy()
            dataset.attrs = {key: value for key, value in dataset.attrs.items() if key != "_variables"}
        if times is not None and times.ndim == 1:
            name = names[TIME]
            attributes = dict(dataset[name].attrs) if name in dataset.coords else PLAIN[TIME]
            encoding = dict(dataset[name].encoding) if name in dataset.coords else {}
            if name in dataset.coords:
                dataset = dataset.drop_vars(name)
            dataset = dataset.assign_coords({name: (name, times, attributes)})
            dataset[name].encoding = encoding
        return dataset.assign_coords({name: (name, np.asarray(array)) for name, array in leading.items()})


def write_fields(dataset: xr.Dataset | Fields, path: str | Path) -> None:
    """Write fields, or the dataset of an analysis, as netCDF (.nc) or zarr (.zarr).

    Values are written as floating-point numbers: packed integers would round what an analysis has added.

    Args:
        dataset: fields, or what `to_dataset` or `analysis_to_dataset` has returned.
        path: of the file or store, which is replaced.

    Raises:
        ConfigurationError: if the ending is another, or zarr is not installed.
    """
    path = Path(path)
    dataset = dataset.to_dataset() if isinstance(dataset, Fields) else dataset
    if path.suffix == ".zarr":
        require_zarr(path.name)
        dataset.to_zarr(path, mode="w", consolidated=False)
    elif path.suffix in (".nc", ".nc4"):
        dataset.to_netcdf(path, engine="netcdf4")
    else:
        raise ConfigurationError(f"write_fields: {shortened(path.name)} must end with .nc or .zarr")


def require_zarr(name: str) -> None:
    """Raise `ConfigurationError`, naming a file, unless zarr is installed."""
    try:
        import zarr  # noqa: F401
    except ImportError:
        raise ConfigurationError(f"{shortened(name)}: zarr stores need zarr: pip install 'diffassim[files]'") from None
