"""Row L5: the analysis of fully observed Lorenz-96 by a network, from a single forecast state."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from diffassim.core import tree
from diffassim.covariances import Diagonal, LocalRoot
from diffassim.cycling import cycle
from diffassim.experiments.learning.bench import Row, Score, Settings, train
from diffassim.experiments.literature import find_rows, rerun
from diffassim.learned import LearnedCovarianceAnalysis, Network, Remembered
from diffassim.learned.networks import PeriodicResidualNet
from diffassim.models import Lorenz96, rollout
from diffassim.observations import Observations

__all__ = ["ROW"]

N = 40
CENTER, SPREAD = 2.3, 3.6  # climate of the model, which scales the network's input
MEMORY = 8  # channels that the network remembers at every point
REACH = 5  # neighbors on each side that an error shares its causes with
LANES, SPAN = 32, 6  # cycles trained on at once, and analyses that one update passes through
LOST = 4.0  # mean square error of an analysis from which a lane starts again
UPDATES, RATE = 12_000, 2e-3
TEST_LANES, TEST_CYCLES, BURN_IN = 16, 800, 100
PRECISION = jnp.float32


def model() -> Lorenz96:
    """Return the forward model, in steps of one observation interval."""
    return Lorenz96(forcing=jnp.asarray(8.0, PRECISION), dt=0.05)


class ErrorNet(nnx.Module):
    """Root of the covariance of the forecast's errors, from forecast, pull of the observations and memory nearby.

    Args:
        width: channels inside.
        depth: residual blocks.
        rngs: random-number streams for the initial weights.
    """

    def __init__(self, width: int, depth: int, *, rngs: nnx.Rngs) -> None:
        outputs = 2 * REACH + 1 + 2 * MEMORY
        self.net = PeriodicResidualNet(2 + MEMORY, outputs, width, depth, radius=3, rngs=rngs, dtype=PRECISION)
        # where it starts: errors of one half everywhere, independent, keep the truth
        self.start = nnx.Param(jnp.zeros(2 * REACH + 1, PRECISION).at[REACH].set(0.5))

    def __call__(self, x: Any, g: Any, memory: Any) -> tuple[LocalRoot, Any]:
        """Return the covariance, and the memory, which is a gated average of what the network wants to keep."""
        seen = jnp.concatenate([((x - CENTER) / SPREAD)[..., None], g[..., None], memory], axis=-1)
        weights, gate, new = jnp.split(self.net(seen), [2 * REACH + 1, 2 * REACH + 1 + MEMORY], axis=-1)
        gate = jax.nn.sigmoid(gate)
        return LocalRoot(self.start[...] + weights), gate * memory + (1 - gate) * jnp.tanh(new)


def untrained(settings: Settings) -> LearnedCovarianceAnalysis:
    """Return the analysis before any training."""
    width, depth = (96, 6) if settings.full else (32, 3)
    net = ErrorNet(width, depth, rngs=nnx.Rngs(settings.seed))
    return LearnedCovarianceAnalysis(Network.from_nnx(net), jnp.zeros((N, MEMORY), PRECISION), tolerance=1e-4)


def first(key: jax.Array, lanes: int) -> tuple[Any, Remembered]:
    """Return truths on the attractor, and first states with unit errors."""
    keys = jax.random.split(key, 2)
    x = 8 + jax.random.normal(keys[0], (lanes, N), PRECISION)
    truth = jax.vmap(lambda x: rollout(model(), x, 1000, at=[1000], segment=1000)[0])(x)
    return truth, _again(truth, keys[1])


def _again(truth: Any, key: jax.Array) -> Remembered:
    state = truth + jax.random.normal(key, truth.shape, PRECISION)
    return Remembered(state, jnp.zeros((*truth.shape, MEMORY), PRECISION))


def cycled(analysis: LearnedCovarianceAnalysis, truth: Any, belief: Remembered, key: jax.Array, span: int) -> Any:
    """Run one lane on; return truth and belief at its end, and the mean square error of each analysis."""
    states = rollout(model(), truth, span)[1:]
    values = states + jax.random.normal(key, states.shape, PRECISION)
    observations = Observations(values, np.arange(1, span + 1), error=Diagonal(std=jnp.asarray(1.0, PRECISION)))
    after, history = cycle(analysis, model(), belief, observations)
    return states[-1], after, jnp.mean((history.analysis.mean - states) ** 2, axis=-1)


def loss(analysis: LearnedCovarianceAnalysis, batch: Any, key: jax.Array, carry: Any) -> Any:
    """Return the mean square error over the lanes, which go on from update to update; no derivative passes between."""
    truth, belief = carry
    keys = jax.random.split(key, truth.shape[0] + 1)
    run = jax.vmap(lambda x, belief, key: cycled(analysis, x, belief, key, SPAN))
    truth, belief, error = run(truth, belief, keys[1:])
    lost = ~(error[:, -1] < LOST)
    fresh = _again(truth, keys[0])
    belief = jax.vmap(tree.select)(lost, fresh, belief)
    return jnp.mean(jnp.minimum(error, LOST)), {"lost": jnp.mean(lost.astype(PRECISION))}, (truth, belief)


@jax.jit
def test(analysis: LearnedCovarianceAnalysis, key: jax.Array) -> Any:
    """Return the root mean square error of every analysis, shape (lane, cycle)."""
    keys = jax.random.split(key)
    truth, belief = first(keys[0], TEST_LANES)
    run = jax.vmap(lambda x, belief, key: cycled(analysis, x, belief, key, TEST_CYCLES)[2])
    return jnp.sqrt(run(truth, belief, jax.random.split(keys[1], TEST_LANES)))


def run(settings: Settings) -> list[Score]:
    """Train the network through cycles that go on, and score it beside ensemble filters and 3D-Var."""
    keys = jax.random.split(settings.key, 2)
    found = train(
        loss, untrained(settings), jnp.arange(2), settings=settings, name="the analysis", updates=UPDATES, rate=RATE,
        batch_size=1, carry=first(keys[0], LANES), key=settings.key,
    )  # fmt: skip
    settings.tell("scores the analysis")
    errors = np.asarray(test(found.trained, keys[1]))[:, BURN_IN:]
    lost = int(np.sum(~(np.mean(errors, axis=1) < 1)))
    note = f"{errors.size} analyses, {lost} of {TEST_LANES} runs lost, {int(found.state.step)} updates"
    scores = [Score("network, one state and its memory", float(np.mean(errors)), "learned", 0.19, 0.185, note)]
    for label, published in (("3D-Var .02", 0.41), ("ETKF 1.013", 0.18), ("LETKF 1.04", 0.22)):
        settings.tell(label)
        (row,) = find_rows("lorenz96/sakov2008", label)
        scores.append(Score(f"{row.label}, N = {row.members}", rerun(row, 2).mean, "classical", published))
    return scores


ROW = Row(
    "L5", "analysis of fully observed Lorenz-96 from a single state", "root mean square error",
    "Bocquet et al. (2024)", run,
)  # fmt: skip
