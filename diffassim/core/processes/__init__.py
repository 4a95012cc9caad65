"""Several processes of one run: who they are, what they agree upon, and what is said of one that fails."""

from diffassim.core.processes.agreement import (
    TIMEOUT,
    Stopped,
    agree,
    claim,
    exchange,
    raised,
    share_out,
    together,
)
from diffassim.core.processes.service import ProcessError, count, rank
from diffassim.core.processes.signs import HEARTBEAT, LAUNCHER, PLACE_FILE, fail, place
from diffassim.core.processes.start import ADDRESS, COUNT, HERE, RANK, initialize

__all__ = [
    "ADDRESS",
    "COUNT",
    "HEARTBEAT",
    "HERE",
    "LAUNCHER",
    "PLACE_FILE",
    "RANK",
    "TIMEOUT",
    "ProcessError",
    "Stopped",
    "agree",
    "claim",
    "count",
    "exchange",
    "fail",
    "initialize",
    "place",
    "raised",
    "rank",
    "share_out",
    "together",
]
