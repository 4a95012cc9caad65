"""Hybrid ensemble 4D-Var: the pure cases, the Kalman filter, gradients, by hand, bad input."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.covariances import Diagonal, Gaussian
from diffassim.models import FunctionModel

STD = Diagonal(std=1.0)
TIGHT = da.GaussNewton(tolerance=1e-11, inner=da.variational.PrimalCG(1e-8))
RNG = np.random.default_rng(4)
A = 1.02 * np.linalg.qr(RNG.normal(size=(6, 6)))[0]
LINEAR = FunctionModel(lambda x, t, a: jnp.einsum("ij,j->i", a, x), arguments=jnp.asarray(A))
CURVED = FunctionModel(lambda x, t: x + 0.2 * jnp.sin(x) * jnp.roll(x, 1))
MEMBERS = jnp.asarray(RNG.normal(size=(5, 6)) + 1.0)
GAPPY = np.where(RNG.uniform(size=(4, 6)) < 0.3, np.nan, RNG.normal(size=(4, 6)))
RECORD = da.Observations(GAPPY, [2, 4, 6, 8], error=Diagonal(std=0.7))


@pytest.mark.slow
def test_with_the_ensemble_alone_and_a_linear_model_it_is_the_ensemble_filter():
    # Two observation times in each window: the filter takes them one by one.
    hybrid = da.HybridFourDVar(da.FourDVar(STD, TIGHT), da.ETKF(), 0.0, 1.0)
    members, history = da.cycle(hybrid, LINEAR, MEMBERS, da.split_windows(RECORD, 4, 2), steps=4)
    expected, account = da.cycle(da.ETKF(), LINEAR, MEMBERS, RECORD)
    np.testing.assert_allclose(history.analysis[:, 1], account.analysis.mean[1::2], atol=1e-10)
    np.testing.assert_allclose(members.mean(0), expected.mean(0), atol=1e-10)
    np.testing.assert_allclose(np.cov(members.T), np.cov(expected.T), atol=1e-10)
    assert np.array_equal(history.ensemble.count, np.asarray(account.info.count).reshape(2, 2).sum(1))


@pytest.mark.slow
def test_without_the_ensemble_it_is_four_d_var():
    windows = da.split_windows(RECORD, 4, 2)
    hybrid = da.HybridFourDVar(da.FourDVar(STD, TIGHT), da.ETKF(), 1.0, 0.0)
    ends, history = da.cycle(hybrid, CURVED, MEMBERS, windows, steps=4)
    x, expected = da.cycle(da.FourDVar(STD, TIGHT), CURVED, MEMBERS.mean(0), windows, steps=4)
    np.testing.assert_allclose(history.analysis, expected.analysis, atol=1e-9)
    np.testing.assert_allclose(history.background, expected.background, atol=1e-9)
    np.testing.assert_allclose(ends.mean(0), x, atol=1e-9)


@pytest.mark.slow
def test_a_window_is_a_hybrid_analysis_with_a_localized_filter_beside_it():
    filter_ = da.LETKF(1.02, rotation=True, localization=da.ensemble.GaspariCohn(3.0))
    C, key = Gaussian(1.0, 2.0, da.grids.Grid()), jax.random.key(2)
    method = da.HybridFourDVar(da.FourDVar(STD, TIGHT), filter_, 0.3, 0.7, C)
    windows = da.split_windows(RECORD, 4, 2)
    last = jax.tree.map(lambda leaf: leaf[1:], windows)
    ends, history = da.cycle(method, CURVED, MEMBERS, last, steps=4, start=4, key=key)
    # The same by hand: the analysis, the members around it, their analysis, and all of them at the end.
    window = jax.tree.map(lambda leaf: leaf[0], last)
    P = 0.3 * STD + 0.7 * da.covariances.Ensemble(MEMBERS, C)
    cost = da.StrongConstraint4DVar(CURVED, MEMBERS.mean(0), P, window, start=4, steps=4)
    x_a = da.minimize(cost, TIGHT).state
    np.testing.assert_allclose(history.analysis[0, 0], x_a, atol=1e-9)
    around = MEMBERS - MEMBERS.mean(0)[None] + x_a[None]
    run = jax.vmap(lambda x: da.rollout(CURVED, x, 4))
    states = run(around)[:, window.steps]
    posterior, _ = filter_.analyze_along(jax.random.fold_in(key, 4), around, states, window)
    expected = run(posterior - posterior.mean(0)[None] + x_a[None])[:, -1]
    expected += (da.rollout(CURVED, x_a, 4)[-1] - expected.mean(0))[None]
    np.testing.assert_allclose(ends, expected, atol=1e-9)
    assert history.ensemble.analysis_spread[0] < history.ensemble.background_spread[0]


@pytest.mark.slow
def test_a_lost_ensemble_is_brought_back_by_the_static_part():
    # The members agree with each other, ten of their standard deviations away from the observations.
    far = MEMBERS.mean(0)[None] + 0.01 * (MEMBERS - MEMBERS.mean(0)[None]) + 10.0
    windows = da.split_windows(RECORD, 4, 2)
    method = da.HybridFourDVar(da.FourDVar(STD, TIGHT), da.ETKF(), 1e-3, 1.0)

    def distance(recovery, members):
        found = da.cycle(method.replace(recovery=recovery), LINEAR, members, windows, steps=4)
        return np.abs(found[1].analysis[-1, -1]).mean()

    assert distance(2.0, far) < 0.2 * distance(None, far)
    # Where spread and innovations agree, the weight stays what it is.
    wide = MEMBERS.mean(0)[None] + 5.0 * (MEMBERS - MEMBERS.mean(0)[None])
    assert distance(2.0, wide) == distance(None, wide)


@pytest.mark.slow
def test_a_loss_passes_through_the_hybrid_cycle():
    windows = da.split_windows(RECORD, 4, 2)

    @jax.jit
    def loss(theta):
        method = da.HybridFourDVar(
            da.FourDVar(Diagonal(std=theta["B"]), da.GaussNewton(tolerance=1e-10)),
            da.ETKF(theta["inflation"]), theta["a"], theta["b"],
        )  # fmt: skip
        ends, history = da.cycle(method, CURVED, MEMBERS * theta["members"], windows, steps=4)
        return jnp.mean(history.analysis[:, 1] ** 2) + jnp.mean(ends**2)

    theta = {"B": 0.8, "inflation": 1.1, "a": 0.4, "b": 0.6, "members": 1.0}
    gradient, h = jax.jit(jax.grad(loss))(theta), 1e-5
    for name, value in theta.items():
        ends = [loss(theta | {name: value + sign * h}) for sign in (1, -1)]
        np.testing.assert_allclose(gradient[name], (ends[0] - ends[1]) / (2 * h), rtol=1e-5, err_msg=name)


def test_bad_input_is_named():
    var, etkf = da.FourDVar(STD), da.ETKF()
    with pytest.raises(ConfigurationError, match="recovery=-1"):
        da.HybridFourDVar(da.FourDVar(STD), da.ETKF(), recovery=-1.0)
    with pytest.raises(ConfigurationError, match="must not be negative, and not both zero; found static_weight=-1"):
        da.HybridFourDVar(var, etkf, -1.0, 1.0)
    with pytest.raises(ConfigurationError, match="not both zero"):
        da.HybridFourDVar(var, etkf, 0.0, 0.0)
    with pytest.raises(ConfigurationError, match="must be an ensemble filter like"):
        da.HybridFourDVar(var, var)
    with pytest.raises(ConfigurationError, match="must be a FourDVar with a covariance B"):
        da.HybridFourDVar(da.FourDVar(None), etkf)
    windows = da.split_windows(RECORD, 2, 4)
    with pytest.raises(ConfigurationError, match="HybridFourDVar draws random numbers here; give key="):
        da.cycle(da.HybridFourDVar(var, da.EnKF()), LINEAR, MEMBERS, windows, steps=2)
    with pytest.raises(ShapeError, match=r"HybridFourDVar: .* at least two members"):
        da.cycle(da.HybridFourDVar(var, etkf), LINEAR, MEMBERS[:1], windows, steps=2)
