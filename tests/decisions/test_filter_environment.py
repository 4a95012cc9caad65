"""A filter as an environment: its steps are those of a cycle, and agents learn in it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.core.errors import ConfigurationError
from diffassim.core.pytree import Pytree
from diffassim.decisions import Box, FilterEnvironment
from diffassim.ensemble import GaspariCohn, PolicyInflation
from diffassim.ensemble.policy_inflation import FEATURES

R = da.covariances.Diagonal(std=jnp.asarray(1.0))
MODEL = da.models.Lorenz96(forcing=8.0)
FILTERS = {"ETKF": da.ETKF(), "LETKF": da.LETKF(localization=GaspariCohn(2.0)), "EnKF": da.EnKF()}


class Nature(Pytree):
    """Truths of another forcing, observed everywhere."""

    n: int = da.core.pytree.static(default=8)

    def start(self, key):
        truth, members = jax.random.split(key)
        x = 8 + jax.random.normal(truth, (self.n,))
        return jnp.asarray(9.0), x, x[None] + jax.random.normal(members, (5, self.n))

    def following(self, world, truth, t, key):
        truth = da.models.Lorenz96(forcing=world).step(truth, t)
        values = truth + jax.random.normal(key, truth.shape)
        return world, truth, da.Observations(values[None], jnp.zeros(1, jnp.int32), error=R)


def environment(name="ETKF", **options):
    method = PolicyInflation(FILTERS[name])
    bounds = jnp.array([1.0, 2.0, 0.5][: method.actions])
    return FilterEnvironment(method, MODEL, Nature(), Box(-bounds, bounds), **options)


class Linear(Pytree):
    """A policy that sees everything."""

    weights: jax.Array

    def __call__(self, features, key=None):
        return jnp.tanh(self.weights @ features) * 0.4


@pytest.mark.slow
@pytest.mark.parametrize("name", FILTERS)
def test_its_steps_are_those_of_a_cycle_with_the_policy(name):
    world = environment(name)
    policy = Linear(0.1 * jax.random.normal(jax.random.key(3), (world.method.actions, len(FEATURES))))
    state, seen = world.reset(jax.random.key(0))
    first, truths, rows, rewards, spreads = state, [], [], [], []
    step = jax.jit(world.step)
    for k in range(4):
        truths.append(state.truth)
        rows.append(state.observations.values[0])
        key = state.key
        found = step(state, policy(seen), jax.random.key(10 + k))
        rewards.append(found.reward)
        if name == "EnKF":  # draws in every analysis: follow it step by step
            posterior, _ = world.method.replace(policy=policy).analyze(key, state.belief, state.observations)
            error = jnp.sqrt(jnp.mean((posterior.members.mean(0) - state.truth) ** 2))
            np.testing.assert_allclose(found.reward, -jnp.log(error), rtol=1e-9)
        state, seen = found.state, found.observation
        spreads.append(state.belief.contraction)
    if name == "EnKF":
        return
    record = da.Observations(jnp.stack(rows), [0, 1, 2, 3], error=R)
    _, history = da.cycle(world.method.replace(policy=policy), MODEL, first.belief, record, members=True)
    error = np.sqrt(np.mean((np.asarray(history.analysis.mean) - np.stack(truths)) ** 2, axis=1))
    np.testing.assert_allclose(rewards, -np.log(error), rtol=1e-7)
    np.testing.assert_allclose(spreads, history.members.contraction, rtol=1e-7)


@pytest.mark.slow
def test_a_lost_filter_ends_the_episode_with_a_finite_reward():
    world = environment(lost=0.05)
    state, _ = world.reset(jax.random.key(0))
    found = world.step(state, jnp.zeros(2), jax.random.key(1))
    assert found.terminated
    np.testing.assert_allclose(found.reward, -np.log(0.05))
    broken = state.replace(belief=state.belief.replace(members=state.belief.members.at[0, 0].set(jnp.nan)))
    found = environment(lost=5.0).step(broken, jnp.zeros(2), jax.random.key(1))
    assert found.terminated
    np.testing.assert_allclose(found.reward, -np.log(5.0))


@pytest.mark.slow
def test_the_likelihood_needs_no_truth():
    world = environment(scored="likelihood")
    state, _ = world.reset(jax.random.key(0))
    found = world.step(state, jnp.array([0.3, 0.0]), jax.random.key(1))
    other = world.step(state.replace(truth=state.truth + 0.1), jnp.array([0.3, 0.0]), jax.random.key(1))
    _, info = world.method.steer(None, state.belief, state.observations, jnp.array([0.3, 0.0]))
    np.testing.assert_allclose(found.reward, info.log_likelihood / 8, rtol=1e-12)
    assert found.reward == other.reward


@pytest.mark.slow
def test_the_derivative_of_a_reward_is_that_of_differences():
    world = environment()
    state, _ = world.reset(jax.random.key(0))

    @jax.jit
    def rewards(s):
        first = world.step(state, jnp.array([0.2, 0.1]) + s * jnp.array([1.0, -1.0]), jax.random.key(1))
        return first.reward + world.step(first.state, 0.1 * first.observation[:2], jax.random.key(2)).reward

    difference = (rewards(1e-5) - rewards(-1e-5)) / 2e-5
    np.testing.assert_allclose(jax.jit(jax.grad(rewards))(0.0), difference, rtol=1e-6)


def test_what_cannot_be_is_named():
    method, box = PolicyInflation(da.ETKF()), Box([-1.0, -1.0], [1.0, 1.0])
    for arguments, match in (
        ((da.ETKF(), MODEL, Nature(), box), "must be PolicyInflation, found ETKF"),
        ((method, MODEL, Nature(), Box([-1.0], [1.0])), r"Box of shape \(2,\), found \(1,\)"),
    ):
        with pytest.raises(ConfigurationError, match=match):
            FilterEnvironment(*arguments)
    for options, match in (({"scored": "rank"}, "scored must be"), ({"lost": 0.0}, "lost"), ({"length": 0}, "length")):
        with pytest.raises(ConfigurationError, match=match):
            FilterEnvironment(method, MODEL, Nature(), box, **options)
