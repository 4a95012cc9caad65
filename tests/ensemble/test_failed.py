"""Members that have failed: replaced on request, and always counted."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.methods.members import without_failed
from tests.cycling.test_ensemble import MODEL, twin
from tests.ensemble.zoo import KEY, Column, ensemble, observed, values

# One member in thirteen fails in a step, as good as at random.
FRAGILE = da.models.FunctionModel(lambda x, t: jnp.where(jnp.sin(1e4 * x[0]) > 0.97, jnp.inf, 1.0) * MODEL.step(x, t))


def broken(E, failed=(1, 4)):
    return E.at[jnp.array(failed), 2].set(jnp.array([jnp.nan, jnp.inf])[: len(failed)])


def test_survivors_stay_and_the_others_come_from_their_distribution():
    E = ensemble(members=8)
    keep = np.array([0, 2, 3, 5, 6, 7])
    found = jax.jit(jax.vmap(lambda key: without_failed(key, broken(E))))(jax.random.split(KEY, 4000))
    assert np.array_equal(found[7][keep], E[keep]) and np.isfinite(found).all()
    new, survivors = np.asarray(found)[:, [1, 4]].reshape(-1, 8), np.asarray(E)[keep]
    covariance = np.cov(survivors.T)
    np.testing.assert_allclose(new.mean(0), survivors.mean(0), atol=0.06)
    np.testing.assert_allclose(np.cov(new.T), covariance, atol=0.1 * covariance.max())
    X = survivors - survivors.mean(0)
    away = (new - survivors.mean(0)) @ (np.eye(8) - np.linalg.pinv(X, rcond=1e-10) @ X)
    np.testing.assert_allclose(away, 0.0, atol=1e-12)  # in the span of the survivors


def test_a_member_that_failed_in_one_part_is_replaced_as_a_whole():
    parts = Column(ensemble(members=4), {"square": jnp.ones((4, 2)).at[3, 0].set(jnp.nan)})
    found = without_failed(KEY, parts)
    assert np.array_equal(found.wind[:3], parts.wind[:3]) and not np.array_equal(found.wind[3], parts.wind[3])
    np.testing.assert_allclose(found.humidity["square"], 1.0)


@pytest.mark.parametrize("method", [da.ETKF, da.EnKF], ids=lambda method: method.__name__)
@pytest.mark.slow
def test_an_analysis_replaces_and_counts_them(method):
    E, y = broken(ensemble()), observed(values(), 1.5)
    posterior, info = method(1.1, replace_failed=True).analyze(KEY, E, y)
    assert info.non_finite == 2 and info.result == da.Result.CONVERGED and np.isfinite(posterior).all()
    sound = ensemble()
    same, info = method(1.1, replace_failed=True).analyze(KEY, sound, y)
    expected, _ = method(1.1).analyze(KEY, sound, y)
    assert info.non_finite == 0
    np.testing.assert_allclose(same, expected, rtol=1e-12)
    # Without observations the others stay as they are.
    nothing, info = method(1.1, replace_failed=True).analyze(KEY, E, observed(values(), mask=False))
    keep = np.array([0, 2, 3, 5])
    assert np.array_equal(nothing[keep], E[keep]) and np.isfinite(nothing).all() and info.non_finite == 2


def test_where_fewer_than_two_are_left_it_is_diverged():
    E = ensemble(members=3).at[1:, 0].set(jnp.nan)
    posterior, info = da.ETKF(replace_failed=True).analyze(KEY, E, observed(values()))
    assert info.non_finite == 2 and info.result == da.Result.DIVERGED and not np.isfinite(posterior).all()


def test_the_derivative_through_the_analysis_is_finite_and_leaves_failed_members_out():
    E, y = broken(ensemble()), observed(values())
    loss = lambda E: jnp.sum(da.ETKF(replace_failed=True).analyze(KEY, E, y)[0] ** 2)  # noqa: E731
    gradient = jax.grad(loss)(E)
    assert np.isfinite(gradient).all() and np.all(gradient[jnp.array([1, 4])] == 0)
    direction = jnp.asarray(np.random.default_rng(0).normal(size=E.shape))
    difference = (loss(E + 1e-5 * direction) - loss(E - 1e-5 * direction)) / 2e-5
    np.testing.assert_allclose(jnp.vdot(gradient, direction), difference, rtol=1e-7)


@pytest.mark.parametrize("wrapper", ["filter", "smoother", "adaptive", "policy"])
def test_a_cycle_goes_on_with_a_model_that_blows_up_for_some_members(wrapper):
    E, obs, truth = twin(list(range(2, 42, 2)), members=12)
    filter_ = da.ETKF(1.1, replace_failed=True)
    wrappers = {
        "filter": filter_,
        "smoother": da.EnKS(filter_, lag=1),
        "adaptive": da.ensemble.AdaptiveInflation(filter_),
        "policy": da.ensemble.PolicyInflation(filter_),
    }
    _, history = da.cycle(wrappers[wrapper], FRAGILE, E, obs, key=KEY)
    failures = np.asarray(history.info.non_finite)
    assert failures.sum() >= 3 and np.all(failures < 10), failures
    assert np.all(history.info.result == da.Result.CONVERGED) and history.step[-1] == 40
    mean = history.analysis.mean[:, 0] if wrapper == "smoother" else history.analysis.mean
    assert float(jnp.sqrt(jnp.mean((mean - truth[obs.steps]) ** 2))) < 1.0  # the error of the observations
