"""Data files that other installed packages carry."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from diffassim.core.errors import DataError

__all__ = ["packaged_file"]


def packaged_file(package: str, path: str, command: str) -> Path:
    """Return the path of a file within an installed package, which is not imported and need not be importable.

    Args:
        package: name of the distribution.
        path: the end of the file's path, which may hold wild cards within a part.
        command: what brings the package.

    Raises:
        DataError: if the package is not installed, or its version does not carry the file.

    Example:
        >>> packaged_file("numpy", "numpy/__init__.py", "pip install numpy").name
        '__init__.py'
        >>> packaged_file("no-such-data", "a.csv", "pip install no-such-data")
        Traceback (most recent call last):
        ...
        diffassim.core.errors.DataError: a.csv comes with the package no-such-data; run: pip install no-such-data
    """
    try:
        listed = files(package) or []
    except PackageNotFoundError:
        raise DataError(f"{path} comes with the package {package}; run: {command}") from None
    for file in listed:
        found = Path(str(file.locate()))
        if file.match(path) and found.exists():
            return found
    raise DataError(f"the installed version of the package {package} carries no {path}; run: {command}")
