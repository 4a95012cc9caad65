"""Bounds under worst errors: closed forms, functions that do not beat them, and what an adversary really finds."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffassim.core.errors import ConfigurationError
from diffassim.experiments.learning import worst_case_bound
from diffassim.experiments.learning.worst_case_bound import Games, game_value, games_of, least_worst

KEY = jax.random.key(0)


def random_windows(count=3, observations=7, size=4):
    keys = jax.random.split(KEY, 2)
    G = 2 * jax.random.normal(keys[0], (count, observations, size))
    return G.at[:, -2:].set(0), jax.random.normal(keys[1], (count, size, size))


def test_without_a_price_the_value_is_the_posterior_variance():
    for q in (0.5, 3.0, 40.0):
        lower, upper = game_value(q, 5.0, 0.0)
        np.testing.assert_allclose([lower, upper], q / (q + 1), rtol=1e-9)


def test_the_bounds_of_the_game_enclose_little():
    for q, price in ((1.0, 0.1), (12.0, 0.1), (30.0, 1.0)):
        lower, upper = (float(value) for value in game_value(q, 10.0, price))
        assert lower <= upper < 1.02 * lower


@pytest.mark.parametrize("edge", [2.0, 4.0, np.inf])
def test_no_function_that_is_tried_is_better_than_the_value(edge):
    q, budget, price = 8.0, 5.0, 0.1
    rng = np.random.default_rng(0)
    tau = rng.normal(0, q**0.5, 200_000)
    t = tau + rng.normal(0, 1, tau.size)

    def f(t):
        return np.clip(q / (q + 1) * t, -edge, edge)  # monotone: worst at the ends of the budget

    worst = np.maximum((f(t + budget) - tau) ** 2, (f(t - budget) - tau) ** 2)
    found = np.mean((f(t) - tau) ** 2) + price * np.mean(worst)
    assert found > float(game_value(q, budget, price)[0])


def test_a_direction_holds_what_the_best_analysis_makes_of_it():
    G, L = random_windows()
    games = games_of(G, L, 3.0)
    for k in range(G.shape[0]):
        A = np.linalg.inv(np.eye(4) + G[k].T @ G[k])
        np.testing.assert_allclose(games.trace[k], np.trace(L[k] @ A @ L[k].T) / 4, rtol=1e-10)
        gains = np.linalg.svd(L[k] @ A @ G[k].T, compute_uv=False)
        q = games.signal[k]  # the analysis moves by c q / (q + 1) along the direction
        np.testing.assert_allclose(np.sqrt(4 * games.weight[k]) * q / (q + 1), gains, rtol=1e-8)


@pytest.mark.slow
def test_the_best_linear_analysis_does_not_beat_its_bound(monkeypatch):
    monkeypatch.setattr(worst_case_bound, "SIGNALS", 12)
    G, L = random_windows()
    budget = 2.0
    games = games_of(G, L, budget)
    G, L = np.asarray(G), np.asarray(L)
    rng = np.random.default_rng(1)
    found = []
    for k in range(G.shape[0]):
        K = L[k] @ np.linalg.inv(np.eye(4) + G[k].T @ G[k]) @ G[k].T
        w, eta = rng.normal(size=(4_000, 4)), rng.normal(size=(4_000, G.shape[1])) * np.any(G[k] != 0, axis=1)
        error = (w @ G[k].T + eta) @ K.T - w @ L[k].T
        move = rng.normal(size=eta.shape)
        for _ in range(50):  # ascends: what is maximized is convex
            move = (error + move @ K.T) @ K
            move *= budget / np.linalg.norm(move, axis=1, keepdims=True)
        found.append(np.mean((error + move @ K.T) ** 2))
    least = float(jnp.mean(games.trace)) ** 0.5
    bound = least_worst(games, least)
    assert 0.6 * np.mean(found) ** 0.5 < bound < np.mean(found) ** 0.5
    assert least < least_worst(games, 1.1 * least) < bound  # skill on clean observations buys safety


def test_an_impossible_clean_error_is_named():
    ones = jnp.ones((1, 1))
    with pytest.raises(ConfigurationError, match=r"clean=0\.5 is less than"):
        least_worst(Games(jnp.array([0.75]), ones, ones, 5.0), 0.5)


@pytest.mark.slow
def test_linear_windows_know_more_with_the_flow_before():
    means = []
    for flow in (False, True):
        G, L = worst_case_bound.linear_windows(KEY, 3, flow)
        assert G.shape == (3, worst_case_bound.TIMES * worst_case_bound.N, worst_case_bound.N)
        np.testing.assert_array_equal(jnp.sum(jnp.any(G != 0, axis=2), axis=1), worst_case_bound.SEEN)
        means.append(float(jnp.mean(games_of(G, L, 10.0).trace)))
    assert means[1] < means[0]
