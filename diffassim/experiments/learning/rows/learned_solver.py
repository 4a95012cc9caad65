"""Row L7: windows of Lorenz-63 by a learned model and a learned start, and with the known model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from diffassim.covariances import Dense, Diagonal
from diffassim.experiments.learning.bench import Row, Score, Settings, train
from diffassim.learned import LearnedStart, Network, Normalized, SurrogateModel
from diffassim.learned.networks import MLP
from diffassim.models import Lorenz63, rollout
from diffassim.observations import Observations
from diffassim.variational import GaussNewton, MultiStart, StrongConstraint4DVar, minimize

__all__ = ["ROW"]

STEPS, EVERY, FIRST, LAST = 200, 8, 10, 190  # of a window; observed from FIRST to LAST
OBSERVED = np.arange(FIRST, LAST + 1, EVERY)
VARIANCE = 2.0
APART, SPIN_UP = 220, 1000  # steps from one window to the next
TRAINING, HELD, TEST = 2000, 200, 200  # held: windows that tell the error of what was learned
SPAN = 20  # steps of a forecast that the learned model is trained on
DRAWS = 7
SEARCH = GaussNewton(max_iterations=60)


class Windows(NamedTuple):
    """States of windows of a trajectory, shape (window, step, 3)."""

    training: Any
    held: Any
    test: Any


def draw(key: jax.Array) -> Windows:
    """Return windows of three trajectories."""
    found = []
    for k, count in enumerate((TRAINING, HELD, TEST)):
        start = jnp.array([1.0, 1.0, 20.0]) + jax.random.normal(jax.random.fold_in(key, k), (3,))
        steps = SPIN_UP + APART * count
        states = rollout(Lorenz63(dt=0.01), start, steps - 1, segment=steps)[SPIN_UP:]
        found.append(states.reshape(count, APART, 3)[:, :STEPS])
    return Windows(*found)


def observe(states: Any, key: jax.Array) -> Any:
    """Return the observed values of windows."""
    return states[..., OBSERVED, :] + VARIANCE**0.5 * jax.random.normal(key, (*states.shape[:-2], len(OBSERVED), 3))


def model_loss(model: Any, batch: Any, key: Any) -> Any:
    """Return the mean square error of forecasts from a random step of each window, in units of the climate."""
    firsts = jax.random.randint(key, batch.shape[:1], 0, STEPS - SPAN)

    def one(window: Any, first: Any) -> Any:
        truth = jax.lax.dynamic_slice_in_dim(window, first, SPAN + 1)
        return rollout(model, truth[0], SPAN, segment=SPAN) - truth

    error = jax.vmap(one)(batch, firsts) / jax.lax.stop_gradient(model.network.spread)[None, None]
    return jnp.mean(error**2)


class Inverse(NamedTuple):
    """From the observations of a window to the state at its start."""

    network: Any
    center: Any
    spread: Any

    def __call__(self, streams: Any) -> Any:
        """Return the state."""
        seen = (streams[0].values - self.center[None]) / self.spread[None]
        return self.center + self.spread * self.network(seen.ravel())


def start_loss(network: Any, batch: Any, key: Any) -> Any:
    """Return the mean square error of the network's start from observations with new errors, normalized states."""
    states, spread = batch
    values = observe(states * spread[:, None], key) / spread[:, None]
    return jnp.mean((jax.vmap(network)(values.reshape(values.shape[0], -1)) - states[:, 0]) ** 2)


def error_of(inverse: Inverse, windows: Any, key: jax.Array) -> Dense:
    """Return the covariance of the start's error on windows, with new errors of the observations."""
    found = jax.vmap(lambda y: inverse((Observations(y, OBSERVED, error=Diagonal(std=VARIANCE**0.5)),)))
    residuals = found(observe(windows, key)) - windows[:, 0]
    return Dense.from_matrix(residuals.T @ residuals / residuals.shape[0])


