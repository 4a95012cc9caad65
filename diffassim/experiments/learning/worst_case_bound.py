"""How well any analysis of short windows can do under the worst errors, where dynamics are linear and errors normal."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

from diffassim.core.errors import ConfigurationError
from diffassim.core.linalg import safe_sqrt
from diffassim.core.pytree import Pytree, static
from diffassim.experiments.learning.lorenz96_runs import CENTER, N, model
from diffassim.experiments.learning.short_windows import DT, SHARE, TIMES, draw
from diffassim.models import rollout

__all__ = ["Games", "game_value", "games_of", "least_worst", "linear_windows"]

SEEN = round(SHARE * TIMES * N)
# Of the worst error in units of the clean one.
PRICES = (0.0003, 0.001, 0.003, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.0)
DIRECTIONS = 4  # in which the adversary may move the observations of a window, the most harmful ones
BEFORE = 10  # steps over which the flow tells about the first state
MOVES, FINE = 10, 2  # of the adversary to each side; steps of the lattice in each of them
ROUNDS = 150  # of fictitious play
SIGNALS, LARGEST = 32, 200.0  # between which the value is interpolated; a larger one counts as the largest


class Games(Pytree):
    r"""What an adversary may do to a linear window along single directions of the observations.

    Along a unit vector g of whitened observations, all others given, the analysis meets a scalar problem: it sees
    \(t = \tau + \eta\), \(\tau \sim N(0, q)\), \(\eta \sim N(0, 1)\), and its state is wrong by \(c\,(f(t) - \tau)\)
    and by a rest that does not depend on t.

    Args:
        trace: mean square error of the best analysis without an adversary, shape (window,).
        signal: q, shape (window, direction).
        weight: mean square of the components of c, shape (window, direction).
        budget: largest move (static).
    """

    trace: Any
    signal: Any
    weight: Any
    budget: float = static(default=1.0)


def games_of(observed: Any, state: Any, budget: float) -> Games:
    r"""Return the scalar problems along the directions in which the best linear analysis is moved farthest.

    .. math:: K = L (I + G^T G)^{-1} G^T,\quad P' = (I + G_\perp^T G_\perp)^{-1},\quad
        q = g^T G P' G^T g,\quad c = L P' G^T g / q

    Args:
        observed: G, from the whitened control to whitened observations, shape (window, observation, control); zeros
            where nothing is observed.
        state: L, from the control to the state that is wanted, shape (window, variable, control).
        budget: largest norm of the adversary's whitened errors.
    """
    eye = jnp.eye(observed.shape[-1], dtype=observed.dtype)

    def one(G: Any, L: Any) -> tuple[Any, ...]:
        size = L.shape[0]
        A = jnp.linalg.inv(eye + G.T @ G)
        harmful = jnp.linalg.svd(L @ A @ G.T, full_matrices=False)[2][:DIRECTIONS]

        def along(g: Any) -> tuple[Any, Any]:
            signal = g @ G
            others = G - jnp.outer(g, signal)
            gain = jnp.linalg.solve(eye + others.T @ others, signal)
            q = signal @ gain
            return q, jnp.sum((L @ gain / q) ** 2) / size

        q, weight = jax.vmap(along)(harmful)
        return jnp.trace(L @ A @ L.T) / size, q, weight

    trace, signal, weight = jax.jit(lambda *windows: jax.lax.map(lambda w: one(*w), windows))(observed, state)
    return Games(trace, signal, weight, budget)


def game_value(signal: Any, budget: float, price: Any) -> tuple[Any, Any]:
    r"""Return between which values the best function f of the scalar problem is.

    .. math:: \min_f\; E (f(t) - \tau)^2 + \lambda\, E \max_{|s| \le D} (f(t + s) - \tau)^2

    A rule, fixed or drawn, by which the adversary chooses s from t and tau bounds this from below, and leaves a problem
    for f that is solved exactly; any f bounds it from above. Rounds of fictitious play mix the best answer to the f
    before into the rule. On a lattice of t, with s a multiple of D / 10.

    Args:
        signal: q, variance of tau, at most 200; that of the error of t is 1.
        budget: D, positive (static).
        price: lambda, of the worst case.

    Returns:
        The highest lower and the lowest upper bound met.

    Example:
        >>> [round(float(value), 2) for value in game_value(3.0, 0.1, 1e-6)]  # hardly an adversary: 3 / (3 + 1)
        [0.75, 0.75]

    Source: Robinson (1951) for fictitious play.
    """
    spacing = budget / (MOVES * FINE)
    half = math.ceil((5.0 * (LARGEST + 1.0) ** 0.5 + budget) / spacing) if budget >= 1 else 2_000
    places = jnp.arange(2 * half + 1)
    t = (places - half).astype(float) * spacing
    signal, price = jnp.asarray(signal, float), jnp.asarray(price, float)
    gain = signal / (signal + 1.0)
    deviation, mean = safe_sqrt(gain), gain * t  # of tau where t is seen
    known = jnp.exp(-(t**2) / (2 * (signal + 1.0)))
    known = known / jnp.sum(known)
    moves = FINE * jnp.arange(-MOVES, MOVES + 1)[None]
    ahead = jnp.clip(places[:, None] + moves, 0, 2 * half)
    source = places[:, None] - moves
    inside = (source >= 0) & (source <= 2 * half)
    alone = jnp.sum(known * mean**2) + gain  # of f = 0

    def rule(f: Any) -> tuple[Any, Any, Any]:
        """Return mass and moment of tau by where the best answer to f moves t, and its error."""
        reached = f[ahead]
        high, low = jnp.max(reached, axis=1), jnp.min(reached, axis=1)
        middle, apart = (high + low) / 2, (high - low) / 2
        z = (middle - mean) / deviation  # moved to where f is high for tau below the middle
        below, at = norm.cdf(z), norm.pdf(z)
        distance = (middle - mean) * (2 * below - 1) + 2 * deviation * at
        error = jnp.sum(known * ((middle - mean) ** 2 + gain + 2 * apart * distance + apart**2))
        up, down = (jax.nn.one_hot(at, 2 * MOVES + 1) for at in (jnp.argmax(reached, 1), jnp.argmin(reached, 1)))

        def placed(upper: Any, lower: Any) -> Any:
            spread = up * (known * upper)[:, None] + down * (known * lower)[:, None]
            moved = jnp.take_along_axis(spread, jnp.clip(source, 0, 2 * half), axis=0)
            return jnp.sum(jnp.where(inside, moved, 0), axis=1)

        moments = mean * below - deviation * at, mean * (1 - below) + deviation * at
        return placed(below, 1 - below), placed(*moments), error

    def play(carry: Any, k: Any) -> tuple[Any, None]:
        f, mass, moment, lower, upper = carry
        new_mass, new_moment, error = rule(f)
        upper = jnp.minimum(upper, gain + jnp.sum(known * (f - mean) ** 2) + price * error)
        share = 2.0 / (k + 2.0)
        mass, moment = mass + share * (new_mass - mass), moment + share * (new_moment - moment)
        numerator = known * mean + price * moment
        f = numerator / jnp.maximum(known + price * mass, 1e-300)
        lower = jnp.maximum(lower, alone * (1 + price) - jnp.sum(numerator * f))
        return (f, mass, moment, lower, upper), None

    start = (mean / (1.0 + 4.0 * price), 0 * mean, 0 * mean, 0 * alone, jnp.full_like(alone, jnp.inf))
    return jax.lax.scan(play, start, jnp.arange(float(ROUNDS)))[0][3:]


def least_worst(games: Games, clean: float, prices: tuple[float, ...] = PRICES) -> float:
    r"""Return a root mean square error under the worst errors that no analysis with this clean error goes below.

    .. math:: e_{worst}^2 \ge \max_\lambda \frac{V(\lambda) - e_{clean}^2}{\lambda}

    V is the mean over windows of the least clean and lambda-fold worst error together, for the direction in which
    it is largest. The analysis may be any function of the observations, and knows the dynamics along the truth.

    Args:
        games: see `games_of`.
        clean: root mean square error without an adversary that is allowed.
        prices: lambda.

    Raises:
        ConfigurationError: if no analysis has so small a clean error.

    Example:
        >>> ones = jnp.ones((1, 1))
        >>> games = Games(jnp.array([0.75]), 3.0 * ones, ones, 5.0)
        >>> least_worst(games, 0.9, (0.1,)) > least_worst(games, 1.0, (0.1,)) > 0.75**0.5
        True
    """
    least = float(jnp.mean(games.trace))
    if clean**2 < least * (1 - 1e-6):
        raise ConfigurationError(f"least_worst: clean={clean} is less than what the best analysis has, {least**0.5}")
    signals = jnp.geomspace(0.1, LARGEST, SIGNALS)
    at = jnp.log(jnp.clip(games.signal, 0.1, LARGEST))
    rest = games.trace[:, None] - games.weight * games.signal / (games.signal + 1)
    found = []
    for price, values in zip(prices, _values(signals, games.budget, jnp.array(prices)), strict=True):
        harm = jnp.interp(at, jnp.log(signals), (values - signals / (signals + 1)) / price)  # beside the clean error
        worst = jnp.max(rest + games.weight * harm, axis=1)
        found.append(float(jnp.mean(worst)) - (clean**2 - least) / price)
    return max(*found, least) ** 0.5


@functools.partial(jax.jit, static_argnums=1)
def _values(signals: Any, budget: float, prices: Any) -> Any:
    return jax.lax.map(lambda price: jax.lax.map(lambda q: game_value(q, budget, price)[0], signals), prices)


def linear_windows(key: jax.Array, count: int, flow: bool = False) -> tuple[Any, Any]:
    r"""Return windows of Lorenz-96, linear around trajectories of its climate.

    The first state has the covariance P of the climate; with `flow` it also has that of states which were so before
    and were carried on by the tangent M: \((P^{-1} + (M P M^T)^{-1})^{-1}\), more than an analysis can know.

    Args:
        key: random key.
        count: number of windows.
        flow: whether the flow before the window tells about its first state.

    Returns:
        G and L of `games_of`.
    """
    keys = jax.random.split(key, 3)
    climate = draw(keys[0], 2_000)[:, 0].astype(float)
    power = np.mean(np.abs(np.fft.fft(np.asarray(climate) - CENTER, axis=1)) ** 2, axis=0) / N
    waves = np.fft.fft(np.eye(N), norm="ortho")
    P = jnp.asarray((waves.conj().T * power @ waves).real)
    dynamics = model(DT)
    half = jnp.arange(TIMES * N) < SEEN  # as many in every window, so that the adversary's budget is one
    masks = jax.vmap(lambda k: jax.random.permutation(k, half))(jax.random.split(keys[1], count))

    def window(case: tuple[Any, Any]) -> tuple[Any, Any]:
        before, mask = case
        M, x = jax.jacfwd(lambda z: rollout(dynamics, z, BEFORE)[-1])(before), rollout(dynamics, before, BEFORE)[-1]
        carried = M @ P @ M.T
        prior = P - P @ jnp.linalg.solve(P + carried, P) if flow else P
        root = jnp.linalg.cholesky((prior + prior.T) / 2)
        tangent = jax.jacfwd(lambda z: rollout(dynamics, z, TIMES - 1))(x) @ root
        return jnp.where(mask[:, None], tangent.reshape(TIMES * N, N), 0), tangent[-1]

    return jax.jit(lambda cases: jax.lax.map(window, cases))((draw(keys[2], count)[:, 0].astype(float), masks))
