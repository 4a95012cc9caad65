"""Ensemble smoothers: closed forms, agreement with each other and with filters, cycles over windows, bad input."""

from __future__ import annotations

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.core.errors import AssimilationWarning, ConfigurationError, ShapeError
from diffassim.core.pytree import Pytree
from diffassim.ensemble import Lagged
from diffassim.methods import EnsembleWindowMethod
from tests.ensemble.zoo import WINDOW_METHODS

RNG = np.random.default_rng(0)
n, N, STEPS = 3, 6, 5
M = np.linalg.qr(RNG.normal(size=(n, n)))[0] * 1.05
POWERS = np.stack([np.linalg.matrix_power(M, k) for k in range(STEPS + 1)])
MODEL = da.models.FunctionModel(lambda x, t: x @ jnp.asarray(M.T))
H = RNG.normal(size=(2, n))
R = da.covariances.Diagonal(std=0.7)
ENSEMBLE = jnp.asarray(RNG.normal(size=(N, n)))
VALUES = RNG.normal(size=(STEPS + 1, 2)) * 2
# The initial time has a row without a value, so that smoothers reach it.
RECORD = da.Observations(
    np.where(np.arange(STEPS + 1)[:, None] > 0, VALUES, np.nan),
    np.arange(STEPS + 1), operator=da.observations.Linear(H), error=R,
)  # fmt: skip
KEY = jax.random.key(1)
every_method = pytest.mark.parametrize("entry", WINDOW_METHODS, ids=lambda entry: entry.name)
# Derivatives of the others take a minute to compile.
first_method = pytest.mark.parametrize(
    "entry",
    [
        pytest.param(entry, id=entry.name, marks=[pytest.mark.slow] if k else [])
        for k, entry in enumerate(WINDOW_METHODS)
    ],
)


def closed_form(weights):
    """Return mean and covariance at all times given values k + 1 with the given weights of their precision."""
    weights = np.asarray(weights, float)
    G = np.concatenate([H @ POWERS[k + 1] for k in range(len(weights))])
    x, P = np.mean(ENSEMBLE, 0), np.cov(ENSEMBLE.T)
    precision = np.repeat(weights, 2) / 0.49
    P_a = np.linalg.inv(np.linalg.inv(P) + G.T @ (precision[:, None] * G))
    x_a = x + P_a @ G.T @ (precision * (VALUES[1 : len(weights) + 1].ravel() - G @ x))
    return POWERS @ x_a, POWERS @ P_a @ POWERS.swapaxes(1, 2)


def assert_moments(members, mean, covariance, atol=1e-10):
    np.testing.assert_allclose(np.mean(members, 1), mean, atol=atol)
    np.testing.assert_allclose([np.cov(e.T) for e in np.asarray(members)], covariance, atol=atol)


def run_window(method, record, ensemble=ENSEMBLE):
    """Analyse one window; the same shapes everywhere, so that each method is compiled once."""
    rows = range(STEPS + 1)
    return da.cycle(method, MODEL, ensemble, windows_of(record), steps=STEPS, at=rows, members=True, key=KEY)


def windows_of(record, steps=STEPS, count=1, **options):
    return da.split_windows(record, steps, count, **options)


@pytest.fixture(scope="module")
def filtered():
    return da.cycle(da.ETKF(), MODEL, ENSEMBLE, RECORD, members=True)[1]


@pytest.mark.slow
def test_the_smoothers_of_a_record_are_the_kalman_smoother(filtered):
    mean, covariance = closed_form(np.ones(STEPS))
    smoothed = da.smooth(da.ETKF(), MODEL, filtered)
    assert_moments(smoothed, mean, covariance)
    _, history = da.cycle(da.EnKS(da.ETKF(), lag=STEPS), MODEL, ENSEMBLE, RECORD, members=True)
    rows = jnp.swapaxes(history.members.members[-1], 0, 1)[::-1]
    assert_moments(rows, mean, covariance)
    np.testing.assert_allclose(rows, smoothed, atol=1e-10)  # member by member
    assert np.array_equal(smoothed[-1], filtered.members[-1])
    np.testing.assert_allclose(history.analysis.mean[:, 0], filtered.analysis.mean, atol=1e-13)
    np.testing.assert_allclose(history.analysis.spread[:, 0], filtered.analysis.spread, atol=1e-13)


