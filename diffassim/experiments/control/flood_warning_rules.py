"""Rules and policies that learn from calibration years when to warn, and what their warnings cost."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from diffassim.core.errors import ConfigurationError
from diffassim.core.pytree import Pytree, static
from diffassim.decisions.grid import nearest_node
from diffassim.decisions.problems import FloodWarning, RecordedWarning, WarningCosts
from diffassim.experiments.control.flood_warning_record import SOURCES, Known
from diffassim.experiments.control.flood_warning_twin import axes_of, optimum

__all__ = ["RULES", "Always", "LevelRule", "Planned", "Probable", "costs_by_lead", "learned", "warned"]

SHARPNESS, WEIGHT = 0.8, 1.0  # prior mean of a probit's slopes by the logarithms of the levels, and their precision
TRIED = 200  # thresholds of a lead that are compared
SWEEPS = 6  # over the leads
LEAST = 0.1  # sum of the slopes by levels, where they say nothing
RULES = (
    "never", "always", *(f"threshold on {source}" for source in SOURCES), "probability", "planned",
)  # fmt: skip


class Always(Pytree):
    """Warn always, or never.

    Args:
        action: 1 or 0.
    """

    action: Any

    def __call__(self, observation: Any, key: Any = None) -> Any:
        """Return the action."""
        return self.action


class LevelRule(Pytree):
    """Warn where one of the numbers that are known exceeds a threshold.

    Args:
        thresholds: one for each lead, shape (leads,).
        component: which number (static).
    """

    thresholds: Float[Array, " leads"]
    component: int = static()

    def __call__(self, observation: Any, key: Any = None) -> Any:
        """Return 0 or 1."""
        lead = observation[-2].astype(jnp.int32)
        return (observation[self.component] > self.thresholds[lead]).astype(jnp.int32)


class Probable(Pytree):
    r"""Warn where the probability of a flood, \(\Phi(\beta_l \cdot x + \alpha_l)\), exceeds F / (F + M).

    Args:
        slope: beta, of the numbers that are known, shape (leads, numbers).
        offset: alpha, shape (leads,).
        costs: `WarningCosts`, over the leads.
    """

    slope: Float[Array, "leads numbers"]
    offset: Float[Array, " leads"]
    costs: WarningCosts

    def __call__(self, observation: Any, key: Any = None) -> Any:
        """Return 0 or 1."""
        lead = observation[-2].astype(jnp.int32)
        p = norm.cdf(self.slope[lead] @ observation[:-2] + self.offset[lead])
        miss, false_alarm = self.costs.miss[lead], self.costs.false_alarm[lead]
        return (p * (miss + false_alarm) > false_alarm).astype(jnp.int32)


class Planned(Pytree):
    r"""Warn as dynamic programming does where forecasts are as uncertain as the probit says.

    With \(1 / s_l\) the sum of the slopes by levels, \(s_l (\beta_l \cdot x + \alpha_l)\) is a forecast of the
    logarithm of the level with the error s_l, and `FloodWarning` has all that is needed: when to warn, when to keep a
    warning, and when to withdraw it.

    Args:
        environment: the `FloodWarning` of the probit, whose threshold is 0.
        slope: beta, shape (leads, numbers).
        offset: alpha, shape (leads,).
        actions: best ones, shape (forecasts, leads, 2).
    """

    environment: FloodWarning
    slope: Float[Array, "leads numbers"]
    offset: Float[Array, " leads"]
    actions: Any

    def __call__(self, observation: Any, key: Any = None) -> Any:
        """Return 0 or 1."""
        lead = observation[-2].astype(jnp.int32)
        forecast = (self.slope[lead] @ observation[:-2] + self.offset[lead]) * self.environment.spreads[lead]
        node = nearest_node(axes_of(self.environment), jnp.stack([forecast, observation[-2], observation[-1]]))
        return self.actions.reshape(-1)[node]


def learned(known: Known, costs: WarningCosts) -> dict[str, Any]:
    """Return all rules and policies, fitted to days.

    Args:
        known: of the calibration years.
        costs: of wrong warnings.

    Returns:
        Policies of `RecordedWarning` by name, see `RULES`.
    """
    leads, dtype = known.known.shape[1], known.known.dtype
    over = costs.over(leads, dtype)
    rules: dict[str, Any] = {"never": Always(jnp.zeros((), jnp.int32)), "always": Always(jnp.ones((), jnp.int32))}
    for k, source in enumerate(SOURCES):
        found = _best_thresholds(known.known[:, :, k], known.flood, over)
        rules[f"threshold on {source}"] = LevelRule(jnp.asarray(found, dtype), k)
    fitted = np.stack([_probit(known.known[:, lead], known.flood) for lead in range(leads)])
    slope, offset = jnp.asarray(fitted[:, :-1], dtype), jnp.asarray(fitted[:, -1], dtype)
    rules["probability"] = Probable(slope, offset, over)
    sharpness = np.maximum(fitted[:, : len(SOURCES)].sum(axis=1), LEAST)
    spreads = np.maximum.accumulate(1 / sharpness).astype(dtype)
    environment = FloodWarning(costs.replace(shares=True), spreads, 1.2 * spreads[-1], 0.0)
    _, actions = optimum(environment)
    rules["planned"] = Planned(environment, slope, offset, actions)
    return rules


def warned(record: RecordedWarning, policy: Any) -> Array:
    """Return the warnings of a policy on all days of a record, shape (days, leads), the shortest lead first.

    Raises:
        ConfigurationError: if the policy was made for other leads, or for other numbers that are known.
    """
    leads, numbers = record.known.shape[1:]
    thresholds, slope = getattr(policy, "thresholds", None), getattr(policy, "slope", None)
    wanted = slope.shape if slope is not None else (leads if thresholds is None else thresholds.shape[0], numbers)
    if wanted != (leads, numbers) or getattr(policy, "component", 0) >= numbers:
        raise ConfigurationError(
            f"warned: {type(policy).__name__} was made for {wanted[0]} leads and {wanted[1]} numbers that are known, "
            f"but the record has {leads} leads and {numbers} numbers"
        )
    return _warned(record, policy)


@jax.jit
def _warned(record: RecordedWarning, policy: Any) -> Any:
    def one(day: Any) -> Any:
        state = record.state_at_day(day)

        def step(carry: Any, _: Any) -> Any:
            state, observation = carry
            found = record.respond(state, policy(observation, None), None)
            return (found.state, found.observation), found.state.standing

        start = (state, record.look(state))
        return lax.scan(step, start, length=record.leads)[1][::-1]

    return jax.vmap(one)(jnp.arange(record.flood.shape[0], dtype=jnp.int32))


def costs_by_lead(warnings: Any, flood: Any, costs: WarningCosts) -> np.ndarray:
    """Return what warnings cost by day and lead, shape (days, leads); a withdrawal counts at the lead of it.

    Args:
        warnings: 0 or 1, shape (days, leads), the shortest lead first.
        flood: shape (days,).
        costs: `WarningCosts`, over the leads.
    """
    a, y = np.asarray(warnings, float), np.asarray(flood, float)[:, None]
    before = np.concatenate([a[:, 1:], np.zeros_like(a[:, :1])], axis=1)
    wrong = np.asarray(costs.false_alarm) * a * (1 - y) + np.asarray(costs.miss) * (1 - a) * y
    return wrong + float(costs.cancellation) * np.maximum(before - a, 0)


def _best_thresholds(x: np.ndarray, flood: np.ndarray, costs: WarningCosts) -> np.ndarray:
    """Return the thresholds of the least cost on some days, one lead in turn, from the longest to the shortest."""
    leads = x.shape[1]
    tried = np.quantile(x, np.concatenate([np.linspace(0, 0.5, 10), np.linspace(0.5, 1, TRIED)]), axis=0)
    tried = np.concatenate([tried[:1] - 1, (tried[1:] + tried[:-1]) / 2, tried[-1:] + 1])
    thresholds = np.quantile(x, 1 - flood.mean(), axis=0)
    for _ in range(SWEEPS):
        before = thresholds.copy()
        for lead in reversed(range(leads)):
            found = []
            for each in tried[:, lead]:
                thresholds[lead] = each
                found.append(costs_by_lead(x > thresholds, flood, costs).sum())
            thresholds[lead] = tried[int(np.argmin(found)), lead]
        if np.array_equal(before, thresholds):
            break
    return thresholds


def _probit(x: np.ndarray, flood: np.ndarray) -> np.ndarray:
    """Return slopes and offset of the most probable probit of floods, by a prior that leaves a separation finite."""
    from scipy.optimize import minimize
    from scipy.stats import norm as normal

    sign, columns = np.where(flood, 1.0, -1.0), np.column_stack([x, np.ones(len(x))]).astype(float)
    prior = np.zeros(columns.shape[1])
    prior[: len(SOURCES)] = SHARPNESS
    weight = np.append(np.full(x.shape[1], WEIGHT), 0.0)

    def loss(v: np.ndarray) -> tuple[float, np.ndarray]:
        s = sign * (columns @ v)
        hazard = sign * np.exp(normal.logpdf(s) - normal.logcdf(s))
        departure = weight * (v - prior)
        return float(-normal.logcdf(s).sum() + 0.5 * departure @ (v - prior)), departure - hazard @ columns

    return np.asarray(minimize(loss, prior, jac=True, method="BFGS").x)
