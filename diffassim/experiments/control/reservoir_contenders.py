"""Everything that can run the lake: how each is fitted, kept, read again and judged."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.core.pytree import Pytree
from diffassim.decisions import Basin, Lake
from diffassim.experiments.control.reservoir_agents import (
    Averaged,
    pathwise_policy,
    ppo_policies,
    train_pathwise,
    train_ppo,
)
from diffassim.experiments.control.reservoir_outlook import FEATURES, SIGHTS, Outlook
from diffassim.experiments.control.reservoir_planning import LookAhead, plan
from diffassim.experiments.control.reservoir_rules import RuleCurve, fit_rule, simulate
from diffassim.io.lake_years import LakeYears

__all__ = ["AGENTS", "BASELINE", "Contender", "Kept", "contenders", "fitted", "judged", "kept_like", "subset"]

AGENTS = ("rule curve", "plan", "pathwise", "PPO")
GENERATIONS, INFORMED_GENERATIONS = 60, 30  # of the latter begin near a rule
PATHWISE_UPDATES, PPO_UPDATES = 120, 250
LEARNING, BETWEEN = AGENTS[2:], SIGHTS[2]  # what learns for long is spared the forecast of inflow alone
KEPT = np.float32  # of what is fitted; the lake that judges is as precise as the run
PARTS = 40  # of a learning curve


class Contender(NamedTuple):
    """A kind of policy, and what it sees beside level, day and averaged demand."""

    agent: str
    sight: str

    @property
    def name(self) -> str:
        """Both in words."""
        return self.agent if self.sight == SIGHTS[0] else f"{self.agent}, {self.sight}"


BASELINE = Contender("rule curve", SIGHTS[0])


class Kept(Pytree):
    """What is kept of a policy: the laws that make its features, and what decides with them.

    Args:
        outlook: fitted laws.
        policy: observation -> release; of a plan the basin, for it follows from the laws.
    """

    outlook: Outlook
    policy: Any


def contenders(agents: tuple[str, ...], sights: tuple[str, ...]) -> list[Contender]:
    """Return what is compared, the rule of a sight before what begins with it."""
    return [
        Contender(agent, sight)
        for sight in SIGHTS
        for agent in AGENTS
        if sight in sights and agent in agents and not (agent in LEARNING and sight == BETWEEN)
    ]


def subset(record: LakeYears, chosen: np.ndarray) -> LakeYears:
    """Return some years of a record."""
    return LakeYears(record.name, record.years[chosen], record.inflow[chosen], record.demand[chosen])


def _plain_basin(basin: Basin, dtype: Any) -> Basin:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), basin)


def _lake(record: LakeYears, outlook: Outlook, basin: Basin, dtype: Any, chances: Any = None) -> Lake:
    inflow, demand, features = (
        jnp.asarray(values, dtype) for values in (record.inflow, record.demand, outlook.features(record))
    )
    return Lake(inflow, demand, features, None if chances is None else jnp.asarray(chances, dtype), basin)


def fitted(
    contender: Contender, record: LakeYears, basin: Basin, folds: list[np.ndarray], rules: Any, settings: Any
) -> tuple[list[Kept], Any, np.ndarray]:
    """Fit one contender for each list of years that it may look at.

    Args:
        contender: which.
        record: all years.
        basin: the lake.
        folds: for each fit, numbers of the years it is fitted to; the fit sees nothing else.
        rules: numbers of the fitted rules for each fold, to begin with, or None.
        settings: with `seed`, `seeds` and `effort`.

    Returns:
        What is kept of each fit, numbers of the rules (or None), and mean daily rewards while learning, shape
        (fits and seeds, PARTS), NaN where nothing learns.
    """
    basin = _plain_basin(basin, KEPT)
    outlooks = [Outlook.fit(record, chosen, contender.sight, KEPT) for chosen in folds]
    curve = np.full((1, PARTS), np.nan)
    if contender.agent == "plan":
        return [Kept(outlook, basin) for outlook in outlooks], None, curve
    masks = [np.isin(np.arange(len(record.years)), chosen).astype(KEPT) for chosen in folds]
    lakes = [_lake(record, *pair, KEPT, mask) for pair, mask in zip([(o, basin) for o in outlooks], masks, strict=True)]
    blank = partial(_blank_rule, contender.sight, basin, record.inflow.shape[1])
    if contender.agent == "rule curve":
        generations = GENERATIONS if rules is None else INFORMED_GENERATIONS
        generations = max(1, round(generations * settings.effort))
        found = [
            fit_rule(lake, blank(outlook), settings.seed + k, generations, None if rules is None else rules[k])
            for k, (lake, outlook) in enumerate(zip(lakes, outlooks, strict=True))
        ]
        kept = [Kept(outlook, rule) for outlook, rule in zip(outlooks, found, strict=True)]
        return kept, np.stack([np.asarray(rule.numbers) for rule in found]), curve
    key = jax.random.fold_in(
        jax.random.key(settings.seed), 10 * AGENTS.index(contender.agent) + SIGHTS.index(contender.sight)
    )
    keys = jax.random.split(key, (len(folds), settings.seeds))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *lakes)
    begin = [blank(o).replace(numbers=jnp.asarray(n, KEPT)) for o, n in zip(outlooks, rules, strict=True)]
    train, most = (train_pathwise, PATHWISE_UPDATES) if contender.agent == "pathwise" else (train_ppo, PPO_UPDATES)
    updates = max(1, round(most * settings.effort))
    policies, rewards = train(stacked, jax.tree.map(lambda *leaves: jnp.stack(leaves), *begin), keys, updates)
    rows = np.asarray(rewards, float).reshape(-1, rewards.shape[-1])
    parts = np.array_split(rows, min(PARTS, rows.shape[1]), axis=1)
    learned = np.full((len(rows), PARTS), np.nan)
    learned[:, : len(parts)] = np.stack([part.mean(1) for part in parts], 1)
    each = [jax.tree.map(lambda leaf, k=k: leaf[k], policies) for k in range(len(folds))]
    return [Kept(o, Averaged(p)) for o, p in zip(outlooks, each, strict=True)], None, learned


def _blank_rule(sight: str, basin: Basin, days: int, outlook: Outlook) -> RuleCurve:
    informed = sight != SIGHTS[0]
    return RuleCurve(jnp.zeros(10 if informed else 8, KEPT), outlook.first, basin, days, informed)


def kept_like(contender: Contender, basin: Basin, days: int, seeds: int) -> Kept:
    """Return something with the shapes of what `fitted` keeps, for reading."""
    basin, outlook = _plain_basin(basin, KEPT), Outlook.like(days, contender.sight, KEPT)
    if contender.agent == "plan":
        return Kept(outlook, basin)
    rule = _blank_rule(contender.sight, basin, days, outlook)
    if contender.agent == "rule curve":
        return Kept(outlook, rule)
    lake = Lake(
        jnp.ones((2, days), KEPT), jnp.ones((2, days), KEPT), jnp.zeros((2, days, len(FEATURES)), KEPT), basin=basin
    )
    keys = jax.random.split(jax.random.key(0), seeds)
    if contender.agent == "pathwise":
        return Kept(outlook, Averaged(jax.vmap(lambda key: pathwise_policy(lake, rule, key))(keys)))
    return Kept(outlook, Averaged(jax.vmap(lambda key: ppo_policies(lake, rule, key).policy)(keys)))


def judged(kept: Kept, record: LakeYears, basin: Basin, dtype: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return daily rewards, levels and releases of a policy in the lake as it is, each of shape (years, days)."""
    lake = _lake(record, kept.outlook, _plain_basin(basin, dtype), dtype)
    policy = kept.policy
    if isinstance(policy, Basin):
        policy = LookAhead(kept.outlook, plan(kept.outlook, policy, lake.horizon), policy)
    rewards, levels, releases = (np.asarray(values, float) for values in simulate(lake, policy))
    return rewards, levels, releases
