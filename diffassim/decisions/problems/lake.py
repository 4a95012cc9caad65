"""A regulated lake between floods and the demand downstream: recorded years, one decision a day."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from diffassim.core.checks import real_array
from diffassim.core.errors import ConfigurationError, DataError, ShapeError, concrete, require_positive
from diffassim.core.pytree import Pytree, static
from diffassim.decisions.environment import Environment, Transition
from diffassim.decisions.spaces import Box

__all__ = ["Basin", "Lake", "LakeState"]

HOURS = 24
SECONDS_PER_HOUR = 3600.0
MEMORY = 0.8  # of the averaged demand
SEEN = 4  # level, sine and cosine of the day, averaged demand: what an agent sees before any features


class Basin(Pytree):
    r"""A lake with vertical shores, an outlet that opens with the level, and what a day costs.

    .. math:: h' = h + \frac{\Delta t}{A} (q - r),\quad r = \min(q_{max}(h), \max(q_{min}(h), a)),

    in 24 steps of an hour. Nothing flows out below the floor; above, at most \(k (h - h_0)\) up to the level `gate` and
    \(c\,(h - z)^b\) higher up; at least the ecological flow, and above `forced` all that can. A day costs `flood_cost`
    above `flood` at its end, `drought_cost` below `drought`, and for each m3/s of the demand not met w, between 1 in
    winter and 2 in summer; the ecological flow serves no demand. The defaults are Lake Como.

    Args:
        area: of the surface, m2.
        floor: level h0 below which nothing flows out, m.
        gate: level above which the rating curve holds, m.
        gate_slope: k, m2/s.
        rating: c of the rating curve, m3/s at one meter above z.
        zero: its level z, m.
        exponent: its power b.
        ecological: flow that must not be kept, m3/s.
        forced: level above which the outlet is open, m.
        largest: release that can be asked for, m3/s.
        start: level of the first day, m.
        flood: level above which a day counts as flood, m.
        drought: level below which it counts as drought, m.
        flood_cost: of such a day.
        drought_cost: of such a day.
        deficit_cost: of a m3/s that is missing for a day in winter.

    Raises:
        ConfigurationError: if a number that must be positive is not.

    Example:
        >>> level, release = Basin().day(jnp.asarray(0.35), jnp.asarray(150.0), jnp.asarray(100.0))
        >>> round(float(level), 4), float(release)  # 50 m3/s are stored
        (0.3796, 100.0)

    Source: the regulation of Lake Como in gym4ReaL (2025), without evaporation.
    """

    area: Any = 145.9e6
    floor: Any = -0.5
    gate: Any = -0.4
    gate_slope: Any = 1488.1
    rating: Any = 33.37
    zero: Any = -2.5
    exponent: Any = 2.015
    ecological: Any = 5.0
    forced: Any = 1.25
    largest: Any = 491.61
    start: Any = 0.35
    flood: Any = 1.24
    drought: Any = -0.45
    flood_cost: Any = 1000.0
    drought_cost: Any = 250.0
    deficit_cost: Any = 1.0

    def __post_init__(self) -> None:
        for name in ("area", "gate_slope", "rating", "exponent", "largest"):
            require_positive(f"Basin: {name}", getattr(self, name))

    def scaled(self, share: Any) -> Basin:
        """Return the same lake for flows that are `share` times as large, with the same costs of the same years.

        Example:
            >>> small = Basin().scaled(0.1)
            >>> float(small.largest), float(small.deficit_cost)
            (49.161, 10.0)
        """
        flows = ("area", "gate_slope", "rating", "ecological", "largest")
        scaled: dict[str, Any] = {name: getattr(self, name) * share for name in flows}
        return self.replace(**scaled, deficit_cost=self.deficit_cost / share)

    def bounds(self, level: Any) -> tuple[Any, Any]:
        """Return the least and the largest release at a level, m3/s."""
        above = jnp.maximum(level - self.zero, 1e-3)
        free = self.rating * jnp.exp(self.exponent * jnp.log(above))  # the power, at a fraction of its time
        opening = jnp.where(level <= self.gate, self.gate_slope * (level - self.floor), free)
        most = jnp.where(level <= self.floor, 0.0, opening)
        least = jnp.where(level <= self.floor, 0.0, jnp.where(level <= self.forced, self.ecological, free))
        return least, most

    def day(self, level: Any, inflow: Any, action: Any) -> tuple[Any, Any]:
        """Return the level after a day and its mean release, m and m3/s; the arguments broadcast.

        Args:
            level: at its beginning, m.
            inflow: of the day, m3/s.
            action: release that is asked for, m3/s.
        """
        step = SECONDS_PER_HOUR / self.area
        level, inflow, action = jnp.broadcast_arrays(level, inflow, action)

        def hour(carry: Any, _: Any) -> Any:
            level, released = carry
            least, most = self.bounds(level)
            release = jnp.minimum(most, jnp.maximum(least, action))
            return (level + step * (inflow - release), released + release), None

        (level, released), _ = lax.scan(hour, (level, jnp.zeros_like(level)), length=HOURS)
        return level, released / HOURS

    def cost(self, level: Any, release: Any, demand: Any, weight: Any, width: float = 0.0) -> Any:
        """Return what a day costs.

        Args:
            level: at its end, m.
            release: its mean, m3/s.
            demand: of the day, m3/s.
            weight: of a deficit, see `day_weight`.
            width: over which flood and drought begin, m; 0: at once. Only with a width do they have a derivative.
        """
        if width:
            flood = jax.nn.sigmoid((level - self.flood) / width)
            drought = jax.nn.sigmoid((self.drought - level) / width)
        else:
            flood, drought = (x.astype(level.dtype) for x in (level > self.flood, level < self.drought))
        missing = jnp.maximum(demand - jnp.maximum(release - self.ecological, 0), 0)
        return self.flood_cost * flood + self.drought_cost * drought + self.deficit_cost * weight * missing


def day_weight(day: Any, days: int, dtype: Any) -> Any:
    """Return the weight of a deficit on a day, counted from 0: 1 in winter, 2 in summer.

    Example:
        >>> round(float(day_weight(jnp.asarray(182), 365, float)), 3)
        2.0
    """
    angle = 2 * jnp.pi * (day.astype(dtype) + 1) / days
    return 0.5 * (3 - jnp.cos(angle))


class LakeState(Pytree):
    """Level, and where in the record the lake is.

    Args:
        level: m.
        average: exponential average of the demands of the days before, m3/s; 0 on the first day.
        year: number of the year in the record.
        day: from 0.
    """

    level: Any
    average: Any
    year: Any
    day: Any


class Lake(Environment):
    r"""A `Basin` in recorded years of inflow and demand; an action is the release asked for during a day.

    An agent sees the level, sine and cosine of the day of the year, the exponential average of past demands
    \(E' = .8 E + .2 d\), and features of the day, if there are any. The day's inflow is not seen and must not be in
    those. An episode is a year, drawn by chance; nothing else is random.

    Args:
        inflow: m3/s, shape (years, days).
        demand: m3/s, likewise.
        features: known in the morning of each day, shape (years, days, features); None: none.
        chances: of the years, shape (years,); None: all are equally likely.
        basin: `Basin`.
        width: over which flood and drought begin, m (static); 0: at once. For gradients through the lake.

    Raises:
        ShapeError: if the tables do not fit together.
        DataError: if a number is missing, or negative.
        ConfigurationError: if the width is negative.

    Example:
        >>> lake = Lake(jnp.full((1, 365), 150.0), jnp.full((1, 365), 80.0))
        >>> state, seen = lake.year_start(0)
        >>> found = lake.respond(state, jnp.array([100.0]), None)
        >>> round(float(found.observation[0]), 4), float(found.reward)
        (0.3796, -0.0)

    Source: the regulation of Lake Como in gym4ReaL (2025).
    """

    inflow: Any
    demand: Any
    features: Any = None
    chances: Any = None
    basin: Basin = Basin()
    width: float = static(default=0.0)

    def __post_init__(self) -> None:
        inflow, demand = (jnp.asarray(real_array(f"Lake: {k}", getattr(self, k))) for k in ("inflow", "demand"))
        if inflow.ndim != 2 or demand.shape != inflow.shape or inflow.size == 0:
            raise ShapeError(
                f"Lake: inflow and demand need one shape (years, days), found {inflow.shape} and {demand.shape}"
            )
        features = jnp.zeros((*inflow.shape, 0), inflow.dtype) if self.features is None else self.features
        chances = jnp.ones(inflow.shape[0], inflow.dtype) if self.chances is None else self.chances
        features, chances = jnp.asarray(features, inflow.dtype), jnp.asarray(chances, inflow.dtype)
        if features.ndim != 3 or features.shape[:2] != inflow.shape or chances.shape != inflow.shape[:1]:
            raise ShapeError(
                f"Lake: for years and days of shape {inflow.shape}, features have shape {features.shape} and chances "
                f"{chances.shape}"
            )
        for name, values in (("inflow", inflow), ("demand", demand)):
            known = concrete(values)
            if known is not None and not (known >= 0).all():  # NaN is not either
                raise DataError(f"Lake: {name} must be known and not negative, m3/s; the least is {known.min()}")
        if self.width < 0:
            raise ConfigurationError(f"Lake: width must not be negative, found {self.width}")
        basin = jax.tree.map(lambda leaf: jnp.asarray(leaf, inflow.dtype), self.basin)
        self._set(inflow=inflow, demand=demand.astype(inflow.dtype), features=features, chances=chances, basin=basin)

    @property
    def action_space(self) -> Box:
        """The release that is asked for."""
        return Box(jnp.zeros(1, self.inflow.dtype), jnp.reshape(self.basin.largest, 1))

    @property
    def observation_space(self) -> Box:
        """Level, sine and cosine of the day, averaged demand, features."""
        return Box.unbounded(SEEN + self.features.shape[-1], self.inflow.dtype)

    @property
    def horizon(self) -> int:
        """Days of a year."""
        return self.inflow.shape[1]

    def reset(self, key: jax.Array) -> tuple[LakeState, Any]:
        """Return the first morning of a year."""
        return self.year_start(jax.random.categorical(key, jnp.log(self.chances)))

    def year_start(self, year: Any) -> tuple[LakeState, Any]:
        """Return the first morning of the year of that number in the record."""
        dtype = self.inflow.dtype
        level, average = jnp.asarray(self.basin.start, dtype), jnp.zeros((), dtype)
        state = LakeState(level, average, jnp.asarray(year, jnp.int32), jnp.zeros((), jnp.int32))
        return state, self._seen(state)

    def respond(self, state: LakeState, action: Any, disturbance: Any) -> Transition:
        """Return the next morning; after the last day it shows that day's features once more."""
        asked = self.action_space.clip(action)[0]
        inflow, demand = self.inflow[state.year, state.day], self.demand[state.year, state.day]
        level, release = self.basin.day(state.level, inflow, asked)
        weight = day_weight(state.day, self.horizon, level.dtype)
        reward = -self.basin.cost(level, release, demand, weight, self.width)
        average = MEMORY * state.average + (1 - MEMORY) * demand
        following = LakeState(level, average, state.year, jnp.minimum(state.day + 1, self.horizon - 1))
        return Transition(following, self._seen(following), reward, jnp.asarray(False))

    def _seen(self, state: LakeState) -> Any:
        angle = 2 * jnp.pi * state.day.astype(state.level.dtype) / self.horizon
        own = jnp.stack([state.level, jnp.sin(angle), jnp.cos(angle), state.average])
        return jnp.concatenate([own, self.features[state.year, state.day]])


def day_of(observation: Any, days: int) -> Any:
    """Return the number of the day, from 0, that an observation of a `Lake` tells.

    Example:
        >>> lake = Lake(jnp.ones((1, 365)), jnp.ones((1, 365)))
        >>> state, _ = lake.year_start(0)
        >>> int(day_of(lake._seen(state.replace(day=jnp.asarray(200))), 365))
        200
    """
    angle = jnp.arctan2(observation[1], observation[2])
    return jnp.round(angle * days / (2 * jnp.pi)).astype(jnp.int32) % days
