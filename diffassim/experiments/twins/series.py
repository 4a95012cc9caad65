"""Errors and spreads of forecasts and analyses against the truth, at every analysis and for every field."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffassim.diagnostics import crps, normal_crps, weighted_crps
from diffassim.ensemble import Particles
from diffassim.experiments.framework.assimilation import Estimate, Found
from diffassim.gaussian import Gaussian

__all__ = ["METRICS", "NUMBERS", "STAGES", "error_series"]

STAGES = ("forecast", "analysis", "smoothed")
METRICS = ("rmse", "spread", "crps")
NUMBERS = [*(f"{stage}_{metric}" for stage in STAGES for metric in METRICS), "climatology_rmse"]


@jax.jit
def error_series(found: Found, truth: Any, before: Any, samples: Any) -> dict[str, Float[Array, "time field"]]:
    """Return root-mean-square error, spread and CRPS over each field, "stage_metric": (time, field).

    What a method does not know is not there: a spread of 4D-Var, or smoothed states of a filter.

    Args:
        found: forecasts, analyses, and smoothed states with a leading axis of analyses.
        truth: true states at the analysis times.
        before: those of the smoothed states.
        samples: states of the climatology, whose mean is the simplest forecast.

    Example:
        >>> mean = jnp.asarray([[1.0, 3.0]])
        >>> known = Estimate(mean, jnp.ones((1, 2)))
        >>> found = Found(known, known, None, jnp.zeros(1, int), None)
        >>> series = error_series(found, jnp.zeros((1, 2)), None, jnp.zeros((3, 2)))
        >>> round(float(series["analysis_rmse"][0, 0]), 4), float(series["analysis_spread"][0, 0])
        (2.2361, 1.0)
    """
    series = {}
    for stage in STAGES:
        estimate = getattr(found, stage)
        for metric, values in _of(estimate, before if stage == "smoothed" else truth).items():
            series[f"{stage}_{metric}"] = values
    climate = jax.tree.map(lambda leaf, x: jnp.broadcast_to(jnp.mean(leaf, axis=0), x.shape), samples, truth)
    series["climatology_rmse"] = _of(Estimate(climate), truth)["rmse"]
    return series


def _of(estimate: Estimate | None, truth: Any) -> dict[str, Any]:
    if estimate is None:
        return {}
    errors = jax.tree.map(lambda a, b: _root_mean(jnp.square(a - b)), estimate.mean, truth)
    found = {"rmse": _stacked(errors)}
    if estimate.spread is not None:
        found["spread"] = _stacked(jax.tree.map(lambda s: _root_mean(jnp.square(s)), estimate.spread))
    scores = _crps(estimate, truth)
    if scores is not None:
        found["crps"] = _stacked(jax.tree.map(_mean, scores))
    return found


def _crps(estimate: Estimate, truth: Any) -> Any:
    """Return the score of every component, or None where there is nothing to score."""
    belief = estimate.belief
    if belief is None:
        return None
    if isinstance(belief, Gaussian):
        return jax.tree.map(normal_crps, estimate.mean, estimate.spread, truth)
    if isinstance(belief, Particles):
        w = belief.weights
        return jax.tree.map(lambda x, y: jax.vmap(weighted_crps)(x, w.astype(x.dtype), y), belief.members, truth)
    members = belief if jax.tree.structure(belief) == jax.tree.structure(truth) else belief.members
    return jax.tree.map(jax.vmap(crps), members, truth)


def _root_mean(squares: Any) -> Any:
    return jnp.sqrt(_mean(squares))


def _mean(values: Any) -> Any:
    return jnp.mean(values, axis=tuple(range(1, values.ndim)))


def _stacked(by_field: Any) -> Any:
    return jnp.stack(jax.tree.leaves(by_field), axis=1)
