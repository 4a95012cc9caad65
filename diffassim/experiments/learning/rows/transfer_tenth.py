"""Row transfer-tenth: only what the aim of transfer needs, so that it may be run with several seeds."""

from __future__ import annotations

import jax

from diffassim.experiments.learning.bench import Row, Score, Settings
from diffassim.experiments.learning.rows.transfer import (
    ENOUGH,
    KNOWN,
    SIZE,
    SIZE_FULL,
    SOURCE,
    TARGET,
    TEST,
    WINDOWS,
    learn,
    pretrain,
)
from diffassim.experiments.learning.short_windows import draw, observe, rmse, untrained

__all__ = ["ROW"]


def run(settings: Settings) -> list[Score]:
    """Train on the source, fine-tune on a tenth of the target, and train from scratch on all of it."""
    keys = jax.random.split(settings.key, 6)
    source, target, test = draw(keys[0], WINDOWS), draw(keys[1], KNOWN, TARGET), draw(keys[2], TEST, TARGET)
    values = observe(test, keys[5])
    fresh = untrained(*(SIZE_FULL if settings.full else SIZE), settings.seed)
    trained = pretrain(fresh, source, settings, 0.5)
    tenth = target[: int(ENOUGH * KNOWN)]
    tuned = learn(trained, tenth, settings, f"{ENOUGH:.0%} fine-tuned", tuning=True, share=0.2)
    scratch = learn(fresh, target, settings, "all from scratch", tuning=False, share=0.3)
    errors = [rmse(network, values, test) for network in (trained, tuned, scratch)]
    return [
        Score("source, as it is", errors[0]),
        Score(f"{ENOUGH:.0%}, fine-tuned", errors[1]),
        Score("100%, from scratch", errors[2]),
        Score(f"{ENOUGH:.0%}, fine-tuned, over 100%, from scratch", errors[1] / errors[2], aim=1.0),
    ]


ROW = Row(
    "transfer-tenth", f"a network of Lorenz-96 with F = {SOURCE:g} moved to F = {TARGET:g} by a tenth of the data",
    "root mean square error", "a tenth of the data instead of all", run,
)  # fmt: skip
