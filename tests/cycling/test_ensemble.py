"""Cycled ensembles: times, restart, trace counts, gradients through the cycle, divergence."""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.core.errors import AssimilationWarning, ConfigurationError, ShapeError
from diffassim.cycling.ensemble import _cycle

MODEL = da.models.Lorenz96(dt=0.05)
STD = da.covariances.Diagonal(std=1.0)
KEY = jax.random.key(3)


@functools.cache
def truth_of(n):
    x0 = np.random.default_rng(n).normal(size=n) + 2.0
    return np.asarray(da.rollout(MODEL, jnp.asarray(x0), 550))[500:]


def twin(at, n=12, members=10, seed=0):
    rng, truth = np.random.default_rng(seed), truth_of(n)
    values = truth[np.asarray(at)] + rng.normal(size=(len(at), n))
    ensemble = truth[:1] + rng.normal(size=(members, n))
    return jnp.asarray(ensemble), da.Observations(values, at, error=STD), truth


STEP = jax.jit(jax.vmap(MODEL.step, (0, None)))


def by_hand(method, ensemble, obs, start=0):
    now, seen = 0, []
    for step in np.unique(obs.steps):
        for k in range(now, step):
            ensemble = STEP(ensemble, start + k)
        rows = np.flatnonzero(np.asarray(obs.steps) == step)
        here = da.Observations(obs.values[rows], [0] * len(rows), error=obs.error)
        ensemble, _ = method.analyze(jax.random.fold_in(KEY, start + step), ensemble, here)
        now = step
        seen.append(ensemble)
    return jnp.stack(seen)


@pytest.mark.parametrize(
    "at", [[2, 4, 6, 8], [0, 1, 3, 8, 9], [5, 2, 5, 7, 2, 2]], ids=["equal", "unequal", "unsorted"]
)
@pytest.mark.slow
def test_the_cycle_is_its_analyses_one_by_one(at):
    ensemble, obs, _ = twin(at)
    method = da.ETKF(inflation=1.05, rotation=True)
    last, history = da.cycle(method, MODEL, ensemble, obs, key=KEY, members=True)
    expected = by_hand(method, ensemble, obs)
    np.testing.assert_allclose(history.members, expected, rtol=1e-9)
    assert np.array_equal(last, history.members[-1]) and history.step.tolist() == np.unique(at).tolist()
    np.testing.assert_allclose(history.analysis.mean, expected.mean(1), rtol=1e-9)
    np.testing.assert_allclose(history.analysis.spread, expected.std(1, ddof=1), rtol=1e-9)
    assert history.info.count.tolist() == [12 * at.count(step) for step in np.unique(at)]
    assert da.cycle(method, MODEL, ensemble, obs, key=KEY)[1].members is None


def test_streams_with_times_of_their_own_meet_where_they_agree():
    ensemble, obs, _ = twin([2, 3, 4, 6])
    rows = [np.array([0, 1, 2]), np.array([1, 3])]
    first, second = (da.Observations(obs.values[r], obs.steps[r], error=STD) for r in rows)
    _, history = da.cycle(da.ETKF(), MODEL, ensemble, (first, second))
    assert history.step.tolist() == [2, 3, 4, 6] and history.info.count.tolist() == [12, 24, 12, 12]


@pytest.mark.parametrize("at", [range(2, 42, 2), [1, 2, 4, 5, 8, 9, 12, 13, 14, 20]], ids=["equal", "unequal"])
@pytest.mark.slow
def test_a_resumed_cycle_has_the_same_bits(at):
    ensemble, obs, _ = twin(list(at))
    method = da.ETKF(inflation=1.05, rotation=True)
    times = da.analysis_times(obs)
    last, whole = da.cycle(method, MODEL, ensemble, times, key=KEY, start=7)
    middle, a = da.cycle(method, MODEL, ensemble, times[:6], key=KEY, start=7)
    end, b = da.cycle(method, MODEL, middle, times[6:], key=KEY, start=a.step[-1])
    assert np.array_equal(end, last)
    joined = jax.tree.map(lambda x, y: np.concatenate([x, y]), a, b)
    chex.assert_trees_all_equal(joined, whole)


@pytest.mark.slow
def test_errors_with_a_time_axis_belong_to_their_times():
    ensemble, obs, _ = twin([1, 2, 3])
    stds = np.array([0.5, 1.0, 2.0])
    factors = jnp.asarray(stds[:, None, None] * np.eye(12))
    forms = [da.covariances.Diagonal(std=np.repeat(stds[:, None], 12, 1)), da.covariances.Dense(factors)]
    x, expected = ensemble, []
    for k in range(3):
        x = STEP(x, 0)
        here = da.Observations(obs.values[k : k + 1], [0], error=da.covariances.Diagonal(std=stds[k]))
        x, _ = da.ETKF().analyze(None, x, here)
        expected.append(x)
    for error in forms:
        _, history = da.cycle(da.ETKF(), MODEL, ensemble, obs.replace(error=error), members=True)
        np.testing.assert_allclose(history.members, np.stack(expected), rtol=1e-9)


