"""Costs and minimizers that others write: they work in the written-down protocols, or are refused by name."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.core.errors import ConfigurationError
from diffassim.core.pytree import Pytree
from diffassim.covariances import Diagonal
from diffassim.diagnostics import explain, explain_memory
from diffassim.learned import LearnedMinimizer, Network
from diffassim.variational import Cost, Minimizer, background_spread, observation_impact, posterior
from tests.variational.problems import lorenz96_window

ONE = Diagonal(std=1.0)
STREAM = da.Observations(jnp.array([[3.0, jnp.nan]]), [0], error=Diagonal(std=0.5))
OURS = da.ThreeDVar(jnp.array([1.0, 2.0]), ONE, STREAM)


class Alone(Pytree):
    """A cost with what it has to have, and no base class."""

    background: Any
    observations: Any

    def control(self):
        return {"state": jnp.zeros_like(self.background)}

    def state(self, v):
        return self.background + v["state"]

    def residuals(self, v):
        return v, (self.observations.innovation(self.state(v)[None]),)

    def __call__(self, v):
        return 0.5 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(self.residuals(v)))


class InProtocol(Alone, Cost):
    """The same in the protocol, as far as observations go."""

    def streams(self):
        return (self.observations,)

    def with_streams(self, streams):
        return self.replace(observations=streams[0])

    def predicted(self, v):
        return (self.observations.predict(self.state(v)[None]),)


class WindowWithoutBase(Alone):
    horizon: Any = 3


class Lopsided(Alone):
    def residuals(self, v):
        return self.background


class First(Pytree):
    """A minimizer without base class."""

    def search(self, cost, start, unrolled=False):
        return da.GaussNewton().search(cost, start, unrolled)


IN_TURN = da.MultiStart(First(), starts={"state": jnp.ones((1, 2))})


@pytest.mark.parametrize(("kind", "method"), [(Alone, None), pytest.param(InProtocol, IN_TURN, marks=pytest.mark.slow)])
def test_a_cost_of_ones_own_is_minimized_like_ours(kind, method):
    cost = kind(OURS.background, STREAM)
    found, expected = da.minimize(cost, method), da.minimize(OURS, da.GaussNewton(tolerance=1e-9))
    np.testing.assert_allclose(found.state, expected.state, atol=1e-3)
    assert found.model is None and list(found.search.terms) == ["observations 0", "state"]


def test_products_of_a_cost_of_ones_own_are_those_of_ours():
    cost, solution = InProtocol(OURS.background, STREAM), da.minimize(OURS)
    np.testing.assert_allclose(posterior(cost, solution).variance(), posterior(OURS, solution).variance(), rtol=1e-9)

    def score(v):
        return jnp.sum((OURS.state(v) - 2.5) ** 2)

    impacts = [observation_impact(c, solution, score).impact[0] for c in (cost, OURS)]
    np.testing.assert_allclose(*impacts, rtol=1e-9)
    texts = [str(explain(c, solution, observation=(0, 0))) for c in (cost, OURS)]
    assert texts[0] == texts[1]
    np.testing.assert_allclose(background_spread(cost)[0], background_spread(OURS)[0], rtol=1e-12)
    assert explain_memory(cost).total > 0


@pytest.mark.slow
def test_the_gradient_through_a_cost_of_ones_own_is_implicit():
    def state(x_b, kind):
        return jnp.sum(jnp.sin(da.minimize(kind(x_b)).state))

    ours = jax.grad(state)(OURS.background, lambda x_b: OURS.replace(background=x_b))
    own = jax.grad(state)(OURS.background, lambda x_b: Alone(x_b, STREAM))
    np.testing.assert_allclose(own, ours, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: da.minimize(3.0), r"a cost has control\(\), .* found an object of type float"),
        (lambda: da.minimize(da.StrongConstraint4DVar), "found StrongConstraint4DVar"),
        (lambda: da.minimize(WindowWithoutBase(jnp.ones(2), STREAM)), "has `horizon`, which counts only in"),
        (lambda: da.minimize(OURS, da.GaussNewton), "found the class GaussNewton; call it"),
        (lambda: da.minimize(OURS, "L-BFGS"), r"like GaussNewton\(\) or LBFGS\(\); found str"),
        (lambda: da.MultiStart(jax.grad, starts={}), r"a minimizer has search"),
        (lambda: da.minimize(OURS, type("Own", (Pytree, Minimizer), {})()), "Own does not define search"),
        (lambda: posterior(Lopsided(jnp.ones(2), STREAM), da.minimize(OURS)), "must be a dict of whitened controls"),
        (lambda: explain_memory("cost"), "str is neither a cost nor a sequential method"),
        (lambda: explain(Alone(jnp.ones(2), STREAM), da.minimize(OURS), observation=(0, 0)), "not define predicted"),
        (lambda: da.variational.ForecastError(Alone(jnp.ones(2), STREAM), STREAM), "has no model to forecast with"),
        (lambda: OURS.replace(B=1.0), r"B must be a covariance, found 1.0; standard deviations are .*Diagonal"),
    ],
)  # fmt: skip
def test_what_is_not_in_the_protocol_is_refused_by_name(call, message):
    with pytest.raises(ConfigurationError, match=message):
        call()


class Recorded(Minimizer, Pytree):
    """A minimizer of two stages, of which the first ends early."""

    first: Any = da.GaussNewton(max_iterations=1)

    def search(self, cost, start, unrolled=False):
        return self.first.search(cost, start, unrolled)

    def stages(self, start):
        return self, da.GaussNewton()


def without_a_word(minimizer):
    silent = Network(lambda w, v, g, h: (jax.tree.map(jnp.zeros_like, g), h), None)
    return LearnedMinimizer(silent, steps=1, minimizer=minimizer)


STAGED = da.MultiStart(without_a_word(Recorded()), starts={"state": jnp.ones((1, 2))})


def test_whatever_wraps_a_minimizer_has_its_stages():
    first, second = STAGED.stages(OURS.control())
    assert isinstance(first, da.MultiStart) and isinstance(first.minimizer, LearnedMinimizer)
    assert isinstance(second, da.GaussNewton)


@pytest.mark.slow
def test_a_later_stage_goes_on_with_the_winner():
    curved = da.ThreeDVar(jnp.array([0.5, 0.7]), ONE, STREAM.replace(operator=jnp.exp))
    found, expected = da.minimize(curved, STAGED), da.minimize(curved, da.GaussNewton(tolerance=1e-9))
    assert bool(found.converged) and int(found.search.iterations) > 1 and found.search.costs.shape == (2,)
    np.testing.assert_allclose(found.state, expected.state, atol=2e-3)
    history = np.asarray(found.search.cost_history)
    assert np.isfinite(history[: int(found.search.iterations)]).all()


def test_a_subclass_of_gauss_newton_is_one_stage_only_if_it_searches_itself():
    class Careful(da.GaussNewton):
        tolerance: Any = 1e-6

    class Own(da.GaussNewton):
        def search(self, cost, start, unrolled=False):
            return super().search(cost, start, unrolled)

    start = lorenz96_window(1, seed=0)[0].control()
    assert [len(kind().stages(start)) for kind in (da.GaussNewton, Careful, Own)] == [2, 2, 1]
    assert len(da.MultiStart(Careful(), starts={}).stages(start)) == 2
