"""The log density of observations under what was forecast: closed forms, limits, and what it is not defined for."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

import diffassim as da
from diffassim.gaussian import Gaussian
from diffassim.methods.likelihood import innovation_log_ratio, mixture_log_ratio

RNG = np.random.default_rng(2)
n, m, TIMES = 3, 2, 4
M, H = 0.9 * np.linalg.qr(RNG.normal(size=(n, n)))[0], RNG.normal(size=(m, n))
F = RNG.normal(size=(m, m))
R, Q, P = F @ F.T + 0.5 * np.eye(m), 0.3**2 * np.eye(n), 0.7**2 * np.eye(n)
Y = RNG.normal(size=(TIMES, m))
Y[1, 0], Y[2] = np.nan, np.nan
MODEL = da.models.FunctionModel(lambda x, t: jnp.asarray(M, x.dtype) @ x)
RECORD = da.Observations(
    Y, np.arange(1, TIMES + 1), da.observations.Linear(H), da.covariances.Dense.from_matrix(jnp.asarray(R))
)


def exact(Q=Q, R=R, P=P):
    """Return the log density of the record as one Gaussian vector."""
    states, covariances = np.zeros((0, n)), []
    x, C = np.ones(n), P
    cross = []  # covariances of all earlier states with the present one
    joint = np.zeros((TIMES * n, TIMES * n))
    for k in range(TIMES):
        x, C = M @ x, M @ C @ M.T + Q
        cross = [c @ M.T for c in cross] + [C]
        for j, c in enumerate(cross):
            joint[j * n : (j + 1) * n, k * n : (k + 1) * n] = c
            joint[k * n : (k + 1) * n, j * n : (j + 1) * n] = c.T
        states, covariances = np.concatenate([states, x[None]]), [*covariances, C]
    blocks, errors = np.kron(np.eye(TIMES), H), np.kron(np.eye(TIMES), R)
    seen = np.isfinite(Y.ravel())
    covariance = (blocks @ joint @ blocks.T + errors)[np.ix_(seen, seen)]
    return multivariate_normal((blocks @ states.ravel())[seen], covariance).logpdf(Y.ravel()[seen])


@pytest.mark.parametrize("method", [da.EKF, da.UKF], ids=lambda method: method.__name__)
def test_the_sum_over_a_cycle_is_the_density_of_the_record(method):
    start = Gaussian.from_covariance(jnp.ones(n), da.covariances.Diagonal(std=0.7))
    _, history = da.cycle(method(Q=da.covariances.Diagonal(std=0.3)), MODEL, start, RECORD)
    np.testing.assert_allclose(history.log_likelihood, exact(), rtol=1e-12)
    assert history.info.log_likelihood[2] == 0  # nothing was observed


def test_filters_with_many_members_approach_it():
    members = 1 + 0.7 * np.random.default_rng(0).normal(size=(20_000, n))
    noise = da.covariances.Diagonal(std=0.3)
    # Where the Gaussian of the forecast is exact, the ETKF errs by its sampling; the particle filter's density is
    # unbiased. Both scatter by about .01 here.
    for method in (da.ParticleFilter(Q=noise), da.ensemble.OptimalParticleFilter(Q=noise)):
        _, history = da.cycle(method, MODEL, members, RECORD, key=jax.random.key(1))
        np.testing.assert_allclose(history.log_likelihood, exact(), atol=0.05)
    _, history = da.cycle(da.EnSRF(Q=noise), MODEL, members[:1000], RECORD, key=jax.random.key(1))
    np.testing.assert_allclose(history.log_likelihood, exact(), atol=0.25)


@pytest.mark.parametrize("members", [4, 30])
def test_an_ensembles_density_is_that_of_its_sample_covariance(members):
    rng = np.random.default_rng(5)
    H, F = rng.normal(size=(7, 9)), rng.normal(size=(7, 7))
    R, E, y = F @ F.T + np.eye(7), rng.normal(size=(members, 9)), rng.normal(size=7)
    y[3] = np.nan
    seen = np.isfinite(y)
    H_seen = H[seen]
    obs = da.Observations(y[None], [0], da.observations.Linear(H), da.covariances.Dense.from_matrix(jnp.asarray(R)))
    covariance = H_seen @ np.cov(E.T) @ H_seen.T + R[np.ix_(seen, seen)]
    expected = multivariate_normal(H_seen @ E.mean(0), covariance).logpdf(y[seen])
    for method in (da.ETKF(), da.ensemble.EAKF(), da.AsynchronousFilter(da.ETKF()), da.IEnKS()):
        if isinstance(method, da.methods.SequentialMethod):
            info = method.analyze(None, E, obs)[1]
        else:
            info = method.analyze(None, da.models.FunctionModel(lambda x, t: x), E, obs, 0, 1, [0])[2]
        np.testing.assert_allclose(info.log_likelihood, expected, rtol=1e-11)
    inflated = da.ETKF(inflation=da.ensemble.PriorInflation(1.5)).analyze(None, E, obs)[1].log_likelihood
    wider = H_seen @ np.cov(E.T) @ H_seen.T * 1.5**2 + R[np.ix_(seen, seen)]
    np.testing.assert_allclose(inflated, multivariate_normal(H_seen @ E.mean(0), wider).logpdf(y[seen]), rtol=1e-11)
    weighted = da.ensemble.NETF().analyze(None, E, obs)[1].log_likelihood
    likelihoods = [multivariate_normal(H_seen @ x, R[np.ix_(seen, seen)]).pdf(y[seen]) for x in E]
    np.testing.assert_allclose(weighted, np.log(np.mean(likelihoods)), rtol=1e-11)


def test_local_filters_add_the_densities_of_single_values():
    E, y = np.random.default_rng(3).normal(size=(6, 8)), np.random.default_rng(4).normal(size=8)
    y[5] = np.nan
    obs = da.Observations(y[None], [0], error=da.covariances.Diagonal(std=0.8))
    seen = np.isfinite(y)
    variance = np.var(E, axis=0, ddof=1) + 0.8**2
    normal = -0.5 * ((y - E.mean(0)) ** 2 / variance + np.log(2 * np.pi * variance))[seen].sum()
    mixture = np.exp(-0.5 * (y - E) ** 2 / 0.64).mean(0) / (2 * np.pi * 0.64) ** 0.5
    taper = da.ensemble.GaspariCohn(2.0)
    for method, expected in (
        (da.LETKF(localization=taper), normal),
        (da.ensemble.EAKF(localization=taper), normal),
        (da.ensemble.LNETF(localization=taper), np.log(mixture[seen]).sum()),
    ):
        np.testing.assert_allclose(method.analyze(None, E, obs)[1].log_likelihood, expected, rtol=1e-12)


class NoDeterminant(da.covariances.Diagonal):
    """A covariance that does not know its determinant."""

    def logdet(self, x):
        raise self._unavailable("logdet")

    def masked(self, mask):
        return NoDeterminant(super().masked(mask).std)


def test_an_error_without_determinant_has_no_density_and_the_same_analysis():
    E, y = jnp.asarray(np.random.default_rng(3).normal(size=(6, 8))), np.ones((1, 8))
    known = da.ETKF().analyze(None, E, da.Observations(y, [0], error=da.covariances.Diagonal(std=0.8)))
    other = da.ETKF().analyze(None, E, da.Observations(y, [0], error=NoDeterminant(std=jnp.asarray(0.8))))
    assert np.isnan(other[1].log_likelihood) and np.isfinite(known[1].log_likelihood)
    np.testing.assert_array_equal(known[0], other[0])


def test_no_digits_are_lost_where_observations_are_precise():
    rng = np.random.default_rng(7)
    S = rng.normal(size=(5, 9))
    S = S - S.mean(0)
    for scale in (1e2, 1e4):
        d = scale * S[0] + rng.normal(size=9)
        double = innovation_log_ratio(jnp.asarray(scale * S), jnp.asarray(d))
        single = innovation_log_ratio(jnp.asarray(scale * S, np.float32), jnp.asarray(d, np.float32))
        assert single.dtype == np.float32
        # The rounding of the numbers themselves, 6e-8 times scale, is an error of the residual of order one.
        np.testing.assert_allclose(single, double, rtol=1e-5 + 1e-7 * scale)


def test_the_density_learns_errors_from_a_record():
    # Without any truth: the standard deviation of R at which the derivative vanishes is the one that was used.
    rng = np.random.default_rng(11)
    truth = np.zeros((400, 1))
    for k in range(1, 400):
        truth[k] = 0.9 * truth[k - 1] + 0.5 * rng.normal()
    values = truth + 0.4 * rng.normal(size=truth.shape)
    model = da.models.FunctionModel(lambda x, t: 0.9 * x)
    start = Gaussian.from_covariance(jnp.zeros(1), da.covariances.Diagonal(std=1.0))
    method = da.EKF(Q=da.covariances.Diagonal(std=0.5))

    @jax.jit
    @jax.grad
    def slope(std):
        obs = da.Observations(values, np.arange(400), error=da.covariances.Diagonal(std=std))
        return da.cycle(method, model, start, obs)[1].log_likelihood

    assert slope(0.3) > 0 > slope(0.5)


def test_the_mixture_of_equal_members_is_the_density_of_one():
    S, d = jnp.zeros((4, 3)), jnp.arange(3.0)
    np.testing.assert_allclose(mixture_log_ratio(S, d), -2.5)
    np.testing.assert_allclose(innovation_log_ratio(S, d), -2.5)