@pytest.mark.slow
def test_new_numbers_are_not_traced_again():
    ensemble, obs, _ = twin([2, 4, 7, 11, 12])
    first = da.cycle(da.ETKF(1.1), MODEL, ensemble, obs)[0]
    changes = [
        (da.ETKF(1.2), MODEL, ensemble, obs),
        (da.ETKF(1.1), MODEL.replace(forcing=8.5), ensemble, obs),
        (da.ETKF(1.1), MODEL, ensemble, obs.replace(values=obs.values + 0.1)),
        (da.ETKF(1.1), MODEL, ensemble, da.Observations(obs.values, [1, 2, 6, 7, 9], error=STD)),
        (da.ETKF(1.1), MODEL, ensemble, da.Observations(obs.values, obs.steps, mask=obs.values > 0, error=STD)),
        (da.ETKF(1.1), MODEL, ensemble, obs.replace(error=da.covariances.Diagonal(std=0.5))),
    ]
    compiled = _cycle._cache_size()
    for change in changes:
        assert not np.allclose(da.cycle(*change)[0], first)  # else nothing was changed
    assert _cycle._cache_size() == compiled
    da.cycle(da.ETKF(1.1), MODEL, ensemble[:5], obs)
    assert _cycle._cache_size() == compiled + 1  # the count would notice


@pytest.mark.slow
def test_experiments_are_a_batch():
    ensemble, obs, truth = twin(list(range(1, 21)))

    def error(inflation, ensemble):
        _, history = da.cycle(da.ETKF(inflation), MODEL, ensemble, obs)
        return jnp.sqrt(jnp.mean((history.analysis.mean - truth[obs.steps]) ** 2))

    inflations = jnp.array([1.0, 1.1, 1.3])
    batch = jax.vmap(error, (0, None))(inflations, ensemble)
    np.testing.assert_allclose(batch, [error(r, ensemble) for r in inflations], rtol=1e-7)


