"""Quasi-static growth: where a window is cut, how it grows, and that long ones reach their lowest minimum."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.variational.minimizers.growth import NEVER, Stage, judge, last_time_before, next_time

from .problems import lorenz96_window

ONE = da.covariances.Diagonal(std=1.0)
STREAMS = (
    da.Observations(jnp.zeros((3, 2)), [2, 5, 9], error=ONE),
    da.Observations(jnp.zeros((1, 1)), [4], error=ONE),
)
V = jnp.zeros(2)


def parts(first, second):
    """Whitened innovations of the two streams from the largest value of each row, which stands in the last column."""
    return (jnp.zeros((3, 2)).at[:, 1].set(jnp.asarray(first)), jnp.asarray(second)[:, None])


@pytest.mark.parametrize(("horizon", "following"), [(-1, 2), (2, 4), (4, 5), (5, 9), (9, 12), (12, 12)])
def test_the_next_time_is_that_of_any_stream(horizon, following):
    assert int(next_time(STREAMS, horizon, 12)) == following


@pytest.mark.parametrize(("time", "before"), [(2, -1), (4, 2), (5, 4), (NEVER, 9)])
def test_the_last_time_before(time, before):
    assert int(last_time_before(STREAMS, time)) == before


@pytest.mark.parametrize(
    ("change", "miss", "off_at", "close"),
    [
        (([1.0, 1.0, 1.0], [1.0]), ([0.0, 0.0, 0.4], [0.0]), NEVER, True),
        (([1.0, 1.0, 1.0], [1.0]), ([0.0, 0.0, 0.6], [0.0]), NEVER, False),
        (([1.0, 1.0, 1.0], [1.0]), ([0.0, -4.0, 5.0], [0.0]), 5, False),  # the earliest one
        (([1.0, 1.0, 1.0], [1.0]), ([0.0, 0.0, 4.0], [-4.0]), 4, False),  # of the other stream
        (
            ([9.0, 9.0, 9.0], [9.0]),
            ([0.0, 0.0, 4.0], [0.0]),
            NEVER,
            False,
        ),  # less than half of a large change
        (([9.0, 9.0, 9.0], [9.0]), ([0.0, 0.0, 0.8], [0.0]), NEVER, True),  # less than a tenth of it
        (([1.0, 1.0, 1.0], [1.0]), ([0.0, 0.0, np.nan], [0.0]), 9, False),
        (([1.0, np.inf, 1.0], [1.0]), ([0.0, np.inf, 0.0], [0.0]), 5, False),
    ],
)
def test_a_linearization_is_judged_by_its_worst_place(change, miss, off_at, close):
    judged = judge(STREAMS, parts(*change), parts(*miss), 0)
    assert (int(judged.off_at), bool(judged.close)) == (off_at, close)


def test_a_stream_without_rows_is_no_obstacle():
    nothing = (da.Observations(jnp.zeros((0, 3)), [], error=ONE),)
    judged = judge(nothing, (jnp.zeros((0, 3)),), (jnp.zeros((0, 3)),), 0)
    assert (int(judged.off_at), bool(judged.close)) == (NEVER, True) and int(next_time(nothing, -1, 7)) == 7


def test_the_second_attempt_is_stricter():
    change, miss = parts([1.0] * 3, [1.0]), parts([0.0, 2.0, 0.3], [0.0])
    assert int(judge(STREAMS, change, miss, 0).off_at) == NEVER and int(judge(STREAMS, change, miss, 1).off_at) == 5


def test_a_window_is_cut_before_the_failure_and_grows_by_doubling():
    whole = Stage.first(V, 9)
    cut = whole.shorter(STREAMS, 5)
    assert (int(cut.horizon), int(cut.stable_horizon)) == (4, -1)
    assert int(whole.shorter(STREAMS, 2).horizon) == 2  # no less than one observation time
    assert int(whole.shorter(STREAMS, NEVER).horizon) == 4  # nothing is finite, and nobody knows from where on: half
    grown = Stage.first(V, 2)._replace(increment=1).longer(STREAMS, V + 1, 20)
    assert (int(grown.horizon), int(grown.stable_horizon), int(grown.increment)) == (4, 2, 2)
    assert np.array_equal(grown.stable_v, V + 1)
    assert int(grown.longer(STREAMS, V, 20).horizon) == 8 and int(grown.longer(STREAMS, V, 8).horizon) == 8
    assert int(Stage.first(V, 9)._replace(increment=5).longer(STREAMS, V, 20).horizon) == 20  # no small rest
    second = Stage.first(V, 2, attempt=1)
    assert int(second.longer(STREAMS, V, 9).longer(STREAMS, V, 9).horizon) == 5  # one observation time after the other


@pytest.mark.slow
@pytest.mark.parametrize("seed", [3, 8])  # where halving on chi-square alone ended at its limit
def test_a_chaotic_window_reaches_the_minimum_by_the_truth(seed):
    cost, truth = lorenz96_window(10, seed, dt=0.05)
    found = da.minimize(cost)
    assert found.search.result == da.Result.CONVERGED
    horizons = np.asarray(found.search.horizon_history)[: int(found.search.iterations)]
    assert (horizons < cost.steps).any() and horizons[-1] == cost.steps
    assert float(found.cost) < float(cost({"state": jnp.asarray(truth) - cost.background})) - 10


@pytest.mark.slow
def test_the_full_hessian_takes_over_in_traced_code_too():
    cost, _ = lorenz96_window(10, 3, dt=0.05)
    here = da.minimize(cost)
    there = da.minimize(cost, da.GaussNewton(newton=True))
    np.testing.assert_allclose(here.state, there.state, atol=1e-4)
    assert there.search.result == da.Result.CONVERGED


@pytest.mark.slow
def test_a_doubtful_minimum_is_sought_again_by_finer_growth():
    cost, _ = lorenz96_window(10, 0, dt=0.05)
    stream = cost.observations[0]
    wrong = stream.replace(values=stream.values.at[4, 7].add(30.0))  # no trajectory of the model comes near it
    found = da.minimize(cost.replace(observations=wrong))
    assert int(found.search.attempts) == 2 and int(da.minimize(cost).search.attempts) == 1
