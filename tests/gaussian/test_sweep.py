"""What every method that hands on a Gaussian must do."""

from __future__ import annotations

import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.core.errors import AssimilationWarning, ConfigurationError, ShapeError
from diffassim.gaussian import Gaussian
from tests.gaussian.zoo import CLIMATE, METHODS, NOISE, ROOT, belief, n, observed

ABSTRACT = {da.gaussian.GaussianMethod, da.gaussian.KalmanMethod, da.gaussian.StaticMethod}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
MODEL = da.models.Lorenz96(dt=0.05)
y = np.random.default_rng(1).normal(size=(1, n))


def test_every_exported_method_is_listed():
    exported = {
        thing
        for name in da.gaussian.__all__
        if inspect.isclass(thing := getattr(da.gaussian, name)) and issubclass(thing, da.gaussian.GaussianMethod)
    }
    assert exported - ABSTRACT == {type(method) for method in METHODS.values()}


@every_method
def test_without_observations_the_posterior_is_the_prior_bit_by_bit(method):
    prior = method.init(belief())
    for nothing in (observed(np.full((1, n), np.nan)), observed(y, mask=False)):
        posterior, info = method.analyze(None, prior, nothing)
        chex.assert_trees_all_equal(posterior, prior)
        assert (
            info.count == 0 and info.chi_square == 0 and info.log_likelihood == 0 and info.result == da.Result.CONVERGED
        )


@every_method
def test_missing_observations_are_the_same_as_removed_ones(method):
    keep = np.array([0, 2, 3])
    wrong = jnp.where(jnp.isin(jnp.arange(n), keep), y, jnp.nan)

    @jax.jit
    @jax.value_and_grad
    def score(theta, unused):
        prior = belief()
        prior = prior.replace(mean=prior.mean + theta["mean"], columns=prior.columns * theta["scale"])
        error = da.covariances.Diagonal(std=theta["std"])
        if unused is None:
            record = observed(y[:, keep], operator=da.observations.Subset(keep), error=error)
        else:
            record = observed(unused, error=error)
        posterior, info = method.analyze(None, prior, record)
        told = info.chi_square + info.analysis_spread + info.log_likelihood
        return jnp.sum(posterior.mean**3) + jnp.sum(posterior.spread()) + told

    theta = {"mean": 0.1, "scale": 1.2, "std": 0.7}
    chex.assert_trees_all_close(score(theta, wrong), score(theta, None), rtol=1e-9, atol=1e-11)