def check_gradient(run, x, h=1e-5, rtol=1e-6):
    run = jax.jit(run)
    ends = [run(x + s * h) for s in (-2, -1, 1, 2)]
    difference = (ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / (12 * h)
    gradient = jax.grad(run)(x)
    assert abs(difference) > 1e-4
    np.testing.assert_allclose(gradient, difference, rtol=rtol)


@pytest.mark.parametrize("sites", [12, 4], ids=["m > N", "m < N"])
@pytest.mark.slow
def test_the_gradient_of_the_error_passes_through_many_cycles(sites):
    ensemble, obs, truth = twin(list(range(1, 51)), members=8)
    operator = da.observations.Subset(jnp.arange(0, 12, 12 // sites))
    obs = da.Observations(obs.values[:, :: 12 // sites], obs.steps, operator=operator, error=STD)

    def error(inflation):
        _, history = da.cycle(da.ETKF(inflation), MODEL, ensemble, obs)
        return jnp.mean(jnp.sqrt(jnp.mean((history.analysis.mean - truth[obs.steps]) ** 2, axis=1)))

    check_gradient(error, 1.05)


@pytest.mark.slow
def test_everything_a_cycle_is_made_of_receives_its_gradient():
    ensemble, obs, truth = twin([1, 2, 4, 5, 7, 8], n=6, members=5)
    direction = jnp.asarray(np.random.default_rng(1).normal(size=ensemble.shape))

    def error(theta):
        record = da.Observations(obs.values + theta["values"], obs.steps, error=da.covariances.Diagonal(std=theta["R"]))
        _, history = da.cycle(
            da.ETKF(theta["inflation"], rotation=True), MODEL.replace(forcing=theta["forcing"]),
            ensemble + theta["ensemble"] * direction, record, key=KEY,
        )  # fmt: skip
        return jnp.mean((history.analysis.mean - truth[obs.steps]) ** 2) + jnp.mean(history.info.chi_square)

    theta = {"values": 0.0, "R": 1.0, "inflation": 1.1, "forcing": 8.0, "ensemble": 0.0}
    error, h = jax.jit(error), 1e-5
    gradient = jax.grad(error)(theta)
    for name, value in theta.items():
        ends = [error(theta | {name: value + sign * h}) for sign in (1, -1)]
        np.testing.assert_allclose(gradient[name], (ends[0] - ends[1]) / (2 * h), rtol=1e-6, err_msg=name)


def test_times_without_observations_are_a_free_forecast():
    ensemble, obs, _ = twin([2, 4, 6])
    nothing = da.Observations(np.full((3, 12), np.nan), obs.steps, error=STD)
    last, history = da.cycle(da.ETKF(inflation=1.3), MODEL, ensemble, nothing)
    np.testing.assert_allclose(last, functools.reduce(STEP, range(6), ensemble), rtol=1e-10)
    chex.assert_trees_all_equal(history.background, history.analysis)
    none = da.Observations(np.zeros((0, 12)), np.zeros(0, int), error=STD)
    assert np.array_equal(da.cycle(da.ETKF(), MODEL, ensemble, none)[0], ensemble)


def test_an_ensemble_that_blows_up_is_reported_with_its_step():
    ensemble, obs, _ = twin([1, 2, 3, 4])
    model = da.models.FunctionModel(lambda x, t: jnp.where(t < 2, x, x * jnp.where(x > 8.0, 1e200, 1.0) ** 2))
    hot = ensemble.at[0].set(9.0).at[1].set(9.5)
    with pytest.warns(AssimilationWarning, match=r"from the analysis at step 3 on \(2 of 4 analyses are sound\)"):
        _, history = da.cycle(da.ETKF(), model, hot, da.Observations(jnp.full((4, 12), 9.0), obs.steps, error=STD))
    assert history.info.result.tolist() == [0, 0, da.Result.DIVERGED, da.Result.DIVERGED]
    assert history.info.non_finite[2] >= 1 and np.isfinite(history.analysis.mean[1]).all()


def test_one_key_serves_a_cycle_and_not_two_experiments():
    ensemble, obs, _ = twin([2, 4])
    still = da.models.FunctionModel(lambda x, t: x)
    same = obs.replace(values=jnp.tile(obs.values[:1], (2, 1)))
    method, last = da.EnKF(), da.Observations(obs.values[:1], [0], error=STD)
    first, again = (da.cycle(method, still, ensemble, same, key=KEY, members=True)[1] for _ in range(2))
    assert np.array_equal(first.members, again.members)  # a key that is used again draws the same
    posterior, _ = method.analyze(jax.random.fold_in(KEY, 4), first.members[0], last)
    np.testing.assert_allclose(first.members[1], posterior, rtol=1e-12)
    repeated, _ = method.analyze(jax.random.fold_in(KEY, 2), first.members[0], last)
    assert np.abs(repeated - posterior).max() > 0.1  # every step has draws of its own


def test_what_cannot_be_cycled_is_named():
    ensemble, obs, _ = twin([1, 2])
    with pytest.raises(ConfigurationError, match="ETKF draws random numbers"):
        da.cycle(da.ETKF(rotation=True), MODEL, ensemble, obs)
    with pytest.raises(ShapeError, match="at least two members"):
        da.cycle(da.ETKF(), MODEL, ensemble[:1], obs)
    with pytest.raises(ShapeError, match="must be known outside of traced code"):
        jax.jit(lambda obs: da.cycle(da.ETKF(), MODEL, ensemble, obs)[0])(obs)
    with pytest.raises(ShapeError, match="only a stretch"):
        da.analysis_times(obs)[0]
    times = da.analysis_times(obs)
    prepared = jax.jit(lambda times: da.cycle(da.ETKF(), MODEL, ensemble, times)[0])(times)
    np.testing.assert_allclose(prepared, da.cycle(da.ETKF(), MODEL, ensemble, obs)[0], rtol=1e-12)


@pytest.mark.slow
def test_chunks_are_the_whole_cycle_bit_by_bit():
    ensemble, obs, _ = twin([1, 2, 5, 6, 9])
    method = da.ETKF(inflation=1.05, rotation=True)
    last, history = da.cycle(method, MODEL, ensemble, obs, key=KEY)
    parts = list(da.cycling.cycle_in_chunks(method, MODEL, ensemble, obs, chunk=2, key=KEY))
    assert [part.step.size for _, part in parts] == [2, 2, 1]
    whole = jax.tree.map(lambda *leaves: np.concatenate(leaves), *(part for _, part in parts))
    chex.assert_trees_all_equal(whole, jax.tree.map(np.asarray, history))
    assert np.array_equal(parts[-1][0], last)
    with pytest.raises(ConfigurationError, match="chunk=0"):
        da.cycling.cycle_in_chunks(method, MODEL, ensemble, obs, chunk=0, key=KEY)
