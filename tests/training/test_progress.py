"""What a training says about itself."""

from __future__ import annotations

import io

import jax
import jax.numpy as jnp
import optax
import pytest

from diffassim.core.errors import ConfigurationError
from diffassim.training import ProgressLine, fit, progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_time_left_follows_from_the_updates_after_the_first_chunk(monkeypatch):
    clock = iter([100.0, 104.0, 110.0])  # 60 s of compilation before do not count
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    file = io.StringIO()
    tell = ProgressLine(1000, file)
    for step, loss in ((99, 2.0), (299, 1.0), (599, 0.51234)):
        tell(step, loss)
    assert file.getvalue().splitlines() == [
        "step 100 of 1000, loss 2",
        "step 300 of 1000, loss 1, 50 updates/s, 14 s left",
        "step 600 of 1000, loss 0.5123, 50 updates/s, 8 s left",
    ]


def test_a_terminal_has_one_line_and_fit_calls_it():
    file = Terminal()
    fit(
        lambda w, x, key: jnp.mean((w - x) ** 2), jnp.zeros(()), jnp.ones(4), optimizer=optax.sgd(0.1), steps=5,
        batch_size=2, chunk=2, key=jax.random.key(0), progress=ProgressLine(5, file),
    )  # fmt: skip
    lines = file.getvalue().split("\r")
    assert [line.split(",")[0] for line in lines] == ["step 2 of 5", "step 4 of 5", "step 5 of 5"]
    assert lines[-1].rstrip().endswith("0 s left") and lines[-1].endswith("\n")


def test_steps_must_be_a_count():
    with pytest.raises(ConfigurationError, match="steps"):
        ProgressLine(0)
