"""Particle filters: resampling, weights in closed form, the Monte-Carlo rate, collapse, bad input."""

from __future__ import annotations

import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.ensemble import Multinomial, Particles, Residual, Stratified, Systematic
from tests.ensemble.zoo import KEY, SITES, ensemble, observed, values

RESAMPLINGS = [Systematic(), Stratified(), Residual(), Multinomial()]
NOISE = da.covariances.Diagonal(std=0.5)
FILTERS = {
    "bootstrap": da.ParticleFilter(),
    "jittered": da.ParticleFilter(threshold=1.0, jitter=0.5),
    "optimal": da.OptimalParticleFilter(Q=NOISE),
    "optimal, kernels": da.OptimalParticleFilter(kernel=0.1),
    "kernels": da.ensemble.KernelParticleFilter(threshold=0.9, kernel=0.5, draws=8),
    "weights adjusted": da.ensemble.WeightAdjustedParticleFilter(threshold=1.0, jitter=0.5),
}
every_filter = pytest.mark.parametrize("method", FILTERS.values(), ids=FILTERS)
MODEL = da.models.FunctionModel(lambda x, t: 0.9 * jnp.roll(x, 1))


def test_every_exported_resampling_and_filter_is_listed():
    exported = {thing for thing in vars(da.ensemble).values() if inspect.isclass(thing)}
    base = da.ensemble.Resampling
    assert {t for t in exported if issubclass(t, base)} - {base} == {type(r) for r in RESAMPLINGS}
    assert {t for t in exported if issubclass(t, da.ParticleFilter)} == {type(f) for f in FILTERS.values()}


@pytest.mark.parametrize("resampling", RESAMPLINGS, ids=lambda r: type(r).__name__)
def test_particles_are_drawn_as_often_as_their_weights_say(resampling):
    N, draws = 12, 4000
    w = np.random.default_rng(0).gamma(0.5, size=N)
    w[[3, 11]] = 0
    w = jnp.asarray(w / w.sum())
    indices = np.asarray(jax.vmap(resampling, (0, None))(jax.random.split(KEY, draws), w))
    single = resampling(KEY, w.astype(np.float32))
    assert single.dtype == np.int32 and not np.isin([3, 11], single).any()
    w = np.asarray(w)
    assert np.all(np.diff(indices, axis=1) >= 0) and not np.isin([3, 11], indices).any()
    assert np.asarray(resampling(KEY, jnp.asarray(w), 5)).shape == (5,)
    copies = np.stack([np.bincount(row, minlength=N) for row in indices])
    bound = 4.5 * np.sqrt(N * w * (1 - w) / draws) + 1e-12  # that of independent draws; the others vary less
    assert np.all(np.abs(copies.mean(0) - N * w) <= bound), (copies.mean(0), N * w)
    if isinstance(resampling, Systematic):
        assert np.all(np.abs(copies - N * w) < 1)
    if isinstance(resampling, Stratified):
        assert np.all(np.abs(copies - N * w) < 2)
    if isinstance(resampling, Residual):
        assert np.all(copies >= np.floor(N * w + 1e-12))
    if isinstance(resampling, Multinomial):
        np.testing.assert_allclose(copies.var(0), N * w * (1 - w), rtol=0.15, atol=0.01)


def test_weights_are_the_likelihoods_and_add_up_over_time():
    E, y = ensemble(), values(rows=2)
    method = da.ParticleFilter(threshold=0.0)
    particles, info = method.analyze(None, E, observed(y))
    log_w = -0.5 * np.sum((y[:, None] - np.asarray(E)[None]) ** 2, (0, 2)) / 0.8**2
    w = np.exp(log_w - log_w.max())
    w /= w.sum()
    np.testing.assert_allclose(particles.weights, w, rtol=1e-12)
    np.testing.assert_allclose(info.effective_size, 1 / np.sum(w**2), rtol=1e-12)
    one, _ = method.analyze(None, E, observed(y[:1]))
    two, _ = method.analyze(None, one, observed(y[1:]))
    chex.assert_trees_all_close(two, particles, rtol=1e-12)
    np.testing.assert_allclose(particles.mean(), w @ np.asarray(E), rtol=1e-12)
    np.testing.assert_allclose(particles.spread(), np.cov(E.T, aweights=w).diagonal() ** 0.5, rtol=1e-11)
    assert info.resampled == 0 and info.result == da.Result.CONVERGED


