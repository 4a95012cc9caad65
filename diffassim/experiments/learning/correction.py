"""A neural correction of model error, learned through the assimilation: two-scale Lorenz-96 as truth."""

from __future__ import annotations

from typing import Annotated, Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from pydantic import Field, model_validator

from diffassim.covariances import Diagonal
from diffassim.experiments.framework.base import Configuration, Results, Stage, StagedExperiment
from diffassim.experiments.framework.twin import random_stream
from diffassim.experiments.learning.correction_data import (
    N_FAST,
    N_SLOW,
    RATIO,
    Record,
    full_model,
    make_record,
    observe,
    random_truth,
    slow_part,
    subgrid_tendency,
    truncated_model,
    truth_rows,
)
from diffassim.experiments.learning.correction_scores import score_table, scores_by_lead
from diffassim.experiments.learning.correction_training import (
    CENTER,
    PIECE,
    assimilate,
    fit_offline,
    fit_online,
    tune,
    untrained_network,
    validation_score,
    weights_from_arrays,
    weights_to_arrays,
    withheld,
)
from diffassim.learned import CorrectedModel
from diffassim.models import TwoScaleState
from diffassim.plotting.correction import correction_overview

__all__ = ["METHODS", "Correction", "CorrectionConfiguration"]

METHODS = ("uncorrected", "offline", "online", "perfect model")
FORECAST_EVERY = 4  # windows between forecasts
NOT_ANALYZED = 1e-6  # standard deviation in B of fast variables that are carried along only
FAST_STD = (0.05, 0.1)  # and what else is tried; their climate has .24
FIELDS = 4 + 4 * len(METHODS)  # of one number for each slow variable and window, in the output
TRAINING, VALIDATION, TEST = 1, 2, 3  # independent truths


