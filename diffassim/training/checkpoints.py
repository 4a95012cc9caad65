"""Many checkpoints of one training: the last ones and the best one are kept, and written while training goes on."""

from __future__ import annotations

import json
import math
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from diffassim.core import processes
from diffassim.core.errors import ConfigurationError, DataError
from diffassim.core.partition import partition
from diffassim.core.shard_files import HostShards, on_host, open_shards, write_shards
from diffassim.training.checkpoint import load_checkpoint, position_of

__all__ = ["Checkpoints", "Kept"]


class Kept(NamedTuple):
    """A checkpoint that exists.

    Args:
        step: number of updates that it knows of.
        loss: by which it is compared; NaN where none was told.
        path: its directory.
    """

    step: int
    loss: float
    path: Path


class Checkpoints:
    """A directory of checkpoints, one for each step that was saved.

    A checkpoint is copied to the host at once and written by a thread, while training goes on; at most one is on its
    way. It appears under its name when it is complete. What a failed writing raised, the next call raises.

    Args:
        directory: where they lie, which all processes see.
        keep: how many of the last ones are kept; the one with the lowest loss is kept besides.
        asynchronous: whether a thread writes.

    Raises:
        ConfigurationError: if `keep` is less than 1.

    Example:
        >>> import jax.numpy as jnp
        >>> kept = Checkpoints("history", keep=2)
        >>> for step, loss in enumerate([3.0, 1.0, 2.0, 4.0]):
        ...     kept.save(step, {"w": jnp.full(2, loss)}, loss)
        >>> kept.wait()
        >>> [found.step for found in kept.all()], kept.best().step
        ([1, 2, 3], 1)
        >>> kept.load({"w": jnp.zeros(2)})["w"].tolist()
        [4.0, 4.0]
    """

    def __init__(self, directory: str | Path, keep: int = 3, *, asynchronous: bool = True) -> None:
        if keep < 1:
            raise ConfigurationError(f"Checkpoints: keep must be at least 1, found {keep}")
        self.directory, self.keep = Path(directory).absolute(), keep
        self._thread = ThreadPoolExecutor(1) if asynchronous else None
        self._writing: Future[None] | None = None

    def save(self, step: int, state: Any, loss: float = math.nan) -> None:
        """Write the checkpoint of a step; every process calls this.

        Args:
            step: number of updates made.
            state: pytree of arrays and random keys, for example a `TrainingState`.
            loss: the lower, the better; NaN where it is not known.

        Raises:
            OSError: if this checkpoint, or the one before it, cannot be written; older ones are still there.
        """
        self.wait()
        leaves = on_host(partition("Checkpoints.save: the state", state)[0])
        about = {"step": int(step), "loss": json.dumps(float(loss)), **position_of(state)}
        if self._thread is None:
            self._write(int(step), leaves, about)
        else:
            self._writing = self._thread.submit(self._write, int(step), leaves, about)

    def wait(self) -> None:
        """Wait until what was saved is complete.

        Raises:
            OSError: if it could not be written.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def all(self) -> list[Kept]:
        """Return the complete checkpoints by their steps."""
        found = []
        for path in self.directory.glob("*"):
            if path.name.isdigit():
                try:
                    about = open_shards(path).about
                    found.append(Kept(int(about["step"]), float(json.loads(about["loss"])), path))
                except (DataError, ConfigurationError, KeyError):
                    found.append(Kept(int(path.name), math.nan, path))  # whoever loads it is told what is wrong
        return sorted(found)

    def best(self) -> Kept | None:
        """Return the one with the lowest loss, or None where none has one."""
        return min((each for each in self.all() if not math.isnan(each.loss)), key=lambda each: each.loss, default=None)

    def load(self, like: Any, step: int | None = None) -> Any:
        """Read a checkpoint.

        Args:
            like: see `load_checkpoint`.
            step: which one; default: the last.

        Raises:
            DataError: if there is none, or a file is missing or was changed; it names the steps that are left.
            ConfigurationError: if it belongs to another training.
        """
        steps = [each.step for each in self.all()]
        if not steps:
            raise DataError(f"Checkpoints: {self.directory} holds none")
        wanted = steps[-1] if step is None else step
        if wanted not in steps:
            raise DataError(f"Checkpoints: {self.directory} has none of step {wanted}; there are {steps}")
        try:
            return load_checkpoint(self._path(wanted), like)
        except DataError as error:
            others = [each for each in steps if each != wanted]
            raise DataError(f"{error}; there are those of the steps {others}") from None

    def _path(self, step: int) -> Path:
        return self.directory / f"{step:010d}"

    def _write(self, step: int, leaves: list[HostShards], about: dict[str, Any]) -> None:
        write_shards(self._path(step), leaves, about)
        if processes.rank() == 0:
            found, best = self.all(), self.best()
            for old in found[: -self.keep]:
                if best is None or old.step != best.step:
                    shutil.rmtree(old.path, ignore_errors=True)
