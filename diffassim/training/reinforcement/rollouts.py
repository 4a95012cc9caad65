"""What actor-critic agents share: networks for an environment, steps with them, and advantages."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.core.pytree import Pytree
from diffassim.core.tree import all_finite, select, zeros_like
from diffassim.decisions.play import begin, go_on, random_policy
from diffassim.decisions.spaces import Box, Discrete
from diffassim.learned.normalized import Normalized, spread_of
from diffassim.training.reinforcement.policies import ActorCritic, CategoricalPolicy, GaussianPolicy

__all__ = [
    "LearnerState",
    "Rollout",
    "actor_critic",
    "advantages",
    "against_others",
    "gradient_step",
    "policy_for",
    "roll_out",
    "shuffled",
]

PLAYED = 64  # environments of random play, from which scales are taken


class LearnerState(Pytree):
    """What an agent with networks knows.

    Args:
        trainable: policy, or `ActorCritic`.
        memory: state of the optimizer.
        play: environments in the middle of their episodes, or None.
        key: random key of the whole training.
        count: updates made.
    """

    trainable: Any
    memory: Any
    play: Any
    key: Any
    count: Any


class Rollout(NamedTuple):
    """Steps of many environments; leading axes (step, environment).

    Attributes:
        observation: before the action.
        u: what the policy drew.
        log_density: of that.
        reward: of the action.
        following: observation after it.
        terminated: whether the episode ended.
        done: whether it ended or was cut off.
    """

    observation: Any
    u: Any
    log_density: Any
    reward: Any
    following: Any
    terminated: Any
    done: Any


def policy_for(
    environment: Any,
    key: jax.Array,
    *,
    units: tuple[int, ...] = (64, 64),
    std: float = 0.5,
    first: Any = None,
    squashed: bool = False,
) -> Any:
    """Return an untrained policy for an environment: a perceptron of normalized observations.

    Mean and spread of the observations are those of random play. Before training the policy takes the same action
    everywhere; choose it and `std` so that most actions lie within what is possible, where gradients are not zero.

    Args:
        environment: with `Box` observations.
        key: random key.
        units: of the hidden layers.
        std: first standard deviation of actions, in halves of their range.
        first: first action, for a `Box` of actions; default: the middle of their range.
        squashed: whether actions are squashed into their range; see `GaussianPolicy`.

    Raises:
        ConfigurationError: if observations are numbers of states, or `first` is given for actions that are.
        ShapeError: if `first` is no action.

    Example:
        >>> from diffassim.decisions import WaterReservoir
        >>> policy_for(WaterReservoir(), jax.random.key(0))(jnp.array([50.0])).tolist()
        [90.0]
    """
    play, weights = jax.random.split(key)
    seen, _ = _played(environment, play, random_policy(environment))
    return _policy(environment, weights, seen, units, std, first, squashed)


def actor_critic(
    environment: Any,
    key: jax.Array,
    *,
    units: tuple[int, ...] = (64, 64),
    std: float = 0.5,
    discount: float = 0.99,
    first: Any = None,
    squashed: bool = False,
) -> ActorCritic:
    """Return an untrained policy with an untrained value for an environment; see `policy_for`.

    Mean and spread of the values are those of random play, or where a first action is given, of play with draws around
    that: returns of random actions may be far from all that a sensible start ever brings, and until the value has
    learned its way back, the policy follows immediate rewards.

    Args:
        environment: with `Box` observations and rewards that are numbers.
        key: random key.
        units: of the hidden layers of both.
        std: first standard deviation of actions, in halves of their range.
        discount: gamma, for the size of the values.
        first: first action; default: the middle of their range.
        squashed: whether actions are squashed into their range.

    Raises:
        ConfigurationError: if observations are numbers of states, or there are several rewards.

    Example:
        >>> from diffassim.decisions import Scalarized, WaterReservoir
        >>> both = actor_critic(Scalarized(WaterReservoir(), [0.5, 0.5]), jax.random.key(0))
        >>> both.value(jnp.array([50.0])).shape
        ()
    """
    from diffassim.learned.networks import perceptron

    if environment.objectives is not None:
        raise ConfigurationError("actor_critic: weight the objectives first, see Scalarized")
    play, one, two = jax.random.split(key, 3)
    seen, rewards = _played(environment, play, random_policy(environment))
    policy = _policy(environment, one, seen, units, std, first, squashed)
    if first is not None:
        _, rewards = _played(environment, jax.random.fold_in(play, 1), _Drawn(policy))

    rewards = jnp.where(jnp.isfinite(rewards), rewards, 0)  # one that is no number would leave no scale at all

    def back(following: Any, reward: Any) -> Any:
        now = reward + discount * following
        return now, now

    _, returns = lax.scan(back, jnp.zeros_like(rewards[0]), rewards, reverse=True)
    returns = returns[: max(1, returns.shape[0] // 2)]
    center, spread = _center_and_spread(returns)
    network = perceptron((seen.shape[-1], *units, 1), two, dtype=seen.dtype)
    value = Normalized(network, *_scales(seen), center, spread)
    return ActorCritic(policy, _Scalar(value), spread)  # type: ignore[arg-type]


def roll_out(
    environment: Any, policy: Any, play: Any, key: jax.Array, steps: int, common: int = 1
) -> tuple[Any, Rollout]:
    """Make steps in all environments, with actions drawn from the policy.

    Args:
        environment: `Environment`.
        policy: see `policies`.
        play: where the environments are.
        key: random key.
        steps: how many (static).
        common: how many environments in turn begin where the first of them is, and meet the same disturbances (static).
    """
    if common > 1:
        play = jax.tree.map(lambda x: jnp.repeat(x[::common], common, axis=0), play)

    def body(play: Any, key: Any) -> Any:
        own, steps = jax.random.split(key)
        u = jax.vmap(policy.draw)(play.observation, jax.random.split(own, play.age.shape[0]))
        log_density = jax.vmap(policy.log_density)(play.observation, u)
        play, seen = go_on(environment, play, jax.vmap(policy.action)(u), steps, common)
        found = Rollout(
            seen.observation, u, log_density, seen.reward, seen.following, seen.terminated, seen.done
        )  # fmt: skip
        return play, found

    return lax.scan(body, play, jax.random.split(key, steps))


def advantages(value: Any, rollout: Rollout, discount: Any, trace: Any) -> tuple[Any, Any]:
    r"""Return generalized advantages, and the values that they are targets for.

    .. math:: A_t = \delta_t + \gamma \lambda A_{t+1},\quad \delta_t = r_t + \gamma v(o_{t+1}) - v(o_t)

    where the sum stops at the end of an episode, and a terminated one has nothing ahead.

    Args:
        value: observation -> number.
        rollout: leading axes (step, environment).
        discount: gamma.
        trace: lambda; 1: returns, with the value at the last step.

    Returns:
        Advantages and targets, shape (step, environment).

    Source: Schulman et al. (2016), equation 16.
    """
    every = jax.vmap(jax.vmap(value))
    now, then = every(rollout.observation), every(rollout.following)
    delta = rollout.reward.astype(now.dtype) + discount * jnp.where(rollout.terminated, 0, then) - now

    def back(following: Any, row: Any) -> Any:
        delta, done = row
        found = delta + discount * trace * jnp.where(done, 0, following)
        return found, found

    _, found = lax.scan(back, zeros_like(delta[0]), (delta, rollout.done), reverse=True)
    return found, found + now


def against_others(A: Any, common: int) -> Any:
    r"""Return advantages less the mean of those of the others that met the same disturbances.

    .. math:: A_i - \frac{1}{n - 1} \sum_{j \ne i} A_j

    What the others did does not depend on an action's own draw, so that this is a baseline without bias; it takes off
    the luck that all of them had.

    Args:
        A: shape (step, environment).
        common: n, how many environments in turn met the same disturbances (static); 1: nothing is taken off.

    Example:
        >>> against_others(jnp.array([[1.0, 3.0, 10.0, 13.0]]), 2).tolist()
        [[-2.0, 2.0, -3.0, 3.0]]

    Source: Kool et al. (2019); Schulman et al. (2015), section 5.2, on common random numbers.
    """
    if common == 1:
        return A
    groups = A.reshape(A.shape[0], -1, common)
    return ((groups - jnp.mean(groups, axis=2, keepdims=True)) * (common / (common - 1))).reshape(A.shape)


def gradient_step(optimizer: Any, trainable: Any, memory: Any, gradient: Any) -> tuple[Any, Any]:
    """Return trainable and memory after a step of an optimizer, or as before where the gradient is not finite."""
    with jax.numpy_dtype_promotion("standard"):  # optax schedules multiply integers with floats
        changes, after = optimizer.update(gradient, memory, trainable)
    found = optax.apply_updates(trainable, changes), after
    return select(all_finite(gradient), found, (trainable, memory))  # type: ignore[no-any-return]


def shuffled(key: jax.Array, count: int) -> Any:
    """Return 0, ..., count - 1 in random order, to be cut into minibatches.

    Up to 65,536 numbers are sorted together with random bits in the same word, which takes a seventh of the time of
    `jax.random.permutation` on a CPU; numbers with the same 16 or more bits stay in order, and in one minibatch most
    often, which is any of them with the same probability.

    Args:
        key: random key.
        count: how many (static).

    Example:
        >>> sorted(shuffled(jax.random.key(0), 5).tolist())
        [0, 1, 2, 3, 4]
    """
    if count > 1 << 16:
        return jax.random.permutation(key, count)
    low = jnp.uint32((1 << max(count - 1, 1).bit_length()) - 1)
    words = jax.random.bits(key, (count,), jnp.uint32) & ~low | jnp.arange(count, dtype=jnp.uint32)
    return (lax.sort(words) & low).astype(jnp.int32)


class _Scalar(Pytree):
    function: Any

    def __call__(self, x: Any) -> Any:
        return self.function(x)[..., 0]


def _policy(
    environment: Any, key: jax.Array, seen: Any, units: tuple[int, ...], std: float, first: Any, squashed: bool
) -> Any:
    from diffassim.learned.networks import perceptron

    space = environment.action_space
    outputs = space.n if isinstance(space, Discrete) else space.shape[0]
    network = perceptron((seen.shape[-1], *units, outputs), key, zero=True, dtype=seen.dtype)
    normalized = Normalized(network, *_scales(seen), jnp.zeros(outputs, seen.dtype), jnp.ones(outputs, seen.dtype))
    if isinstance(space, Discrete):
        if first is not None:
            raise ConfigurationError("policies: a first action is for a Box of actions; these are numbers")
        return CategoricalPolicy(normalized)
    policy = GaussianPolicy(normalized, jnp.full(outputs, jnp.log(std), seen.dtype), space, squashed)
    if first is None:
        return policy
    first = jnp.asarray(first, seen.dtype)
    if first.shape != space.shape:
        raise ShapeError(f"policies: a first action of shape {first.shape} for a space of shape {space.shape}")
    return policy.replace(network=normalized.replace(output_center=policy.units(first)))


class _Drawn(Pytree):
    """Actions drawn from a policy."""

    policy: Any

    def __call__(self, observation: Any, key: Any) -> Any:
        return self.policy.action(self.policy.draw(observation, key))


def _played(environment: Any, key: jax.Array, policy: Any) -> tuple[Any, Any]:
    """Return observations and rewards of play with a policy, leading axes (step, environment)."""
    if not isinstance(environment.observation_space, Box):
        raise ConfigurationError("networks need observations that are vectors; numbers of states are for tables")
    first, rest = jax.random.split(key)

    def body(play: Any, key: Any) -> Any:
        own, steps = jax.random.split(key)
        action = jax.vmap(policy)(play.observation, jax.random.split(own, PLAYED))
        play, seen = go_on(environment, play, action, steps)
        return play, (seen.observation, seen.reward)

    steps = min(environment.horizon or 200, 200)
    return lax.scan(body, begin(environment, first, PLAYED), jax.random.split(rest, steps))[1]


def _scales(seen: Any) -> tuple[Any, Any]:
    return _center_and_spread(seen, (0, 1))


def _center_and_spread(values: Any, axis: Any = None) -> tuple[Any, Any]:
    """Return mean and spread, or 1 for what never changes."""
    spread = spread_of(values, axis)
    return jnp.mean(values, axis=axis), jnp.where(spread > 0, spread, 1)
