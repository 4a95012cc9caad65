"""The twin experiment's region: winds, sources, stations, the truth and what is assumed of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffassim.covariances import Dense, Diagonal, Gaussian, Kronecker
from diffassim.experiments.framework.twin import Draw, random_stream, states_at
from diffassim.grids.grid import Grid
from diffassim.models import AdvectionDiffusion
from diffassim.observations import Function, Observations
from diffassim.variational import Bounded, StrongConstraint4DVar

__all__ = ["AirQuality2D", "Case", "at_cells", "cost_of", "draw_case", "field_covariance", "grid", "rate_covariance"]

SPACING = 2.5  # km
STEPS = 20  # in an hour
MIXING = 500.0  # height of the mixed layer, m
DIFFUSIVITY = 0.5  # km^2/h
WIND = 7.0, 3.5, 2.0  # km/h: of the day, of the part that turns once in 24 hours, of the standing eddies at most
RATES = 200.0, 800.0  # range of the median emission rates, kg/h
CONSTANT = 0.75  # share of the variance of log rates that does not change with time
CHANGE = 6.0  # hours after which the rest has changed
FIELD_FLOOR, FIELD_LENGTH = 0.5, 7.5  # ug/m^3, km: of the background error of concentrations
SPIN_UP = 24  # hours, a whole cycle of the wind


class AirQuality2D(NamedTuple):
    """What the truth was made with, and what is assumed of it.

    Args:
        shape: cells, from south to north and from west to east.
        sources: number of sources, every second one a stack in one cell, the others areas.
        stations: number of stations that report every hour; as many others are withheld.
        window: hours that are assimilated.
        forecast: hours after them.
        noise: standard deviation of the stations' errors, ug/m^3.
        missing: part of the values that is missing.
        spread: standard deviation of the logarithm of the emission rates in the prior.
        decay: rate of reaction and deposition, 1/h.
        wind_error: standard deviation of the error of each wind component in the assimilation, km/h.
        seed: of everything random.
        order: of the advection scheme, 2, or 1 for a linear model.
    """

    shape: tuple[int, int] = (24, 32)
    sources: int = 6
    stations: int = 12
    window: int = 24
    forecast: int = 12
    noise: float = 1.0
    missing: float = 0.1
    spread: float = 0.6
    decay: float = 0.1
    wind_error: float = 0.0
    seed: int = 0
    order: int = 2

    @property
    def hours(self) -> int:
        """Hours of window and forecast."""
        return self.window + self.forecast


class Case(NamedTuple):
    """One truth, and what is known of it.

    Args:
        truth: model with the true winds and emission rates.
        model: model with the winds of the assimilation and the median rates of the prior.
        start: true concentration at the start of the window, shape (y, x).
        background: that of a run with median rates.
        observations: hourly, of the stations.
        stations: their cells, shape (stations, 2).
        withheld: cells of the stations that are not assimilated.
        places: centers of the sources, cells, shape (sources, 2).
    """

    truth: AdvectionDiffusion
    model: AdvectionDiffusion
    start: Float[Array, "y x"]
    background: Float[Array, "y x"]
    observations: Observations
    stations: np.ndarray
    withheld: np.ndarray
    places: np.ndarray


def grid() -> Grid:
    """Return the grid of the region, open on all sides."""
    return Grid((SPACING, SPACING), (False, False))


def at_cells(c: Array, cells: Array) -> Array:
    """Return the concentration in some cells."""
    return c[cells[:, 0], cells[:, 1]]


def draw_case(setting: AirQuality2D, index: int) -> Case:
    """Draw winds, sources, stations, emission rates and observations."""
    rng = np.random.default_rng([setting.seed, 11, index])
    wind = _winds(setting, rng)
    given = tuple(w + e for w, e in zip(wind, _wind_errors(setting, rng), strict=True))
    places, patterns = _sources(setting, rng)
    medians = rng.uniform(*RATES, setting.sources)
    chol = np.linalg.cholesky(rate_covariance(setting.hours))
    rates = medians * np.exp(setting.spread * chol @ rng.normal(size=(setting.hours, setting.sources)))
    inside = [range(2, n - 2) for n in setting.shape]
    cells = np.stack(np.meshgrid(*inside, indexing="ij"), axis=-1).reshape(-1, 2)
    cells = rng.permutation(cells)[: 2 * setting.stations]
    truth = _model(setting, wind, rates, patterns)
    model = _model(setting, given, np.tile(medians, (setting.hours, 1)), patterns)
    # The rates of the day before are those of the first hour: the start is consistent with what follows.
    clean = jnp.zeros(setting.shape)
    before = truth.replace(emissions=jnp.asarray(np.tile(rates[0], (setting.hours, 1))))
    start, background = (states_at(m, clean, [SPIN_UP * STEPS])[0] for m in (before, model))
    stations, withheld = np.split(cells, 2)
    rows = states_at(truth, start, _hourly(setting))
    y = _observed(setting, random_stream(setting.seed, Draw.OBSERVATIONS, index), rows, stations, rng)
    return Case(truth, model, start, background, y, stations, withheld, places)


def rate_covariance(hours: int) -> np.ndarray:
    """Return the correlation in time of log rates: a part that is constant, and one that is forgotten."""
    apart = np.abs(np.subtract.outer(np.arange(hours), np.arange(hours)))
    return CONSTANT + (1 - CONSTANT) * np.exp(-apart / CHANGE)


def field_covariance(setting: AirQuality2D, background: Any) -> Gaussian:
    """Return the background-error covariance of the concentrations."""
    return Gaussian(std=setting.spread * background + FIELD_FLOOR, length=FIELD_LENGTH, grid=grid(), nugget=0.0)


def cost_of(setting: AirQuality2D, case: Case, rates: bool = True, bounded: bool = True) -> StrongConstraint4DVar:
    """Return the cost of the first field and, unless `rates` is false, of all hourly rates (above zero if bounded)."""
    medians = case.model.emissions[0]
    prior: Any = Kronecker(
        Dense.from_matrix(jnp.asarray(rate_covariance(setting.hours))), Diagonal(std=setting.spread * medians)
    )
    priors = {"emissions": Bounded(prior, lower=0.0) if bounded else prior} if rates else None
    B = field_covariance(setting, case.background)
    return StrongConstraint4DVar(
        case.model, case.background, B, case.observations, parameters=priors, steps=setting.window * STEPS
    )


def _hourly(setting: AirQuality2D) -> np.ndarray:
    return STEPS * np.arange(1, setting.window + 1)


def _observed(setting: AirQuality2D, key: Any, rows: Any, stations: np.ndarray, rng: Any) -> Observations:
    cells = jnp.asarray(stations)
    exact = rows[:, cells[:, 0], cells[:, 1]]
    values = exact + setting.noise * jax.random.normal(key, exact.shape, exact.dtype)
    values = jnp.where(jnp.asarray(rng.uniform(size=exact.shape) < setting.missing), jnp.nan, values)
    return Observations(values, _hourly(setting), operator=Function(at_cells, cells), error=Diagonal(std=setting.noise))


def _model(setting: AirQuality2D, wind: Any, rates: Any, patterns: Any) -> AdvectionDiffusion:
    return AdvectionDiffusion(
        wind=tuple(jnp.asarray(w) for w in wind), diffusivity=DIFFUSIVITY, emissions=jnp.asarray(rates),
        patterns=jnp.asarray(patterns), decay=setting.decay, inflow=0.0, grid=grid(), dt=1 / STEPS, hold=STEPS,
        order=setting.order,
    )  # fmt: skip


def _winds(setting: AirQuality2D, rng: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return hourly winds across the faces, from a streamfunction at the corners: they diverge nowhere."""
    hour = np.arange(setting.hours)[:, None, None]
    y, x = np.meshgrid(*(SPACING * np.arange(n + 1) for n in setting.shape), indexing="ij")
    toward, phase, sense = rng.uniform(0, 2 * np.pi), rng.uniform(0, 2 * np.pi), rng.choice([-1, 1])
    angle = sense * 2 * np.pi * hour / 24 + phase
    u, v = (WIND[0] * f(toward) + WIND[1] * f(angle) for f in (np.cos, np.sin))
    shift = rng.uniform(0, 2 * np.pi, 2)
    eddies = np.sin(2 * np.pi * x / 50 + shift[0]) * np.sin(2 * np.pi * y / 50 + shift[1])
    psi = u * y - v * x + WIND[2] * 50 / (2 * np.pi) * eddies
    return -np.diff(psi, axis=2) / SPACING, np.diff(psi, axis=1) / SPACING


