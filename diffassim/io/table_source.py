"""One way to read CSV, parquet and data frames: the columns that are wanted, a chunk of rows at a time."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from diffassim.core.errors import ConfigurationError, DataError
from diffassim.io.columns import TextFormat
from diffassim.io.messages import shortened, single_line, suggested
from diffassim.io.text_file import TextFile, open_text

__all__ = ["Chunk", "TableSource", "open_table", "require_columns"]

PARQUET = (".parquet", ".pq")


class Chunk(NamedTuple):
    """Rows of a table: a frame of the wanted columns, and the number of its first row in the file, counted from 1."""

    frame: pd.DataFrame
    first_row: int


class TableSource(NamedTuple):
    """An opened table: its name, the names of its columns, their units where the file has them, and notes."""

    name: str
    names: tuple[str, ...]
    units: dict[str, str]
    notes: tuple[str, ...]
    content: Any
    text: TextFormat

    def chunks(
        self, labels: Sequence[str], numbers: Sequence[str], missing: Sequence[str], rows: int
    ) -> Iterator[Chunk]:
        """Yield chunks of rows.

        Args:
            labels: columns that come as text (names, dates).
            numbers: columns that come as numbers, or as text where a cell is none.
            missing: texts that mean missing in columns of numbers.
            rows: most rows of a chunk.

        Raises:
            ConfigurationError: if a column is not there.
            DataError: if the file is damaged.
        """
        require_columns(self.name, [*labels, *numbers], self.names)
        if isinstance(self.content, TextFile):
            yield from _text_chunks(self.content, self.text, labels, numbers, missing, rows)
        elif isinstance(self.content, pd.DataFrame):
            frame = self.content[list(dict.fromkeys([*labels, *numbers]))]
            yield from (Chunk(frame.iloc[k : k + rows], k + 2) for k in range(0, len(frame), rows))
        else:
            yield from _parquet_chunks(self.name, self.content, [*labels, *numbers], rows)


def require_columns(name: str, wanted: Sequence[str], found: Sequence[str]) -> None:
    """Raise `ConfigurationError` for the first column that a table does not have, suggesting the nearest name.

    Example:
        >>> require_columns("wind.csv", ["time"], ("time", "ff"))
    """
    for column in wanted:
        if column not in found:
            there = shortened(", ".join(map(str, found)), 300)
            raise ConfigurationError(
                f"{name}: has no column {shortened(repr(column))}{suggested(column, found)}; it has {there}"
            )


def open_table(source: Any, text: TextFormat) -> TableSource:
    """Open a CSV file, a parquet file, an open file of CSV, or a DataFrame (whose index is a column if it has a name).

    Raises:
        DataError: if it is missing, empty, damaged, or names a column twice.
        ConfigurationError: if a parquet file is to be read without pyarrow.

    Example:
        >>> open_table(pd.DataFrame({"time": ["2020-01-01"], "a": [1.0]}), TextFormat()).names
        ('time', 'a')
    """
    if isinstance(source, pd.DataFrame):
        named = source.index.name is not None and source.index.name not in source.columns
        frame = (source.reset_index() if named else source).rename(columns=lambda column: str(column).strip())
        if frame.columns.has_duplicates:
            twice = shortened(frame.columns[frame.columns.duplicated()][0])
            raise DataError(f"table: the column {twice!r} appears twice; keep one")
        if frame.empty:
            raise DataError(f"table: is empty, of shape {frame.shape}")
        units = {str(key): str(value) for key, value in dict(frame.attrs.get("units", {})).items()}
        return TableSource("table", tuple(frame.columns), units, (), frame, text)
    if not hasattr(source, "read") and Path(source).suffix.lower() in PARQUET:
        return _open_parquet(Path(source), text)
    opened = open_text(source, text)
    return TableSource(opened.name, opened.names, opened.units, opened.notes, opened, text)


def _text_chunks(
    file: TextFile, text: TextFormat, labels: Sequence[str], numbers: Sequence[str], missing: Sequence[str], rows: int
) -> Iterator[Chunk]:
    # All columns are read, wanted or not: a selection would switch off the check that no row has more cells than names.
    blanks = {"sep": r"\s+"} if file.separator == "whitespace" else {"sep": file.separator, "skipinitialspace": True}
    settings: dict[str, Any] = {
        "header": None, "names": list(file.names), "skiprows": file.header_rows, "index_col": False,
        "dtype": dict.fromkeys(labels, str),
        "na_values": {column: list(missing) for column in numbers}, "keep_default_na": False,
        "decimal": text.decimal, "thousands": text.thousands, "quotechar": text.quote, "comment": text.comment,
        "skip_blank_lines": False, "low_memory": False, "chunksize": rows, **blanks,
    }  # fmt: skip
    row = file.header_rows + 1
    try:
        with file.opened() as lines, pd.read_csv(lines, **settings) as reader:
            while True:
                with warnings.catch_warnings():
                    warnings.simplefilter("error", pd.errors.ParserWarning)  # a first row with more cells than names
                    frame = next(reader, None)
                if frame is None:
                    return
                yield Chunk(frame, row)
                row += len(frame)
    except (DataError, ConfigurationError):
        raise
    except pd.errors.EmptyDataError:
        return
    except (ValueError, OSError, EOFError, pd.errors.ParserWarning) as error:
        problem = single_line(f"{type(error).__name__}: {error}", 200)
        raise DataError(
            f"{file.name}: from row {row} on it is no table with {len(file.names)} columns separated by "
            f"{file.separator!r} ({problem}); say how it is written with TextFormat, or restore it from its source"
        ) from None


def _open_parquet(path: Path, text: TextFormat) -> TableSource:
    name = shortened(path.name)
    if not path.is_file():
        raise DataError(f"{shortened(path, 300)}: no such file")
    try:
        from pyarrow import parquet
    except ImportError:
        raise ConfigurationError(f"{name}: parquet needs pyarrow: pip install 'diffassim[files]'") from None
    try:
        file = parquet.ParquetFile(path)
        schema = file.schema_arrow
    except Exception as error:
        problem = single_line(f"{type(error).__name__}: {error}", 200)
        raise DataError(f"{name}: not a whole parquet file ({problem}); restore it from its source") from None
    units = {
        field.name: field.metadata[b"units"].decode()
        for field in schema
        if field.metadata and b"units" in field.metadata
    }
    return TableSource(name, tuple(schema.names), units, (), path, text)


def _parquet_chunks(name: str, path: Path, columns: Sequence[str], rows: int) -> Iterator[Chunk]:
    from pyarrow import parquet

    row = 1  # a parquet file has no row of names
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=rows, columns=list(dict.fromkeys(columns))):
                yield Chunk(batch.to_pandas(), row)
                row += batch.num_rows
    except (OSError, ValueError) as error:
        problem = single_line(f"{type(error).__name__}: {error}", 200)
        raise DataError(f"{name}: damaged after row {row - 1} ({problem}); restore it from its source") from None
