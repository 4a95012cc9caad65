"""Row L2: the vorticity of Kolmogorov flow from exact snapshots of velocity at 4 x 4 sensors, by a learned inverse."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from diffassim.core.errors import ConfigurationError
from diffassim.core.pytree import Pytree
from diffassim.covariances import Diagonal, LowRank, MeasuredSpectrum
from diffassim.experiments.learning.bench import Row, Score, Settings, train
from diffassim.experiments.learning.kolmogorov_runs import (
    SITES,
    WAVES,
    Motion,
    VelocitySensors,
    model,
    runs,
    steps_per_snapshot,
)  # fmt: skip
from diffassim.grids.grid import Grid
from diffassim.learned import Network, control_of
from diffassim.learned.networks import PeriodicResidualNet
from diffassim.models import NavierStokes, rollout
from diffassim.observations import Observations
from diffassim.variational import DirectSVD, GaussNewton, StrongConstraint4DVar, minimize

__all__ = ["ROW"]

SNAPSHOTS, LEAD = 10, 11  # of a window; of the forecast that is scored
SPIN_UP = 350  # snapshots, 61 units of time
COPIES = 2  # random symmetries in which each training window is seen, on average
BATCH = 64
SPREAD, SPEED = 3.5, 0.8  # of vorticity and velocity
# Standard deviations given to the exact observations, one search after the other: every decade tells more of the
# state, the last ones only to steps that singular values give exactly. A search that ends at its tolerance is within .5
# of the cost of the minimum, because the Hessian is at least the identity.
ROUGH, SHARP = (1e-1, 1e-2, 1e-3), (1e-4, 1e-5)
SEARCH = GaussNewton(tolerance=1.0, max_iterations=40, growth=None)
EXACT = SEARCH.replace(max_iterations=8, inner=DirectSVD())
SOLVED = 0.1  # normalized error below which a case counts as solved
SENSORS = VelocitySensors()
PLAUSIBLE = SNAPSHOTS * 2 * SITES**2  # twice what J is at a minimum where prior and exact observations agree


class Extent(NamedTuple):
    """How large everything is.

    Args:
        size: points along each axis.
        chains: training runs; a quarter as many show the inverse's error and the climate's norm.
        length: snapshots of each.
        cases: test windows.
        width: channels of the network.
        depth: blocks of the network.
        searches: windows that are searched at once.
    """

    size: int
    chains: int
    length: int
    cases: int
    width: int
    depth: int
    searches: int


SMALL, FULL = Extent(32, 128, 200, 30, 128, 4, 1), Extent(64, 128, 200, 100, 256, 6, 25)


class Inverse(Pytree):
    """From the observed snapshots to the first vorticity; a shift by a sensor shifts it along.

    Args:
        network: of the sites, with both components at all snapshots as channels, to the points around each.
        mean: climate of the vorticity, shape (y, x), which is not trained.
    """

    network: Any
    mean: Any

    def __call__(self, values: Any) -> Any:
        """Return the vorticity from values of shape (snapshot, site along y, along x, 2)."""
        channels = jnp.moveaxis(values, 0, -2).reshape(SITES, SITES, -1) / SPEED
        n = self.mean.shape[-1]
        blocks = self.network(channels).reshape(SITES, SITES, n // SITES, n // SITES)
        return jax.lax.stop_gradient(self.mean) + SPREAD * blocks.swapaxes(1, 2).reshape(n, n)


def draw(key: jax.Array, count: int, snapshots: int, size: int, dtype: Any = float) -> Any:
    """Return runs on the attractor, shape (run, snapshot, y, x).

    Raises:
        ConfigurationError: if the time step is too long for one of them.
    """
    found = runs(key, count, size, SPIN_UP + np.arange(snapshots), dtype)
    lost = int(jnp.sum(~jnp.isfinite(found).all(axis=(1, 2, 3))))
    if lost:
        raise ConfigurationError(
            f"Kolmogorov flow: {lost} of {count} runs on {size} x {size} points are not finite; more steps per snapshot"
        )
    return found


@partial(jax.jit, static_argnames="count")
def samples(key: jax.Array, chains: Any, count: int) -> Any:
    """Return what the sensors see of windows, and the first vorticity, at random places and in random symmetries."""
    velocity = NavierStokes().velocity(chains)

    def one(key: Any) -> Any:
        keys = jax.random.split(key, 3)
        chain = jax.random.randint(keys[0], (), 0, chains.shape[0])
        first = jax.random.randint(keys[1], (), 0, chains.shape[1] - SNAPSHOTS + 1)
        motion = Motion.drawn(keys[2], chains.shape[-1], chains.dtype)
        window = jax.lax.dynamic_slice_in_dim(velocity[:, chain], first, SNAPSHOTS, axis=1)
        return motion.sensed(window), motion.vorticity(chains[chain, first])

    return jax.lax.map(one, jax.random.split(key, count))


def loss(inverse: Inverse, batch: Any, key: jax.Array) -> Any:
    """Return the mean square error in units of the climate."""
    values, first = batch
    return jnp.mean(((jax.vmap(inverse)(values) - first) / SPREAD) ** 2)


def climate_of(chains: Any) -> tuple[Any, MeasuredSpectrum]:
    """Return mean and covariance: the mean depends on the place within a wave of the force, the covariance on none."""
    n = chains.shape[-1]
    profile = jnp.mean(chains, axis=(0, 1, 3)).reshape(WAVES, -1).mean(axis=0)
    mean = jnp.broadcast_to(jnp.tile(profile, WAVES)[:, None], (n, n))
    grid = Grid(spacing=2 * np.pi / n, periodic=(True, True))
    departures = (chains[:, ::5] - mean[None, None]).reshape(-1, n, n)
    return mean, MeasuredSpectrum.from_samples(departures, grid, floor=1e-6)


def error_of(inverse: Inverse, unseen: Any) -> LowRank:
    """Return the covariance of the inverse's error on windows that it has not seen, the same after a shift by a site.

    It has as many patterns as the model keeps modes: more would be rounding.
    """
    values, first = unseen
    n = first.shape[-1]
    residuals = (jax.lax.map(inverse, values, batch_size=500) - first).reshape(-1, n * n)
    products = jnp.matmul(residuals.T, residuals, precision="highest")  # accelerators would round the small variances
    matrix = (products / residuals.shape[0]).reshape(n, n, n, n)
    for axis in (0, 1):  # the mean over all shifts along one axis, then over those along the other
        shifted = [jnp.roll(matrix, 2 * (n // SITES * k,), axis=(axis, axis + 2)) for k in range(SITES)]
        matrix = sum(shifted[1:], shifted[0]) / SITES
    rank = (2 * ((n - 1) // 3) + 1) ** 2 - 1
    variances, patterns = jnp.linalg.eigh(matrix.reshape(n * n, n * n))
    factors = jnp.sqrt(jnp.maximum(variances[-rank:], 0))[None] * patterns[:, -rank:]
    return LowRank(factors.T.reshape(rank, n, n))


def from_interpolated(mean: Any, values: Any) -> Any:
    """Return the vorticity of the first velocities, cubically interpolated: where the protocol's baseline begins."""
    n, edge = mean.shape[-1], 2
    apart = n // SITES
    wide = jnp.pad(values[0], ((edge, edge), (edge, edge), (0, 0)), mode="wrap")
    scale = jnp.full(2, apart, values.dtype)
    moved = 0.5 - scale * (edge + 0.5)  # points are the middles of cells there: a sensor stays where it is
    fine = jax.image.scale_and_translate(wide, (n, n, 2), (0, 1), scale, moved, "cubic", antialias=False)
    u, v = fine[..., 0], fine[..., 1]
    slope = n / (4 * np.pi)
    return slope * (jnp.roll(v, -1, 1) - jnp.roll(v, 1, 1) - jnp.roll(u, -1, 0) + jnp.roll(u, 1, 0))


