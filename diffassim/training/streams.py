"""Batches that are read while the device works on those before."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Self

import jax
import numpy as np
import optax

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError, DataError, ShapeError
from diffassim.training.sources import Batches
from diffassim.training.state import TrainingState
from diffassim.training.updates import advance, places_of

__all__ = ["Part", "Stream"]

PART = 2**25  # bytes: small batches come to the device together, so that a call of the device is no cost of its own


class Part(NamedTuple):
    """Batches of several updates, stacked.

    Attributes:
        batches: pytree of arrays (length, sample, ...); beyond `number`, the last one is repeated.
        number: how many there are.
        position: of the data after them, as JSON, or None.
    """

    batches: Any
    number: int
    position: str | None


class Stream:
    """The batches of a training in parts, one of which is read ahead in a thread.

    In memory there are at most the part that is read and two on the device: one that it works on, and the next.

    Args:
        batches: what is read.
        step: first step.
        steps: the step before which training ends.
        chunk: updates between two looks at the training; no part belongs to two chunks.
        accumulate: parts in which the gradient of a batch is computed.
    """

    def __init__(self, batches: Batches, step: int, steps: int, chunk: int, accumulate: int) -> None:
        self._batches, self._accumulate = batches, accumulate
        self._begin, self._steps, self._chunk = step, steps, chunk
        self._length: int | None = None  # of a part
        self._like: Any = None  # shapes and types of every batch
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="diffassim-data")
        self._next: Future[Part] | None = self._start(step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._thread.shutdown(cancel_futures=True)

    def advance(
        self, loss: Callable[..., Any], optimizer: optax.GradientTransformation, state: TrainingState, count: int
    ) -> tuple[TrainingState, Any]:
        """Make the updates of a chunk; the device never waits for the host unless reading takes longer than it.

        Args:
            loss: see `fit`.
            optimizer: see `fit`.
            state: where to go on.
            count: number of updates.

        Returns:
            State and report as of `updates.advance`, the report as NumPy arrays.
        """
        step = first = int(state.step)
        state = state.replace(position=None)  # as a static field, it would compile anew
        reports: list[Any] = []
        position = None
        while step < first + count:
            assert self._next is not None
            part = self._next.result()
            batches = jax.device_put(part.batches)
            self._next = self._start(step + part.number)
            length, until = jax.tree.leaves(batches)[0].shape[0], first + count
            state, report, _ = advance(
                loss, optimizer, None, self._accumulate, length, state, batches, step, until, places=places_of(state)
            )
            if reports:
                jax.block_until_ready(reports[-1][0])  # two parts at the device, never more
            reports.append((report, part.number))
            step, position = step + part.number, part.position
        kept = [jax.tree.map(lambda leaf, k=k: np.asarray(leaf)[:k], report) for report, k in reports]
        return state.replace(position=position), jax.tree.map(lambda *leaves: np.concatenate(leaves), *kept)

    def _start(self, step: int) -> Future[Part] | None:
        """Begin to read the part that begins with a step."""
        if step >= self._steps:
            return None
        end = min(self._steps, step + self._chunk - (step - self._begin) % self._chunk)
        asked = [self._batches.ask(k) for k in range(step, min(end, step + (self._length or self._chunk)))]
        return self._thread.submit(self._read, step, asked)

    def _read(self, step: int, asked: list[Any]) -> Part:
        taken: list[Any] = []
        for k, each in enumerate(asked):
            taken.append(self._checked(self._batches.read(each), step + k))
            if self._length is None:
                size = sum(leaf.nbytes for leaf in jax.tree.leaves(taken[0]))
                self._length = min(self._chunk, max(1, PART // max(size, 1)))
            if len(taken) == self._length:
                break
        number, position = len(taken), self._batches.position()
        taken += [taken[-1]] * ((self._length or 1) - number)
        return Part(jax.tree.map(lambda *leaves: np.stack(leaves), *taken), number, position)

    def _checked(self, batch: Any, step: int) -> Any:
        batch = jax.tree.map(np.asarray, batch)
        for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
            name = f"fit: in the batch of step {step} {jax.tree_util.keystr(path) or 'the array'}"
            if leaf.dtype.kind in "OSUMm":
                raise DataError(f"{name} is of type {leaf.dtype}; the device takes numbers")
            if self._accumulate > 1 and (not leaf.ndim or leaf.shape[0] % self._accumulate):
                raise ConfigurationError(
                    f"{name} has the shape {leaf.shape}; its samples are no multiple of accumulate={self._accumulate}"
                )
        if not jax.tree.leaves(batch):
            raise DataError(f"fit: the batch of step {step} holds no array")
        if self._like is None:
            self._like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), batch)
        elif not tree.same_shapes(batch, self._like):
            raise ShapeError(
                f"fit: the batch of step {step} has the shapes {tree.describe_shapes(batch)}, but others "
                f"{tree.describe_shapes(self._like)}: it would be compiled anew. Drop or pad what does not fill a batch"
            )
        elif changed := [(a, b) for a, b in zip(_types(batch), _types(self._like), strict=True) if a != b]:
            raise DataError(
                f"fit: the batch of step {step} holds {changed[0][0]}, but others {changed[0][1]}: it would be "
                "compiled anew. Convert all to one type"
            )
        return batch


def _types(batch: Any) -> list[Any]:
    return [leaf.dtype for leaf in jax.tree.leaves(batch)]
