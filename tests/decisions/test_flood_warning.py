"""Warnings of a day: costs, forecasts that are martingales, outcomes of the same mean, and what is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from diffassim.core.errors import ConfigurationError, DataError, ShapeError
from diffassim.decisions import Afterstates, FiniteProblem, episode_returns, expected_returns
from diffassim.decisions.problems import FloodWarning, RecordedWarning, WarningCosts

KEY = jax.random.key(0)
SPREADS = (0.4, 0.7, 0.9)


def warning(outcomes=False, shares=False, cancellation=0.5, dtype=jnp.float64):
    costs = WarningCosts(miss=[8.0, 10.0, 12.0], cancellation=cancellation, shares=shares)
    return FloodWarning(costs, jnp.asarray(SPREADS, dtype), 1.2, 1.5, outcomes=outcomes)


def by_forecast(observation, key=None):
    return (observation[0] > 0.8).astype(jnp.int32)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_the_costs_of_a_day_are_those_of_its_leads(dtype):
    w = warning(dtype=dtype)
    for lead, standing, action in ((2, 0, 1), (1, 1, 0), (0, 1, 1), (0, 0, 0)):
        state = w.state_at(jnp.asarray([0.9, lead, standing], dtype))
        found = w.respond(state, action, (0.0, 0.0))
        p = norm.cdf((0.9 - 1.5) / SPREADS[lead])
        expected = action * (1 - p) + (8, 10, 12)[lead] * (1 - action) * p + 0.5 * max(standing - action, 0)
        np.testing.assert_allclose(found.reward, -expected, rtol=1e-6)
        assert found.reward.dtype == dtype and bool(found.terminated) == (lead == 0)


@pytest.mark.slow
def test_forecasts_are_revised_by_what_their_spreads_lack():
    w = warning()
    _, first = jax.vmap(w.reset)(jax.random.split(KEY, 40_000))
    np.testing.assert_allclose(first[:, 0].std(), np.sqrt(1.2**2 - 0.9**2), rtol=0.02)
    state = w.state_at(jnp.array([0.3, 2.0, 0.0]))
    found = jax.vmap(lambda key: w.step(state, 0, key))(jax.random.split(KEY, 40_000))
    np.testing.assert_allclose(found.observation[:, 0].mean(), 0.3, atol=0.01)
    np.testing.assert_allclose(found.observation[:, 0].std(), np.sqrt(0.9**2 - 0.7**2), rtol=0.02)
    # the probability of today is the mean of those of tomorrow
    ahead = jax.vmap(w.probability)(found.observation[:, 0], jnp.ones(40_000, jnp.int32))
    np.testing.assert_allclose(ahead.mean(), w.probability(0.3, 2), atol=0.004)


def test_equal_spreads_revise_nothing():
    w = FloodWarning(WarningCosts(), spreads=np.full(2, 1 / 3), variability=1 / 3)
    found = jax.jit(lambda: w.respond(w.state_at(jnp.array([0.2, 1.0, 0.0])), 1, (3.0, 0.0)))()
    assert float(found.observation[0]) == 0.2 and float(w.climate) == 0


@pytest.mark.slow
def test_drawn_outcomes_cost_the_same_in_the_mean():
    means = [episode_returns(warning(outcomes), by_forecast, KEY, 20_000) for outcomes in (False, True)]
    error = np.std(means[1]) / 20_000**0.5
    assert abs(means[0].mean() - means[1].mean()) < 4 * error
    assert np.std(means[1]) > 1.2 * np.std(means[0])


@pytest.mark.slow
def test_the_mean_of_episodes_is_that_of_the_grid():
    w = warning(shares=True)
    policy = lambda observation, key: jnp.clip(observation[:1], 0, 1)  # noqa: E731  any part of those concerned
    axes = (jnp.linspace(-6, 6, 301), jnp.arange(3.0), jnp.linspace(0, 1, 21))
    nodes = jnp.linspace(-5, 5, 201)
    starts = jnp.stack([w.climate * nodes, jnp.full(201, 2.0), jnp.zeros(201)], axis=1)
    density = jnp.exp(-(nodes**2) / 2)
    exact = jnp.sum(density * expected_returns(w, jax.tree_util.Partial(policy), axes, starts)) / density.sum()
    drawn = episode_returns(w, policy, KEY, 10_000)
    assert abs(drawn.mean() - exact) < 4 * np.std(drawn) / 100


@pytest.mark.slow
def test_tables_know_the_costs_before_chance():
    w = warning(shares=True)
    cells = Afterstates(w, (jnp.linspace(-3, 3, 7), jnp.arange(3.0), jnp.array([0.0, 1.0])), jnp.array([[0.0], [1.0]]))
    known, _, weights = cells.look(jnp.array([0.5, 1.0, 1.0]), 0)
    assert float(known) == -0.5 and float(weights.sum()) == 1
    problem = FiniteProblem.tabulate(w, cells.axes, cells.actions, count=41)
    ends = problem.transitions.sum(-1).reshape(2, 7, 3, 2)
    np.testing.assert_allclose(ends[:, :, 0], 0, atol=1e-12)
    np.testing.assert_allclose(ends[:, :, 1:], 1, rtol=1e-12)


def test_costs_have_derivatives_by_parts_of_those_warned():
    w = warning(shares=True, outcomes=True)
    slope = jax.grad(lambda a: w.step(w.state_at(jnp.array([3.0, 1.0, 0.0])), a, KEY).reward)(jnp.array([0.3]))
    np.testing.assert_allclose(slope, [10.0])  # the flood comes, a tenth more of them warned saves 1


def test_a_record_costs_what_came_of_it():
    known = np.random.default_rng(0).normal(size=(50, 3, 2))
    flood = known[:, 0, 0] > 1
    record = RecordedWarning(WarningCosts(cancellation=0.5), known, flood)
    states = jax.vmap(record.state_at_day)(jnp.arange(50))
    found = episode_returns(record, by_forecast, KEY, 50, starts=(states, jax.vmap(record.look)(states)))
    a = known[:, ::-1, 0] > 0.8
    y = flood[:, None]
    withdrawn = np.maximum(np.diff(-np.concatenate([np.zeros((50, 1)), a], axis=1).astype(float), axis=1), 0)
    np.testing.assert_allclose(-found, ((a & ~y) + 10.0 * (~a & y) + 0.5 * withdrawn).sum(1), rtol=1e-12)
    days = jax.vmap(lambda key: record.reset(key)[0].known)(jax.random.split(KEY, 2000))
    assert int(days.min()) == 0 and int(days.max()) == 49


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: WarningCosts(miss=-1.0), ConfigurationError, "miss must be finite and not negative, found -1"),
        (lambda: WarningCosts(cancellation=np.nan), ConfigurationError, "cancellation must be finite"),
        (lambda: WarningCosts(miss=0.0, false_alarm=0.0), ConfigurationError, "both zero"),
        (lambda: WarningCosts(miss=[1.0, 0.0], false_alarm=[1.0, 0.0]), ConfigurationError, "both zero"),
        (lambda: WarningCosts(miss=[1.0, 2.0], false_alarm=[1.0] * 3), ShapeError, "miss of shape"),
        (lambda: WarningCosts(cancellation=[1.0]), ShapeError, "cancellation of shape"),
        (lambda: FloodWarning(WarningCosts(miss=[1.0, 2.0]), SPREADS, 2.0), ShapeError, "for 3 leads"),
        (lambda: FloodWarning(WarningCosts(), (0.5, 0.4)), ConfigurationError, "must not decrease"),
        (lambda: FloodWarning(WarningCosts(), (0.5, 1.4)), ConfigurationError, "variability=1 lies below"),
        (lambda: FloodWarning(WarningCosts(), 0.5), ShapeError, "spreads must be a vector"),
        (lambda: FloodWarning(WarningCosts(), (0.0, 0.5)), ConfigurationError, "spreads must be finite and positive"),
        (lambda: FloodWarning(WarningCosts(), (0.5,), threshold=np.inf), DataError, "threshold"),
        (lambda: RecordedWarning(WarningCosts(), np.zeros((3, 2)), [0, 1, 0]), ShapeError, "do not fit"),
        (lambda: RecordedWarning(WarningCosts(), np.full((1, 2, 1), np.nan), [0]), DataError, "Leave out days"),
        (lambda: RecordedWarning(WarningCosts(), np.zeros((2, 1, 1)), [0, 2]), DataError, "0 or 1"),
    ],
)
def test_what_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
