"""Filters of weighted members: their moments, the linear-Gaussian limit, and what localization does to them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import diffassim as da
from diffassim.ensemble import LETPF, LNETF, NETF, GaspariCohn, Inflation
from tests.ensemble.zoo import KEY, ensemble, observed, values

EVERYWHERE = GaspariCohn(jnp.inf)
RNG = np.random.default_rng(5)
H, Y = RNG.normal(size=(2, 3)), np.array([[0.6, -0.9]])
F = np.array([[1.0, 0.3], [0.0, 0.9]])
OBS = da.Observations(
    Y, [0], operator=da.observations.Linear(H), error=da.covariances.Dense.from_matrix(F @ F.T)
)  # fmt: skip


def likelihoods(E, std, y):
    w = np.exp(-0.5 * np.sum((E - y) ** 2, axis=1) / std**2)
    return w / w.sum()


@pytest.mark.parametrize("members", [4, 20])
@pytest.mark.parametrize("rotation", [False, True])
def test_mean_and_covariance_are_those_of_the_weighted_members(members, rotation):
    E, y = np.asarray(ensemble(members=members)), values()
    posterior = np.asarray(NETF(rotation=rotation).analyze(KEY, E, observed(y, 2.0))[0])
    w = likelihoods(E, 2.0, y)
    mean = w @ E
    np.testing.assert_allclose(posterior.mean(0), mean, atol=1e-13)
    X, X_a = E - mean, posterior - posterior.mean(0)
    np.testing.assert_allclose(X_a.T @ X_a / members, (X.T * w) @ X, atol=1e-13)


def test_linear_gaussian_samples_approach_the_kalman_filter():
    root = np.random.default_rng(2).normal(size=(3, 3))
    P, R = root @ root.T, F @ F.T
    K = P @ H.T @ np.linalg.inv(H @ P @ H.T + R)
    mean, covariance = K @ Y[0], P - K @ H @ P

    @jax.jit
    @jax.vmap
    def deviations(draws):
        posterior, _ = NETF().analyze(None, draws @ root.T, OBS)
        return jnp.mean(posterior, 0) - mean, jnp.cov(posterior.T) - covariance

    errors = []
    for members in (25, 200):
        found = deviations(np.random.default_rng(members).normal(size=(32, members, 3)))
        errors.append([float(np.sqrt(np.mean(np.square(e)))) for e in found])
    ratio = np.divide(*errors)
    assert np.all((ratio > 8**0.5 / 1.5) & (ratio < 8**0.5 * 1.5)), errors  # the Monte-Carlo rate
    assert np.all(errors[1] < 0.15 * np.linalg.norm(covariance)), errors


@pytest.mark.slow
def test_coupled_members_have_the_posterior_marginals_in_the_limit():
    """On quantiles of a Gaussian, where sampling plays no part, the differences fall with N."""
    errors = []
    for N in (20, 320):
        h = 1.3 * stats.norm.ppf((np.arange(N) + 0.5) / N)
        E = jnp.stack([jnp.asarray(h), -0.6 * h + 0.3], axis=1)
        y = observed(np.array([[1.1]]), 0.8, operator=lambda x: x[:1])
        method = LETPF(localization=EVERYWHERE, places=jnp.zeros((1, 1)))
        found, expected = (m.analyze(None, E, y)[0] for m in (method, da.EAKF()))
        errors.append(float(jnp.sqrt(jnp.mean((found - expected) ** 2))))
    assert errors[1] < 0.02 and errors[1] < errors[0] / 4, errors


def test_the_coupling_keeps_weighted_mean_and_order():
    E, y = np.asarray(ensemble(members=9)), values()
    found, _ = LETPF(localization=EVERYWHERE).analyze(None, E, observed(y, 2.0))
    w = likelihoods(E, 2.0, y)
    np.testing.assert_allclose(found.mean(0), w @ E, atol=1e-13)
    assert np.all(np.var(found, axis=0) < w @ np.square(E - w @ E))
    assert np.all(np.diff(np.take_along_axis(np.asarray(found), np.argsort(E, axis=0), 0), axis=0) >= -1e-14)


def test_with_infinite_radius_the_local_filter_is_the_global_one():
    E = ensemble(members=5)
    obs = (observed(values(), 1.7), observed(values()[:, ::2], 2.0, operator=da.observations.Subsample(2)))
    local = LNETF(1.1, True, EVERYWHERE).analyze(KEY, E, obs)[0]
    np.testing.assert_allclose(local, NETF(1.1, True).analyze(KEY, E, obs)[0], atol=1e-12)


@pytest.mark.parametrize("method", [LNETF, LETPF])
def test_a_point_sees_its_own_observations_alone(method):
    E = ensemble(sites=40)
    obs = observed(values()[:, :2], operator=da.observations.Subset(jnp.array([3, 20])))
    whole, _ = method(localization=GaspariCohn(1.5), batch=7).analyze(None, E, obs)
    one = observed(values()[:, :1], operator=da.observations.Subset(jnp.array([3])))
    alone, _ = method(localization=GaspariCohn(1.5)).analyze(None, E, one)
    near = np.arange(10)
    np.testing.assert_allclose(whole[:, near], alone[:, near], atol=1e-13)
    np.testing.assert_allclose(whole[:, 30:36], E[:, 30:36], atol=1e-13)  # no observation nearby
    assert np.abs(whole - E)[:, 1:6].max(0).min() > 1e-3


@pytest.mark.parametrize("method", [NETF(), LNETF(localization=EVERYWHERE), LETPF(localization=EVERYWHERE)])
def test_where_one_member_has_all_of_the_weight_nothing_is_undefined(method):
    E = jnp.asarray(np.linspace(-300.0, 300.0, 7)[:, None] * np.ones(3))
    posterior, info = method.analyze(None, E, observed(np.full((1, 3), 102.0), 0.5))
    assert info.result == da.Result.CONVERGED
    np.testing.assert_allclose(posterior, 100.0, rtol=1e-6)
    loss = lambda E: jnp.sum(method.analyze(None, E, observed(np.full((1, 3), 102.0), 0.5))[0])  # noqa: E731
    assert np.isfinite(jax.grad(loss)(E)).all()


def test_names():
    for method, instead in ((LNETF, "NETF"), (LETPF, "ParticleFilter")):
        with pytest.raises(da.ConfigurationError, match=f"{method.__name__}: localization.*without one use {instead}"):
            method()
    assert not isinstance(NETF().inflation, Inflation)


def test_any_loss_is_the_likelihood_of_methods_that_weight_members():
    E, y, loss = ensemble(members=20), values(), da.observations.Huber()
    obs = observed(y).replace(loss=loss)
    r = np.asarray(loss(jnp.asarray((y - np.asarray(E)) / 0.8)))  # of which half the square is the loss
    w = np.exp(-0.5 * np.sum(r**2, axis=1))
    w /= w.sum()
    particles, info = da.ParticleFilter(threshold=0.0).analyze(None, E, obs)
    np.testing.assert_allclose(particles.weights, w, rtol=1e-12)
    assert np.isnan(info.log_likelihood) and info.result == da.Result.CONVERGED
    everywhere = LNETF(localization=EVERYWHERE)
    for method in (NETF(), everywhere, LETPF(localization=EVERYWHERE)):
        posterior, _ = method.analyze(None, E, obs)
        np.testing.assert_allclose(posterior.mean(0), w @ np.asarray(E), rtol=1e-11)
    for method in (da.ETKF(), da.OptimalParticleFilter(Q=da.covariances.Diagonal(std=1.0))):
        with pytest.raises(da.ConfigurationError, match="needs Gaussian observation errors, found the loss Huber"):
            method.analyze(KEY, E, obs)
