"""Windows of gridded fields along time, as samples of a training, read when they are needed."""

from __future__ import annotations

from typing import Any, Self

import jax
import numpy as np

from diffassim.core.checks import count_of
from diffassim.core.errors import ConfigurationError, DataError, ShapeError, require_finite, require_positive
from diffassim.io.field_files import FieldFiles
from diffassim.models.base import Variable

__all__ = ["WindowsOfFields"]

BLOCK = 2**25  # bytes that `moments` reads together


class WindowsOfFields:
    r"""Windows \((x_k, \dots, x_{k+n-1})\) of variables that lie in netCDF files or zarr stores.

    A source of samples for `training.fit`: `read` returns windows by number. Of the files, only the chunks that hold
    them are read. Windows go on from file to file; those over a gap of the time axis are left out and counted. Missing
    values stay NaN.

    Args:
        files: path of a netCDF file or zarr store, `xarray.Dataset`, or several of them in any order.
        variables: pytree of names, or of `Variable`s (whose dimensions and units then hold; see `Model.variables()`).
        length: times of a window.
        stride: times from the start of a window to that of the next.
        mean: what is subtracted from each variable: pytree of numbers or of arrays that broadcast to a field; or None.
        std: by what it is then divided; or None.
        time: name of the dimension of time.
        dtype: floating-point type of what is read.
        farthest: mean of the first normalized field of a file, in standard deviations, from which on its unit or the
            normalization must be another.

    Attributes:
        starts: rows of the first times of the windows.
        left_out: number of windows over a gap.

    Raises:
        ConfigurationError: if numbers are impossible, or zarr is not installed.
        DataError: if files do not fit each other (see `FieldFiles`), there is no window, or the values of a file are
            far from the mean.
        ShapeError: if mean or standard deviation has not the structure of the variables, or does not broadcast.

    Example:
        >>> import xarray as xr
        >>> values = np.arange(8.0).reshape(4, 2)
        >>> dataset = xr.Dataset({"t": (("time", "x"), values, {"units": "K"})}, {"time": [0, 1, 2, 3]})
        >>> windows = WindowsOfFields(dataset, {"temperature": "t"}, length=2, mean={"temperature": 1.0})
        >>> len(windows), windows.read(np.array([2]))["temperature"].tolist()
        (3, [[[3.0, 4.0], [5.0, 6.0]]])
    """

    def __init__(
        self,
        files: Any,
        variables: Any,
        *,
        length: int,
        stride: int = 1,
        mean: Any = None,
        std: Any = None,
        time: str = "time",
        dtype: Any = np.float32,
        farthest: float = 10.0,
    ) -> None:
        self.length, self.stride = count_of("length", length, least=1), count_of("stride", stride, least=1)
        self.dtype = np.dtype(dtype)
        if self.dtype.kind != "f":
            raise ConfigurationError(f"WindowsOfFields: dtype={self.dtype} must be a floating-point type")
        leaves, self._structure = jax.tree.flatten(variables, is_leaf=lambda node: isinstance(node, Variable))
        self._variables = [leaf if isinstance(leaf, Variable) else None for leaf in leaves]
        self._names = [leaf.name if isinstance(leaf, Variable) else str(leaf) for leaf in leaves]
        if not leaves:
            raise ConfigurationError("WindowsOfFields: name at least one variable")
        expected = {
            name: (None, None) if v is None else (v.dims, v.units)
            for name, v in zip(self._names, self._variables, strict=True)
        }
        self._record = FieldFiles(files, expected, time=time)
        try:
            self._mean, self._std = self._normalization("mean", mean), self._normalization("std", std)
            self.starts, self.left_out = self._windows()
            self._require_normalized(farthest)
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self.starts)

    def __getitem__(self, index: int) -> Any:
        """Return a single window without the axis of windows, as loaders of grain and PyTorch ask for them."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        return jax.tree.map(lambda leaf: leaf[0], self.read(np.array([index])))

    def __repr__(self) -> str:
        """Say what there is."""
        return (
            f"WindowsOfFields({len(self)} windows of {self.length} times of {', '.join(self._names)}, "
            f"{self.left_out} left out over gaps)"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        self._record.close()

    def read(self, indices: np.ndarray) -> Any:
        """Read windows.

        Args:
            indices: their numbers.

        Returns:
            Pytree like the variables, of arrays (window, time, ...), normalized.
        """
        rows = self.starts[np.asarray(indices)][:, None] + np.arange(self.length)
        needed, where = np.unique(rows, return_inverse=True)
        where = where.reshape(rows.shape)
        return jax.tree.unflatten(self._structure, [self._read(k, needed)[where] for k in range(len(self._names))])

    def label(self, index: int) -> str:
        """Say which times a window holds, and which file, for messages."""
        first, last = self.starts[index], self.starts[index] + self.length - 1
        times = self._record.times
        return f"{index} ({times[first]} to {times[last]} in {self._record.file_of(first)})"

    def moments(self) -> tuple[Any, Any]:
        """Return mean and standard deviation of each variable over the whole record, missing values left out.

        The record is read once, block by block. Compute them over the period of the training only.

        Returns:
            Two pytrees of numbers like the variables, in the units of the files.

        Raises:
            DataError: if a variable has no value, or only one that never changes.

        Source: Chan, Golub and LeVeque (1983), equation 2.1 (how blocks are combined).
        """
        found = [self._moments(name) for name in self._names]
        return tuple(jax.tree.unflatten(self._structure, list(each)) for each in zip(*found, strict=True))  # type: ignore[return-value]

    def _moments(self, name: str) -> tuple[float, float]:
        size = max(1, BLOCK // (8 * max(1, int(np.prod(self._record.shape(name))))))
        count, mean, squares = 0, 0.0, 0.0
        for first in range(0, len(self._record), size):
            block = self._record.rows(name, np.arange(first, min(first + size, len(self._record))))
            block = block.astype(np.float64)[np.isfinite(block)]
            if not block.size:
                continue
            total, apart = count + block.size, block.mean() - mean
            squares += ((block - block.mean()) ** 2).sum() + apart**2 * count * block.size / total
            mean, count = mean + apart * block.size / total, total
        if not count or squares <= 0:
            raise DataError(f"moments: {name} has {count} values, all the same; leave it out")
        return float(mean), float(np.sqrt(squares / count))

    def _read(self, k: int, rows: np.ndarray) -> np.ndarray:
        values = self._record.rows(self._names[k], rows)
        if self._mean is not None or self._std is not None:
            values = values.astype(np.float64)
        if self._mean is not None:
            values -= self._mean[k]
        if self._std is not None:
            values /= self._std[k]
        return values.astype(self.dtype, copy=False)

    def _normalization(self, what: str, given: Any) -> list[np.ndarray] | None:
        if given is None:
            return None
        try:
            found = [np.asarray(leaf, np.float64) for leaf in self._structure.flatten_up_to(given)]
        except (ValueError, TypeError) as error:
            raise ShapeError(f"WindowsOfFields: {what} has not the structure of the variables: {error}") from None
        for name, array in zip(self._names, found, strict=True):
            field = self._record.shape(name)
            try:
                fits = np.broadcast_shapes(array.shape, field) == field
            except ValueError:
                fits = False
            if not fits:
                raise ShapeError(
                    f"WindowsOfFields: {what} of {name} has the shape {array.shape}, which does not broadcast to "
                    f"{field}, the shape of a field with the dimensions {self._record.dims[name]}"
                )
            (require_positive if what == "std" else require_finite)(f"{what} of {name}", array)
        return found

    def _windows(self) -> tuple[np.ndarray, int]:
        offsets, times = self._record.offsets, len(self._record)
        if times < self.length:
            raise DataError(
                f"WindowsOfFields: a window of length={self.length} is longer than the record of {times} times"
            )
        starts = np.arange(0, times - self.length + 1, self.stride)
        whole = offsets[starts + self.length - 1] - offsets[starts] == self.length - 1
        if not whole.any():
            breaks = np.flatnonzero(np.diff(offsets) != 1)
            longest = int(np.diff(np.concatenate([[-1], breaks, [times - 1]])).max())
            raise DataError(
                f"WindowsOfFields: each of the {len(starts)} windows of length={self.length} and stride={self.stride} "
                f"lies over a gap of the time axis; {longest} times are the most without one"
            )
        return starts[whole], int((~whole).sum())

    def _require_normalized(self, farthest: float) -> None:
        """Raise where the first field of a file is far from the mean: it has another unit, or is normalized already."""
        if self._mean is None or self._std is None:
            return
        for file, row in self._record.firsts():
            for k, name in enumerate(self._names):
                values = self._read(k, np.array([row]))
                known = values[np.isfinite(values)]
                if known.size and abs(apart := float(known.mean())) > farthest:
                    raise DataError(
                        f"{file}: the first field of {name} lies {apart:.3g} standard deviations from the mean "
                        f"{self._mean[k].mean():.4g} on average (std {self._std[k].mean():.4g}); is it in another "
                        "unit, or normalized already? `moments` computes mean and std; `farthest` is the bound"
                    )
