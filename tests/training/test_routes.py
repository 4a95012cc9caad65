"""Routes and scores: gradients through each of them against differences, and what scores of closed form give."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim import training as tr
from diffassim.core.errors import ConfigurationError
from diffassim.learned import LearnedEnsembleUpdate, Network, Remembered

N, KEY = 5, jax.random.key(0)
MODEL = da.models.Lorenz96(forcing=8.0, dt=0.05)
ONE = da.covariances.Diagonal(std=1.0)
RNG = np.random.default_rng(0)
X = jnp.asarray(2.0 + RNG.normal(size=N))
WINDOW = da.Observations(np.array(X) + RNG.normal(size=(2, N)), [2, 4], error=ONE)
FUTURE = da.Observations(np.where(RNG.random((2, N)) < 0.2, np.nan, 2 + RNG.normal(size=(2, N))), [4, 6], error=ONE)
STATE = tr.WindowSample(X, WINDOW, FUTURE, jnp.asarray(0, jnp.int32))
MEMBERS = STATE.replace(background=X[None] + jnp.asarray(RNG.normal(size=(4, N))))
EXACT = da.GaussNewton(tolerance=1e-10)
LOSSES = {
    "forecast": (tr.Loss(tr.Forecast(6), tr.MeanSquare()), STATE),
    "implicit": (tr.Loss(tr.AnalysisForecast(ONE, 4, 6, EXACT), tr.Spectral(jnp.arange(1.0, 4.0))), STATE),
    "unrolled": (tr.Loss(tr.AnalysisForecast(ONE, 4, 6, EXACT, True), tr.MeanSquare()), STATE),
    "innovation likelihood": (tr.Loss(tr.FilterCycle(da.ETKF(), 2), tr.GaussianLikelihood(of="window")), MEMBERS),
    "crps": (tr.Loss(tr.FilterForecast(da.ETKF(), 4, 6), tr.CRPS()), MEMBERS),
    "energy": (tr.Loss(tr.FilterForecast(da.EnKF(), 4, 6), tr.EnergyScore()), MEMBERS),
}


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "sample"), LOSSES.values(), ids=LOSSES)
def test_gradients_equal_central_differences(loss, sample):
    def value(forcing, background):
        return loss(MODEL.replace(forcing=forcing), sample.replace(background=background), KEY)

    given = (jnp.full(N, 8.0), sample.background)
    along = jax.tree.map(lambda leaf: jnp.asarray(np.random.default_rng(1).normal(size=leaf.shape)), given)
    gradient = jax.jit(jax.grad(value, argnums=(0, 1)))(*given)
    slope = sum(float(jnp.vdot(g, a)) for g, a in zip(gradient, along, strict=True))
    h, run = 1e-5, jax.jit(value)
    moved = [float(run(*(x + s * h * a for x, a in zip(given, along, strict=True)))) for s in (1, -1)]
    assert abs(slope) > 1e-3
    np.testing.assert_allclose(slope, (moved[0] - moved[1]) / (2 * h), rtol=1e-4)


def test_the_innovation_likelihood_is_that_of_the_background_ensemble():
    members = RNG.normal(size=(4, N))
    obs = WINDOW.replace(values=WINDOW.values[:1], steps=WINDOW.steps[:1], mask=WINDOW.mask[:1])
    loss = tr.Loss(tr.FilterCycle(da.ETKF(), 2), tr.GaussianLikelihood(of="window"))
    still = da.models.FunctionModel(lambda x, t: x)
    found = loss(still, tr.WindowSample(jnp.asarray(members), obs, None, jnp.asarray(0, jnp.int32)))
    C = np.eye(N) + np.cov(members.T)
    d = np.asarray(obs.values[0]) - members.mean(0)
    expected = 0.5 * (d @ np.linalg.solve(C, d) + np.linalg.slogdet(C)[1]) / N
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_equal_weights_make_the_spectral_score_the_mean_square():
    for n in (4, 5):
        d = jnp.asarray(RNG.normal(size=(1, 2, n)))
        plain, spectral = (s.measure(d, 2 * n, None) for s in (tr.MeanSquare(), tr.Spectral(jnp.ones(n // 2 + 1))))
        np.testing.assert_allclose(spectral, plain, rtol=1e-12)


def test_scores_of_one_value_agree_and_noise_leaves_gaps_alone():
    d = jnp.asarray(RNG.normal(size=(6, 1, 1)))
    crps, energy = (s.measure(d, 1, None) for s in (tr.CRPS(noise=False), tr.EnergyScore(noise=False)))
    np.testing.assert_allclose(crps, energy, rtol=1e-12)
    gaps = jnp.concatenate([d, 0 * d], axis=2)
    np.testing.assert_allclose(tr.EnergyScore(noise=False).measure(gaps, 1, None), energy, rtol=1e-12)
    assert tr.CRPS().measure(0 * gaps, 1, KEY) == 0


def test_what_does_not_fit_is_named():
    with pytest.raises(ConfigurationError, match="CRPS scores members, but Forecast"):
        tr.Loss(tr.Forecast(2), tr.CRPS())
    with pytest.raises(ConfigurationError, match="CRPS: noise is drawn"):
        tr.Loss(tr.FilterForecast(da.ETKF(), 4, 6), tr.CRPS())(MODEL, MEMBERS)
    with pytest.raises(ConfigurationError, match="row 2 lies before"):
        tr.Loss(tr.FilterForecast(da.ETKF(), 4, 6), tr.MeanSquare(of="window"))(MODEL, MEMBERS)
    with pytest.raises(ConfigurationError, match="2 steps apart"):
        tr.Loss(tr.FilterCycle(da.ETKF(), 2), tr.MeanSquare())(MODEL, MEMBERS)


@pytest.mark.slow
def test_a_filter_that_a_network_corrects_is_a_filter_of_the_routes():
    nothing = LearnedEnsembleUpdate(da.ETKF(), Network(lambda w, seen: (0 * seen["mean"], 0 * seen["mean"])))
    for build in (
        lambda method: tr.Loss(tr.FilterCycle(method, 2), tr.GaussianLikelihood(of="window")),
        lambda method: tr.Loss(tr.FilterForecast(method, 4, 6), tr.CRPS()),
    ):
        plain, corrected = (build(method)(MODEL, MEMBERS, KEY) for method in (da.ETKF(), nothing))
        np.testing.assert_allclose(corrected, plain, rtol=1e-10)
        continued = MEMBERS.replace(background=Remembered(MEMBERS.background))
        np.testing.assert_allclose(build(nothing)(MODEL, continued, KEY), plain, rtol=1e-10)


def test_the_energy_score_of_many_members_is_that_of_few_pairs_at_a_time(monkeypatch):
    d = jnp.asarray(RNG.normal(size=(6, 2, 3)))

    def score(d):
        return tr.EnergyScore(noise=False).measure(d, 6, None)

    whole = jax.value_and_grad(score)(d)
    monkeypatch.setattr("diffassim.training.scores.PAIRS", 10)
    for a, b in zip(whole, jax.value_and_grad(score)(d), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-12)
    flat = np.asarray(d).reshape(6, -1)
    apart = np.linalg.norm(flat[:, None] - flat[None], axis=2).sum() / (2 * 6 * 5)
    np.testing.assert_allclose(whole[0], (np.linalg.norm(flat, axis=1).mean() - apart) / 6**0.5, rtol=1e-12)
    with pytest.raises(ConfigurationError, match="two or more"):
        score(d[:1])
