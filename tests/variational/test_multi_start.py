"""Searches from several starts: the lowest cost wins, and gradients are the winner's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.covariances import Diagonal
from diffassim.models import FunctionModel

TIGHT = da.GaussNewton(tolerance=1e-10)
METHOD = da.MultiStart(TIGHT, key=jax.random.key(3), draws=9)


def wells(x_b):
    # Each component has one minimum near 2 and one near -2; the one on the background's side costs less.
    obs = da.Observations(jnp.full((1, 2), 4.0), [0], lambda x: x**2, Diagonal(std=0.3))
    return da.ThreeDVar(x_b, Diagonal(std=1.0), obs)


BACKGROUNDS = jnp.array([[0.3, 0.4], [-0.3, 0.5], [0.4, -0.6]])


@pytest.mark.slow
def test_the_lowest_of_all_minima_wins_and_the_account_says_so():
    found = jax.jit(jax.vmap(lambda x_b: da.minimize(wells(x_b), METHOD)))(BACKGROUNDS)
    np.testing.assert_array_equal(np.sign(found.state), np.sign(BACKGROUNDS))
    search = found.search
    assert search.costs.shape == (3, 10)
    np.testing.assert_allclose(np.min(search.costs, 1), found.cost, rtol=1e-12)
    assert np.array_equal(np.argmin(search.costs, 1), search.winner)
    # Other minima cost visibly more here: who costs as much found the same one.
    same = np.sum(np.asarray(search.costs) < np.asarray(found.cost)[:, None] + 1e-6, 1)
    assert np.array_equal(search.agreeing, same) and np.all(same > 1) and np.all(same < 10)
    alone = da.minimize(wells(BACKGROUNDS[0]), TIGHT)
    np.testing.assert_allclose(found.search.costs[0, 0], alone.cost, rtol=1e-12)  # search 0 is the background's
    assert np.all(search.work > alone.search.work)


def test_given_starts_take_the_place_of_draws():
    starts = {"state": jnp.array([[2.0, -2.0], [2.0, 2.0]])}
    found = da.minimize(
        wells(BACKGROUNDS[0]), da.MultiStart(TIGHT, starts=starts), start={"state": -2.0 + jnp.zeros(2)}
    )
    assert int(found.search.winner) == 2 and int(found.search.agreeing) == 1 and found.search.costs.shape == (3,)
    assert np.all(np.asarray(found.state) > 1)


@pytest.mark.parametrize("unrolled", [False, True])
@pytest.mark.slow
def test_the_gradient_is_the_winners(unrolled):
    x_b = BACKGROUNDS[1]
    few = TIGHT.replace(max_iterations=30, inner=da.variational.PrimalCG(max_iterations=4))
    method = METHOD.replace(minimizer=few) if unrolled else METHOD
    start = {"state": 2 * jnp.sign(x_b) - x_b}

    def score(x_b, method, **options):
        return jnp.sum(jnp.sin(da.minimize(wells(x_b), method, **options).state))

    expected = jax.grad(score)(x_b, TIGHT, start=start)
    gradient = jax.jit(jax.grad(lambda x_b: score(x_b, method, unrolled=unrolled)))(x_b)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


@pytest.mark.slow
def test_a_cycle_searches_every_window_from_draws_of_its_own():
    still = FunctionModel(lambda x, t: x)
    record = da.Observations(jnp.full((2, 2), 4.0), [1, 2], lambda x: x**2, Diagonal(std=0.3))
    windows = da.split_windows(record, 1, 2)
    x_b = BACKGROUNDS[0]
    x, history = da.cycle(da.FourDVar(Diagonal(std=1.0), METHOD), still, x_b, windows, steps=1)
    first = da.StrongConstraint4DVar(still, x_b, Diagonal(std=1.0), jax.tree.map(lambda leaf: leaf[0], windows))
    alone = da.minimize(first, METHOD)
    np.testing.assert_allclose(history.search.costs[0], alone.search.costs, rtol=1e-12)
    other = da.minimize(first.replace(start=1), METHOD)
    assert not np.allclose(other.search.costs, alone.search.costs)
    np.testing.assert_allclose(other.state, alone.state, rtol=1e-8)
    assert history.search.agreeing.shape == (2,) and np.all(np.asarray(x) > 1)


def test_searches_that_fail_lose():
    # From half of the starts the logarithm is not finite at once.
    obs = da.Observations(jnp.array([[0.5]]), [0], jnp.log, Diagonal(std=0.3))
    cost = da.ThreeDVar(jnp.array([-0.5]), Diagonal(std=1.0), obs)
    found = da.minimize(cost, METHOD)
    costs = np.asarray(found.search.costs)
    assert np.isinf(costs[0]) and np.isfinite(costs).any() and np.isfinite(found.cost) and bool(found.converged)
    assert int(found.search.agreeing) == np.isfinite(costs).sum()


def test_bad_input_is_named():
    with pytest.raises(ConfigurationError, match=r"give key=jax.random.key\(...\) for the draws, or `starts`"):
        da.MultiStart()
    with pytest.raises(ConfigurationError, match="draws=0 must be at least 1"):
        da.MultiStart(key=jax.random.key(0), draws=0)
    with pytest.raises(ShapeError, match="it needs a leading axis in front of"):
        da.minimize(wells(BACKGROUNDS[0]), da.MultiStart(starts={"state": jnp.zeros(2)}))
    obs = da.Observations(jnp.zeros((1, 2)), [1], error=Diagonal(std=1.0))
    one = Diagonal(std=1.0)
    cost = da.StateWeakConstraint4DVar(FunctionModel(lambda x, t: x), jnp.zeros(2), one, one, obs)
    with pytest.raises(ConfigurationError, match=r"is not whitened, so that draws .* give `starts`"):
        da.minimize(cost, METHOD)
