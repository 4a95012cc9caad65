"""Modules of Equinox as they are: with functions, flags and rates among their leaves."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import diffassim as da
from diffassim.core.partition import Compilable
from diffassim.learned import CorrectedModel, DeepEnsemble, LearnedAnalysis, Normalized
from diffassim.training import (
    Adversarial,
    Checkpoints,
    OnlineTraining,
    Private,
    WindowSample,
    fit,
    load_checkpoint,
    save_checkpoint,
)

eqx = pytest.importorskip("equinox")
N, KEY = 6, jax.random.key(0)
X = jnp.asarray(np.random.default_rng(0).normal(size=(24, N)))
OPTIMIZER = optax.adam(1e-2)


def mlp(seed=0):
    return eqx.nn.MLP(N, N, 5, 1, key=jax.random.key(seed), dtype=jnp.float64)


class Dropping(eqx.Module):
    linear: eqx.nn.Linear
    drop: eqx.nn.Dropout

    def __init__(self):
        self.linear, self.drop = eqx.nn.Linear(N, N, key=KEY, dtype=jnp.float64), eqx.nn.Dropout(0.5)

    def __call__(self, x, key=None):
        return self.drop(self.linear(x), key=key, inference=key is None)


class Gain(eqx.Module):
    mlp: eqx.nn.MLP

    def __call__(self, x, g):
        return 0.1 * self.mlp(x + g)


def loss(network, x, key):
    return jnp.mean((jax.vmap(network)(x) - 2 * x) ** 2)


def train(trainable, steps=6, of=loss, **changes):
    options = {"optimizer": OPTIMIZER, "steps": steps, "batch_size": 8, "chunk": 3} | changes
    return fit(of, trainable, X, **({"key": KEY} if "state" not in changes else {}), **options)


@pytest.mark.slow
def test_training_gives_a_module_that_is_what_it_was_but_for_its_weights():
    found = train(mlp())
    assert isinstance(found.trained, eqx.nn.MLP) and found.trained.activation is mlp().activation
    arrays, static = eqx.partition(mlp(), eqx.is_inexact_array)

    def by_hand(weights, x, key):
        return loss(eqx.combine(weights, static), x, key)

    expected = train(arrays, of=by_hand)
    assert np.array_equal(found.losses, expected.losses)
    assert not np.array_equal(found.trained(X[0]), mlp()(X[0]))
    again = train(None, state=train(mlp(), steps=3).state)
    assert np.array_equal(found.losses[3:], again.losses)
    dropping = train(Dropping(), of=lambda net, x, key: jnp.mean(jax.vmap(net)(x, jax.random.split(key, 8)) ** 2))
    assert dropping.trained.drop.p == 0.5 and dropping.trained.drop.inference is False


def test_checkpoints_hold_its_arrays(tmp_path):
    save_checkpoint(tmp_path / "one", mlp())
    assert np.array_equal(load_checkpoint(tmp_path / "one", mlp(3))(X[0]), mlp()(X[0]))
    abstract = eqx.filter_eval_shape(mlp)
    assert np.array_equal(load_checkpoint(tmp_path / "one", abstract)(X[0]), mlp()(X[0]))
    kept = Checkpoints(tmp_path / "many", asynchronous=False)
    kept.save(0, mlp())
    assert np.array_equal(kept.load(mlp(3))(X[0]), mlp()(X[0]))


@pytest.mark.slow
def test_learned_parts_and_operators_are_compiled_with_it():
    y = da.Observations(X[:1, :], [1], error=da.covariances.Diagonal(std=1.0))
    B = da.covariances.Diagonal(std=1.0)
    corrected = CorrectedModel(da.models.Lorenz96(), mlp(), 0.01)
    assert isinstance(corrected.network, Compilable) and isinstance(corrected.network.whole, eqx.nn.MLP)
    for cost in (
        da.StrongConstraint4DVar(corrected, X[1], B, y),
        da.StrongConstraint4DVar(da.models.Lorenz96(), X[1], B, y.replace(operator=mlp())),
    ):
        assert da.minimize(cost).result == 0
    assert da.cycle(LearnedAnalysis(Gain(mlp())), corrected, X[1], y)[0].state.shape == (N,)
    ensemble = DeepEnsemble.of([mlp(k) for k in range(3)])
    np.testing.assert_allclose(ensemble(X[0]), np.mean([mlp(k)(X[0]) for k in range(3)], axis=0), rtol=1e-12)
    assert train(Normalized.fit(mlp(), X)).losses.shape == (6,)


@pytest.mark.slow
def test_losses_around_it_and_training_online():
    assert train(mlp(), of=Private(loss, clip=1.0, noise=0.1)).losses.shape == (6,)
    y = da.Observations(X[:1], [1], error=da.covariances.Diagonal(std=0.5))
    worst = Adversarial(lambda net, sample, key: jnp.mean((net(sample.window.values[0]) - 1) ** 2))
    assert np.isfinite(worst(mlp(), WindowSample(X[0], y), KEY))
    online = OnlineTraining(loss, optimizer=OPTIMIZER, trial=5)
    state, told = online.run(online.init(mlp()), X.reshape(6, 4, N), X.reshape(6, 4, N), KEY)
    assert isinstance(state.current.whole, eqx.nn.MLP) and told["score"].shape == (6,)
