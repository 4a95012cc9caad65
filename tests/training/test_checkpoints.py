"""Several checkpoints of one training: which are kept, and what a failed writing leaves."""

from __future__ import annotations

import errno
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffassim.core.errors import ConfigurationError, DataError
from diffassim.training import Checkpoints, TrainingState, fit

KEY = jax.random.key(0)
LIKE = {"w": jnp.zeros(3)}


def filled(directory, losses, **options):
    kept = Checkpoints(directory, **options)
    for step, loss in enumerate(losses):
        kept.save(step, {"w": jnp.full(3, float(step))}, loss)
    kept.wait()
    return kept


@pytest.mark.parametrize("asynchronous", [True, False])
def test_the_last_ones_and_the_best_are_kept(tmp_path, asynchronous):
    kept = filled(tmp_path / "kept", [5.0, 1.0, 3.0, float("nan"), 4.0], keep=2, asynchronous=asynchronous)
    assert [(each.step, each.loss) for each in kept.all() if each.step != 3] == [(1, 1.0), (4, 4.0)]
    assert [each.step for each in kept.all()] == [1, 3, 4]
    assert float(kept.load(LIKE, kept.best().step)["w"][0]) == 1.0
    assert float(kept.load(LIKE)["w"][0]) == 4.0


def test_without_losses_none_is_the_best(tmp_path):
    kept = filled(tmp_path / "kept", [float("nan")] * 3, keep=1)
    assert kept.best() is None and [each.step for each in kept.all()] == [2]


def test_training_goes_on_while_one_is_written(tmp_path, monkeypatch):
    allowed, kept = threading.Event(), Checkpoints(tmp_path / "kept")
    fsync = __import__("os").fsync
    monkeypatch.setattr("os.fsync", lambda file: (allowed.wait(20), fsync(file)))
    state = {"w": np.zeros(3)}
    kept.save(0, state)
    state["w"] += 7  # what was handed over does not follow
    assert kept.all() == []  # nothing incomplete is seen
    allowed.set()
    kept.wait()
    assert float(kept.load(LIKE)["w"][0]) == 0.0


def test_a_full_disk_is_told_at_the_next_call_and_loses_nothing(tmp_path, monkeypatch):
    kept = filled(tmp_path / "kept", [2.0])

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        kept.save(1, {"w": jnp.ones(3)})
        with pytest.raises(OSError, match="No space left"):
            kept.save(2, {"w": jnp.ones(3)})
    assert [each.step for each in kept.all()] == [0]
    kept.save(3, {"w": jnp.ones(3)})
    kept.wait()
    assert [each.step for each in kept.all()] == [0, 3]


def test_a_damaged_one_is_named_with_those_that_are_left(tmp_path):
    kept = filled(tmp_path / "kept", [2.0, 1.0, 3.0])
    file = kept.all()[-1].path / "rank-00000.bin"
    file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])
    with pytest.raises(DataError, match=r"was changed.*those of the steps \[0, 1\]"):
        kept.load(LIKE)
    (kept.all()[-1].path / "manifest.json").write_text("x")
    with pytest.raises(DataError, match=r"damaged.*those of the steps \[0, 1\]"):
        kept.load(LIKE)
    assert float(kept.load(LIKE, 1)["w"][0]) == 1.0
    with pytest.raises(DataError, match=r"none of step 9; there are \[0, 1, 2\]"):
        kept.load(LIKE, 9)


def test_wrong_uses_are_named(tmp_path):
    with pytest.raises(ConfigurationError, match="keep must be at least 1, found 0"):
        Checkpoints(tmp_path, keep=0)
    with pytest.raises(DataError, match="holds none"):
        Checkpoints(tmp_path / "nowhere").load(LIKE)


def test_a_training_goes_on_from_any_of_them_bit_by_bit(tmp_path):
    def loss(w, x, key):
        return jnp.mean((w - x + 0.1 * jax.random.normal(key)) ** 2)

    options = {"optimizer": optax.adam(0.1), "batch_size": 4, "chunk": 5}
    data, kept = jnp.arange(8.0), Checkpoints(tmp_path / "kept", keep=2)
    whole = fit(loss, jnp.zeros(()), data, steps=20, key=KEY, checkpoint=kept, **options)
    assert {15, 20} <= {each.step for each in kept.all()}
    state = kept.load(TrainingState.create(jnp.zeros(()), options["optimizer"], KEY), 15)
    again = fit(loss, None, data, steps=20, state=state, **options)
    assert float(again.trained) == float(whole.trained)
