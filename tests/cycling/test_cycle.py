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


@pytest.mark.parametrize("dense", [False, True])
def test_errors_of_each_time_go_with_their_window(dense):
    std = np.linspace(0.5, 2.0, 12).reshape(4, 3)
    R = da.covariances.Dense(jnp.asarray(np.stack([np.diag(s) for s in std]))) if dense else None
    error = da.covariances.Diagonal(std=jnp.asarray(std)) if R is None else R
    record = da.Observations(np.ones((4, 3)), [0, 2, 3, 4], error=error)
    windows = da.split_windows(record, steps=2, count=2)
    found = windows.error.factor if dense else windows.error.std
    np.testing.assert_array_equal(
        found, np.asarray(error.factor if dense else error.std).reshape(2, 2, *found.shape[2:])
    )
    innovation = jax.vmap(lambda stream: stream.innovation(jnp.zeros((2, 3))))(windows)
    np.testing.assert_allclose(innovation.reshape(4, 3), 1 / std, rtol=1e-12)


def test_the_cycle_is_its_windows_one_by_one():
    model, x_b, obs, _ = twin(windows=3)
    _, _, history = da.cycle(da.FourDVar(STD), model, x_b, obs, steps=4)
    x = x_b
    for w in range(3):
        window = jax.tree.map(lambda leaf, w=w: leaf[w], obs)
        solution = da.minimize(da.StrongConstraint4DVar(model, x, STD, window, steps=4))
        np.testing.assert_allclose(history.analysis[w, 0], solution.state, atol=1e-10)
        x = da.rollout(model, solution.state, 4)[-1]


def test_the_analysis_beats_the_background_and_the_observations():
    model, x_b, obs, truth = twin(windows=12)
    _, _, history = da.cycle(da.FourDVar(da.covariances.Diagonal(std=0.5)), model, x_b, obs, steps=4)
    error = np.sqrt(np.mean((history.analysis[4:, 1] - truth[4::4][4:12]) ** 2))
    assert error < 0.5


def test_parameters_are_handed_on_and_a_resumed_cycle_has_the_same_bits():
    model, x_b, obs, _ = twin(windows=4, n=8)
    method = da.FourDVar(STD, parameters={"forcing": da.covariances.Diagonal(std=0.3)})
    start = model.replace(forcing=jnp.asarray(7.5))
    x_all, model_all, whole = da.cycle(method, start, x_b, obs, steps=4)
    first, second = (jax.tree.map(lambda leaf, s=s: leaf[s], obs) for s in (slice(0, 2), slice(2, 4)))
    x_mid, model_mid, a = da.cycle(method, start, x_b, first, steps=4)
    x_end, model_end, b = da.cycle(method, model_mid, x_mid, second, steps=4, start=8)
    assert np.array_equal(np.concatenate([a.analysis, b.analysis]), whole.analysis)
    assert float(model_all.forcing) != float(model_mid.forcing) != 7.5
    assert np.array_equal(x_end, x_all) and np.array_equal(model_end.forcing, model_all.forcing)
    assert np.array_equal(np.concatenate([a.search.control["state"], b.search.control["state"]]),
                          whole.search.control["state"])  # fmt: skip


def test_a_loss_passes_through_the_cycle():
    model, x_b, _, truth = twin(windows=2, n=8)
    values = truth[1:] + np.random.default_rng(1).normal(size=(8, 8))
    tight = da.GaussNewton(tolerance=1e-9)

    def loss(theta):
        record = da.Observations(
            values + theta["values"], np.arange(1, 9), error=da.covariances.Diagonal(std=theta["R"])
        )
        method = da.FourDVar(da.covariances.Diagonal(std=theta["B"]), tight)
        x_end, _, history = da.cycle(
            method, model.replace(forcing=theta["forcing"]), x_b + theta["background"],
            da.split_windows(record, 4, 2), steps=4,
        )  # fmt: skip
        return jnp.mean((history.analysis[:, 1] - truth[4::4]) ** 2) + jnp.mean(x_end**2)

    theta = {"B": 0.8, "R": 1.0, "forcing": 8.0, "values": 0.0, "background": 0.0}
    gradient, h = jax.grad(loss)(theta), 1e-5
    for name, value in theta.items():
        ends = [loss(theta | {name: value + sign * h}) for sign in (1, -1)]
        np.testing.assert_allclose(gradient[name], (ends[0] - ends[1]) / (2 * h), rtol=1e-5, err_msg=name)


def test_windows_without_observations_hand_on_the_background_bitwise():
    model, x_b, _, _ = twin(windows=3)
    nothing = da.split_windows(
        da.Observations(np.full((12, 20), np.nan), np.arange(1, 13), error=STD), steps=4, count=3
    )
    x_end, _, history = da.cycle(da.FourDVar(STD), model, x_b, nothing, steps=4)
    assert np.array_equal(history.analysis, history.background)
    assert np.all(history.search.result == da.Result.CONVERGED)
    np.testing.assert_allclose(x_end, da.rollout(model, x_b, 12, at=[12])[0], rtol=1e-12)


def test_a_window_that_blows_up_leaves_its_code_and_spoils_no_window_before():
    model = da.models.FunctionModel(lambda x, t: jnp.where(t < 5, x, x**64))
    obs = da.split_windows(da.Observations(np.full((8, 2), 9.0), np.arange(1, 9), error=STD), steps=4, count=2)
    with pytest.warns(da.AssimilationWarning, match=r"cycle: (NON_FINITE|STALLED) \(1 of 2\)"):
        _, _, history = da.cycle(da.FourDVar(STD), model, jnp.full(2, 10.0), obs, steps=4)
    assert int(history.search.result[1]) in (da.Result.NON_FINITE, da.Result.STALLED)
    assert int(history.search.result[0]) in (da.Result.CONVERGED, da.Result.INCONSISTENT)
    assert np.isfinite(history.analysis[0]).all()


def test_impossible_windows_are_named():
    obs = da.Observations(np.zeros((1, 1)), [0], error=STD)
    with pytest.raises(ConfigurationError, match="steps=0"):
        da.split_windows(obs, steps=0, count=1)
