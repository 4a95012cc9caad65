"""A regulated lake: the protocol in plain NumPy, what is seen and what is not, gradients, and what is refused."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffassim.core.errors import ConfigurationError, DataError, ShapeError
from diffassim.decisions import Basin, Lake, episode_returns
from diffassim.decisions.problems.lake import day_of, day_weight

KEY = jax.random.key(0)
RNG = np.random.default_rng(1)
DAYS = 365
INFLOW = np.exp(RNG.normal(4.9, 0.8, (3, DAYS)))
DEMAND = np.exp(RNG.normal(4.7, 0.5, (3, DAYS)))
ASKED = RNG.uniform(-50, 700, (3, DAYS))


def transcribed(inflow, demand, asked):
    """Return rewards and levels of a year, hour by hour, as the protocol says it."""
    level, rewards, levels = 0.35, [], []
    for day in range(1, DAYS + 1):
        action, released = min(max(asked[day - 1], 0.0), 491.61), 0.0
        for _ in range(24):
            if level <= -0.5:
                least = most = 0.0
            else:
                rating = 33.37 * (level + 2.5) ** 2.015
                most = 1488.1 * level + 744.05 if level <= -0.4 else rating
                least = 5.0 if level <= 1.25 else rating
            release = min(most, max(least, action))
            released += release / 24
            level += (inflow[day - 1] - release) * 3600 / 145.9e6
        weight = 0.5 * (3 - math.cos(2 * math.pi * day / 365))
        cost = 1000.0 * (level > 1.24) + 250.0 * (level < -0.45)
        cost += weight * max(demand[day - 1] - max(released - 5, 0), 0)
        rewards.append(-cost)
        levels.append(level)
    return np.array(rewards), np.array(levels)


def played(lake, year, asked):
    state, seen = lake.year_start(year)
    rewards, levels, observations = [], [], [seen]
    step = jax.jit(lake.respond)
    for action in asked:
        found = step(state, jnp.asarray(action, lake.inflow.dtype)[None], None)
        state = found.state
        rewards.append(float(found.reward))
        levels.append(float(state.level))
        observations.append(found.observation)
    return np.array(rewards), np.array(levels), np.array(observations)


@pytest.mark.parametrize("scale", [0.1, 1.0, 4.0])  # droughts, and floods
def test_a_year_is_that_of_the_protocol(scale):
    lake = Lake(jnp.asarray(scale * INFLOW), jnp.asarray(DEMAND))
    rewards, levels, observations = played(lake, 1, ASKED[1])
    expected = transcribed(scale * INFLOW[1], DEMAND[1], ASKED[1])
    np.testing.assert_allclose(levels, expected[1], atol=1e-10)
    np.testing.assert_allclose(rewards, expected[0], rtol=1e-9, atol=1e-7)
    assert scale != 0.1 or (levels < -0.45).any()
    assert scale != 4.0 or (levels > 1.24).any()
    np.testing.assert_allclose(observations[1:, 0], levels, atol=1e-12)
    average = 0.0
    for day in range(DAYS - 1):
        assert int(day_of(observations[day], DAYS)) == day
        np.testing.assert_allclose(observations[day, 3], average, rtol=1e-12)
        average = 0.8 * average + 0.2 * DEMAND[1, day]


def test_single_precision_differs_by_rounding():
    lake = Lake(jnp.asarray(INFLOW, jnp.float32), jnp.asarray(DEMAND, jnp.float32))
    rewards, levels, _ = played(lake, 0, ASKED[0])
    expected = transcribed(INFLOW[0], DEMAND[0], ASKED[0])
    np.testing.assert_allclose(levels, expected[1], atol=2e-4)  # 8760 sums
    assert abs(rewards.sum() / expected[0].sum() - 1) < 0.02  # a flood may begin a day sooner
    assert lake.reset(KEY)[1].dtype == jnp.float32


def test_episodes_draw_years_by_their_chances():
    lake = Lake(jnp.asarray(INFLOW), jnp.asarray(DEMAND), chances=jnp.array([0.0, 1.0, 0.0]))
    years = jax.vmap(lambda key: lake.reset(key)[0].year)(jax.random.split(KEY, 20))
    assert set(years.tolist()) == {1}
    always = jax.tree_util.Partial(lambda observation, key: jnp.full(1, 120.0))
    returns = episode_returns(lake, always, KEY, 2)
    np.testing.assert_allclose(returns, transcribed(INFLOW[1], DEMAND[1], np.full(DAYS, 120.0))[0].sum(), rtol=1e-9)


def test_a_smaller_lake_with_smaller_flows_has_the_same_years():
    lake = Lake(jnp.asarray(INFLOW), jnp.asarray(DEMAND))
    small = Lake(jnp.asarray(0.2 * INFLOW), jnp.asarray(0.2 * DEMAND), basin=Basin().scaled(0.2))
    for a, b in zip(played(lake, 2, ASKED[2])[:2], played(small, 2, 0.2 * ASKED[2])[:2], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_what_is_seen_does_not_change_with_what_comes():
    later = INFLOW.copy(), DEMAND.copy()
    for values in later:
        values[:, 100:] *= 3
    plain, other = (Lake(jnp.asarray(a), jnp.asarray(b)) for a, b in ((INFLOW, DEMAND), later))
    a, b = (played(lake, 0, ASKED[0])[2] for lake in (plain, other))
    np.testing.assert_array_equal(a[:101], b[:101])
    assert (a[101] != b[101]).any()


def test_with_a_width_floods_have_a_derivative():
    basin = Basin()

    def cost(level, width):
        return basin.cost(level, jnp.asarray(200.0), jnp.asarray(50.0), jnp.asarray(1.0), width)

    level = jnp.asarray(1.25)
    assert float(jax.grad(cost)(level, 0.0)) == 0
    slope = float(jax.grad(cost)(level, 0.02))
    difference = (cost(level + 1e-6, 0.02) - cost(level - 1e-6, 0.02)) / 2e-6
    assert slope == pytest.approx(float(difference), rel=1e-6) and slope > 1000
    assert float(cost(level, 1e-4)) == pytest.approx(float(cost(level, 0.0)), rel=1e-6)
    gradient = jax.grad(lambda a: basin.day(jnp.asarray(0.4), jnp.asarray(150.0), a)[0])(jnp.asarray(100.0))
    assert float(gradient) == pytest.approx(-86400 / 145.9e6, rel=1e-12)


def test_the_weight_of_a_deficit_follows_the_season():
    weights = day_weight(jnp.arange(DAYS), DAYS, float)
    assert float(weights.max()) == pytest.approx(2, abs=1e-4) and float(weights[-1]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"demand": DEMAND[:2]}, ShapeError, "one shape"),
        ({"inflow": -INFLOW}, DataError, "inflow must be known and not negative"),
        ({"demand": np.where(DEMAND > 200, np.nan, DEMAND)}, DataError, "demand must be known"),
        ({"features": np.zeros((3, 5, 1))}, ShapeError, "features have shape"),
        ({"chances": np.ones(2)}, ShapeError, "chances"),
        ({"width": -1.0}, ConfigurationError, "width must not be negative"),
    ],
)
def test_what_is_no_lake_is_refused(change, error, words):
    with pytest.raises(error, match=words):
        Lake(**({"inflow": INFLOW, "demand": DEMAND} | change))


def test_a_basin_needs_a_surface():
    with pytest.raises(ConfigurationError, match="Basin: area"):
        Basin(area=0.0)
