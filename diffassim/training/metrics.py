"""Where the numbers of a training go: a table, or what TensorBoard reads."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from diffassim.core.errors import ConfigurationError, DataError

__all__ = ["CsvMetrics", "TensorBoardMetrics"]


class CsvMetrics:
    """A file with a row for each update, for `fit(..., record=...)`.

    A training that goes on from a checkpoint goes on in the same file: rows from its first step on, which a process
    that was killed may have left, are replaced.

    Args:
        path: the file.

    Raises:
        DataError: (when called) if the file holds other columns.

    Example:
        >>> record = CsvMetrics("metrics.csv")
        >>> record(0, {"loss": np.array([2.0, 1.0]), "lost": np.array([0, 1])})
        >>> Path("metrics.csv").read_text().split()
        ['step,loss,lost', '0,2.0,0', '1,1.0,1']
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._following: int | None = None  # step of the next row, once the file is known to be in order

    def __call__(self, first: int, values: dict[str, np.ndarray]) -> None:
        """Append the values of updates from step `first` on."""
        columns = ["step", *values]
        if self._following != first:
            self._cut(columns, first)
        rows = zip(*(np.asarray(column).tolist() for column in values.values()), strict=True)
        numbered = [[first + k, *row] for k, row in enumerate(rows)]
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerows(numbered)
        self._following = first + len(numbered)

    def _cut(self, columns: list[str], first: int) -> None:
        """Keep the header and the rows before a step, or write the header of a new file."""
        kept: list[list[str]] = []
        if self.path.exists() and first:
            with self.path.open(newline="") as file:
                header, *rows = list(csv.reader(file)) or [columns]
            if header != columns:
                raise DataError(
                    f"CsvMetrics: {self.path} has the columns {', '.join(header)}, but the training reports "
                    f"{', '.join(columns)}; name another file"
                )
            kept = [row for row in rows if len(row) == len(columns) and row[0].isdigit() and int(row[0]) < first]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(self.path.name + ".part")
        with part.open("w", newline="") as file:
            csv.writer(file).writerows([columns, *kept])
        part.replace(self.path)


class TensorBoardMetrics:
    """Event files that TensorBoard reads, for `fit(..., record=...)`; needs the library tensorboardX.

    Args:
        directory: where the event files go.

    Raises:
        ConfigurationError: if the library is not installed.
    """

    def __init__(self, directory: str | Path) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise ConfigurationError(
                "TensorBoardMetrics needs tensorboardX (pip install 'diffassim[tensorboard]'); CsvMetrics does without"
            ) from None
        self._writer: Any = SummaryWriter(str(directory))

    def __call__(self, first: int, values: dict[str, np.ndarray]) -> None:
        """Write the values of updates from step `first` on; those that are NaN are left out."""
        for name, column in values.items():
            for k, value in enumerate(np.asarray(column).tolist()):
                if value == value:
                    self._writer.add_scalar(name, value, first + k)
        self._writer.flush()

    def close(self) -> None:
        """Wait until everything is written."""
        self._writer.close()
