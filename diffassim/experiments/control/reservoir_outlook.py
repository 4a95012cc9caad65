"""What a morning tells of the day and the week: inflow and demand as seasonal laws, given what has been seen."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.core.pytree import Pytree, static
from diffassim.decisions.problems.lake import MEMORY
from diffassim.experiments.control.reservoir_filter import Components, analyses
from diffassim.io.lake_years import LakeYears

__all__ = ["FEATURES", "SIGHTS", "Law", "Outlook"]

# What is seen beside level, day and averaged demand
SIGHTS = ("nothing", "inflow", "forecast", "belief")
FEATURES = ("inflow anomaly", "its spread", "demand anomaly", "days 2 to 4", "days 5 to 11", "inflow", "demand")
INFLOW_NODES, DEMAND_NODES = 61, 7  # equally likely errors
SMALL = (0.06, 0.01)  # parts of the means that are added to inflow and demand before their logarithm
RIDGE = 1e-4  # a part of the number of days
VARIANCE_FLOOR = 0.02  # of a squared error, in whose logarithm the spread is fitted
LIMITS = (-2.5, 3.0)  # of the anomaly with which the spread changes


class Law(Pytree):
    r"""Inflow x and demand z of a day as anomalies of their logarithms, given predictors p of the morning.

    .. math:: x = \mu + \sigma e,\quad \mu = b_t^\top (1, p),\quad \log \sigma = s_t + g_1 \mu + g_2 \mu^2,\quad
        z = c_t^\top (1, p) + k_t x + v_t \varepsilon

    The coefficients have a season; the errors e and \(\varepsilon\) are equally likely values of their own past.

    Args:
        inflow: b, shape (days, 1 + predictors).
        spread: s, shape (days,).
        growth: g, shape (2,).
        errors: e, shape (INFLOW_NODES,).
        demand: c, shape (days, 1 + predictors); of a plan, only demand is one.
        slope: k, shape (days,).
        demand_spread: v, shape (days,).
        demand_errors: shape (DEMAND_NODES,).
    """

    inflow: Any
    spread: Any
    growth: Any
    errors: Any
    demand: Any
    slope: Any
    demand_spread: Any
    demand_errors: Any

    def log_sigma(self, day: Any, mean: Any) -> Any:
        """Return the logarithm of the spread of inflow where its mean is known; arguments broadcast."""
        m = mean.clip(*LIMITS)
        return self.spread[day] + self.growth[0] * m + self.growth[1] * m * m


class Moments(NamedTuple):
    """Season of the logarithms, and small numbers added before them."""

    center: np.ndarray
    scale: np.ndarray
    demand_center: np.ndarray
    small: tuple[float, float]
    first: float


class Outlook(Pytree):
    """Fitted laws of inflow and demand, for acting with all that is seen and for planning with what a plan can carry.

    Args:
        center: of the logarithm of inflow, shape (days,).
        scale: of its anomalies, shape (days,).
        demand_center: of the logarithm of demand, shape (days,).
        small: what is added to inflow and to demand before the logarithm, m3/s, shape (2,).
        first: demand of a first day in the mean, from which averages start, m3/s.
        typical: mean inflow, m3/s.
        width: standard deviation of the anomalies of averaged demand.
        components: of inflow, for the filter.
        acting: `Law` given the sight's predictors.
        planning: `Law` given the state of a plan.
        later: coefficients of the mean anomaly of days 2 to 4 and 5 to 11, shape (2, days, 1 + predictors).
        sight: one of SIGHTS (static).
    """

    center: Any
    scale: Any
    demand_center: Any
    small: Any
    first: Any
    typical: Any
    width: Any
    components: Components
    acting: Law
    planning: Law
    later: Any
    sight: str = static(default="belief")

    @property
    def knows_inflow(self) -> bool:
        """Whether yesterday's inflow is seen."""
        return self.sight != "nothing"

    @property
    def remembers(self) -> bool:
        """Whether yesterday's demand is told from two averages in turn."""
        return self.sight == "belief"

    @classmethod
    def fit(cls, record: LakeYears, chosen: np.ndarray, sight: str, dtype: Any = np.float32) -> Outlook:
        """Fit all laws to some years.

        Args:
            record: all years.
            chosen: numbers of those that may be looked at.
            sight: one of SIGHTS.
            dtype: of the result.
        """
        inflow, demand = record.inflow[chosen], record.demand[chosen]
        moments = _moments(inflow, demand)
        x, z = _anomalies(moments, inflow, demand)
        components = Components.fit(x)
        seen = _predictors(moments, components, inflow, demand, sight)
        state = _plan_state(moments, x, z, demand, sight)
        later = np.stack([_seasonal(_mean_ahead(x, *span), seen, span[1])[0] for span in ((1, 3), (4, 10))])
        width = max(float(state[..., -1].std()), 0.05)
        found = cls(
            moments.center, moments.scale, moments.demand_center, np.asarray(moments.small), moments.first,
            float(inflow.mean()), width, components, _law(x, z, seen, seen), _law(x, z, state, state[..., -1:]), later,
            sight,
        )  # fmt: skip
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), found)

    @classmethod
    def like(cls, days: int, sight: str, dtype: Any = np.float32) -> Outlook:
        """Return one whose leaves have the shapes of a fitted one, for reading."""
        rng = np.random.default_rng(0)
        record = LakeYears("", np.arange(2), *np.exp(rng.standard_normal((2, 2, days))))
        return cls.fit(record, np.arange(2), sight, dtype)

    def features(self, record: LakeYears) -> np.ndarray:
        """Return what is told of each day in its morning, see FEATURES; shape (years, days, 7)."""
        own = jax.tree.map(lambda leaf: np.asarray(leaf, float), self)
        moments = Moments(own.center, own.scale, own.demand_center, tuple(own.small), float(own.first))
        seen = _predictors(moments, own.components, record.inflow, record.demand, self.sight)
        full = np.concatenate([np.ones_like(seen[..., :1]), seen], -1)
        mean, told = ((full * law).sum(-1) for law in (own.acting.inflow, own.acting.demand))
        spread = np.exp(own.acting.log_sigma(np.arange(mean.shape[1]), mean))
        inflow = np.maximum(np.exp(own.center + own.scale * mean) - own.small[0], 0)
        expected = np.maximum(np.exp(own.demand_center + told + own.acting.slope * mean) - own.small[1], 0)
        later = [(full * coefficients).sum(-1) for coefficients in own.later]
        return np.stack([mean, spread, told, *later, inflow, expected], -1)


