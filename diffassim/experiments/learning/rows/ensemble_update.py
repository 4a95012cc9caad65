"""Row L4: an ensemble filter with few observations whose analysis a network corrects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from diffassim.core import tree
from diffassim.covariances import Diagonal
from diffassim.cycling import cycle
from diffassim.ensemble import LETKF, GaspariCohn, RelaxToPriorSpread
from diffassim.experiments.learning.bench import Row, Score, Settings, train
from diffassim.experiments.learning.lorenz96_runs import CENTER, SPREAD, N, model
from diffassim.learned import LearnedEnsembleUpdate, Network, Remembered
from diffassim.learned.networks import PeriodicResidualNet
from diffassim.models import rollout
from diffassim.observations import Observations, Subsample

__all__ = ["ROW"]

DT, INTERVAL, APART = 0.03, 5, 4  # Runge-Kutta steps of .03, five between analyses; every fourth variable is observed
MEMORY = 8  # channels that the network remembers at every variable
LANES, SPAN = 16, 8  # cycles trained on at once, and analyses that one update passes through
LOST = 9.0  # mean square error of an analysis from which a lane starts again
UPDATES, RATE = 8000, 1e-3
TEST_LANES, TEST_CYCLES, BURN_IN = 32, 1500, 133
PRECISION = jnp.float32


class Size(NamedTuple):
    """An ensemble size: the LETKF tuned for it, what is published and aimed at, and its share of the row's time."""

    relaxation: float
    radius: float
    letkf: float
    learned: float
    aim: float
    share: float


# Relaxation and radius as in benchmarks/published_filters.py, where they are tuned on other trajectories. The network
# sees statistics of the members, not how many there are: the first one is where those of the other sizes begin.
SIZES = {
    20: Size(0.22, 3.0, 1.577, 1.35, 1.28, 0.35),
    10: Size(0.25, 1.8, 2.020, 1.48, 1.40, 0.15),
    100: Size(0.09, 4.0, 1.304, 1.15, 1.10, 0.5),
}


class UpdateNet(nnx.Module):
    """Shift, log scale and memory at every variable, from statistics and memory nearby; starts at zero.

    Args:
        width: channels inside.
        depth: residual blocks.
        rngs: random-number streams for the initial weights.
    """

    def __init__(self, width: int, depth: int, *, rngs: nnx.Rngs) -> None:
        self.net = PeriodicResidualNet(
            7 + MEMORY, 2 + 2 * MEMORY, width, depth, radius=4, rngs=rngs, dtype=PRECISION
        )  # fmt: skip

    def __call__(self, seen: Any, memory: Any) -> tuple[Any, Any, Any]:
        """Return shift, log scale, and the memory, a gated average of what the network wants to keep."""
        before, after = ((seen[name] - CENTER) / SPREAD for name in ("prior_mean", "mean"))
        spreads = (jnp.log(seen[name] + 0.01) for name in ("prior_spread", "spread"))
        observed = (jnp.arange(N) % APART == 0).astype(PRECISION)
        fields = [before, after, seen["mean"] - seen["prior_mean"], *spreads, seen["pull"], observed]
        out = self.net(jnp.concatenate([jnp.stack(fields, axis=-1), memory], axis=-1))
        gate = jax.nn.sigmoid(out[:, 2 : 2 + MEMORY])
        kept = gate * memory + (1 - gate) * jnp.tanh(out[:, 2 + MEMORY :])
        # Bounded: spread that grows by more in every cycle ends beyond all numbers.
        return 2 * jnp.tanh(out[:, 0] / 2), 0.3 * jnp.tanh(out[:, 1]), kept


def classical(size: Size) -> LETKF:
    """Return the tuned filter."""
    relaxation, radius = (jnp.asarray(number, PRECISION) for number in (size.relaxation, size.radius))
    return LETKF(RelaxToPriorSpread(relaxation), localization=GaspariCohn(radius))


def untrained(size: Size, settings: Settings) -> LearnedEnsembleUpdate:
    """Return the filter with a network that changes nothing yet."""
    width, depth = (96, 6) if settings.full else (32, 3)
    net = UpdateNet(width, depth, rngs=nnx.Rngs(settings.seed))
    return LearnedEnsembleUpdate(classical(size), Network.from_nnx(net), jnp.zeros((N, MEMORY), PRECISION))


def first(key: jax.Array, lanes: int, members: int) -> tuple[Any, Remembered]:
    """Return truths and ensembles from N(e_0, .1 I) as the protocol has them, without a memory yet."""
    draws = 0.1**0.5 * jax.random.normal(key, (lanes, 1 + members, N), PRECISION)
    draws = draws.at[..., 0].add(1)
    return draws[:, 0], Remembered(draws[:, 1:], jnp.zeros((lanes, N, MEMORY), PRECISION))