@jax.jit
def analyse(model: Any, climate: Any, values: Any, method: Any) -> tuple[Any, Any]:
    """Return the analysed windows and the cost of each."""
    x_b, B = climate

    def one(y: Any) -> tuple[Any, Any]:
        obs = Observations(y, OBSERVED, error=Diagonal(std=VARIANCE**0.5))
        cost = StrongConstraint4DVar(model, x_b, B, obs, steps=STEPS - 1)
        found = minimize(cost, method)
        return cost.trajectory(found.control), found.cost

    return jax.lax.map(one, values)  # one after the other: in a batch all windows would wait for the slowest


def run(settings: Settings) -> Iterator[Score]:
    """Train model and start, and score them beside the known model."""
    windows, keys = draw(settings.key), jax.random.split(settings.key, 5)
    flat = windows.training.reshape(-1, 3)
    climate = jnp.mean(flat, axis=0), Dense.from_matrix(jnp.cov(flat.T))
    spread = jnp.std(flat, axis=0)
    width, depth = (256, 4) if settings.full else (48, 2)
    net = Network.from_nnx(MLP([3, *[width] * depth, 3], zero=True, rngs=nnx.Rngs(settings.seed)))
    changes = jnp.std(windows.training[:, 1:] - windows.training[:, :-1], axis=(0, 1))
    surrogate = SurrogateModel(Normalized(net, climate[0], spread, jnp.zeros(3), changes), dt=0.01)
    surrogate = train(
        model_loss, surrogate, windows.training, settings=settings, name="the model", updates=4000, rate=5e-3,
        batch_size=128, share=0.6, key=keys[0],
    ).trained  # fmt: skip
    net = Network.from_nnx(MLP([3 * len(OBSERVED), 128, 128, 3], rngs=nnx.Rngs(settings.seed + 1)))
    data = (windows.training - climate[0][None, None]) / spread[None, None], jnp.broadcast_to(spread, (TRAINING, 3))
    net = train(
        start_loss, net, data, settings=settings, name="the start", updates=6000, rate=2e-3, batch_size=128, share=0.4,
        key=keys[1],
    ).trained  # fmt: skip
    inverse, values = Inverse(net, climate[0], spread), observe(windows.test, keys[2])

    known, many = Lorenz63(dt=0.01), MultiStart(SEARCH, key=jax.random.key(1), draws=DRAWS)
    near = LearnedStart(
        inverse, SEARCH, error=error_of(inverse, windows.held, keys[3]), draws=DRAWS, key=keys[4]
    )  # fmt: skip
    within = f"learned start and {DRAWS} draws within its error"
    rows = [
        (f"learned model, {within}", surrogate, near, "learned", 0.893, 0.30),
        (f"known model, {within}", known, near, "learned", None, 0.23),
        ("learned model, learned start", surrogate, LearnedStart(inverse, SEARCH), "learned", 0.893, 0.30),
        ("known model, learned start", known, LearnedStart(inverse, SEARCH), "learned", None, None),
        ("the same, guarded", known, LearnedStart(inverse, SEARCH, guarded=True), "learned", None, 0.23),
        ("known model, from the mean", known, SEARCH, "classical", None, None),
        (f"known model, from the mean and {DRAWS} draws", known, many, "classical", None, 0.23),
    ]
    for name, model, method, kind, published, aim in rows:
        settings.tell(name)
        analyses, costs = analyse(model, climate, values, method)
        squared = (analyses - windows.test) ** 2
        inside = float(jnp.mean(squared[:, FIRST:LAST]))
        note = f"{inside:.3f} over the observed span, mean cost {float(jnp.mean(costs)):.1f}"
        yield Score(name, float(jnp.mean(squared)), kind, published, aim, note)


ROW = Row(
    "L7",
    "windows of Lorenz-63 observed every 8 steps",
    "mean square error over the window",
    "Fablet et al. (2021)",
    run,
)
