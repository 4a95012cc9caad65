"""Flood warnings at several leads: learned policies beside the optimum of a twin, and on a real record beside rules."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import xarray as xr

from diffassim.decisions.problems import FloodWarning, RecordedWarning
from diffassim.experiments.control.flood_warning_agents import AGENTS, trained
from diffassim.experiments.control.flood_warning_record import (
    RAIN,
    SOURCES,
    calibration_days,
    flood_threshold,
    require_floods,
    verification_days,
)
from diffassim.experiments.control.flood_warning_rules import RULES, learned, warned
from diffassim.experiments.control.flood_warning_scores import record_scores, record_table, twin_scores, twin_table
from diffassim.experiments.control.flood_warning_settings import FloodWarningConfiguration
from diffassim.experiments.control.flood_warning_twin import (
    CostLoss,
    best_threshold,
    expected_cost,
    optimum,
    warning_environment,
)
from diffassim.experiments.framework.base import Results, Stage, StagedExperiment
from diffassim.experiments.framework.twin import random_stream
from diffassim.experiments.rivers.calibration_stages import calibration_stages
from diffassim.experiments.rivers.discharge_record import record_of
from diffassim.plotting.flood_warning import overview

__all__ = ["FloodWarnings"]

TWIN_RULES = ("threshold", "cost-loss", "never", "always")


class FloodWarnings(StagedExperiment):
    """Learn when to warn of a flood, keep the warning and withdraw it, from the longest lead to the shortest.

    In the twin level and rain forecast of a small river are assimilated by a Kalman filter that knows its errors, so
    that dynamic programming on the forecast, the lead and the standing warning is exact. Agents learn from outcomes
    alone and are judged without noise. On the record all rules and policies learn from forecasts of the calibration
    years, each made by a model that was fitted to the others, and are judged by what their warnings would have cost in
    the verification years. Observed precipitation and temperature drive the forecasts, as in `fulda`.
    """

    name = "flood-warning"
    summary = "Flood warnings at several leads: learned policies beside the optimum of a twin, and on a real river."
    configuration = FloodWarningConfiguration

    def stages(self, config: FloodWarningConfiguration) -> tuple[Stage, ...]:
        """Return the stages: trainings in the twin, the calibration of the catchment, the verification."""
        record = (*calibration_stages(config),) if "record" in config.parts else ()
        training = Stage("training in the twin", len(config.runs()), _train)
        return (training, *record, Stage("warning", 1, _warn))

    def start(self, config: FloodWarningConfiguration) -> dict[str, Any]:
        """Make sure that the record can be used, and find the optimum of the twin."""
        if "record" in config.parts:
            record = record_of(config)
            require_floods(record, flood_threshold(record, config.flood_quantile, config.flood_thresholds))
        if "twin" not in config.parts:
            return {}
        found: dict[str, Any] = {"optimum": [], "actions": [], **{rule: [] for rule in TWIN_RULES}}
        for miss in config.misses:
            environment = _twin(config, miss)
            cost, actions = optimum(environment)
            found["optimum"].append(cost)
            found["actions"].append(actions)
            found["threshold"].append(expected_cost(environment, best_threshold(environment)))
            found["cost-loss"].append(expected_cost(environment, CostLoss(environment)))
            floods = (1 - config.flood_quantile) * len(config.leads)
            found["never"].append(floods * miss)
            found["always"].append((len(config.leads) - floods) * config.false_alarm)
        return {"twin": {name: np.asarray(jnp.stack(jnp.asarray(rows))) for name, rows in found.items()}, "found": {}}

    def check(self, config: FloodWarningConfiguration) -> str:
        """Return what was understood of settings and data."""
        text = super().check(config)
        if "record" not in config.parts:
            return text
        record = record_of(config)
        threshold = flood_threshold(record, config.flood_quantile, config.flood_thresholds)
        learning, judging = require_floods(record, threshold)
        days = f"floods above {threshold:g} m3/s: {learning} days of the calibration, {judging} of the verification"
        return f"{text}\n{record.source.describe()}\n{days}"

    def finish(self, config: FloodWarningConfiguration, dataset: xr.Dataset) -> Results:
        """Return costs, contingency tables and values, with paired intervals."""
        scores, tables = [], []
        if "twin" in config.parts:
            scores.append(twin_scores(config, dataset))
            tables.append(twin_table(config, dataset))
        if "record" in config.parts:
            found = record_scores(config, dataset)
            scores.append(found)
            tables.append(record_table(config, dataset, found))
        drawn = overview(config, dataset, scores)
        return Results(pd.concat(scores, ignore_index=True), {"overview": drawn}, "\n\n".join(tables))


def _twin(config: FloodWarningConfiguration, miss: float) -> FloodWarning:
    costs = config.costs(miss).replace(shares=True)
    return warning_environment(config.leads, config.flood_quantile, costs, np.dtype(config.dtype))


def _train(config: FloodWarningConfiguration, carry: dict[str, Any], index: int) -> tuple[dict[str, Any], xr.Dataset]:
    """Train an agent with some seeds, for all costs at once, and judge its policies."""
    name, first, count = config.runs()[index]
    each = [_twin(config, miss) for miss in config.misses] * count
    environments = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *each)
    streams = [random_stream(config.seed, list(AGENTS).index(name), first + k) for k in range(count)]
    keys = jnp.concatenate([jax.random.split(stream, len(config.misses)) for stream in streams])
    updates = max(1, round(AGENTS[name].updates * config.effort))
    policies, rewards = trained(name, environments, keys, updates)
    costs = np.asarray(_judged(environments, policies)).reshape(count, -1)
    sound = np.isfinite(np.asarray(rewards)).all(axis=1).reshape(count, -1)
    found = {f"{index:03d}": np.where(sound, costs, np.nan)}
    return carry | {"found": carry["found"] | found}, xr.Dataset()


@jax.jit
def _judged(environments: Any, policies: Any) -> Any:
    return jax.lax.map(lambda pair: expected_cost(*pair), (environments, policies))


def _warn(config: FloodWarningConfiguration, carry: dict[str, Any], _: int) -> tuple[dict[str, Any], xr.Dataset]:
    """Learn and warn on the record, and write everything."""
    dataset = xr.Dataset(coords={"time": [0.0], "miss": list(config.misses), "lead": list(config.leads)})
    if "record" in config.parts:
        dataset = _warned(config, carry)
    if "twin" in config.parts:
        rows = [carry["found"][name] for name in sorted(carry["found"])]
        parts = [np.concatenate([r for r, run in zip(rows, config.runs(), strict=True) if run[0] == name])
                 for name in config.agents]  # fmt: skip
        dataset["twin_cost"] = (
            ("agent", "training_seed", "miss"), np.stack(parts), {"long_name": "expected cost of a day"},
        )  # fmt: skip
        dataset = dataset.assign_coords(agent=list(config.agents), twin_rule=["optimum", *TWIN_RULES])
        rules = np.stack([carry["twin"][rule] for rule in ("optimum", *TWIN_RULES)])
        dataset["twin_reference"] = (("twin_rule", "miss"), rules, {"long_name": "expected cost of a day"})
    return carry, dataset


def _warned(config: FloodWarningConfiguration, carry: dict[str, Any]) -> xr.Dataset:
    record = record_of(config)
    threshold = flood_threshold(record, config.flood_quantile, config.flood_thresholds)
    known, slopes = calibration_days(config, record, carry, threshold)
    later = verification_days(config, record, carry, slopes, threshold)
    given = []
    for miss in config.misses:
        costs = config.costs(miss)
        rules = learned(known, costs)
        days = RecordedWarning(costs, later.known, later.flood)
        given.append(np.stack([np.asarray(warned(days, rules[name])) for name in RULES]))
    m3 = record.table.cubic_meters_per_second(record.discharge[later.days])
    return xr.Dataset(
        {
            "warning": (
                ("miss", "rule", "time", "lead"), np.stack(given).astype(np.int8), {"long_name": "warning stands"},
            ),
            "flood": ("time", later.flood.astype(np.int8), {"long_name": "discharge above the threshold"}),
            "discharge": ("time", m3, {"units": "m3 s-1", "long_name": "observed discharge"}),
            "known": (
                ("time", "lead", "number"), later.known, {"long_name": "logarithm of level / threshold, of 1 + rain"},
            ),
            "threshold": ((), threshold, {"units": "m3 s-1", "long_name": "flood threshold"}),
            "learned_floods": ((), int(known.flood.sum()), {"long_name": "days of flood that were learned from"}),
            "learned_days": ((), len(known.flood), {"long_name": "days that were learned from"}),
        },
        {
            "time": record.table.dates[later.days], "miss": list(config.misses), "rule": list(RULES),
            "lead": list(config.leads), "number": [*SOURCES, *RAIN],
        },
    )  # fmt: skip
