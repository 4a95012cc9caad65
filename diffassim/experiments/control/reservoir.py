"""A regulated lake: a rule curve, plans, gradients through the lake and PPO, cross-validated over blocks of years."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
import xarray as xr
from jax.flatten_util import ravel_pytree
from pydantic import Field, field_validator

from diffassim.core.errors import ConfigurationError
from diffassim.decisions import Lake
from diffassim.experiments.control.reservoir_contenders import (
    AGENTS,
    BASELINE,
    PARTS,
    Contender,
    contenders,
    fitted,
    judged,
    kept_like,
    subset,
)
from diffassim.experiments.control.reservoir_data import read_years
from diffassim.experiments.control.reservoir_outlook import SIGHTS
from diffassim.experiments.control.reservoir_planning import foresight
from diffassim.experiments.control.reservoir_scores import Judged, described, scored
from diffassim.experiments.framework.base import Configuration, Experiment, Results
from diffassim.io.lake_years import LakeYears
from diffassim.plotting.reservoir import overview
from diffassim.training.checkpoint import load_checkpoint

__all__ = ["Reservoir", "ReservoirConfiguration"]

POLICIES = "policies"  # folder of the run that keeps them
FORESIGHT = "perfect foresight"


class ReservoirConfiguration(Configuration):
    """Settings of the comparison.

    Args:
        table: CSV or parquet file with the columns year, day, inflow and demand (m3/s), for Lake Como; default: the
            Fulda, with a reservoir and a demand of their own.
        days: of a year.
        folds: blocks of years, each of which is scored by what was fitted to the others.
        seeds: trainings of every agent that draws numbers; their mean release is what is judged.
        agents: which ones.
        sights: what is seen beside level, day and averaged demand.
        effort: factor of the generations and updates that every agent gets.
    """

    table: Path | None = None
    days: Annotated[int, Field(ge=30, le=366)] = 365
    folds: Annotated[int, Field(ge=2)] = 4
    seeds: Annotated[int, Field(ge=1)] = 2
    agents: tuple[str, ...] = AGENTS
    sights: tuple[str, ...] = SIGHTS
    effort: Annotated[float, Field(gt=0)] = 1.0

    @field_validator("agents", "sights")
    @classmethod
    def _known(cls, chosen: tuple[str, ...], info: Any) -> tuple[str, ...]:
        known, needed = {"agents": (AGENTS, BASELINE.agent), "sights": (SIGHTS, BASELINE.sight)}[info.field_name]
        unknown = [name for name in chosen if name not in known]
        if unknown or len(set(chosen)) < len(chosen):
            raise ValueError(f"found {repr(unknown[0]) if unknown else 'one twice'}; there are {', '.join(known)}")
        if needed not in chosen:
            raise ValueError(f"must include {needed!r}, which all others are compared with")
        return chosen

    def contenders(self) -> list[Contender]:
        """Return what is fitted, in its order."""
        return contenders(self.agents, self.sights)


class Reservoir(Experiment):
    """Run a lake between floods and the demand downstream, for every year of a record.

    Every policy is fitted to all blocks of years but one, with the laws of inflow and demand that make its features,
    and judged in the block left out, by the lake as it is. Last it is fitted to all years and kept, so that
    `diffassim score DIRECTORY --against TABLE` judges it in years of another table. The rule curve of eight numbers is
    what all are compared with, year by year; the best releases for one who knows the year in advance are the bound.
    """

    name = "reservoir"
    summary = "Regulation of a lake: rule curve, plans and learned policies, with and without an assimilated forecast."
    configuration = ReservoirConfiguration
    judges_tables = True

    def chunks(self, config: ReservoirConfiguration) -> int:
        """Return one chunk for the bound, and one for each policy."""
        return 1 + len(config.contenders())

    def stage(self, config: ReservoirConfiguration, index: int) -> str:
        """Return what is fitted."""
        return FORESIGHT if index == 0 else config.contenders()[index - 1].name

    def check(self, config: ReservoirConfiguration) -> str:
        """Return what was understood of settings and table."""
        record, _ = _record(config)
        facts = f"  {len(record.years)} years of {record.name}, {record.years.min()} to {record.years.max()}"
        means = f"  mean inflow {record.inflow.mean():.1f} m3/s, mean demand {record.demand.mean():.1f} m3/s"
        return "\n".join([super().check(config), facts, means])

    def start(self, config: ReservoirConfiguration) -> dict[str, Any]:
        """Read the record; no rule is fitted yet."""
        _record(config)
        return {"rules": {}}

    def advance(
        self, config: ReservoirConfiguration, carry: dict[str, Any], index: int
    ) -> tuple[dict[str, Any], xr.Dataset]:
        """Compute the bound, or fit one policy and judge it in the years that it was not fitted to."""
        record, basin = _record(config)
        every = np.arange(len(record.years))
        if index == 0:
            rewards, levels, releases = _foreseen(config, record, basin)
            curve, kept = np.full((1, PARTS), np.nan), np.zeros(0)
        else:
            contender = config.contenders()[index - 1]
            blocks = np.array_split(every, config.folds)
            chosen = [np.setdiff1d(every, block) for block in blocks] + [every]
            near = carry["rules"].get(contender.sight, carry["rules"].get(BASELINE.sight))
            found, rules, curve = fitted(contender, record, basin, chosen, near, config)
            parts = [judged(own, subset(record, block), basin, config.dtype)
                     for own, block in zip(found, blocks, strict=False)]  # fmt: skip
            rewards, levels, releases = (np.concatenate([part[k] for part in parts]) for k in range(3))
            kept = np.asarray(ravel_pytree(found[-1])[0])
            if rules is not None:
                carry = {"rules": {**carry["rules"], contender.sight: rules}}
        return carry, _dataset(config, record, index, (rewards, levels, releases), curve, kept)

    def finish(self, config: ReservoirConfiguration, dataset: xr.Dataset) -> Results:
        """Return scores, the figure, and the policies that are kept."""
        record, basin = _record(config)
        if list(dataset["year"].values) != list(record.years):
            raise ConfigurationError(f"{record.name}: the table has other years than it had when the run was made")
        names = [FORESIGHT, *(each.name for each in config.contenders())]
        judged_by = {
            name: Judged(*(dataset[k].values[i].astype(float) for k in ("reward", "level", "release")))
            for i, name in enumerate(names)
        }
        scores = scored(judged_by, record, basin)
        curves = {
            name: rows[np.isfinite(rows).any(1)]
            for name, rows in zip(names, dataset["curve"].values, strict=True)
            if np.isfinite(rows).any()
        }
        drawn = overview(record, basin, judged_by, curves, BASELINE.name, FORESIGHT)
        text = described(scores, f"cross-validation over {config.folds} blocks of {len(record.years)} years")
        policies = {}
        for k, each in enumerate(config.contenders()):
            flat, restored = ravel_pytree(kept_like(each, basin, config.days, config.seeds))
            policies[each.name] = restored(jnp.asarray(dataset["parameters"].values[k + 1, : flat.size], flat.dtype))
        lost = sum(int(~np.isfinite(own.total).all()) for own in judged_by.values())
        return Results(scores, {"overview": drawn}, text, len(names) - lost, artifacts={POLICIES: policies})

    def against(self, config: ReservoirConfiguration, path: Path, table: Path) -> tuple[pd.DataFrame, str]:
        """Judge the kept policies in the years of another table.

        Raises:
            ConfigurationError: if the policies were made for another lake.
            DataError: if a file of the policies was altered, or the table cannot be used.
        """
        if config.table is None:
            raise ConfigurationError(
                f"{path}: its policies were trained for the reservoir of the default data, not for the lake of a "
                f"table; train for that: diffassim run {self.name} --set table=TABLE"
            )
        record, basin = read_years(table, config.days)
        like = {each.name: kept_like(each, basin, config.days, config.seeds) for each in config.contenders()}
        policies = load_checkpoint(path / POLICIES, like)
        found = {FORESIGHT: Judged(*_foreseen(config, record, basin))}
        for each in config.contenders():
            found[each.name] = Judged(*judged(policies[each.name], record, basin, config.dtype))
        scores = scored(found, record, basin)
        return scores, described(scores, f"{len(record.years)} years of {record.name}")


def _record(config: ReservoirConfiguration) -> tuple[LakeYears, Any]:
    record, basin = read_years(config.table, config.days)
    if len(record.years) < 2 * config.folds:
        raise ConfigurationError(
            f"reservoir: folds: {config.folds} blocks of {len(record.years)} years; two years in a block are the least"
        )
    return record, basin


def _foreseen(config: ReservoirConfiguration, record: LakeYears, basin: Any) -> tuple[Any, Any, Any]:
    lake = Lake(jnp.asarray(record.inflow, config.dtype), jnp.asarray(record.demand, config.dtype), basin=basin)
    rewards, levels, releases = (np.asarray(values, float) for values in foresight(lake))
    return rewards, levels, releases


def _curves(config: ReservoirConfiguration) -> int:
    """Return how many trainings an agent that draws numbers has."""
    return (config.folds + 1) * config.seeds


def _most(config: ReservoirConfiguration) -> int:
    """Return more numbers than what is kept of any policy has."""
    return 64 * config.days + 4000 * config.seeds


def _dataset(
    config: ReservoirConfiguration, record: LakeYears, index: int, daily: tuple[Any, ...], curve: Any, kept: Any
) -> xr.Dataset:  # fmt: skip
    """Return a chunk's output: what happened in the lake, how it was learned, and what is kept."""
    parameters = np.full(_most(config), np.nan, np.float32)
    parameters[: kept.size] = kept
    learned = np.full((_curves(config), PARTS), np.nan)
    learned[: len(curve)] = curve
    rewards, levels, releases = daily
    series = {"level": (levels, "m"), "release": (releases, "m3 s-1"), "reward": (rewards, "1")}
    return xr.Dataset(
        {
            **{k: (("time", "year", "day"), v[None].astype(np.float32), {"units": u}) for k, (v, u) in series.items()},
            "total": (("time", "year"), rewards.sum(1)[None], {"units": "1", "long_name": "return of a year"}),
            "curve": (("time", "training", "part"), learned[None], {"long_name": "mean reward while learning"}),
            "parameters": (("time", "parameter"), parameters[None], {"long_name": "what is kept of a policy"}),
        },
        {"time": [float(index)], "year": record.years, "day": np.arange(1, config.days + 1)},
    )  # fmt: skip
