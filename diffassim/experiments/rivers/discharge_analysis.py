"""4D-Var of a river catchment from its discharge over the last days, and the forecasts that start from it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffassim.core.errors import DataError
from diffassim.core.pytree import Pytree, static
from diffassim.covariances import Blocks, Diagonal, Zero
from diffassim.models import GR4J, Model, rollout
from diffassim.models.gr4j import CatchmentForcing, CatchmentState
from diffassim.observations import Observations
from diffassim.variational import GaussNewton, StrongConstraint4DVar, minimize

__all__ = [
    "DischargeAnalysis",
    "ErrorStatistics",
    "IssueDay",
    "analyze_days",
    "analyze_in_batches",
    "discharge_of",
    "issue_days",
]

BATCH = 256  # issue days that are analysed together
_SMALLEST = 1e-3  # mm: an empty store keeps a little uncertainty, so that whitening stays possible


class ErrorStatistics(Pytree):
    """Standard deviations of the background and observation errors, all positive.

    The defaults are a first guess with the least error of the worst lead in a cross-validation over the calibration
    years of the Fulda, each year forecast with parameters from the others (`python -m benchmarks.fulda_calibration`).

    Args:
        production: error of the production store, mm.
        routing: error of the routing store, as a share of its content.
        snow: error of the snow pack, as a share of it.
        hydrograph: error of the water in the unit hydrographs, as a share of it.
        temperature: error of each day's air temperature, degrees Celsius (it decides on snow, rain and melt).
        precipitation: error of the logarithm of each day's precipitation.
        discharge: error of observed discharge and of the model's response within a day, mm per day ...
        discharge_share: ... plus this share of it ...
        timing: ... plus its change since the day before times this error of its timing, days.
        memory: correlation of that error from one day to the next, between 0 and 1.
    """

    production: Any = 4.0
    routing: Any = 0.3
    snow: Any = 0.5
    hydrograph: Any = 0.2
    temperature: Any = 1.0
    precipitation: Any = 0.2
    discharge: Any = 0.05
    discharge_share: Any = 0.2
    timing: Any = 0.5
    memory: Any = 0.3


class IssueDay(Pytree):
    """Everything that is known when a forecast is issued.

    Args:
        background: open-loop state at the window start.
        discharge: observed discharge of the window's days, mm per day, NaN where missing, shape (window,).
        forcing: forcing of the window's days and of the days to forecast, shape (window + leads,).
    """

    background: CatchmentState
    discharge: Float[Array, " window"]
    forcing: CatchmentForcing


class DischargeAnalysis(Pytree):
    r"""Strong-constraint 4D-Var over the last days, then a forecast.

    Controlled are the stores, the snow pack, the water in both unit hydrographs at the window start, and the window's
    daily temperatures and (by a factor) precipitation. Where discharge changes from one day to the next, a flood that
    comes a few hours early or late is an error in proportion to the change: without the term `timing` in R, the rise of
    a flood would be taken for more rain. What the analysis leaves unexplained on the last day decays over the leads,

    .. math:: \hat q_{T+L} = q_{T+L} + \alpha_L\,(y_T - q_T)

    as the open loop with AR(1) error correction does with all of the error. With all background errors going to zero
    this method is that one.

    Args:
        model: calibrated catchment model; its own forcing is not used.
        statistics: error statistics.
        persistence: the \(\alpha_L\), one for each lead.
        leads: days after the last observed one (static).
    """

    model: GR4J
    statistics: ErrorStatistics
    persistence: Float[Array, " leads"]
    leads: tuple[int, ...] = static()

    def background_covariance(self, x: CatchmentState) -> Blocks:
        """Return B at a background state."""
        s = self.statistics

        def share(part: float, content: Any) -> Diagonal:
            return Diagonal(std=part * content + _SMALLEST)

        return Blocks(
            CatchmentState(
                production=Diagonal(std=s.production),
                routing=share(s.routing, x.routing),
                snow=share(s.snow, x.snow),
                hydrograph_slow=share(s.hydrograph, x.hydrograph_slow),
                hydrograph_fast=share(s.hydrograph, x.hydrograph_fast),
                discharge=Zero(),
            )
        )

    def cost(self, day: IssueDay) -> StrongConstraint4DVar:
        """Return the cost of one window."""
        window, s = day.discharge.shape[0], self.statistics
        known = jnp.isfinite(day.discharge)
        level = jnp.where(known, day.discharge, 1)
        yesterday_known = jnp.roll(known, 1).at[0].set(False)
        before = jnp.roll(level, 1)
        # Errors with memory are whitened by subtracting what remains of yesterday's, where yesterday is known.
        remembered = jnp.where(yesterday_known, s.memory, 0)
        change = jnp.where(yesterday_known, jnp.abs(level - before), 0)
        std = (s.discharge + s.discharge_share * level + s.timing * change) * jnp.sqrt(1 - remembered**2)
        observations = Observations(
            jnp.where(known, (level - remembered * before) / std, jnp.nan),
            jnp.arange(1, window + 1),
            operator=_innovation,
            where=(remembered, std),
            error=Diagonal(std=1.0),
        )
        unchanged = jnp.zeros(window, std.dtype)
        return StrongConstraint4DVar(
            _WindowModel(self.model, jax.tree.map(lambda a: a[:window], day.forcing), unchanged, unchanged),
            _Days(day.background, day.background.discharge),
            Blocks(_Days(self.background_covariance(day.background), Zero())),  # type: ignore[arg-type]
            observations,
            parameters={
                "temperature_error": Diagonal(std=s.temperature),
                "precipitation_error": Diagonal(std=s.precipitation),
            },
            steps=window,
        )

    def __call__(self, day: IssueDay) -> tuple[CatchmentState, Float[Array, " leads"], Array]:
        """Return the state at the end of the last observed day, the forecasts in mm per day, and the result code."""
        window = day.discharge.shape[0]
        # No window growth: a few days of a dissipative model have one minimum.
        method = GaussNewton(growth=None, tolerance=1e-2, max_iterations=50)
        solution = minimize(self.cost(day), method)
        state = rollout(solution.model, solution.state, window, at=jnp.asarray([window]))
        state = jax.tree.map(lambda leaf: leaf[0], state.today)
        future = self.model.replace(forcing=jax.tree.map(lambda a: a[window:], day.forcing))
        forecast = discharge_of(rollout(future, state, max(self.leads), at=jnp.asarray(self.leads)))
        last = day.discharge[-1]
        unexplained = jnp.where(jnp.isfinite(last), last - state.discharge, 0)
        return state, jnp.maximum(forecast + self.persistence * unexplained, 0), solution.result


@jax.jit
def analyze_days(analysis: DischargeAnalysis, days: IssueDay) -> tuple[CatchmentState, Any, Any]:
    """Return states, forecasts and result codes of many issue days (leading axis n), computed together."""
    return jax.vmap(analysis)(days)


def analyze_in_batches(
    analysis: DischargeAnalysis, states: CatchmentState, discharge: Any, issued: np.ndarray, window: int
) -> tuple[CatchmentState, np.ndarray, np.ndarray]:
    """Return states, forecasts and result codes of any number of issue days, in batches of one size: compiled once.

    Args:
        analysis: its model has the forcing of the whole record.
        states: open-loop states of that model, one more row than days of record.
        discharge: observed discharge of the whole record.
        issued: days on which forecasts are issued, indices into the record.
        window: days in a window.
    """
    forcing, horizon = analysis.model.forcing, max(analysis.leads)
    assert forcing is not None
    analysis = analysis.replace(model=analysis.model.replace(forcing=None))
    parts = []
    for start in range(0, len(issued), BATCH):
        chosen = issued[start : start + BATCH]
        padded = np.append(chosen, np.full(BATCH - len(chosen), issued[-1]))
        days = issue_days(states, jnp.asarray(discharge), forcing, padded, window, horizon)
        parts.append(jax.tree.map(np.asarray, analyze_days(analysis, days)))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(issued)], *parts)


def issue_days(
    states: CatchmentState, discharge: Array, forcing: CatchmentForcing, days: Array, window: int, horizon: int
) -> IssueDay:
    """Cut the windows that end on the given days, with the forcing of the `horizon` days after.

    Args:
        states: open-loop states, one more row than days of record.
        discharge: observed discharge of the whole record.
        forcing: forcing of the whole record; beyond its end it is zero.
        days: the last days of the windows, indices into the record, shape (n,).
        window: days in a window.
        horizon: days after it.

    Returns:
        `IssueDay` with a leading axis n.

    Raises:
        DataError: if a window reaches before the record.
    """
    earliest = np.asarray(days).min(initial=window)
    if earliest < window - 1:
        raise DataError(f"a window of {window} days that ends on day {earliest} reaches before the record")
    starts = jnp.asarray(days) - window + 1
    around = starts[:, None] + jnp.arange(window + horizon)[None, :]
    return IssueDay(
        jax.tree.map(lambda leaf: leaf[starts], states),
        discharge[around[:, :window]],
        jax.tree.map(lambda a: jnp.pad(a, (0, horizon))[around], forcing),
    )


def discharge_of(states: CatchmentState) -> Any:
    """Return the discharge of a state: the observation operator of a gauge."""
    return states.discharge


class _Days(Pytree):
    today: CatchmentState
    yesterday: Any  # discharge


class _WindowModel(Model):
    """The catchment in one window: with errors of the forcing, and a memory of the discharge of the day before."""

    model: GR4J
    forcing: CatchmentForcing
    temperature_error: Float[Array, " window"]  # degrees Celsius
    precipitation_error: Float[Array, " window"]  # of the logarithm
    dt: float = 1.0

    def forced_steps(self) -> tuple[int, int] | None:
        """Return the days of the window."""
        return self.model.replace(forcing=self.forcing).forced_steps()

    def step(self, x: _Days, t: Any) -> _Days:
        """Advance by one day."""
        forcing = self.forcing.replace(
            temperature=self.forcing.temperature + self.temperature_error,
            precipitation=self.forcing.precipitation * jnp.exp(self.precipitation_error),
        )
        return _Days(self.model.replace(forcing=forcing).step(x.today, t), x.today.discharge)


def _innovation(x: _Days, where: Any) -> Any:
    remembered, std = where
    return (x.today.discharge - remembered * x.yesterday) / std
