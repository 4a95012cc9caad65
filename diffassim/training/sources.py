"""Where the samples of a training come from: what `fit` takes, brought to one form."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError, DataError, ShapeError
from diffassim.training.updates import epoch_order

__all__ = ["Batches", "Drawn", "Following", "Numbered", "Source", "StoredArrays", "batches_of", "source_of"]


@runtime_checkable
class Source(Protocol):
    """Samples that are read when they are needed: a file, an archive, a simulator.

    `fit` decides which samples form a batch, from its key, the epoch and the step alone, in the order in which it would
    take those of arrays. `read` is called by one thread, while the device works on the batch before.

    Example:
        >>> class Squares:
        ...     def __len__(self):
        ...         return 100
        ...     def read(self, indices):
        ...         return {"x": indices, "y": indices**2}
        >>> isinstance(Squares(), Source)
        True
    """

    def __len__(self) -> int:
        """Return the number of samples."""

    def read(self, indices: np.ndarray) -> Any:
        """Return samples by number, as a pytree of arrays with a leading sample axis."""


class StoredArrays:
    """Arrays that stay where they are, of which `fit` moves one batch after the other to the device.

    Args:
        arrays: pytree of what is indexed like an array along a leading sample axis: NumPy arrays that are too large for
            the device, `np.memmap`, zarr arrays, HDF5 data sets, xarray data arrays.

    Raises:
        ShapeError: if the lengths of the sample axes differ.

    Example:
        >>> StoredArrays((np.arange(5.0), np.zeros((5, 2)))).read(np.array([3, 1]))[0].tolist()
        [3.0, 1.0]
    """

    def __init__(self, arrays: Any) -> None:
        self.arrays = arrays
        self._length = common_length(arrays)

    def __len__(self) -> int:
        """Return the number of samples."""
        return self._length

    def read(self, indices: np.ndarray) -> Any:
        """Return rows, which are asked for in increasing order: files are fastest so, and HDF5 knows no other."""
        order = np.argsort(indices)
        back = np.argsort(order)
        return jax.tree.map(lambda leaf: np.asarray(leaf[indices[order]])[back], self.arrays)


class _Items:
    """Single samples by number, as data sets of grain and PyTorch give them."""

    def __init__(self, items: Any) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def read(self, indices: np.ndarray) -> Any:
        taken = [jax.tree.map(np.asarray, self._items[int(index)]) for index in indices]
        for index, item in zip(indices, taken, strict=True):
            if not tree.same_shapes(item, taken[0]):
                raise ShapeError(
                    f"fit: sample {index} has the shapes {tree.describe_shapes(item)}, but sample {indices[0]} "
                    f"{tree.describe_shapes(taken[0])}; pad or cut the samples to one shape"
                )
        return jax.tree.map(lambda *leaves: np.stack(leaves), *taken)


class Batches(Protocol):
    """Batches in the order of the updates. `ask` is called by the caller's thread, `read` by the one that reads."""

    def ask(self, step: int) -> Any:
        """Return what `read` needs to know for the batch of a step."""

    def read(self, asked: Any) -> Any:
        """Return the next batch."""

    def position(self) -> str | None:
        """Return the state of what is read as JSON, where it has one."""


class Drawn:
    """Batches of a `Source`, whose samples all come once in an epoch, as far as whole batches go."""

    def __init__(self, source: Source, batch_size: int, key: Any) -> None:
        self.source, self.batch_size, self._key = source, batch_size, key
        self._epoch, self._order = -1, np.zeros(0, int)

    def ask(self, step: int) -> np.ndarray:
        """Return the numbers of the samples of a step."""
        epoch, batch = divmod(step, len(self.source) // self.batch_size)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.asarray(epoch_order(self._key, epoch, len(self.source)))
        return self._order[batch * self.batch_size : (batch + 1) * self.batch_size]

    def read(self, asked: np.ndarray) -> Any:
        """Return these samples."""
        batch = self.source.read(asked)
        sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(batch)}
        if sizes != {(len(asked),)}:
            raise ShapeError(
                f"fit: {type(self.source).__name__}.read returned arrays of {sorted(sizes)} samples for {len(asked)} "
                "indices; every array of a batch needs a leading sample axis of this length"
            )
        return batch

    def position(self) -> None:
        """Return nothing: key and step say all."""


class Numbered:
    """Batches that can be asked for by number; those of one epoch come again in the next."""

    def __init__(self, batches: Any) -> None:
        self._batches, self._length = batches, len(batches)
        if not self._length:
            raise DataError(f"fit: the {type(batches).__name__} holds no batch")

    def ask(self, step: int) -> int:
        """Return the number of the batch of a step."""
        return step % self._length

    def read(self, asked: int) -> Any:
        """Return this batch."""
        return self._batches[asked]

    def position(self) -> None:
        """Return nothing: the step says all."""


