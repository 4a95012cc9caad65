"""Train network and inflation of a twin's filter through the filter, by the likelihood of its observations."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffassim.covariances import Diagonal
from diffassim.cycling import cycle
from diffassim.ensemble import ETKF
from diffassim.experiments.framework.twin import random_stream
from diffassim.experiments.loop.twin_filter import INTERVAL, filtered, model_of, network_of
from diffassim.learned import CorrectedModel
from diffassim.models import Lorenz96
from diffassim.observations import Observations
from diffassim.training import fit

__all__ = ["chosen_inflation", "fitted_through_filter"]

SEGMENT = 8  # rows that the filter goes on from members of its own
SEGMENTS = 64
SETTLED = 30  # rows before the first segment
INFLATIONS = (1.1, 1.15, 1.2, 1.3, 1.4)  # with less, a filter of this size loses the truth some day
RATE, BATCH, CLIP = 5e-3, 8, 10.0


def fitted_through_filter(
    config: Any, model: Mapping[str, Any], rows: np.ndarray, forcing: np.ndarray, number: int
) -> dict[str, Any]:
    r"""Return a model whose weights and inflation make the observations more likely.

    .. math:: \min_{\theta, \lambda} -\frac{1}{m} \sum_k \log p(y_k \mid y_{<k};\, \theta, \lambda)

    with the likelihood of the ensemble transform Kalman filter. Forecasts from single analyses would not do: the error
    of an analysis, which depends on the analysis, would be learned as an error of the model.

    Args:
        config: settings of the twin.
        model: where to start; its filter makes the members that segments start from.
        rows: observations, NaN where missing, shape (time, site).
        forcing: at each of these times.
        number: of the round, for the random stream.

    Source: Chen, Sanz-Alonso and Willett (2022), differentiating through an ensemble Kalman filter.
    """
    start = {**model, "forcing": float(np.mean(forcing))}
    _, members = filtered(config, model_of(config, start), model["inflation"], rows, 16)
    possible = np.arange(SETTLED, len(rows) - SEGMENT)
    draws = np.random.default_rng((config.seed, number))
    chosen = np.sort(draws.choice(possible, SEGMENTS, replace=len(possible) < SEGMENTS))
    observed = np.stack([rows[k + 1 : k + 1 + SEGMENT] for k in chosen])
    data = (members[chosen], forcing[chosen], observed, np.full(SEGMENTS, config.std))
    network = network_of(config, model["scaling"], model["network"])
    trained = fit(
        _loss,
        {"network": network, "inflation": jnp.log(jnp.asarray(model["inflation"], config.dtype))},
        jax.tree.map(lambda part: np.asarray(part, config.dtype), data),
        optimizer=_optimizer(config.updates),
        steps=config.updates,
        batch_size=BATCH,
        key=random_stream(config.seed, 17, number),
    ).trained
    weights = [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(trained["network"])]
    return {**model, "network": weights, "inflation": max(float(jnp.exp(trained["inflation"])), INFLATIONS[0])}


def chosen_inflation(config: Any, model: Mapping[str, Any], rows: np.ndarray) -> float:
    r"""Return the inflation with which the filter claims what it misses, over a whole record with one model.

    Segments of days do not show what a forcing that lies months behind does to a filter; the record does. The score is
    that of normal forecasts of single values, \(\log \sigma^2 + d^2 / \sigma^2\).

    Args:
        config: settings of the twin.
        model: with the forcing of the end of the record.
        rows: observations, NaN where missing, shape (time, site).
    """
    scores = []
    for inflation in INFLATIONS:
        priors, _ = filtered(config, model_of(config, model), inflation, rows, 18)
        variance = priors.var(axis=1, ddof=1) + config.std**2
        score = np.log(variance) + (rows - priors.mean(axis=1)) ** 2 / variance
        scores.append(float(np.nanmean(score[SETTLED:])))
    return INFLATIONS[int(np.argmin(np.nan_to_num(scores, nan=np.inf)))]


def _loss(trainable: Any, batch: Any, key: Any) -> Any:
    def surprise(members: Any, forcing: Any, values: Any, std: Any) -> Any:
        model = CorrectedModel(Lorenz96(forcing=forcing), trainable["network"])
        observations = Observations(values, INTERVAL * np.arange(1, SEGMENT + 1), error=Diagonal(std=std))
        method = ETKF(inflation=jnp.exp(trainable["inflation"]))
        return -cycle(method, model, members, observations)[1].log_likelihood / values.size

    return jnp.mean(jax.vmap(surprise)(*batch))


@lru_cache(maxsize=4)
def _optimizer(updates: int) -> Any:
    return optax.chain(optax.clip_by_global_norm(CLIP), optax.adam(optax.cosine_decay_schedule(RATE, updates)))
