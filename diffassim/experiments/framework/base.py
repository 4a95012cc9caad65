"""What an experiment is: configuration -> data -> assimilation -> scores, files, figures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import pandas as pd
import xarray as xr
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from diffassim.io.messages import require_plain_name

__all__ = [
    "SCORE_COLUMNS",
    "Configuration",
    "Experiment",
    "Results",
    "Stage",
    "StagedExperiment",
    "each_alone",
    "quantity",
    "score_rows",
]

LARGEST = 2**63  # integers from here on fit no array
SCORE_COLUMNS = ["method", "variable", "lead", "metric", "value", "n"]


class Configuration(BaseModel):
    """Base of all configurations: unknown keys are errors, values are checked, and the object is frozen.

    Args:
        seed: seed of everything random.
        dtype: floating-point type of the computation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    seed: Annotated[int, Field(ge=0, lt=2**63 - 8)] = 0
    dtype: Literal["float32", "float64"] = "float64"

    @field_validator("*", mode="before")
    @classmethod
    def _is_plain(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse what would be cast in silence: a truth value as a number, and numbers beyond all measure."""
        _require_plain(value, cls.model_fields[str(info.field_name)].annotation is bool)
        return value


class Results(NamedTuple):
    """What a finished experiment shows.

    Args:
        scores: tidy, see `score_rows`.
        figures: by file name.
        table: scores as text, with the number of what failed.
        counted: windows, analyses or forecasts that finished and that the scores rest on; with none the command line
            ends with an error.
        tables: more tables by file name.
        files: texts by file name, for other programs and runs.
        artifacts: pytrees of arrays by name, which are kept under checksums for later use.
    """

    scores: pd.DataFrame
    figures: dict[str, Any]
    table: str
    counted: int = 1
    tables: Mapping[str, pd.DataFrame] = MappingProxyType({})
    files: Mapping[str, str] = MappingProxyType({})
    artifacts: Mapping[str, Any] = MappingProxyType({})


class Experiment(ABC):
    """An experiment that runs in chunks, so that it can be watched, interrupted and resumed.

    A subclass names its configuration class and defines four methods. The carry between chunks is a nested dict of
    arrays: it is written after each chunk, and `resume` goes on from it with the same final result. For that,
    `advance` depends on its arguments alone; random numbers come from the seed and the index.

    Example:
        >>> import numpy as np
        >>> class Decay(Experiment):
        ...     name, summary, configuration = "decay", "Exponential decay.", Configuration
        ...     def chunks(self, config):
        ...         return 3
        ...     def start(self, config):
        ...         return {"x": np.asarray(8.0)}
        ...     def advance(self, config, carry, index):
        ...         x = carry["x"] / 2
        ...         return {"x": x}, xr.Dataset({"x": ("time", x[None])}, {"time": [float(index)]})
        ...     def finish(self, config, dataset):
        ...         last = float(dataset["x"][-1])
        ...         return Results(score_rows([("decay", "x", 0.0, "last", last, 1)]), {}, f"x = {last}")
        >>> import tempfile
        >>> from diffassim.experiments.framework.run import run
        >>> with tempfile.TemporaryDirectory() as path:
        ...     run(Decay(), Configuration(), path).table
        'x = 1.0'
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    configuration: ClassVar[type[Configuration]]
    judges_tables: ClassVar[bool] = False  # whether `against` is defined

    @abstractmethod
    def chunks(self, config: Any) -> int:
        """Return the number of chunks."""

    @abstractmethod
    def start(self, config: Any) -> dict[str, Any]:
        """Return the carry before the first chunk (the place for calibration and spin-up)."""

    @abstractmethod
    def advance(self, config: Any, carry: dict[str, Any], index: int) -> tuple[dict[str, Any], xr.Dataset]:
        """Compute one chunk: return the next carry and the chunk's output, with a dimension `time`.

        The carry arrives as NumPy arrays. A chunk that only prepares returns an empty dataset.
        """

    def chains(self, config: Any) -> tuple[range, ...]:
        """Return the chunks in groups that several processes may share out, in their order.

        The chunks of a group follow each other; its first one gets the carry of `start`, whatever the other groups do.
        Default: one group, because every chunk needs the one before.
        """
        return (range(self.chunks(config)),)

    def axes(self, config: Any) -> dict[str, int]:
        """Return which axis of which arrays of the carry is split over the devices of several processes.

        By their paths in the carry, keys joined by dots; all others are on every device. `advance` then gets these
        arrays in parts, is called by every process, and returns a carry of the same layout and a dataset of whole
        arrays (`diffassim.core.sharding.gathered`). Default: empty, `advance` runs in one process at a time.
        """
        return {}

    def fields(self, config: Any, carry: dict[str, Any]) -> Mapping[str, tuple[tuple[str, ...], Any]]:
        """Return names of the axes, and arrays, of the last carry, by name, which are written to fields.zarr in parts.

        It is called by every process. Default: none.
        """
        return {}

    def memory(self, config: Any) -> dict[str, float]:
        """Return about how many bytes the largest things need, each by a name that says what makes it large.

        Asked before anything is computed; a run that does not fit the machine is refused.
        """
        return {}

    def stage(self, config: Any, index: int) -> str:
        """Return what a chunk does, for whoever watches."""
        return "running"

    def check(self, config: Any) -> str:
        """Return what was understood of settings and data, without computing anything."""
        settings = config.model_dump(mode="json", exclude_none=True)
        return "\n".join([self.summary, *(f"  {key} = {value}" for key, value in settings.items())])

    def against(self, config: Any, path: Path, table: Path) -> tuple[pd.DataFrame, str]:
        """Return scores of what a run has kept on another table of its own form, tidy and as text.

        Args:
            config: of the run.
            path: its directory.
            table: file.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define against(config, path, table)")

    @abstractmethod
    def finish(self, config: Any, dataset: xr.Dataset) -> Results:
        """Return scores and figures of the whole output (chunks concatenated along `time`)."""


class Stage(NamedTuple):
    """Chunks of one kind.

    Args:
        name: what they do.
        count: how many there are.
        advance: like `Experiment.advance`, with the index counted from the stage's first chunk.
    """

    name: str
    count: int  # type: ignore[assignment]
    advance: Callable[[Any, dict[str, Any], int], tuple[dict[str, Any], xr.Dataset]]


class StagedExperiment(Experiment):
    """An experiment whose chunks are of several kinds, one after the other; a subclass defines `stages`."""

    @abstractmethod
    def stages(self, config: Any) -> tuple[Stage, ...]:
        """Return the stages in their order."""

    def chunks(self, config: Any) -> int:
        """Return the number of chunks of all stages."""
        return sum(stage.count for stage in self.stages(config))

    def stage(self, config: Any, index: int) -> str:
        """Return the name of a chunk's stage."""
        return self._find(config, index)[0].name

    def advance(self, config: Any, carry: dict[str, Any], index: int) -> tuple[dict[str, Any], xr.Dataset]:
        """Compute one chunk by its stage."""
        stage, inner = self._find(config, index)
        return stage.advance(config, carry, inner)

    def _find(self, config: Any, index: int) -> tuple[Stage, int]:
        inner = index
        for stage in self.stages(config):
            if inner < stage.count:
                return stage, inner
            inner -= stage.count
        raise IndexError(f"{self.name} has no chunk {index}: it has {self.chunks(config)}")


def each_alone(count: int) -> tuple[range, ...]:
    """Return the chains of an experiment whose chunks do not need each other.

    Args:
        count: number of chunks.

    Example:
        >>> each_alone(2)
        (range(0, 1), range(1, 2))
    """
    return tuple(range(index, index + 1) for index in range(count))


def quantity(unit: str) -> Any:
    """Return an annotation for a number that may be written with its unit, which must then be the expected one.

    Args:
        unit: the unit of the field.

    Example:
        >>> from typing import Annotated
        >>> class Window(Configuration):
        ...     length: Annotated[float, quantity("days")] = 3.0
        >>> Window(length="5 days").length
        5.0
    """

    def read(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        number, _, found = value.strip().partition(" ")
        if found.strip() and found.strip() != unit:
            raise ValueError(f"found the unit {found.strip()!r}, expected {unit!r}")
        return number

    return BeforeValidator(read)


def _require_plain(value: Any, truth: bool) -> None:
    if isinstance(value, bool) and not truth:
        raise ValueError("a truth value, where something else is needed")
    if isinstance(value, int) and abs(value) >= LARGEST:
        raise ValueError(f"an integer of {value.bit_length()} bits; at most 63 are possible")
    if isinstance(value, str | Path):
        require_plain_name("text", value)
    if isinstance(value, list | tuple):
        for entry in value:
            _require_plain(entry, truth)


def score_rows(rows: Iterable[tuple[str, str, Any, str, float, int]]) -> pd.DataFrame:
    """Return tidy scores from tuples (method, variable, lead, metric, value, n)."""
    return pd.DataFrame(list(rows), columns=SCORE_COLUMNS)
