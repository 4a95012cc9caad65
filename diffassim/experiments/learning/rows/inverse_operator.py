"""Row L1: the state of Lorenz-96 from ten exact snapshots of every fourth variable, by a learned inverse."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from diffassim.core.pytree import Pytree
from diffassim.covariances import Dense, Diagonal
from diffassim.experiments.learning.bench import Row, Score, Settings, train
from diffassim.experiments.learning.lorenz96_runs import CENTER, SPREAD, N, model, runs
from diffassim.learned import LearnedStart, Network
from diffassim.learned.networks import PeriodicResidualNet
from diffassim.models import rollout
from diffassim.observations import Observations, Subsample
from diffassim.variational import GaussNewton, MultiStart, StrongConstraint4DVar, minimize

__all__ = ["ROW"]

APART = 4  # every fourth variable is observed
SNAPSHOTS, EVERY, DT = 10, 10, 0.01  # of a window, every .1
LEADS = {"t = 1.1": 110, "t = 1.9": 190}
NORM = 166.28  # mean sum of absolute values, by which the protocol divides
EXACT = 1e-2  # standard deviation given to the exact observations, so that the background does not count
SOLVED = 1e-2  # normalized error at t = 1.1 below which a case is solved
CHAINS, LENGTH = 64, 800  # training trajectories, and snapshots of each
TEST = 100
SEARCH = GaussNewton(max_iterations=60)
DRAWS = 7


def draw(key: jax.Array, count: int, snapshots: int) -> Any:
    """Return trajectories on the attractor, every .1, shape (trajectory, snapshot, variable)."""
    return runs(key, count, EVERY * np.arange(200, 200 + snapshots), DT)


class Inverse(Pytree):
    """From the observed snapshots to the first state; a shift by one observed variable shifts the state along.

    Args:
        network: of the observed sites, with the snapshots as channels.
    """

    network: Any

    def __call__(self, streams: Any) -> Any:
        """Return the state, whose observed variables are what was observed."""
        return self.state(streams[0].values)

    def state(self, values: Any) -> Any:
        """Return the state from values of shape (snapshot, site)."""
        others = CENTER + SPREAD * self.network(((values - CENTER) / SPREAD).T)
        return jnp.concatenate([values[0][:, None], others], axis=1).ravel()


def loss(inverse: Inverse, chains: Any, key: jax.Array) -> Any:
    """Return the mean square error from a random place of each trajectory, in units of the climate."""
    firsts = jax.random.randint(key, chains.shape[:1], 0, chains.shape[1] - SNAPSHOTS)

    def one(chain: Any, first: Any) -> Any:
        window = jax.lax.dynamic_slice_in_dim(chain, first, SNAPSHOTS)
        return inverse.state(window[:, ::APART]) - window[0]

    return jnp.mean((jax.vmap(one)(chains, firsts) / SPREAD) ** 2)


def error_of(inverse: Inverse, chains: Any) -> Dense:
    """Return the covariance of the inverse's error on trajectories that it has not seen."""
    windows = jnp.concatenate([chains[:, k : k + SNAPSHOTS] for k in range(0, chains.shape[1] - SNAPSHOTS, 10)])
    residuals = jax.vmap(inverse.state)(windows[:, :, ::APART]) - windows[:, 0]
    floor = EXACT**2 * jnp.eye(N)  # what is observed has no error
    return Dense.from_matrix(residuals.T @ residuals / residuals.shape[0] + floor)


@jax.jit
def analyse(truths: Any, climate: Any, method: Any) -> tuple[Any, Any]:
    """Return the normalized error at each lead, and the misfit that is left, of each case."""
    x_b, B = climate

    def one(truth: Any) -> tuple[Any, Any]:
        values = truth[:SNAPSHOTS, ::APART]
        at = EVERY * np.arange(SNAPSHOTS)
        obs = Observations(values, at, Subsample(APART), Diagonal(std=EXACT))
        cost = StrongConstraint4DVar(model(DT), x_b, B, obs, steps=int(at[-1]))
        found = minimize(cost, method)
        leads = np.array(list(LEADS.values()))
        ahead = rollout(model(DT), found.state, int(leads[-1]), at=leads)
        error = jnp.sum(jnp.abs(ahead - truth[leads // EVERY]), axis=1) / NORM
        return error, found.cost

    return jax.lax.map(one, truths)


def run(settings: Settings) -> Iterator[Score]:
    """Train the inverse and score the searches that begin with it, beside those from the mean."""
    keys = jax.random.split(settings.key, 5)
    chains = draw(keys[0], CHAINS, LENGTH)
    flat = chains.reshape(-1, N)
    climate = jnp.mean(flat, axis=0), Dense.from_matrix(jnp.cov(flat.T))
    width, depth = (256, 6) if settings.full else (96, 4)
    single = jnp.float32
    net = PeriodicResidualNet(
        SNAPSHOTS, APART - 1, width, depth, radius=2, rngs=nnx.Rngs(settings.seed), dtype=single
    )  # fmt: skip
    found = train(
        loss, Inverse(Network.from_nnx(net)), chains.astype(single), settings=settings, name="the inverse",
        updates=20_000, rate=2e-3, batch_size=CHAINS, key=keys[1],
    )  # fmt: skip
    inverse = jax.tree.map(lambda leaf: leaf.astype(flat.dtype), found.trained)
    truths = draw(keys[2], TEST, LEADS["t = 1.9"] // EVERY + 1)
    near = LearnedStart(inverse, SEARCH, error=error_of(inverse, draw(keys[3], CHAINS, 100)), draws=DRAWS, key=keys[4])
    many = MultiStart(SEARCH, key=jax.random.key(1), draws=DRAWS)
    methods = [
        ("search from the learned start", LearnedStart(inverse, SEARCH), "learned", 0.025, 0.015),
        (f"the same and {DRAWS} draws within its error", near, "learned", 0.025, 0.015),
        ("search from the mean", SEARCH, "classical", 0.357, None),
        (f"searches from the mean and {DRAWS} draws", many, "classical", None, None),
    ]
    for name, method, kind, published, aim in methods:
        settings.tell(name)
        errors, _ = analyse(truths, climate, method)
        errors = np.asarray(errors)
        solved = np.mean(errors[:, 0] < SOLVED)
        note = f"{solved:.0%} solved; at t = 1.9 {np.mean(errors[:, 1]):.3f}"
        yield Score(name, float(np.mean(errors[:, 0])), kind, published, aim, note)


ROW = Row(
    "L1", "first state of Lorenz-96 from exact snapshots of every fourth variable",
    "normalized absolute error at t = 1.1", "Frerix et al. (2021)", run,
)  # fmt: skip