@pytest.mark.slow
def test_few_members_are_smoothed_the_same_way_by_both():
    few = jnp.asarray(RNG.normal(size=(n, n)))  # N - 1 < n
    _, history = da.cycle(da.ETKF(), MODEL, few, RECORD, members=True)
    _, lagged = da.cycle(da.EnKS(da.ETKF(), lag=STEPS), MODEL, few, RECORD, members=True)
    smoothed = da.smooth(da.ETKF(), MODEL, history)
    np.testing.assert_allclose(jnp.swapaxes(lagged.members.members[-1], 0, 1)[::-1], smoothed, atol=1e-9)


@pytest.mark.slow
def test_a_fixed_lag_knows_the_observations_until_now_and_goes_on_with_the_same_bits():
    times, method = da.analysis_times(RECORD), da.EnKS(da.ETKF(rotation=True), lag=2)
    last, history = da.cycle(method, MODEL, ENSEMBLE, times, key=KEY)
    for k in range(2, STEPS + 1):
        expected = closed_form(np.ones(k))[0][k - 2 : k + 1][::-1]
        np.testing.assert_allclose(history.analysis.mean[k], expected, atol=1e-10)
    middle, first = da.cycle(method, MODEL, ENSEMBLE, times[:3], key=KEY)
    end, _ = da.cycle(method, MODEL, middle, times[3:], key=KEY, start=first.step[-1])
    assert np.array_equal(end.members, last.members)


@pytest.mark.slow
def test_a_local_smoother_of_infinite_radius_is_the_global_one_and_the_past_is_not_inflated():
    record = RECORD.replace(operator=da.observations.Subset(jnp.array([0, 2])))
    local = da.LETKF(1.2, localization=da.ensemble.GaspariCohn(1e9))
    (_, a), (_, b) = (da.cycle(da.EnKS(f, lag=2), MODEL, ENSEMBLE, record) for f in (local, da.ETKF(1.2)))
    chex.assert_trees_all_close(a.analysis, b.analysis, atol=1e-10)
    _, plain = da.cycle(da.EnKS(da.ETKF(), lag=2), MODEL, ENSEMBLE, record)
    ratio = b.analysis.spread[1] / plain.analysis.spread[1]
    np.testing.assert_allclose(ratio[0], 1.2, rtol=1e-10)
    np.testing.assert_allclose(ratio[1:], 1.0, rtol=1e-10)


@every_method
def test_a_window_is_analysed_as_by_the_kalman_smoother(entry):
    ensemble, history = run_window(entry.method, RECORD)
    assert history.info.result == da.Result.CONVERGED and history.info.count == 2 * STEPS
    assert np.array_equal(history.members[0, -1], ensemble)
    if entry.kalman:
        assert_moments(history.members[0], *closed_form(np.ones(STEPS)))
    forecast = np.einsum("kij,mj->kmi", POWERS, ENSEMBLE)
    np.testing.assert_allclose(history.background.mean[0], forecast.mean(1), atol=1e-12)
    np.testing.assert_allclose(history.analysis.mean[0], history.members[0].mean(1), atol=1e-13)
    np.testing.assert_allclose(history.analysis.spread[0], history.members[0].std(1, ddof=1), atol=1e-13)


@pytest.mark.slow
def test_at_the_end_of_a_window_asynchronous_and_iterative_methods_are_the_filter():
    times = jnp.arange(1, STEPS + 1)
    record = RECORD.replace(values=RECORD.values[1:], mask=RECORD.mask[1:], steps=times)
    _, expected = da.cycle(da.ETKF(1.1), MODEL, ENSEMBLE, record, members=True)
    windows = windows_of(record, 1, STEPS)
    for method in (da.AsynchronousFilter(da.ETKF(1.1)), da.IEnKS(1.1, max_iterations=1)):
        _, history = da.cycle(method, MODEL, ENSEMBLE, windows, steps=1, at=[1], members=True)
        np.testing.assert_allclose(history.members[:, 0], expected.members, atol=1e-12)


