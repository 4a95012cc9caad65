"""A network that adds to the linear evolution of departures what a regression cannot know."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from diffassim.experiments.stations.evolution import LAGS, LinearEvolution, lagged, nearest_stations, regressors_of
from diffassim.experiments.stations.filtering import WARM_UP, StationFilter
from diffassim.experiments.stations.regional_filter import RegionalFilter
from diffassim.experiments.stations.regions import Region, columns_of
from diffassim.learned import Network
from diffassim.learned.networks import MLP
from diffassim.models.base import Model
from diffassim.training import fit

__all__ = ["NeuralEvolution", "learn_neural_evolution"]

HIDDEN = (32, 32)
UPDATES, CHUNK, PATIENCE, BATCH, RATE, DECAY = 4000, 100, 8, 512, 1e-3, 1e-2
HELD_BACK = 0.2  # of the training period, its last part: when to stop, and whether the network is used at all
SAMPLES = 200_000  # at most
CLIPPED = 6.0  # standard deviations, beyond which inputs tell no more


class NeuralEvolution(Model):
    r"""The linear evolution, and a network of the same neighbors and lags that all components share.

    .. math:: x_{k+1, i} = \sum_j A_{ij}\, (x_k, x_{k-1}, \dots)_{n_{ij}}
        + \sigma_i\, N\big((x_k, x_{k-1}, \dots)_{m_i}, e_i\big)

    with \(e_i\) the variable that the component is of.

    Args:
        linear: the evolution of the first term.
        network: N, its last layer zero before the training.
        regressors: m, indices into the flattened state, shape (component, regressor).
        kinds: e, one for the variable of each component, zero for the others, shape (component, variable).
        scale: the standard deviations of what the linear evolution misses, shape (component,).
    """

    linear: LinearEvolution
    network: Any
    regressors: Any
    kinds: Any
    scale: Any
    dt: Any = 1.0

    def step(self, x: Any, t: Any) -> Any:
        """Return the state one step later."""
        inputs = jnp.concatenate([jnp.clip(x.reshape(-1)[self.regressors], -CLIPPED, CLIPPED), self.kinds], axis=1)
        return self.linear.step(x, t).at[0].add(self.scale * self.network(inputs)[:, 0])

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return all but the linear evolution as arrays by name."""
        weights = jax.tree.leaves(self.network.weights)
        return {
            "neighbors": np.asarray(self.regressors), "kinds": np.asarray(self.kinds), "scale": np.asarray(self.scale),
            **{f"weights {k}": np.asarray(each) for k, each in enumerate(weights)},
        }  # fmt: skip

    @classmethod
    def from_arrays(cls, linear: LinearEvolution, arrays: dict[str, Any]) -> NeuralEvolution:
        """Return it from the linear evolution and what `to_arrays` gave."""
        blank = _network(arrays["neighbors"].shape[1] + arrays["kinds"].shape[1], 0)
        weights = [jnp.asarray(arrays[f"weights {k}"]) for k in range(len(jax.tree.leaves(blank.weights)))]
        network = blank.replace(weights=jax.tree.unflatten(jax.tree.structure(blank.weights), weights))
        return cls(linear, network, *(jnp.asarray(arrays[name]) for name in ("neighbors", "kinds", "scale")))


