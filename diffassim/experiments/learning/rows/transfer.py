"""Row transfer: a network trained under one forcing of Lorenz-96 meets another one, of which few windows are known."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from diffassim.experiments.learning.bench import Row, Score, Settings, train
from diffassim.experiments.learning.short_windows import draw, mean_square, observe, rmse, untrained
from diffassim.training import Distillation

__all__ = ["ROW", "learn", "pretrain"]

SOURCE, TARGET = 8.0, 12.0  # forcing
WINDOWS, TEST = 20_000, 2_000
KNOWN = 2_000  # windows of the target at 100 %
SHARES = (0.01, 0.03, 0.1, 0.3, 1.0)
ENOUGH = 0.1  # share of the data at which the fine-tuned network is to be as good as one from scratch with all of them
SIZE, SIZE_FULL = (32, 3), (96, 6)
HELD = 0.2  # of the known windows are kept back, to stop in time
LOOKS = 320  # windows that say when to stop, the same ones with other observations where there are fewer
BATCH, UPDATES, CHUNK, PATIENCE = 64, 2_000, 50, 8
SOURCE_UPDATES, TUNING_UPDATES = 4_000, 1_000
RATE, TUNING_RATE = 2e-3, 5e-4
SOURCE_SHARE = 0.25  # of the time


def pretrain(fresh: Any, windows: Any, settings: Settings, share: float) -> Any:
    """Return the network of the source."""
    options: dict[str, Any] = {"rate": RATE, "batch_size": BATCH, "share": share, "chunk": CHUNK}
    return train(
        mean_square, fresh, windows, settings=settings, name="the source", updates=SOURCE_UPDATES, **options
    ).trained  # fmt: skip


def learn(start: Any, windows: Any, settings: Settings, name: str, *, tuning: bool, share: float) -> Any:
    """Return a network trained on the first of the windows; the last of them say when to stop."""
    held = max(int(HELD * len(windows)), 1)
    seen, kept = windows[:-held], windows[-held:]
    return train(
        mean_square, start, seen, settings=settings, name=name, share=share,
        updates=TUNING_UPDATES if tuning else UPDATES, rate=TUNING_RATE if tuning else RATE,
        batch_size=min(BATCH, len(seen)), chunk=CHUNK, patience=PATIENCE,
        validation=jnp.concatenate([kept] * max(LOOKS // held, 1)),
    ).trained  # fmt: skip


def run(settings: Settings) -> list[Score]:
    """Train on the source, and on shares of the target: from scratch, fine-tuned, and distilled from the latter."""
    keys = jax.random.split(settings.key, 6)
    source, target, test = draw(keys[0], WINDOWS), draw(keys[1], KNOWN, TARGET), draw(keys[2], TEST, TARGET)
    unknown = observe(draw(keys[3], WINDOWS, TARGET), keys[4])  # observed, but without a truth
    values = observe(test, keys[5])
    size = SIZE_FULL if settings.full else SIZE
    fresh = untrained(*size, settings.seed)
    each = (1 - SOURCE_SHARE) / (3 * len(SHARES))
    trained = pretrain(fresh, source, settings, SOURCE_SHARE)
    errors = {"source, as it is": rmse(trained, values, test)}
    for share in SHARES:
        known = target[: max(int(share * KNOWN), 4)]
        scratch = learn(fresh, known, settings, f"{share:.0%} from scratch", tuning=False, share=each)
        tuned = learn(trained, known, settings, f"{share:.0%} fine-tuned", tuning=True, share=each)
        distilled = train(
            Distillation(None), fresh, Distillation(tuned).taught(unknown), settings=settings,
            name=f"{share:.0%} distilled", updates=UPDATES, rate=RATE, batch_size=128, share=each,
        ).trained  # fmt: skip
        for name, network in (("from scratch", scratch), ("fine-tuned", tuned), ("distilled", distilled)):
            errors[f"{share:.0%}, {name}"] = rmse(network, values, test)
    whole = errors["100%, from scratch"]
    aims = {f"{ENOUGH:.0%}, fine-tuned": whole}
    return [Score(name, error, aim=aims.get(name)) for name, error in errors.items()]


ROW = Row(
    "transfer", f"a network of Lorenz-96 with F = {SOURCE:g} moved to F = {TARGET:g}", "root mean square error",
    "a tenth of the data instead of all", run,
)  # fmt: skip
