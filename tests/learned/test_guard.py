"""Learned starts and steps that lead to a higher minimum, with and without the classical search beside."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.core.errors import ConfigurationError
from diffassim.covariances import Diagonal
from diffassim.learned import LearnedMinimizer, LearnedStart, Network

# J has minima near -2 and 2; the background pulls toward the second, and the network leads to the first.
OBS = da.Observations(jnp.array([[4.0]]), [0], lambda x: x**2, Diagonal(std=0.1))
COST = da.ThreeDVar(jnp.array([0.5]), Diagonal(std=1.0), OBS)
SEARCH = da.GaussNewton(growth=None)
AWAY = Network(lambda w, v, g, h: (jax.tree.map(lambda leaf: w - leaf, v), h), -2.4)
WRONG = Network(lambda w, streams: jnp.full(1, w), -2.0)
METHODS = [LearnedMinimizer(AWAY, steps=1, minimizer=SEARCH), LearnedStart(WRONG, SEARCH)]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_only_the_guarded_search_is_never_behind_the_classical_one(method):
    classical = da.minimize(COST, SEARCH)
    misled = da.minimize(COST, method)
    assert float(misled.state[0]) < 0 and float(misled.cost) > 1.5 * float(classical.cost)
    guarded = da.minimize(COST, method.replace(guarded=True))
    np.testing.assert_allclose(guarded.cost, classical.cost, rtol=1e-9)
    np.testing.assert_allclose(guarded.state, classical.state, atol=1e-6)
    assert float(guarded.search.work) > float(classical.search.work)  # both are counted


def test_a_guard_keeps_what_is_better_and_the_implicit_gradient_there():
    def found(y, guarded):
        cost = da.ThreeDVar(jnp.array([-0.5]), Diagonal(std=1.0), OBS.replace(values=y))
        method = LearnedStart(Network(lambda w, streams: jnp.full(1, w), -2.0), SEARCH, guarded=guarded)
        return da.minimize(cost, method).state[0]

    plain, guarded = (jax.value_and_grad(found)(OBS.values, guarded) for guarded in (False, True))
    np.testing.assert_allclose(guarded[0], plain[0], atol=1e-6)
    np.testing.assert_allclose(guarded[1], plain[1], rtol=1e-3)


def test_draws_within_the_error_of_the_inverse_find_the_lower_minimum_beside_it():
    lonely = da.minimize(COST, LearnedStart(WRONG, SEARCH))
    several = da.minimize(COST, LearnedStart(WRONG, SEARCH, error=Diagonal(std=3.0), draws=8, key=jax.random.key(1)))
    assert float(lonely.state[0]) < 0 < float(several.state[0])
    assert several.search.costs.shape == (9,) and float(several.cost) < float(lonely.cost)
    with pytest.raises(ConfigurationError, match="with an error give key"):
        LearnedStart(WRONG, error=Diagonal(std=1.0))


def test_draws_need_no_more_of_a_cost_than_its_protocol():
    class Alone(da.variational.Cost, da.core.pytree.Pytree):
        inner: object

        def control(self):
            return self.inner.control()

        def state(self, v):
            return self.inner.state(v)

        def residuals(self, v):
            return self.inner.residuals(v)

        def streams(self):
            return self.inner.streams()

        def covariances(self):
            return self.inner.covariances()

    method = LearnedStart(WRONG, SEARCH, error=Diagonal(std=3.0), draws=8, key=jax.random.key(1))
    assert float(da.minimize(Alone(COST), method).state[0]) > 0