@jax.jit
def forecast_errors(states: Any, truths: Any) -> Any:
    """Return the sum of absolute errors at the lead of forecasts from first states, for each case."""
    steps = LEAD * steps_per_snapshot(truths.shape[-1])
    flow = model(truths.shape[-1], truths.dtype)
    ahead = jax.lax.map(lambda x: rollout(flow, x, steps, at=[steps])[0], states)
    return jnp.sum(jnp.abs(ahead - truths[:, LEAD]), axis=(1, 2))


def closer(cost: Any, method: Any, v: Any, levels: Any) -> Any:
    """Return where one search after the other ends, of the costs that `cost` gives for the levels."""
    return jax.lax.scan(lambda v, std: (minimize(cost(std), method, start=v).control, None), v, levels)[0]


@partial(jax.jit, static_argnames="at_once")
def analyse(observed: Any, backgrounds: Any, B: Any, starts: Any, at_once: int = 1) -> tuple[Any, Any]:
    """Return the first vorticity that is found for each case, and the cost that is left.

    Args:
        observed: velocities at the sensors, shape (case, snapshot, 4, 4, 2).
        backgrounds: shape (case, y, x).
        B: their error covariance.
        starts: where to begin, shaped alike; None: at the background.
        at_once: cases in one batch (static).
    """
    size, dtype = backgrounds.shape[-1], backgrounds.dtype
    flow, at = model(size, dtype), steps_per_snapshot(size) * np.arange(SNAPSHOTS)

    def one(case: Any) -> Any:
        values, x_b, start = case

        def cost(std: Any) -> StrongConstraint4DVar:
            obs = Observations(values, at, SENSORS, Diagonal(std=std))
            return StrongConstraint4DVar(flow, x_b, B, obs, steps=int(at[-1]))

        known = jnp.asarray(ROUGH[0], dtype)
        v = cost(known).control() if start is None else control_of(cost(known), start)
        for method, levels in ((SEARCH, ROUGH), (EXACT, SHARP)):
            v = closer(cost, method, v, jnp.asarray(levels, dtype))
        last = cost(jnp.asarray(SHARP[-1], dtype))
        return last.state(v), last(v)

    # A batch of one would compute both branches of every choice.
    return jax.lax.map(one, (observed, backgrounds, starts), batch_size=None if at_once == 1 else at_once)