@pytest.mark.slow
def test_the_optimal_proposal_is_its_closed_form():
    E = jnp.asarray(np.random.default_rng(3).normal(size=(3, 2)))
    H, y, R, Q = np.array([[1.0, 0.5]]), np.array([[1.2]]), 0.36, 0.25 * np.eye(2)
    obs = observed(y, std=0.6, operator=da.observations.Linear(H))
    method = da.OptimalParticleFilter(threshold=0.0, Q=NOISE)
    found = jax.vmap(lambda key: method.analyze(key, E, obs)[0])(jax.random.split(KEY, 20_000))
    S = (H @ Q @ H.T + R)[0, 0]
    w = np.exp(-0.5 * (y[0, 0] - E @ H[0]) ** 2 / S)
    np.testing.assert_allclose(found.weights[0], w / w.sum(), rtol=1e-12)
    K = Q @ H.T / S
    centers = np.asarray(E) + (y[0, 0] - np.asarray(E) @ H.T) @ K.T
    members = np.asarray(found.members)
    np.testing.assert_allclose(members.mean(0), centers, atol=5 * 0.5 / 20_000**0.5)
    np.testing.assert_allclose(np.cov(members[:, 0].T), Q - K @ H @ Q, atol=5 * 0.25 * (2 / 20_000) ** 0.5)


@pytest.mark.slow
def test_the_filters_approach_the_kalman_filter_at_the_monte_carlo_rate():
    n, times = 2, 4
    y = np.random.default_rng(5).normal(size=(times, n))
    obs = da.Observations(y, np.arange(1, times + 1), error=da.covariances.Diagonal(std=0.7))
    start = da.gaussian.Gaussian(jnp.zeros(n), jnp.eye(n))
    exact, _ = da.cycle(da.EKF(Q=NOISE), MODEL, start, obs)
    repetitions, sizes = 48, (40, 640)
    scale = {}
    for method in (da.ParticleFilter(Q=NOISE), da.OptimalParticleFilter(Q=NOISE)):
        errors = []
        for N in sizes:
            draws = jnp.asarray(np.random.default_rng(N).normal(size=(repetitions, N, n)))
            run = jax.vmap(lambda key, E: da.cycle(method, MODEL, E, obs, key=key)[0].mean())  # noqa: B023
            found = run(jax.random.split(KEY, repetitions), draws)
            errors.append(float(np.sqrt(np.mean((found - exact.mean[None]) ** 2))))
        slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
        # 96 numbers for each size: the error of the slope is about .04.
        assert abs(slope + 0.5) < 0.12, (slope, errors)
        scale[type(method)] = errors[-1]
    assert scale[da.OptimalParticleFilter] < scale[da.ParticleFilter]  # what it is for


@every_filter
@pytest.mark.slow
def test_missing_observations_are_the_same_as_removed_ones(method):
    E, y, keep = ensemble(members=20), values(), np.array([0, 2, 3])
    masked = np.where(np.isin(np.arange(SITES), keep), y, np.nan)
    found, _ = method.analyze(KEY, E, observed(masked))
    removed, _ = method.analyze(KEY, E, observed(y[:, keep], operator=da.observations.Subset(keep)))
    chex.assert_trees_all_close(found, removed, rtol=1e-10)
    nothing, info = method.analyze(KEY, E, observed(y, mask=False))
    if not method.draws_model_error:
        assert np.array_equal(nothing.members, E)
    np.testing.assert_allclose(nothing.weights, 1 / 20, rtol=1e-12)
    assert info.count == 0 and info.chi_square == 0 and info.resampled == 0 and info.result == da.Result.CONVERGED


@every_filter
@pytest.mark.slow
def test_the_derivative_for_fixed_draws_equals_central_differences(method):
    y = values()
    direction = jnp.asarray(np.random.default_rng(3).normal(size=(20, SITES)))

    @jax.jit
    def loss(s):
        posterior, info = method.analyze(KEY, ensemble(members=20) + s * direction, observed(y + 0.3 * s, 2 + 0.2 * s))
        return jnp.sum(posterior.mean() ** 2) + info.effective_size + info.analysis_spread + info.chi_square

    h = 1e-6  # no particle changes over such a way
    np.testing.assert_allclose(jax.grad(loss)(0.0), (loss(h) - loss(-h)) / (2 * h), rtol=1e-6)


