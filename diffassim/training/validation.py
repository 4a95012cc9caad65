"""The loss of samples that are not trained on, and what is wrong with a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.core.errors import ConfigurationError, DataError
from diffassim.training.sources import Drawn, Numbered, Source, common_length, is_arrays, source_of
from diffassim.training.state import TrainingState
from diffassim.training.updates import evaluate, sample_count

__all__ = ["Validation", "missing_in", "missing_values"]

ENDLESS = 2**40  # batches


class Validation:
    """The loss of validation samples, of arrays at once, of all else batch by batch.

    Args:
        data: see `fit`.
        batch_size: samples that are read together.

    Raises:
        ConfigurationError: if data can be read only once, or a batch size is missing.
    """

    def __init__(self, data: Any, batch_size: int | None) -> None:
        self._data, self._size = data, batch_size
        self._source = source_of(data)
        if (
            self._source is None
            and not is_arrays(data)
            and (not isinstance(data, Iterable) or isinstance(data, Iterator))
        ):
            raise ConfigurationError(
                f"fit: validation samples are read after every chunk, but {type(data).__name__} cannot be read "
                "again; give arrays, a source or an iterable of batches"
            )
        if self._source is None and is_arrays(data) and common_length(data, "the validation data") == 0:
            raise DataError("fit: the validation data hold no sample")
        if batch_size is None and self._source is not None and len(self._source) > ENDLESS:
            raise ConfigurationError(
                f"fit: the validation data {type(data).__name__} never end; leave out their repeat()"
            )
        if batch_size is None and isinstance(data, Source):
            raise ConfigurationError(
                f"fit: without a batch_size it is not known how many validation samples of {type(data).__name__} to "
                "read together; give an iterable of batches"
            )

    def __call__(self, loss: Callable[..., Any], state: TrainingState) -> Any:
        """Return the loss, the mean of those of batches weighted by their number of samples."""
        state = state.replace(position=None)
        if self._source is None and is_arrays(self._data):
            return evaluate(loss, state, self._data)
        total, count, value = 0.0, 0, None
        for number, batch in enumerate(self._batches()):
            own = state if not number else state.replace(key=jax.random.fold_in(state.key, number))
            following = evaluate(loss, own, jax.device_put(batch))
            if value is not None:
                jax.block_until_ready(value)  # one batch at the device and the next, never more
            value = following
            samples = sample_count(batch)
            total, count = total + samples * value, count + samples
        if not count:
            raise DataError("fit: the validation data hold no sample")
        return total / count

    def _batches(self) -> Iterator[Any]:
        if self._source is None or self._size is None:
            yield from self._data
            return
        for first in range(0, len(self._source), self._size):
            yield self._source.read(np.arange(first, min(first + self._size, len(self._source))))


class _Held:
    """Arrays in memory, random keys among them, as a source."""

    def __init__(self, arrays: Any) -> None:
        self._arrays = arrays

    def __len__(self) -> int:
        return sample_count(self._arrays)

    def read(self, indices: np.ndarray) -> Any:
        return jax.tree.map(lambda leaf: leaf[indices], self._arrays)


def missing_values(data: Any, batch_size: int | None, key: Any, step: int) -> str:
    """Return a sentence about the values of a batch that are not finite, if it can be read again and has such.

    Args:
        data: arrays, or the `Batches` of a training.
        batch_size: samples in a batch.
        key: key of the training.
        step: number of the batch.
    """
    arrays = is_arrays(data) and batch_size is not None
    batches: Any = Drawn(_Held(data), batch_size or 1, key) if arrays else data
    drawn = isinstance(batches, Drawn)
    if not drawn and not isinstance(batches, Numbered):
        return ""
    asked: Any = batches.ask(step)
    label = getattr(batches.source, "label", str) if drawn else str
    try:
        batch = batches.read(asked)
    except Exception as error:  # of any library, while a training error is being told
        return f" Reading it again failed: {error}"
    for name, bad in _missing(batch):
        numbers = np.asarray(asked)[bad] if drawn else np.flatnonzero(bad)
        shown = ", ".join(label(int(k)) for k in numbers[:3]) + (", ..." if len(numbers) > 3 else "")
        return f" In it, {name or 'the batch'} is NaN or infinite in {len(numbers)} of {len(bad)} samples: {shown}."
    return ""


def missing_in(samples: Any) -> str:
    """Return the end of a sentence about samples that are not finite, if they are arrays in memory and some are not."""
    if not is_arrays(samples) or source_of(samples) is not None:
        return ""
    for name, bad in _missing(samples):
        first = int(np.flatnonzero(bad)[0])
        return f": {name or 'the array'} is NaN or infinite in {bad.sum()} of {len(bad)} samples, first in {first}"
    return ""


def _missing(batch: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Give the paths of leaves with values that are not finite, and in which samples."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        if not jnp.issubdtype(leaf.dtype, jnp.floating) or not jnp.ndim(leaf):
            continue
        array = np.asarray(leaf)
        bad = np.asarray(~np.isfinite(array.astype(np.float64)).reshape(len(array), -1).all(axis=1))
        if bad.any():
            yield jax.tree_util.keystr(path), bad
