"""Agents with gradients: against differences, closed forms, and the Riccati gain."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.core.pytree import Pytree
from diffassim.covariances import Diagonal
from diffassim.decisions import Box, FiniteProblem, GridPolicy, Scalarized, WaterReservoir, episode_returns
from diffassim.decisions.play import begin
from diffassim.decisions.problems import cliff_walk, linear_quadratic, riccati_gain
from diffassim.decisions.problems.linear_quadratic import QuadraticCost
from diffassim.decisions.wrappers import Wrapper
from diffassim.training.reinforcement import (
    PPO,
    CategoricalPolicy,
    GaussianPolicy,
    Pathwise,
    PolicyGradient,
    actor_critic,
    mean_return,
    policy_for,
)
from diffassim.training.reinforcement.rollouts import Rollout, _scales, advantages, against_others, roll_out, shuffled

KEY = jax.random.key(0)
A, B = jnp.array([[0.9, 0.4], [0.0, 0.9]]), jnp.array([[0.0], [1.0]])
COST = QuadraticCost(jnp.eye(2), 0.5 * jnp.eye(1))
GAIN, VALUE = riccati_gain(A, A @ B, COST)


class LinearPolicy(Pytree):
    gain: object

    def __call__(self, observation, key=None):
        return -self.gain @ observation


def regulator(length=40, dtype=float):
    start = lambda key: jax.random.normal(key, (2,), dtype)  # noqa: E731
    cost = jax.tree.map(lambda leaf: leaf.astype(dtype), COST)
    environment = linear_quadratic(A.astype(dtype), B.astype(dtype), cost, start, Q=Diagonal(std=0.1), length=length)
    return environment.replace(actions=Box(jnp.array([-3.0], dtype), jnp.array([3.0], dtype)))  # hardly ever reached


def test_the_riccati_gain_is_a_fixed_point_and_the_best_of_its_neighbors():
    inputs = A @ B
    np.testing.assert_allclose(VALUE, COST.state + A.T @ VALUE @ (A - inputs @ GAIN), rtol=1e-10)
    # cost-to-go without noise by simulation
    x, total = jnp.array([1.0, -0.5]), 0.0
    for _ in range(200):
        a = -GAIN @ x
        total += COST(x, a, None, 0)
        x = A @ (x + B @ a)
    np.testing.assert_allclose(total, jnp.array([1.0, -0.5]) @ VALUE @ jnp.array([1.0, -0.5]), rtol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_the_pathwise_gradient_is_that_of_differences(discount):
    environment, policy = regulator(10), LinearPolicy(0.5 * GAIN)
    score = lambda gain: mean_return(policy.replace(gain=gain), environment, KEY, 8, 10, discount)  # noqa: E731
    gradient, h = jax.grad(score)(policy.gain), 1e-6
    for k in range(2):
        moved = h * jnp.eye(2)[k][None]
        difference = (score(policy.gain + moved) - score(policy.gain - moved)) / (2 * h)
        np.testing.assert_allclose(gradient[0, k], difference, rtol=1e-6)
    plain = episode_returns(environment, policy, KEY, 8, discount=discount).mean()
    assert score(policy.gain).shape == () and abs(float(score(policy.gain) - plain)) < 1e-9 * abs(float(plain))


@pytest.mark.slow
def test_pathwise_training_converges_to_the_riccati_gain():
    environment = regulator()
    agent = Pathwise(environments=64, optimizer=optax.adam(optax.exponential_decay(0.05, 100, 0.2), b2=0.9))
    state, rewards = agent.train(environment, agent.init(environment, KEY, LinearPolicy(jnp.zeros((1, 2)))), 300)
    np.testing.assert_allclose(state.trainable.gain, GAIN, atol=0.03)  # of 40 steps; the limit has no end
    assert rewards[-1] > rewards[0]


@pytest.mark.long
def test_a_network_learns_a_policy_through_the_model():
    environment = regulator()
    agent = Pathwise(environments=64)
    state, _ = agent.train(environment, agent.init(environment, KEY, policy_for(environment, KEY, units=(16,))), 300)
    best, found = (
        episode_returns(environment, policy, jax.random.key(9), 500).mean()
        for policy in (LinearPolicy(GAIN), agent.policy(environment, state))
    )
    assert best * 1.05 < found < best * 0.98  # costs: within 5 %, and not below the best


CLIPPED = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(3e-3))
FADING = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(optax.cosine_decay_schedule(5e-3, 800)))
SAMPLING = {  # agent, updates, and by how much the cost may lie above the best one
    "PPO": (PPO(steps=16, discount=0.95, optimizer=CLIPPED), 120, 0.1),
    "policy gradient": (PolicyGradient(steps=16, discount=0.95, optimizer=FADING), 800, 0.08),
}


@pytest.mark.long
@pytest.mark.parametrize("name", SAMPLING)
def test_sampling_comes_near_the_cost_of_the_regulator(name):
    """Without control the cost is twelve times the best one."""
    agent, updates, margin = SAMPLING[name]
    environment = regulator()
    start = actor_critic(environment, jax.random.key(5), units=(32,), discount=0.95)
    state, rewards = agent.train(environment, agent.init(environment, KEY, start), updates)
    best, found = (
        float(episode_returns(environment, policy, jax.random.key(9), 500).mean())
        for policy in (LinearPolicy(GAIN), agent.policy(environment, state))
    )
    assert (1 + margin) * best < found < 0.98 * best
    assert bool(jnp.all(jnp.isfinite(rewards)))


def test_advantages_are_those_of_returns_by_hand():
    rewards = jnp.array([1.0, 2.0, 3.0, 4.0])[:, None]
    seen = jnp.arange(4.0)[:, None, None]
    ends, cuts = jnp.array([False, True, False, False])[:, None], jnp.array([False, False, False, True])[:, None]
    rollout = Rollout(seen, None, None, rewards, seen + 1, ends, ends | cuts)
    value = lambda o: 10 * o[0]  # noqa: E731
    A, target = advantages(value, rollout, 0.5, 1.0)
    # the first episode ends with the second step; the other one is cut off, with value 40 behind it
    np.testing.assert_allclose(target[:, 0], [1 + 0.5 * 2, 2, 3 + 0.5 * (4 + 0.5 * 40), 4 + 0.5 * 40], rtol=1e-12)
    np.testing.assert_allclose(A[:, 0], target[:, 0] - 10 * jnp.arange(4.0), rtol=1e-12)
    one_step, _ = advantages(value, rollout, 0.5, 0.0)
    np.testing.assert_allclose(one_step[:, 0], [1 + 5 - 0, 2 - 10, 3 + 15 - 20, 4 + 20 - 30], rtol=1e-12)


def test_common_luck_is_taken_off_advantages():
    luck, own = jax.random.normal(KEY, (5, 3)), jax.random.normal(jax.random.key(1), (5, 3, 4))
    lucky, unlucky = (against_others((own + L * luck[..., None]).reshape(5, 12), 4) for L in (1.0, 100.0))
    np.testing.assert_allclose(lucky, unlucky, atol=1e-11)
    others = (own.sum(2, keepdims=True) - own) / 3
    np.testing.assert_allclose(lucky, (own - others).reshape(5, 12), rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(against_others(luck, 1), luck)


class Still(Pytree):
    """A policy that draws nothing, of a network that is the same everywhere."""

    def draw(self, observation, key):
        return jnp.full(1, 40.0)

    def log_density(self, observation, u):
        return jnp.zeros(())

    def action(self, u):
        return u


@pytest.mark.slow
def test_groups_begin_together_and_meet_the_same_disturbances():
    environment = Scalarized(WaterReservoir(length=5), [0.5, 0.5])
    play = begin(environment, KEY, 12)
    _, seen = roll_out(environment, Still(), play, KEY, 9, common=4)
    found = seen.observation.reshape(9, 3, 4)
    np.testing.assert_array_equal(found, jnp.broadcast_to(found[..., :1], found.shape))  # ends and first states too
    np.testing.assert_array_equal(found[0, :, 0], play.observation[::4, 0])
    assert len(np.unique(found[8])) == 3 and bool(seen.done.any())


@pytest.mark.long
def test_what_actions_bring_is_learned_where_luck_hides_it():
    """Releases of a reservoir with a wild inflow: the gradients of two trainings agree far better with common luck."""
    environment = Scalarized(WaterReservoir(inflow_std=40.0), [0.5, 0.5])
    start = actor_critic(environment, KEY, units=(4,), std=0.01, first=jnp.array([50.0]))

    def slope(common, key):
        agent = PolicyGradient(64, 16, 0.9, 1.0, optimizer=optax.sgd(1.0), common=common)
        state, _ = agent.update(environment, agent.init(environment, key, start))
        change = jax.tree.map(jnp.subtract, state.trainable.policy.network, start.policy.network)
        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(change)])

    agree = {}
    for common in (1, 16):
        slopes = jax.vmap(lambda key, common=common: slope(common, key))(jax.random.split(KEY, 8))
        slopes = slopes / jnp.linalg.norm(slopes, axis=1, keepdims=True)
        agree[common] = float((slopes @ slopes.T)[~np.eye(8, dtype=bool)].mean())
    assert agree[16] > 0.4 and agree[1] < 0.2, agree


@pytest.mark.parametrize("count", [1, 2, 7, 64, 1000, 70_000])
def test_shuffled_numbers_are_all_of_them(count):
    np.testing.assert_array_equal(np.sort(shuffled(KEY, count)), np.arange(count))


def test_every_number_comes_anywhere_with_the_same_probability():
    orders = np.asarray(jax.vmap(lambda key: shuffled(key, 6))(jax.random.split(jax.random.key(1), 30_000)))
    counts = np.stack([np.bincount(column, minlength=6) for column in orders.T])
    assert (
        np.sum((counts - 5000) ** 2 / 5000) < 60
    )  # chi-square of 25 degrees of freedom: one draw in 10,000 lies above
    pairs = np.bincount(6 * orders[:, 0] + orders[:, 1], minlength=36).reshape(6, 6)
    assert np.trace(pairs) == 0 and np.sum((pairs[~np.eye(6, dtype=bool)] - 1000) ** 2 / 1000) < 65  # 29 degrees


def test_densities_of_policies_sum_to_one_and_entropies_are_their_means():
    policy = GaussianPolicy(lambda o: o, jnp.array([0.3]), Box([0.0], [2.0]))
    u = jnp.linspace(-20, 20, 40_001)
    density = jnp.exp(jax.vmap(lambda u: policy.log_density(jnp.array([0.5]), u[None]))(u))
    np.testing.assert_allclose(jnp.sum(density) * 1e-3, 1, rtol=1e-9)
    np.testing.assert_allclose(-jnp.sum(density * jnp.log(density)) * 1e-3, policy.entropy(jnp.zeros(1)), rtol=1e-6)
    assert policy(jnp.array([9.0])).tolist() == [2.0] and policy.action(jnp.array([9.0])).tolist() == [10.0]
    some = CategoricalPolicy(lambda o: o)
    logits = jnp.array([0.1, 2.0, -1.0])
    p = jnp.exp(jax.vmap(some.log_density, in_axes=(None, 0))(logits, jnp.arange(3)))
    np.testing.assert_allclose([p.sum(), -(p * jnp.log(p)).sum()], [1, some.entropy(logits)], rtol=1e-12)
    np.testing.assert_allclose(p, jax.nn.softmax(logits), rtol=1e-12)
    both = some.judge(logits, jnp.asarray(2))
    np.testing.assert_array_equal(both, [some.log_density(logits, jnp.asarray(2)), some.entropy(logits)])
    draws = jax.vmap(some.draw, in_axes=(None, 0))(logits, jax.random.split(KEY, 4000))
    np.testing.assert_allclose(jnp.bincount(draws, length=3) / 4000, p, atol=0.03)


def test_squashed_actions_stay_within_their_range_and_have_a_gradient():
    policy = GaussianPolicy(lambda o: o, jnp.zeros(2), Box([0.0, -jnp.inf], [10.0, jnp.inf]), squashed=True)
    action = policy(jnp.array([2.0, 3.0]))
    np.testing.assert_allclose(action, [5 + 5 * np.tanh(2.0), 3.0], rtol=1e-12)
    np.testing.assert_allclose(policy.units(action), [2.0, 3.0], rtol=1e-12)
    slope = jax.jacobian(policy)(jnp.array([4.0, 3.0]))
    assert 0 < float(slope[0, 0]) < 0.01 and float(slope[1, 1]) == 1


@pytest.mark.parametrize("squashed", [False, True])
def test_an_untrained_policy_takes_the_first_action_that_is_given(squashed):
    environment = Scalarized(WaterReservoir(length=5), [0.5, 0.5])
    policy = policy_for(environment, KEY, units=(4,), first=[50.0], squashed=squashed)
    both = actor_critic(environment, KEY, units=(4,), first=[50.0], squashed=squashed)
    for some in (policy, both.policy):
        np.testing.assert_allclose(jax.vmap(some)(jnp.array([[0.0], [70.0]])), [[50.0], [50.0]], rtol=1e-6)
    for wrong, message in (([1.0, 2.0], "first action of shape"),):
        with pytest.raises(ShapeError, match=message):
            policy_for(environment, KEY, first=wrong)


def test_the_policy_gradient_is_that_of_the_expected_return():
    """A bandit with three arms: the mean of score times reward against the derivative of the sum over arms."""
    rewards, logits = jnp.array([1.0, -2.0, 0.5]), jnp.array([0.2, 0.1, -0.3])
    expected = jax.grad(lambda logits: jax.nn.softmax(logits) @ rewards)(logits)
    policy = lambda logits: CategoricalPolicy(lambda o: logits)  # noqa: E731
    draws = jax.vmap(policy(logits).draw, in_axes=(None, 0))(jnp.zeros(1), jax.random.split(KEY, 40_000))
    score = jax.vmap(jax.grad(lambda logits, u: policy(logits).log_density(jnp.zeros(1), u)), in_axes=(None, 0))
    np.testing.assert_allclose((score(logits, draws) * rewards[draws][:, None]).mean(0), expected, atol=0.02)


@pytest.mark.slow
def test_gradients_do_not_reach_bounds_and_axes():
    environment = Scalarized(WaterReservoir(length=5), [0.5, 0.5])
    policy = GridPolicy((jnp.array([0.0, 100.0]),), jnp.array([[0.0], [50.0]]))
    gradient = jax.grad(mean_return)(policy, environment, KEY, 4, 5)
    assert float(jnp.abs(gradient.axes[0]).sum()) == 0 and float(jnp.abs(gradient.actions).sum()) > 0
    agent = Pathwise(environments=4, optimizer=optax.sgd(1e3))
    state = agent.init(environment, KEY)
    trained, _ = agent.train(environment, state, 2)
    np.testing.assert_array_equal(trained.trainable.space.high, state.trainable.space.high)
    np.testing.assert_array_equal(trained.trainable.network.center, state.trainable.network.center)


@pytest.mark.slow
def test_short_updates_of_lasting_environments_are_not_short_sighted_with_a_tail():
    environment = regulator()
    optimizer = optax.adam(optax.exponential_decay(0.05, 100, 0.2), b2=0.9)

    def gain(**options):
        agent = Pathwise(64, optimizer=optimizer, lasting=True, **options)
        state = agent.init(environment, KEY, LinearPolicy(jnp.zeros((1, 2))))
        state, _ = agent.train(environment, state, 300)
        assert state.play.age.shape == (64,)
        return state.trainable.gain

    short = np.abs(gain(steps=4) - GAIN).max()
    far = np.abs(gain(steps=14, tail=10) - GAIN).max()
    assert far < 0.04 < short, (far, short)


@pytest.mark.long
@pytest.mark.parametrize(
    "agent",
    [
        PPO(environments=8, steps=4),
        PolicyGradient(environments=8, steps=4),
        Pathwise(8, 3),
        Pathwise(8, 3, lasting=True, tail=1),
    ],
)
def test_trainings_in_single_precision_batches_and_parts(agent):
    environment = regulator(5, "float32")
    run = jax.vmap(lambda key: agent.train(environment, agent.init(environment, key), 4))
    many, rewards = run(jax.random.split(KEY, 2))
    assert rewards.shape == (2, 4) and rewards.dtype == "float32"
    assert {leaf.dtype.name for leaf in jax.tree.leaves(many.trainable)} == {"float32"}
    whole, _ = agent.train(environment, agent.init(environment, KEY), 4)
    parts, _ = agent.train(environment, agent.init(environment, KEY), 1)
    parts, _ = agent.train(environment, parts, 3)
    for one, other in zip(jax.tree.leaves(whole.trainable), jax.tree.leaves(parts.trainable), strict=True):
        np.testing.assert_array_equal(one, other)


class Failing(Wrapper):
    """Rewards that are no numbers in one half of the states."""

    def respond(self, state, action, disturbance):
        found = self.environment.respond(state, action, disturbance)
        return found._replace(reward=jnp.where(found.observation[0] > 0, jnp.nan, found.reward))


@pytest.mark.long
@pytest.mark.parametrize("agent", [PPO(environments=8, steps=4), PolicyGradient(environments=8, steps=4)])
def test_rewards_that_are_no_numbers_leave_the_networks_as_they_are(agent):
    environment = Failing(regulator(5))
    state, rewards = agent.train(environment, agent.init(environment, KEY), 3)
    assert bool(jnp.isnan(rewards).any())
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(state.trainable))


def test_what_is_refused():
    endless = regulator().replace(length=None)
    vector = FiniteProblem(jnp.eye(2)[None], jnp.zeros((2, 1)))
    short = Pathwise(2, 3, lasting=True, tail=3)
    for build, message in (
        (lambda: PPO(environments=3, steps=5, batches=4), "equal"),
        (lambda: PPO(environments=6, common=4), "multiple of common"),
        (lambda: PolicyGradient(common=0), "multiple of common"),
        (lambda: PolicyGradient(environments=0), "environments"),
        (lambda: PPO(discount=1.5), "discount"),
        (lambda: PPO(trace=float("nan")), "trace"),
        (lambda: PPO(clip=-0.1), "clip"),
        (lambda: Pathwise(discount=-1.0), "discount"),
        (lambda: Pathwise(steps=0), "steps"),
        (lambda: PPO().init(cliff_walk(), KEY), "vectors"),
        (lambda: actor_critic(WaterReservoir(), KEY), "Scalarized"),
        (lambda: policy_for(vector, KEY), "vectors"),
        (lambda: Pathwise().train(endless, Pathwise().init(endless, KEY, LinearPolicy(GAIN)), 1), "horizon"),
        (lambda: short.train(endless, short.init(endless, KEY, LinearPolicy(GAIN)), 1), "tail=3 must be less than"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            build()


def test_what_never_changes_is_not_divided_by_a_rounding_error():
    seen = jnp.stack([jnp.full((64, 33), 23**-0.5), jax.random.normal(jax.random.key(0), (64, 33))], axis=-1)
    assert 0 < jnp.std(seen[..., 0]) < 1e-14  # of a constant
    _, spread = _scales(seen)
    assert spread[0] == 1 and abs(spread[1] - 1) < 0.1
