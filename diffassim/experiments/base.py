"""What an experiment is: configuration -> data -> assimilation -> scores, files, figures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import pandas as pd
import xarray as xr
from pydantic import BaseModel, BeforeValidator, ConfigDict

__all__ = ["Configuration", "Experiment", "Results", "quantity", "score_rows"]

SCORE_COLUMNS = ["method", "variable", "lead", "metric", "value", "n"]


class Configuration(BaseModel):
    """Base of all configurations: unknown keys are errors, values are checked, and the object is frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    seed: int = 0
    dtype: str = "float64"


class Results(NamedTuple):
    """What a finished experiment shows: tidy scores, figures by file name, and a table as text."""

    scores: pd.DataFrame
    figures: dict[str, Any]
    table: str


class Experiment(ABC):
    """An experiment that runs in chunks, so that it can be watched, interrupted and resumed.

    A subclass names its configuration class and defines four methods. The carry between chunks is a nested dict of
    arrays: it is written after each chunk, and `resume` goes on from it with the same final result.
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
        """Compute one chunk: return the next carry and the chunk's output, with a dimension `time`."""

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


def score_rows(rows: list[tuple[str, str, Any, str, float, int]]) -> pd.DataFrame:
    """Return tidy scores from tuples (method, variable, lead, metric, value, n)."""
    return pd.DataFrame(rows, columns=SCORE_COLUMNS)