def test_overlapping_windows_use_each_observation_once_or_by_its_weights():
    method = da.IEnKS(max_iterations=1)
    # One after the other: the end of each window is the Kalman filter.
    windows = windows_of(RECORD, 3, STEPS - 2, shift=1)
    _, once = da.cycle(method, MODEL, ENSEMBLE, windows, steps=3, shift=1)
    for w in range(STEPS - 2):
        mean, _ = closed_form(np.ones(w + 3))
        np.testing.assert_allclose(once.analysis.mean[w], mean[np.array([w, w + 3])], atol=1e-10)
    # Several times, a third each: the weights add up over the windows.
    weak = RECORD.replace(error=da.covariances.Diagonal(std=0.7 * 3**0.5))
    windows = windows_of(weak, 3, STEPS - 2, shift=1, reuse=True)
    _, multiple = da.cycle(method, MODEL, ENSEMBLE, windows, steps=3, shift=1)
    assert np.all(multiple.info.result == da.Result.MAX_ITERATIONS) and np.all(multiple.info.iterations == 1)
    mean, _ = closed_form(np.array([1, 2, 3, 2, 1]) / 3)
    np.testing.assert_allclose(multiple.analysis.mean[-1], mean[np.array([2, 5])], atol=1e-10)


class Quadratic(Pytree):
    """A cheap nonlinear model."""

    factor: object = 0.1

    def step(self, x, t):
        return x + self.factor * (x[::-1] ** 2 - 2 * x)


@pytest.mark.slow
def test_the_bundle_finds_the_minimum_of_4d_var():
    record = da.Observations(VALUES[:, :1] / 2, np.arange(STEPS + 1), operator=da.observations.Linear(H[:1]), error=R)
    method = da.IEnKS(bundle=1e-7, tolerance=1e-8, max_iterations=30)
    _, history = da.cycle(method, Quadratic(), ENSEMBLE, windows_of(record), steps=STEPS)
    B = da.covariances.Dense.from_matrix(jnp.cov(ENSEMBLE.T))
    cost = da.StrongConstraint4DVar(Quadratic(), ENSEMBLE.mean(0), B, record, steps=STEPS)
    solution = da.minimize(cost, da.GaussNewton(tolerance=1e-10))
    assert history.info.iterations > 2  # not linear
    assert history.info.result == da.Result.CONVERGED
    np.testing.assert_allclose(history.analysis.mean[0, 0], solution.state, atol=1e-6)


