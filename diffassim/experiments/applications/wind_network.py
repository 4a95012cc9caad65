"""The textbook network: wind speed from temperature and humidity of the same hour."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from diffassim.learned import Network
from diffassim.learned.networks import MLP
from diffassim.learned.normalized import Normalized
from diffassim.training import fit

__all__ = ["train_wind_network"]

LAYERS = (2, 64, 32, 1)
UPDATES, BATCH, RATE = 3000, 64, 1e-3


def train_wind_network(inputs: np.ndarray, speed: np.ndarray, seed: int) -> Any:
    """Train two hidden layers of 64 and 32 units by Adam on normalized samples.

    Args:
        inputs: temperature and humidity, shape (sample, 2).
        speed: wind speed, shape (sample,).
        seed: of weights and batches.

    Returns:
        The network, which takes and gives values in their units.

    Source: Kingma and Ba (2015) for Adam.
    """
    x, y = jnp.asarray(inputs), jnp.asarray(speed)[:, None]
    keys = jax.random.split(jax.random.key(seed))
    network = Normalized.fit(Network.from_nnx(MLP(LAYERS, rngs=nnx.Rngs(keys[0]))), x, y)

    def loss(network: Any, batch: Any, key: Any) -> Any:
        x, y = batch
        return jnp.mean(jnp.square((network(x) - y) / network.output_spread[None]))

    batch = min(BATCH, len(x))
    found = fit(loss, network, (x, y), optimizer=optax.adam(RATE), steps=UPDATES, batch_size=batch, key=keys[1])
    return found.trained
