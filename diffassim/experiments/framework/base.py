"""What an experiment is: configuration -> data -> assimilation -> scores, files, figures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, Literal, NamedTuple

import pandas as pd
import xarray as xr
from pydantic import BaseModel, BeforeValidator, ConfigDict

__all__ = ["Configuration", "Experiment", "Results", "quantity", "score_rows"]

SCORE_COLUMNS = ["method", "variable", "lead", "metric", "value", "n"]


class Configuration(BaseModel):
    """Base of all configurations: unknown keys are errors, values are checked, and the object is frozen.

    Args:
        seed: seed of everything random.
        dtype: floating-point type of the computation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    seed: int = 0
    dtype: Literal["float32", "float64"] = "float64"


class Results(NamedTuple):
    """What a finished experiment shows: tidy scores, figures by file name, and a table as text."""

    scores: pd.DataFrame
    figures: dict[str, Any]
    table: str


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

    @abstractmethod
    def chunks(self, config: Any) -> int:
        """Return the number of chunks."""

    @abstractmethod
    def start(self, config: Any) -> dict[str, Any]:
        """Return the carry before the first chunk (the place for calibration and spin-up)."""

    @abstractmethod
    def advance(self, config: Any, carry: dict[str, Any], index: int) -> tuple[dict[str, Any], xr.Dataset]:
        """Compute one chunk: return the next carry and the chunk's output, with a dimension `time`.

        The carry arrives as NumPy arrays.
        """

    @abstractmethod
    def finish(self, config: Any, dataset: xr.Dataset) -> Results:
        """Return scores and figures of the whole output (chunks concatenated along `time`)."""


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


def score_rows(rows: Iterable[tuple[str, str, Any, str, float, int]]) -> pd.DataFrame:
    """Return tidy scores from tuples (method, variable, lead, metric, value, n)."""
    return pd.DataFrame(list(rows), columns=SCORE_COLUMNS)
