"""The rank histogram filter against the posterior it defines, and against the Gaussian filter."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

import diffassim as da
from diffassim.ensemble import RankHistogramFilter
from tests.ensemble.zoo import ensemble, observed, values

METHOD = RankHistogramFilter()


def analysed(h, y, std=1.0):
    """Return members of one variable after one observation of it."""
    posterior, info = METHOD.analyze(None, jnp.asarray(h)[:, None], observed(np.array([[y]]), std))
    assert info.result == da.Result.CONVERGED
    return posterior[:, 0]


def posterior_density(h, y):
    """Anderson (2010), section 2: histogram with Gaussian tails, times the likelihood of unit variance."""
    N, spread = len(h), np.std(h, ddof=1)
    low, high = (h[k] + s * spread * stats.norm.ppf(1 / (N + 1)) for k, s in ((0, -1), (-1, 1)))
    likelihood = lambda t: np.exp(-0.5 * (t - y) ** 2)  # noqa: E731

    def density(t):
        if t < h[0]:
            return stats.norm.pdf(t, low, spread) * likelihood(t)
        if t > h[-1]:
            return stats.norm.pdf(t, high, spread) * likelihood(t)
        k = min(np.searchsorted(h, t, side="right") - 1, N - 2)
        f = (t - h[k]) / (h[k + 1] - h[k])
        return ((1 - f) * likelihood(h[k]) + f * likelihood(h[k + 1])) / (N + 1) / (h[k + 1] - h[k])

    return density


@pytest.mark.parametrize(("members", "y"), [(5, 0.7), (5, 6.0), (2, 1.0)])
def test_equal_mass_of_the_posterior_lies_between_the_new_members(members, y):
    h = np.sort(1.5 * np.random.default_rng(members).normal(size=members))
    found, density = np.asarray(analysed(h, y)), posterior_density(h, y)

    def mass(a, b):
        edges = [a, *(t for t in h if a < t < b), b]
        return sum(integrate.quad(density, *pair, epsabs=1e-15)[0] for pair in itertools.pairwise(edges))

    masses = [mass(a, b) for a, b in itertools.pairwise([-15.0, *found, 15.0])]
    np.testing.assert_allclose(masses, np.mean(masses), rtol=1e-8)


def test_the_order_stays_and_the_numbers_of_the_members_do_not_matter():
    h = np.random.default_rng(0).normal(size=9)
    shuffle = np.random.default_rng(1).permutation(9)
    found = analysed(h, 0.4)
    np.testing.assert_array_equal(np.argsort(found), np.argsort(h))
    np.testing.assert_allclose(analysed(h[shuffle], 0.4), found[shuffle], rtol=1e-12)


@pytest.mark.slow
def test_ties_and_outliers_leave_it_finite():
    h = np.array([0.3, 0.3, 0.3, 1.0, 1.0])
    found = analysed(h, 0.8)
    assert np.isfinite(found).all() and found.min() < 0.8 < found.max()
    for y in (40.0, -1e3):
        h = np.random.default_rng(0).normal(size=8)
        v = np.var(h, ddof=1)
        center = np.mean(analysed(h, y))
        gaussian = np.mean(h) + v / (1 + v) * (y - np.mean(h))
        assert abs(center - gaussian) < 2  # the tail beyond the outermost member has the variance of the sample
    gradient = jax.grad(lambda y, h: jnp.sum(analysed_raw(h, y)), (0, 1))(1e3, jnp.asarray(h))
    assert all(np.isfinite(g).all() for g in gradient)
    single, _ = METHOD.analyze(
        None, jnp.asarray(h, np.float32)[:, None], observed(np.array([[30.0]], np.float32), np.float32(1.0))
    )
    np.testing.assert_allclose(single[:, 0], analysed(h, 30.0), rtol=1e-4)


def analysed_raw(h, y):
    return METHOD.analyze(None, h[:, None], observed(jnp.reshape(y, (1, 1)), 1.0))[0]


@pytest.mark.slow
def test_for_large_gaussian_ensembles_it_is_the_adjustment_filter():
    """On quantiles of a Gaussian, where sampling plays no part, the difference falls with N."""
    errors = []
    for N in (40, 640):
        h = 1.3 * stats.norm.ppf((np.arange(N) + 0.5) / N)
        E = jnp.stack([jnp.asarray(h), 0.6 * h + 0.3], axis=1)
        y = observed(np.array([[1.1]]), 0.8, operator=lambda x: x[:1])
        found, expected = (m.analyze(None, E, y)[0] for m in (METHOD, da.EAKF()))
        errors.append(float(jnp.sqrt(jnp.mean((found - expected) ** 2))))
    assert errors[1] < 0.01 and errors[1] < errors[0] / 4, errors


def test_several_values_of_a_large_gaussian_sample_give_the_kalman_filter():
    rng = np.random.default_rng(3)
    root, H = rng.normal(size=(3, 3)), rng.normal(size=(2, 3))
    E = jnp.asarray(rng.normal(size=(4000, 3)) @ root.T)
    obs = da.Observations(
        np.array([[0.5, -0.4]]), [0], operator=da.observations.Linear(H), error=da.covariances.Diagonal(std=0.9)
    )
    found, expected = (m.analyze(None, E, obs)[0] for m in (METHOD, da.EAKF()))
    # Sampling changes both alike; what is left is the sampled shape of the prior.
    np.testing.assert_allclose(found.mean(0), expected.mean(0), atol=0.03)
    np.testing.assert_allclose(np.cov(found.T), np.cov(expected.T), atol=0.05)


def test_of_two_groups_the_observed_one_is_left():
    rng = np.random.default_rng(4)
    side = np.where(np.arange(20) < 10, -4.0, 4.0)
    E = jnp.asarray(np.stack([side, 0.5 * side], axis=1) + 0.3 * rng.normal(size=(20, 2)))
    y = observed(np.array([[4.2]]), 1.0, operator=lambda x: x[:1])
    found, gaussian = (m.analyze(None, E, y)[0] for m in (METHOD, da.EAKF()))
    assert np.all(np.abs(found[:, 0] - 4) < 1.5) and np.all(np.abs(found[:, 1] - 2) < 1.5)
    assert np.std(gaussian[:, 0]) > 2 * np.std(found[:, 0])


def test_without_spread_in_what_is_observed_nothing_moves():
    E = ensemble().at[:, 0].set(0.1)
    y = observed(values()[:, :1], operator=lambda x: x[:1])
    np.testing.assert_allclose(METHOD.analyze(None, E, y)[0], E, rtol=1e-13)