@first_method
@pytest.mark.slow
def test_the_gradient_through_windows_equals_central_differences(entry):
    def loss(theta):
        record = RECORD.replace(values=RECORD.values + theta["values"], error=da.covariances.Diagonal(std=theta["R"]))
        _, history = da.cycle(
            entry.method, Quadratic(theta["model"]), ENSEMBLE * theta["ensemble"],
            windows_of(record, 3, 3, shift=1), steps=3, shift=1, key=KEY,
        )  # fmt: skip
        return jnp.mean(jnp.sin(history.analysis.mean)) + jnp.mean(history.analysis.spread)

    theta = {"values": 0.0, "R": 0.7, "model": 0.1, "ensemble": 1.0}
    direction = {"values": 1.0, "R": 0.3, "model": 0.1, "ensemble": 0.1}
    derivative = jax.jit(jax.value_and_grad(loss))
    gradient = derivative(theta)[1]
    h = 1e-4 if entry.name == "IEnKS, bundle" else 1e-5
    ends = [derivative({k: theta[k] + s * h * direction[k] for k in theta})[0] for s in (-2, -1, 1, 2)]
    difference = (ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / (12 * h)
    np.testing.assert_allclose(sum(gradient[k] * direction[k] for k in theta), difference, rtol=1e-6, atol=1e-8)


@every_method
def test_windows_without_observations_hand_on_the_prior_bit_by_bit(entry):
    _, history = run_window(entry.method, RECORD.replace(mask=False))
    assert np.array_equal(history.members[0, 0], ENSEMBLE)
    chex.assert_trees_all_equal(history.analysis, history.background)
    assert np.all(history.info.count == 0) and np.all(history.info.result == da.Result.CONVERGED)
    wrong = RECORD.replace(values=jnp.where(RECORD.mask, RECORD.values, 1e6))
    assert np.array_equal(run_window(entry.method, wrong)[0], run_window(entry.method, RECORD)[0])


@pytest.mark.slow
@every_method
def test_single_precision_stays_and_agrees(entry):
    method = entry.method if getattr(entry.method, "bundle", None) is None else entry.method.replace(bundle=1e-2)
    if hasattr(method, "rotation"):
        method = method.replace(rotation=False)
    to = functools.partial(jax.tree.map, lambda leaf: leaf.astype(np.float32) if leaf.dtype == float else leaf)
    single_model = da.models.FunctionModel(lambda x, t: x @ jnp.asarray(M.T, np.float32))
    double, _ = da.cycle(method, MODEL, ENSEMBLE, windows_of(RECORD), steps=STEPS)
    single, history = da.cycle(method, single_model, to(ENSEMBLE), to(windows_of(RECORD)), steps=STEPS)
    assert single.dtype == history.analysis.spread.dtype == history.info.chi_square.dtype == np.float32
    np.testing.assert_allclose(single, double, atol=2e-4)


@pytest.mark.slow
def test_a_resumed_cycle_has_the_same_bits():
    method, windows = da.IEnKS(1.05, rotation=True), windows_of(RECORD, 2, 4, shift=1)
    last, whole = da.cycle(method, MODEL, ENSEMBLE, windows, steps=2, shift=1, key=KEY, start=7)
    first, second = (jax.tree.map(lambda leaf, s=s: leaf[s], windows) for s in (slice(0, 2), slice(2, 4)))
    middle, a = da.cycle(method, MODEL, ENSEMBLE, first, steps=2, shift=1, key=KEY, start=7)
    end, b = da.cycle(method, MODEL, middle, second, steps=2, shift=1, key=KEY, start=9)
    assert np.array_equal(end, last)
    chex.assert_trees_all_equal(jax.tree.map(lambda x, y: np.concatenate([x, y]), a, b), whole)


def test_every_exported_window_method_is_listed():
    exported = {thing for thing in vars(da.ensemble).values() if inspect.isclass(thing)}
    found = {thing for thing in exported if issubclass(thing, EnsembleWindowMethod)} - {EnsembleWindowMethod}
    assert found == {type(entry.method) for entry in WINDOW_METHODS}


@every_method
def test_what_goes_wrong_inside_is_a_code(entry):
    with pytest.warns(AssimilationWarning, match="from the analysis at step 0 on"):
        _, history = run_window(entry.method, RECORD, ENSEMBLE.at[2, 0].set(jnp.nan))
    assert history.info.non_finite == 1 and history.info.result == da.Result.DIVERGED
    same = jnp.ones_like(ENSEMBLE)
    end, history = run_window(entry.method, RECORD, same)
    np.testing.assert_allclose(end, same @ POWERS[-1].T, atol=1e-12)
    assert history.info.result == da.Result.CONVERGED


def test_bad_input_is_named():
    windows = windows_of(RECORD, 2, 2)
    run = functools.partial(da.cycle, model=MODEL, background=ENSEMBLE, observations=windows)
    with pytest.raises(ConfigurationError, match="steps=0 must have at least one step"):
        run(da.IEnKS(), steps=0)
    with pytest.raises(ConfigurationError, match="shift=3 must lie between 1 and the window's 2 steps"):
        run(da.IEnKS(), steps=2, shift=3)
    with pytest.raises(ShapeError, match="use split_windows"):
        run(da.IEnKS(), observations=RECORD, steps=5)
    with pytest.raises(ShapeError, match="steps up to 2 are not cut into windows of 1 steps"):
        run(da.IEnKS(), steps=1)
    with pytest.raises(ShapeError, match="at least two members"):
        run(da.IEnKS(), background=ENSEMBLE[:1], steps=2)
    for method in (da.IEnKS(rotation=True), da.AsynchronousFilter(da.EnKF())):
        with pytest.raises(ConfigurationError, match="draws random numbers"):
            run(method, steps=2)
    for options in ({"tolerance": 0.0}, {"bundle": -1.0}, {"finite_size": 0.0}, {"max_iterations": 0}):
        with pytest.raises(ConfigurationError, match=next(iter(options))):
            da.IEnKS(**options)
    for build in (da.EnKS, da.AsynchronousFilter):
        with pytest.raises(ConfigurationError, match="must be an ensemble filter"):
            build(da.EKF())
    with pytest.raises(ConfigurationError, match="lag=0 must be at least 1"):
        da.EnKS(da.ETKF(), lag=0)
    with pytest.raises(ShapeError, match="a lag of 2 needs 3 rows"):
        da.cycle(da.EnKS(da.ETKF(), lag=2), MODEL, Lagged(ENSEMBLE[:, None]), RECORD)
    with pytest.raises(ShapeError, match="at least two members"):
        da.cycle(da.EnKS(da.ETKF(), lag=2), MODEL, ENSEMBLE[:1], RECORD)
    with pytest.raises(ConfigurationError, match="history must be what cycle"):
        da.smooth(da.ETKF(), MODEL, ENSEMBLE)


@pytest.mark.slow
def test_a_step_after_which_nothing_is_finite_is_halved():
    record = da.Observations(
        jnp.log(jnp.array([[0.05]])), [1], operator=jnp.log, error=da.covariances.Diagonal(std=0.1)
    )
    still, prior = da.models.FunctionModel(lambda x, t: x), 1 + jnp.array([[-0.6], [-0.2], [0.2], [0.6]])
    for bundle in (1e-5, None):
        method = da.IEnKS(bundle=bundle, max_iterations=30, tolerance=1e-6)
        _, history = da.cycle(method, still, prior, windows_of(record, 1), steps=1)
        assert history.info.result == da.Result.CONVERGED and history.info.iterations > 4
        np.testing.assert_allclose(history.analysis.mean[0, 0], 0.05, rtol=0.1)


def test_a_step_that_raises_the_cost_is_shortened():
    # Newton's steps for an arctangent overshoot from |x| > 1.39, each further than the one before.
    still, y = da.models.FunctionModel(lambda x, t: x), jnp.array([[0.0]])
    obs = da.Observations(y, [0], lambda x: jnp.arctan(x), da.covariances.Diagonal(std=0.1))
    prior = 3 + 20.0 * jnp.array([[-1.0], [0.0], [1.0]])
    method = da.IEnKS(bundle=1e-5, tolerance=1e-5, max_iterations=40)
    _, posterior, info = method.analyze(None, still, prior, obs, 0, 1, [0])
    x = float(posterior.mean())
    cost = lambda x: 0.5 * (np.arctan(x) / 0.1) ** 2 + 0.5 * ((x - 3) / 20) ** 2  # noqa: E731
    best = min(np.linspace(-1, 1, 200_001), key=cost)
    assert info.result == da.Result.CONVERGED and abs(x - best) < 1e-4
    few = method.replace(max_iterations=2).analyze(None, still, prior, obs, 0, 1, [0])
    assert few[2].result == da.Result.MAX_ITERATIONS and cost(float(few[1].mean())) <= cost(3.0) * 1.001


def test_a_search_that_no_step_helps_says_so():
    # The observed value jumps: tangents promise what no step keeps.
    still = da.models.FunctionModel(lambda x, t: x)
    obs = da.Observations(
        jnp.array([[5.0]]), [0], lambda x: jnp.where(x > 0, x - 100.0, x), da.covariances.Diagonal(std=1.0)
    )
    prior = jnp.array([[-1.0], [0.0], [1.0]]) * 1e-3 - 0.1
    method = da.IEnKS(bundle=1e-6, tolerance=1e-4, max_iterations=60)
    wide = prior.mean(0, keepdims=True) + 1e4 * (prior - prior.mean(0, keepdims=True))
    _, posterior, info = method.analyze(None, still, wide, obs, 0, 1, [0])
    assert info.result == da.Result.STALLED and posterior.mean() < 0
