"""The finite-size filter: dual and primal form, the minimum they find, and its limits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.core.errors import ConfigurationError
from diffassim.ensemble import LETKFN, GaspariCohn
from diffassim.ensemble.finite_size import finite_size_transform, hyperprior
from tests.ensemble.zoo import ensemble, observed, values


def weights(S, d, exponent, primal):
    return da.EnKFN(exponent=exponent, primal=primal).weights(None, S, d)


@pytest.fixture(scope="module")
def cases():
    """Spreads and innovations from far below to far above the observation error, and exponents."""
    rng = np.random.default_rng(0)
    scale = 10 ** rng.uniform(-3, 2, size=(400, 1, 1))
    S = rng.normal(size=(400, 5, 3)) * scale * 10 ** rng.uniform(-1, 1, size=(400, 1, 3))
    d = rng.normal(size=(400, 3)) * 10 ** rng.uniform(-1, 2, size=(400, 1))
    S, d, exponent = (jnp.asarray(x) for x in (S - S.mean(1, keepdims=True), d, rng.uniform(0.5, 3, 400)))
    both = [jax.jit(jax.vmap(lambda *case, p=p: weights(*case, p)))(S, d, exponent) for p in (False, True)]
    return S, d, exponent, both


@pytest.mark.slow
def test_the_dual_form_is_the_primal_form(cases):
    *_, (dual, primal) = cases
    size = np.abs(primal).max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(dual / size, primal / size, atol=1e-8)


def test_inflation_and_weights_belong_to_one_minimum(cases):
    S, d, exponent, (dual, _) = cases
    C, b = S @ jnp.swapaxes(S, 1, 2), jnp.einsum("knm,km->kn", S, d)
    inflation = dual.mean(1).sum(1)  # the transform keeps the vector of ones, the weights of the mean have no sum
    w = dual.mean(1) - inflation[:, None] / 5
    zeta = jax.jit(jax.vmap(lambda C, r, w: hyperprior(C, r).precision(w)))(C, exponent, w)
    np.testing.assert_allclose(zeta, 4 / inflation**2, rtol=1e-6)  # lost digits: inflations of up to thousands
    gradient = jnp.einsum("knl,kl->kn", C, w) - b + zeta[:, None] * w
    np.testing.assert_allclose(gradient / jnp.abs(b).max(1, keepdims=True), 0, atol=1e-8)
    assert inflation.min() < 1.1 and inflation.max() > 10  # the cases are different ones


@pytest.mark.slow
def test_a_minimum_is_found_where_a_newton_step_alone_is_lost():
    forecast = jnp.array([[-3.83, -7.71, 5.68], [-10.09, -18.60, 13.75], [-6.62, -12.93, 8.48]])
    for primal in (False, True):
        posterior, info = da.EnKFN(primal=primal).analyze(None, forecast, observed(np.array([[-11.9, -23.2, 28.2]])))
        assert info.result == da.Result.CONVERGED
        np.testing.assert_allclose(posterior.mean(0), [-14.5, -23.1, 27.4], atol=2.0)


def test_where_observations_say_nothing_the_prior_is_not_inflated():
    E, y = ensemble(), values()
    posterior, _ = da.EnKFN().analyze(None, E, observed(y, std=1e6))
    np.testing.assert_allclose(posterior, E, rtol=1e-9)


@pytest.mark.slow
def test_a_large_ensemble_needs_no_inflation():
    rng = np.random.default_rng(0)
    E, y = jnp.asarray(rng.normal(size=(400, 8))), observed(rng.normal(size=(1, 8)) * 1.3)
    finite, plain = (method.analyze(None, E, y)[0] for method in (da.EnKFN(), da.ETKF()))
    np.testing.assert_allclose(finite, plain, atol=0.03)


@pytest.mark.slow
def test_both_forms_have_the_derivative_of_the_minimum():
    S, d = ensemble(members=5, sites=3), 3 * values(sites=3)[0]
    direction = jnp.asarray(values(seed=7, rows=5, sites=3))

    def loss(s, primal):
        moved = S + s * direction
        moved = moved - moved.mean(0, keepdims=True)
        return jnp.sum(jnp.sin(weights(moved, d * (1 + s), 1.0 + s, primal)))

    h = 1e-5
    difference = (loss(h, False) - loss(-h, False)) / (2 * h)
    for primal in (False, True):
        derivative = jax.jit(lambda s, primal=primal: (jax.grad(loss)(s, primal), jax.jacfwd(loss)(s, primal)))
        np.testing.assert_allclose(derivative(0.0), [difference] * 2, rtol=1e-7)


@pytest.mark.slow
def test_the_local_form_is_the_global_one_of_tapered_observations():
    E, key = ensemble(), jax.random.key(0)
    obs = observed(values(), 0.3)
    everywhere = LETKFN(1.1, True, GaspariCohn(jnp.inf), exponent=1.5).analyze(key, E, obs)[0]
    np.testing.assert_allclose(everywhere, da.EnKFN(1.1, True, exponent=1.5).analyze(key, E, obs)[0], atol=1e-11)
    rng = np.random.default_rng(1)
    S, d, taper = (jnp.asarray(rng.uniform(size=s)) for s in ((5, 4), (4,), (4,)))
    taper = taper.at[1].set(0.0)
    W, root = LETKFN(localization=GaspariCohn(1.0)).local_weights(S, d, taper), jnp.sqrt(taper)
    np.testing.assert_allclose(W, weights(S * root[None], d * root, 1.0, False), atol=1e-12)
    slope = jax.grad(lambda taper: finite_size_transform(S, d, 1.0, taper).sum())(taper)  # also where a taper ends
    h = 1e-5
    ends = [finite_size_transform(S, d, 1.0, taper.at[1].add(s * h)).sum() for s in (1, -1)]
    np.testing.assert_allclose(slope[1], (ends[0] - ends[1]) / (2 * h), rtol=1e-6)


def test_far_from_all_observations_there_is_no_inflation():
    E = ensemble(sites=24)
    obs = observed(values()[:, :1], operator=da.observations.Subset(jnp.array([3])))
    posterior, _ = LETKFN(localization=GaspariCohn(1.0)).analyze(None, E, obs)
    np.testing.assert_allclose(posterior[:, 8:22], E[:, 8:22], rtol=1e-12)
    assert np.all(np.abs(posterior - E)[:, 2:5].max(0) > 0)


def test_an_impossible_exponent_is_named():
    with pytest.raises(ConfigurationError, match="exponent must be finite and positive"):
        da.EnKFN(exponent=0.0)
    with pytest.raises(ConfigurationError, match="LETKFN: exponent must be finite and positive"):
        LETKFN(localization=GaspariCohn(1.0), exponent=jnp.inf)
