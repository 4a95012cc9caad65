"""The adjoint of a cost, and a search for its minimum, within a given memory."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.variational.minimizers.minimize import _minimize

ONE = da.covariances.Diagonal(std=1.0)


def problem(steps=100, n=400, kind=da.StrongConstraint4DVar, **options):
    rng = np.random.default_rng(0)
    at = [steps // 2, steps]
    model, x_b = da.models.Lorenz96(dt=0.01), rng.normal(size=n)
    values = da.rollout(model, jnp.asarray(x_b + 0.3 * rng.normal(size=n)), steps, at=at)
    obs = da.Observations(values + rng.normal(size=(2, n)), at, error=ONE)
    covariances = (ONE,) if kind is da.StrongConstraint4DVar else (ONE, 0.1 * ONE)
    return kind(model, x_b, *covariances, obs, **options)


@pytest.mark.parametrize("kind", [da.StrongConstraint4DVar, da.WeakConstraint4DVar])
@pytest.mark.slow
def test_a_cost_keeps_to_its_memory(kind):
    cost = problem(kind=kind, **({} if kind is da.StrongConstraint4DVar else {"every": 25}))
    state = 8 * 400
    memory = (70 if kind is da.StrongConstraint4DVar else 370) * state
    gradient = jax.jit(lambda cost, v: jax.value_and_grad(cost)(v))
    limited, v = cost.replace(memory=memory), jax.tree.map(lambda leaf: leaf + 0.1, cost.control())
    assert gradient.lower(limited, v).compile().memory_analysis().temp_size_in_bytes <= memory
    for ours, theirs in zip(jax.tree.leaves(gradient(limited, v)), jax.tree.leaves(gradient(cost, v)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.slow
def test_a_search_respects_the_memory_of_its_cost():
    cost = problem().replace(memory=70 * 8 * 400)

    def needed(cost):
        return _minimize.lower(cost, da.GaussNewton(), None, False).compile().memory_analysis().temp_size_in_bytes

    assert needed(cost) < 0.5 * needed(cost.replace(memory=None))
    np.testing.assert_allclose(da.minimize(cost).state, da.minimize(cost.replace(memory=None)).state, atol=1e-9)


def test_too_little_memory_and_two_ways_at_once_are_named():
    with pytest.raises(da.ConfigurationError, match="memory = 1000 bytes are too few for the adjoint of 100 steps"):
        da.minimize(problem(memory=1000))
    with pytest.raises(da.ConfigurationError, match="give `memory` or `segment`, not both"):
        problem(memory=10**6, segment=3)(problem().control())


@pytest.mark.slow
def test_the_state_form_divides_its_memory_among_the_sub_windows():
    cost = problem(kind=da.StateWeakConstraint4DVar, every=25)
    v = jax.tree.map(lambda leaf: leaf + jnp.asarray(0.1), cost.control())
    limited = cost.replace(memory=4 * 120 * 8 * 400)
    np.testing.assert_allclose(limited(v), cost(v), rtol=1e-13)
