"""Rows of a user's own, from a file: methods and set-ups by their names, with a score to compare with."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

from diffassim.core.errors import ConfigurationError
from diffassim.experiments.framework.parts import built
from diffassim.experiments.literature.rows import Persistence, Row
from diffassim.experiments.literature.setups import LAWS, SETUPS, Setup
from diffassim.io.messages import require_plain_name, shortened, single_line

__all__ = ["read_rows"]

# What a row may change of a set-up: steps, times and variances (of observations, start, and each step of the truth).
CHANGES = ("interval", "cycles", "burn_in", "noise", "law", "model_error", "variance")


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a TOML file, one table `[[row]]` for each.

    A method is written as its class with its arguments, one way for all parts of it:

        [[row]]
        case = "lorenz96/sakov2008"              # a set-up, see `SETUPS`
        setup = {interval = 8, law = "laplace"}  # changes of it, `CHANGES` names all
        label = "LETKF 1.04"
        method = {LETKF = {inflation = 1.04, rotation = true, localization = {GaspariCohn = {radius = 4.0}}}}
        members = 7
        documented = 0.22
        lag = 0                                  # observation times of a window
        line = "where it is documented"

    Raises:
        ConfigurationError: one line naming the row and what is wrong with it.

    Example:
        >>> lines = ["[[row]]", "case = 'lorenz63/sakov2012'", "method = {EnKF = {inflation = 1.04}}"]
        >>> lines += ["documented = 0.65", "members = 10", "setup = {law = 'laplace'}"]
        >>> _ = Path("rows.toml").write_text(chr(10).join(lines))
        >>> row = read_rows(Path("rows.toml"))[0]
        >>> row.method.inflation, row.setup.law, row.setup.interval
        (1.04, 'laplace', 25)
    """
    require_plain_name("file", path)
    shown = shortened(path, 300)
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8-sig")).get("row")
    except OSError as error:
        raise ConfigurationError(f"{shown}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{shown}: not valid TOML: {single_line(error, 200)}") from None
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables) or not tables:
        raise ConfigurationError(f"{shown}: there is no table [[row]]")
    return [_row(f"{shown}, row {number}", table) for number, table in enumerate(tables, 1)]


def _row(name: str, table: dict[str, Any]) -> Row:
    known = {"case", "setup", "label", "method", "members", "documented", "lag", "line", "note"}
    for key in table:
        if key not in known:
            raise ConfigurationError(
                f"{name}: unknown key {shortened(repr(key))}; known keys: {', '.join(sorted(known))}"
            )
    for key in ("case", "method", "documented"):
        if key not in table:
            raise ConfigurationError(f"{name}: the key {key!r} is missing")
    case, method = table["case"], table["method"]
    if case not in SETUPS:
        raise ConfigurationError(f"{name}: there is no set-up {shortened(repr(case))}; known: {', '.join(SETUPS)}")
    counts = {key: table.get(key, otherwise) for key, otherwise in (("members", 1), ("lag", 0))}
    for key, value in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < (key == "members"):
            raise ConfigurationError(f"{name}: {key}={shortened(repr(value))} must be a whole number, not negative")
    documented = table["documented"]
    if isinstance(documented, bool) or not isinstance(documented, int | float) or not 0 < documented < float("inf"):
        raise ConfigurationError(f"{name}: documented={shortened(repr(documented))} must be a positive number")
    made = Persistence() if method == "Persistence" else built(name, method)
    label = str(table.get("label", method if isinstance(method, str) else next(iter(method))))
    return Row(
        case, label, made, float(documented), note=str(table.get("note", "")), line=str(table.get("line", name)),
        changed=_changed(name, SETUPS[case], table.get("setup", {})), **counts,
    )  # fmt: skip


def _changed(name: str, setup: Setup, changes: Any) -> Setup | None:
    if not isinstance(changes, dict):
        raise ConfigurationError(f"{name}: setup must be a table of changes, such as {{interval = 8}}")
    for key, value in changes.items():
        if key not in CHANGES:
            raise ConfigurationError(
                f"{name}: a set-up has no {shortened(repr(key))} to change; known: {', '.join(CHANGES)}"
            )
        whole = key in ("interval", "cycles", "burn_in")
        number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        least = 0 if key in ("burn_in", "model_error") else 1 if whole else 1e-300
        if key == "law":
            if value not in LAWS:
                raise ConfigurationError(f"{name}: there is no law {shortened(repr(value))}; known: {', '.join(LAWS)}")
        elif not number or not least <= value < float("inf"):
            raise ConfigurationError(f"{name}: setup {key}={shortened(repr(value))} must be a positive number")
    return dataclasses.replace(setup, **changes) if changes else None
