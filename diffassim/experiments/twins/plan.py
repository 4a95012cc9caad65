"""In which parts the runs of a twin experiment are computed."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffassim.experiments.framework.assimilation import Record
from diffassim.experiments.twins.named_models import build_model, find_model
from diffassim.experiments.twins.observing import field_names
from diffassim.experiments.twins.sweep import PlannedRun, planned_runs

__all__ = ["Part", "Plan", "ToldBy", "plan_of"]

PART_BYTES = 2**28  # of members that are kept until they are scored
PART_ANALYSES = 1000


class ToldBy:
    """Settings that caches tell apart by a text.

    Args:
        settings: the settings.
        text: of what matters of them.
    """

    def __init__(self, settings: Any, text: str) -> None:
        self.settings, self.text = settings, text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ToldBy) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)


class Part(NamedTuple):
    """Consecutive analyses of a run.

    Args:
        run: the run.
        analyses: which of them.
        last: whether they are the last ones.
    """

    run: PlannedRun
    analyses: slice
    last: bool


class Plan(NamedTuple):
    """All runs of an experiment.

    Args:
        runs: see `planned_runs`.
        parts: in the order in which they are computed.
        fields: names of the fields of all states.
        columns: for each run the numbers of its state's fields among these.
        sizes: for each run the numbers that a state consists of.
    """

    runs: list[PlannedRun]
    parts: list[Part]
    fields: list[str]
    columns: list[list[int]]
    sizes: list[int]


def plan_of(config: Any) -> Plan:
    """Return the plan of a configuration; it is made once.

    Raises:
        ConfigurationError: if a model cannot be made.

    Example:
        >>> from diffassim.experiments.twins.twin_settings import TwinConfiguration
        >>> plan = plan_of(TwinConfiguration(cycles=3000, sweep={"model.forcing": [8.0, 10.0]}))
        >>> [(part.run.number, part.analyses.start) for part in plan.parts]
        [(0, 0), (0, 1000), (0, 2000), (1, 0), (1, 1000), (1, 2000)]
    """
    return _plan(ToldBy(config, config.model_dump_json()))


@functools.lru_cache(maxsize=4)
def _plan(told: ToldBy) -> Plan:
    runs = planned_runs(told.settings)
    facts = [_facts(ToldBy(run.settings, run.settings.model.model_dump_json())) for run in runs]
    fields = list(dict.fromkeys(name for _, names in facts for name in names))
    parts = [part for run, (size, _) in zip(runs, facts, strict=True) for part in _parts(run, size)]
    columns = [[fields.index(name) for name in names] for _, names in facts]
    return Plan(runs, parts, fields, columns, [size for size, _ in facts])


@functools.lru_cache(maxsize=64)
def _facts(told: ToldBy) -> tuple[int, list[str]]:
    """Return how many numbers a state consists of, and the names of its fields."""
    settings = told.settings.model
    model, size = build_model(settings.name, settings.size, settings.numbers)
    start = find_model(settings.name).start
    shapes = jax.eval_shape(lambda: start(jax.random.key(0), model, size, jnp.float32))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)), field_names(model, shapes)


def _parts(run: PlannedRun, size: int) -> list[Part]:
    count = Record((), run.settings.cycles, 1, run.method.window, run.method.shift).analyses
    each = 4 * 8 * run.settings.seeds * max(run.method.members, 4) * size
    parts = -(-count // max(1, min(PART_ANALYSES, PART_BYTES // each)))
    # Parts of one length share what is compiled.
    length = -(-count // next((more for more in range(parts, 2 * parts) if count % more == 0), parts))
    return [
        Part(run, slice(first, min(first + length, count)), first + length >= count)
        for first in range(0, count, length)
    ]
