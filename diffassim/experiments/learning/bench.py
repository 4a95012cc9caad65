"""What a row of the benchmark of learned assimilation is, and what runs it over seeds."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pandas as pd

from diffassim.core.errors import ConfigurationError
from diffassim.training import Fit, fit

__all__ = ["Outcome", "Row", "Score", "Settings", "measure", "train", "write_outcomes"]

KINDS = ("learned", "classical")


def _silent(doing: str) -> None:
    pass


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a row is run.

    Args:
        seed: number of the run, from which all data and first weights are drawn.
        minutes: time in which its networks are trained, all of them together. The number of updates follows from it.
        full: the size for an accelerator, where a row has one.
        tell: called with what is being done.
        note: called with each score as soon as it is known.
    """

    seed: int = 0
    minutes: float = 15.0
    full: bool = False
    tell: Callable[[str], None] = _silent
    note: Callable[[str], None] = _silent

    @property
    def key(self) -> jax.Array:
        """The random key of the run."""
        return jax.random.key(5_000 + self.seed)


@dataclasses.dataclass(frozen=True)
class Score:
    """One method in one run of a row.

    Args:
        method: what was scored, unique within the row.
        value: its score.
        kind: 'learned', or 'classical' for a yardstick that knows the same.
        published: published score of this method, or of the learned method it stands beside.
        aim: score to reach.
        note: what else to know, such as the share of cases solved or the time of the training.
    """

    method: str
    value: float
    kind: str = "learned"
    published: float | None = None
    aim: float | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigurationError(f"Score: kind={self.kind!r} must be one of {', '.join(KINDS)}")


@dataclasses.dataclass(frozen=True)
class Row:
    """A published protocol, and what runs it: trains what is learned, and scores it beside classical methods.

    Args:
        name: short name, for example L5.
        title: what is done.
        metric: name of the score.
        source: whose protocol it is.
        run: takes `Settings` and returns scores, or yields them as they are found.
        higher: whether larger scores are better.
    """

    name: str
    title: str
    metric: str
    source: str
    run: Callable[[Settings], Iterable[Score]]
    higher: bool = False


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The scores of one method of a row over seeds.

    Args:
        row: the row.
        score: that of the first seed, for what is the same in all.
        values: the score of each seed.
        seconds: time that the row took, all methods and seeds together.
    """

    row: Row
    score: Score
    values: np.ndarray
    seconds: float

    @property
    def mean(self) -> float:
        """Mean over the seeds; not finite where one of them is not."""
        return float(np.mean(self.values))

    @property
    def standard_error(self) -> float:
        """Of the mean, from the scatter of the seeds; NaN for a single one."""
        count = self.values.size
        return float(np.std(self.values, ddof=1) / count**0.5) if count > 1 else math.nan

    @property
    def reached(self) -> str:
        """Whether the mean is as good as the aim: 'yes' or 'no', empty without an aim."""
        if self.score.aim is None:
            return ""
        better = self.mean >= self.score.aim if self.row.higher else self.mean <= self.score.aim
        return "yes" if better else "no"

    def facts(self) -> dict[str, Any]:
        """Return everything as plain values, for tables and files."""
        score = self.score
        return {
            "row": self.row.name, "title": self.row.title, "method": score.method, "kind": score.kind,
            "metric": self.row.metric, "seeds": self.values.size, "mean": self.mean,
            "standard_error": self.standard_error, "published": score.published, "aim": score.aim,
            "reached": self.reached, "note": score.note, "seconds": self.seconds, "source": self.row.source,
            "values": self.values.tolist(),
        }  # fmt: skip


def measure(row: Row, seeds: int = 1, settings: Settings | None = None) -> list[Outcome]:
    """Run a row over seeds; each has its own data and trains its own networks.

    Args:
        row: see `diffassim.experiments.learning.rows`.
        seeds: number of runs.
        settings: of the first run; the seeds of the others follow.

    Returns:
        An `Outcome` for each method, in the order of the row.

    Raises:
        ConfigurationError: if there is no seed, or no time to train.

    Example:
        >>> row = Row("L0", "guessing", "error", "nobody", lambda settings: [Score("guess", 1.0 + settings.seed)])
        >>> measure(row, seeds=3)[0].mean
        2.0
    """
    settings = Settings() if settings is None else settings
    if seeds < 1:
        raise ConfigurationError(f"{row.name}: seeds={seeds} must be at least 1")
    if not settings.minutes > 0:
        raise ConfigurationError(f"{row.name}: minutes={settings.minutes} must be positive")
    began = time.monotonic()
    found: list[list[Score]] = []
    for seed in range(settings.seed, settings.seed + seeds):
        found.append([])
        for score in row.run(dataclasses.replace(settings, seed=seed)):
            settings.note(f"{row.name}, seed {seed}, {score.method}: {score.value:.4g}")
            found[-1].append(score)
    seconds = time.monotonic() - began
    return [
        Outcome(row, scores[0], np.array([score.value for score in scores]), seconds)
        for scores in zip(*found, strict=True)
    ]


def write_outcomes(outcomes: Sequence[Outcome], path: Path) -> None:
    """Write one entry for each outcome.

    Args:
        outcomes: what `measure` returned.
        path: a name that ends in .csv, or else JSON is written.
    """
    facts = [outcome.facts() for outcome in outcomes]
    if path.suffix == ".csv":
        pd.DataFrame(facts).to_csv(path, index=False)
    else:
        path.write_text(json.dumps(facts, indent=1) + "\n")


def train(
    loss: Callable[..., Any], trainable: Any, data: Any, *, settings: Settings, name: str, updates: int, rate: float,
    batch_size: int, share: float = 1.0, key: jax.Array | None = None, **options: Any,
) -> Fit:  # fmt: skip
    """Train with Adam, the gradient clipped and the rate falling to zero along a cosine, within the time of the row.

    A first chunk tells what an update takes; if `updates` of them do not fit, there are fewer, and the rate falls
    faster.

    Args:
        loss: see `fit`.
        trainable: see `fit`.
        data: see `fit`.
        settings: of the row.
        name: what is trained, to be told.
        updates: largest number of updates.
        rate: first learning rate.
        batch_size: samples of an update.
        share: of the row's time that this training may take.
        key: random key; default: that of the settings.
        options: passed on to `fit`.

    Returns:
        `Fit`.
    """
    settings.tell(f"trains {name}")
    key = settings.key if key is None else key
    chunk = options.pop("chunk", min(100, updates))
    first = {"key": key, "carry": options.pop("carry", None)}
    common: dict[str, Any] = {"batch_size": batch_size, "chunk": chunk, **options}
    optimizer = _adam(rate, updates)
    found = fit(loss, trainable, data, optimizer=optimizer, steps=chunk, **first, **common)
    compiled = time.monotonic()
    found = fit(loss, None, data, optimizer=optimizer, steps=min(2 * chunk, updates), state=found.state, **common)
    each = (time.monotonic() - compiled) / chunk
    possible = int(60 * settings.minutes * share / max(each, 1e-9))  # the time of the compilation does not count
    if possible >= updates:
        return fit(loss, None, data, optimizer=optimizer, steps=updates, state=found.state, **common)
    fewer = max(possible - possible % chunk, chunk)
    settings.tell(f"trains {name}, {fewer} of {updates} updates fit into the time")
    return fit(loss, trainable, data, optimizer=_adam(rate, fewer), steps=fewer, **first, **common)


@functools.cache  # one object for one rule: `fit` then uses its compiled updates again
def _adam(rate: float, updates: int) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(rate, updates)))