class CorrectionConfiguration(Configuration):
    """Settings; times are in steps of the truncated model.

    Args:
        forcing: F of both models.
        dt: time step of the truncated model; the truth takes steps of half that length.
        observed: number of slow variables that are observed, of 36.
        observation_interval: steps between observation times.
        observation_std: standard deviation of the observation errors.
        window: length of the assimilation window.
        members: independent experiments, trained on together and scored together.
        training_cycles: windows of each member in the training stretch.
        validation_cycles: windows of each member in the stretch on which B is tuned.
        cycles: windows of each member in the test stretch.
        discarded_cycles: first windows of each stretch that do not count.
        radius: neighbours on each side that the network sees.
        width: its hidden units.
        depth: its hidden layers.
        offline_updates: optimizer steps of the offline training.
        epochs: rounds of online training; each starts with a new cycle over the training stretch.
        updates: optimizer steps in each round.
        lead: steps after the window whose observations the online loss predicts.
        forecast_leads: leads of the scored forecasts.
    """

    forcing: float = 10.0
    dt: Annotated[float, Field(gt=0, le=0.02)] = 0.01
    observed: Annotated[int, Field(ge=1, le=N_SLOW)] = N_SLOW
    observation_interval: Annotated[int, Field(ge=1)] = 5
    observation_std: Annotated[float, Field(gt=0)] = 0.1
    window: Annotated[int, Field(ge=1)] = 10
    members: Annotated[int, Field(ge=1)] = 8
    training_cycles: Annotated[int, Field(ge=2)] = 160
    validation_cycles: Annotated[int, Field(ge=2)] = 40
    cycles: Annotated[int, Field(ge=2)] = 120
    discarded_cycles: Annotated[int, Field(ge=1)] = 10
    radius: Annotated[int, Field(ge=0, le=N_SLOW // 2)] = 2
    width: Annotated[int, Field(ge=1)] = 16
    depth: Annotated[int, Field(ge=1)] = 2
    offline_updates: Annotated[int, Field(ge=0)] = 400
    epochs: Annotated[int, Field(ge=1)] = 2
    updates: Annotated[int, Field(ge=0)] = 150
    lead: Annotated[int, Field(ge=1)] = 50
    forecast_leads: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (
        5, 10, 20, 30, 50, 75, 100, 150, 200, 300, 400,
    )  # fmt: skip

    @model_validator(mode="after")
    def _times_are_possible(self) -> Self:
        every = self.observation_interval
        if self.window % every:
            raise ValueError(f"window: {self.window} steps are no multiple of observation_interval = {every}")
        if self.lead % every:
            raise ValueError(f"lead: {self.lead} steps are no multiple of observation_interval = {every}")
        if list(self.forecast_leads) != sorted(set(self.forecast_leads)):
            raise ValueError(f"forecast_leads: {self.forecast_leads} must increase")
        needed = self.discarded_cycles + -(-self.lead // self.window) + 1
        if self.training_cycles < needed:
            raise ValueError(
                f"training_cycles: {self.training_cycles} windows leave no sample; with discarded_cycles = "
                f"{self.discarded_cycles} and lead = {self.lead} steps at least {needed} are needed"
            )
        needed = self.discarded_cycles + 1
        if self.validation_cycles < needed:
            raise ValueError(f"validation_cycles: {self.validation_cycles} must be at least {needed}")
        if self.cycles < self.discarded_cycles + FORECAST_EVERY:
            raise ValueError(
                f"cycles: {self.cycles} leave no forecast to score after discarded_cycles = {self.discarded_cycles}; "
                f"at least {self.discarded_cycles + FORECAST_EVERY} are needed"
            )
        return self


class Correction(StagedExperiment):
    """Four assimilations of the same observations: without correction, with two learned ones, with the true model.

    The truth is the two-scale model; the truncated model knows neither its fast variables nor their effect. A small
    network of neighbouring slow variables corrects the truncated model's tendency. Offline, it is fitted to the
    analyses of the uncorrected cycle. Online, training goes on from there through the analysis: the loss is the misfit
    of forecasts from 4D-Var analyses to later observations, and its gradient passes through the analyses by the
    implicit function theorem. The perfect model analyses slow and fast variables together from the same observations;
    these hardly constrain the fast ones, which then act as noise in its forecasts, while a learned correction gives
    their mean effect. So a good correction can close more than the whole gap.

    Training, validation and test are different truths. The standard deviations in each method's own B are tuned on the
    validation stretch, by cross-validation with withheld observations. The truth enters the scores alone.
    """

    name = "correction"
    summary = "A neural model correction learned through 4D-Var, with two-scale Lorenz-96 as truth."
    configuration = CorrectionConfiguration

    def stages(self, config: CorrectionConfiguration) -> tuple[Stage, ...]:
        """Return the stages: trainings and tunings without output, then the test stretch in pieces."""
        return (
            Stage("training offline", 1, _offline),
            Stage("training through the analysis", config.epochs, _online),
            Stage("tuning B of the perfect model", 1, _perfect_model),
            Stage("assimilating the test stretch", -(-config.cycles // PIECE), _test),
        )

    def memory(self, config: CorrectionConfiguration) -> dict[str, float]:
        """Return what the largest arrays need: the output, and the truth of a stretch that is trained or tuned on."""
        windows = max(config.training_cycles, config.validation_cycles, min(config.cycles, PIECE))
        rows = config.members * windows * (config.window // config.observation_interval + 1)
        size = np.dtype(config.dtype).itemsize
        return {
            "the output (members x cycles)": float(size * config.members * config.cycles * FIELDS * N_SLOW),
            "the truth of a stretch (members x cycles x observation times)": float(size * rows * N_SLOW * (N_FAST + 1)),
        }

    def start(self, config: CorrectionConfiguration) -> dict[str, Any]:
        """Return an empty carry: everything is in the stages."""
        return {}

    def finish(self, config: CorrectionConfiguration, dataset: xr.Dataset) -> Results:
        """Return scores by method and lead, the table and the figure."""
        counted = dataset.isel(time=slice(config.discarded_cycles, None))
        scores = scores_by_lead(counted, config.window * config.dt)
        return Results(scores, {"correction": correction_overview(counted, scores)}, score_table(counted, scores))


def _stretch(config: CorrectionConfiguration, stretch: int, windows: int) -> tuple[Record, TwoScaleState]:
    """Return a stretch's record, and backgrounds for its start."""
    truth = random_truth(config, random_stream(config.seed, stretch, 0))
    return make_record(config, truth, windows, random_stream(config.seed, stretch, 1)), _first_guess(
        config, truth, stretch
    )


def _first_guess(config: CorrectionConfiguration, truth: TwoScaleState, stretch: int) -> TwoScaleState:
    """Return observed slow variables (the climate where there are none), and fast ones of an unrelated moment."""
    observed = observe(config, truth.slow, random_stream(config.seed, stretch, 2))
    return TwoScaleState(
        jnp.where(jnp.isnan(observed), CENTER, observed),
        random_truth(config, random_stream(config.seed, stretch, 3)).fast,
    )


def _validated(
    config: CorrectionConfiguration, model: Any, make_B: Any, record: Record, background: Any, std: float
) -> float:
    assimilated = withheld(record.values, random_stream(config.seed, VALIDATION, 4))
    _, history = assimilate(config, model, make_B(std), background, assimilated)
    return validation_score(config, history, record.values, assimilated)


def _tuned(config: CorrectionConfiguration, network: Any, start: float) -> np.ndarray:
    record, guess = _stretch(config, VALIDATION, config.validation_cycles)
    model = CorrectedModel(truncated_model(config), network)
    return np.asarray(
        tune(lambda std: _validated(config, model, lambda s: Diagonal(std=s), record, guess.slow, std), start)
    )


def _offline(config: CorrectionConfiguration, carry: dict[str, Any], _: int) -> tuple[dict[str, Any], xr.Dataset]:
    """Tune B of the uncorrected cycle, fit the network to its analyses, and tune B again."""
    nothing = untrained_network(config)
    std = _tuned(config, nothing, 2 * config.observation_std)
    record, guess = _stretch(config, TRAINING, config.training_cycles)
    model = CorrectedModel(truncated_model(config), nothing)
    _, history = assimilate(config, model, Diagonal(std=float(std)), guess.slow, record.values)
    network = fit_offline(config, nothing, history)
    weights = weights_to_arrays(network)
    offline = _tuned(config, network, float(std) / 2)
    return {
        "weights": {"uncorrected": weights_to_arrays(nothing), "offline": weights, "online": weights},
        "std": {"uncorrected": std, "offline": offline, "online": offline},
    }, xr.Dataset()


def _online(config: CorrectionConfiguration, carry: dict[str, Any], epoch: int) -> tuple[dict[str, Any], xr.Dataset]:
    """One round of training through the analysis; after the last, tune B."""
    network, std = weights_from_arrays(config, carry["weights"]["online"]), float(carry["std"]["online"])
    record, guess = _stretch(config, TRAINING, config.training_cycles)
    model = CorrectedModel(truncated_model(config), network)
    _, history = assimilate(config, model, Diagonal(std=std), guess.slow, record.values)
    network, std = fit_online(config, network, std, history, record.values, epoch)
    if epoch == config.epochs - 1:
        std = float(_tuned(config, network, std))
    return {
        "weights": carry["weights"] | {"online": weights_to_arrays(network)},
        "std": carry["std"] | {"online": np.asarray(std)},
    }, xr.Dataset()


def _perfect_model(config: CorrectionConfiguration, carry: dict[str, Any], _: int) -> tuple[dict[str, Any], xr.Dataset]:
    """Tune B of the slow variables, of the fast ones, and of the slow ones again."""
    record, guess = _stretch(config, VALIDATION, config.validation_cycles)
    tried: dict[tuple[float, float], float] = {}

    def score(slow: float, fast: float) -> float:
        if (slow, fast) not in tried:
            tried[slow, fast] = _validated(config, full_model(config), lambda s: _full_B(s, fast), record, guess, slow)
        return tried[slow, fast]

    slow = tune(lambda s: score(s, NOT_ANALYZED), float(carry["std"]["online"]))
    fast = min((NOT_ANALYZED, *FAST_STD), key=lambda f: score(slow, f))
    slow = tune(lambda s: score(s, fast), slow)
    std = carry["std"] | {"perfect model": np.asarray(slow), "perfect model, fast": np.asarray(fast)}
    return carry | {"std": std} | _test_start(config), xr.Dataset()


def _full_B(slow: float, fast: float) -> Diagonal:
    return Diagonal(std=TwoScaleState(jnp.asarray(slow), jnp.asarray(fast)))


def _test_start(config: CorrectionConfiguration) -> dict[str, Any]:
    truth = random_truth(config, random_stream(config.seed, TEST, 0))
    guess = _first_guess(config, truth, TEST)
    backgrounds = {method: {"slow": guess.slow} for method in METHODS}
    backgrounds["perfect model"]["fast"] = guess.fast
    return {"truth": vars(truth), "backgrounds": backgrounds}


def _test(config: CorrectionConfiguration, carry: dict[str, Any], piece: int) -> tuple[dict[str, Any], xr.Dataset]:
    """Assimilate one piece of the test stretch with all methods, and issue forecasts."""
    carry = jax.tree.map(jnp.asarray, carry)
    count = min(PIECE, config.cycles - piece * PIECE)
    per_window = config.window // config.observation_interval
    record = make_record(config, TwoScaleState(**carry["truth"]), count, random_stream(config.seed, TEST, 1, piece))
    ends = jax.tree.map(lambda leaf: leaf[:, per_window::per_window], record.truth)
    issued = np.arange(FORECAST_EVERY - 1, count, FORECAST_EVERY)
    verifying = _forecasts(config, full_model(config), jax.tree.map(lambda leaf: leaf[:, issued], ends))
    fields = _no_fields(config, count) | {
        "truth": ends.slow,
        "observation": record.values[:, per_window - 1 :: per_window],
        "subgrid_tendency": subgrid_tendency(config, ends),
    }
    backgrounds = {}
    for m, method in enumerate(METHODS):
        perfect = method == "perfect model"
        model: Any
        std = carry["std"][method]
        if perfect:
            model, B = full_model(config), _full_B(std, carry["std"]["perfect model, fast"])
            background = TwoScaleState(**carry["backgrounds"][method])
        else:
            network = weights_from_arrays(config, carry["weights"][method])
            model, B = CorrectedModel(truncated_model(config), network), Diagonal(std=std)
            background = carry["backgrounds"][method]["slow"]
            fields["learned_tendency"][:, :, m] = jax.vmap(jax.vmap(network))(ends.slow)
        following, history = assimilate(config, model, B, background, record.values)
        backgrounds[method] = vars(following) if perfect else {"slow": following}
        fields["analysis"][:, :, m] = slow_part(history.analysis)[:, :, -1]
        fields["analysis_start"][:, :, m] = slow_part(history.analysis)[:, :, 0]
        fields["background"][:, :, m] = slow_part(history.background)[:, :, -1]
        fields["result"][:, :, m] = history.search
        fields["background_std"][:, :, m] = std
        analyses = jax.tree.map(lambda leaf: leaf[:, issued, -1], history.analysis)
        error = _forecasts(config, model, analyses) - verifying
        fields["forecast_rmse"][:, issued, m] = jnp.sqrt(jnp.mean(error**2, axis=-1))
    starts = jax.tree.map(lambda leaf: leaf[:, :-1:per_window], record.truth)
    fields["truth_start"] = starts.slow
    times = config.dt * config.window * (piece * PIECE + 1 + np.arange(count))
    last = jax.tree.map(lambda leaf: leaf[:, -1], record.truth)
    return carry | {"truth": vars(last), "backgrounds": backgrounds}, _dataset(config, times, fields)


def _forecasts(config: CorrectionConfiguration, model: Any, x: Any) -> Any:
    """Return the slow variables at the leads, from states with leading axes (member, window)."""
    factor = RATIO if isinstance(x, TwoScaleState) else 1
    leads = factor * jnp.asarray(config.forecast_leads)
    steps = factor * max(config.forecast_leads)
    shape = jax.tree.leaves(x)[0].shape[:2]
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), x)
    rows = slow_part(truth_rows(model, flat, steps, leads))
    return rows.reshape(*shape, *rows.shape[1:])


def _no_fields(config: CorrectionConfiguration, count: int) -> dict[str, Any]:
    """Return arrays for `count` windows, with axes (member, time, ...) as computed; NaN where nothing is filled in."""
    each, methods = (config.members, count), len(METHODS)

    def empty(*shape: int) -> np.ndarray:
        return np.full((*each, *shape), np.nan, config.dtype)

    fields: dict[str, Any] = {name: empty(N_SLOW) for name in ("truth", "truth_start", "observation")}
    fields["subgrid_tendency"] = empty(N_SLOW)
    for name in ("analysis", "analysis_start", "background", "learned_tendency"):
        fields[name] = empty(methods, N_SLOW)
    fields["forecast_rmse"] = empty(methods, len(config.forecast_leads))
    fields["background_std"] = empty(methods)
    fields["result"] = np.zeros((*each, methods), np.int8)
    return fields


_LONG_NAMES = {
    "truth": "slow variables of the truth at the end of the window",
    "truth_start": "slow variables of the truth at the start of the window",
    "observation": "observed slow variables at the end of the window",
    "subgrid_tendency": "true effect of the fast variables on the tendency of the slow ones",
    "learned_tendency": "correction of the tendency, evaluated at the truth",
    "analysis": "analysis at the end of the window",
    "analysis_start": "analysis at the start of the window",
    "background": "background at the end of the window",
    "forecast_rmse": "root-mean-square error over the sites of a forecast from the end of the window",
    "background_std": "standard deviation in B of the slow variables",
    "result": "result code of the minimization",
}


def _dataset(config: CorrectionConfiguration, times: np.ndarray, fields: dict[str, Any]) -> xr.Dataset:
    leads = config.dt * np.asarray(config.forecast_leads)
    coordinates = {
        "time": ("time", times, {"standard_name": "time", "long_name": "end of the window", "units": "1", "axis": "T"}),
        "member": (
            "member", np.arange(config.members),
            {"standard_name": "realization", "long_name": "independent experiment", "units": "1"},
        ),
        "method": ("method", list(METHODS)),
        "lead": ("lead", leads, {"long_name": "time after the end of the window", "units": "1"}),
    }  # fmt: skip
    last = {"forecast_rmse": ("lead",), "background_std": (), "result": ()}
    dataset = xr.Dataset(coords=coordinates)
    for name, values in fields.items():
        array = np.swapaxes(np.asarray(values), 0, 1)
        inner = last.get(name, ("site",))
        method = ("method",) if array.ndim == 3 + len(inner) else ()
        dims = ("time", "member", *method, *inner)
        dataset[name] = (dims, array, {"long_name": _LONG_NAMES[name], "units": "1"})
    return dataset
