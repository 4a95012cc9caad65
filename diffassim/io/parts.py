"""Arrays in a zarr store of which every process reads and writes its own parts; whoever opens it sees whole arrays."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffassim.core import processes
from diffassim.core.errors import DataError, ShapeError
from diffassim.core.sharding import sharding_for
from diffassim.io.fields import require_zarr
from diffassim.io.messages import single_line

__all__ = ["read_parts", "write_parts"]


def write_parts(path: str | Path, arrays: Mapping[str, tuple[tuple[str, ...], Any]]) -> None:
    """Write arrays into a zarr store, in place of what it held; every process calls this, and writes its own parts.

    The parts of the devices are the chunks of the store. It appears under its name when all processes have written;
    `xarray.open_zarr(path, consolidated=False)` reads it.

    Args:
        path: of the store, in a file system that all processes share.
        arrays: names of the axes, and the array, by name; arrays that belong to no mesh are written by the first
            process.

    Raises:
        ConfigurationError: if zarr is not installed.
        ProcessError: if another process cannot write.

    Example:
        >>> write_parts("fields.zarr", {"x": (("site",), np.arange(4.0))})
        >>> read_parts("fields.zarr", "x").tolist()
        [0.0, 1.0, 2.0, 3.0]
    """
    require_zarr(str(path))
    path = Path(path)
    new = path.with_name(f".{path.name}.part")
    first = processes.rank() == 0
    processes.together(f"making {path}", lambda: _create(new, arrays) if first else None)
    processes.together(f"writing {path}", lambda: _write_own(new, arrays))
    processes.together(f"finishing {path}", lambda: _move(new, path) if first else None)


def _create(new: Path, arrays: Mapping[str, tuple[tuple[str, ...], Any]]) -> None:
    import zarr

    shutil.rmtree(new, ignore_errors=True)
    group = zarr.open_group(new, mode="w", zarr_format=3)
    for name, (dims, array) in arrays.items():
        if len(dims) != np.ndim(array):
            raise ShapeError(f"write_parts: {name} of shape {np.shape(array)} has not the axes {dims}")
        shape = np.shape(array)
        chunks = array.sharding.shard_shape(shape) if isinstance(array, jax.Array) else shape
        group.create_array(
            name, shape=shape, chunks=tuple(max(1, n) for n in chunks), dtype=np.dtype(array.dtype),
            dimension_names=dims,
        )  # fmt: skip


def _write_own(new: Path, arrays: Mapping[str, tuple[tuple[str, ...], Any]]) -> None:
    import zarr

    group = zarr.open_group(new, mode="r+")
    for name, (_, array) in arrays.items():
        stored: Any = group[name]
        if isinstance(array, jax.Array) and len(array.sharding.device_set) > 1:
            for shard in array.addressable_shards:
                if shard.replica_id == 0:
                    stored[shard.index] = np.asarray(shard.data)
        elif processes.rank() == 0:
            stored[...] = np.asarray(array)


def _move(new: Path, path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    new.rename(path)


def read_parts(path: str | Path, name: str, mesh: Any = None, axes: Any = 0) -> Any:
    """Read an array of a zarr store, every process the parts of its own devices only.

    Args:
        path: of the store.
        name: of the array.
        mesh: of all processes' devices, see `diffassim.core.sharding.device_mesh`; None: a NumPy array with all of it.
        axes: as for `diffassim.core.sharding.distribute`.

    Raises:
        DataError: if there is no such array, or it cannot be read.
        ShapeError: if the devices do not divide an axis.
        ConfigurationError: if zarr is not installed.
    """
    require_zarr(str(path))
    import zarr

    try:
        group = zarr.open_group(Path(path), mode="r")
        stored: Any = group[name]
        shape = tuple(stored.shape)
    except (OSError, KeyError, AttributeError, ValueError) as error:
        there = f"there are {sorted(group.array_keys())}" if "group" in locals() else single_line(error, 200)
        raise DataError(f"{path}: has no array {name!r} that could be read ({there})") from None
    if mesh is None:
        return np.asarray(stored[...])
    sharding = sharding_for(shape, mesh, axes, name=name)
    return jax.make_array_from_callback(shape, sharding, lambda index: np.asarray(stored[index]))
