"""The rounds of a loop: seven stages, each of which is finished once and for all or not at all."""

from __future__ import annotations

import datetime
import os
import time
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from diffassim.core.errors import ConfigurationError
from diffassim.experiments.framework.configuration import read_toml, to_toml
from diffassim.experiments.loop.artifacts import STAGES, LoopFiles, checksum
from diffassim.experiments.loop.ledger import roll_back, write_pointer
from diffassim.experiments.loop.lock import locked
from diffassim.experiments.loop.page import write_page
from diffassim.experiments.loop.settings import LoopConfiguration, collection_ends
from diffassim.experiments.loop.stages import STAGE_FUNCTIONS, Work
from diffassim.experiments.loop.store import SourceRows, read_store, require_same_table
from diffassim.io.messages import require_plain_name, shortened

__all__ = ["Outcome", "roll_back_loop", "run_loop"]

Tell = Callable[[str], None]


class Outcome(NamedTuple):
    """What a call of the loop has done.

    Args:
        finished: numbers of the rounds that it finished.
        table: all rounds as text.
        waiting: why there is no further round, or nothing.
    """

    finished: list[int]
    table: str
    waiting: str


def run_loop(
    experiment: Any, config: Any, path: str | Path, *, once: bool = False, until: str = "", tell: Tell | None = None
) -> Outcome:
    """Finish the round that was interrupted, and go on with the next ones as long as their rows are there.

    Args:
        experiment: the loop, with its name and its learner.
        config: its configuration.
        path: directory of the loop, made by the first call.
        once: at most one round.
        until: a day; only rounds whose rows lie before it.
        tell: called with what is done from then on, in words.

    Raises:
        ConfigurationError: if the directory belongs to other settings, or another loop works in it.
        DataError: if something in the directory was altered, or the table cannot be used.
    """
    files = _opened(experiment, config, Path(path))
    limit = _day(until) if until else None
    with locked(files.lock) as left:
        _log(files, f"begins{f'; took over the lock of {left}, which has ended' if left else ''}")
        files.clean()
        files.verify()
        write_pointer(files)
        finished: list[int] = []
        waiting = ""
        source = None
        while len(finished) < (1 if once else config.rounds):
            number = _next_round(files)
            if number > config.rounds:
                waiting = f"all {config.rounds} rounds are finished"
                break
            if not files.finished(number, STAGES[0]):
                source = source or experiment.learner.source(config)
                stored = read_store([files.segment(k) for k in range(1, number)]) if number > 1 else None
                require_same_table(source, stored)
                waiting = _not_yet(config, source, number, limit)
                if waiting:
                    break
            _run_round(experiment, config, files, number, source, tell)
            finished.append(number)
        table = write_page(files, experiment, config)
        _log(files, f"ends; {len(finished)} round(s) finished")
    return Outcome(finished, table, waiting)


def roll_back_loop(experiment: Any, config: Any, path: str | Path) -> tuple[int, int]:
    """Go back to the model before the one in use; see `ledger.roll_back`."""
    if not (Path(path) / "config.toml").is_file():
        raise ConfigurationError(f"{path}: here is no loop; start it with: diffassim loop")
    files = _opened(experiment, config, Path(path))
    with locked(files.lock):
        files.clean()
        files.verify()
        moved = roll_back(files)
        write_page(files, experiment, config)
        _log(files, f"rolled back from model {moved[0]} to model {moved[1]}")
    return moved


def _opened(experiment: Any, config: LoopConfiguration, path: Path) -> LoopFiles:
    require_plain_name("directory", path)
    files = LoopFiles(path)
    if not files.config.exists():
        others = [e.name for e in path.iterdir() if not e.name.startswith(".")] if path.exists() else []
        if set(others) - {"lock", "log.txt"}:
            raise ConfigurationError(
                f"{path}: is not empty and holds no loop (it holds {shortened(min(others))}); give another --out"
            )
        files.write(files.config, to_toml(experiment.name, config).encode())
        return files
    name, stored = read_toml(files.config)
    if name != experiment.name:
        raise ConfigurationError(
            f"{path}: is the directory of {name!r}, not of {experiment.name!r}; give another --out"
        )
    now = _as_read(experiment.name, config)
    for key in sorted({*stored, *now} - config.free):
        if stored.get(key) != now.get(key):
            before, after = shortened(stored.get(key)), shortened(now.get(key))
            raise ConfigurationError(
                f"{files.config}: began with {key} = {before}, and now it is {after}; "
                "rounds of one lineage share their settings: set it back, or begin a new lineage in another --out"
            )
    return files


def _as_read(name: str, config: Any) -> dict[str, Any]:
    """Return the settings as a file of TOML gives them back."""
    settings = tomllib.loads(to_toml(name, config))
    settings.pop("experiment")
    return settings


def _next_round(files: LoopFiles) -> int:
    begun = files.count()
    return begun if begun and not files.finished(begun, STAGES[-1]) else begun + 1


def _not_yet(config: LoopConfiguration, source: SourceRows, number: int, limit: pd.Timestamp | None) -> str:
    """Return why a round cannot begin, or nothing."""
    times = source.frame.index
    after, _ = collection_ends(config, times.min(), number)
    if limit is not None and after > limit:
        return f"round {number} needs rows until {after}, after --until {limit.date()}"
    step = pd.Timedelta(np.median(np.diff(np.sort(times.to_numpy())))) if len(times) > 1 else pd.Timedelta(0)
    if times.max() < after - step:
        return f"round {number} needs rows until {after}; {source.name} ends at {times.max()}"
    return ""


def _run_round(
    experiment: Any, config: Any, files: LoopFiles, number: int, source: SourceRows | None, tell: Tell | None
) -> None:
    work = Work(files, experiment.learner, config, number, source)
    for stage, function in zip(STAGES, STAGE_FUNCTIONS, strict=True):
        if files.finished(number, stage):
            continue
        if tell is not None:
            tell(f"round {number}, {stage}")
        before = time.monotonic()
        content, inputs = function(work)
        lineage = {"config.toml": checksum(files.config.read_bytes()), **inputs, **_before(files, number, stage)}
        files.commit(number, stage, content, lineage)
        _log(files, f"round {number}: {stage} finished, {time.monotonic() - before:.1f} s")
    write_pointer(files)


def _before(files: LoopFiles, number: int, stage: str) -> Mapping[str, str]:
    """Return the checksum of the manifest of the stage before: together they are a chain."""
    k = STAGES.index(stage)
    if k:
        return files.manifest_sum(number, STAGES[k - 1])
    return files.manifest_sum(number - 1, STAGES[-1]) if number > 1 else {}


def _day(text: str) -> pd.Timestamp:
    try:
        return pd.Timestamp(datetime.date.fromisoformat(text))
    except ValueError:
        raise ConfigurationError(f"--until {shortened(text)}: write a day as 1984-12-31") from None


def _log(files: LoopFiles, text: str) -> None:
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    with files.log.open("a", encoding="utf-8") as file:
        file.write(f"{now} process {os.getpid()}: {text}\n")