class Following:
    """Batches one after the other, of an iterator, or of an iterable that begins again at its end.

    Args:
        batches: iterator, whose next item belongs to the next update; or iterable.
        step: updates made before; so many batches of an iterable are read and left out if there is no position.
        position: state of its iterator at this step, or None.
    """

    def __init__(self, batches: Iterable[Any], step: int, position: str | None) -> None:
        self._again = None if isinstance(batches, Iterator) else batches
        self._name, self._step = type(batches).__name__, step
        self._batches = iter(batches)
        if position is not None and hasattr(self._batches, "set_state"):
            self._go_to(position)
        elif self._again is not None:
            for _ in range(step):
                self.read(None)
            self._step = step

    def ask(self, step: int) -> None:
        """Return nothing: the next batch is the one of the step."""

    def read(self, asked: None) -> Any:
        """Return the next batch."""
        self._step += 1
        for batch in self._batches:
            return batch
        if self._again is None:
            raise DataError(f"fit: the iterator of batches ended at step {self._step - 1}, before the last update")
        self._batches = iter(self._again)
        for batch in self._batches:
            return batch
        raise DataError(
            f"fit: the {self._name} holds no batch, or cannot be iterated again at step {self._step - 1}; are there "
            "fewer samples than a batch takes?"
        )

    def position(self) -> str | None:
        """Return the state of the iterator as JSON, or None if it has none that can be written so."""
        if not (hasattr(self._batches, "get_state") and hasattr(self._batches, "set_state")):
            return None
        found = self._batches.get_state()
        try:
            return found.decode() if isinstance(found, bytes) else json.dumps(found, default=lambda v: v.item())
        except (TypeError, ValueError, AttributeError):
            return None

    def _go_to(self, position: str) -> None:
        iterator: Any = self._batches
        try:
            encoded = isinstance(iterator.get_state(), bytes)
            iterator.set_state(position.encode() if encoded else json.loads(position))
        except Exception as error:
            raise ConfigurationError(
                f"fit: the position in the data that the state holds does not fit this {self._name}: {error}. Give "
                "the data of the training that wrote it, or state.replace(position=None) to begin them anew"
            ) from error


def common_length(arrays: Any, what: str = "the data") -> int:
    """Return the common length of the sample axes.

    Raises:
        ShapeError: if there is none.
    """
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(arrays)}
    if len(sizes) != 1 or sizes == {()}:
        raise ShapeError(
            f"fit: every array of {what} needs the same leading sample axis; found the sizes {sorted(sizes)}. Lists of "
            "numbers are no arrays: np.asarray(...)"
        )
    return int(next(iter(sizes))[0])


def is_arrays(data: Any) -> bool:
    """Return whether data are a pytree of arrays, wherever these are."""
    if hasattr(data, "shape") and hasattr(data, "dtype"):
        return True
    return jax.tree_util.default_registry.flatten_one_level(data) is not None


def source_of(data: Any) -> Source | None:
    """Return data as a `Source`, or None if they are arrays in memory or only come one after the other."""
    if not is_arrays(data):
        if isinstance(data, Source):
            return data
        return _Items(data) if hasattr(data, "__getitem__") and hasattr(data, "__len__") else None
    in_memory = all(
        not isinstance(leaf, np.memmap) and (isinstance(leaf, np.ndarray | jax.Array) or not hasattr(leaf, "shape"))
        for leaf in jax.tree.leaves(data)
    )
    return None if in_memory else StoredArrays(data)


def batches_of(data: Any, batch_size: int | None, key: Any, step: int, position: str | None) -> Batches | None:
    """Return the batches of data that are read while the training runs, or None for arrays in memory.

    Args:
        data: see `fit`.
        batch_size: samples in each batch, or None where the data consist of batches.
        key: key of the training.
        step: updates made before.
        position: state of the data's iterator at this step, or None.

    Raises:
        ConfigurationError: if the batch size does not belong to such data, or is impossible.
        DataError: if there are no samples.
        ShapeError: if arrays differ in their number of samples.
    """
    if hasattr(data, "data_vars"):
        raise ConfigurationError(
            "fit: an xarray Dataset does not say what a sample is; diffassim.io.windows.WindowsOfFields(dataset, ...) "
            "cuts it into windows of time"
        )
    if hasattr(data, "iloc"):
        raise ConfigurationError(
            f"fit: the {type(data).__name__} of a table is no array; give data.to_numpy(), or a dict of such columns"
        )
    _require_numbers(data)
    arrays, source = is_arrays(data), source_of(data)
    items = isinstance(source, _Items)  # single samples, or whole batches
    if not arrays and source is None and not isinstance(data, Iterable):
        raise ConfigurationError(f"fit: {type(data).__name__} is no data; see `fit` for what can be given")
    if not items and (arrays or source is not None) == (batch_size is None):
        raise ConfigurationError(
            "fit: arrays of samples need a batch_size, and an iterator of batches none; found "
            f"batch_size={batch_size} with {type(data).__name__}"
        )
    if batch_size is None:
        return Numbered(data) if items else Following(data, step, position)
    check_batch_size(batch_size, common_length(data) if source is None else len(source))
    return None if source is None else Drawn(source, batch_size, key)


def _require_numbers(data: Any) -> None:
    """Raise if arrays hold strings or other objects: known before any of them is read."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(data) if is_arrays(data) else ():
        dtype = getattr(leaf, "dtype", None)
        if getattr(dtype, "kind", "f") in "OSUMm" and not isinstance(leaf, jax.Array):
            raise DataError(f"fit: the data{jax.tree_util.keystr(path)} are of type {dtype}; the device takes numbers")


def check_batch_size(batch_size: int, samples: int) -> None:
    """Raise unless there are samples, and as many as a batch takes."""
    if samples == 0:
        raise DataError("fit: the data hold no sample")
    if not 1 <= batch_size <= samples:
        raise ConfigurationError(f"fit: batch_size={batch_size} must lie between 1 and the {samples} samples")
