"""What privacy costs: a closure learned from public runs, fine-tuned on private ones, over the epsilon that is spent.

The fast waves of two-scale Lorenz-96 act on the slow ones; a network of the neighborhood predicts how. Public are runs
with one coupling, private those with another. A sample is one state: its epsilon bounds what the network tells of it.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Annotated, Any, NamedTuple

import cyclopts
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.console import Console
from rich.table import Table
from scipy.optimize import brentq

from benchmarks.harness import conditions
from diffassim.core import tree
from diffassim.learned import Network
from diffassim.learned.local_network import LocalNetwork
from diffassim.models import TwoScaleLorenz96, TwoScaleState, rollout
from diffassim.training import Private, fit, privacy_spent

SLOW, FAST, APART, SPIN_UP = 36, 10, 40, 2000
PUBLIC, PRIVATE = TwoScaleLorenz96(forcing=10.0, coupling=0.6), TwoScaleLorenz96(forcing=14.0, coupling=1.2)
BATCH, EPOCHS, RATE, DELTA = 1024, 20, 3e-3, 1e-5
EPSILONS = (0.3, 1.0, 3.0, 10.0, math.inf)


class Samples(NamedTuple):
    """Slow variables, and what the fast ones do to them, shape (sample, slow variable)."""

    slow: Any
    effect: Any


@partial(jax.jit, static_argnums=2)
def draw(model: TwoScaleLorenz96, key: jax.Array, count: int) -> Samples:
    """Return states of many runs, so that they are nearly independent."""
    runs = 64
    slow, fast = jax.random.split(key)
    start = TwoScaleState(
        model.forcing / 2 + jax.random.normal(slow, (runs, SLOW)), 0.1 * jax.random.normal(fast, (runs, SLOW, FAST))
    )
    at = SPIN_UP + APART * np.arange(-(-count // runs))
    states = jax.vmap(lambda x: rollout(model, x, int(at[-1]), at=at))(start)
    factor = model.coupling * model.time_scale / model.space_scale
    x, u = states.slow, -factor * jnp.sum(states.fast, axis=-1)
    return Samples(x.reshape(-1, SLOW)[:count], u.reshape(-1, SLOW)[:count])


def loss(network: Any, batch: Samples, key: Any) -> Any:
    """Return the mean square error."""
    return jnp.mean((network(batch.slow) - batch.effect) ** 2)


def error(network: Any, test: Samples) -> float:
    """Return the error as a share of the effect's standard deviation."""
    return float(jnp.sqrt(loss(network, test, None)) / jnp.std(test.effect))


def noise_for(epsilon: float, samples: int, batch_size: int, steps: int) -> float:
    """Return the least noise with which a training spends no more than this."""
    if math.isinf(epsilon):
        return 0.0

    def excess(noise: float) -> float:
        return privacy_spent(noise, samples=samples, batch_size=batch_size, steps=steps, delta=DELTA) - epsilon

    return float(brentq(excess, 0.3, 300.0, rtol=1e-3))


def seeds_of(seed: int, samples: int, epsilons: tuple[float, ...]) -> dict[str, float]:
    """Return the errors on the private system of one seed, by what was done."""
    keys = jax.random.split(jax.random.key(seed), 5)
    public, private, test = (
        draw(PUBLIC, keys[0], samples),
        draw(PRIVATE, keys[1], samples),
        draw(PRIVATE, keys[2], 2048),
    )
    batch = min(BATCH, samples)
    steps = EPOCHS * (samples // batch)
    untrained = Network.from_nnx(LocalNetwork(radius=2, rngs=nnx.Rngs(seed)))
    options = {"optimizer": optax.adam(RATE), "batch_size": batch, "chunk": 40}
    learned = fit(loss, untrained, public, steps=10 * steps, key=keys[3], **options).trained
    # What the clip is learned from may tell of it: so that is public.
    slopes = jax.vmap(lambda x, u: jax.grad(loss)(learned, Samples(x[None], u[None]), None))(*public)
    clip = float(jnp.median(jax.vmap(tree.norm)(slopes)))
    found = {"public alone": error(learned, test)}
    for epsilon in epsilons:
        private_loss = Private(loss, clip=clip, noise=noise_for(epsilon, samples, batch, steps))
        for name, start in (("fine-tuned", learned), ("from scratch", untrained)):
            tuned = fit(private_loss, start, private, steps=steps, key=keys[4], **options).trained
            found[f"{name}, epsilon {epsilon:g}"] = error(tuned, test)
    plain = fit(loss, learned, private, steps=steps, key=keys[4], **options).trained
    return found | {"fine-tuned, not private": error(plain, test)}


def main(
    *, seeds: int = 3, samples: int = 8192, epsilons: Annotated[tuple[float, ...], cyclopts.Parameter()] = EPSILONS
) -> None:
    """Print the errors over the epsilon.

    Args:
        seeds: of runs, weights, batches and noise.
        samples: states of each training.
        epsilons: that may be spent, with delta = 1e-5; infinity clips and adds no noise.
    """
    found = [seeds_of(seed, samples, epsilons) for seed in range(seeds)]
    table = Table(
        title=f"Error of a closure on the private system, {seeds} seeds, {samples} samples", title_justify="left"
    )
    for column in ("what", "error / standard deviation", "of seeds"):
        table.add_column(column)
    for what in found[0]:
        values = np.array([each[what] for each in found])
        table.add_row(what, f"{values.mean():.3f}", f"{values.min():.3f} to {values.max():.3f}")
    Console().print(table)
    print(conditions())


if __name__ == "__main__":
    cyclopts.run(main)
