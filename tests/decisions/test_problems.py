"""Tables of the textbook, grids, and the reservoir: known values, exact steps, and what is refused."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffassim.core.errors import ConfigurationError, DataError, ShapeError
from diffassim.decisions import (
    Afterstates,
    Box,
    Discrete,
    Discretized,
    Environment,
    FiniteProblem,
    GridPolicy,
    Scalarized,
    Transition,
    WaterReservoir,
    episode_returns,
    fronts,
    hypervolume,
    pareto_front,
)
from diffassim.decisions.grid import grid_points, grid_weights, nearest_node
from diffassim.decisions.play import begin, go_on
from diffassim.decisions.problems import cliff_walk, random_walk
from diffassim.training.reinforcement import value_iteration

KEY = jax.random.key(0)


def test_an_interpolated_linear_function_is_itself_and_beyond_the_grid_its_edge():
    axes = (jnp.array([0.0, 1.0, 4.0]), jnp.array([-1.0, 0.0, 2.0, 3.0]))
    values = grid_points(axes) @ jnp.array([2.0, -3.0])
    for x, expected in (((0.3, 1.7), (0.3, 1.7)), ((4.0, 3.0), (4.0, 3.0)), ((9.0, -5.0), (4.0, -1.0))):
        index, weights = grid_weights(axes, jnp.array(x))
        np.testing.assert_allclose(weights @ values[index], 2 * expected[0] - 3 * expected[1], rtol=1e-12)
    assert int(nearest_node(axes, jnp.array([2.9, 2.4]))) == 2 * 4 + 2


def test_steps_of_a_table_come_as_often_as_it_says():
    P = jnp.array([[[0.2, 0.3], [1.0, 0.0]]])
    problem = FiniteProblem(P, jnp.zeros((2, 1)))
    found = jax.vmap(lambda key: problem.step(jnp.asarray(0), 0, key))(jax.random.split(KEY, 20_000))
    assert abs(float(jnp.mean(found.terminated)) - 0.5) < 0.02
    stays = ~found.terminated
    assert abs(float(jnp.sum(stays & (found.state == 1)) / jnp.sum(stays)) - 0.6) < 0.02
    certain = jax.vmap(lambda u: problem.respond(jnp.asarray(1), 0, u))(jnp.linspace(0, 1, 101))
    assert not bool(jnp.any(certain.terminated)) and not bool(jnp.any(certain.state))


def test_a_tabulated_reservoir_has_the_rewards_and_the_mass_of_its_steps():
    reservoir = WaterReservoir()
    axis = jnp.arange(0.0, 182, 2)
    problem = FiniteProblem.tabulate(reservoir, (axis,), jnp.array([[0.0], [50.0]]), count=200)
    np.testing.assert_allclose(problem.transitions.sum(-1), 1, rtol=1e-12)
    # 60 stored, 50 released: 10 + N(40, 10) is above 50 by 10 / sqrt(2 pi) in the mean
    np.testing.assert_allclose(problem.rewards[30, 1], [-10 / np.sqrt(2 * np.pi), 0], rtol=2e-3, atol=1e-12)
    np.testing.assert_allclose(problem.transitions[1, 30] @ axis, 50, rtol=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_reservoirs_in_both_precisions_and_both_kinds_of_actions(dtype):
    plain = WaterReservoir(starts=jnp.array([60.0, 130.0], dtype))
    fractions = plain.replace(fractions=True)
    for storage, release, fraction in ((60.0, 15.0, 0.25), (130.0, 55.0, 0.25)):
        state = plain.state_at(jnp.array([storage], dtype))
        one = plain.step(state, jnp.array([release], dtype), KEY)
        other = fractions.step(state, jnp.array([fraction], dtype), KEY)
        assert one.reward.dtype == one.observation.dtype == dtype
        np.testing.assert_allclose(one.reward, other.reward, rtol=1e-5)
    forced = plain.respond(plain.state_at(jnp.array([130.0], dtype)), jnp.zeros(1), jnp.asarray(0.0, dtype))
    assert forced.observation.tolist() == [100.0] and forced.reward.tolist() == [-50.0, -20.0]
    assert plain.replace(clock=True).reset(KEY)[1].shape == (2,)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of its bounds, rounded to single precision
def test_the_reservoir_is_that_of_mo_gymnasium():
    dam = pytest.importorskip("mo_gymnasium.envs.water_reservoir.dam_env", reason="mo-gymnasium is not installed")
    theirs, ours = dam.DamEnv(), WaterReservoir()
    np.testing.assert_allclose(np.sort(ours.starts), np.sort(theirs.s_init), rtol=1e-6)
    observation, _ = theirs.reset(seed=1)
    state = ours.state_at(jnp.asarray(observation, float))
    releases = np.random.default_rng(0).uniform(0, 120, 100)
    for k, release in enumerate(releases):
        observation, reward, _, truncated, _ = theirs.step(np.array([release]))
        found = ours.respond(state, jnp.array([release]), jnp.asarray(theirs.dam_inflow))
        np.testing.assert_allclose(found.observation, observation, rtol=1e-5)
        np.testing.assert_allclose(found.reward, reward, rtol=1e-4, atol=1e-4)
        state = found.state
        assert truncated == (k + 1 == ours.horizon)


@pytest.mark.slow
def test_episodes_end_at_terminals_and_begin_anew():
    problem = random_walk()
    returns = episode_returns(problem, lambda o, key: jnp.zeros((), int), KEY, 4000, steps=200)
    # each visit of the last state adds its expected reward; in the mean that is the value of the middle, 1/2
    assert abs(float(returns.mean()) - 0.5) < 0.05
    play = begin(problem, KEY, 500)
    for k in range(12):
        play, seen = go_on(problem, play, jnp.zeros(500, int), jax.random.fold_in(KEY, k))
    assert bool(jnp.any(seen.terminated)) and bool(jnp.all(play.age[seen.done] == 0))
    assert bool(jnp.all(play.observation[seen.done] == 2)) and not bool(jnp.any(seen.truncated))


class Ticket(Environment):
    """An environment whose state is the key that it began with."""

    horizon = 5

    def reset(self, key):
        return key, jax.random.uniform(key, (1,))

    def respond(self, state, action, disturbance):
        return Transition(state, action, jnp.zeros(()), jnp.asarray(False))


@pytest.mark.slow
@pytest.mark.parametrize("ends", [0, 1, 8, 9, 64])
@pytest.mark.parametrize(
    "environment", [Scalarized(WaterReservoir(length=5), [0.5, 0.5]), Ticket()], ids=["reservoir", "ticket"]
)
def test_first_states_are_the_same_however_many_episodes_end(environment, ends):
    """Of 64, up to eight are drawn alone: from the keys that all would have."""
    play = begin(environment, KEY, 64).replace(age=jnp.zeros(64, jnp.int32))
    ending = np.random.default_rng(ends).permutation(64)[:ends]
    play = play.replace(age=play.age.at[ending].set(4))
    key = jax.random.key(5)
    after, seen = jax.jit(go_on)(environment, play, jnp.full((64, 1), 50.0), key)
    assert sorted(np.flatnonzero(seen.truncated)) == sorted(ending)
    fresh, observation = jax.vmap(environment.reset)(jax.random.split(jax.random.split(key)[1], 64))
    expected = jnp.where(seen.truncated[:, None], observation, seen.following)
    np.testing.assert_array_equal(after.observation, expected)
    if isinstance(environment, Ticket):
        keys = np.asarray(jax.random.key_data(play.state)).copy()
        keys[ending] = jax.random.key_data(fresh)[ending]
        np.testing.assert_array_equal(jax.random.key_data(after.state), keys)


@pytest.mark.slow
@pytest.mark.parametrize("ends", [0, 3, 40])
def test_derivatives_pass_through_steps_after_which_some_begin_anew(ends):
    environment = Scalarized(WaterReservoir(length=5), [1.0, 0.0])
    play = begin(environment, KEY, 64).replace(age=jnp.where(jnp.arange(64) < ends, 4, 0))
    play = play.replace(state=play.state.replace(storage=jnp.full(64, 90.0)), observation=jnp.full((64, 1), 90.0))

    def left(action):
        return go_on(environment, play, action, KEY)[0].observation[:, 0].sum()

    slopes = jax.grad(left)(jnp.full((64, 1), 30.0))[:, 0]
    np.testing.assert_array_equal(slopes, jnp.where(jnp.arange(64) < ends, 0.0, -1.0))


def test_tables_of_whole_numbers_are_those_of_numbers():
    walk = FiniteProblem([[[0, 1], [0, 0]]], [[-1], [-1]], [1, 0])  # as one types a deterministic problem
    plain = FiniteProblem([[[0.0, 1.0], [0.0, 0.0]]], [[-1.0], [-1.0]], [1.0, 0.0])
    jax.tree.map(np.testing.assert_array_equal, walk, plain)
    assert value_iteration(walk).values.tolist() == [-2.0, -1.0]
    state, _ = walk.reset(KEY)
    assert int(walk.step(state, 0, KEY).observation) == 1


@pytest.mark.parametrize("start", [[0, 0], [0.5, 0.4], [0.5, 0.6]])
def test_first_states_have_probabilities_that_sum_to_one(start):
    with pytest.raises(DataError, match="start"):
        FiniteProblem([[[0, 1], [0, 0]]], [[-1], [-1]], start)


def test_time_limits_cut_off_and_discounts_count():
    reservoir = Scalarized(WaterReservoir(length=5), [0.5, 0.5])
    play = begin(reservoir, KEY, 64)
    assert len(set(play.age.tolist())) == 5
    cut = 0
    for k in range(5):
        play, seen = go_on(reservoir, play, jnp.full((64, 1), 50.0), jax.random.fold_in(KEY, k))
        cut += int(seen.truncated.sum())
        assert not bool(seen.terminated.any())
    assert cut == 64
    policy = GridPolicy((jnp.array([0.0, 200.0]),), jnp.array([[0.0], [0.0]]))
    once, all_of_it = (episode_returns(reservoir, policy, KEY, 3, discount=g) for g in (0.0, 1.0))
    assert bool(jnp.all(once > all_of_it)) and bool(jnp.all(once <= -25))
    with pytest.raises(ConfigurationError, match="horizon"):
        episode_returns(cliff_walk(), lambda o, key: 0, KEY, 3)


def test_fronts_and_areas():
    points = np.array([[0.0, 3.0], [2.0, 2.0], [1.0, 1.0], [3.0, 0.0], [2.0, 2.0]])
    assert pareto_front(points).tolist() == [True, True, False, True, True]
    # rectangles by hand, with points on and beyond the reference that add nothing
    assert hypervolume([[2, 1], [1, 2], [3, -1], [0, 9]], [0, 0]) == 3.0
    rng = np.random.default_rng(0)
    cloud, corner = rng.uniform(-1, 1, (40, 2)), np.array([-0.5, -0.7])
    samples = rng.uniform(-1, 1, (200_000, 2))
    inside = np.all(samples > corner, axis=1) & np.any(np.all(cloud[:, None] >= samples[None], axis=2), axis=0)
    assert abs(hypervolume(cloud, corner) - 4 * inside.mean()) < 0.02
    assert hypervolume(cloud[pareto_front(cloud)], corner) == pytest.approx(hypervolume(cloud, corner), rel=1e-12)
    with pytest.raises(ShapeError, match="do not fit"):
        hypervolume(np.zeros((3, 3)), [0, 0])
    for wrong in (lambda: pareto_front([[np.nan, 0.0]]), lambda: hypervolume([[1.0, 1.0]], [0.0, np.nan])):
        with pytest.raises(DataError, match="non-finite"):
            wrong()
    assert pareto_front(np.zeros((0, 3))).shape == (0,) and hypervolume(np.zeros((0, 3)), [0, 0, 0]) == 0.0


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_volumes_of_several_objectives_are_those_of_inclusion_and_exclusion(objectives):
    rng = np.random.default_rng(objectives)
    for count in (1, 2, 7):
        points = np.round(rng.uniform(-0.2, 1, (count, objectives)), 1)  # ties, and points that add nothing
        above = points[np.all(points > 0, axis=1)]
        terms = (
            (-1) ** (size + 1) * np.prod(np.min(above[list(chosen)], axis=0))
            for size in range(1, len(above) + 1)
            for chosen in itertools.combinations(range(len(above)), size)
        )
        assert hypervolume(points, np.zeros(objectives)) == pytest.approx(sum(terms), abs=1e-12)


def test_a_front_of_many_points_needs_little_memory(monkeypatch):
    points = np.random.default_rng(0).integers(0, 30, (500, 3)).astype(float)
    whole = pareto_front(points)
    monkeypatch.setattr(fronts, "COMPARED", 10_000)  # a few rows at a time
    np.testing.assert_array_equal(pareto_front(points), whole)
    by_hand = [not any((q >= p).all() and (q > p).any() for q in points) for p in points]
    np.testing.assert_array_equal(whole, by_hand)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: Discrete(0), ConfigurationError, "at least 1"),
        (lambda: Box([0.0], [0.0]), ConfigurationError, "below high"),
        (lambda: Box([0.0, 1.0], [2.0]), ShapeError, "one length"),
        (lambda: FiniteProblem(jnp.ones((1, 2, 2)), jnp.zeros((2, 1))), DataError, "sum to at most 1"),
        (lambda: FiniteProblem(jnp.eye(2)[None], jnp.zeros((1, 2))), ShapeError, "do not fit"),
        (lambda: FiniteProblem(-jnp.eye(2)[None], jnp.zeros((2, 1))), DataError, "probabilities"),
        (lambda: Scalarized(WaterReservoir(), [0.5, 0.4]), ConfigurationError, "sum to 1"),
        (lambda: Scalarized(WaterReservoir(), [1.5, -0.5]), ConfigurationError, "not be negative"),
        (lambda: Scalarized(cliff_walk(), [1.0]), ConfigurationError, "no objectives"),
        (lambda: Discretized(WaterReservoir(), (jnp.arange(3.0),)), ConfigurationError, "actions to choose from"),
        (lambda: Discretized(WaterReservoir(), (jnp.zeros(2),), jnp.zeros((2, 1))), ConfigurationError, "increase"),
        (lambda: Discretized(WaterReservoir(), (jnp.arange(3.0),) * 2, jnp.zeros((2, 1))), ShapeError, "2 axes"),
        (lambda: Afterstates(WaterReservoir(), (jnp.arange(3.0),) * 2, jnp.zeros((2, 1))), ShapeError, "2 axes"),
        (lambda: GridPolicy((jnp.arange(3.0),), jnp.zeros((2, 1))), ShapeError, "nodes need actions"),
        (lambda: WaterReservoir(inflow_std=-1.0), ConfigurationError, "inflow_std"),
        (lambda: WaterReservoir(length=0), ConfigurationError, "length"),
    ],
)  # fmt: skip
def test_what_is_refused(build, error, message):
    with pytest.raises(error, match=message):
        build()
