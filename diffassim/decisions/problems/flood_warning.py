"""Warnings of a day that may be flooded, given, kept and withdrawn from the longest lead to the shortest."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

from diffassim.core.checks import count_of, real_array
from diffassim.core.errors import ConfigurationError, DataError, ShapeError, concrete, require_finite, require_positive
from diffassim.core.linalg import safe_sqrt
from diffassim.core.pytree import Pytree, static
from diffassim.decisions.environment import Decided, Environment, Transition
from diffassim.decisions.spaces import Box, Discrete

__all__ = ["FloodWarning", "RecordedWarning", "WarningCosts", "WarningState"]

WIDEST = 6.0  # standard deviations up to which disturbances have nodes


class WarningCosts(Pytree):
    """What wrong warnings cost.

    Args:
        miss: M, cost of a flood of which nobody was warned; a number, or one for each lead, the shortest first.
        false_alarm: F, cost of a warning of all without a flood, likewise.
        cancellation: C, cost of withdrawing it.
        shares: whether an action is the part of those concerned that is warned, rather than 0 or 1 (static). All or
            none is best, but parts have derivatives.

    Raises:
        ConfigurationError: if a cost is negative or not finite, or both are zero at a lead.
        ShapeError: if they do not fit together.

    Example:
        >>> WarningCosts(miss=5.0).over(2, jnp.float64).miss.tolist()
        [5.0, 5.0]
    """

    miss: Any = 10.0
    false_alarm: Any = 1.0
    cancellation: Any = 0.5
    shares: bool = static(default=False)

    def __post_init__(self) -> None:
        for name in ("miss", "false_alarm", "cancellation"):
            known = concrete(real_array(f"WarningCosts: {name}", getattr(self, name)))
            if known is not None and not (np.isfinite(known).all() and (known >= 0).all()):
                raise ConfigurationError(
                    f"WarningCosts: {name} must be finite and not negative, found {np.min(known):g}"
                )
            if known is not None and known.ndim > (name != "cancellation"):
                raise ShapeError(f"WarningCosts: {name} of shape {known.shape}; give a number, or one for each lead")
        miss, false_alarm = concrete(self.miss), concrete(self.false_alarm)
        if miss is not None and false_alarm is not None and np.any(np.add(*_alike(miss, false_alarm)) == 0):
            raise ConfigurationError("WarningCosts: miss and false_alarm are both zero; there is nothing to decide")

    def over(self, leads: int, dtype: Any) -> WarningCosts:
        """Return them as vectors over the leads.

        Raises:
            ShapeError: if they are vectors of another length.
        """
        found = {}
        for name in ("miss", "false_alarm"):
            value = jnp.asarray(getattr(self, name), dtype)
            if value.shape not in ((), (leads,)):
                raise ShapeError(f"WarningCosts: {name} of shape {value.shape} for {leads} leads")
            found[name] = jnp.broadcast_to(value, (leads,))
        return self.replace(**found, cancellation=jnp.asarray(self.cancellation, dtype))


def _alike(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if a.ndim and b.ndim and a.shape != b.shape:
        raise ShapeError(f"WarningCosts: miss of shape {a.shape} and false_alarm of shape {b.shape}")
    return a, b


class WarningState(Pytree):
    """What is known before a decision.

    Args:
        known: forecast of the level, or number of the day in a record.
        remaining: decisions that follow this one.
        standing: part of those concerned who are warned now.
    """

    known: Any
    remaining: Any
    standing: Any


class WarningEnvironment(Environment):
    r"""Base of what decides on warnings of one day, once at each of several leads; the episode is the approach of it.

    Those who need the warning l days ahead count at lead l. With a the part of them that is warned, and y whether
    there is a flood (or its probability), the cost there is

    .. math:: F_l\, a_l (1 - y) + M_l\, (1 - a_l)\, y + C \max(a_{l'} - a_l, 0)

    with l' the next longer lead. A late warning costs the misses at the longer leads. Without C every lead is a
    cost-loss problem of its own: warn where p > F / (F + M). With C there is something to wait for.

    A subclass defines `leads`, `observation_space`, `reset`, `follow` and `look`.
    """

    costs: Any

    @property
    def leads(self) -> int:
        """Number of leads."""
        raise NotImplementedError(f"{type(self).__name__} does not define leads")

    @property
    def action_space(self) -> Box | Discrete:
        """Not to warn (0) or to warn (1); or any part of those concerned."""
        low = jnp.zeros(1, self._dtype)
        return Box(low, low + 1) if self.costs.shares else Discrete(2)

    @property
    def horizon(self) -> int:
        """Decisions on one day."""
        return self.leads

    def decide(self, state: WarningState, action: Any) -> Decided:
        """Return the warning as it stands then, and what the withdrawal of a part costs."""
        wanted = jnp.asarray(action, self._dtype)
        wanted = jnp.clip(wanted[0] if self.costs.shares else wanted, 0, 1)
        after = state.replace(standing=wanted)
        withdrawn = jnp.maximum(state.standing - wanted, 0)
        return Decided(after, self.look(after), -self.costs.cancellation * withdrawn)

    def _cost(self, state: WarningState, y: Any) -> Any:
        """Return what misses and false alarms cost at a lead."""
        miss, false_alarm = (cost[state.remaining] for cost in (self.costs.miss, self.costs.false_alarm))
        return false_alarm * state.standing * (1 - y) + miss * (1 - state.standing) * y

    def _after(self, state: WarningState, y: Any, known: Any) -> Transition:
        ends = state.remaining == 0
        following = WarningState(known, jnp.maximum(state.remaining - 1, 0), state.standing)
        return Transition(following, self.look(following), -self._cost(state, y), ends)

    def look(self, state: WarningState) -> Any:
        """Return what is seen of a state."""
        raise NotImplementedError(f"{type(self).__name__} does not define look(state)")

    @property
    def _dtype(self) -> Any:
        return self.costs.miss.dtype


class FloodWarning(WarningEnvironment):
    r"""Warnings from the forecasts of a filter that knows its errors.

    The level z of the day has a Gaussian belief \(N(f_l, s_l^2)\) at lead l. Such a forecast is a martingale: from one
    lead to the next shorter one it is revised by what nobody could know,

    .. math:: f_{l'} = f_l + \sqrt{s_l^2 - s_{l'}^2}\, w,\quad w \sim N(0, 1),\quad
        p_l = \Phi\bigl((f_l - c) / s_l\bigr)

    whatever model and observations it comes from: mean and spread are all that the decision needs. The first one is
    drawn from its climate, \(N(0, v^2 - s_L^2)\).

    Args:
        costs: `WarningCosts`.
        spreads: s, standard deviation of the level of the day around its forecast, not decreasing with the lead, shape
            (leads,).
        variability: v, standard deviation of the level in its climate, whose mean is 0.
        threshold: c, level above which is a flood.
        outcomes: whether costs are those of a flood that is drawn with its probability, rather than their expectations
            given the forecast (static). Both have the same mean; an agent of the real world sees the first.

    Raises:
        ConfigurationError: if a spread lies above the next, or above the variability.
        ShapeError: if spreads are no vector, or costs do not fit it.

    Example:
        >>> warning = FloodWarning(WarningCosts(), spreads=[0.5, 0.8], threshold=1.6)
        >>> state = warning.state_at(jnp.array([1.6, 0.0, 0.0]))  # the last decision, at a probability of 1/2
        >>> [float(warning.respond(state, action, (0.0, 0.0)).reward) for action in (0, 1)]
        [-5.0, -0.5]

    Source: cost-loss: Murphy (1977); forecasts as martingales: Heath and Jackson (1994).
    """

    spreads: Any
    variability: Any = 1.0
    threshold: Any = 1.64
    outcomes: bool = static(default=False)

    def __post_init__(self) -> None:
        spreads = jnp.asarray(real_array("FloodWarning: spreads", self.spreads))
        if spreads.ndim != 1 or spreads.size == 0:
            raise ShapeError(f"FloodWarning: spreads must be a vector, one for each lead, found shape {spreads.shape}")
        require_positive("FloodWarning: spreads", spreads)
        require_finite("FloodWarning: threshold", self.threshold)
        known, largest = concrete(spreads), concrete(self.variability)
        if known is not None and (np.diff(known) < 0).any():
            raise ConfigurationError(f"FloodWarning: spreads must not decrease with the lead, found {known.tolist()}")
        if known is not None and largest is not None and not largest >= known[-1]:
            raise ConfigurationError(
                f"FloodWarning: variability={largest:g} lies below the spread {known[-1]:g} of the longest lead: a "
                "forecast knows at least the climate"
            )
        self._set(spreads=spreads, costs=self.costs.over(spreads.size, spreads.dtype))

    @property
    def leads(self) -> int:
        """Number of leads."""
        return int(self.spreads.shape[0])

    @property
    def observation_space(self) -> Box:
        """Forecast of the level, decisions that remain, and the part of those concerned who are warned."""
        low = jnp.asarray([-jnp.inf, 0, 0], self._dtype)
        return Box(low, jnp.asarray([jnp.inf, max(self.leads - 1, 1), 1], self._dtype))

    @property
    def climate(self) -> Any:
        """Standard deviation of the first forecast."""
        return _leg(jnp.asarray(self.variability, self._dtype), self.spreads[-1])

    def reset(self, key: jax.Array) -> tuple[WarningState, Any]:
        """Return a first forecast, of which nobody is warned."""
        forecast = self.climate * jax.random.normal(key, (), self._dtype)
        state = WarningState(forecast, jnp.asarray(self.leads - 1, jnp.int32), jnp.zeros((), self._dtype))
        return state, self.look(state)

    def disturbance(self, key: jax.Array) -> tuple[Any, Any]:
        """Return the revision, in standard deviations, and a uniform number that decides on a flood."""
        revision, flood = jax.random.split(key)
        return jax.random.normal(revision, (), self._dtype), jax.random.uniform(flood, (), self._dtype)

    def disturbances(self, count: int, key: jax.Array | None = None) -> tuple[Any, Any]:
        """Return revisions at equal distances with their normalized densities; draws where outcomes are drawn."""
        if self.outcomes:
            return super().disturbances(count, key)
        count = count_of("FloodWarning: disturbances", count, least=2)
        nodes = jnp.linspace(-WIDEST, WIDEST, count, dtype=self._dtype)
        density = jnp.exp(-jnp.square(nodes) / 2)
        return (nodes, jnp.zeros_like(nodes)), density / jnp.sum(density)

    def probability(self, forecast: Any, remaining: Any) -> Any:
        """Return the probability of a flood, given a forecast and how many decisions remain."""
        return norm.cdf((forecast - jnp.asarray(self.threshold, self._dtype)) / self.spreads[remaining])

    def follow(self, afterstate: WarningState, disturbance: Any) -> Transition:
        """Return what misses and false alarms cost at this lead, and the revised forecast."""
        revision, uniform = (jnp.asarray(part, self._dtype) for part in disturbance)
        p = self.probability(afterstate.known, afterstate.remaining)
        y = (uniform < p).astype(p.dtype) if self.outcomes else p
        shorter = self.spreads[jnp.maximum(afterstate.remaining - 1, 0)]
        step = _leg(self.spreads[afterstate.remaining], shorter)
        return self._after(afterstate, y, afterstate.known + step * revision)

    def state_at(self, observation: Any) -> WarningState:
        """Return the state of an observation."""
        return WarningState(observation[0], jnp.round(observation[1]).astype(jnp.int32), observation[2])

    def look(self, state: WarningState) -> Any:
        """Return what is seen of a state."""
        return jnp.stack([state.known, state.remaining.astype(self._dtype), state.standing])


def _leg(longest: Any, other: Any) -> Any:
    """Return the root of the difference of two squares, which rounding must not make negative."""
    return safe_sqrt(jnp.maximum(longest - other, 0) * (longest + other))


class RecordedWarning(WarningEnvironment):
    """Warnings on the days of a record: what was known before each of them, and whether there was a flood.

    An episode is one day, drawn from all. What comes of it is what came of it then, so that the policies of many days
    are judged by the record itself; what was known must not depend on the warning.

    Args:
        costs: `WarningCosts`.
        known: what was known before each day at each lead, shape (days, leads, numbers).
        flood: whether there was a flood on the day, shape (days,).

    Raises:
        DataError: if the record holds values that are not finite, or floods that are neither 0 nor 1.
        ShapeError: if its parts do not fit together.

    Example:
        >>> record = RecordedWarning(WarningCosts(), known=np.zeros((5, 2, 1)), flood=[0, 0, 1, 0, 0])
        >>> state = record.state_at_day(2)
        >>> float(record.respond(state, 0, None).reward)
        -10.0
    """

    known: Any
    flood: Any

    def __post_init__(self) -> None:
        known, flood = (jnp.asarray(real_array(f"RecordedWarning: {k}", getattr(self, k))) for k in ("known", "flood"))
        if known.ndim != 3 or 0 in known.shape or flood.shape != known.shape[:1]:
            raise ShapeError(
                f"RecordedWarning: known (days, leads, numbers) and flood (days,) do not fit: found {known.shape} and "
                f"{flood.shape}"
            )
        require_finite("RecordedWarning", {"known": known, "flood": flood}, "Leave out days on which something missed.")
        events = concrete(flood)
        if events is not None and not np.isin(events, (0, 1)).all():
            raise DataError("RecordedWarning: flood must be 0 or 1 on every day")
        costs = self.costs.over(known.shape[1], known.dtype)
        self._set(known=known, flood=flood.astype(known.dtype), costs=costs)

    @property
    def leads(self) -> int:
        """Number of leads."""
        return int(self.known.shape[1])

    @property
    def observation_space(self) -> Box:
        """What is known, decisions that remain, and the part of those concerned who are warned."""
        return Box.unbounded(self.known.shape[2] + 2, self._dtype)

    def reset(self, key: jax.Array) -> tuple[WarningState, Any]:
        """Return a day, of which nobody is warned."""
        state = self.state_at_day(jax.random.randint(key, (), 0, self.known.shape[0], jnp.int32))
        return state, self.look(state)

    def state_at_day(self, day: Any) -> WarningState:
        """Return the state before the first decision on a day."""
        return WarningState(
            jnp.asarray(day, jnp.int32), jnp.asarray(self.leads - 1, jnp.int32), jnp.zeros((), self._dtype)
        )  # fmt: skip

    def follow(self, afterstate: WarningState, disturbance: Any) -> Transition:
        """Return what misses and false alarms cost at this lead; nothing is random."""
        return self._after(afterstate, self.flood[afterstate.known], afterstate.known)

    def look(self, state: WarningState) -> Any:
        """Return what is seen of a state."""
        rest = jnp.stack([state.remaining.astype(self._dtype), state.standing])
        return jnp.concatenate([self.known[state.known, state.remaining], rest])
