"""What a loss hands on from update to update: truncated back-propagation, and curricula in one program."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.training import Stage, fit, fit_stages, load_checkpoint, save_checkpoint

KEY = jax.random.key(0)
SGD = optax.sgd(0.1)
DATA = jnp.ones((4, 1))


def running(w, batch, key, x):
    """A sequence x' = w x + 1 of which one update sees three steps, and no derivative passes between updates."""

    def step(x, _):
        x = w * x + batch[0, 0]
        return x, (x - 3.0) ** 2

    x, errors = jax.lax.scan(step, x, length=3)
    return jnp.mean(errors), {"state": x}, x


def by_hand(updates):
    w, x, seen = jnp.asarray(0.5), jnp.asarray(0.0), []
    for _ in range(updates):
        (_, (_, x)), slope = jax.value_and_grad(
            lambda w, x: (lambda v, m, c: (v, (m, c)))(*running(w, DATA, None, x)), has_aux=True
        )(w, x)
        w = w - 0.1 * jnp.clip(slope, -1.0, 1.0)
        seen.append(float(x))
    return float(w), seen


OPTIMIZER = optax.chain(optax.clip(1.0), SGD)
OPTIONS = {"optimizer": OPTIMIZER, "batch_size": 4, "chunk": 2}


def test_the_carry_goes_from_update_to_update_without_derivative():
    found = fit(running, jnp.asarray(0.5), DATA, steps=6, key=KEY, carry=jnp.asarray(0.0), **OPTIONS)
    w, seen = by_hand(6)
    np.testing.assert_allclose(found.trained, w, rtol=1e-12)
    np.testing.assert_allclose(found.metrics["state"], seen, rtol=1e-12)
    np.testing.assert_allclose(found.state.carry, seen[-1], rtol=1e-12)


def test_a_training_with_a_carry_goes_on_bit_by_bit_from_a_checkpoint(tmp_path):
    whole = fit(running, jnp.asarray(0.5), DATA, steps=6, key=KEY, carry=jnp.asarray(0.0), **OPTIONS)
    half = fit(running, jnp.asarray(0.5), DATA, steps=4, key=KEY, carry=jnp.asarray(0.0), **OPTIONS)
    save_checkpoint(tmp_path / "kept", half.state)
    state = load_checkpoint(
        tmp_path / "kept", jax.tree.map(jnp.zeros_like, half.state.replace(key=None)).replace(key=KEY)
    )
    rest = fit(running, None, DATA, steps=6, state=state, **OPTIONS)
    assert float(rest.trained) == float(whole.trained) and float(rest.state.carry) == float(whole.state.carry)


def test_an_update_that_is_not_sound_hands_nothing_on():
    def breaking(w, batch, key, x):
        return jnp.where(x < 2, w**2, jnp.nan), {}, x + 1

    from diffassim.training import TrainingError

    with pytest.raises(TrainingError) as raised:
        fit(breaking, jnp.asarray(0.5), DATA, steps=6, key=KEY, carry=jnp.asarray(0.0), **OPTIONS)
    assert float(raised.value.fit.state.carry) == 2.0


def test_carries_are_refused_where_they_make_no_sense():
    with pytest.raises(ConfigurationError, match="hand anything on"):
        fit(running, jnp.asarray(0.5), DATA, steps=2, key=KEY, carry=jnp.asarray(0.0), accumulate=2, **OPTIONS)
    state = fit(running, jnp.asarray(0.5), DATA, steps=2, key=KEY, carry=jnp.asarray(0.0), **OPTIONS).state
    with pytest.raises(ConfigurationError, match="its own key and carry"):
        fit(running, None, DATA, steps=4, state=state, carry=jnp.asarray(0.0), **OPTIONS)


def test_stages_run_in_one_program_and_a_stopped_curriculum_goes_on_in_its_stage():
    traced = chex.assert_max_traces(lambda w, x: (w - x) ** 2, n=4)  # shapes, value, gradient

    def loss(w, x, key, carry):
        value = jnp.mean(traced(w, x[:, 0]) * carry["weight"])
        return value, carry, carry | {"age": carry["age"] + 1}

    stages = [
        Stage(3, {"weight": 1.0, "age": 0}),
        Stage(3, {"weight": 0.1, "age": 10}),
        Stage(2, {"weight": 0.5, "age": 0}),
    ]
    whole = fit_stages(loss, jnp.asarray(0.0), DATA, stages, key=KEY, **OPTIONS)
    assert whole.metrics["age"].tolist() == [0, 1, 2, 10, 11, 12, 0, 1] and int(whole.state.stage) == 2
    np.testing.assert_allclose(whole.metrics["weight"], [1] * 3 + [0.1] * 3 + [0.5] * 2)
    w = 0.0
    for weight in whole.metrics["weight"]:
        w -= 0.1 * np.clip(2 * (w - 1) * weight, -1, 1)
    np.testing.assert_allclose(whole.trained, w, rtol=1e-12)
    begun = fit_stages(loss, jnp.asarray(0.0), DATA, stages[:1], key=KEY, **OPTIONS).state
    middle = fit(
        loss,
        None,
        DATA,
        steps=5,
        state=begun.replace(carry=jax.tree.map(jnp.asarray, stages[1].carry), stage=begun.stage + 1),
        **OPTIONS,
    ).state
    rest = fit_stages(loss, None, DATA, stages, state=middle, **OPTIONS)
    assert rest.metrics["age"].tolist() == [12, 0, 1] and float(rest.trained) == float(whole.trained)
    again = fit_stages(loss, None, DATA, stages, state=rest.state, **OPTIONS)
    assert again.losses.size == 0 and float(again.trained) == float(whole.trained)


def test_a_stage_that_would_compile_anew_is_refused():
    for other in (jnp.zeros(3), 1, {"horizon": 1.0}):
        with pytest.raises(ShapeError, match="stage 1"):
            fit_stages(running, jnp.asarray(0.5), DATA, [Stage(1, 0.0), Stage(1, other)], key=KEY, **OPTIONS)
    with pytest.raises(ConfigurationError, match="at least one"):
        fit_stages(running, jnp.asarray(0.5), DATA, [], key=KEY, **OPTIONS)
