"""Ground motion and magnitude of the 2019 Ridgecrest earthquakes from the stations that report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from flax import nnx
from jax.flatten_util import ravel_pytree
from pydantic import Field

from diffassim.experiments.applications.ground_motion_mean import (
    INPUTS,
    UNITS,
    Law,
    NetworkMean,
    fine_tune,
    fit_law,
    record_inputs,
    simulated_training,
)
from diffassim.experiments.applications.ground_motion_prediction import (
    GutenbergRichter,
)
from diffassim.experiments.applications.ground_motion_scores import score_table, scores_of
from diffassim.experiments.applications.ground_motion_terms import (
    FIRST_GUESS,
    TermCovariances,
    fit_terms,
    some_blocks,
    station_blocks,
)
from diffassim.experiments.applications.ridgecrest_model import KnownBefore, SplitRecords
from diffassim.experiments.framework.base import Configuration, Results, Stage, StagedExperiment
from diffassim.learned import Network
from diffassim.learned.networks import MLP
from diffassim.plotting.ground_motion import overview

__all__ = ["Ridgecrest", "RidgecrestConfiguration"]

ITERATIONS = 20
ENOUGH = 4000  # records for the likelihood of a few covariance parameters
# Terms that a method does without.
REDUCED = {
    "law": ("event", "station_own", "station_shared", "path", "within", "bearing"),
    "law, event term": ("station_own", "station_shared", "path", "within", "bearing"),
    "law, event and station terms": ("station_shared", "path", "within", "bearing"),
}
FULL = "Gaussian model"
ESTIMATORS = ("law, event and station terms", FULL)  # of magnitudes
FACTORS = (1.0, 1.5, 2.0, 3.0)  # candidates for that of the standard deviation of magnitudes


class RidgecrestConfiguration(Configuration):
    """Settings.

    Args:
        file: CSV file in the layout of gmprocess; default: the one that comes with it.
        training_events: how many of the first events everything is fitted to.
        withheld: part of the stations that is withheld in the test events.
        first: numbers of the first stations that have reported when a prediction is made.
        nearest: numbers of the nearest stations from which magnitudes are estimated.
        updates: candidates for the updates of the network on real events; 0 stands for the law without network.
        block: most records in a block of the likelihood.
    """

    file: Path | None = None
    training_events: Annotated[int, Field(ge=6)] = 78
    withheld: Annotated[float, Field(gt=0, lt=1)] = 0.3
    first: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (8, 32)
    nearest: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (1, 2, 4, 8, 16)
    updates: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0, 300, 1000)
    block: Annotated[int, Field(ge=20)] = 150


class Ridgecrest(StagedExperiment):
    """Predict the peak acceleration at withheld stations and the magnitude, from the stations that report.

    The mean is a network that has learned a published law on simulated events and then the first real events; event,
    station, path and spatial terms are a Gaussian model whose covariances have the largest likelihood on the same
    events. Whether and how long the network learns on real events, and a factor of the predicted spread, come from
    cross-validation among these events. Nothing is chosen or fitted on the events that are scored: of them the model
    sees the reporting stations alone.
    """

    name = "ridgecrest"
    summary = "Ground motion and magnitude of the 2019 Ridgecrest earthquakes, from the stations that report."
    configuration = RidgecrestConfiguration

    def stages(self, config: RidgecrestConfiguration) -> tuple[Stage, ...]:
        """Return the stages."""
        return (
            Stage("training a network on simulated events", 1, _pretrain),
            Stage("learning covariances for the cross-validation", 1, _fit_first_part),
            Stage("cross-validating among the training events", len(config.updates), _cross_validate),
            Stage("learning mean and covariances from all training events", 1, _fit_all),
            Stage("predicting the test events", len(REDUCED) + 1, _predict_by_one),
        )

    def start(self, config: RidgecrestConfiguration) -> dict[str, Any]:
        """Make sure that the records can be used."""
        SplitRecords(config)
        return {}

    def finish(self, config: RidgecrestConfiguration, dataset: xr.Dataset) -> Results:
        """Return scores, table and figure."""
        scores = scores_of(dataset)
        places = SplitRecords(config).table
        return Results(
            scores,
            {"ridgecrest": overview(dataset, scores, places)},
            score_table(dataset, scores),
            dataset.sizes["time"],
        )


def _pretrain(config: RidgecrestConfiguration, carry: dict[str, Any], _: int) -> tuple[dict[str, Any], xr.Dataset]:
    mean = simulated_training(config.seed, 2000)
    return {"simulated": np.asarray(ravel_pytree(mean)[0])}, xr.Dataset()


def _fit_first_part(
    config: RidgecrestConfiguration, carry: dict[str, Any], _: int
) -> tuple[dict[str, Any], xr.Dataset]:
    data = SplitRecords(config)
    fitted = _fitted_law(config, data, data.records(0, data.inner), FIRST_GUESS)
    return carry | {"inner": vars(fitted), "validation": np.zeros((0, 3))}, xr.Dataset()


def _cross_validate(
    config: RidgecrestConfiguration, carry: dict[str, Any], index: int
) -> tuple[dict[str, Any], xr.Dataset]:
    """Score one candidate on the last third of the training events."""
    data = SplitRecords(config)
    terms = TermCovariances(**carry["inner"])
    chosen = data.records(0, data.inner)
    mean = _mean(config, data, chosen, terms, carry["simulated"], config.updates[index])
    model = KnownBefore.given(mean, terms, data, chosen)
    squares, scaled = [], []
    events = np.arange(data.inner, config.training_events)
    priors = [model.prior(int(event)) for event in events]
    for event in priors:
        center, variance = model.predict(event, ~data.held)
        withheld = data.held[data.table.station[event.rows]]
        error = data.table.log_pga[event.rows] - center
        squares.append(error[withheld] ** 2)
        scaled.append(error[withheld] ** 2 / variance[withheld])
    prior = GutenbergRichter.fitted(data.table.magnitude[: data.inner])
    found = model.magnitudes(priors, config.nearest)
    wrong = [prior.posterior(found, f).estimate - data.table.magnitude[events] for f in FACTORS]
    factor = FACTORS[int(np.argmin([np.sum(np.sqrt(np.mean(w**2, axis=1))) for w in wrong]))]
    row = [np.sqrt(np.mean(np.concatenate(squares))), np.sqrt(np.mean(np.concatenate(scaled))), factor]
    return carry | {"validation": np.concatenate([carry["validation"], [row]])}, xr.Dataset()


def _fit_all(config: RidgecrestConfiguration, carry: dict[str, Any], _: int) -> tuple[dict[str, Any], xr.Dataset]:
    data = SplitRecords(config)
    chosen = data.records(0, config.training_events)
    best = int(np.argmin(carry["validation"][:, 0]))
    terms = TermCovariances(**jax.tree.map(jnp.asarray, carry["inner"]))
    mean = _mean(config, data, chosen, terms, carry["simulated"], config.updates[best])
    blocks = station_blocks(data.table, chosen, config.block)
    residual = data.table.log_pga - np.asarray(mean(record_inputs(data.table)))
    terms, _account = fit_terms(data.table, some_blocks(blocks, ENOUGH, config.seed), residual, vars(terms), ITERATIONS)
    mean = _mean(config, data, chosen, terms, carry["simulated"], config.updates[best])
    references = {
        name: vars(_fitted_law(config, data, chosen, FIRST_GUESS, absent)) for name, absent in REDUCED.items()
    }
    fitted = {
        "mean": np.asarray(ravel_pytree(mean)[0]), "terms": vars(terms), "references": references,
        "factor": carry["validation"][best, 1], "validation": carry["validation"],
        "magnitudes": np.array(GutenbergRichter.fitted(data.table.magnitude[: config.training_events])),
        "magnitude_factor": carry["validation"][best, 2],
        "mean_magnitude": np.mean(data.table.magnitude[: config.training_events]),
    }  # fmt: skip
    return fitted | {"updates": np.asarray(config.updates[best])}, xr.Dataset()


def _predict_by_one(
    config: RidgecrestConfiguration, carry: dict[str, Any], index: int
) -> tuple[dict[str, Any], xr.Dataset]:
    """Predict all test events by one model; the last one writes everything down."""
    data = SplitRecords(config)
    table, chosen = data.table, data.records(0, config.training_events)
    events = np.arange(config.training_events, len(table.events))
    name = (*REDUCED, FULL)[index]
    terms = TermCovariances(**(carry["terms"] if name == FULL else carry["references"][name]))
    if name == FULL:
        mean = _restored(carry["mean"], int(carry["updates"]) > 0)
    else:
        mean = fit_law(table, station_blocks(table, chosen, config.block), jax.tree.map(jnp.asarray, terms))
    model = KnownBefore.given(mean, terms, data, chosen)

    factor = float(carry["factor"]) if name == FULL else 1.0
    predicted = {}
    priors = [model.prior(int(event)) for event in events]
    for first in (*config.first, 0) if name == FULL else (0,):
        motion = np.full((2, len(events), len(table.stations)), np.nan)
        for i, event in enumerate(priors):
            center, variance = model.predict(event, ~data.held, first)
            motion[:, i, table.station[event.rows]] = center, factor * np.sqrt(variance)
        predicted[f"{name}, first {first}" if first else name] = motion
    carry = carry | {"predicted": carry.get("predicted", {}) | predicted}
    if name in ESTIMATORS:
        found = model.magnitudes(priors, config.nearest)
        if name == FULL:
            found = GutenbergRichter(*carry["magnitudes"]).posterior(found, float(carry["magnitude_factor"]))
        estimates = np.stack(found)
        carry = carry | {"estimates": carry.get("estimates", {}) | {name: estimates}}
    return carry, _dataset(config, data, carry, events) if name == FULL else xr.Dataset()


def _dataset(
    config: RidgecrestConfiguration, data: SplitRecords, carry: dict[str, Any], events: np.ndarray
) -> xr.Dataset:
    """Return all that was predicted of the test events."""
    table = data.table
    observed = np.full((len(events), len(table.stations)), np.nan)
    test = table.event >= events[0]
    observed[table.event[test] - events[0], table.station[test]] = table.log_pga[test]
    methods = [*REDUCED, *(f"{FULL}, first {k}" for k in config.first), FULL]
    predicted = np.stack([carry["predicted"][name] for name in methods], axis=2)
    estimates = np.stack([carry["estimates"][name] for name in ESTIMATORS], axis=1)
    by_number = ("time", "estimator", "nearest")
    return xr.Dataset(
        {
            "log_pga": (("time", "station"), observed, {"long_name": "log10 of peak ground acceleration in g"}),
            "withheld": (("time", "station"), np.repeat(data.held[None].astype(np.int8), len(events), axis=0)),
            "prediction": (("time", "method", "station"), predicted[0]),
            "std": (("time", "method", "station"), predicted[1]),
            "magnitude": ("time", table.magnitude[events]),
            "prior_magnitude": ("time", np.full(len(events), float(carry["mean_magnitude"]))),
            "magnitude_estimate": (by_number, estimates[0].transpose(2, 0, 1)),
            "magnitude_std": (by_number, estimates[1].transpose(2, 0, 1)),
            "validation": (("time", "candidate"), np.repeat(carry["validation"][None, :, 0], len(events), axis=0)),
        },
        coords={
            "time": table.times[events], "station": table.stations, "method": methods,
            "estimator": list(ESTIMATORS), "nearest": list(config.nearest), "candidate": list(config.updates),
        },
    )  # fmt: skip


def _fitted_law(
    config: RidgecrestConfiguration,
    data: SplitRecords,
    chosen: np.ndarray,
    start: dict[str, Any],
    absent: tuple[str, ...] = (),
) -> TermCovariances:
    """Return covariances of the residuals of the law of least squares."""
    blocks = station_blocks(data.table, chosen, config.block)
    residual = data.table.log_pga - np.asarray(fit_law(data.table, blocks, None)(record_inputs(data.table)))
    some = some_blocks(blocks, ENOUGH, config.seed)
    return fit_terms(data.table, some, residual, start, ITERATIONS, absent)[0]


def _mean(
    config: RidgecrestConfiguration,
    data: SplitRecords,
    chosen: np.ndarray,
    terms: Any,
    simulated: np.ndarray,
    updates: int,
) -> Any:
    terms = jax.tree.map(jnp.asarray, terms)
    blocks = station_blocks(data.table, chosen, config.block)
    if not updates:
        return fit_law(data.table, blocks, terms)
    return fine_tune(_restored(simulated, True), data.table, blocks, terms, updates, config.seed)


def _restored(numbers: np.ndarray, network: bool) -> Any:
    if not network:
        return Law(jnp.asarray(numbers))
    untrained = Network.from_nnx(MLP([INPUTS, UNITS, UNITS, 1], rngs=nnx.Rngs(0)))
    return ravel_pytree(NetworkMean(Law(jnp.zeros(INPUTS + 3)), untrained))[1](jnp.asarray(numbers))
