"""Cycled 4D-Var: windows, restart, gradient through the cycle."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.core.errors import ConfigurationError
from diffassim.variational import PerfectModel, WithModelError

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


@pytest.mark.slow
def test_the_cycle_is_its_windows_one_by_one():
    model, x_b, obs, _ = twin(windows=3)
    _, history = da.cycle(da.FourDVar(STD), model, x_b, obs, steps=4)
    x = x_b
    for w in range(3):
        window = jax.tree.map(lambda leaf, w=w: leaf[w], obs)
        solution = da.minimize(da.StrongConstraint4DVar(model, x, STD, window, steps=4))
        np.testing.assert_allclose(history.analysis[w, 0], solution.state, atol=1e-10)
        x = da.rollout(model, solution.state, 4)[-1]


@pytest.mark.slow
def test_the_analysis_beats_the_background_and_the_observations():
    model, x_b, obs, truth = twin(windows=12)
    _, history = da.cycle(da.FourDVar(da.covariances.Diagonal(std=0.5)), model, x_b, obs, steps=4)
    error = np.sqrt(np.mean((history.analysis[4:, 1] - truth[4::4][4:12]) ** 2))
    assert error < 0.5


@pytest.mark.slow
def test_parameters_are_handed_on_and_a_resumed_cycle_has_the_same_bits():
    model, x_b, obs, _ = twin(windows=4, n=8)
    method = da.FourDVar(STD, parameters={"forcing": da.covariances.Diagonal(std=0.3)})
    start = model.replace(forcing=jnp.asarray(7.5))
    x_all, whole = da.cycle(method, start, x_b, obs, steps=4)
    first, second = (jax.tree.map(lambda leaf, s=s: leaf[s], obs) for s in (slice(0, 2), slice(2, 4)))
    x_mid, a = da.cycle(method, start, x_b, first, steps=4)
    x_end, b = da.cycle(method, a.model_after(start), x_mid, second, steps=4, start=8)
    assert np.array_equal(np.concatenate([a.analysis, b.analysis]), whole.analysis)
    assert float(whole.model_after(start).forcing) != float(a.model_after(start).forcing) != 7.5
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), a, b)  # histories have nothing but windows
    assert np.array_equal(x_end, x_all) and np.array_equal(joined.parameters["forcing"], whole.parameters["forcing"])
    assert np.array_equal(np.concatenate([a.search.control["state"], b.search.control["state"]]),
                          whole.search.control["state"])  # fmt: skip


@pytest.mark.slow
def test_a_loss_passes_through_the_cycle():
    model, x_b, _, truth = twin(windows=2, n=8)
    values = truth[1:] + np.random.default_rng(1).normal(size=(8, 8))
    tight = da.GaussNewton(tolerance=1e-9)

    def loss(theta):
        record = da.Observations(
            values + theta["values"], np.arange(1, 9), error=da.covariances.Diagonal(std=theta["R"])
        )
        method = da.FourDVar(da.covariances.Diagonal(std=theta["B"]), tight)
        x_end, history = da.cycle(
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
    x_end, history = da.cycle(da.FourDVar(STD), model, x_b, nothing, steps=4)
    assert np.array_equal(history.analysis, history.background)
    assert np.all(history.search.result == da.Result.CONVERGED)
    np.testing.assert_allclose(x_end, da.rollout(model, x_b, 12, at=[12])[0], rtol=1e-12)


def test_a_window_that_blows_up_leaves_its_code_and_spoils_no_window_before():
    model = da.models.FunctionModel(lambda x, t: jnp.where(t < 5, x, x**64))
    obs = da.split_windows(da.Observations(np.full((8, 2), 9.0), np.arange(1, 9), error=STD), steps=4, count=2)
    with pytest.warns(da.AssimilationWarning, match=r"cycle: (NON_FINITE|STALLED) \(1 of 2\)"):
        _, history = da.cycle(da.FourDVar(STD), model, jnp.full(2, 10.0), obs, steps=4)
    assert int(history.search.result[1]) in (da.Result.NON_FINITE, da.Result.STALLED)
    assert int(history.search.result[0]) in (da.Result.CONVERGED, da.Result.INCONSISTENT)
    assert np.isfinite(history.analysis[0]).all()


@pytest.mark.parametrize("reuse", [False, True])
def test_overlapping_windows_use_what_they_should(reuse):
    at = np.array([0, 1, 4, 5, 10, 11, 15, 20, 21])
    obs = da.Observations(at.astype(float)[:, None], at, error=STD)
    cut = da.split_windows(obs, steps=10, count=3, shift=5, reuse=reuse)
    real = np.asarray(cut.mask)[..., 0]
    absolute = np.asarray(cut.steps) + 5 * np.arange(3)[:, None]
    found = [absolute[w][real[w]].tolist() for w in range(3)]
    once = [[0, 1, 4, 5, 10], [11, 15], [20]]
    again = [[0, 1, 4, 5, 10], [10, 11, 15], [11, 15, 20]]
    assert found == (again if reuse else once)
    np.testing.assert_array_equal(np.asarray(cut.values)[..., 0][real], absolute[real])


def test_windows_can_be_changed_like_any_observations():
    obs = twin(windows=3)[2]
    changed = obs.replace(values=obs.values + 1, error=da.covariances.Diagonal(std=2 * obs.error.std))
    np.testing.assert_array_equal(changed.values, jnp.where(obs.mask, obs.values + 1, 0))
    np.testing.assert_array_equal(changed.mask, obs.mask)
    with pytest.raises(
        da.ShapeError, match=r"values has shape \(2, 4, 20\), but steps has \(windows, times\) \(3, 4\)"
    ):
        obs.replace(values=obs.values[:2])
    with pytest.raises(da.ShapeError, match=r"Observations.error: Diagonal std has shape \(7,\)"):
        obs.replace(error=da.covariances.Diagonal(std=np.ones((3, 7))))
    with pytest.raises(da.ShapeError, match="with 3 windows all of its arrays need them as leading axis"):
        obs.replace(error=da.covariances.Diagonal(std=2.0))


@pytest.mark.slow
def test_shifted_windows_are_their_analyses_one_by_one_and_resume_with_the_same_bits():
    model, x_b, _, truth = twin(windows=2, n=8)
    record = da.Observations(truth[1:] + np.random.default_rng(1).normal(size=(8, 8)), np.arange(1, 9), error=STD)
    obs = da.split_windows(record, 4, 3, shift=2)
    x_all, whole = da.cycle(da.FourDVar(STD), model, x_b, obs, steps=4, shift=2, at=[0, 1, 2, 3, 4])
    x = x_b
    for w in range(3):
        window = jax.tree.map(lambda leaf, w=w: leaf[w], obs)
        cost = da.StrongConstraint4DVar(model, x, STD, window, steps=4)
        trajectory = cost.trajectory(da.minimize(cost).control)
        np.testing.assert_allclose(whole.analysis[w], trajectory, atol=1e-10)
        x = trajectory[2]
    np.testing.assert_allclose(x_all, x, atol=1e-10)
    first, rest = (jax.tree.map(lambda leaf, s=s: leaf[s], obs) for s in (slice(0, 1), slice(1, 3)))
    options = {"steps": 4, "shift": 2, "at": [0, 1, 2, 3, 4]}
    x_mid, _ = da.cycle(da.FourDVar(STD), model, x_b, first, **options)
    x_end, b = da.cycle(da.FourDVar(STD), model, x_mid, rest, start=2, **options)
    assert np.array_equal(x_end, x_all) and np.array_equal(b.analysis, whole.analysis[1:])


@pytest.mark.parametrize("form", [da.WeakConstraint4DVar, da.StateWeakConstraint4DVar])
@pytest.mark.slow
def test_a_weak_constraint_cycle_hands_on_the_end_of_its_trajectory(form):
    model, x_b, obs, _ = twin(windows=2, n=8)
    Q = da.covariances.Diagonal(std=0.2)
    tight = da.GaussNewton(tolerance=1e-9, inner=da.variational.PrimalCG(1e-6))
    method = da.FourDVar(STD, tight, cost=WithModelError(Q, 2, form))
    x_all, history = da.cycle(method, model, x_b, obs, steps=4, at=[0, 2, 3, 4])
    x = x_b
    for w in range(2):
        window = jax.tree.map(lambda leaf, w=w: leaf[w], obs)
        cost = da.WeakConstraint4DVar(model, x, STD, Q, window, every=2, steps=4)
        trajectory = cost.trajectory(da.minimize(cost, tight).control)
        np.testing.assert_allclose(history.analysis[w], trajectory[np.array([0, 2, 3, 4])], atol=1e-7)
        x = trajectory[-1]
    np.testing.assert_allclose(x_all, x, atol=1e-7)
    half = jax.tree.map(lambda leaf: leaf[:1], obs)
    x_mid, _ = da.cycle(method, model, x_b, half, steps=4, at=[0, 2, 3, 4])
    rest = jax.tree.map(lambda leaf: leaf[1:], obs)
    assert np.array_equal(da.cycle(method, model, x_mid, rest, steps=4, start=4, at=[0, 2, 3, 4])[0], x_all)


def test_impossible_windows_are_named():
    obs = da.Observations(np.zeros((1, 1)), [0], error=STD)
    for shift in (0, 5):
        with pytest.raises(ConfigurationError, match=f"split_windows: shift={shift} must lie between 1 and .* 4 steps"):
            da.split_windows(obs, steps=4, count=1, shift=shift)
        with pytest.raises(ConfigurationError, match=f"cycle: shift={shift} must lie between 1"):
            da.cycle(da.FourDVar(STD), da.models.Lorenz96(), jnp.zeros(8), obs, steps=4, shift=shift)
    for wrong in (
        lambda: PerfectModel(da.WeakConstraint4DVar),
        lambda: WithModelError(STD, form=da.ThreeDVarFGAT),
        lambda: da.FourDVar(STD, cost=da.WeakConstraint4DVar),
    ):
        with pytest.raises(ConfigurationError, match=r"take WithModelError|take PerfectModel|`cost` takes"):
            wrong()
    with pytest.raises(ConfigurationError, match="steps must be at least 1, found 0"):
        da.split_windows(obs, steps=0, count=1)
