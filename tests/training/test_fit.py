"""Training by minibatches: closed forms, determinism, and what is kept when it fails."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffassim.core.errors import ConfigurationError, DataError, ShapeError
from diffassim.training import TrainingError, TrainingState, fit, load_checkpoint

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(64, 3)))
Y = jnp.asarray(RNG.normal(size=64))
KEY = jax.random.key(0)


def squared_error(weights, batch, key):
    x, y = batch
    return jnp.mean((jnp.einsum("bi,i->b", x, weights["slope"]) + weights["intercept"] - y) ** 2)


def start():
    return {"slope": jnp.zeros(3), "intercept": jnp.zeros(())}


def regression(**changes):
    settings = {"optimizer": optax.sgd(0.2), "steps": 60, "batch_size": 64, "key": KEY} | changes
    return fit(squared_error, start(), (X, Y), **settings)


def test_whole_batches_converge_to_least_squares():
    found = regression(steps=300)
    expected = np.linalg.lstsq(np.column_stack([X, np.ones(64)]), Y, rcond=None)[0]
    np.testing.assert_allclose([*found.trained["slope"], found.trained["intercept"]], expected, rtol=1e-10)
    assert found.losses.shape == found.gradient_norms.shape == (300,)
    np.testing.assert_allclose(found.losses[0], np.mean(Y**2), rtol=1e-12)
    assert found.gradient_norms[-1] < 1e-10


def test_one_step_of_gradient_descent_is_the_closed_form():
    found = regression(steps=1)
    np.testing.assert_allclose(found.trained["slope"], 0.2 * 2 * np.asarray(X).T @ Y / 64, rtol=1e-12)


def test_batches_come_without_replacement_and_differ_from_step_to_step():
    # The "loss" is the batch's sum of powers of two: its bits tell which samples were drawn.
    data = 2.0 ** jnp.arange(16.0)
    found = fit(
        lambda w, b, key: jnp.sum(b) + 0 * w, jnp.zeros(()), data, optimizer=optax.sgd(1.0), steps=8, batch_size=4,
        key=KEY,
    )  # fmt: skip
    drawn = [bin(int(loss)).count("1") for loss in found.losses]
    assert drawn == [4] * 8 and len(set(found.losses)) > 1


def test_the_same_key_gives_the_same_weights_and_another_key_others():
    one, same, other = (regression(steps=5, batch_size=8, key=jax.random.key(k)) for k in (1, 1, 2))
    assert np.array_equal(one.trained["slope"], same.trained["slope"])
    assert not np.array_equal(one.trained["slope"], other.trained["slope"])


def test_a_second_fit_of_the_same_loss_does_not_compile_anew():
    traces = []

    def loss(w, batch, key):
        traces.append(1)
        return jnp.mean((w - batch) ** 2)

    optimizer = optax.sgd(0.1)
    for value in (1.0, 2.0):
        fit(loss, jnp.zeros(()), jnp.full(4, value), optimizer=optimizer, steps=2, batch_size=2, key=KEY)
    assert len(traces) == 1


def test_schedules_work_under_strict_promotion():
    optimizer = optax.adam(optax.cosine_decay_schedule(0.1, 5))
    losses = regression(optimizer=optimizer, steps=5).losses
    assert losses[-1] < losses[0]


def test_progress_is_told_after_every_chunk():
    told = []
    found = regression(steps=5, chunk=2, progress=lambda step, loss: told.append((step, loss)))
    assert told == [(k, found.losses[k]) for k in (1, 3, 4)]


def test_an_epoch_visits_every_sample_once():
    data = 2.0 ** jnp.arange(16.0)
    found = fit(
        lambda w, b, key: jnp.sum(b) + 0 * w, jnp.zeros(()), data, optimizer=optax.sgd(1.0), steps=8, batch_size=4,
        chunk=3, key=KEY,
    )  # fmt: skip
    assert found.losses[:4].sum() == found.losses[4:].sum() == 2.0**16 - 1


def noisy(weights, batch, key):
    loss = squared_error(weights, batch, key) + 0.1 * jax.random.normal(key) * weights["intercept"]
    return loss, {"intercept": weights["intercept"]}


def test_a_training_that_was_stopped_goes_on_bit_by_bit(tmp_path):
    settings = {"optimizer": optax.adam(0.1), "batch_size": 8, "chunk": 4, "validation": (X, Y)}
    whole = fit(noisy, start(), (X, Y), steps=24, key=KEY, **settings)
    first = fit(noisy, start(), (X, Y), steps=8, key=KEY, checkpoint=tmp_path / "kept", **settings)
    state = load_checkpoint(tmp_path / "kept", TrainingState.create(start(), optax.adam(0.1), KEY))
    second = fit(noisy, None, (X, Y), steps=24, state=state, **settings)
    assert np.array_equal(whole.losses, np.concatenate([first.losses, second.losses]))
    assert np.array_equal(whole.validation, np.concatenate([first.validation, second.validation]))
    for a, b in zip(*(jax.tree.leaves(f.state.replace(key=0)) for f in (whole, second)), strict=True):
        assert np.array_equal(a, b)
    assert whole.metrics["intercept"].shape == (24,) and whole.validation.min() == whole.state.best_loss
    assert float(squared_error(whole.trained, (X, Y), None)) <= float(squared_error(start(), (X, Y), None))


def test_accumulated_gradients_are_those_of_the_whole_batch():
    whole, parts = regression(steps=5), regression(steps=5, accumulate=4)
    np.testing.assert_allclose(parts.trained["slope"], whole.trained["slope"], rtol=1e-12)
    np.testing.assert_allclose(parts.losses, whole.losses, rtol=1e-12)


def test_batches_may_come_from_an_iterator():
    settings = {"optimizer": optax.sgd(0.2), "steps": 7, "chunk": 3, "key": KEY}
    found = fit(squared_error, start(), iter([(X, Y)] * 7), **settings)
    np.testing.assert_allclose(found.losses, regression(steps=7).losses, rtol=1e-12)
    with pytest.raises(DataError, match="ended at step 4"):
        fit(squared_error, start(), iter([(X, Y)] * 4), **settings)


def test_training_ends_where_validation_stops_improving():
    def loss(w, batch, key):  # w grows by one in each step; data say where the best one is
        return jnp.mean(jnp.abs(w - batch))

    settings = {"optimizer": optax.sgd(1.0), "steps": 50, "batch_size": 2, "chunk": 1, "key": KEY}
    found = fit(loss, jnp.zeros(()), jnp.full(2, 99.0), validation=jnp.full(2, 3.0), patience=2, **settings)
    assert float(found.trained) == 3.0 and len(found.losses) == 5 and found.validation.tolist() == [2, 1, 0, 1, 2]
    with pytest.raises(ConfigurationError, match="patience=2"):
        fit(loss, jnp.zeros(()), jnp.full(2, 99.0), patience=2, **settings)


def test_no_steps_change_nothing():
    found = regression(steps=0)
    assert found.trained["slope"].tolist() == [0, 0, 0] and found.losses.shape == (0,)


def test_a_loss_that_breaks_keeps_the_last_sound_weights():
    # Each step adds 1 to the weight; from 3 on the loss is not a number.
    def loss(w, batch, key):
        return jnp.where(w < 2.5, -w, jnp.nan) + 0 * jnp.sum(batch)

    with pytest.raises(TrainingError, match=r"step 3.*learning rate") as caught:
        fit(loss, jnp.zeros(()), jnp.zeros(2), optimizer=optax.sgd(1.0), steps=9, batch_size=1, key=KEY)
    kept = caught.value.fit
    assert float(kept.trained) == 3.0 and kept.losses[:3].tolist() == [0, -1, -2] and np.isnan(kept.losses[3])


def test_a_gradient_that_breaks_is_caught_although_the_loss_is_sound():
    with pytest.raises(TrainingError, match="gradient norm nan"):
        fit(
            lambda w, batch, key: jnp.where(w > 0, jnp.sqrt(w), 0) + 0 * jnp.sum(batch), jnp.zeros(()), jnp.zeros(2),
            optimizer=optax.sgd(1.0), steps=2, batch_size=1, key=KEY,
        )  # fmt: skip


@pytest.mark.parametrize("size", [0, 65])
def test_an_impossible_batch_is_named(size):
    with pytest.raises(ConfigurationError, match=rf"batch_size={size}.*64 samples"):
        regression(batch_size=size)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"steps": 2.5}, ConfigurationError, "steps must be a whole number"),
        ({"steps": -1}, ConfigurationError, "steps must be at least 0"),
        ({"batch_size": 2.5}, ConfigurationError, "batch_size must be a whole number"),
        ({"chunk": 0}, ConfigurationError, "chunk must be at least 1"),
        ({"key": 3}, ConfigurationError, "one random key"),
        ({"key": jax.random.split(KEY)}, ConfigurationError, r"found key<fry> of shape \(2,\)"),
        ({"optimizer": 0.1}, ConfigurationError, r"optax.*found float"),
        ({"validation": (X[:0], Y[:0])}, DataError, "validation data hold no sample"),
        ({"validation": (X, Y[:5])}, ShapeError, "validation data needs the same leading"),
    ],
)
def test_settings_that_cannot_be_are_named(changes, error, message):
    with pytest.raises(error, match=message):
        regression(**changes)


@pytest.mark.parametrize(
    ("loss", "carry", "message"),
    [
        (lambda w, b, key: (w - b) ** 2, None, r"one floating-point number, found float64 of shape \(4,\)"),
        (lambda w, b, key: None, None, "found NoneType"),
        (lambda w, b, key: (jnp.mean(w - b), w), None, "dict of values by name"),
        (lambda w, b, key: (jnp.mean(w - b), {}, 3), None, "found 3 values"),
        (lambda w, b, key, c: (jnp.mean(w - b), c), 1.0, r"\(scalar, metrics, carry\), found 2"),
        (lambda w, b, key, c: (jnp.mean(w - b), {}, c[:1]), jnp.ones(2), r"shapes \(1,\).*got \(2,\)"),
        (lambda w, b, key, c: (jnp.mean(w - b), {}, c > 0), jnp.ones(2), "types bool"),
    ],
)
def test_losses_that_return_something_else_are_named(loss, carry, message):
    with pytest.raises(ConfigurationError, match=message):
        fit(loss, jnp.zeros(()), Y, optimizer=optax.sgd(0.1), steps=2, batch_size=4, key=KEY, carry=carry)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ([[1.0, 2.0], [3.0, 4.0]], ShapeError, r"np\.asarray"),
        ((X, np.array(["a"] * 64)), DataError, r"the data\[1\] are of type <U1"),
        ((X, np.ma.masked_array(Y, Y > 0)), DataError, r"data\[1\] is a masked array"),
    ],
)
def test_data_that_are_no_numbers_are_named(data, error, message):
    with pytest.raises(error, match=message):
        fit(squared_error, start(), data, optimizer=optax.sgd(0.1), steps=2, batch_size=2, key=KEY)


def test_integers_in_a_trainable_stay_what_they_are():
    def loss(w, batch, key):
        return squared_error(w, (batch[0][:, w["order"]], batch[1]), key)

    given = start() | {"order": jnp.array([2, 0, 1])}
    found = fit(loss, given, (X, Y), optimizer=optax.adamw(0.1), steps=4, batch_size=32, key=KEY, accumulate=2)
    assert np.array_equal(found.trained["order"], given["order"]) and found.losses[-1] < found.losses[0]
    with pytest.raises(ConfigurationError, match=r"no floating-point number.*int64"):
        fit(
            lambda w, b, key: jnp.mean(w * b),
            jnp.arange(3),
            X,
            optimizer=optax.sgd(0.1),
            steps=1,
            batch_size=2,
            key=KEY,
        )


def test_a_training_in_traced_code_is_refused_with_advice():
    with pytest.raises(ConfigurationError, match=r"cannot be traced.*leading axis"):
        jax.vmap(lambda key: regression(key=key).losses)(jax.random.split(KEY))


def test_validation_that_never_is_finite_is_no_training():
    with pytest.raises(
        TrainingError, match=r"never finite.*\[1\] is NaN or infinite in 1 of 64 samples, first in 3"
    ) as caught:
        regression(steps=4, validation=(X, Y.at[3].set(jnp.nan)), patience=2, chunk=2)
    assert caught.value.fit.losses.shape == (4,) and int(caught.value.fit.state.step) == 4


def test_what_a_training_returns_prints_in_a_line():
    assert repr(regression(steps=2)).startswith("Fit(2 updates, loss ") and len(repr(regression(steps=2))) < 100
    assert repr(regression(steps=0)) == "Fit(0 updates, 4 numbers trained)"
