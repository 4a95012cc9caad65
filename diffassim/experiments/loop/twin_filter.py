"""The ensemble filter of a twin: with a model as it is, or with its forcing in the state."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from flax import nnx

from diffassim.covariances import Blocks, Diagonal, Zero
from diffassim.cycling import bucket_size, cycle
from diffassim.ensemble import ETKF
from diffassim.experiments.framework.twin import random_stream
from diffassim.learned import CorrectedModel, LocalNetwork, Network
from diffassim.models import Lorenz96, WithParameters, rollout
from diffassim.observations import Field, Observations

__all__ = ["FORCING", "INTERVAL", "filtered", "forecast_members", "model_of", "network_of", "tracked_forcing"]

INTERVAL = 2  # model steps from row to row
FORCING = "model.forcing"  # its path in the corrected model
FORCING_STD = 0.5  # of the members at the start
RADIUS, WIDTH, DEPTH = 1, 8, 2


def network_of(config: Any, scaling: Mapping[str, Any], weights: Any = None) -> Network:
    """Return the network with these weights (nested lists), or an untrained one that gives zero."""
    module = LocalNetwork(
        RADIUS, WIDTH, DEPTH, center=float(scaling["center"]), spread=float(scaling["spread"]),
        rngs=nnx.Rngs(config.seed), dtype=config.dtype,
    )  # fmt: skip
    network = Network.from_nnx(module)
    if weights is None:
        return network
    leaves, structure = jax.tree.flatten(network)
    found = [jnp.asarray(w, leaf.dtype).reshape(leaf.shape) for w, leaf in zip(weights, leaves, strict=True)]
    return jax.tree.unflatten(structure, found)


def model_of(config: Any, model: Mapping[str, Any]) -> CorrectedModel:
    """Return the forward model that plain numbers describe."""
    network = network_of(config, model["scaling"], model["network"])
    return CorrectedModel(Lorenz96(forcing=jnp.asarray(model["forcing"], config.dtype)), network)


def filtered(config: Any, model: Any, inflation: float, values: np.ndarray, number: int) -> tuple[Any, Any]:
    """Return the members before and after each analysis, shape (time, member, site).

    Args:
        config: settings.
        model: forward model.
        inflation: factor of the posterior anomalies.
        values: observed, NaN where missing, shape (time, site).
        number: of the random stream.
    """
    rows = len(values)
    padded = _padded(values)
    x = _first_members(config, values, number)
    priors, members = _cycle(jnp.asarray(inflation, config.dtype), model, x, padded, config.std)
    return np.asarray(priors)[:rows], np.asarray(members)[:rows]


def tracked_forcing(
    config: Any, model: Any, inflation: float, walk: float, values: np.ndarray, number: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean analyses and the forcing that the filter finds at each time, shapes (time, site) and (time,)."""
    rows = len(values)
    x = _first_members(config, values, number)
    augmented = WithParameters(model, (FORCING,))
    key = random_stream(config.seed, number, 1)
    forcing = model.model.forcing + FORCING_STD * jax.random.normal(key, (config.members,), x.dtype)
    state = augmented.augmented(x, {FORCING: forcing})
    walk = jnp.asarray(walk, x.dtype)
    mean = _cycle_augmented(
        jnp.asarray(inflation, x.dtype), walk, augmented, state, _padded(values), config.std,
        random_stream(config.seed, number, 2),
    )  # fmt: skip
    return np.asarray(mean["state"])[:rows], np.asarray(mean["parameters"][FORCING])[:rows]


@partial(jax.jit, static_argnums=2)
def forecast_members(model: Any, members: Any, leads: tuple[int, ...]) -> Any:
    """Return forecasts of every member at leads in rows, shape (time, member, lead, site)."""
    at = INTERVAL * jnp.asarray(leads)
    return jax.vmap(jax.vmap(lambda x: rollout(model, x, INTERVAL * max(leads), at=at)))(members)


def _padded(values: np.ndarray) -> np.ndarray:
    size = bucket_size(len(values), smallest=128)
    values = np.concatenate([np.full_like(values[:1], np.nan), values[1:]])  # the first members are made of that row
    return np.pad(values, ((0, size - len(values)), (0, 0)), constant_values=np.nan)


def _first_members(config: Any, values: np.ndarray, number: int) -> Any:
    """Return members around the first observations, with the climate's mean and spread where there are none."""
    mean, std = np.nanmean(values), np.nanstd(values)
    center = np.where(np.isfinite(values[0]), values[0], mean)
    spread = np.where(np.isfinite(values[0]), config.std, std)
    noise = jax.random.normal(random_stream(config.seed, number), (config.members, values.shape[1]))
    return jnp.asarray(center + spread * np.asarray(noise), config.dtype)


@jax.jit
def _cycle(inflation: Any, model: Any, x: Any, values: Any, std: Any) -> Any:
    _, history = cycle(ETKF(inflation=inflation), model, x, _observations(values, std), members=True, priors=True)
    return history.priors, history.members


@jax.jit
def _cycle_augmented(inflation: Any, walk: Any, model: Any, x: Any, values: Any, std: Any, key: Any) -> Any:
    Q = Blocks({"state": Zero(), "parameters": {FORCING: Diagonal(std=walk)}})
    observations = _observations(values, std).replace(operator=Field("state"))
    return cycle(ETKF(inflation=inflation, Q=Q), model, x, observations, key=key)[1].analysis.mean


def _observations(values: Any, std: Any) -> Observations:
    return Observations(values, INTERVAL * np.arange(values.shape[0]), error=Diagonal(std=std))


def span(table: pd.DataFrame, since: pd.Timestamp, before: int) -> tuple[np.ndarray, pd.DatetimeIndex, int]:
    """Return the rows from some before a time on, their times, and how many come before it."""
    first = int(table.index.searchsorted(since))
    start = max(first - before, 0)
    part = table.iloc[start:]
    return part.to_numpy(), pd.DatetimeIndex(part.index), first - start
