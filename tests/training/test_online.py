"""Online adaptation: false alarms as promised, steps that follow a drift, and the way back; and its two other forms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import diffassim as da
from diffassim.core.errors import ConfigurationError
from diffassim.covariances import Diagonal
from diffassim.learned import CorrectedModel, Network
from diffassim.models import FunctionModel
from diffassim.models.with_parameters import WithParameters
from diffassim.observations import Field
from diffassim.training import DriftDetector, OnlineTraining, innovation_statistic

KEY = jax.random.key(0)


def square(w, y, key):
    return (w - y) ** 2


def test_false_alarms_come_as_seldom_as_promised_and_a_shift_is_found():
    detector = DriftDetector.with_false_alarms(every=200.0)
    z = jax.random.normal(KEY, (100, 2000))
    alarms = jax.jit(jax.vmap(detector.run))(z)
    distance = alarms.size / int(jnp.sum(alarms))
    assert 0.85 * 200 < distance < 1.2 * 200
    shifted = jax.jit(jax.vmap(detector.run))(z[:, :60] + 1.0)
    assert bool(jnp.all(jnp.any(shifted, axis=1)))
    assert not bool(jnp.any(detector.run(jnp.full(50, jnp.nan))))
    for wrong in ({"slack": 0.0}, {"threshold": -1.0}):
        with pytest.raises(ConfigurationError):
            DriftDetector(**wrong)
    with pytest.raises(ConfigurationError, match="too often"):
        DriftDetector.with_false_alarms(every=1.0)


def test_the_statistic_of_innovations_has_mean_zero_and_variance_one():
    d = jax.random.normal(KEY, (4000, 25))
    z = innovation_statistic(jnp.mean(d**2, axis=1), jnp.asarray(25))
    assert abs(float(jnp.mean(z))) < 0.06 and abs(float(jnp.std(z)) - 1) < 0.06


def test_without_drift_it_is_the_optimizer_by_hand():
    y = jax.random.normal(KEY, (7,))
    online = OnlineTraining(square, optimizer=optax.sgd(0.1), trial=100, tolerance=1e6)
    state, seen = online.run(online.init(jnp.asarray(1.0)), y, y, KEY)
    w = 1.0
    for k, value in enumerate(y):
        np.testing.assert_allclose(seen["score"][k], (w - value) ** 2, rtol=1e-12)
        w -= 0.2 * (w - float(value))
    np.testing.assert_allclose(state.current, w, rtol=1e-12)
    assert float(state.anchor) == 1.0 and int(state.age) == 7


def test_a_drift_is_followed_faster_with_the_detector():
    t = jnp.arange(400)
    truth = jnp.where(t < 200, 0.0, 2.0)
    y = truth + 0.3 * jax.random.normal(KEY, t.shape)
    z = jnp.where(t < 210, 0.0, 3.0).at[230:].set(0.0)  # what the innovations of a filter would say
    plain = OnlineTraining(square, optimizer=optax.sgd(0.01))
    alert = plain.replace(detector=DriftDetector.with_false_alarms(1000.0), boost=10.0)
    errors, states = [], []
    for online in (plain, alert):
        state, seen = jax.jit(online.run)(online.init(jnp.asarray(0.0)), y, y, KEY, z)
        errors.append(float(jnp.mean(seen["score"][210:])))
        states.append(state)
    assert errors[1] < 0.6 * errors[0] and int(states[1].alarms) >= 1 and int(states[0].alarms) == 0
    assert abs(float(states[1].current) - 2) < 0.3
    assert float(states[1].anchor) > 1.5  # what has proved itself is the new anchor


def test_what_gets_worse_is_rolled_back():
    bad = jnp.full(30, 50.0)  # what it learns from is corrupt, what scores is not
    online = OnlineTraining(square, optimizer=optax.sgd(0.05), tolerance=0.2, trial=5)
    start = online.init(jnp.asarray(0.5))
    state, seen = online.run(start, bad, jnp.full(30, 1.0), KEY)
    assert int(state.rollbacks) >= 5 and bool(jnp.any(seen["rolled_back"]))
    assert abs(float(state.anchor) - 1) <= 0.5  # never worse than at the start
    broken = OnlineTraining(lambda w, y, key: jnp.where(y > 9, jnp.nan, 1.0) * (w - y) ** 2, score=square)
    kept, _ = broken.run(start.replace(memory=broken.optimizer.init(start.current)), bad, jnp.full(30, 1.0), KEY)
    assert float(kept.current) == 0.5  # a gradient that is not finite is no step
    for wrong in ({"trial": 0}, {"decay": 2.0}, {"boost": 0.5}, {"detector": 3.0}):
        with pytest.raises(ConfigurationError):
            OnlineTraining(square, **wrong)


def decay_model(weight):
    still = FunctionModel(lambda x, t: x)
    return CorrectedModel(still, Network(lambda w, x: w * x + 1.0, jnp.asarray(weight)))


def test_weights_are_learned_in_the_state_of_a_filter():
    truth = da.rollout(decay_model(-0.3), jnp.zeros(4), 40)[1:]
    y = da.Observations(truth, np.arange(1, 41), Field("state"), Diagonal(std=0.05))
    model = WithParameters(decay_model(0.0), ("network",))
    keys = jax.random.split(KEY, 2)
    weights = -0.1 + 0.2 * jax.random.normal(keys[1], (20,))
    network = decay_model(0.0).network.replace(weights=weights)
    members = {"state": 0.1 * jax.random.normal(keys[0], (20, 4)), "parameters": {"network": network}}
    ensemble, _ = da.cycle(da.ETKF(inflation=1.01), model, members, y, key=KEY)
    assert abs(float(jnp.mean(ensemble["parameters"]["network"].weights)) + 0.3) < 0.02


def test_weights_are_learned_in_the_control_vector_of_4d_var():
    truth = da.rollout(decay_model(-0.3), jnp.zeros(4), 12)
    y = da.Observations(truth[1:], np.arange(1, 13), error=Diagonal(std=0.05))
    cost = da.StrongConstraint4DVar(
        decay_model(0.0), jnp.zeros(4), Diagonal(std=0.1), y, parameters={"network": Diagonal(std=0.5)}
    )
    found = da.minimize(cost)
    assert abs(float(found.model.network.weights) + 0.3) < 0.01


def test_windows_in_which_nothing_was_withheld_tell_nothing():
    def score(w, y, key):
        return jnp.nanmean((w - y) ** 2)  # NaN where there is nothing

    online = OnlineTraining(lambda w, y, key: (w - 3.0) ** 2, score, optimizer=optax.sgd(0.1), trial=5)
    withheld = jnp.where(jnp.arange(60)[:, None] % 3 == 0, jnp.nan, 3.0)
    state, told = online.run(online.init(jnp.zeros(())), withheld, withheld, KEY)
    assert int(state.rollbacks) == 0 and not told["rolled_back"].any()
    np.testing.assert_allclose(state.current, 3.0, atol=1e-3)
    broken, _ = online.update(state.replace(current=jnp.asarray(jnp.nan)), 3.0, jnp.full(1, 3.0), KEY)
    assert int(broken.rollbacks) == 1 and np.isfinite(broken.current)  # the anchor was scored, what learns was not


def test_integers_and_constants_are_not_adapted():
    def loss(w, y, key):
        return jnp.sum((w["w"] * w["k"].astype(float) - y) ** 2)

    online = OnlineTraining(loss, optimizer=optax.adamw(0.1))
    state, _ = online.run(online.init({"w": jnp.ones(2), "k": jnp.array([0, 2])}), jnp.ones(4), jnp.ones(4), KEY)
    assert state.current["k"].tolist() == [0, 2] and state.current["w"][1] < 1
