"""Fit a catchment's model and the error statistics of its assimilation to calibration years."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffassim.core import tree
from diffassim.covariances import Diagonal
from diffassim.experiments.framework.twin import random_stream
from diffassim.experiments.rivers.discharge_analysis import (
    DischargeAnalysis,
    ErrorStatistics,
    IssueDay,
    discharge_of,
    issue_days,
)
from diffassim.experiments.rivers.discharge_references import autoregression, fit_autoregression
from diffassim.models import GR4J, rollout
from diffassim.models.gr4j import CatchmentForcing, CatchmentState
from diffassim.observations import Observations
from diffassim.training import fit
from diffassim.variational import GaussNewton, StrongConstraint4DVar, minimize

__all__ = ["calibrate", "fit_statistics", "open_loop"]

# Prior standard deviations of the calibrated parameters around the published medians (Perrin et al., 2003, table 3).
PARAMETER_STD = {"x1": 150.0, "x2": 1.0, "x3": 40.0, "x4": 0.7, "melt_factor": 1.5, "melt_temperature": 1.0}
CALIBRATION_ERROR = 0.2  # mm per day

BATCH = 256  # windows in each update of the error statistics
LEARNING_RATE = 0.1
SHARPNESS = 8.0  # of the maximum over leads
# Prior of the error statistics, log-normal around the first guess; a few floods a year carry the mean squared error, so
# that the calibration years weigh no more than this many independent events.
STATISTICS_STD = 0.5
EVENTS = 40


def calibrate(
    forcing: CatchmentForcing,
    discharge: np.ndarray,
    first: int,
    last: int,
    start: Mapping[str, Any] | None = None,
    doubt: float = 1.0,
) -> GR4J:
    """Return the model with the parameters that fit the observed discharge best.

    Args:
        forcing: forcing of the whole record.
        discharge: observed discharge of the whole record, mm per day; NaN where missing.
        first: first day that counts (the days before warm up), index into the record.
        last: day after the last one.
        start: mean of the prior distribution of the parameters, by name; default: the published medians.
        doubt: factor of its standard deviations.
    """
    model = GR4J(forcing=forcing, **({} if start is None else {k: jnp.asarray(v) for k, v in start.items()}))
    observed = Observations(
        discharge[first:last],
        np.arange(first + 1, last + 1),  # the discharge of day k is in the state after step k
        operator=discharge_of,
        error=Diagonal(std=CALIBRATION_ERROR),
    )
    cost = StrongConstraint4DVar(
        model,
        model.initial_state(discharge.dtype),
        None,
        observed,
        parameters={name: Diagonal(std=doubt * std) for name, std in PARAMETER_STD.items()},
    )
    # The misfit is model error, far above CALIBRATION_ERROR: the consistency test has nothing to say here.
    return minimize(cost, GaussNewton(growth=None)).model


@jax.jit
def open_loop(model: GR4J) -> CatchmentState:
    """Return the states of the model without assimilation over the whole record, one row more than days."""
    assert model.forcing is not None
    precipitation = model.forcing.precipitation
    return rollout(model, model.initial_state(precipitation.dtype), precipitation.shape[0])


def fit_statistics(
    model: GR4J,
    discharge: np.ndarray,
    issued: np.ndarray,
    *,
    window: int,
    leads: tuple[int, ...],
    updates: int,
    seed: int,
) -> ErrorStatistics:
    """Fit the error statistics by gradient through the analysis.

    Args:
        model: calibrated model with the forcing of the whole record.
        discharge: observed discharge of the whole record, mm per day.
        issued: days on which forecasts are issued, indices into the record; their verifying days lie in it.
        window: days in a window.
        leads: of the forecasts, days.
        updates: optimizer steps; 0 keeps the first guess of the statistics.
        seed: of the batches.
    """
    assert model.forcing is not None
    prior = _unbounded(jax.tree.map(lambda s: jnp.asarray(s, discharge.dtype), ErrorStatistics()))
    if updates == 0:
        return _bounded(prior)
    states = open_loop(model)
    days = issue_days(states, jnp.asarray(discharge), model.forcing, jnp.asarray(issued), window, max(leads))
    targets = np.stack([discharge[issued + lead] for lead in leads], axis=1)
    simulated = np.asarray(states.discharge[1:])
    rho = fit_autoregression((discharge - simulated)[issued])
    reference = [
        np.nanmean((autoregression(simulated, discharge, issued, lead, rho) - y) ** 2)
        for lead, y in zip(leads, targets.T, strict=True)
    ]
    dtype = discharge.dtype
    loss = partial(_objective, model.replace(forcing=None), leads, np.asarray(reference), prior)
    found = fit(
        lambda trainable, batch, key: loss(trainable, *batch),
        {"statistics": prior, "persistence": jnp.asarray([rho**lead for lead in leads], dtype)},
        (days, targets),
        optimizer=optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, updates)),
        steps=updates,
        batch_size=min(BATCH, len(issued)),
        key=random_stream(seed),
    ).trained
    return _bounded(found["statistics"])


def _objective(
    model: GR4J,
    leads: tuple[int, ...],
    reference: np.ndarray,
    prior: ErrorStatistics,
    trainable: Any,
    days: IssueDay,
    targets: Any,
) -> Any:
    """Return minus the log posterior of the error statistics, for one event.

    The likelihood is that of Gaussian forecast errors of unknown variance, the logarithm of their mean square; of the
    leads, a smooth maximum of it relative to the open loop with AR(1) correction.
    """
    statistics = _bounded(trainable["statistics"])
    _, forecasts, _ = jax.vmap(DischargeAnalysis(model, statistics, trainable["persistence"], leads))(days)
    known = jnp.isfinite(targets)
    errors = jnp.where(known, forecasts - jnp.where(known, targets, 0), 0)
    ratio = jnp.mean(errors**2, axis=0) / jnp.asarray(reference, errors.dtype)
    # Not the mean: a long lead must not be improved at the cost of a short one.
    worst = jnp.log(jnp.mean(ratio**SHARPNESS)) / SHARPNESS
    departure = tree.subtract(trainable["statistics"], prior)
    return (worst + tree.squared_norm(departure) / (STATISTICS_STD**2 * EVENTS)) / 2


def _unbounded(s: ErrorStatistics) -> ErrorStatistics:
    """Map positive standard deviations, and a memory between 0 and 1, to the whole line."""
    return jax.tree.map(jnp.log, s).replace(memory=jnp.log(s.memory / (1 - s.memory)))


def _bounded(u: ErrorStatistics) -> ErrorStatistics:
    return jax.tree.map(jnp.exp, u).replace(memory=jax.nn.sigmoid(u.memory))
