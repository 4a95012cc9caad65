"""Ensemble filters that a network corrects: what it changes, what it leaves alone, and what passes through."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.learned import LearnedEnsembleUpdate, Network, Remembered

N, SITES = 6, 8
RNG = np.random.default_rng(3)
E = jnp.asarray(RNG.normal(size=(N, SITES)))
VALUES = RNG.normal(size=(3, SITES))
ONE = da.covariances.Diagonal(std=1.0)
Y = da.Observations(VALUES, [1, 2, 4], error=ONE)
MODEL = da.models.Lorenz96(dt=0.05)
FILTERS = [da.ETKF(1.05), da.EnKF(), da.LETKF(localization=da.ensemble.GaspariCohn(1.2))]
each_filter = pytest.mark.parametrize("method", FILTERS, ids=lambda method: type(method).__name__)


def nothing(w, seen):
    return (w * seen["mean"], w * seen["mean"])


@each_filter
def test_a_network_of_zeros_leaves_the_filter_as_it_is_along_a_cycle(method):
    learned = LearnedEnsembleUpdate(method, Network(nothing, 0.0))
    key = jax.random.key(0) if method.random else None
    plain, expected = da.cycle(method, MODEL, E, Y, key=key)
    found, history = da.cycle(learned, MODEL, E, Y, key=key)
    np.testing.assert_allclose(found.state, plain, rtol=1e-12, atol=1e-12)
    for name in ("chi_square", "analysis_spread", "log_likelihood", "count"):
        np.testing.assert_allclose(getattr(history.info, name), getattr(expected.info, name), rtol=1e-12)


def test_without_observed_values_the_analysis_is_the_filters_bit_by_bit():
    wild = Network(lambda w, seen, memory: (w + seen["mean"], w + seen["mean"], memory + 1), 3.0)
    method = LearnedEnsembleUpdate(da.ETKF(1.3), wild, memory=jnp.zeros(2))
    found, info = method.analyze(None, E, da.Observations(np.full((1, SITES), np.nan), [0], error=ONE))
    np.testing.assert_array_equal(found.state, E)
    np.testing.assert_array_equal(found.memory, jnp.zeros(2))
    assert info.count == 0


def test_shift_and_scale_are_what_the_network_says_and_it_sees_what_it_should():
    told = {}

    def network(w, seen):
        told.update(seen)
        return 0.5 * seen["pull"], jnp.log(w) + 0 * seen["mean"]

    obs = da.Observations(VALUES[:1, ::2], [0], lambda x: x[::2], da.covariances.Diagonal(std=2.0))
    plain, _ = da.ETKF().analyze(None, E, obs)
    found, info = LearnedEnsembleUpdate(da.ETKF(), Network(network, 3.0)).analyze(None, E, obs)
    pull = np.zeros(SITES)
    pull[::2] = (VALUES[0, ::2] - np.mean(E, 0)[::2]) / 4
    np.testing.assert_allclose(told["pull"], pull, atol=1e-12)
    np.testing.assert_allclose(told["spread"], np.std(plain, axis=0, ddof=1), rtol=1e-12)
    np.testing.assert_allclose(told["prior_mean"], np.mean(E, 0), atol=1e-12)
    np.testing.assert_allclose(np.mean(found.state, 0), np.mean(plain, 0) + 0.5 * pull, atol=1e-12)
    np.testing.assert_allclose(np.std(found.state, axis=0), 3 * np.std(plain, axis=0), rtol=1e-12)
    np.testing.assert_allclose(info.analysis_spread, 3 * da.ETKF().analyze(None, E, obs)[1].analysis_spread, rtol=1e-12)


def test_a_memory_and_a_derivative_pass_through_a_cycle_in_single_precision_too():
    def network(w, seen, memory):
        kept = memory + jnp.sum(seen["pull"])
        return w * seen["pull"] + 0.1 * jnp.tanh(kept), w * seen["mean"] / 10, kept

    def error(w, dtype=jnp.float64):
        method = LearnedEnsembleUpdate(da.ETKF(), Network(network, w), jnp.zeros((), dtype))
        obs = da.Observations(VALUES.astype(dtype), Y.steps, error=da.covariances.Diagonal(std=jnp.ones((), dtype)))
        model = MODEL.replace(forcing=jnp.asarray(8.0, dtype))
        belief, history = da.cycle(method, model, E.astype(dtype), obs)
        return jnp.mean(history.analysis.mean**2) + belief.memory

    w, h = 0.3, 1e-5
    slope = jax.jit(jax.grad(error))(w)
    np.testing.assert_allclose(slope, (error(w + h) - error(w - h)) / (2 * h), rtol=1e-6)
    single = error(jnp.float32(w), jnp.float32)
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, error(w), rtol=1e-3)


def test_a_cycle_that_is_continued_is_the_whole_one():
    network = Network(lambda w, seen, memory: (w * memory, w * memory, 0.5 * memory + seen["mean"]), 0.1)
    method = LearnedEnsembleUpdate(FILTERS[2], network, jnp.zeros(SITES))
    whole, _ = da.cycle(method, MODEL, E, Y)
    half, _ = da.cycle(method, MODEL, E, da.Observations(VALUES[:2], [1, 2], error=ONE))
    assert isinstance(half, Remembered)
    rest, _ = da.cycle(method, MODEL, half, da.Observations(VALUES[2:], [2], error=ONE))
    np.testing.assert_allclose(rest.state, whole.state, rtol=1e-10)
    np.testing.assert_allclose(rest.memory, whole.memory, rtol=1e-10)


def test_what_does_not_fit_is_named():
    with pytest.raises(ConfigurationError, match="ensemble filter like LETKF"):
        LearnedEnsembleUpdate(da.EKF(), Network(nothing, 0.0))
    short = Network(lambda w, seen: (seen["mean"], seen["mean"][:2]), 0.0)
    with pytest.raises(ShapeError, match="log scale has the shapes"):
        LearnedEnsembleUpdate(da.ETKF(), short).analyze(None, E, Y.replace(values=VALUES[:1], steps=[0], mask=None))
    alone = Network(lambda w, seen: seen["mean"], 0.0)
    with pytest.raises(ConfigurationError, match=r"must return \(shift, log scale\)"):
        da.cycle(LearnedEnsembleUpdate(da.ETKF(), alone), MODEL, E, Y)
    growing = Network(lambda w, seen, memory: (seen["mean"], seen["mean"], jnp.ones(3)), 0.0)
    with pytest.raises(ShapeError, match="memory has the shapes"):
        da.cycle(LearnedEnsembleUpdate(da.ETKF(), growing, jnp.ones(2)), MODEL, E, Y)
    with pytest.raises(ConfigurationError, match="draws random numbers"):
        LearnedEnsembleUpdate(da.EnKF(), Network(nothing, 0.0)).analyze(None, E, Y)
