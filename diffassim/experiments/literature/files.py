"""Outcomes of reruns in a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from diffassim.experiments.literature.rerun import Outcome

__all__ = ["write_outcomes"]


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