def averaged(demand: np.ndarray, first: float) -> np.ndarray:
    """Return the exponential average of the demands before each day, begun with `first`, shape (years, days)."""
    found, now = np.empty_like(demand), np.full(len(demand), first)
    for day in range(demand.shape[1]):
        found[:, day] = now
        now = MEMORY * now + (1 - MEMORY) * demand[:, day]
    return found


def _waves(days: int, order: int) -> np.ndarray:
    """Return harmonics of the year, shape (1 + 2 order, days)."""
    angle = 2 * np.pi * np.arange(days) / days
    rows = [wave(k * angle) for k in range(1, order + 1) for wave in (np.cos, np.sin)]
    return np.stack([np.ones(days), *rows])


def _smooth(values: np.ndarray, order: int) -> np.ndarray:
    waves = _waves(len(values), order)
    return np.linalg.lstsq(waves.T, values, rcond=None)[0] @ waves


def _moments(inflow: np.ndarray, demand: np.ndarray) -> Moments:
    small = (SMALL[0] * inflow.mean() + 1e-6, SMALL[1] * demand.mean() + 1e-6)
    logarithm = np.log(inflow + small[0])
    center = _smooth(logarithm.mean(0), 3)
    scale = np.sqrt(np.maximum(_smooth(((logarithm - center) ** 2).mean(0), 2), 0.01))
    first = max(float(_smooth(demand.mean(0), 3)[0]), 0.0)
    return Moments(center, scale, _smooth(np.log(demand + small[1]).mean(0), 3), small, first)


