"""A loop as the command line knows it: a name, settings, and a learner."""

from __future__ import annotations

from abc import ABC
from typing import Any, ClassVar

from diffassim.experiments.loop.learner import Learner
from diffassim.experiments.loop.settings import LoopConfiguration, collection_ends

__all__ = ["LoopExperiment"]

SHOWN_ROUNDS = 8


class LoopExperiment(ABC):
    """Base of all loops: `diffassim loop` runs them, and not `diffassim run`."""

    name: ClassVar[str]
    summary: ClassVar[str]
    configuration: ClassVar[type[LoopConfiguration]]
    learner: ClassVar[Learner]

    def check(self, config: Any) -> str:
        """Return what was understood of settings and table, without training anything."""
        source = self.learner.source(config)
        frame = source.frame
        lines = [self.summary, f"  {source.name}: {len(frame)} rows of {', '.join(map(str, frame.columns[:8]))}"]
        if len(frame):
            lines.append(f"  from {frame.index.min()} to {frame.index.max()}")
            for number in range(1, min(config.rounds, SHOWN_ROUNDS) + 1):
                after, held_back = collection_ends(config, frame.index.min(), number)
                count = int((frame.index < after).sum())
                lines.append(
                    f"  round {number}: rows before {after}, held back from {held_back}; {count} rows are there"
                )
        settings = config.model_dump(mode="json", exclude_none=True)
        return "\n".join([*lines, *source.notes, *(f"  {key} = {value}" for key, value in settings.items())])