@every_method
@pytest.mark.slow
def test_the_derivative_through_a_cycle_equals_central_differences(method):
    values = np.random.default_rng(6).normal(size=(3, n)) + 2.0

    def error(theta):
        changes = {name: theta[name] for name in ("inflation", "scale") if hasattr(method, name)}
        if getattr(method, "Q", None) is not None:
            changes["Q"] = da.covariances.Diagonal(std=theta["Q"])
        start = belief().replace(mean=belief().mean + theta["mean"])
        record = da.Observations(values, [0, 2, 3], error=da.covariances.Diagonal(std=theta["R"]))
        _, history = da.cycle(method.replace(**changes), MODEL.replace(forcing=theta["forcing"]), start, record)
        return (
            jnp.mean(history.analysis.mean**2)
            + jnp.mean(history.analysis.spread)
            + jnp.mean(history.info.chi_square)
            + history.log_likelihood
        )

    theta = {"inflation": 1.1, "scale": 0.7, "Q": 0.3, "R": 0.8, "forcing": 8.0, "mean": 0.0}
    error = jax.jit(error)
    # Departures of narrow points lose two digits to rounding: fourth-order differences over a longer way.
    gradient, h = jax.jit(jax.grad(error))(theta), 1e-3
    assert sum(float(g != 0) for g in gradient.values()) >= 1
    for name, value in theta.items():
        ends = [error(theta | {name: value + s * h}) for s in (-2, -1, 1, 2)]
        difference = (ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / (12 * h)
        np.testing.assert_allclose(gradient[name], difference, rtol=1e-6, atol=1e-8, err_msg=name)


@every_method
def test_single_precision_stays_and_agrees(method):
    method32 = jax.tree.map(lambda leaf: jnp.asarray(leaf, np.float32), method)
    double, _ = method.analyze(None, belief(), observed(y))
    single, info = method32.analyze(None, belief(np.float32), observed(y.astype(np.float32)))
    assert single.mean.dtype == single.columns.dtype == info.chi_square.dtype == info.log_likelihood.dtype == np.float32
    # Departures of narrow points keep alpha of the digits.
    np.testing.assert_allclose(single.mean, double.mean, atol=2e-5 if getattr(method, "alpha", 1.0) == 1.0 else 2e-3)


@pytest.mark.parametrize("method", [METHODS[k] for k in ("EKF with model error", "UKF", "3D-Var")])
@pytest.mark.slow
def test_a_resumed_cycle_has_the_same_bits_and_experiments_are_a_batch(method):
    values = np.random.default_rng(6).normal(size=(5, n)) + 2.0
    times = da.analysis_times(da.Observations(values, [1, 2, 4, 5, 6], error=da.covariances.Diagonal(std=1.0)))
    last, _ = da.cycle(method, MODEL, belief(), times, start=7)
    middle, first = da.cycle(method, MODEL, belief(), times[:2], start=7)
    end, _ = da.cycle(method, MODEL, middle, times[2:], start=first.step[-1])
    chex.assert_trees_all_equal(end, last)
    starts = jax.tree.map(lambda a, b: jnp.stack([a, b]), belief(), belief(scale=0.5))
    batch, _ = jax.vmap(lambda start: da.cycle(method, MODEL, start, times, start=7))(starts)
    np.testing.assert_allclose(batch.mean[0], last.mean, rtol=1e-9)


def test_a_state_of_parts_is_analysed_as_the_whole():
    parts = Gaussian(
        {"a": belief().mean[:2], "b": belief().mean[2:]}, {"a": jnp.asarray(ROOT[:, :2]), "b": jnp.asarray(ROOT[:, 2:])}
    )
    for method in (da.EKF(Q=NOISE), da.UKF()):
        whole, _ = method.analyze(None, belief(), observed(y))
        join = lambda x, where=None: jnp.concatenate([x["a"], x["b"]])  # noqa: E731
        split, _ = method.analyze(None, parts, observed(y, operator=join))
        np.testing.assert_allclose(join(split.mean), whole.mean, rtol=1e-12)
        np.testing.assert_allclose(split.covariance(), whole.covariance(), rtol=1e-11, atol=1e-13)


@pytest.mark.slow
def test_a_singular_covariance_is_allowed():
    matrix = np.diag([1.0, 0, 2, 0, 0, 3])
    known = Gaussian(jnp.zeros(n), jnp.asarray(np.sqrt(matrix)))

    def spread(s, method):
        prior = known.replace(columns=s * known.columns)
        return jnp.sum(method.analyze(None, prior, observed(y))[0].spread())

    for method in (da.EKF(), da.UKF()):
        posterior, info = method.analyze(None, known, observed(y))
        assert info.result == da.Result.CONVERGED and np.all(np.asarray(posterior.mean)[[1, 3, 4]] == 0)
        assert np.isfinite(jax.grad(spread)(1.0, method))


def test_the_unscented_transform_has_the_moments_of_a_square():
    # x^2 of N(m, s^2) has mean m^2 + s^2 and variance 2 s^4 + 4 m^2 s^2; so for every alpha with beta = 2, kappa = 0.
    square = da.models.FunctionModel(lambda x, t: x**2)
    nothing = da.Observations(jnp.full((1, 1), jnp.nan), [1], error=da.covariances.Diagonal(std=1.0))
    start = Gaussian(jnp.array([1.5]), jnp.array([[0.7]]))
    for alpha in (1.0, 0.3, 1e-3):
        found, _ = da.cycle(da.UKF(alpha=alpha), square, start, nothing)
        np.testing.assert_allclose(found.mean, 1.5**2 + 0.7**2, rtol=1e-9)
        np.testing.assert_allclose(found.covariance(), [[2 * 0.7**4 + 4 * 1.5**2 * 0.7**2]], rtol=1e-8)


def test_samples_give_their_moments():
    x = np.random.default_rng(0).normal(size=(50, n)) @ ROOT
    found = Gaussian.from_samples(x)
    np.testing.assert_allclose(found.covariance(), np.cov(x.T), atol=1e-13)
    total = Gaussian.from_covariance(jnp.zeros(n), 0.5 * NOISE + NOISE)  # its control vector is twice as long
    np.testing.assert_allclose(total.covariance(), 1.5 * 0.09 * np.eye(n), atol=1e-14)
    np.testing.assert_array_equal(Gaussian.from_covariance(jnp.zeros(n), da.covariances.Zero()).covariance(), 0)


@every_method
def test_what_is_not_finite_is_reported(method):
    broken = belief().replace(mean=belief().mean.at[0].set(jnp.nan))
    record = da.Observations(np.repeat(y, 2, 0), [1, 2], error=da.covariances.Diagonal(std=1.0))
    if isinstance(method, da.gaussian.KalmanMethod):
        with pytest.warns(AssimilationWarning, match="not finite from the analysis at step 1"):
            _, history = da.cycle(method, MODEL, broken, record)
        assert history.info.result.tolist() == [da.Result.DIVERGED] * 2 and history.info.non_finite[0] == 1


def test_bad_input_is_named():
    with pytest.raises(ConfigurationError, match="EKF: the belief is a Gaussian, found"):
        da.EKF().analyze(None, jnp.ones((5, n)), observed(y))
    with pytest.raises(ShapeError, match="6 columns are needed for 6 components of the state, found 2"):
        da.UKF().init(Gaussian(jnp.zeros(n), jnp.ones((2, n))))
    with pytest.raises(ShapeError, match="columns must be states with a leading axis"):
        da.EKF().init(Gaussian(jnp.zeros(n), jnp.ones((2, n + 1))))
    whole = da.EKF().init(Gaussian(jnp.zeros(n, int), jnp.ones((2, n), int)))
    assert {leaf.dtype for leaf in jax.tree.leaves(whole)} == {jnp.dtype(float)}
    with pytest.raises(ShapeError, match="at least two samples"):
        Gaussian.from_samples(jnp.ones((1, n)))
    for wrong in (0.0, -1.0, np.nan):
        with pytest.raises(ConfigurationError, match="inflation must be finite and positive"):
            da.EKF(inflation=wrong)
        with pytest.raises(ConfigurationError, match="scale must be finite and positive"):
            da.gaussian.CycledThreeDVar(CLIMATE, scale=wrong)
    with pytest.raises(ConfigurationError, match=r"beta = 0.5 must be at least alpha\^2 = 1"):
        da.UKF(beta=0.5)
    with pytest.raises(ConfigurationError, match="kappa must be positive"):
        da.UKF(kappa=-7.0).init(belief())
    with pytest.raises(ConfigurationError, match="the climatology is a Gaussian, found"):
        da.gaussian.Climatology(jnp.ones((5, n)))
    with pytest.raises(ShapeError, match="but the climatology"):
        da.gaussian.Climatology(CLIMATE).init(jnp.ones(3))
    with pytest.raises(ConfigurationError, match="the loss Huber"):
        da.EKF().analyze(None, belief(), observed(y).replace(loss=da.observations.Huber()))
    _, history = da.cycle(da.EKF(), MODEL, belief(), observed(y))
    with pytest.raises(ConfigurationError, match="members=True"):
        da.smooth(da.EKF(), MODEL, history)
    with pytest.raises(ConfigurationError, match="or an ensemble filter, found ParticleFilter"):
        da.smooth(da.ParticleFilter(), MODEL, history)
