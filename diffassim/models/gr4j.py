"""The daily rainfall-runoff model GR4J with a degree-day snow store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffassim.core.errors import ConfigurationError, ShapeError, concrete
from diffassim.core.pytree import Pytree, static
from diffassim.models.base import Model, Parameter, Variable, require_forcing

__all__ = ["GR4J", "CatchmentForcing", "CatchmentState", "unit_hydrographs"]


class CatchmentForcing(Pytree):
    """Daily forcing of a catchment, one entry per model step: day k drives the step with t = k.

    Args:
        precipitation: mm per day, shape (days,).
        evaporation: potential evaporation, mm per day, shape (days,).
        temperature: mean air temperature, degrees Celsius, shape (days,).

    Raises:
        ShapeError: if the lengths differ.
    """

    precipitation: Float[Array, " days"]
    evaporation: Float[Array, " days"]
    temperature: Float[Array, " days"]

    def __post_init__(self) -> None:
        # Entries that are no arrays stand for series: the parts of a covariance, or metadata.
        series = {name: value for name, value in vars(self).items() if hasattr(value, "shape")}
        shapes = {name: jnp.shape(value) for name, value in series.items()}
        if len(set(shapes.values())) > 1:
            raise ShapeError(f"CatchmentForcing: the series must have the same length, found {shapes}")


class CatchmentState(Pytree):
    """Water in the catchment, mm, and the discharge of the last step, mm per day.

    Args:
        production: soil-moisture (production) store.
        routing: routing store.
        snow: snow pack, water equivalent.
        hydrograph_slow: water on its way in the first unit hydrograph, by days until it arrives, shape (days,).
        hydrograph_fast: the same for the second unit hydrograph, shape (2 * days,).
        discharge: discharge of the last step, mm per day (diagnostic: it does not influence what follows).
    """

    production: Any
    routing: Any
    snow: Any
    hydrograph_slow: Float[Array, " days"]
    hydrograph_fast: Float[Array, " twice"]
    discharge: Any


class GR4J(Model):
    r"""GR4J (modele du Genie Rural a 4 parametres Journalier), one step a day.

    Precipitation falls as snow or rain by temperature, the pack melts by degree-days; net rain fills the production
    store of capacity x1, percolation and the rest are split 9 : 1 over two unit hydrographs of time base x4 and 2 x4;
    the slow branch passes the routing store of capacity x3; both branches exchange \(x_2 (R/x_3)^{7/2}\) with the
    groundwater of neighbouring catchments.

    Args:
        x1: capacity of the production store, mm.
        x2: groundwater exchange coefficient, mm per day.
        x3: capacity of the routing store, mm.
        x4: time base of the unit hydrograph, days, at most `days`.
        melt_factor: degree-day factor, mm per degree Celsius and day.
        melt_temperature: temperature above which snow melts, degrees Celsius.
        forcing: `CatchmentForcing`; None for a model whose forcing is still to come.
        days: longest time base that the state has room for (static).
        dt: one day.

    Raises:
        ConfigurationError: if a step is taken without forcing.
        DataError: if a step is known to lie beyond the forcing; inside of traced code its result is NaN.

    Example:
        >>> model = GR4J(forcing=CatchmentForcing(jnp.full(3, 5.0), jnp.ones(3), jnp.full(3, 10.0)))
        >>> bool(model.step(model.initial_state(), 0).discharge > 0)
        True

    Source: Perrin, Michel and Andreassian (2003), equations 1 to 22; degree-day snow: Hock (2003), equation 2.
    """

    x1: Any = 350.0
    x2: Any = 0.0
    x3: Any = 90.0
    x4: Any = 1.7
    melt_factor: Any = 3.0
    melt_temperature: Any = 0.0
    forcing: CatchmentForcing | None = None
    days: int = static(default=10)
    dt: float = 1.0

    time_units: ClassVar[str] = "days"
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "x1": Parameter("mm", (10.0, 3000.0), "capacity of the production store"),
        "x2": Parameter("mm day-1", (-10.0, 10.0), "groundwater exchange coefficient"),
        "x3": Parameter("mm", (5.0, 1000.0), "capacity of the routing store"),
        "x4": Parameter("day", (0.5, 10.0), "time base of the unit hydrograph"),
        "melt_factor": Parameter("mm degC-1 day-1", (0.1, 10.0), "degree-day factor"),
        "melt_temperature": Parameter("degC", (-3.0, 3.0), "temperature above which snow melts"),
    }

    def initial_state(self, dtype: Any = None) -> CatchmentState:
        """Return half-full stores without snow or water on its way."""
        one = jnp.ones((), dtype or jnp.result_type(float))
        empty = jnp.zeros(self.days, one.dtype)
        return CatchmentState(
            one * 0.5 * self.x1, one * 0.5 * self.x3, 0 * one, empty, jnp.concatenate([empty, empty]), 0 * one
        )

    def step(self, x: CatchmentState, t: Any) -> CatchmentState:
        """Advance by one day with the forcing of day t."""
        return self.fluxes(x, t)[0]

    def fluxes(self, x: CatchmentState, t: Any) -> tuple[CatchmentState, dict[str, Any]]:
        """Advance by one day and return also the exchange with the outside.

        Returns:
            The new state, and the day's precipitation, actual evaporation, groundwater exchange and discharge in mm:
            the change of stored water is precipitation - evaporation + exchange - discharge.
        """
        if self.forcing is None:
            raise ConfigurationError("GR4J: `forcing` is missing; give a CatchmentForcing")
        dtype = jnp.result_type(x.production)
        model = self.replace(**{name: jnp.asarray(getattr(self, name), dtype) for name in self.parameters})
        if concrete(t) is not None:
            require_forcing("GR4J.step", self, t, 1)
            return model._day(x, t)
        # A day without forcing has no water balance. The step is taken with the nearest day's and its result replaced:
        # an index that JAX clamps would let the last day's weather go on for ever.
        first, end = self.forced_steps() or (0, 1)
        inside = (t >= first) & (t < end)
        found = model._day(x, jnp.clip(t, first, end - 1))
        return jax.tree.map(lambda leaf: jnp.where(inside, leaf, jnp.nan), found)

    def _day(self, x: CatchmentState, t: Any) -> tuple[CatchmentState, dict[str, Any]]:
        rain, snowfall, potential, temperature = self._forcing_of(t)
        # An analysis may leave a store slightly outside of its physical range; the step starts from inside.
        snow, melt = self._snow(jnp.maximum(x.snow, 0), snowfall, temperature)
        production, evaporated, effective = self._production(jnp.clip(x.production, 0, self.x1), rain + melt, potential)
        slow, fast = unit_hydrographs(self.x4, self.days)
        pending_slow = jnp.maximum(x.hydrograph_slow, 0) + 0.9 * effective * slow
        pending_fast = jnp.maximum(x.hydrograph_fast, 0) + 0.1 * effective * fast
        routing, routed, exchanged = self._routing(jnp.maximum(x.routing, 0), pending_slow[0])
        exchange = self._exchange(jnp.maximum(x.routing, 0))
        direct = jnp.maximum(pending_fast[0] + exchange, 0)
        exchanged = exchanged + direct - pending_fast[0]
        discharge = routed + direct
        state = CatchmentState(production, routing, snow, _advance(pending_slow), _advance(pending_fast), discharge)
        fluxes = {
            "precipitation": rain + snowfall,
            "evaporation": evaporated,
            "exchange": exchanged,
            "discharge": discharge,
        }
        return state, fluxes

    def forced_steps(self) -> tuple[int, int] | None:
        """Return the days that there is weather for."""
        days = getattr(getattr(self.forcing, "precipitation", None), "shape", None)
        return (0, days[-1]) if days else None

    def stored(self, x: CatchmentState) -> Any:
        """Return all water in the catchment, mm."""
        return x.production + x.routing + x.snow + jnp.sum(x.hydrograph_slow) + jnp.sum(x.hydrograph_fast)

    def variables(self) -> CatchmentState:
        """Return the metadata of the state."""
        return CatchmentState(
            Variable("production", (), "mm", "production store"),
            Variable("routing", (), "mm", "routing store"),
            Variable("snow", (), "mm", "snow water equivalent"),
            Variable("hydrograph_slow", ("day",), "mm", "water in the first unit hydrograph"),
            Variable("hydrograph_fast", ("day_fast",), "mm", "water in the second unit hydrograph"),
            Variable("discharge", (), "mm day-1", "discharge"),
        )  # type: ignore[arg-type]

    def _forcing_of(self, t: Any) -> tuple[Any, Any, Any, Any]:
        assert self.forcing is not None
        series = (self.forcing.precipitation, self.forcing.evaporation, self.forcing.temperature)
        total, potential, temperature = (jnp.asarray(values)[t].astype(jnp.result_type(self.x1)) for values in series)
        # All snow below -1 degree, all rain above 3 degrees, a ramp between (USACE, 1956).
        solid = jnp.clip((3.0 - temperature) / 4.0, 0, 1)
        return (1 - solid) * total, solid * total, potential, temperature

    def _snow(self, snow: Any, snowfall: Any, temperature: Any) -> tuple[Any, Any]:
        available = snow + snowfall
        potential = self.melt_factor * jnp.maximum(temperature - self.melt_temperature, 0)
        melt = jnp.minimum(available, potential)
        return available - melt, melt

    def _production(self, store: Any, water: Any, potential: Any) -> tuple[Any, Any, Any]:
        x1 = self.x1
        net_rain = jnp.maximum(water - potential, 0)
        net_evaporation = jnp.maximum(potential - water, 0)
        level = store / x1
        wet, dry = jnp.tanh(net_rain / x1), jnp.tanh(net_evaporation / x1)
        infiltration = x1 * (1 - level**2) * wet / (1 + level * wet)
        from_store = store * (2 - level) * dry / (1 + (1 - level) * dry)
        store = store - from_store + infiltration
        percolation = store * (1 - (1 + (4 / 9 * store / x1) ** 4) ** -0.25)
        evaporated = jnp.minimum(water, potential) + from_store
        return store - percolation, evaporated, percolation + net_rain - infiltration

    def _exchange(self, routing: Any) -> Any:
        return self.x2 * (routing / self.x3) ** 3.5

    def _routing(self, store: Any, inflow: Any) -> tuple[Any, Any, Any]:
        before = store + inflow
        filled = jnp.maximum(before + self._exchange(store), 0)
        routed = filled * (1 - (1 + (filled / self.x3) ** 4) ** -0.25)
        return filled - routed, routed, filled - before


def unit_hydrographs(x4: Any, days: int) -> tuple[Float[Array, " days"], Float[Array, " twice"]]:
    r"""Return the ordinates of the two unit hydrographs, which sum to one for x4 <= days.

    They are differences of the S-curves \(S_1(t) = (t/x_4)^{5/2}\) on [0, x4], and
    \(S_2(t) = \tfrac12 (t/x_4)^{5/2}\) on [0, x4], \(1 - \tfrac12 (2 - t/x_4)^{5/2}\) on [x4, 2 x4].

    Args:
        x4: time base, days.
        days: number of ordinates of the first; the second has twice as many.

    Returns:
        Ordinates of shape (days,) and (2 * days,).

    Example:
        >>> [round(float(jnp.sum(u)), 12) for u in unit_hydrographs(2.3, 10)]
        [1.0, 1.0]

    Source: Perrin et al. (2003), equations 10 to 17.
    """
    x4 = jnp.asarray(x4)
    t = jnp.arange(2 * days + 1, dtype=jnp.result_type(x4))
    rising = jnp.clip(t / x4, 0, 1)
    falling = jnp.clip(2 - t / x4, 0, 1)
    first = rising**2.5
    second = jnp.where(t <= x4, 0.5 * rising**2.5, 1 - 0.5 * falling**2.5)
    return jnp.diff(first)[:days], jnp.diff(second)


def _advance(pending: Any) -> Any:
    return jnp.concatenate([pending[1:], jnp.zeros_like(pending[:1])])
