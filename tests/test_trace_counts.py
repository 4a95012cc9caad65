"""New numbers of the same shapes reuse the compiled program: nothing is traced again."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from benchmarks.problems import lorenz96_window

COST = lorenz96_window(3, seed=0)[0]
STREAM = COST.observations[0]
MASK = np.arange(40) % 3 > 0

CHANGES = {
    "R": {"observations": STREAM.replace(error=da.covariances.Diagonal(std=0.7))},
    "B": {"B": da.covariances.Diagonal(std=1.3)},
    "mask": {"observations": da.Observations(STREAM.values, STREAM.steps, error=STREAM.error, mask=MASK)},
    "missing values": {
        "observations": da.Observations(jnp.where(MASK, STREAM.values, jnp.nan), STREAM.steps, error=STREAM.error)
    },
    "model parameter": {"model": COST.model.replace(forcing=7.5, dt=0.012)},
    "observation set": {"observations": da.Observations(STREAM.values + 0.1, [1, 4, 9], error=STREAM.error)},
    "background": {"background": COST.background + 0.1},
}


@pytest.fixture(scope="module")
def analysis():
    chex.clear_trace_counter()
    state = jax.jit(chex.assert_max_traces(lambda cost: da.minimize(cost).state, n=1))
    return state, state(COST)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_numbers_is_not_traced_again(analysis, name):
    state, unchanged = analysis
    assert not np.allclose(state(COST.replace(**CHANGES[name])), unchanged)  # else nothing was changed


def test_another_shape_would_be_noticed(analysis):
    state, _ = analysis
    fewer = da.Observations(STREAM.values[:2], STREAM.steps[:2], error=STREAM.error)
    with pytest.raises(AssertionError, match="is traced > 1 times"):
        state(COST.replace(observations=fewer))


@pytest.mark.slow
def test_the_gradient_through_the_solution_is_traced_once():
    def total(cost):
        return jnp.sum(da.minimize(cost).state)

    chex.clear_trace_counter()
    gradient = jax.jit(jax.grad(chex.assert_max_traces(total, n=1), allow_int=True))
    for change in ({}, CHANGES["R"], CHANGES["mask"], CHANGES["model parameter"]):
        assert np.isfinite(gradient(COST.replace(**change)).background).all()


def test_further_outer_loops_are_not_traced_again():
    def iterations(cost, tolerance):
        return da.minimize(cost, da.GaussNewton(tolerance=tolerance, growth=None)).search.iterations

    chex.clear_trace_counter()
    count = jax.jit(chex.assert_max_traces(iterations, n=1))
    assert count(COST, 1e2) < count(COST, 1e-8)
