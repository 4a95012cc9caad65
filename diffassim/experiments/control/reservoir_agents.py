"""What learns to run the lake from its own experience: the gradient through the lake, and PPO."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from diffassim.core.pytree import Pytree
from diffassim.decisions import Lake
from diffassim.experiments.control.reservoir_rules import RuleCurve
from diffassim.training.reinforcement import PPO, Pathwise, actor_critic, policy_for

__all__ = ["Averaged", "CorrectedRule", "train_pathwise", "train_ppo"]

UNITS = (16, 16)
REACH = 0.3  # of the correction, in largest releases
SMOOTH = 0.02  # width of flood and drought while gradients pass through the lake, m
EPISODES = 8  # years of a gradient step
PLAYERS, STEPS, EPOCHS, BATCHES = 64, 32, 4, 4
DISCOUNT = 0.99
STD, WITHIN = 0.1, 0.98  # of first draws, and how near to the ends of the range a rule stays, in halves of the range


class CorrectedRule(Pytree):
    """A rule and what a network adds to its release.

    Args:
        rule: `RuleCurve`, which stays what it is.
        network: observation -> number; the correction is its hyperbolic tangent.
    """

    rule: RuleCurve
    network: Any

    def __call__(self, observation: Any, key: Any = None) -> Any:
        """Return the release, shape (1,)."""
        rule = jax.lax.stop_gradient(self.rule)
        dtype = rule.numbers.dtype
        own = observation.astype(dtype)
        largest = jnp.asarray(rule.basin.largest, dtype)
        release = rule(own) + REACH * largest * jnp.tanh(self.network(own))
        return jnp.clip(release, 0, largest).astype(observation.dtype)


class Averaged(Pytree):
    """The mean release of several policies.

    Args:
        policies: one pytree with a leading axis of policies.
    """

    policies: Any

    def __call__(self, observation: Any, key: Any = None) -> Any:
        """Return the release, shape (1,)."""
        dtype = jnp.result_type(*(leaf.dtype for leaf in jax.tree.leaves(self.policies)))
        own = observation.astype(dtype)
        return jnp.mean(jax.vmap(lambda policy: policy(own))(self.policies), axis=0).astype(observation.dtype)


def pathwise_policy(lake: Lake, rule: RuleCurve, key: jax.Array) -> CorrectedRule:
    """Return a rule whose correction is nothing yet."""
    return CorrectedRule(rule, policy_for(lake, key, units=UNITS).network)


class AboutRule(Pytree):
    """What a Gaussian policy draws about: the release of a rule, in the policy's units, and a network's correction.

    Args:
        rule: `RuleCurve`, which stays what it is.
        network: observation -> correction, shape (1,).
    """

    rule: RuleCurve
    network: Any

    def __call__(self, observation: Any) -> Any:
        """Return the middle of the draws, shape (1,)."""
        rule = jax.lax.stop_gradient(self.rule)
        share = 2 * rule(observation) / rule.basin.largest - 1
        return jnp.arctanh(jnp.clip(share, -WITHIN, WITHIN)) + self.network(observation)


def ppo_policies(lake: Lake, rule: RuleCurve, key: jax.Array) -> Any:
    """Return an untrained policy about a rule, and an untrained value."""
    both = actor_critic(lake, key, units=UNITS, std=STD, discount=DISCOUNT, squashed=True)
    return both.replace(policy=both.policy.replace(network=AboutRule(rule, both.policy.network)))


@partial(jax.jit, static_argnums=3)
def train_pathwise(lakes: Lake, rules: RuleCurve, keys: Any, updates: int) -> tuple[Any, Any]:
    """Return trained policies and mean daily rewards of their updates, for lakes and keys with leading axes.

    Args:
        lakes: one for each fold.
        rules: likewise, to begin with.
        keys: shape (folds, seeds).
        updates: how many (static).
    """
    schedule = optax.cosine_decay_schedule(1e-2, updates)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=1e-3))

    def one(lake: Lake, rule: RuleCurve, key: Any) -> Any:
        first, own = jax.random.split(key)
        smooth = lake.replace(width=SMOOTH)
        agent = Pathwise(environments=EPISODES, optimizer=optimizer)
        state = agent.init(smooth, own, pathwise_policy(lake, rule, first))
        state, rewards = agent.train(smooth, state, updates)
        return agent.policy(smooth, state), rewards

    return jax.vmap(jax.vmap(one, (None, None, 0)))(lakes, rules, keys)


@partial(jax.jit, static_argnums=3)
def train_ppo(lakes: Lake, rules: RuleCurve, keys: Any, updates: int) -> tuple[Any, Any]:
    """Return trained policies and mean daily rewards of their updates; see `train_pathwise`."""
    schedule = optax.cosine_decay_schedule(1e-3, updates * EPOCHS * BATCHES)
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(schedule))
    agent = PPO(PLAYERS, STEPS, DISCOUNT, 0.95, optimizer=optimizer, epochs=EPOCHS, batches=BATCHES)

    def one(lake: Lake, rule: RuleCurve, key: Any) -> Any:
        first, own = jax.random.split(key)
        state, rewards = agent.train(lake, agent.init(lake, own, ppo_policies(lake, rule, first)), updates)
        return agent.policy(lake, state), rewards

    return jax.vmap(jax.vmap(one, (None, None, 0)))(lakes, rules, keys)
