"""Analyses of Lorenz-96 from short windows of observations by a network: the setting of several rows."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from diffassim.core.pytree import Pytree
from diffassim.experiments.learning.lorenz96_runs import CENTER, SPREAD, N, runs
from diffassim.learned import Network
from diffassim.learned.networks import PeriodicResidualNet

__all__ = ["WindowNetwork", "draw", "mean_square", "observe", "residual_net", "rmse", "untrained"]

TIMES, DT = 5, 0.05  # observation times of a window, and time units between them
SHARE = 0.5  # of the variables are observed at each time, others each time, with unit errors
SPIN_UP, APART = 400, 10  # steps before the first window of a run, and from one window to the next
PRECISION = jnp.float32


class WindowNetwork(Pytree):
    """From the observations of a window to a state; the same at every variable.

    Args:
        network: of the line, with values and gaps of all times as channels.
    """

    network: Any

    def __call__(self, values: Any) -> Any:
        """Return the state from values, shape (time, variable), NaN where nothing is observed."""
        return self.state(values, ~jnp.isnan(values))

    def state(self, values: Any, mask: Any) -> Any:
        """Return the state from values and mask, shape (time, variable)."""
        seen = jnp.where(mask, (values - CENTER) / SPREAD, 0)
        out = self.network(jnp.concatenate([seen, mask.astype(seen.dtype)]).T)
        return CENTER + SPREAD * out[:, 0]


def residual_net(times: int, width: int, depth: int, seed: int) -> Network:
    """Return a residual network of seven neighbours for windows of so many times, before any training."""
    net = PeriodicResidualNet(2 * times, 1, width, depth, radius=3, rngs=nnx.Rngs(seed), dtype=PRECISION)
    return Network.from_nnx(net)


def untrained(width: int, depth: int, seed: int) -> WindowNetwork:
    """Return the analysis of short windows before any training."""
    return WindowNetwork(residual_net(TIMES, width, depth, seed))


def draw(key: jax.Array, count: int, forcing: float = 8.0) -> Any:
    """Return windows of states on the attractor, shape (window, time, variable)."""
    chains = -(-count // 50)
    at = SPIN_UP + APART * np.arange(50)[:, None] + np.arange(TIMES)
    states = runs(key, chains, at.ravel(), DT, PRECISION, forcing)
    return states.reshape(chains * 50, TIMES, N)[:count]


def observe(states: Any, key: jax.Array) -> Any:
    """Return values with unit errors; NaN for what is not observed."""
    keys = jax.random.split(key)
    values = states + jax.random.normal(keys[0], states.shape, states.dtype)
    return jnp.where(jax.random.uniform(keys[1], states.shape) < SHARE, values, jnp.nan)


def mean_square(network: WindowNetwork, windows: Any, key: jax.Array) -> Any:
    """Return the mean square error of the last states in units of the climate, with new observations: a loss."""
    found = jax.vmap(network)(observe(windows, key))
    return jnp.mean(((found - windows[:, -1]) / SPREAD) ** 2)


def rmse(network: Any, values: Any, truth: Any) -> float:
    """Return the root mean square error of the last states of all windows."""
    return float(jnp.sqrt(jnp.mean((_states(network, values) - truth[:, -1]) ** 2)))


@jax.jit  # once for all networks of one kind
def _states(network: Any, values: Any) -> Any:
    return jax.lax.map(network, values, batch_size=100)