@every_filter
@pytest.mark.slow
def test_the_analysis_of_a_cycle_is_that_before_resampling(method):
    start, error = ensemble(members=20), da.covariances.Diagonal(std=2.0)
    record = da.Observations(values(rows=1), [0], error=error)
    always = method.replace(threshold=1.0)
    drawn, history = da.cycle(always, MODEL, start, record, key=KEY)
    never, _ = da.cycle(always.replace(threshold=0.0), MODEL, start, record, key=KEY)
    kept = history.analysis
    np.testing.assert_allclose(kept.mean[0], never.mean(), rtol=1e-12)
    np.testing.assert_allclose(kept.spread[0], never.spread(), rtol=1e-12)
    assert np.abs(drawn.mean() - kept.mean[0]).max() > 1e-3 and history.info.weighted is None


@every_filter
@pytest.mark.slow
def test_a_resumed_cycle_has_the_same_bits(method):
    times = da.analysis_times(da.Observations(values(rows=5), [1, 2, 4, 5, 6], error=da.covariances.Diagonal(std=2.0)))
    start = ensemble(members=20)
    last, whole = da.cycle(method, MODEL, start, times, key=KEY)
    middle, first = da.cycle(method, MODEL, start, times[:2], key=KEY)
    end, _ = da.cycle(method, MODEL, middle, times[2:], key=KEY, start=first.step[-1])
    chex.assert_trees_all_equal(end, last)
    assert whole.analysis.mean.shape == (5, SITES) and np.all(whole.info.result == da.Result.CONVERGED)
    single = da.Observations(values(dtype=np.float32), [1], error=da.covariances.Diagonal(std=2.0))
    found, _ = method.analyze(KEY, start.astype(np.float32), single)
    assert found.members.dtype == found.log_weights.dtype == np.float32


@pytest.mark.slow
def test_jitter_moves_copies_and_keeps_the_first():
    E = jnp.asarray(np.random.default_rng(0).normal(size=(500, 2)))
    y = observed(np.array([[0.5, 0.0]]), std=0.7)
    plain, _ = da.ParticleFilter(threshold=1.0).analyze(KEY, E, y)
    moved, info = da.ParticleFilter(threshold=1.0, jitter=0.3).analyze(KEY, E, y)
    assert info.resampled == 1 and len(np.unique(plain.members, axis=0)) < 300
    assert len(np.unique(moved.members, axis=0)) == 500
    kept = np.all(np.asarray(moved.members) == np.asarray(plain.members), axis=1)
    assert kept.sum() == len(np.unique(plain.members, axis=0))
    weighted, _ = da.ParticleFilter(threshold=0.0).analyze(None, E, y)
    width = 0.3 * 500 ** (-1 / 6) * np.asarray(weighted.spread())
    np.testing.assert_allclose(np.std((moved.members - plain.members)[~kept], axis=0), width, rtol=0.15)


@every_filter
def test_collapse_and_dead_particles_are_reported(method):
    E = ensemble(members=20)
    _, info = method.analyze(KEY, E, observed(np.asarray(E[3:4]) + 9.0, std=0.02))
    assert info.result == da.Result.COLLAPSED and info.effective_size < 1.1
    broken = E.at[2, 3].set(jnp.nan).at[4, 0].set(jnp.inf)
    posterior, info = method.analyze(KEY, broken, observed(values(), std=3.0))
    assert info.non_finite == 2 and info.result == da.Result.CONVERGED and np.isfinite(posterior.mean()).all()
    _, info = method.analyze(KEY, E * jnp.nan, observed(values()))
    assert info.non_finite == 20 and info.result == da.Result.DIVERGED