def scores(settings: Settings, extent: Extent, updates: int = 20_000) -> Iterator[Score]:
    """Train the inverse, and score the searches with its help beside those without, at one size of everything."""
    keys = jax.random.split(settings.key, 6)
    size, single = extent.size, jnp.float32
    settings.tell("runs the flow")
    counts = extent.chains, max(extent.chains // 4, 1)
    chains, unseen = (draw(k, count, extent.length, size, single) for k, count in zip(keys[:2], counts, strict=True))
    norm = float(jnp.mean(jnp.sum(jnp.abs(unseen), axis=(-1, -2))))
    mean, B = climate_of(chains)
    net = PeriodicResidualNet(
        2 * SNAPSHOTS, (size // SITES) ** 2, extent.width, extent.depth, radius=1, ndim=2,
        rngs=nnx.Rngs(settings.seed), dtype=single,
    )  # fmt: skip
    windows = samples(keys[2], chains, COPIES * extent.chains * (extent.length - SNAPSHOTS + 1))
    found = train(
        loss, Inverse(Network.from_nnx(net), mean), windows, settings=settings, name="the inverse", updates=updates,
        rate=1e-3, batch_size=BATCH, key=keys[3],
    )  # fmt: skip
    error = error_of(found.trained, samples(keys[4], unseen, 4 * size**2))
    truths = draw(keys[5], extent.cases, LEAD + 1, size)
    observed = SENSORS(truths[:, :SNAPSHOTS])
    learned, error, mean, B = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, truths.dtype), (found.trained, error, mean, B)
    )  # fmt: skip
    states = jax.vmap(learned)(observed)
    means = jnp.broadcast_to(mean[None], states.shape)
    between = jax.vmap(from_interpolated, in_axes=(None, 0))(mean, observed)
    methods = [
        ("search from the learned state, with its error", (states, error, None), states, "learned", 0.094, 0.08),
        ("search from the learned state, with the climate", (means, B, states), states, "learned", 0.094, 0.08),
        ("search from interpolated velocities", (means, B, between), between, "classical", 0.47, None),
    ]
    for name, problem, start, kind, published, aim in methods:
        settings.tell(name)
        found_states, costs = analyse(observed, *problem, at_once=extent.searches)
        after = np.asarray(forecast_errors(found_states, truths)) / norm
        before = np.mean(forecast_errors(start, truths)) / norm
        note = f"{np.mean(after < SOLVED):.0%} below {SOLVED}, median {np.median(after):.3f}; "
        note += f"without a search {before:.3f}; {size} x {size}, {extent.cases} cases, divided by {norm:.0f}"
        note += f"; {np.mean(np.asarray(costs) > PLAUSIBLE):.0%} ended at an implausible cost"
        note += f"; {int(found.state.step)} updates" if kind == "learned" else ""
        yield Score(name, float(np.mean(after)), kind, published, aim, note)


def run(settings: Settings) -> Iterator[Score]:
    """Score the protocol at 32 x 32, or at its own 64 x 64."""
    return scores(settings, FULL if settings.full else SMALL)


ROW = Row(
    "L2", "first vorticity of Kolmogorov flow from exact snapshots of velocity at 4 x 4 sensors",
    "normalized absolute error of the vorticity at snapshot 11", "Frerix et al. (2021)", run,
)  # fmt: skip
