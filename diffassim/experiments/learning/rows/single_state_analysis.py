"""Row L5: the analysis of fully observed Lorenz-96 by a network, from a single forecast state."""

from __future__ import annotations

from collections.abc import Iterator
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
from diffassim.learned.networks import PeriodicGatedNet
from diffassim.models import Lorenz96, rollout
from diffassim.observations import Observations

__all__ = ["ROW"]

N = 40
CENTER, SPREAD = 2.3, 3.6  # climate of the model, which scales the network's input
MEMORY = 12  # channels that the network remembers at every point
REACH = 5  # neighbors on each side that an error shares its causes with
LOST = 2.0  # mean square error of an analysis, expected or seen, from which a lane starts again
SEEN = 0.2  # share in the loss of errors that were seen, beside those to be expected
MODEL_ERROR = 1e-4  # variance that keeps expected errors from vanishing where errors only decay
LANES, SPAN = 16, 8  # cycles trained on at once, and analyses that one update passes through
RESTARTED = 0.02  # share of the lanes that begin anew in an update, so that beginnings are not forgotten
UPDATES, RATE = 60_000, 3e-3  # as many as the time allows
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
        self.net = PeriodicGatedNet(2 + MEMORY, outputs, width, depth, radius=3, rngs=rngs, dtype=PRECISION)
        # where it starts: errors of one half everywhere, independent, keep the truth
        self.start = nnx.Param(jnp.zeros((1, 2 * REACH + 1), PRECISION).at[0, REACH].set(0.5))

    def __call__(self, x: Any, g: Any, memory: Any) -> tuple[LocalRoot, Any]:
        """Return the covariance, and the memory, which is a gated average of what the network wants to keep."""
        seen = jnp.concatenate([((x - CENTER) / SPREAD)[..., None], g[..., None], memory], axis=-1)
        weights, gate, new = jnp.split(self.net(seen), [2 * REACH + 1, 2 * REACH + 1 + MEMORY], axis=-1)
        gate = jax.nn.sigmoid(gate)
        return LocalRoot(self.start[...] + weights), gate * memory + (1 - gate) * jnp.tanh(new)


def untrained(settings: Settings) -> LearnedCovarianceAnalysis:
    """Return the analysis before any training."""
    width, depth = (96, 6) if settings.full else (24, 3)
    net = ErrorNet(width, depth, rngs=nnx.Rngs(settings.seed))
    return LearnedCovarianceAnalysis(Network.from_nnx(net), jnp.zeros((N, MEMORY), PRECISION), tolerance=1e-4)


def first(key: jax.Array, lanes: int) -> tuple[Any, Remembered, Any]:
    """Return truths on the attractor, first states with unit errors, and their covariance."""
    keys = jax.random.split(key, 2)
    x = 8 + jax.random.normal(keys[0], (lanes, N), PRECISION)
    truth = jax.vmap(lambda x: rollout(model(), x, 1000, at=[1000], segment=1000)[0])(x)
    return truth, *starting(truth, keys[1])


def starting(truth: Any, key: jax.Array) -> tuple[Remembered, Any]:
    """Return states with unit errors, and their covariance."""
    state = truth + jax.random.normal(key, truth.shape, PRECISION)
    P = jnp.broadcast_to(jnp.eye(N, dtype=PRECISION), (*truth.shape, N))
    return Remembered(state, jnp.zeros((*truth.shape, MEMORY), PRECISION)), P


def cycled(analysis: LearnedCovarianceAnalysis, truth: Any, belief: Remembered, key: jax.Array, span: int) -> Any:
    """Run one lane on; return the mean square error of each analysis."""
    states = rollout(model(), truth, span)[1:]
    values = states + jax.random.normal(key, states.shape, PRECISION)
    observations = Observations(values, np.arange(1, span + 1), error=Diagonal(std=jnp.asarray(1.0, PRECISION)))
    _, history = cycle(analysis, model(), belief, observations)
    return jnp.mean((history.analysis.mean - states) ** 2, axis=-1)