def _anomalies(moments: Moments, inflow: np.ndarray, demand: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x = (np.log(inflow + moments.small[0]) - moments.center) / moments.scale
    return x, np.log(demand + moments.small[1]) - moments.demand_center


def _before(values: np.ndarray, days: int = 1) -> np.ndarray:
    """Return what was so many days before, 0 where that is not known."""
    return np.concatenate([np.zeros((len(values), days)), values[:, :-days]], axis=1)


def _average_anomaly(moments: Moments, demand: np.ndarray) -> np.ndarray:
    return np.log(averaged(demand, moments.first) + moments.small[1]) - moments.demand_center


def _predictors(
    moments: Moments, components: Any, inflow: np.ndarray, demand: np.ndarray, sight: str
) -> np.ndarray:  # fmt: skip
    """Return what a morning tells, shape (years, days, predictors)."""
    x, z = _anomalies(moments, inflow, demand)
    average = _average_anomaly(moments, demand)
    if sight == "nothing":
        return average[..., None]
    if sight == "inflow":
        return np.stack([_before(x), average], -1)
    filtered = np.moveaxis(analyses(components, x), -1, 0)  # of the evening
    parts = [*map(_before, filtered), average]
    return np.stack([*parts, _before(z), _before(z, 2)] if sight == "belief" else parts, -1)


def _plan_state(moments: Moments, x: np.ndarray, z: np.ndarray, demand: np.ndarray, sight: str) -> np.ndarray:
    """Return the part of a plan's state that is not the level: inflow, if it is seen, and demand."""
    last = _before(z) if sight == "belief" else _average_anomaly(moments, demand)
    return last[..., None] if sight == "nothing" else np.stack([_before(x), last], -1)


def _mean_ahead(x: np.ndarray, first: int, last: int) -> np.ndarray:
    """Return the mean over the days `first` to `last` after each day; the last days of the year miss some."""
    return np.mean([np.concatenate([x[:, k:], np.zeros((len(x), k))], 1) for k in range(first, last + 1)], axis=0)


def _seasonal(target: np.ndarray, predictors: np.ndarray, ahead: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return coefficients with one harmonic of the year, shape (days, 1 + predictors), and errors.

    The first day, of which nothing is known, and the last ones, whose future is not in the table, do not count.
    """
    years, days = target.shape
    full = np.concatenate([np.ones((years, days, 1)), predictors], -1)
    waves = _waves(days, 1)
    design = np.einsum("ytp,wt->ytpw", full, waves).reshape(years, days, -1)
    used = design[:, 1 : days - ahead].reshape(-1, design.shape[-1])
    penalty = np.full(design.shape[-1], RIDGE * len(used))
    found = np.linalg.solve(
        used.T @ used + np.diag(penalty), used.T @ target[:, 1 : days - ahead].ravel()
    )  # fmt: skip
    return np.einsum("pw,wt->tp", found.reshape(full.shape[-1], -1), waves), target - design @ found


def _quantiles(errors: np.ndarray, count: int) -> np.ndarray:
    """Return means of equally many errors in their order, with the spread of them all."""
    parts = np.array([part.mean() for part in np.array_split(np.sort(errors.ravel()), count)])
    size = np.sqrt((parts**2).mean())
    return parts * (np.sqrt((errors**2).mean()) / size) if size > 0 else parts


def _law(x: np.ndarray, z: np.ndarray, predictors: np.ndarray, of_demand: np.ndarray) -> Law:
    years, days = x.shape
    inflow, errors = _seasonal(x, predictors)
    mean = np.clip(x - errors, *LIMITS)
    waves = np.broadcast_to(_waves(days, 2), (years, 5, days))
    design = np.concatenate([np.moveaxis(waves, 1, -1), np.stack([mean, mean**2], -1)], -1)
    target = 0.5 * np.log(errors[:, 1:] ** 2 + VARIANCE_FLOOR)
    found = np.linalg.lstsq(design[:, 1:].reshape(-1, 7), target.ravel(), rcond=None)[0]
    normal = (errors / np.exp(design @ found))[:, 1:]
    size = max(float(np.sqrt((normal**2).mean())), 1e-6)
    waves_two = _waves(days, 2)
    # demand with the day's inflow as one more predictor, which comes last
    demand, rest = _seasonal(z, np.concatenate([of_demand, x[..., None]], -1))
    spread = np.exp(0.5 * _smooth(np.log((rest[:, [1, *range(1, days)]] ** 2).mean(0) + 1e-6), 2))
    return Law(
        inflow, found[:5] @ waves_two + np.log(size), found[5:], _quantiles(normal / size, INFLOW_NODES),
        demand[:, :-1], demand[:, -1], spread, _quantiles(rest[:, 1:] / spread[1:], DEMAND_NODES),
    )  # fmt: skip
