"""Models as environments, seen exactly or through a filter, and the ways in from gymnax and out to gymnasium."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.core.errors import ConfigurationError, DataError, ShapeError
from diffassim.covariances import Diagonal
from diffassim.decisions import (
    BeliefEnvironment,
    Box,
    Discrete,
    GymnaxEnvironment,
    ModelEnvironment,
    ParameterControl,
    Scalarized,
    StateIncrement,
    WaterReservoir,
    to_gymnasium,
)
from diffassim.decisions.play import begin, go_on
from diffassim.decisions.problems import FloodWarning, RecordedWarning, WarningCosts, cliff_walk, linear_quadratic
from diffassim.decisions.problems.linear_quadratic import LinearModel, QuadraticCost
from diffassim.ensemble import ETKF
from diffassim.gaussian import EKF, Gaussian

KEY = jax.random.key(0)
A, B = jnp.array([[1.0, 0.5], [0.0, 0.9]]), jnp.array([[0.0], [1.0]])
COST = QuadraticCost(jnp.eye(2), 0.1 * jnp.eye(1))
R = Diagonal(std=0.3)


def regulator(**changes):
    return linear_quadratic(A, B, COST, jnp.array([1.0, -1.0]), Q=Diagonal(std=0.1), length=20).replace(**changes)


def lorenz(**changes):
    cost = lambda x, action, following, t: jnp.stack([jnp.mean(following**2), t + 0.0 * x[0]])  # noqa: E731
    model = da.models.Lorenz96()
    given = {"interval": 3, "first": 5, "length": 4} | changes
    return ModelEnvironment(model, ParameterControl("forcing"), cost, jnp.arange(8.0), Box([2.0], [10.0]), **given)


def test_a_step_is_that_of_the_model_with_the_control_held():
    environment = lorenz()
    state, observation = environment.reset(KEY)
    found = environment.step(state, jnp.array([4.0]), KEY)
    expected = da.rollout(da.models.Lorenz96(forcing=4.0), jnp.arange(8.0), 3)[-1]
    np.testing.assert_allclose(found.observation, expected, rtol=1e-12)
    np.testing.assert_allclose(found.reward, [-jnp.mean(expected**2), -5.0], rtol=1e-12)
    assert int(found.state.t) == 8 and environment.objectives == 2 and observation.shape == (8,)
    beyond = environment.step(state, jnp.array([99.0]), KEY)
    np.testing.assert_array_equal(beyond.observation, environment.step(state, jnp.array([10.0]), KEY).observation)
    unstable = environment.respond(state.replace(x=1e200 * jnp.arange(8.0)), jnp.array([4.0]), KEY)
    assert bool(unstable.terminated) and not bool(found.terminated)


PARTS = WarningCosts(shares=True)
WARNINGS = [
    FloodWarning(PARTS, (0.4, 0.7), 1.2, outcomes=True),
    RecordedWarning(PARTS, np.random.default_rng(0).normal(size=(9, 3, 2)), np.arange(9) % 2),
]


@pytest.mark.parametrize(
    "environment", [regulator(), lorenz(), WaterReservoir(), *WARNINGS], ids=lambda e: type(e).__name__
)
def test_steps_are_the_same_compiled_batched_and_differentiable(environment):
    keys = jax.random.split(KEY, 3)
    states, _ = jax.vmap(environment.reset)(keys)
    actions = jax.vmap(environment.action_space.sample)(keys)
    many = jax.jit(jax.vmap(environment.step))(states, actions, keys)
    first = jax.tree.map(lambda leaf: leaf[0], states)
    one = environment.step(first, actions[0], keys[0])
    np.testing.assert_allclose(one.reward, many.reward[0], rtol=1e-12)
    np.testing.assert_allclose(one.observation, many.observation[0], rtol=1e-12)
    assert bool(environment.observation_space.contains(one.observation))
    total = lambda action: jnp.sum(environment.step(first, action, keys[0]).reward)  # noqa: E731
    inner = 0.9 * actions[0] + 0.1
    step = 1e-6
    difference = (total(inner + step) - total(inner - step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(total)(inner).sum(), difference, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_the_belief_of_a_kalman_filter_is_that_of_its_formulas():
    prior = Gaussian.from_covariance(jnp.zeros(2), Diagonal(std=1.0))
    q = 0.01 * jnp.eye(2)
    environment = BeliefEnvironment(regulator(), EKF(Q=Diagonal(std=0.1)), prior, error=R, shown="mean and spread")
    state, observation = environment.reset(KEY)
    P = jnp.linalg.inv(jnp.eye(2) + jnp.eye(2) / 0.09)
    np.testing.assert_allclose(state.belief.covariance(), P, rtol=1e-10)
    np.testing.assert_allclose(observation[2:], jnp.sqrt(jnp.diag(P)), rtol=1e-10)
    found = environment.step(state, jnp.array([0.7]), jax.random.key(3))
    forecast, P = A @ (observation[:2] + B @ jnp.array([0.7])), A @ P @ A.T + q
    K = P @ jnp.linalg.inv(P + 0.09 * jnp.eye(2))
    np.testing.assert_allclose(found.state.belief.covariance(), (jnp.eye(2) - K) @ P, rtol=1e-9)
    # the innovation is not known outside; the analysis must lie on the forecast plus the gain times some y near x
    innovation = jnp.linalg.solve(K, found.observation[:2] - forecast)
    np.testing.assert_allclose(forecast + innovation, found.state.truth.x, atol=4 * 0.3)
    assert found.reward == regulator().respond(state.truth, jnp.array([0.7]), KEY).reward  # of the state before


@pytest.mark.parametrize(("shown", "size"), [("mean", 2), ("spread", 2), ("mean and spread", 4), ("members", 24)])
@pytest.mark.slow
def test_beliefs_of_an_ensemble_in_many_environments(shown, size):
    prior = jax.random.normal(KEY, (12, 2))
    environment = BeliefEnvironment(regulator(), ETKF(Q=Diagonal(std=0.1)), prior, error=R, shown=shown)
    assert environment.observation_space.shape == (size,) and environment.horizon == 20

    @jax.jit
    @jax.vmap
    def one(key):
        state, _ = environment.reset(key)

        def body(state, key):
            found = environment.step(state, jnp.array([0.1]), key)
            error = environment.method.moments(found.state.belief)[0] - found.state.truth.x
            return found.state, (found.observation, error)

        return jax.lax.scan(body, state, jax.random.split(key, 20))[1]

    observation, error = one(jax.random.split(KEY, 50))
    assert observation.shape == (50, 20, size)
    assert float(jnp.sqrt(jnp.mean(error[:, 5:] ** 2))) < 0.3  # better than the observations


def test_what_is_seen_may_be_a_part_and_what_is_random_a_start():
    start = lambda key: jax.random.normal(key, (2,))  # noqa: E731
    environment = regulator(start=start, operator=da.observations.Subset([1]))
    states, observations = jax.vmap(environment.reset)(jax.random.split(KEY, 4))
    np.testing.assert_array_equal(observations[:, 0], states.x[:, 1])
    assert len(set(observations[:, 0].tolist())) == 4


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: lorenz(interval=0), ConfigurationError, "interval"),
        (lambda: regulator(actions=3), ConfigurationError, "Box or Discrete"),
        (lambda: regulator(control=ParameterControl("force")), ConfigurationError, "force"),
        (lambda: regulator(control=StateIncrement(jnp.ones((2, 2)))), ConfigurationError, "patterns"),
        (lambda: regulator(cost=lambda x, a, y, t: jnp.outer(x, x)), ShapeError, "number or a vector"),
        (lambda: regulator(start=["high"]), DataError, "start"),
        (lambda: BeliefEnvironment(WaterReservoir(), EKF(), None, error=R), ConfigurationError, "ModelEnvironment"),
        (lambda: BeliefEnvironment(regulator(), EKF(), jnp.ones((3, 2)), error=R), ConfigurationError, "Gaussian"),
        (lambda: BeliefEnvironment(regulator(), ETKF(), jnp.ones((1, 2)), error=R), ShapeError, "members"),
        (lambda: BeliefEnvironment(regulator(), ETKF(), jnp.ones((3, 2))), ConfigurationError, "error"),
        (
            lambda: BeliefEnvironment(regulator(), ETKF(), jnp.ones((3, 2)), error=R, shown="median"),
            ConfigurationError, "median",
        ),
        (lambda: GymnaxEnvironment(WaterReservoir()), ConfigurationError, "gymnax"),
    ],
)  # fmt: skip
def test_what_is_refused(build, error, message):
    with pytest.raises(error, match=message):
        build()


@pytest.mark.parametrize("name", ["table", "reservoir", "regulator", "warning"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # of the checker: bounds that are infinite, no modes of rendering
def test_gymnasiums_own_checker_finds_nothing(name):
    pytest.importorskip("gymnasium", reason="gymnasium is not installed")
    from gymnasium.utils.env_checker import check_env

    weighted = Scalarized(WaterReservoir(length=3), [0.5, 0.5])
    made = {"table": cliff_walk(), "reservoir": weighted, "regulator": regulator()}
    adapted = to_gymnasium((made | {"warning": FloodWarning(WarningCosts(), (0.5, 0.8, 1.0), 1.2)})[name])
    check_env(adapted, skip_render_check=True)
    adapted.reset(seed=3)
    ends = [adapted.step(adapted.action_space.sample())[2:4] for _ in range(3)]
    assert [late for _, late in ends] == [False, False, name == "reservoir"]


def test_gymnasium_takes_the_steps_of_the_environment():
    pytest.importorskip("gymnasium", reason="gymnasium is not installed")
    environment = WaterReservoir()
    adapted = to_gymnasium(environment)
    with pytest.raises(ConfigurationError, match="reset"):
        adapted.step(np.array([1.0]))
    observation, _ = adapted.reset(seed=4)
    key, own = jax.random.split(jax.random.key(4))
    state, expected = environment.reset(own)
    np.testing.assert_array_equal(observation, expected)
    _, own = jax.random.split(key)
    found = environment.step(state, jnp.array([30.0]), own)
    observation, reward, terminated, truncated, info = adapted.step(np.array([30.0]))
    np.testing.assert_allclose(observation, found.observation, rtol=1e-12)
    np.testing.assert_allclose(reward, found.reward, rtol=1e-12)
    assert (terminated, truncated, info, adapted.reward_space.shape) == (False, False, {}, (2,))


@pytest.mark.filterwarnings("ignore")  # gymnax's own
@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_environments_of_gymnax_take_the_same_steps(name):
    gymnax = pytest.importorskip("gymnax", reason="gymnax is not installed")
    theirs, parameters = gymnax.make(name)
    ours = GymnaxEnvironment(theirs, parameters)
    assert isinstance(ours.action_space, Discrete if name == "CartPole-v1" else Box) and ours.horizon == 500 - 300 * (
        name == "Pendulum-v1"
    )
    state, observation = ours.reset(KEY)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        expected, known = theirs.reset_env(KEY, parameters)
    np.testing.assert_array_equal(observation, expected.ravel())
    for k in range(3):
        key = jax.random.fold_in(KEY, k)
        action = ours.action_space.sample(key)
        found = jax.jit(ours.step)(state, action, key)
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            expected, known, reward, terminated, _ = theirs.step_env(key, known, action, parameters)
        np.testing.assert_allclose(found.observation, expected.ravel(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.reward, reward, rtol=1e-5)
        assert bool(found.terminated) == bool(terminated)
        state = found.state


@pytest.mark.filterwarnings("ignore")  # gymnax's own
def test_agents_learn_from_environments_of_gymnax():
    """The horizon is known where the parameters are traced, and follows them when they are replaced."""
    gymnax = pytest.importorskip("gymnax", reason="gymnax is not installed")
    environment = GymnaxEnvironment(gymnax.make("CartPole-v1")[0])
    assert jax.jit(lambda e: jnp.zeros(e.horizon))(environment).shape == (500,)
    short = environment.replace(parameters=environment.parameters.replace(max_steps_in_episode=7))
    assert short.horizon == 7
    found = jax.jit(lambda e, key: go_on(e, begin(e, key, 9), jnp.zeros(9, jnp.int32), key))(short, KEY)
    assert found[0].age.shape == (9,) and int(found[0].age.max()) < 7


def test_the_model_of_the_regulator_is_linear():
    np.testing.assert_array_equal(LinearModel(A).step(jnp.array([1.0, 2.0]), 0), A @ jnp.array([1.0, 2.0]))
