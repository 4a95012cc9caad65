"""Files of text: encoding, separator and names of columns, found before the numbers are read."""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from diffassim.core.errors import ConfigurationError, DataError
from diffassim.io.columns import TextFormat
from diffassim.io.messages import shortened, single_line

__all__ = ["COMPRESSED", "TextFile", "open_text"]

COMPRESSED: dict[str, Callable[[Any], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
OTHERS = (".tar", ".zst", ".7z", ".rar", ".tgz")
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
SEPARATORS = (",", ";", "\t", "|")
BLOCK = 2**20


class TextFile(NamedTuple):
    """How to read a file of text.

    name, for messages; opened, a function that opens it as text from the start; encoding; separator; names, the columns
    in their order; units, by column, from its row of units; header_rows, lines before the first row of data; notes.
    """

    name: str
    opened: Callable[[], Any]
    encoding: str
    separator: str
    names: tuple[str, ...]
    units: dict[str, str]
    header_rows: int
    notes: tuple[str, ...]


def open_text(source: Any, text: TextFormat) -> TextFile:
    r"""Find out how a CSV file is written.

    Args:
        source: path of a file that may be compressed (.gz, .bz2, .xz, .zip), or an open file of bytes or text.
        text: what is known of it.

    Raises:
        DataError: if it is missing, empty, damaged, or names a column twice.
        ConfigurationError: if the encoding is unknown.

    Example:
        >>> found = open_text(io.BytesIO(b"time;a;b\n2020-01-01;1,5;2\n"), TextFormat(decimal=","))
        >>> found.separator, found.names
        (';', ('time', 'a', 'b'))
    """
    name, opened_bytes = _bytes_of(source)
    try:
        encoding, notes = _encoding(name, opened_bytes, text.encoding)

        def opened() -> Any:
            return io.TextIOWrapper(opened_bytes(), encoding=encoding, newline="")

        with opened() as lines:
            head = list(_lines(lines, text.skip_rows + 1 + int(text.units_row), text.comment))
    except (DataError, ConfigurationError):
        raise
    except Exception as error:  # whatever the bytes make decompressors and decoders raise
        problem = single_line(f"{type(error).__name__}: {error}", 200)
        kind = _kind(source)
        raise DataError(
            f"{name}: not a whole {kind or 'file of text'} ({problem}); restore it from its source"
        ) from None
    head = head[text.skip_rows :]
    if not head or not head[0][1].strip():
        raise DataError(f"{name}: is empty, so it is not a CSV table; it needs a row of column names and rows of data")
    if "\0" in head[0][1]:
        raise DataError(f"{name}: not a CSV table (it holds NUL characters; give TextFormat(encoding='utf-16-le'))")
    separator = text.separator or _separator(head[0][1], text.decimal)
    names = _cells(head[0][1], separator, text.quote)
    twice = [column for k, column in enumerate(names) if column in names[:k]]
    if twice:
        raise DataError(f"{name}: the column {shortened(twice[0])!r} appears twice; keep one")
    units: dict[str, str] = {}
    if text.units_row:
        if len(head) < 2:
            raise DataError(f"{name}: has no row of units after that of the names")
        units = dict(zip(names, _cells(head[1][1], separator, text.quote), strict=False))
    return TextFile(name, opened, encoding, separator, names, units, head[-1][0], notes)


def _bytes_of(source: Any) -> tuple[str, Callable[[], Any]]:
    """Return a name, and a function that opens the bytes from their start."""
    if hasattr(source, "read"):
        content = source.read()
        data = content.encode("utf-8") if isinstance(content, str) else bytes(content)
        return shortened(Path(str(getattr(source, "name", "table"))).name), lambda: io.BytesIO(data)
    path = Path(source)
    if not path.is_file():
        raise DataError(f"{shortened(path, 300)}: no such file")
    suffix = path.suffix.lower()
    if suffix in OTHERS or (_kind(path) and not path.stat().st_size):
        reason = "it is empty" if suffix not in OTHERS else "this kind is not read; pack it as .gz, .bz2, .xz or .zip"
        raise DataError(f"{shortened(path.name)}: not a whole {suffix} file that can be read: {reason}")
    if suffix == ".zip":
        return shortened(path.name), lambda: _zipped(path)
    if suffix in COMPRESSED:
        return shortened(path.name), lambda: COMPRESSED[suffix](path)
    return shortened(path.name), lambda: path.open("rb")


def _kind(source: Any) -> str:
    """Return what a compressed file is, for messages; nothing for others."""
    suffix = "" if hasattr(source, "read") else Path(source).suffix.lower()
    return f"{suffix} file" if suffix in (*COMPRESSED, *OTHERS, ".zip") else ""


def _zipped(path: Path) -> Any:
    archive = zipfile.ZipFile(path)
    names = [name for name in archive.namelist() if not name.endswith("/")]
    if len(names) != 1:
        raise DataError(f"{shortened(path.name)}: holds {len(names)} files; an archive with one table is needed")
    return archive.open(names[0])


def _encoding(name: str, opened: Callable[[], Any], given: str | None) -> tuple[str, tuple[str, ...]]:
    if given is not None:
        try:
            codecs.lookup(given)
        except LookupError:
            raise ConfigurationError(f"TextFormat: the encoding {shortened(repr(given))} is not known") from None
        return given, ()
    with opened() as content:
        block = content.read(BLOCK)
        for mark, encoding in MARKS.items():
            if block.startswith(mark):
                return encoding, ()
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            while block:
                decoder.decode(block)
                block = content.read(BLOCK)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "latin-1", (f"{name} is not UTF-8 and was read as Latin-1",)
    return "utf-8", ()


def _lines(lines: Any, count: int, comment: str | None) -> Iterator[tuple[int, str]]:
    """Yield the first lines that are no remarks, with their numbers counted from 1."""
    for number, line in enumerate(lines, 1):
        if comment is not None and line.startswith(comment):
            continue
        yield number, line.rstrip("\r\n")
        count -= 1
        if count <= 0:
            return


def _separator(line: str, decimal: str) -> str:
    candidates = [mark for mark in SEPARATORS if mark != decimal] if decimal == "," else list(SEPARATORS)
    counts = [line.count(mark) for mark in candidates]
    return candidates[counts.index(max(counts))]


def _cells(line: str, separator: str, quote: str) -> tuple[str, ...]:
    if separator == "whitespace":
        return tuple(cell.strip(quote) for cell in line.split())
    return tuple(cell.strip() for cell in next(csv.reader([line], delimiter=separator, quotechar=quote)))