def _wind_errors(setting: AirQuality2D, rng: Any) -> np.ndarray:
    """Return errors of the two components, the same everywhere, correlated over some hours."""
    correlation = np.exp(-np.abs(np.subtract.outer(np.arange(setting.hours), np.arange(setting.hours))) / CHANGE)
    errors = np.linalg.cholesky(correlation) @ rng.normal(size=(setting.hours, 2))
    return setting.wind_error * errors.T[:, :, None, None]


def _sources(setting: AirQuality2D, rng: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return centers, and the concentration that one kg/h adds in an hour: stacks and areas in turn."""
    height, width = setting.shape
    y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    # Not near the edges, and apart from each other: one in each of as many strips.
    column = np.linspace(0.2, 0.8, setting.sources)[rng.permutation(setting.sources)] * (width - 1)
    row = np.linspace(0.2, 0.8, setting.sources)[rng.permutation(setting.sources)] * (height - 1)
    places = np.column_stack([row, column]).round().astype(int)
    widths = np.where(np.arange(setting.sources) % 2, 1.5, 0.2)[:, None, None]  # cells; 0.2: all in one
    squared = (y - places[:, 0, None, None]) ** 2 + (x - places[:, 1, None, None]) ** 2
    patterns = np.exp(-0.5 * squared / widths**2)
    patterns = patterns / patterns.sum(axis=(1, 2), keepdims=True)
    return places, patterns * 1e9 / (SPACING**2 * 1e6 * MIXING)
