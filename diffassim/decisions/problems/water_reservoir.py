"""A reservoir with two objectives: no flood, and the demand met."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from diffassim.core.checks import count_of, real_array
from diffassim.core.errors import ShapeError, require_positive
from diffassim.core.pytree import Pytree, static
from diffassim.decisions.environment import Decided, Environment, Transition
from diffassim.decisions.spaces import Box

__all__ = ["ReservoirState", "WaterReservoir"]

STARTS = (96.855361, 58.046026, 116.15767, 20.164311, 79.191, 140.13098, 131.01816, 44.351321, 13.185943, 73.508622)


class ReservoirState(Pytree):
    """Water in the reservoir, and the number of the step.

    Args:
        storage: not negative.
        t: steps made.
    """

    storage: Any
    t: Any


class WaterReservoir(Environment):
    r"""A storage s with random inflow i, of which a is released, between what has to go and what is there.

    .. math:: s' = \max(s + i - a, 0),\quad i \sim N(40, 10^2),\quad \max(s - 100, 0) \le a \le s,\quad
        r = \bigl(-\max(s' - 50, 0),\ -\max(50 - a, 0)\bigr)

    An episode has a hundred steps and begins with one of ten storages.

    Args:
        inflow_mean: mean inflow of a step.
        inflow_std: its standard deviation.
        demand: release below which the second objective loses.
        flood: storage above which the first objective loses.
        capacity: storage that release leaves behind at most.
        starts: first storages, equally likely, shape (starts,).
        fractions: whether the action is the part of the possible releases, from 0 (as little as possible) to 1 (all),
            rather than the release (static).
        clock: whether the number of the step is observed as well (static).
        length: steps of an episode (static).

    Raises:
        ConfigurationError: if a number that must be positive is not.
        ShapeError: if `starts` is no list of numbers.

    Example:
        >>> reservoir = WaterReservoir()
        >>> state = reservoir.state_at(jnp.array([120.0]))
        >>> found = reservoir.respond(state, jnp.array([0.0]), jnp.array(40.0))  # 20 have to go
        >>> found.observation.tolist(), found.reward.tolist()
        ([140.0], [-90.0, -30.0])

    Source: Castelletti, Pianosi and Restelli (2012), in the form of MO-Gymnasium's water-reservoir.
    """

    inflow_mean: Any = 40.0
    inflow_std: Any = 10.0
    demand: Any = 50.0
    flood: Any = 50.0
    capacity: Any = 100.0
    starts: Any = STARTS
    fractions: bool = static(default=False)
    clock: bool = static(default=False)
    length: int = static(default=100)

    def __post_init__(self) -> None:
        for name in ("inflow_std", "demand", "flood", "capacity"):
            require_positive(f"WaterReservoir: {name}", getattr(self, name))
        starts = jnp.asarray(real_array("WaterReservoir: starts", self.starts))
        if starts.ndim != 1 or starts.size == 0:
            raise ShapeError(f"WaterReservoir: starts must be a list of storages, found shape {starts.shape}")
        self._set(starts=starts, length=count_of("WaterReservoir: length", self.length, least=1))

    @property
    def largest(self) -> Any:
        """Storage that only an inflow of four standard deviations above its mean exceeds."""
        return self.capacity + self.inflow_mean + 4 * self.inflow_std

    @property
    def action_space(self) -> Box:
        """The release, or its part of the possible ones."""
        return Box(self._vector(0.0), self._vector(1.0 if self.fractions else self.largest))

    @property
    def observation_space(self) -> Box:
        """The storage, and the number of the step if that is observed."""
        low, high = self._vector(0.0), self._vector(jnp.inf)
        if not self.clock:
            return Box(low, high)
        return Box(jnp.append(low, low), jnp.append(high, self._vector(self.length)))

    @property
    def horizon(self) -> int:
        """Steps of an episode."""
        return self.length

    @property
    def objectives(self) -> int:
        """Flood, and demand."""
        return 2

    def reset(self, key: jax.Array) -> tuple[ReservoirState, Any]:
        """Return one of the first storages."""
        state = ReservoirState(jax.random.choice(key, self.starts), jnp.zeros((), jnp.int32))
        return state, self._seen(state)

    def disturbance(self, key: jax.Array) -> Any:
        """Return an inflow."""
        return self.inflow_mean + self.inflow_std * jax.random.normal(key, (), self.starts.dtype)

    def disturbances(self, count: int, key: jax.Array | None = None) -> tuple[Any, Any]:
        """Return inflows at equal distances over eight standard deviations, and their normalized densities.

        Sums over them are those of the trapezoidal rule, which is very accurate here; 81 inflows are 0, 1, ..., 80.
        """
        count = count_of("WaterReservoir: disturbances", count, least=2)
        nodes = jnp.linspace(-4, 4, count, dtype=self.starts.dtype)
        density = jnp.exp(-jnp.square(nodes) / 2)
        return self.inflow_mean + self.inflow_std * nodes, density / jnp.sum(density)

    def decide(self, state: ReservoirState, action: Any) -> Decided:
        """Return what a release leaves behind."""
        least = jnp.maximum(state.storage - self.capacity, 0)
        wanted = jnp.asarray(action, self.starts.dtype)[0]
        wanted = least + (state.storage - least) * wanted if self.fractions else wanted
        release = jnp.minimum(jnp.maximum(wanted, least), state.storage)
        after = ReservoirState(state.storage - release, state.t)
        missing = jnp.maximum(self.demand - release, 0)
        return Decided(after, self._seen(after), -jnp.stack([jnp.zeros_like(missing), missing]))

    def follow(self, afterstate: ReservoirState, disturbance: Any) -> Transition:
        """Return what an inflow makes of it."""
        following = ReservoirState(jnp.maximum(afterstate.storage + disturbance, 0), afterstate.t + 1)
        flood = jnp.maximum(following.storage - self.flood, 0)
        reward = -jnp.stack([flood, jnp.zeros_like(flood)])
        return Transition(following, self._seen(following), reward, jnp.asarray(False))

    def state_at(self, observation: Any) -> ReservoirState:
        """Return the state of an observation, at the first step unless that is observed."""
        t = observation[1].astype(jnp.int32) if self.clock else jnp.zeros((), jnp.int32)
        return ReservoirState(observation[0], t)

    def _seen(self, state: ReservoirState) -> Any:
        parts = [state.storage, state.t.astype(state.storage.dtype)] if self.clock else [state.storage]
        return jnp.stack(parts)

    def _vector(self, value: Any) -> Any:
        return jnp.asarray(value, self.starts.dtype)[None]
