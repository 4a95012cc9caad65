"""Row distillation: a small network learns from an ensemble of large ones, on windows whose truth nobody knows."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from diffassim.experiments.learning.bench import Row, Score, Settings, train
from diffassim.experiments.learning.short_windows import draw, mean_square, observe, rmse, untrained
from diffassim.learned import DeepEnsemble, flop_count
from diffassim.training import Distillation

__all__ = ["ROW"]

KNOWN, UNKNOWN, TEST = 2_000, 40_000, 4_000  # windows with a truth, without one, and to be tested on
MEMBERS, TEACHER, STUDENT = 6, (48, 4), (32, 4)  # networks of the teacher; width and depth
TEACHER_FULL = (96, 6)
LOSS, COST = 1.02, 0.1  # of the teacher's error and of its operations, that the student may have
BATCH = 128


def run(settings: Settings) -> list[Score]:
    """Train teacher, student, and the same small network on the truth alone."""
    keys = jax.random.split(settings.key, 8)
    known, unknown, test = (draw(keys[k], count) for k, count in enumerate((KNOWN, UNKNOWN, TEST)))
    inputs, values = observe(unknown, keys[3]), observe(test, keys[4])
    size = TEACHER_FULL if settings.full else TEACHER
    members = DeepEnsemble.of([untrained(*size, 10 * settings.seed + k) for k in range(MEMBERS)])
    small = untrained(*STUDENT, 10 * settings.seed + MEMBERS)
    common: dict[str, Any] = {"settings": settings, "rate": 2e-3, "batch_size": BATCH}
    taught = train(
        DeepEnsemble.loss(mean_square, share=1.0), members, known, name="the teacher", updates=3_000, share=0.6,
        key=keys[5], **common,
    )  # fmt: skip
    teacher = taught.trained
    alone = train(
        mean_square, small, known, name="the small network alone", updates=6_000, share=0.15, key=keys[6], **common
    )
    settings.tell("asks the teacher")
    answers = Distillation(teacher).taught(inputs)
    student = train(
        Distillation(None), small, answers, name="the student", updates=6_000, share=0.25, key=keys[7], **common
    )  # fmt: skip
    errors: dict[str, float] = {}
    notes: dict[str, Any] = {}
    one = jnp.zeros_like(values[0])
    for name, network, found in (
        (f"teacher, {MEMBERS} networks", teacher, taught),
        ("student, from the teacher", student.trained, student),
        ("student's network, from the truth alone", alone.trained, alone),
    ):
        errors[name] = rmse(network, values, test)
        notes[name] = f"{flop_count(network, one):.3g} operations, {int(found.state.step)} updates"
    first, second, third = errors
    share = flop_count(small, one) / flop_count(teacher, one)
    notes[second] += f", {share:.1%} of the teacher's"
    aim = LOSS * errors[first] if share <= COST else 0.0  # a student that costs more has not reached it
    return [
        Score(first, errors[first], note=notes[first]),
        Score(second, errors[second], aim=aim, note=notes[second]),
        Score(third, errors[third], note=notes[third]),
    ]


ROW = Row(
    "distillation", "analyses of Lorenz-96 from short windows: a small network instead of six large ones",
    "root mean square error", f"within {LOSS - 1:.0%} of the teacher at {COST:.0%} of its cost", run,
)  # fmt: skip