def learn_neural_evolution(
    found: RegionalFilter, departures: np.ndarray, stations: int, seed: int
) -> tuple[RegionalFilter, str]:
    """Train one network for all stations on what the linear evolutions miss, and use it if it helps.

    It is trained on the first part of the record, and stops when the errors in the last part no longer fall. The
    covariances of a step's error shrink as these errors do. It is used if it makes the last part likelier. Neither side
    is without knowledge of that part: the linear evolution was fitted to it, the network stopped by it.

    Args:
        found: the filter with linear evolutions.
        departures: of the training period, NaN where missing, shape (time, component), variables fastest.
        stations: how many there are.
        seed: of weights and batches.

    Returns:
        The filter, and a sentence about what was found.

    Source: Loshchilov and Hutter (2019) for the updates; Bocquet et al. (2020) for learning what an evolution misses
    from its analyses.
    """
    variables = departures.shape[1] // stations
    held_back = round((1 - HELD_BACK) * len(departures))
    begun = [_begun(*each, departures, variables, seed) for each in zip(*found, strict=True)]
    stride = max(1, departures.size // SAMPLES)
    training = _samples(begun, slice(0, held_back, stride))
    judged = _samples(begun, slice(held_back, None, stride))
    trained = fit(
        _loss, begun[0].evolution.network, training, optimizer=optax.adamw(RATE, weight_decay=DECAY), steps=UPDATES,
        batch_size=min(BATCH, len(training[0])), key=jax.random.key(seed), validation=judged, patience=PATIENCE,
        chunk=CHUNK,
    ).trained  # fmt: skip
    shares = _shares(trained, judged, variables)
    neural = found._replace(
        filters=tuple(_with_network(*each, trained, shares) for each in zip(found.filters, begun, strict=True))
    )
    early, late = max(held_back - WARM_UP, 0), len(departures) - held_back
    gain = sum(
        sign * each.run(departures[early:]).log_likelihood[-late:].sum() for sign, each in ((1, neural), (-1, found))
    )
    told = (
        f"in the last part of the training period, the network's errors of a step are {np.sqrt(np.mean(shares**2)):.3f}"
        f" of those of the linear evolution, and the log density changes by {gain:+.1f}"
    )
    return (neural, f"Neural evolution: {told}") if gain > 0 else (found, f"Linear evolution: {told}")


def _network(inputs: int, seed: int) -> Network:
    return Network.from_nnx(MLP([inputs, *HIDDEN, 1], rngs=nnx.Rngs(seed), zero=True))


class _Begun(NamedTuple):
    """An evolution of a region, its network not trained; flattened states, and what the linear one misses after them.

    The columns of `missed` are the region's own components.
    """

    evolution: NeuralEvolution
    states: np.ndarray
    missed: np.ndarray


def _begun(region: Region, found: StationFilter, departures: np.ndarray, variables: int, seed: int) -> _Begun:
    x = departures[:, columns_of(region.seen, variables)]
    states = lagged(found.run(x).mean)[:-1]
    linear, own = found.evolution, len(region.own) * variables
    predicted = np.sum(np.asarray(linear.coefficients)[None] * states[:, np.asarray(linear.regressors)], axis=2)
    missed = x[LAGS:] - predicted
    regressors = np.repeat(regressors_of(nearest_stations(x, len(region.seen)), variables), variables, axis=0)
    kinds = np.tile(np.eye(variables), (len(region.seen), 1))
    network = _network(regressors.shape[1] + variables, seed)
    evolution = NeuralEvolution(
        linear,
        network,
        jnp.asarray(regressors),
        jnp.asarray(kinds),
        jnp.asarray(np.maximum(np.nanstd(missed, 0), 1e-6)),
    )
    return _Begun(evolution, states, missed[:, :own])


def _samples(begun: list[_Begun], rows: slice) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs and targets of the network, what is missing left out."""
    inputs, targets = [], []
    for evolution, states, missed in begun:
        own = missed.shape[1]
        at, to = (
            states[rows][:, np.asarray(evolution.regressors)[:own]],
            missed[rows] / np.asarray(evolution.scale)[:own],
        )
        kinds = np.broadcast_to(np.asarray(evolution.kinds)[:own], (*at.shape[:2], evolution.kinds.shape[1]))
        known = np.isfinite(to)
        inputs.append(np.concatenate([np.clip(at, -CLIPPED, CLIPPED), kinds], axis=2)[known])
        targets.append(to[known])
    return np.concatenate(inputs), np.concatenate(targets)


def _loss(network: Any, batch: Any, key: Any) -> Any:
    inputs, targets = batch
    return jnp.mean(jnp.square(network(inputs)[:, 0] - targets))


def _shares(network: Any, judged: tuple[np.ndarray, np.ndarray], variables: int) -> np.ndarray:
    """Return for each variable what is left of the errors, as a share."""
    inputs, targets = judged
    left = targets - np.asarray(network(jnp.asarray(inputs)))[:, 0]
    kinds = inputs[:, -variables:]
    return np.sqrt((kinds.T @ left**2) / np.maximum(kinds.T @ targets**2, 1e-12))


def _with_network(found: StationFilter, begun: _Begun, network: Any, shares: np.ndarray) -> StationFilter:
    each = np.asarray(begun.evolution.kinds) @ shares
    return found._replace(evolution=begun.evolution.replace(network=network), error=found.error * np.outer(each, each))
