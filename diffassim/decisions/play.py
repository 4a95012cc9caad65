"""Many environments at once: steps that begin anew at an end, and whole episodes that judge a policy."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from diffassim.core.checks import count_of
from diffassim.core.errors import ConfigurationError
from diffassim.core.pytree import Pytree
from diffassim.core.tree import zeros_like

__all__ = ["Experience", "Play", "begin", "episode_returns", "go_on", "random_policy"]

FEW = 8  # where one in so many environments ends, or fewer, first states are drawn for those alone


class Play(Pytree):
    """Environments in the middle of their episodes; every leaf has a leading axis of environments.

    Args:
        state: their states.
        observation: what is seen of them.
        age: steps since the last reset.
    """

    state: Any
    observation: Any
    age: Any


class Experience(NamedTuple):
    """What one step of many environments brought; every leaf has a leading axis of environments.

    Attributes:
        observation: before the action.
        action: the action.
        reward: of the action.
        following: observation after it, before any reset.
        terminated: whether the episode ended there.
        truncated: whether it was cut off at the horizon instead, so that values beyond it still count.
    """

    observation: Any
    action: Any
    reward: Any
    following: Any
    terminated: Any
    truncated: Any

    @property
    def done(self) -> Any:
        """Whether what is seen next belongs to another episode."""
        return self.terminated | self.truncated


def begin(environment: Any, key: jax.Array, count: int) -> Play:
    """Return environments after their reset.

    With a horizon their ages differ, so that they are not all cut off at the same step.

    Args:
        environment: `Environment`.
        key: random key.
        count: how many (static).

    Example:
        >>> from diffassim.decisions import WaterReservoir
        >>> begin(WaterReservoir(), jax.random.key(0), 8).observation.shape
        (8, 1)
    """
    first, ages = jax.random.split(key)
    state, observation = jax.vmap(environment.reset)(jax.random.split(first, count))
    age = jax.random.randint(ages, (count,), 0, environment.horizon or 1, jnp.int32)
    return Play(state, observation, age)


def go_on(environment: Any, play: Play, action: Any, key: jax.Array, common: int = 1) -> tuple[Play, Experience]:
    """Make one step in each environment; those at an end begin anew.

    First states are drawn only in steps where some episode ends, and where few do (an eighth of all at most, as where
    ages differ), only for those. Each environment has its own key, so that both ways draw the same numbers.

    Args:
        environment: `Environment`.
        play: where they are.
        action: leading axis of environments.
        key: random key.
        common: how many environments in turn meet the same disturbances, and the same first states (static).
    """
    count = play.age.shape[0]
    steps, resets = jax.random.split(key)
    found = jax.vmap(environment.step)(play.state, action, _keys(steps, count, common))
    age = play.age + 1
    late = jnp.zeros(count, bool) if environment.horizon is None else age >= environment.horizon
    done = found.terminated | late
    after = found.state, found.observation

    some = count // FEW

    def none(after: Any) -> Any:
        return after

    def few(after: Any) -> Any:
        """Draw for the places of the first `some` ends; what is left of them lies beyond the last environment."""
        place = jnp.searchsorted(jnp.cumsum(done), jnp.arange(1, some + 1)).astype(jnp.uint32)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(resets, place // common)  # what a split has at these places
        return jax.tree.map(partial(_put, place), jax.vmap(environment.reset)(keys), after)

    def every(after: Any) -> Any:
        fresh = jax.vmap(environment.reset)(_keys(resets, count, common))
        return jax.tree.map(partial(_where, done), fresh, after)

    ends = jnp.sum(done)
    if some:
        way = (ends > 0).astype(jnp.int32) + (ends > some).astype(jnp.int32)
        state, observation = lax.switch(way, (none, few, every), after)
    else:
        state, observation = lax.cond(ends > 0, every, none, after)
    experience = Experience(
        play.observation, action, found.reward, found.observation, found.terminated, late & ~found.terminated
    )
    return Play(state, observation, jnp.where(done, 0, age)), experience


def episode_returns(
    environment: Any,
    policy: Any,
    key: jax.Array,
    episodes: int,
    *,
    steps: int | None = None,
    discount: Any = 1.0,
    starts: Any = None,
) -> Any:
    r"""Return the sums \(\sum_k \gamma^k r_k\) of whole episodes.

    With the same key, two policies meet the same first states and disturbances: compare them pairwise.

    Args:
        environment: `Environment`.
        policy: (observation, key) -> action.
        key: random key.
        episodes: how many (static).
        steps: length of an episode (static); default: the environment's horizon. A terminated one gets no more rewards.
        discount: gamma.
        starts: (states, observations) to begin with, leading axis of episodes; default: resets.

    Returns:
        Shape (episodes,), or (episodes, objectives).

    Raises:
        ConfigurationError: if the length of an episode is not known.

    Example:
        >>> from diffassim.decisions import WaterReservoir
        >>> everything = lambda observation, key: observation
        >>> episode_returns(WaterReservoir(), everything, jax.random.key(0), 5).shape
        (5, 2)
    """
    length = environment.horizon if steps is None else steps
    if length is None:
        raise ConfigurationError(
            f"episode_returns: {type(environment).__name__} has no horizon; give the number of steps"
        )
    leaves = jax.tree.leaves(policy)
    plain = len(leaves) == 1 and leaves[0] is policy
    policy = jax.tree_util.Partial(policy) if plain else policy
    return _returns(
        environment, policy, key, count_of("episode_returns: episodes", episodes, least=1),
        count_of("episode_returns: steps", length, least=1), discount, starts,
    )  # fmt: skip


@partial(jax.jit, static_argnums=(3, 4))
def _returns(environment: Any, policy: Any, key: Any, episodes: int, steps: int, discount: Any, starts: Any) -> Any:
    def one(key: Any, start: Any) -> Any:
        first, rest = jax.random.split(key)
        state, observation = environment.reset(first) if start is None else start
        like = jax.eval_shape(environment.step, state, environment.action_space.sample(first), first).reward
        total = jnp.zeros(like.shape, like.dtype)

        def body(carry: Any, k: Any) -> tuple[Any, None]:
            state, observation, total, weight = carry
            drawn, own = jax.random.split(jax.random.fold_in(rest, k))
            found = environment.step(state, policy(observation, own), drawn)
            total = total + jnp.where(weight > 0, weight * found.reward, zeros_like(total))
            weight = jnp.where(found.terminated, 0, weight * jnp.asarray(discount, weight.dtype))
            return (found.state, found.observation, total, weight), None

        carry = (state, observation, total, jnp.ones((), like.dtype))
        return lax.scan(body, carry, jnp.arange(steps))[0][2]

    keys = jax.random.split(key, episodes)
    return jax.vmap(one, in_axes=(0, None if starts is None else 0))(keys, starts)


def random_policy(environment: Any) -> Any:
    """Return the policy that draws from the action space.

    Example:
        >>> from diffassim.decisions import WaterReservoir
        >>> random_policy(WaterReservoir())(jnp.zeros(1), jax.random.key(0)).shape
        (1,)
    """
    return jax.tree_util.Partial(_any_action, environment.action_space)


def _any_action(space: Any, observation: Any, key: Any) -> Any:
    return space.sample(key)


def _keys(key: jax.Array, count: int, common: int) -> Any:
    if common == 1:
        return jax.random.split(key, count)
    return jnp.repeat(jax.random.split(key, count // common), common)


def _put(place: Any, new: Any, old: Any) -> Any:
    if jnp.issubdtype(old.dtype, jax.dtypes.prng_key):
        data = _put(place, jax.random.key_data(new), jax.random.key_data(old))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(old))
    return old.at[place].set(new.astype(old.dtype), mode="drop")


def _where(condition: Any, a: Any, b: Any) -> Any:
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
        data = _where(condition, jax.random.key_data(a), jax.random.key_data(b))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(a))
    return jnp.where(condition.reshape(condition.shape + (1,) * (a.ndim - condition.ndim)), a, b)
