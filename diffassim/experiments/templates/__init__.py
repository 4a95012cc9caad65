"""Commented settings to start from."""

from __future__ import annotations

from importlib.resources import files

from diffassim.core.errors import ConfigurationError
from diffassim.io.messages import shortened, suggested

__all__ = ["KINDS", "template"]

KINDS = ("stations", "catchment", "twin", "loop")


def template(kind: str) -> str:
    """Return the template of that kind.

    Raises:
        ConfigurationError: if there is none.

    Example:
        >>> template("stations").splitlines()[0]
        'experiment = "stations"'
    """
    if kind not in KINDS:
        raise ConfigurationError(
            f"new: there is no template {shortened(repr(kind))}{suggested(kind, KINDS)}; there are: {', '.join(KINDS)}"
        )
    return files(__name__).joinpath(f"{kind}.toml").read_text(encoding="utf-8")
