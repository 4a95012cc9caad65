"""Cycled 4D-Var: windows, restart, gradient through the cycle."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.core.errors import ConfigurationError

STD = da.covariances.Diagonal(std=1.0)


def twin(windows=6, steps=4, n=20, seed=0):
    rng = np.random.default_rng(seed)
    model = da.models.Lorenz96(dt=0.05)
    x0 = da.rollout(model, jnp.asarray(rng.normal(size=n)) + 2.0, 500, at=[500])[0]
    truth = da.rollout(model, x0, windows * steps)
    at = np.arange(1, windows * steps + 1)
    values = truth[at] + rng.normal(size=(len(at), n))
    obs = da.split_windows(da.Observations(values, at, error=STD), steps, windows)
    return model, x0 + jnp.asarray(rng.normal(size=n)), obs, truth


def test_every_observation_falls_into_one_window():
    steps = np.array([0, 1, 4, 4, 5, 8, 12, 13])
    obs = da.Observations(np.arange(8.0)[:, None], steps, error=STD)
    cut = da.split_windows(obs, steps=4, count=3)
    absolute = np.asarray(cut.steps) + 4 * np.arange(3)[:, None]
    real = np.asarray(cut.mask)[..., 0]
    assert sorted(absolute[real]) == [0, 1, 4, 4, 5, 8, 12]
    assert cut.values[..., 0][real].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


def test_the_cycle_is_its_windows_one_by_one():
    model, x_b, obs, _ = twin(windows=3)
    _, _, history = da.cycle(da.FourDVar(STD), model, x_b, obs, steps=4)
    x = x_b
    for w in range(3):
        window = jax.tree.map(lambda leaf, w=w: leaf[w], obs)
        solution = da.minimize(da.StrongConstraint4DVar(model, x, STD, window, steps=4))
        np.testing.assert_allclose(history.analysis[w, 0], solution.state, atol=1e-10)
        x = da.rollout(model, solution.state, 4)[-1]


def test_stopping_and_going_on_gives_the_same_result_bitwise():
    model, x_b, obs, _ = twin()
    x_all, _, whole = da.cycle(da.FourDVar(STD), model, x_b, obs, steps=4)
    first, second = (jax.tree.map(lambda leaf, s=s: leaf[s], obs) for s in (slice(0, 3), slice(3, 6)))
    x_mid, mid_model, a = da.cycle(da.FourDVar(STD), model, x_b, first, steps=4)
    x_end, _, b = da.cycle(da.FourDVar(STD), mid_model, x_mid, second, steps=4, start=12)
    assert np.array_equal(x_end, x_all)
    assert np.array_equal(np.concatenate([a.analysis, b.analysis]), whole.analysis)


def test_the_analysis_beats_the_background_and_the_observations():
    model, x_b, obs, truth = twin(windows=12)
    _, _, history = da.cycle(da.FourDVar(da.covariances.Diagonal(std=0.5)), model, x_b, obs, steps=4)
    error = np.sqrt(np.mean((history.analysis[4:, 1] - truth[4::4][4:12]) ** 2))
    assert error < 0.5


def test_a_loss_passes_through_the_cycle():
    model, x_b, obs, truth = twin(windows=3)

    def loss(std):
        method = da.FourDVar(da.covariances.Diagonal(std=std), da.GaussNewton(tolerance=1e-9))
        _, _, history = da.cycle(method, model, x_b, obs, steps=4)
        return jnp.mean((history.analysis[:, 1] - truth[4::4]) ** 2)

    h = 1e-5
    expected = (loss(0.8 + h) - loss(0.8 - h)) / (2 * h)
    np.testing.assert_allclose(jax.grad(loss)(0.8), expected, rtol=1e-5)


def test_impossible_windows_are_named():
    obs = da.Observations(np.zeros((1, 1)), [0], error=STD)
    with pytest.raises(ConfigurationError, match="steps=0"):
        da.split_windows(obs, steps=0, count=1)