def expected(analysis: LearnedCovarianceAnalysis, truth: Any, belief: Remembered, P: Any, key: jax.Array) -> Any:
    r"""Run one lane on by one analysis, and with it the covariance of its error.

    .. math:: P \leftarrow (I - K)(M P M^\top + q I)(I - K)^\top + K K^\top

    With the derivative M of the model and the gain K of the network this is how wrong the analysis is over all errors
    of observations, where what was drawn shows how wrong it was for one: much less noise in the gradient.
    """
    truth, unit = model().step(truth, 0), jnp.eye(N, dtype=PRECISION)
    forecast, derivative = jax.linearize(lambda x: model().step(x, 0), belief.state)
    M = jax.lax.stop_gradient(jax.vmap(derivative)(unit)).T  # where errors grow is not for the network to choose
    d = truth + jax.random.normal(key, truth.shape, PRECISION) - forecast
    B, memory = analysis.network(forecast, d, belief.memory)
    root = jax.vmap(B.sqrt)(unit)
    rest = jnp.linalg.inv(root.T @ root + unit)  # I - K, as everything is observed with unit errors
    gain = unit - rest
    P = rest @ (M @ P @ M.T + MODEL_ERROR * unit) @ rest.T + gain @ gain.T
    return truth, Remembered(forecast + gain @ d, memory), P


def loss(analysis: LearnedCovarianceAnalysis, batch: Any, key: jax.Array, carry: Any) -> Any:
    """Return the mean square error, expected and seen, of lanes that go on from update to update.

    No derivative passes from one update to the next.
    """
    new_key, chance, *keys = jax.random.split(key, SPAN + 2)

    def advance(lanes: Any, key: jax.Array) -> Any:
        keys = jax.random.split(key, lanes[0].shape[0])
        truth, belief, P = jax.vmap(lambda truth, belief, P, key: expected(analysis, truth, belief, P, key))(
            *lanes, keys
        )
        seen = jnp.mean((belief.state - truth) ** 2, axis=-1)
        return (truth, belief, P), (seen, jnp.trace(P, axis1=1, axis2=2) / N)

    (truth, belief, P), (seen, known) = jax.lax.scan(advance, carry, jnp.stack(keys))
    lost = ~((seen[-1] < LOST) & (known[-1] < LOST))
    anew = lost | jax.random.bernoulli(chance, RESTARTED, lost.shape)
    carry = (truth, *jax.vmap(tree.select)(anew, starting(truth, new_key), (belief, P)))
    total = SEEN * _bounded(seen) + (1 - SEEN) * _bounded(known)
    return total, {"lost": jnp.mean(lost.astype(PRECISION))}, carry


def _bounded(error: Any) -> Any:
    return jnp.mean(jnp.where(error < LOST, error, LOST))


@jax.jit
def test(analysis: LearnedCovarianceAnalysis, key: jax.Array) -> Any:
    """Return the root mean square error of every analysis, shape (lane, cycle)."""
    keys = jax.random.split(key)
    truth, belief, _ = first(keys[0], TEST_LANES)
    run = jax.vmap(lambda x, belief, key: cycled(analysis, x, belief, key, TEST_CYCLES))
    return jnp.sqrt(run(truth, belief, jax.random.split(keys[1], TEST_LANES)))


def run(settings: Settings) -> Iterator[Score]:
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
    yield Score("network, one state and its memory", float(np.mean(errors)), "learned", 0.19, 0.185, note)
    for label, published in (("3D-Var .02", 0.41), ("ETKF 1.013", 0.18), ("LETKF 1.04", 0.22)):
        settings.tell(label)
        (row,) = find_rows("lorenz96/sakov2008", label)
        yield Score(f"{row.label}, N = {row.members}", rerun(row, 2).mean, "classical", published)


ROW = Row(
    "L5", "analysis of fully observed Lorenz-96 from a single state", "root mean square error",
    "Bocquet et al. (2024)", run,
)  # fmt: skip