def test_bad_input_is_named():
    y = observed(values())
    with pytest.raises(ConfigurationError, match="key="):
        da.ParticleFilter().analyze(None, ensemble(), y)
    with pytest.raises(ConfigurationError, match=r"threshold must be in \[0, 1\]"):
        da.ParticleFilter(threshold=1.5)
    with pytest.raises(ConfigurationError, match="jitter must be finite and positive"):
        da.ParticleFilter(jitter=0.0)
    with pytest.raises(ConfigurationError, match="give Q"):
        da.OptimalParticleFilter()
    with pytest.raises(ShapeError, match="at least two members"):
        da.ParticleFilter().analyze(KEY, ensemble(members=1), y)
    with pytest.raises(ShapeError, match="all 6 particles have weight zero"):
        da.ParticleFilter().analyze(KEY, Particles(ensemble(), jnp.full(6, -jnp.inf)), y)
    with pytest.raises(ShapeError, match="one log weight for each of 6 members"):
        da.ParticleFilter().analyze(KEY, Particles(ensemble(), jnp.zeros(5)), y)
    with pytest.raises(ConfigurationError, match="kernel must be finite and positive"):
        da.OptimalParticleFilter(kernel=-1.0)
    with pytest.raises(ConfigurationError, match="leave jitter out"):
        da.ensemble.KernelParticleFilter(jitter=1.0)
    with pytest.raises(ConfigurationError, match="draws=0 must be at least 1"):
        da.ensemble.KernelParticleFilter(draws=0)
    with pytest.raises(ConfigurationError, match=r"alpha must be in \(0, 1\]"):
        da.ensemble.WeightAdjustedParticleFilter(alpha=0.0)


def test_kernels_have_the_posterior_of_their_mixture():
    # One variable, kernels h^2 P around 40 particles: the posterior of the mixture in closed form.
    E, y, R, h = np.random.default_rng(1).normal(size=(40, 1)), 1.5, 0.25, 0.8 * 40 ** (-1 / 5)
    K = h**2 * np.var(E, ddof=1)
    w = np.exp(-0.5 * (y - E[:, 0]) ** 2 / (K + R))
    mean = np.sum(w * (E[:, 0] + K / (K + R) * (y - E[:, 0]))) / w.sum()
    obs = observed(np.array([[y]]), std=R**0.5)
    for method in (
        da.ensemble.KernelParticleFilter(threshold=1.0, kernel=0.8, draws=20), da.OptimalParticleFilter(kernel=0.8),
    ):  # fmt: skip
        run = jax.jit(jax.vmap(lambda key, method=method: method.analyze(key, E, obs)[0].mean()[0]))
        found = np.asarray(run(jax.random.split(KEY, 200)))
        # The mean of ratios of weights has a bias of the order of one over the number of draws.
        assert abs(found.mean() - mean) < 4 * found.std() / 200**0.5 + 0.01, (found.mean(), mean)
    posterior, _ = da.ensemble.KernelParticleFilter(threshold=1.0, kernel=0.8, draws=20).analyze(KEY, E, obs)
    assert len(np.unique(posterior.members)) == 40


def test_adjusted_weights_keep_the_share_that_was_asked_for():
    E, obs = jnp.asarray(np.random.default_rng(1).normal(size=(50, 1))), observed(np.array([[2.0]]), std=0.1)
    log_w = -0.5 * (2.0 - np.asarray(E)[:, 0]) ** 2 / 0.01

    def effective(r):
        w = np.exp(r * (log_w - log_w.max()))
        return w.sum() ** 2 / (w**2).sum()

    powers = np.linspace(0, 1, 100_001)
    r = powers[[effective(p) >= 0.6 * 50 for p in powers[::100]].index(False) * 100 - 100]
    w = np.exp(r * (log_w - log_w.max()))
    method = da.ensemble.WeightAdjustedParticleFilter(threshold=1.0, alpha=0.6, resampling=Multinomial())
    found = jax.vmap(lambda key: method.analyze(key, E, obs)[0].mean()[0])(jax.random.split(KEY, 300))
    exact = np.sum(w * np.asarray(E)[:, 0]) / w.sum()
    assert abs(found.mean() - exact) < 4 * float(found.std()) / 300**0.5 + 0.01


def test_all_copies_are_moved_if_asked_for():
    E, y = jnp.asarray(np.random.default_rng(0).normal(size=(50, 2))), observed(np.array([[0.5, 0.0]]), std=0.7)
    plain, _ = da.ParticleFilter(threshold=1.0).analyze(KEY, E, y)
    moved, _ = da.ParticleFilter(threshold=1.0, jitter=0.3, move_first=True).analyze(KEY, E, y)
    assert np.all(np.any(np.asarray(plain.members) != np.asarray(moved.members), axis=1))
