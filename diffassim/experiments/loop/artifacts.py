"""Files of a loop: whole or not there, with checksums and lineage, the same bytes for the same content."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffassim.core.errors import DataError
from diffassim.experiments.framework.run_directory import versions
from diffassim.io.messages import shortened

__all__ = ["MANIFEST", "STAGES", "LoopFiles", "as_csv", "as_json", "checksum", "from_csv", "signed", "unsigned"]

STAGES = ("A-collect", "B-prepare", "C-features", "D-train", "E-evaluate", "F-apply", "G-feedback")
MANIFEST = "manifest.json"
PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
ADVICE = "Nothing was changed. Restore it from a copy, or begin a new lineage in another --out directory."


def as_json(content: Any) -> bytes:
    r"""Return JSON with sorted keys; arrays become lists, and what is no number becomes null.

    Example:
        >>> as_json({"b": np.arange(2), "a": float("nan")})
        b'{\n "a": null,\n "b": [\n  0,\n  1\n ]\n}\n'
    """
    return (json.dumps(_plain(content), indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def as_csv(frame: pd.DataFrame) -> bytes:
    """Return a table with its index as text; numbers are written so that they are read back bit by bit."""
    return bytes(frame.to_csv(lineterminator="\n"), "utf-8")


def from_csv(content: bytes, times: bool = True) -> pd.DataFrame:
    """Return the table that `as_csv` wrote; with times, its index is that of the first column."""
    frame = pd.read_csv(io.BytesIO(content), index_col=0, dtype=str)
    frame = frame.apply(_parsed) if len(frame) else frame
    if times:
        frame.index = pd.DatetimeIndex(pd.to_datetime(frame.index, format="ISO8601"), name=frame.index.name)
    return frame


def checksum(content: bytes) -> str:
    """Return the SHA-256 of some bytes."""
    return hashlib.sha256(content).hexdigest()


def signed(content: Mapping[str, Any]) -> bytes:
    """Return JSON that holds the checksum of the rest of itself."""
    return as_json({**content, "sha256": checksum(as_json(dict(content)))})


def unsigned(path: Path) -> dict[str, Any]:
    """Read what `signed` made.

    Raises:
        DataError: if the file was changed, or is no JSON.
    """
    try:
        content = dict(json.loads(path.read_bytes()))
        found = content.pop("sha256", None)
    except (ValueError, TypeError):
        raise DataError(f"{path}: altered since the loop wrote it (no longer JSON). {ADVICE}") from None
    if found != checksum(as_json(content)):
        raise DataError(f"{path}: altered since the loop wrote it (its checksum is wrong). {ADVICE}")
    return content


class LoopFiles:
    """The directory of a loop.

    config.toml; store/NNN.csv, the rows that each round has brought; rounds/NNN/A-collect to G-feedback, a directory
    for each finished stage with a manifest of checksums; models/NNN.json. Every file is written beside its place, made
    durable and then renamed, and a stage's directory is renamed as a whole, so that a process killed at any moment
    leaves finished stages and nothing that could be taken for one. Times of the clock go to log.txt alone.

    Args:
        path: the directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config, self.log, self.lock = path / "config.toml", path / "log.txt", path / "lock"
        self.store, self.models, self.rounds = path / "store", path / "models", path / "rounds"

    def stage(self, number: int, stage: str) -> Path:
        """Return the directory of a finished stage."""
        return self.rounds / f"{number:03d}" / stage

    def finished(self, number: int, stage: str) -> bool:
        """Return whether a stage is finished."""
        return (self.stage(number, stage) / MANIFEST).is_file()

    def count(self) -> int:
        """Return the number of rounds that have begun (whose collection is finished)."""
        number = 0
        while self.finished(number + 1, STAGES[0]):
            number += 1
        return number

    def segment(self, number: int) -> Path:
        """Return the file of the rows that a round has brought."""
        return self.store / f"{number:03d}.csv"

    def model(self, number: int) -> Path:
        """Return the file of a round's model."""
        return self.models / f"{number:03d}.json"

    def write(self, path: Path, content: bytes) -> None:
        """Write a file at once or not at all, and make it durable."""
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.part")
        _write_durably(beside, content)
        os.replace(beside, path)  # noqa: PTH105 (atomic on every platform)
        _make_durable(path.parent)

    def commit(self, number: int, stage: str, files: Mapping[str, bytes], inputs: Mapping[str, str]) -> None:
        """Finish a stage: its files and their manifest appear together.

        Args:
            number: of the round.
            stage: one of `STAGES`.
            files: content by name.
            inputs: checksums of what the stage has read, or written elsewhere, by path in the loop's directory.
        """
        final = self.stage(number, stage)
        beside = final.with_name(f".{stage}.part")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        for name, content in files.items():
            _require_plain_file(final / name, name)
            _write_durably(beside / name, content)
        manifest = {
            "configuration": checksum(self.config.read_bytes()),
            "files": {name: checksum(content) for name, content in files.items()},
            "inputs": dict(inputs),
            "round": number,
            "stage": stage,
            "versions": versions(),
        }
        _write_durably(beside / MANIFEST, signed(manifest))
        _make_durable(beside)
        beside.rename(final)
        _make_durable(final.parent)

    def read(self, number: int, stage: str, name: str) -> bytes:
        """Return the content of a file of a finished stage."""
        return (self.stage(number, stage) / name).read_bytes()

    def read_json(self, number: int, stage: str, name: str) -> Any:
        """Return the content of a JSON file of a finished stage."""
        return json.loads(self.read(number, stage, name))

    def manifest_sum(self, number: int, stage: str) -> dict[str, str]:
        """Return the checksum of a stage's manifest by its path: the lineage of whatever is computed from it."""
        path = self.stage(number, stage) / MANIFEST
        return {str(path.relative_to(self.path)): checksum(path.read_bytes())}

    def clean(self) -> None:
        """Remove what a killed process has left half-written."""
        for place in (self.path, self.store, self.models, *self.rounds.glob("*")):
            for left in place.glob(".*.part"):
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()

    def verify(self) -> None:
        """Compare every finished stage, the store and the models with their checksums.

        Raises:
            DataError: naming the first file that is missing, was altered, or does not belong there.
        """
        for entry in self.path.rglob("*"):
            if entry.is_symlink():
                raise DataError(f"{entry}: a link, which could lead out of the directory. {ADVICE}")
        expected = self._expected()
        for path, found in expected.items():
            if not path.is_file():
                raise DataError(f"{path}: missing. {ADVICE}")
            if checksum(path.read_bytes()) != found:
                raise DataError(f"{path}: altered since the loop wrote it (its checksum is wrong). {ADVICE}")
        begun = self.count() + 1
        next_files = {self.segment(begun), self.model(begun), self.model(begun - 1)}  # of a stage that was killed
        others = [*self.store.glob("*"), *(p for p in self.models.glob("*") if p.stem.isdigit())]
        for path in others:
            if path not in expected and path not in next_files and not path.name.startswith("."):
                raise DataError(f"{path}: not written by the loop. {ADVICE}")

    def _expected(self) -> dict[Path, str]:
        expected: dict[Path, str] = {}
        for number in range(1, self.count() + 1):
            after_gap = False
            for stage in STAGES:
                if not self.finished(number, stage):
                    after_gap = True
                    continue
                if after_gap:
                    raise DataError(
                        f"{self.stage(number, stage)}: finished although a stage before it is not. {ADVICE}"
                    )
                expected |= self._stage_sums(number, stage)
        return expected

    def _stage_sums(self, number: int, stage: str) -> dict[Path, str]:
        place = self.stage(number, stage)
        manifest = unsigned(place / MANIFEST)
        try:
            files, inputs = dict(manifest["files"]), dict(manifest["inputs"])
            right = (manifest["round"], manifest["stage"]) == (number, stage)
        except (KeyError, TypeError, ValueError):
            right = False
        if not right:
            raise DataError(f"{place / MANIFEST}: not the manifest of this stage. {ADVICE}")
        if manifest["configuration"] != checksum(self.config.read_bytes()):
            raise DataError(f"{self.config}: altered since {place} was written. {ADVICE}")
        for name in files:
            _require_plain_file(place / MANIFEST, name)
        for name in inputs:
            for part in name.split("/"):
                _require_plain_file(place / MANIFEST, part)
        there = {entry.name for entry in place.iterdir()} - {MANIFEST}
        if there - set(files):
            raise DataError(f"{place / min(there - set(files))}: not written by the loop. {ADVICE}")
        return {place / name: value for name, value in files.items()} | {
            self.path / name: value for name, value in inputs.items()
        }


def _parsed(column: pd.Series) -> pd.Series:
    """Return a column of text as whole numbers, numbers or text, whichever all of it is; exact, as pandas' is not."""
    for kind in (int, float):
        try:
            return column.map(kind)
        except (ValueError, TypeError):
            continue
    return column


def _require_plain_file(where: Path, name: str) -> None:
    if not PLAIN.fullmatch(name):
        raise DataError(f"{where}: {shortened(repr(name))} is no plain file name; names stay inside the directory")


def _plain(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {str(key): _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    if isinstance(content, np.ndarray | np.generic) or hasattr(content, "__jax_array__") or hasattr(content, "devices"):
        return _plain(np.asarray(content).tolist())
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _make_durable(directory: Path) -> None:
    """Make renamings in a directory durable, where the system can."""
    try:
        handle = os.open(directory, os.O_RDONLY)
    except OSError:  # Windows opens no directories
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
