"""What the methods on the sphere learn from an independent run: radius, inflation, background covariance, its size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.core.errors import ConfigurationError
from diffassim.covariances import ZonallyHomogeneous
from diffassim.diagnostics import normal_crps
from diffassim.experiments.applications.globe_methods import (
    ENSEMBLES,
    VARIATIONAL,
    ensemble_day,
    global_filter,
    local_filter,
    truth_rows,
    variational_day,
)
from diffassim.experiments.applications.globe_setting import (
    DAY,
    FIELDS,
    WINDOW,
    GlobeSetting,
    Network,
    RelaxedModel,
    area_weights,
    axes_of,
    observe_day,
)
from diffassim.models.spherical_shallow_water import ShallowWaterState

__all__ = ["CANDIDATES", "FIRST", "Training", "learn_candidate", "pack", "plain", "state_of", "unpack"]

# What is tried, one after the other, each with the best of what came before.
CANDIDATES: tuple[tuple[str, float], ...] = (
    ("radius", 700.0), ("radius", 1000.0), ("radius", 1400.0),  # km
    ("alpha", 0.2), ("alpha", 0.6),
    ("global alpha", 0.6), ("global alpha", 0.9),
    ("3D-Var", 1.0), ("3D-Var", 0.3), ("3D-Var", 3.0),
    ("4D-Var", 1.0), ("4D-Var", 0.3), ("4D-Var", 3.0),
)  # fmt: skip
FIRST = {"radius": 1000.0, "alpha": 0.4, "global alpha": 0.6, "3D-Var": 1.0, "4D-Var": 1.0}
FAMILIES = ({"radius", "alpha"}, {"global alpha"}, {"3D-Var"}, {"4D-Var"})
RUN = 0  # number of the truth for training


class Training(NamedTuple):
    """The independent run.

    Args:
        setting: of the experiment.
        model: the model.
        network: who observes.
        days: that are assimilated; the first half is spin-up.
        truth: its first state.
        ensemble: first members.
        mean: of the climate.
        climate: covariance of the climate.
    """

    setting: GlobeSetting
    model: RelaxedModel
    network: Network
    days: int
    truth: ShallowWaterState
    ensemble: ShallowWaterState
    mean: ShallowWaterState
    climate: ZonallyHomogeneous

    def records(self) -> Iterator[tuple[bool, Any, Any]]:
        """Yield for each day whether it counts, its observations, and the truth at the end of its windows."""
        x = self.truth
        for day in range(self.days):
            rows = truth_rows(self.model, x, DAY)
            x = jax.tree.map(lambda leaf: leaf[-1], rows)
            ends = jax.tree.map(lambda leaf: np.asarray(leaf[WINDOW::WINDOW]), rows)
            yield day >= self.days // 2, observe_day(self.setting, self.network, rows, RUN, day), ends


def learn_candidate(training: Training, carry: dict[str, Any], index: int) -> dict[str, Any]:
    """Try one candidate, and keep it if it is the best of its kind.

    Filters are compared by the continuous ranked probability score of analyses, variational methods by their error,
    each as a share of the climate's standard deviation.

    Args:
        training: the independent run.
        carry: 'chosen' (values so far), 'tried' (scores by name), 'intervals' (half widths of 90 % intervals, in
            spreads, by filter and field) and 'covariance' (both once a filter has run).
        index: of the candidate.

    Returns:
        These, updated.

    Raises:
        ConfigurationError: if there is no covariance, because no local filter has kept track of the truth.
    """
    kind, value = CANDIDATES[index]
    known = {name: float(number) for name, number in carry["chosen"].items()}
    chosen, intervals, kept = {**FIRST, **known}, dict(carry["intervals"]), dict(carry["covariance"])
    family = next(names for names in FAMILIES if kind in names)  # what is one choice, in several steps
    rivals = [float(score) for name, score in carry["tried"].items() if name.rsplit(" ", 1)[0] in family]
    settings = {**chosen, kind: value}
    if kind in VARIATIONAL:
        if not kept:
            raise ConfigurationError(
                "globe: no local filter has kept track of the run for training, so that there is no background "
                "covariance; give more members, or more or better observations"
            )
        score, found = _variational_score(training, kind, value * unpack(kept)), None
    else:
        local = kind in FAMILIES[0]
        method = (
            local_filter(axes_of(training.setting)[0], settings["radius"], settings["alpha"]) if local
            else global_filter(value)
        )  # fmt: skip
        found = _filter_scores(training, method)
        score = found.score
    if np.isfinite(score) and score < min(rivals, default=np.inf):
        chosen[kind] = value
        if found is not None:
            intervals[ENSEMBLES[1] if kind in FAMILIES[0] else ENSEMBLES[0]] = np.asarray(found.interval)
            kept = pack(found.covariance) if kind in FAMILIES[0] else kept
    return {
        "tried": {**carry["tried"], f"{kind} {value:g}": np.asarray(score)},
        "chosen": {name: np.asarray(number) for name, number in chosen.items()},
        "intervals": intervals, "covariance": kept,
    }  # fmt: skip


class _Filtered(NamedTuple):
    """What a filter makes of the run: score, half widths of 90 % intervals by field, covariance of its forecasts."""

    score: float
    interval: np.ndarray
    covariance: Any


def _filter_scores(training: Training, method: Any) -> _Filtered:
    """Return the scores of a filter; NaN and no covariance, if it has lost the truth to numbers that are not finite."""
    ensemble, scores, samples = training.ensemble, [], []
    ratios: dict[str, list[np.ndarray]] = {name: [] for name in FIELDS}
    weights: list[np.ndarray] = []
    widen = float(np.sqrt(1 + 1 / training.setting.members))
    for counts, observations, truth in training.records():
        day, members = ensemble_day(method, training.model, ensemble, observations)
        ensemble = day.belief
        if not np.isfinite(np.asarray(ensemble.height)).all():
            return _Filtered(float("nan"), np.full(len(FIELDS), np.nan), None)
        if not counts:
            continue
        for name in FIELDS:
            error = np.asarray(getattr(day.analysis, name)) - getattr(truth, name)
            spread = np.asarray(getattr(day.spread, name))
            score = normal_crps(jnp.asarray(error), jnp.asarray(widen * spread), 0.0)
            scores.append(_over_deviation(training, name, np.asarray(score)))
            ratios[name].append((np.abs(error) / np.maximum(spread, 1e-12)).ravel())
        weights.append(np.broadcast_to(area_weights(*error.shape[-2:]), error.shape).ravel())
        samples.append(jax.tree.map(lambda leaf: np.asarray(leaf - jnp.mean(leaf, axis=1, keepdims=True)), members))
    # Departures from the mean of N members have a variance that is smaller by (N - 1) / N.
    root = float(np.sqrt(training.setting.members / (training.setting.members - 1)))
    joined = jax.tree.map(
        lambda *parts: jnp.asarray(root * np.concatenate([part.reshape(-1, *part.shape[2:]) for part in parts])),
        *samples,
    )
    area = np.concatenate(weights)
    interval = np.array([
        np.quantile(np.concatenate(ratios[name]), 0.9, weights=area, method="inverted_cdf") for name in FIELDS
    ])  # fmt: skip
    return _Filtered(float(np.mean(scores)), interval, ZonallyHomogeneous.from_samples(joined))


def _variational_score(training: Training, kind: str, B: Any) -> float:
    """Return the mean error of a variational method, as a share of the climate's standard deviation."""
    x, scores = training.mean, []
    for number, (counts, observations, truth) in enumerate(training.records()):
        used = B if number else 1.0 * training.climate  # on the first day the background is the climate's
        day = variational_day(VARIATIONAL[kind], used, training.model, x, observations)
        x = day.belief
        if counts:
            squares = {
                name: np.square(np.asarray(getattr(day.analysis, name)) - getattr(truth, name)) for name in FIELDS
            }
            scores.append(np.mean([np.sqrt(_over_deviation(training, n, part, 2)) for n, part in squares.items()]))
    return float(np.mean(scores))


