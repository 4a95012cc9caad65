"""Dynamic programming against the book, and agents with tables against dynamic programming."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffassim.core.errors import ConfigurationError
from diffassim.decisions import (
    Afterstates,
    Discrete,
    Environment,
    FiniteProblem,
    Scalarized,
    Transition,
    WaterReservoir,
)
from diffassim.decisions.problems import cliff_walk, five_by_five, four_by_four, random_walk
from diffassim.decisions.wrappers import Wrapper
from diffassim.training.reinforcement import (
    SARSA,
    MonteCarlo,
    QLearning,
    backward_induction,
    evaluate,
    policy_iteration,
    value_iteration,
)

KEY = jax.random.key(0)
# Sutton and Barto (2018), figures 3.2 and 3.5
RANDOM = [[3.3, 8.8, 4.4, 5.3, 1.5], [1.5, 3.0, 2.3, 1.9, 0.5], [0.1, 0.7, 0.7, 0.4, -0.4],
          [-1.0, -0.4, -0.4, -0.6, -1.2], [-1.9, -1.3, -1.2, -1.4, -2.0]]  # fmt: skip
BEST = [[22.0, 24.4, 22.0, 19.4, 17.5], [19.8, 22.0, 19.8, 17.8, 16.0], [17.8, 19.8, 17.8, 16.0, 14.4],
        [16.0, 17.8, 16.0, 14.4, 13.0], [14.4, 16.0, 14.4, 13.0, 11.7]]  # fmt: skip


def random_problem(states=12, actions=3):
    P, r = jax.random.split(KEY)
    P = jax.random.dirichlet(P, jnp.ones(states), (actions, states))
    return FiniteProblem(0.95 * P, jax.random.normal(r, (states, actions)))


def test_values_are_those_of_the_book():
    grid = five_by_five()
    np.testing.assert_allclose(evaluate(grid, jnp.full((25, 4), 0.25), 0.9).reshape(5, 5), RANDOM, atol=0.051)
    np.testing.assert_allclose(value_iteration(grid, 0.9).values.reshape(5, 5), BEST, atol=0.051)
    small = evaluate(four_by_four(), jnp.full((16, 4), 0.25)).reshape(4, 4)  # figure 4.1
    expected = [[0, -14, -20, -22], [-14, -18, -20, -20], [-20, -20, -18, -14], [-22, -20, -14, 0]]
    np.testing.assert_allclose(small, expected, atol=1e-9)
    np.testing.assert_allclose(evaluate(random_walk(19), jnp.zeros(19, int)), jnp.arange(1, 20) / 20, rtol=1e-12)


@pytest.mark.parametrize("discount", [0.9, 1.0])
@pytest.mark.parametrize("problem", [random_problem, four_by_four, cliff_walk], ids=["random", "grid", "cliff"])
def test_all_ways_to_the_best_policy_agree(problem, discount):
    problem = problem()
    swept, improved = value_iteration(problem, discount), policy_iteration(problem, discount)
    np.testing.assert_allclose(swept.values, improved.values, atol=1e-8)
    np.testing.assert_allclose(evaluate(problem, improved.policy, discount), improved.values, rtol=1e-12)
    assert float(improved.residual) < 1e-10 and float(swept.residual) <= 1e-10
    long = backward_induction(problem, 400, discount)
    np.testing.assert_allclose(long.values[0], improved.values, atol=1e-6)
    assert long.policy.shape == (400, problem.observation_space.n)


def test_plans_in_single_precision_and_of_weighted_objectives():
    problem = FiniteProblem(random_problem().transitions, jax.random.normal(KEY, (12, 3, 2)))
    with pytest.raises(ConfigurationError, match="2 objectives"):
        value_iteration(problem)
    weighted = problem.scalarized([0.25, 0.75])
    both = evaluate(problem, policy_iteration(weighted).policy)  # a value for each objective
    np.testing.assert_allclose(both @ jnp.array([0.25, 0.75]), policy_iteration(weighted).values, rtol=1e-10)
    single = jax.tree.map(lambda leaf: leaf.astype("float32"), weighted)
    found = policy_iteration(single)
    assert found.values.dtype == "float32"
    np.testing.assert_allclose(found.values, policy_iteration(weighted).values, rtol=1e-4)


def test_q_learning_reaches_the_value_of_dynamic_programming_on_the_cliff():
    agent, environment = QLearning(exploration=0.5, power=0.0), cliff_walk()
    state, rewards = agent.train(environment, agent.init(environment, KEY), 500)
    best = jax.vmap(agent.policy(environment, state))(jnp.arange(48))
    assert float(state.values[36].max()) == -13.0 and rewards.shape == (500,)
    # nearly without discount: a loop would have no value
    assert float(evaluate(environment, best, 0.999999)[36]) == pytest.approx(-13.0, abs=1e-3)


FADING = {
    "SARSA": (SARSA(exploration=0.5, halving=20.0, power=0.4), 2000),
    "Monte Carlo": (MonteCarlo(exploration=1.0, halving=1.0, power=0.5, length=60), 300),
}


@pytest.mark.parametrize("name", FADING)
def test_agents_whose_exploration_fades_reach_the_values_of_dynamic_programming(name):
    agent, updates = FADING[name]
    environment = four_by_four()
    state, _ = agent.train(environment, agent.init(environment, KEY), updates)
    best = jax.vmap(agent.policy(environment, state))(jnp.arange(16))
    expected = value_iteration(environment).values
    np.testing.assert_allclose(evaluate(environment, best, 0.999999), expected, atol=1e-3)
    np.testing.assert_allclose(state.values.max(1)[1:15], expected[1:15], atol=0.1)


@pytest.mark.long
@pytest.mark.parametrize("seed", [0, 1])
def test_sarsa_whose_exploration_fades_walks_along_the_cliff(seed):
    """Episodes begin anywhere with any action, so that all are tried for ever, though the policy explores ever less.

    From one start it stays in the row above: what lies along the cliff was learned while falls were frequent, and is
    tried again only where two explorations meet.
    """
    cells = np.r_[0:37]  # all but cliff and goal
    environment = cliff_walk().replace(start=jnp.zeros(48).at[cells].set(1 / 37))
    agent = SARSA(exploration=0.2, halving=20.0, power=0.6, exploring_starts=True)
    state, _ = agent.train(environment, agent.init(environment, jax.random.key(seed)), 8000)
    best = jax.vmap(agent.policy(environment, state))(jnp.arange(48))
    expected = value_iteration(environment).values[cells]
    np.testing.assert_allclose(evaluate(environment, best, 0.999999)[cells], expected, atol=1e-3)
    np.testing.assert_allclose(state.values.max(1)[cells], expected, atol=0.4)
    assert float(expected[36]) == -13


@pytest.mark.slow
@pytest.mark.parametrize("agent", [QLearning(exploration=1.0, power=0.7), MonteCarlo(length=200, power=1.0)])
def test_values_of_a_walk_by_chance_are_learned(agent):
    state, _ = agent.train(random_walk(), agent.init(random_walk(), KEY), 300)
    np.testing.assert_allclose(state.values[:, 0], jnp.arange(1, 6) / 6, atol=0.02)


def test_sarsa_learns_the_values_of_what_it_does():
    """With lasting exploration it keeps away from the cliff, as in the book's example 6.6."""
    agent = SARSA(exploration=0.1, power=0.7)
    environment = cliff_walk()
    state, _ = agent.train(environment, agent.init(environment, KEY), 6000)
    best = jnp.argmax(state.values, axis=1)
    soft = 0.9 * jax.nn.one_hot(best, 4) + 0.1 / 4
    np.testing.assert_allclose(state.values[36].max(), (evaluate(environment, soft))[36], rtol=0.2)
    assert float(state.values[36].max()) < -15


