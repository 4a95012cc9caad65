"""Gridded variables of several files as one record in time, of which only what is asked for is read."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from diffassim.core.errors import ConfigurationError, DataError, ShapeError
from diffassim.io.messages import shortened, single_line

__all__ = ["FieldFiles"]

CACHE = 2**27  # bytes of chunks that netCDF keeps of all files together; its own choice is 64 MiB for each variable
OPEN = 128  # files that xarray keeps open
TOLERANCE = 1e-3  # of a step: how exactly times in floating-point numbers lie on a regular axis


class FieldFiles:
    """Variables along time, in netCDF files, zarr stores or datasets, which are brought into order of time.

    Args:
        files: path of a netCDF file or zarr store (or its address), dataset, or several of them.
        variables: name of each variable with the dimensions that it is to have beside time (None: those of the first
            file) and its unit (None: that of the first file).
        time: name of the dimension of time.

    Raises:
        ConfigurationError: if a library for such files is not installed, or no file is given.
        DataError: if a file cannot be read, a variable or the time is missing, units, dimensions or coordinates differ
            between files, or times are repeated, out of order, or not on one regular axis with gaps.

    Example:
        >>> dataset = xr.Dataset({"t": (("time", "x"), np.ones((3, 2)))}, {"time": [0.0, 1.0, 4.0]})
        >>> record = FieldFiles(dataset, {"t": (None, None)})
        >>> record.offsets.tolist(), record.rows("t", np.array([2])).shape
        ([0, 1, 4], (1, 2))
    """

    def __init__(
        self, files: Any, variables: Mapping[str, tuple[Sequence[str] | None, str | None]], *, time: str = "time"
    ) -> None:
        given = [files] if isinstance(files, str | Path | xr.Dataset) else list(files)
        if not given:
            raise ConfigurationError("FieldFiles: give at least one file")
        self.time = time
        self._own: list[xr.Dataset] = []
        self._cache = max(2**20, CACHE // (min(len(given), OPEN) * max(1, len(variables))))
        try:
            found = [(self._opened(k, file)) for k, file in enumerate(given)]
            axes = [_times(name, dataset, time) for name, dataset in found]
            if len({axis.dtype.kind for axis in axes}) > 1:
                kinds = ", ".join(f"{name} {axis.dtype}" for (name, _), axis in zip(found, axes, strict=True))
                raise DataError(f"the times are of different types: {shortened(kinds, 300)}")
            order = sorted(range(len(found)), key=lambda k: axes[k][0])
            self.names, self._datasets = map(list, zip(*(found[k] for k in order), strict=True))
            self.times = np.concatenate([axes[k] for k in order])
            self._ends = np.cumsum([len(axes[k]) for k in order])
            self.offsets = self._regular()
            self.dims = {name: self._compared(name, *expected) for name, expected in variables.items()}
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        """Return the number of times."""
        return len(self.times)

    def close(self) -> None:
        """Close the files that were opened here."""
        for dataset in self._own:
            dataset.close()

    def shape(self, variable: str) -> tuple[int, ...]:
        """Return the shape of a variable at one time."""
        return tuple(self._datasets[0].sizes[dim] for dim in self.dims[variable])

    def firsts(self) -> list[tuple[str, int]]:
        """Return name and first row of every file."""
        return list(zip(self.names, [0, *self._ends[:-1].tolist()], strict=True))

    def file_of(self, row: int) -> str:
        """Return the name of the file that holds a row."""
        return self.names[int(np.searchsorted(self._ends, row, side="right"))]

    def rows(self, variable: str, numbers: np.ndarray) -> np.ndarray:
        """Read a variable at some times.

        Args:
            variable: its name.
            numbers: of the times, increasing.

        Returns:
            Array (time, ...), in the type of the files.
        """
        parts = []
        inside = np.searchsorted(self._ends, numbers, side="right")
        for k in np.unique(inside):
            local = numbers[inside == k] - (self._ends[k - 1] if k else 0)
            contiguous = len(local) == local[-1] - local[0] + 1
            where: Any = slice(int(local[0]), int(local[-1]) + 1) if contiguous else local
            found = self._datasets[k][variable].isel({self.time: where})
            with _chunks_in_memory(self._cache):  # xarray may open the file again
                parts.append(found.transpose(self.time, *self.dims[variable]).values)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _opened(self, number: int, file: Any) -> tuple[str, xr.Dataset]:
        if isinstance(file, xr.Dataset):
            return f"dataset {number}", file
        path, remote = str(file).rstrip("/"), "://" in str(file)
        zarr = path.endswith(".zarr") or (not remote and Path(path).is_dir())
        if zarr and find_spec("zarr") is None:
            raise ConfigurationError(f"{path} is a zarr store; reading it needs zarr: pip install 'diffassim[files]'")
        if not remote and not Path(path).exists():
            raise DataError(f"{path} does not exist")
        try:
            with (
                _chunks_in_memory(self._cache),
                warnings.catch_warnings(),
            ):  # metadata in one file are faster to read, which happens once
                warnings.filterwarnings("ignore", "Failed to open Zarr store with consolidated", RuntimeWarning)
                engine = "zarr" if zarr else None
                dataset = xr.open_dataset(path, engine=engine, chunks=None, cache=False, decode_timedelta=False)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise DataError(
                f"{path} cannot be read as {'zarr' if zarr else 'netCDF'}: {single_line(error, 200)}"
            ) from error
        self._own.append(dataset)
        return Path(path).name, dataset

    def _regular(self) -> np.ndarray:
        """Return the times in steps after the first one."""
        seconds = _as_numbers(self.times)
        gaps = np.diff(seconds)
        if not len(gaps):
            return np.zeros(1, int)
        if (bad := np.flatnonzero(gaps <= 0)).size:
            row = int(bad[0]) + 1
            both = self.file_of(row - 1), self.file_of(row)
            place = f"{both[0]} goes back in time or repeats" if both[0] == both[1] else f"{both[1]} begins with"
            beside = "" if both[0] == both[1] else f", before the end {self.times[row - 1]} of {both[0]}"
            raise DataError(f"{place} the time {self.times[row]}{beside}; sort the times and keep each one once")
        step = gaps.min()
        steps = np.rint(gaps / step)
        off = np.abs(gaps - steps * step) > TOLERANCE * step + 1e-12 * np.abs(seconds).max()
        if off.any():
            row = int(np.argmax(off)) + 1
            raise DataError(
                f"{self.file_of(row)}: the time {self.times[row]} follows {self.times[row - 1]} by {gaps[row - 1]:g}, "
                f"which is no multiple of the shortest step {step:g}; interpolate to a regular axis, or count months "
                f"and the like: dataset.assign_coords({self.time}=np.arange(...))"
            )
        return np.concatenate([[0], np.cumsum(steps.astype(int))])

    def _compared(self, name: str, dims: Sequence[str] | None, units: str | None) -> tuple[str, ...]:
        """Return the dimensions of a variable beside time, after all files were compared."""
        first: Any = None
        for file, dataset in zip(self.names, self._datasets, strict=True):
            if name not in dataset.data_vars:
                there = shortened(", ".join(map(str, dataset.data_vars)), 300)
                raise DataError(f"{file}: the variable {name!r} is missing; there are {there}")
            found = dataset[name]
            if found.dtype.kind not in "fiub":
                raise DataError(f"{file}: {name} is of type {found.dtype}, but must hold numbers")
            own = tuple(str(dim) for dim in found.dims if dim != self.time)
            if self.time not in found.dims:
                raise DataError(f"{file}: {name} has the dimensions {found.dims} and no {self.time!r}")
            dims = own if dims is None else tuple(dims)
            if set(own) != set(dims):
                raise DataError(f"{file}: {name} has the dimensions {own} beside time, expected {dims}")
            unit = found.attrs.get("units")
            units = unit if units is None else units
            if unit is not None and unit != units:
                raise DataError(f"{file}: {name} is in {unit!r}, expected {units!r} (as elsewhere); convert it")
            if first is None:
                first = found
                continue
            for dim in dims:
                if found.sizes[dim] != first.sizes[dim]:
                    raise ShapeError(
                        f"{file}: {name} has {found.sizes[dim]} values along {dim!r}, but {first.sizes[dim]} in "
                        f"{self.names[0]}; interpolate to one grid"
                    )
                if dim in found.coords and dim in first.coords and not _same(found[dim], first[dim]):
                    raise DataError(
                        f"{file}: {name} has other coordinates along {dim!r} than in {self.names[0]} (another grid, or "
                        "in another order); interpolate or sort them"
                    )
        assert dims is not None
        return tuple(dims)


@contextlib.contextmanager
def _chunks_in_memory(size: int) -> Iterator[None]:
    """Let variables of netCDF files that are opened meanwhile keep no more than so many bytes of chunks in memory."""
    if find_spec("netCDF4") is None:
        yield
        return
    import netCDF4

    before = netCDF4.get_chunk_cache()
    netCDF4.set_chunk_cache(min(size, before[0]), *before[1:])
    try:
        yield
    finally:
        netCDF4.set_chunk_cache(*before)


def _times(name: str, dataset: xr.Dataset, time: str) -> np.ndarray:
    if time not in dataset.coords:
        raise DataError(
            f"{name}: there is no coordinate {time!r}; name that of time (there are {shortened([*dataset.coords])}), "
            f"or give one: dataset.assign_coords({time}=...)"
        )
    if dataset[time].dims != (time,):
        raise DataError(
            f"{name}: the coordinate {time!r} has the dimensions {dataset[time].dims}, expected ({time!r},)"
        )
    found = dataset[time].values
    if not len(found):
        raise DataError(f"{name}: holds no time")
    if found.dtype.kind != "O" and (bad := np.isnan(found) if found.dtype.kind == "f" else found != found).any():
        raise DataError(f"{name}: time {int(np.argmax(bad))} is missing")
    return found


def _as_numbers(times: np.ndarray) -> np.ndarray:
    """Return times as seconds after the first one, or as the numbers that they are."""
    if times.dtype.kind == "M":
        return (times - times[0]) / np.timedelta64(1, "s")
    if times.dtype.kind == "m":
        return times / np.timedelta64(1, "s")
    if times.dtype.kind == "O":  # dates of calendars that NumPy does not know
        return np.array([(each - times[0]).total_seconds() for each in times])
    return times.astype(np.float64)


def _same(one: xr.DataArray, other: xr.DataArray) -> bool:
    a, b = one.values, other.values
    if a.dtype.kind in "fiu" and b.dtype.kind in "fiu":
        return bool(np.allclose(a, b, rtol=1e-5, atol=1e-5 * np.ptp(b)))
    return bool(np.array_equal(a, b))
