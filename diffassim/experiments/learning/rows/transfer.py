"""Row transfer: a network trained under one forcing of Lorenz-96 meets another one, of which few windows are known."""

from __future__ import annotations

from typing import Any

import jax

from diffassim.experiments.learning.bench import Row, Score, Settings, train
from diffassim.experiments.learning.short_windows import draw, mean_square, observe, rmse, untrained
from diffassim.training import Distillation

__all__ = ["ROW"]

SOURCE, TARGET = 8.0, 12.0  # forcing
WINDOWS, TEST = 20_000, 2_000
KNOWN = 2_000  # windows of the target at 100 %
SHARES = (0.01, 0.03, 0.1, 0.3, 1.0)
ENOUGH = 0.1  # share of the data at which the fine-tuned network is to be as good as one from scratch with all of them
SIZE, SIZE_FULL = (32, 3), (96, 6)
HELD = 0.2  # of the known windows are kept back, to stop in time
BATCH, UPDATES, CHUNK, PATIENCE = 64, 2_000, 50, 8
TRAININGS = 1 + 3 * len(SHARES)


def run(settings: Settings) -> list[Score]:
    """Train on the source, and on shares of the target: from scratch, fine-tuned, and distilled from the latter."""
    keys = jax.random.split(settings.key, 6)
    source, target, test = draw(keys[0], WINDOWS), draw(keys[1], KNOWN, TARGET), draw(keys[2], TEST, TARGET)
    unknown = observe(draw(keys[3], WINDOWS, TARGET), keys[4])  # observed, but without a truth
    values = observe(test, keys[5])
    size = SIZE_FULL if settings.full else SIZE
    fresh = untrained(*size, settings.seed)
    common: dict[str, Any] = {"settings": settings, "share": 1 / TRAININGS}

    def learn(start: Any, name: str, count: int, rate: float) -> Any:
        """Train on the first windows of the target; the last of them say when to stop."""
        held = max(int(HELD * count), 1)
        batch = min(BATCH, count - held)
        return train(
            mean_square, start, target[: count - held], name=name, updates=UPDATES, rate=rate, batch_size=batch,
            chunk=CHUNK, validation=target[count - held : count], patience=PATIENCE, **common,
        ).trained  # fmt: skip

    trained = train(
        mean_square, fresh, source, name="the source", updates=4_000, rate=2e-3, batch_size=128, **common
    ).trained  # fmt: skip
    errors = {"source, as it is": rmse(trained, values, test)}
    for share in SHARES:
        count = max(int(share * KNOWN), 4)
        scratch = learn(fresh, f"{share:.0%} from scratch", count, 2e-3)
        tuned = learn(trained, f"{share:.0%} fine-tuned", count, 5e-4)
        distilled = train(
            Distillation(None), fresh, Distillation(tuned).taught(unknown), name=f"{share:.0%} distilled",
            updates=UPDATES, rate=2e-3, batch_size=128, **common,
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