@pytest.mark.long
def test_training_goes_on_as_if_it_had_not_stopped_and_in_batches():
    agent, environment = QLearning(environments=16), cliff_walk()
    whole, _ = agent.train(environment, agent.init(environment, KEY), 30)
    parts, _ = agent.train(environment, agent.init(environment, KEY), 10)
    parts, _ = agent.train(environment, parts, 20)
    np.testing.assert_array_equal(whole.values, parts.values)
    keys = jnp.stack([KEY, jax.random.key(1)])
    many, _ = jax.vmap(lambda key: agent.train(environment, agent.init(environment, key), 30))(keys)
    np.testing.assert_allclose(many.values[0], whole.values, rtol=1e-12)


@pytest.mark.parametrize("averaging", [0.0, 3.0, float("inf")])
def test_the_policy_follows_the_weighted_mean_of_all_tables(averaging):
    agent, environment = QLearning(environments=16, averaging=averaging, exploration=0.5), cliff_walk()
    state, tables = agent.init(environment, KEY), []
    for _ in range(6):
        state, _ = agent.update(environment, state)
        tables.append(state.values)
    if averaging == float("inf"):
        expected = tables[-1]
    else:  # the share of a table is (1 + eta) / (t + eta), and what later ones leave of it
        shares = [(1 + averaging) / (t + averaging) for t in range(1, 7)]
        kept = [shares[t] * np.prod([1 - later for later in shares[t + 1 :]]) for t in range(6)]
        expected = sum(weight * table for weight, table in zip(kept, tables, strict=True))
        assert sum(kept) == pytest.approx(1)
    np.testing.assert_allclose(state.mean, expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(agent.policy(environment, state).values, state.mean)


class Failing(Wrapper):
    """A walk whose first place brings no number."""

    def respond(self, state, action, disturbance):
        found = self.environment.respond(state, action, disturbance)
        return found._replace(reward=jnp.where(state == 0, jnp.nan, found.reward))


@pytest.mark.slow
@pytest.mark.parametrize("agent", [QLearning(exploration=1.0), SARSA(exploration=1.0), MonteCarlo(length=30)])
def test_a_reward_that_is_no_number_spoils_nothing_else(agent):
    broken = Failing(random_walk())
    state, rewards = agent.train(broken, agent.init(broken, KEY), 50)
    assert bool(jnp.isnan(rewards).any()) and bool(jnp.all(jnp.isfinite(state.values)))
    assert bool(jnp.all(state.visits[1:] > 0)) and float(state.visits[0, 0]) == 0


@pytest.mark.parametrize("kind", [QLearning, SARSA])
def test_exploring_starts_learn_all_that_a_first_action_may_bring(kind):
    """Of steps that end an episode all actions are learned, though the policy itself never explores."""
    problem = random_problem()
    once = FiniteProblem(jnp.zeros_like(problem.transitions), problem.rewards)
    visits = {}
    for starts in (True, False):
        agent = kind(environments=64, exploration=0.0, power=0.0, exploring_starts=starts)
        state, _ = agent.train(once, agent.init(once, KEY, jnp.full((12, 3), -9.0)), 60)
        visits[starts] = np.asarray(state.visits)
        if starts:
            np.testing.assert_allclose(state.values, once.rewards, rtol=1e-10)
    assert visits[True].min() > 0 and np.all(np.sum(visits[False] > 0, axis=1) == 1)


def test_returns_of_a_window_have_as_many_rewards_at_every_visit():
    """One state whose reward is 1 for ever: the return of n steps is the sum of n powers of the discount."""
    forever = FiniteProblem(jnp.ones((1, 1, 1)), jnp.ones((1, 1)))
    for window in (1, 4, 10):
        agent = MonteCarlo(environments=4, discount=0.5, length=10, window=window, power=1.0)
        state, _ = agent.train(forever, agent.init(forever, KEY), 2)
        np.testing.assert_allclose(state.values[0, 0], 2 - 0.5 ** (window - 1), rtol=1e-12)
        assert float(state.visits[0, 0]) == 2 * 4 * (10 - window + 1)


def test_common_random_numbers_leave_only_what_actions_make_of_them():
    """Two constant releases from a full reservoir: with the same inflows the floods differ by exactly 10."""
    reservoir = Scalarized(WaterReservoir(length=1, starts=[100.0]), [1.0, 0.0])
    environment = Afterstates(reservoir, (jnp.array([0.0, 90.0, 100.0]),), jnp.array([[0.0], [10.0]]))
    agent = MonteCarlo(environments=64, common=64, exploration=1.0, power=1.0)
    state, _ = agent.train(environment, agent.init(environment, KEY), 1)
    np.testing.assert_allclose(state.values[1, 0] - state.values[2, 0], 10.0, rtol=1e-9)


class Luck(Environment):
    """One step, whose reward is what the action brings and the luck of all, from one of two states."""

    @property
    def action_space(self):
        return Discrete(3)

    @property
    def observation_space(self):
        return Discrete(2)

    @property
    def horizon(self):
        return 1

    def reset(self, key):
        place = jax.random.bernoulli(key, 0.3).astype(jnp.int32)
        return place, place

    def disturbance(self, key):
        return 100 * jax.random.normal(key)

    def respond(self, state, action, disturbance):
        gain = jnp.array([[0.0, 1.0, 2.0], [5.0, 3.0, 1.0]])[state, action]
        return Transition(state, state, gain + disturbance, jnp.asarray(True))


def test_common_luck_does_not_enter_differences_and_values_stay_those_of_all_returns():
    """However often entries were visited: luck of a hundred hardly moves their differences, its mean is the level."""
    agent = MonteCarlo(environments=96, common=32, exploration=1.0, power=1.0)
    state, _ = agent.train(Luck(), agent.init(Luck(), KEY), 1)
    assert len(np.unique(state.visits)) > 3
    np.testing.assert_allclose(state.values - state.values[0, 0], [[0, 1, 2], [5, 3, 1]], atol=3)
    state, _ = agent.train(Luck(), state, 1999)
    found = np.asarray(state.values)
    np.testing.assert_allclose(found - found[0, 0], [[0, 1, 2], [5, 3, 1]], atol=0.5)
    assert abs(found.mean() - 2) < 5  # three standard deviations of six thousand draws of luck
    alone = MonteCarlo(environments=96, exploration=1.0, power=1.0)
    state, _ = alone.train(Luck(), alone.init(Luck(), KEY), 2000)
    apart = np.asarray(state.values - state.values[0, 0]) - [[0, 1, 2], [5, 3, 1]]
    assert np.abs(apart).max() > 2 * np.abs(found - found[0, 0] - [[0, 1, 2], [5, 3, 1]]).max()


@pytest.mark.long
def test_values_of_afterstates_are_those_of_dynamic_programming():
    """One step of a reservoir that is empty at first: the value of what is left is the mean flood it brings."""
    reservoir = Scalarized(WaterReservoir(length=1, starts=[20.0, 60.0, 90.0]), [0.5, 0.5])
    environment = Afterstates(reservoir, (jnp.linspace(0.0, 90.0, 10),), jnp.arange(0.0, 91, 10)[:, None])
    agent = QLearning(environments=2048, exploration=1.0, power=1.0, discount=0.0)
    state, _ = agent.train(environment, agent.init(environment, KEY), 100)
    inflow, probability = reservoir.disturbances(400)
    left = jnp.arange(0.0, 61, 10)
    flood = jnp.maximum(left[:, None] + inflow[None] - 50, 0) @ probability
    np.testing.assert_allclose(state.values[:7, 0], -0.5 * flood, atol=0.15)  # means of some ten thousand floods
    policy = agent.policy(environment, state)
    assert policy(jnp.array([90.0])).tolist() == [90.0]  # beyond the demand it costs nothing, and leaves no flood


def test_what_is_refused():
    for build, message in (
        (lambda: QLearning(exploration=1.5), "exploration"),
        (lambda: SARSA(discount=-0.1), "discount"),
        (lambda: QLearning(environments=0), "environments"),
        (lambda: QLearning().init(WaterReservoir(), KEY), "Discretized"),
        (lambda: QLearning().init(random_walk(), KEY, start=jnp.zeros((2, 2))), "table of shape"),
        (lambda: QLearning(averaging=-1.0), "averaging"),
        (lambda: QLearning(halving=0.0), "halving"),
        (lambda: SARSA(discount=float("nan")), "discount"),
        (lambda: MonteCarlo(environments=6, common=4), "multiple of common"),
        (lambda: MonteCarlo(length=5, window=6).update(random_walk(), MonteCarlo().init(random_walk(), KEY)), "window"),
        (lambda: MonteCarlo().train(random_walk(), MonteCarlo().init(random_walk(), KEY), 1), "length"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            build()


@pytest.mark.parametrize("discount", [-0.1, 1.5, np.nan])
def test_a_discount_outside_of_its_range_is_named(discount):
    problem = cliff_walk()
    policy = jnp.zeros(problem.rewards.shape[0], int)
    for plan in (
        lambda: value_iteration(problem, discount),
        lambda: policy_iteration(problem, discount),
        lambda: backward_induction(problem, 3, discount),
        lambda: evaluate(problem, policy, discount),
    ):
        with pytest.raises(ConfigurationError, match=r"discount=.* must lie between 0 and 1"):
            plan()