def attracted(key: jax.Array, lanes: int, members: int) -> tuple[Any, Remembered]:
    """Return truths on the attractor, and ensembles around them."""
    keys = jax.random.split(key)
    starts = 8 + jax.random.normal(keys[0], (lanes, N), PRECISION)
    truth = jax.vmap(lambda x: rollout(model(DT, PRECISION), x, 500, at=[500])[0])(starts)
    return truth, _again(truth, keys[1], members)


def _again(truth: Any, key: jax.Array, members: int) -> Remembered:
    keys = jax.random.split(key)
    center = truth + jax.random.normal(keys[0], truth.shape, PRECISION)
    shape = (truth.shape[0], members, N)
    state = center[:, None] + jax.random.normal(keys[1], shape, PRECISION)
    return Remembered(state, jnp.zeros((truth.shape[0], N, MEMORY), PRECISION))


def cycled(method: Any, truth: Any, belief: Any, key: jax.Array, span: int) -> Any:
    """Run one lane on; return truth and belief at its end, and the mean square error of each analysis."""
    at = INTERVAL * np.arange(1, span + 1)
    states = rollout(model(DT, PRECISION), truth, int(at[-1]), at=at)
    operator = Subsample(every=APART)
    values = jax.vmap(operator)(states)
    values = values + jax.random.normal(key, values.shape, values.dtype)
    observations = Observations(values, at, operator, Diagonal(std=jnp.ones((), PRECISION)))
    after, history = cycle(method, model(DT, PRECISION), belief, observations)
    return states[-1], after, jnp.mean((history.analysis.mean - states) ** 2, axis=-1)


def loss_of(filter: LETKF) -> Any:
    """Return the loss of a network and a memory: mean square errors along lanes that go on from update to update."""

    def loss(trainable: Any, batch: Any, key: jax.Array, carry: Any) -> Any:
        truth, belief = carry
        method = LearnedEnsembleUpdate(filter, *trainable)
        keys = jax.random.split(key, truth.shape[0] + 1)
        run = jax.vmap(lambda x, belief, key: cycled(method, x, belief, key, SPAN))
        truth, belief, error = run(truth, belief, keys[1:])
        lost = ~(error[:, -1] < LOST)
        fresh = _again(truth, keys[0], belief.state.shape[1])
        belief = jax.vmap(tree.select)(lost, fresh, belief)
        return jnp.mean(jnp.minimum(error, LOST)), {"lost": jnp.mean(lost.astype(PRECISION))}, (truth, belief)

    return loss


def test(method: Any, key: jax.Array, members: int) -> Any:
    """Return the root mean square error of every analysis, shape (lane, cycle)."""
    keys = jax.random.split(key)
    truth, belief = first(keys[0], TEST_LANES, members)
    belief = belief if isinstance(method, LearnedEnsembleUpdate) else belief.state
    run = jax.vmap(lambda x, belief, key: cycled(method, x, belief, key, TEST_CYCLES)[2])
    return jnp.sqrt(jax.jit(run)(truth, belief, jax.random.split(keys[1], TEST_LANES)))


def run(settings: Settings) -> Iterator[Score]:
    """Train a network for each ensemble size, and score it beside the LETKF as it was tuned."""
    fresh = untrained(SIZES[20], settings)
    first_trained: Any = (fresh.network, fresh.memory)
    for members, size in SIZES.items():
        keys = jax.random.split(jax.random.fold_in(settings.key, members), 3)
        filter = classical(size)
        found = train(
            loss_of(filter), first_trained, jnp.arange(2), settings=settings, name=f"the update of {members} members",
            updates=UPDATES, rate=RATE, batch_size=1, share=size.share, key=keys[1],
            carry=attracted(keys[0], LANES, members),
        )  # fmt: skip
        first_trained = found.trained if members == 20 else first_trained
        for name, kind, method, published, aim in (
            ("corrected LETKF", "learned", LearnedEnsembleUpdate(filter, *found.trained), size.learned, size.aim),
            ("LETKF", "classical", filter, size.letkf, None),
        ):
            settings.tell(f"{name}, N = {members}")
            errors = np.asarray(test(method, keys[2], members))[:, BURN_IN:].mean(axis=1)
            lost = int(np.sum(~np.isfinite(errors)))
            note = f"{TEST_LANES} runs, {lost} lost, largest {np.max(errors):.3f}"
            if kind == "learned":
                note += f", {int(found.state.step)} updates"
            yield Score(f"{name}, N = {members}", float(np.mean(errors)), kind, published, aim, note)


ROW = Row(
    "L4", "Lorenz-96 with every fourth variable observed: ensemble filters with a learned update",
    "root mean square error", "Bach et al. (2025)", run,
)  # fmt: skip
