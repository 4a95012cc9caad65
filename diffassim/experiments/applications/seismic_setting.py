"""The twin experiment's ground, sources and receivers, and what is recorded."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffassim.covariances import Diagonal, Gaussian
from diffassim.experiments.framework.twin import Draw, random_stream
from diffassim.grids.grid import Grid
from diffassim.models import AcousticWaves, PointSources, Ricker
from diffassim.observations import Function, Observations
from diffassim.variational import StrongConstraint4DVar

__all__ = ["Seismic2D", "cost_of", "first_guess", "pick_times", "record", "true_model"]

SHAPE = 36, 60  # cells, depth and distance
SPACING = 50.0  # m
LAYER = 8  # absorbing cells
DT = 0.007  # s
EVERY = 3  # steps between two samples of a seismogram
WINDOW = 1.4  # s, between the nominal origin times of two events
RECEIVER_ROW, RECEIVER_EVERY = 1, 2
SURFACE_SPEED, SPEED_GRADIENT = 2000.0, 0.35  # of the start model, m/s and 1/s
NOMINAL_ORIGIN = 0.35  # s after the start of an event's window


class Seismic2D(NamedTuple):
    """What the records were made with, and what is assumed of it.

    Args:
        events: number of sources, one after the other.
        frequency: of the sources, 1/s.
        noise: standard deviation of the records' noise, of the largest pressure.
        anomaly: of the velocity's anomalies in the prior, m/s.
        length: of their correlation, m.
        place_std: of the places in the prior, around the middle of the ground, m.
        origin_std: of the origin times around the nominal ones, s.
        seed: of everything random.
    """

    events: int
    frequency: float
    noise: float
    anomaly: float
    length: float
    place_std: float
    origin_std: float
    seed: int

    @property
    def steps(self) -> int:
        """Number of model steps."""
        return round(self.events * WINDOW / DT)

    @property
    def sampled(self) -> np.ndarray:
        """Steps at which seismograms are sampled."""
        return np.arange(EVERY, self.steps + 1, EVERY)


def grid() -> Grid:
    """Return the grid of the ground."""
    return Grid((SPACING, SPACING), (False, False))


def start_velocity() -> np.ndarray:
    """Return the start model: velocity that grows with depth."""
    depth = (np.arange(SHAPE[0]) + 0.5) * SPACING
    return np.repeat((SURFACE_SPEED + SPEED_GRADIENT * depth)[:, None], SHAPE[1], axis=1)


def receivers() -> np.ndarray:
    """Return the columns of the receivers, all in one row."""
    return np.arange(LAYER + 1, SHAPE[1] - LAYER - 1, RECEIVER_EVERY)


def receiver_places() -> np.ndarray:
    """Return depth and distance of the receivers, m."""
    columns = receivers()
    return SPACING * np.column_stack([np.full(len(columns), RECEIVER_ROW + 0.5), columns + 0.5])


def nominal_origins(setting: Seismic2D) -> np.ndarray:
    """Return the nominal origin times, s."""
    return NOMINAL_ORIGIN + WINDOW * np.arange(setting.events)


def _model(setting: Seismic2D, velocity: Any, places: Any, origins: Any, damping: Any = None) -> AcousticWaves:
    history = Ricker(frequency=setting.frequency, time=jnp.asarray(origins), strength=jnp.asarray(1e4))
    sources = PointSources(jnp.asarray(places), history)
    return AcousticWaves(
        jnp.asarray(velocity), sources, grid(), dt=DT, damping=damping, layer=LAYER, free_surface=True
    )  # fmt: skip


def true_model(setting: Seismic2D) -> AcousticWaves:
    """Return the truth: the start model with bodies that are faster or slower, and sources at random places."""
    rng = np.random.default_rng([setting.seed, 7])
    z, x = np.meshgrid(*((np.arange(n) + 0.5) * SPACING for n in SHAPE), indexing="ij")
    velocity = start_velocity()
    for sign in (1, -1, 1, -1):
        center = rng.uniform([200, 600], [1100, 2400])
        width = rng.uniform(150, 350, 2)
        shape = np.exp(-0.5 * (((z - center[0]) / width[0]) ** 2 + ((x - center[1]) / width[1]) ** 2))
        velocity = velocity * (1 + sign * rng.uniform(0.06, 0.12) * shape)
    places = np.column_stack([
        rng.uniform(500, 1200, setting.events), rng.permutation(np.linspace(750, 2250, setting.events))
    ])  # fmt: skip
    origins = nominal_origins(setting) + rng.uniform(-0.1, 0.1, setting.events)
    return _model(setting, velocity, places, origins)


def first_guess(setting: Seismic2D) -> AcousticWaves:
    """Return the model of the prior means: the start model, sources in the middle at the nominal times."""
    middle = np.array([850.0, SHAPE[1] * SPACING / 2])
    return _model(setting, start_velocity(), np.tile(middle, (setting.events, 1)), nominal_origins(setting))


def _pressure(x: Any, columns: Array) -> Array:
    return x.pressure[RECEIVER_ROW, columns]


@jax.jit
def _seismograms(model: AcousticWaves, rest: Any, steps: Array, columns: Array) -> Array:
    def body(x: Any, t: Array) -> tuple[Any, Array]:
        following = model.step(x, t)
        return following, _pressure(following, columns)

    _, rows = jax.lax.scan(body, rest, steps)
    return rows


def record(setting: Seismic2D, model: AcousticWaves) -> Float[Array, "samples receivers"]:
    """Return the seismograms without noise."""
    rest = model.at_rest(SHAPE)
    rows = _seismograms(model, rest, jnp.arange(setting.steps), jnp.asarray(receivers()))
    return rows[setting.sampled - 1]


def noisy_record(setting: Seismic2D) -> tuple[Float[Array, "samples receivers"], float]:
    """Return the seismograms of the truth with noise, and its standard deviation."""
    exact = record(setting, true_model(setting))
    std = setting.noise * float(jnp.max(jnp.abs(exact)))
    key = random_stream(setting.seed, Draw.OBSERVATIONS)
    return exact + std * jax.random.normal(key, exact.shape, exact.dtype), std


def cost_of(setting: Seismic2D, values: Any, std: float) -> StrongConstraint4DVar:
    """Return the cost of velocity, places and origin times, given seismograms."""
    model = first_guess(setting)
    y = Observations(
        jnp.asarray(values), setting.sampled, operator=Function(_pressure, jnp.asarray(receivers())),
        error=Diagonal(std=std),
    )  # fmt: skip
    priors = {
        "velocity": Gaussian(std=setting.anomaly, length=setting.length, grid=grid(), nugget=0.0),
        "sources.places": Diagonal(std=setting.place_std),
        "sources.history.time": Diagonal(std=setting.origin_std),
    }
    return StrongConstraint4DVar(model, model.at_rest(SHAPE), None, y, parameters=priors)


def pick_times(setting: Seismic2D, values: np.ndarray) -> np.ndarray:
    """Return the times of the largest pressure of each event at each receiver, s, shape (events, receivers)."""
    time = DT * setting.sampled
    found = []
    for start in WINDOW * np.arange(setting.events):
        inside = np.flatnonzero((time >= start) & (time < start + WINDOW))
        found.append(time[inside[np.argmax(np.abs(values[inside]), axis=0)]])
    return np.array(found)
