"""Set-ups of the literature with their documented scores, as data, and what reruns them."""

from diffassim.experiments.literature.files import as_text, from_text, write_outcomes
from diffassim.experiments.literature.own_rows import read_rows
from diffassim.experiments.literature.rerun import Outcome, rerun
from diffassim.experiments.literature.rows import LEFT_OUT, ROWS, OfClimatology, Persistence, Row, find_rows
from diffassim.experiments.literature.setups import SETUPS, Setup

__all__ = [
    "LEFT_OUT",
    "ROWS",
    "SETUPS",
    "OfClimatology",
    "Outcome",
    "Persistence",
    "Row",
    "Setup",
    "as_text",
    "find_rows",
    "from_text",
    "read_rows",
    "rerun",
    "write_outcomes",
]
