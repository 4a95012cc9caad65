"""The learned smoothers of row L11: from the observations of a window to its states, with or without a 4D-Var."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from diffassim.core.pytree import Pytree
from diffassim.experiments.learning.bench import Settings, train
from diffassim.learned import Network
from diffassim.learned.networks import PeriodicUNet

__all__ = ["Seen", "Smoother", "train_smoother"]

PAD, LEVELS = 20, 4  # states of zeros behind a window, which the network takes for periodic; how often it is halved
PRECISION = jnp.float32
MIRROR = jnp.array([-1.0, -1.0, 1.0])  # the law is the same with the signs of X, Y and the forcing changed


class Seen(NamedTuple):
    """What a smoother is given of windows, with a leading axis.

    Attributes:
        values: observed values, shape (time, 3).
        forcing: the forcing that is given, shape (step,).
        parameters: those that are given, relative to their means, shape (3,).
        analysis: states by 4D-Var, shape (step, 3), or None.
    """

    values: Any
    forcing: Any
    parameters: Any
    analysis: Any = None


class Smoother(Pytree):
    """A U-Net in time, which changes a first guess: the interpolated observations, or 4D-Var's states.

    Args:
        network: of channels at every step.
        center: mean of the states.
        spread: their standard deviation.
        scale: spread of what the first guess lacks.
    """

    network: Any
    center: Any
    spread: Any
    scale: Any

    def __call__(self, seen: Seen, observed: np.ndarray) -> Any:
        """Return the states of one window, shape (step, 3).

        Args:
            seen: what is given of it.
            observed: steps of its observations.
        """
        steps = seen.forcing.shape[0]
        at = np.arange(steps)
        known, wanted = (jnp.asarray(times, seen.values.dtype) for times in (observed, at))
        between = jnp.stack([jnp.interp(wanted, known, column) for column in seen.values.T], axis=1)
        since = (at - observed[np.searchsorted(observed, at, side="right") - 1]) / (observed[1] - observed[0])
        guess = between if seen.analysis is None else seen.analysis
        channels = [(guess - self.center[None]) / self.spread[None], jnp.asarray(since, guess.dtype)[:, None]]
        channels += [seen.forcing[:, None] / 10, jnp.ones((steps, 1), guess.dtype)]
        channels.append(jnp.broadcast_to(seen.parameters[None], (steps, 3)))
        if seen.analysis is not None:
            channels.append((between - guess) / self.scale[None])
        inputs = jnp.pad(jnp.concatenate(channels, axis=1), ((0, PAD), (0, 0)))
        return guess + self.scale[None] * self.network(inputs)[:steps]


def _mirrored(seen: Seen, truth: Any, sign: Any) -> tuple[Seen, Any]:
    """Return a window as it is (1), or its mirror image (-1)."""
    factor = jnp.where(sign > 0, jnp.ones(3, truth.dtype), MIRROR.astype(truth.dtype))[None]
    analysis = None if seen.analysis is None else factor * seen.analysis
    return Seen(factor * seen.values, sign * seen.forcing, seen.parameters, analysis), factor * truth


def train_smoother(
    seen: Seen, truth: Any, observed: np.ndarray, noise: float, settings: Settings, *, name: str, share: float,
    updates: int,
) -> tuple[Smoother, int]:  # fmt: skip
    """Train a smoother on windows whose truth is known.

    Args:
        seen: what it is given of them.
        truth: their states, shape (window, step, 3).
        observed: steps of the observations.
        noise: standard deviation of their errors, drawn anew in every update where no analysis depends on them.
        settings: of the row.
        name: to be told.
        share: of the row's time.
        updates: largest number of them.

    Returns:
        The smoother, and the number of updates that were made.
    """
    seen, truth = jax.tree.map(lambda leaf: leaf.astype(PRECISION), (seen, truth))
    flat = truth.reshape(-1, 3)
    center, spread = jnp.mean(flat, axis=0), jnp.std(flat, axis=0)
    guess = seen.analysis
    scale = spread if guess is None else jnp.std((truth - guess).reshape(-1, 3), axis=0)
    channels = 9 if guess is None else 12
    net = PeriodicUNet(channels, 3, 48, LEVELS, rngs=nnx.Rngs(settings.seed), dtype=PRECISION)
    smoother = Smoother(Network.from_nnx(net), center, spread, scale)
    # A tenth of the windows says when to stop.
    held = truth.shape[0] // 10
    batch = min(32, truth.shape[0] - held)

    def loss(trained: Any, batch: Any, key: Any) -> Any:
        def one(seen: Seen, truth: Any, key: Any) -> Any:
            keys = jax.random.split(key)
            if guess is None:  # new errors of the observations
                drawn = jax.random.normal(keys[0], seen.values.shape, truth.dtype)
                seen = seen._replace(values=truth[observed] + jnp.asarray(noise, truth.dtype) * drawn)
            sign = jnp.where(jax.random.bernoulli(keys[1]), 1.0, -1.0).astype(truth.dtype)
            seen, truth = _mirrored(seen, truth, sign)
            found = smoother.replace(network=trained)(seen, observed)
            return jnp.mean(jnp.sqrt(jnp.mean((found - truth) ** 2, axis=0) + 1e-6))  # as the row scores

        seen, states = batch
        return jnp.mean(jax.vmap(one)(seen, states, jax.random.split(key, states.shape[0])))

    parts = [jax.tree.map(lambda leaf, s=s: leaf[s], (seen, truth)) for s in (slice(held, None), slice(0, held))]
    found = train(
        loss, smoother.network, parts[0], settings=settings, name=name, updates=updates, rate=2e-3, batch_size=batch,
        share=share, validation=parts[1], patience=20,
    )  # fmt: skip
    return smoother.replace(network=found.trained), int(found.state.step)
