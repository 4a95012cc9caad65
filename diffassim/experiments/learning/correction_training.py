"""Learn the correction of the truncated model from observations alone: offline, then through the analysis."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from diffassim.covariances import Diagonal
from diffassim.cycling import FourDVar, cycle
from diffassim.experiments.learning.correction_data import RATIO, slow_part, truncated_model, windows_of
from diffassim.learned import CorrectedModel, LocalNetwork, Network
from diffassim.models import rollout
from diffassim.observations import Observations
from diffassim.training import ForecastMisfit, WindowSample, fit
from diffassim.variational import GaussNewton

__all__ = [
    "CENTER",
    "PIECE",
    "assimilate",
    "fit_offline",
    "fit_online",
    "tune",
    "untrained_network",
    "validation_score",
    "weights_from_arrays",
    "weights_to_arrays",
    "withheld",
]

# The misfit holds model error, which the observation errors alone do not explain: no test of consistency.
MINIMIZER = GaussNewton(growth=None)
PIECE = 40  # windows in one compiled call, for records of any length
CENTER, SPREAD = 2.5, 3.5  # rough climate of the slow variables, to scale the network's input
OFFLINE_RATE, OFFLINE_BATCH = 1e-2, 128
ONLINE_RATE, ONLINE_BATCH = 4e-3, 16
CLIP = 10.0  # largest gradient norm
WITHHELD = 0.1  # part of the observations in cross-validation
GRID = 2**0.5  # ratio of neighbouring standard deviations in the search for the best B


def untrained_network(config: Any) -> Network:
    """Return a network that gives zero."""
    rngs = nnx.Rngs(config.seed)
    module = LocalNetwork(
        config.radius, config.width, config.depth, center=CENTER, spread=SPREAD, rngs=rngs, dtype=config.dtype
    )
    return Network.from_nnx(module)


def weights_to_arrays(network: Network) -> dict[str, Any]:
    """Return the weights as a flat dict of arrays, for a carry."""
    return {f"{i:02d}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(network))}


def weights_from_arrays(config: Any, arrays: dict[str, Any]) -> Network:
    """Return the network with these weights."""
    structure = jax.tree.structure(untrained_network(config))
    return jax.tree.unflatten(structure, [jnp.asarray(arrays[name]) for name in sorted(arrays)])


def assimilate(config: Any, model: Any, B: Any, background: Any, values: Any) -> tuple[Any, Any]:
    """Cycle 4D-Var in every member.

    Args:
        config: configuration.
        model: the truncated model with a correction, or the full model.
        B: background-error covariance.
        background: states at the start, with a leading member axis.
        values: observed values, shape (member, time, n), NaN where nothing was observed.

    Returns:
        Backgrounds for what follows, and the history with leading axes (member, window, row); the rows are the window
        start and the observation times.
    """
    full = not isinstance(model, CorrectedModel)
    factor = RATIO if full else 1
    rows = factor * jnp.arange(0, config.window + 1, config.observation_interval)
    windows = windows_of(config, values, full)
    histories = []
    for first in range(0, windows.steps.shape[1], PIECE):
        piece = jax.tree.map(lambda leaf, k=first: leaf[:, k : k + PIECE], windows)
        background, history = _assimilate(
            FourDVar(B, MINIMIZER), model, background, piece, rows, factor * config.window
        )
        histories.append(history)
    return background, jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), *histories)


@partial(jax.jit, static_argnums=5)
def _assimilate(method: Any, model: Any, background: Any, windows: Any, rows: Any, steps: int) -> tuple[Any, Any]:
    def one(x: Any, observations: Any) -> tuple[Any, Any]:
        following, history = cycle(method, model, x, observations, steps=steps, at=rows)
        return following, history.replace(search=history.search.result)

    return jax.vmap(one)(background, windows)


def withheld(values: Any, key: jax.Array) -> Any:
    """Return the observations without a random tenth of them, for cross-validation."""
    return jnp.where(jax.random.uniform(key, values.shape) < WITHHELD, jnp.nan, values)


def validation_score(config: Any, history: Any, values: Any, assimilated: Any) -> float:
    r"""Return how far analyses and forecasts are from observations that they have not seen.

    .. math:: \log \sigma_a^2 + \log \sigma_b^2,\qquad \sigma^2 = \overline{(y - x)^2} - R

    with the analyses at withheld observations and the backgrounds at all observations of their window: relative changes
    of analysis and forecast error count alike.

    Args:
        config: configuration.
        history: of the cycle that assimilated the observations without those withheld.
        values: all observations.
        assimilated: those that were assimilated.
    """

    def error_variance(states: Any, observed: Any) -> float:
        rows = slow_part(states)[:, config.discarded_cycles :, 1:]
        observed = observed.reshape(observed.shape[0], -1, *rows.shape[2:])[:, config.discarded_cycles :]
        variance = config.observation_std**2
        return max(float(jnp.nanmean((rows - observed) ** 2)) - variance, 1e-6 * variance)

    unseen = jnp.where(jnp.isnan(assimilated), values, jnp.nan)
    score = math.log(error_variance(history.analysis, unseen)) + math.log(error_variance(history.background, values))
    return score if math.isfinite(score) else math.inf


def tune(score: Callable[[float], float], start: float) -> float:
    """Return the standard deviation with the lowest score on a geometric grid, going downhill from `start`."""
    found: dict[int, float] = {}

    def at(k: int) -> float:
        if k not in found:
            found[k] = score(start * GRID**k)
        return found[k]

    k = 0
    for direction in (-1, 1):
        while at(k + direction) < at(k) and abs(k) < 10:
            k += direction
    return start * GRID**k


def fit_offline(config: Any, network: Network, history: Any) -> Network:
    """Train on the analyses of a cycle: forecasts over one window should end at the next window's analysis.

    The analyses are data here; no derivative passes through them.

    Args:
        config: configuration.
        network: where to start.
        history: of the cycle with the uncorrected model.
    """
    analyses = history.analysis[:, config.discarded_cycles :, -1]
    n = analyses.shape[-1]
    pairs = (analyses[:, :-1].reshape(-1, n), analyses[:, 1:].reshape(-1, n))
    return fit(
        _offline_loss(config),
        network,
        pairs,
        optimizer=_optimizer(OFFLINE_RATE, config.offline_updates),
        steps=config.offline_updates,
        batch_size=min(OFFLINE_BATCH, pairs[0].shape[0]),
        key=jax.random.key(config.seed),
    ).trained


def fit_online(
    config: Any, network: Network, background_std: float, history: Any, values: Any, epoch: int
) -> tuple[Network, float]:
    """Train network and background error on forecasts from the analyses, through the analyses.

    Args:
        config: configuration.
        network: where to start.
        background_std: standard deviation in B to start from.
        history: of the cycle with that network, whose backgrounds are the samples'.
        values: the observations that were assimilated.
        epoch: number of this call.

    Returns:
        Network and standard deviation.
    """
    samples = _samples(config, history, values)
    trained = fit(
        _online_loss(config),
        {"network": network, "log_std": jnp.log(jnp.asarray(background_std, config.dtype))},
        samples,
        optimizer=_optimizer(ONLINE_RATE / (1 + epoch), config.updates),
        steps=config.updates,
        batch_size=min(ONLINE_BATCH, samples.start.shape[0]),
        key=jax.random.key(config.seed + 1 + epoch),
    ).trained
    return trained["network"], float(jnp.exp(trained["log_std"]))


def _samples(config: Any, history: Any, values: Any) -> WindowSample:
    """Return backgrounds, windows and the observations of the `lead` steps after each window."""
    every, lead = config.observation_interval, config.lead // config.observation_interval
    per_window, count = config.window // every, history.background.shape[1]
    chosen = np.arange(config.discarded_cycles, count - -(-lead // per_window))
    rows = (chosen[:, None] + 1) * per_window + np.arange(lead)  # values[:, k] belongs to step (k + 1) * every
    steps = config.window + every * np.arange(1, lead + 1)
    error = Diagonal(std=config.observation_std)
    future = jax.vmap(jax.vmap(lambda y: Observations(y, steps, error=error)))(values[:, rows])
    windows = jax.tree.map(lambda leaf: leaf[:, chosen], windows_of(config, values, full=False))
    start = jnp.zeros((values.shape[0], len(chosen)), jnp.int32)
    samples = WindowSample(history.background[:, chosen, 0], windows, future, start)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), samples)


# One loss and one optimizer object for each configuration, so that repeated fits share their compiled step.
@lru_cache(maxsize=4)
def _offline_loss(config: Any) -> Callable[[Any, Any, Any], Any]:
    def loss(network: Network, pairs: Any, key: Any) -> Any:
        model = CorrectedModel(truncated_model(config), network)
        ends = jax.vmap(lambda x: rollout(model, x, config.window, at=jnp.asarray([config.window]))[0])(pairs[0])
        return jnp.mean((ends - pairs[1]) ** 2)

    return loss


@lru_cache(maxsize=4)
def _online_loss(config: Any) -> Callable[[Any, Any, Any], Any]:
    def loss(trainable: Any, samples: WindowSample, key: Any) -> Any:
        B = Diagonal(std=jnp.exp(trainable["log_std"]))
        misfit = ForecastMisfit(B, config.window, config.window + config.lead, MINIMIZER)
        return misfit.batch(CorrectedModel(truncated_model(config), trainable["network"]), samples)

    return loss


@lru_cache(maxsize=8)
def _optimizer(rate: float, updates: int) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(CLIP), optax.adam(optax.cosine_decay_schedule(rate, max(updates, 1))))