def _over_deviation(training: Training, name: str, values: np.ndarray, power: int = 1) -> float:
    """Return the mean over windows and sphere, divided by a power of the climate's standard deviation of a field."""
    weights = area_weights(*values.shape[-2:])
    variance = np.sum(weights * values.shape[-1] * np.square(np.asarray(getattr(training.climate.scale, name))))
    return float(np.sum(weights * values, axis=(-2, -1)).mean() / np.sqrt(variance) ** power)


def plain(x: ShallowWaterState) -> dict[str, np.ndarray]:
    """Return a state as a dictionary of arrays, which a checkpoint can hold."""
    return {name: np.asarray(getattr(x, name)) for name in FIELDS}


def state_of(arrays: dict[str, Any]) -> ShallowWaterState:
    """Return the state that `plain` has written."""
    return ShallowWaterState(*(jnp.asarray(arrays[name]) for name in FIELDS))


def pack(B: ZonallyHomogeneous) -> dict[str, Any]:
    """Return a covariance as a dictionary of arrays."""
    return {"roots": np.asarray(B.roots), "scale": plain(B.scale), "longitudes": np.asarray(B.longitudes)}


def unpack(arrays: dict[str, Any]) -> ZonallyHomogeneous:
    """Return the covariance that `pack` has written."""
    return ZonallyHomogeneous(jnp.asarray(arrays["roots"]), state_of(arrays["scale"]), int(arrays["longitudes"]))
