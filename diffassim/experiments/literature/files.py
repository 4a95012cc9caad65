"""Outcomes of reruns in a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from diffassim.experiments.literature.rerun import Outcome
from diffassim.experiments.literature.rows import Row

__all__ = ["as_text", "from_text", "write_outcomes"]


def as_text(outcome: Outcome) -> str:
    """Return the numbers of an outcome, as one process tells them to another; none changes on the way."""
    return json.dumps([outcome.errors.tolist(), outcome.spreads.tolist(), outcome.results.tolist()])


def from_text(row: Row, text: str) -> Outcome:
    """Return the outcome of a row of which `as_text` returned the text.

    Example:
        >>> import numpy as np
        >>> from diffassim.experiments.literature import ROWS
        >>> outcome = Outcome(ROWS[0], np.array([7.5, np.nan]), np.ones(2), np.zeros(2, int))
        >>> from_text(ROWS[0], as_text(outcome)).lost
        1
    """
    errors, spreads, results = json.loads(text)
    return Outcome(row, np.asarray(errors, float), np.asarray(spreads, float), np.asarray(results, int))


def write_outcomes(outcomes: Sequence[Outcome], path: Path) -> None:
    """Write one row for each outcome, with its conditions, source and the error of each seed.

    Args:
        outcomes: what `rerun` returned.
        path: a name that ends in .csv, or else JSON is written.

    Example:
        >>> import numpy as np
        >>> from diffassim.experiments.literature import ROWS
        >>> outcome = Outcome(ROWS[0], np.array([7.5, 7.7]), np.ones(2), np.zeros(2, int))
        >>> write_outcomes([outcome], Path("scores.csv"))
        >>> float(pd.read_csv("scores.csv")["mean"][0])
        7.6
    """
    facts = [outcome.facts() for outcome in outcomes]
    if path.suffix == ".csv":
        pd.DataFrame(facts).to_csv(path, index=False)
    else:
        path.write_text(json.dumps(facts, indent=1) + "\n")
