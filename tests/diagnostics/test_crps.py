"""The continuous ranked probability score of ensembles."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from scores.probability import crps_for_ensemble

import diffassim as da
from diffassim.diagnostics import crps, normal_crps, weighted_crps

RNG = np.random.default_rng(0)
MEMBERS, VALUES = RNG.normal(size=(7, 3, 5)), RNG.normal(size=(3, 5))


@pytest.mark.parametrize(("fair", "method"), [(True, "fair"), (False, "ecdf")])
def test_it_is_the_score_of_the_verification_library(fair, method):
    ensemble = xr.DataArray(MEMBERS, dims=("member", "time", "site"))
    expected = crps_for_ensemble(
        ensemble, xr.DataArray(VALUES, dims=("time", "site")), "member", method=method, preserve_dims="all"
    )
    np.testing.assert_allclose(crps(MEMBERS, VALUES, fair=fair), expected, rtol=1e-12)


def test_the_fair_score_does_not_depend_on_the_number_of_members():
    exact = (np.sqrt(2) - 1) / np.sqrt(np.pi)  # of N(0, 1) at 0
    two, many = (RNG.normal(size=(N, 400_000 // N)) for N in (2, 8))
    assert np.mean(crps(two, np.zeros(two.shape[1]), fair=False)) > exact + 0.1  # as a control
    for scores in (crps(x, np.zeros(x.shape[1])) for x in (two, many)):
        assert abs(np.mean(scores) - exact) < 4 * np.std(scores) / scores.size**0.5


def test_gradient_with_missing_values():
    gappy = jnp.asarray(VALUES).at[1, 2].set(jnp.nan)
    assert np.isnan(crps(MEMBERS, gappy)[1, 2])
    gradient = jax.grad(lambda x: jnp.nanmean(crps(x, gappy)))(jnp.asarray(MEMBERS))
    assert np.all(gradient[:, 1, 2] == 0) and np.all(np.isfinite(gradient))
    direction, step = RNG.normal(size=MEMBERS.shape), 1e-6
    up, down = (np.nanmean(crps(MEMBERS + s * step * direction, gappy)) for s in (1, -1))
    np.testing.assert_allclose((up - down) / (2 * step), np.sum(gradient * direction), rtol=1e-6)
    assert crps(jnp.asarray(MEMBERS, jnp.float32), jnp.asarray(VALUES, jnp.float32)).dtype == jnp.float32


@pytest.mark.parametrize(("members", "text"), [(MEMBERS[:, :2], "do not fit"), (MEMBERS[:1], "at least two")])
def test_wrong_shapes(members, text):
    with pytest.raises(da.ShapeError, match=text):
        crps(members, VALUES)


def test_of_a_normal_distribution_it_is_that_of_a_large_ensemble_and_of_no_spread_the_error():
    draws = 1.0 + 2.0 * np.random.default_rng(0).normal(size=(200_000, 1))
    for value in (-3.0, 1.0, 2.5):
        exact = float(normal_crps(jnp.asarray(1.0), jnp.asarray(2.0), jnp.asarray(value)))
        np.testing.assert_allclose(crps(draws, np.array([value]))[0], exact, rtol=0.01)
    assert float(normal_crps(jnp.asarray(1.0), jnp.asarray(0.0), jnp.asarray(3.0))) == 2.0
    assert float(normal_crps(jnp.asarray(1.0), jnp.asarray(1e-9), jnp.asarray(3.0))) == pytest.approx(2.0)


def test_with_equal_weights_it_is_that_of_the_members_and_weights_are_repeated_members():
    equal = np.full(len(MEMBERS), 1 / len(MEMBERS))
    known = np.nan_to_num(VALUES)
    np.testing.assert_allclose(
        weighted_crps(jnp.asarray(MEMBERS), jnp.asarray(equal), jnp.asarray(known)), crps(MEMBERS, known, fair=False),
        rtol=1e-10,
    )  # fmt: skip
    twice, once = jnp.asarray([1.0, 1.0, 4.0]), jnp.asarray([1.0, 4.0])
    value = jnp.asarray(2.5)
    np.testing.assert_allclose(
        weighted_crps(once, jnp.asarray([2 / 3, 1 / 3]), value), crps(twice, value, fair=False), rtol=1e-6
    )
