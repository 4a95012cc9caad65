"""The twin experiment on the sphere: the forced model and its climate, the network, what is observed."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffassim.covariances import Diagonal
from diffassim.experiments.applications.globe_start import MEAN_HEIGHT, two_jets
from diffassim.experiments.framework.twin import random_stream
from diffassim.grids.sphere import Sphere
from diffassim.models import rollout
from diffassim.models.base import Model
from diffassim.models.spherical_shallow_water import ShallowWaterState, gaussian_grid, spherical_shallow_water
from diffassim.observations import InterpolateOnSphere, Observations

__all__ = [
    "DAY", "FIELDS", "MEAN_STATES", "WINDOW", "GlobeSetting", "Network", "Purpose", "RelaxedModel", "area_weights",
    "axes_of", "climate_runs", "draw_network", "forced_model", "land_density", "observe_day", "satellite_track",
]  # fmt: skip

FIELDS = ("u", "v", "height")
STEP = 3600.0  # s, of the model
WINDOW = 6  # steps
DAY = 24  # steps
EVERY = 6  # steps between two reports of a station
# Centers (latitude, longitude) and widths in degrees of what stands for land: where stations and warm air are.
LAND = ((50, -100, 25), (55, 40, 25), (50, 95, 25), (-15, -60, 20), (5, 20, 22), (-25, 135, 15))
ISLANDS = 0.05  # density of stations on the open sea, of that in the middle of land
INCLINATION, PERIOD = 98.2, 101.0  # of the satellite's orbit, degrees and minutes
SPIN_UP, APART = 24, 5  # days until the climate is stationary, and between two states that are taken from a run
MEAN_STATES = 5  # states of each run that the climate is made of


class Purpose:
    """First numbers of the random streams."""

    CLIMATE = 11
    NETWORK = 12
    ERRORS = 13


class GlobeSetting(NamedTuple):
    """What the truth is made with, and what observes it.

    Args:
        truncation: largest degree of the spherical harmonics.
        members: of an ensemble; as many runs make the climate.
        relaxation: time scale of the relaxation towards the jets, days.
        damping: time scale at which the smallest scales are damped, hours.
        contrast: of the height to which land and sea are relaxed, m.
        strength: of the jets that the flow is relaxed to, as a factor.
        stations: number of stations.
        points: of the satellite in an hour.
        wind_error: standard deviation of the stations' errors, m/s.
        height_error: the same, m.
        satellite_error: standard deviation of the satellite's errors, m.
        missing: part of the stations' values that is missing.
        clouds: part of the satellite's values that is missing.
        outage: part of the windows without the satellite.
        seed: of everything random.
    """

    truncation: int = 21
    members: int = 24
    relaxation: float = 10.0
    damping: float = 96.0
    contrast: float = 300.0
    strength: float = 1.3
    stations: int = 80
    points: int = 12
    wind_error: float = 2.0
    height_error: float = 10.0
    satellite_error: float = 20.0
    missing: float = 0.1
    clouds: float = 0.3
    outage: float = 0.1
    seed: int = 0


class RelaxedModel(Model):
    r"""A model whose state is drawn towards a target after each step, so that it has a climate.

    .. math:: x_{k+1} = \mathcal M(x_k) + r\, (x_* - \mathcal M(x_k))

    Args:
        model: \(\mathcal M\).
        target: \(x_*\), a state.
        rate: r, the step over the time scale.

    Source: the Newtonian relaxation of Held and Suarez (1994), of the whole state.
    """

    model: Any
    target: Any
    rate: Any

    @property
    def dt(self) -> Any:
        """Length of a step, in `time_units`."""
        return self.model.dt

    @property
    def time_units(self) -> str:  # type: ignore[override]
        """Unit of dt."""
        return self.model.time_units

    def step(self, x: Any, t: Any) -> Any:
        """Advance by dt."""

        def drawn(y: Array, target: Array) -> Array:
            return y + jnp.asarray(self.rate, y.dtype) * (jnp.asarray(target, y.dtype) - y)

        return jax.tree.map(drawn, self.model.step(x, t), self.target)

    def variables(self) -> Any:
        """Return the metadata of the state."""
        return self.model.variables()


class Network(NamedTuple):
    """Who observes.

    Args:
        stations: latitude and longitude, degrees, shape (stations, 2).
        node, phase: longitude of the satellite's ascending node, and its place in the orbit at hour 0, degrees.
    """

    stations: np.ndarray
    node: float
    phase: float


def axes_of(setting: GlobeSetting) -> tuple[Sphere, np.ndarray, np.ndarray]:
    """Return the grid, its latitudes and its longitudes, degrees."""
    sphere: Any = gaussian_grid(setting.truncation)
    return sphere, np.asarray(sphere.latitude)[:, 0], np.asarray(sphere.longitude)


def area_weights(latitudes: int, longitudes: int) -> Float[np.ndarray, "lat 1"]:
    """Return the share of the sphere of a point of the Gaussian grid."""
    return np.polynomial.legendre.leggauss(latitudes)[1][:, None] / (2 * longitudes)


def land_density(latitude: Any, longitude: Any) -> Any:
    """Return how much a place is land, from 0 on the open sea to about 1: six round continents."""
    phi, total = np.radians(latitude), 0.0
    for center, meridian, width in LAND:
        c = np.radians(center)
        cosine = np.sin(phi) * np.sin(c) + np.cos(phi) * np.cos(c) * np.cos(np.radians(longitude - meridian))
        total = total + np.exp(-0.5 * (np.degrees(np.arccos(np.clip(cosine, -1, 1))) / width) ** 2)
    return total


def forced_model(setting: GlobeSetting) -> RelaxedModel:
    """Return the model: shallow water, relaxed to a jet on each hemisphere and to land that is warmer than the sea."""
    base = spherical_shallow_water(setting.truncation, dt=STEP, mean_height=MEAN_HEIGHT, damping=setting.damping * 3600)
    jets = two_jets(jax.random.key(0), setting.truncation)
    _, latitude, longitude = axes_of(setting)
    weights = area_weights(latitude.size, longitude.size)
    land = land_density(latitude[:, None], longitude)
    land = land - np.sum(weights * land)

    def zonal(field: Array) -> Array:
        return jnp.broadcast_to(jnp.mean(field, axis=-1, keepdims=True), field.shape)

    height = MEAN_HEIGHT + setting.strength * (zonal(jets.height) - MEAN_HEIGHT) + setting.contrast * jnp.asarray(land)
    target = ShallowWaterState(setting.strength * zonal(jets.u), 0 * jets.v, height)
    return RelaxedModel(base, target, STEP / (86400 * setting.relaxation))


def climate_runs(setting: GlobeSetting, model: RelaxedModel, runs: int) -> ShallowWaterState:
    """Return states of runs that start from jets with bumps at random places, after the climate has become stationary.

    Returns:
        Fields of shape (runs, states, latitude, longitude), the states some days apart.
    """
    key = random_stream(setting.seed, Purpose.CLIMATE)
    return _climate(model, jax.random.split(key, runs), setting.truncation)


@partial(jax.jit, static_argnums=2)
def _climate(model: RelaxedModel, keys: Array, truncation: int) -> ShallowWaterState:
    days = SPIN_UP + APART * np.arange(MEAN_STATES)

    def one(key: Array) -> Any:
        return rollout(model, two_jets(key, truncation), int(DAY * days[-1]), at=DAY * days)

    return jax.vmap(one)(keys)


def draw_network(setting: GlobeSetting) -> Network:
    """Draw stations with the density of land, and the orbit of the satellite."""
    rng = np.random.default_rng([setting.seed, Purpose.NETWORK])
    latitude = np.degrees(np.arcsin(rng.uniform(-1, 1, 40 * setting.stations)))
    longitude = rng.uniform(0, 360, latitude.size)
    density = ISLANDS + land_density(latitude, longitude)
    chosen = rng.choice(latitude.size, setting.stations, replace=False, p=density / density.sum())
    return Network(np.stack([latitude[chosen], longitude[chosen]], axis=-1), *rng.uniform(0, 360, 2))


def satellite_track(setting: GlobeSetting, network: Network, hours: np.ndarray) -> Float[np.ndarray, "hours points 2"]:
    """Return the places below the satellite: `points` of each hour, those of the hour before the full one.

    Args:
        setting: of the experiment.
        network: with the orbit.
        hours: whole numbers.
    """
    minutes = 60 * (hours[:, None] - 1 + (np.arange(setting.points) + 0.5) / setting.points)
    along, tilt = np.radians(network.phase + 360 * minutes / PERIOD), np.radians(INCLINATION)
    latitude = np.degrees(np.arcsin(np.sin(tilt) * np.sin(along)))
    from_node = np.degrees(np.arctan2(np.cos(tilt) * np.sin(along), np.cos(along)))
    return np.stack([latitude, (network.node + from_node - 360 * minutes / (24 * 60)) % 360], axis=-1)


def observe_day(
    setting: GlobeSetting, network: Network, truth: ShallowWaterState, run: int, day: int
) -> tuple[Observations, Observations]:
    """Return what stations and satellite observe of a day, with errors and gaps.

    Args:
        setting: of the experiment.
        network: who observes.
        truth: states of the steps 0 to 24, leading axis time.
        run: number of the truth; other truths have other errors.
        day: number of the day from the start of the run.

    Returns:
        Winds and height at the stations, and height below the satellite; steps count from the start of the day.
    """
    rng = np.random.default_rng([setting.seed, Purpose.ERRORS, run, day])
    _, latitude, longitude = axes_of(setting)
    steps = np.arange(EVERY, DAY + 1, EVERY)
    where = np.broadcast_to(network.stations, (steps.size, *network.stations.shape))
    std = np.array([setting.wind_error, setting.wind_error, setting.height_error])[:, None]
    gaps = rng.uniform(size=(steps.size, 3, setting.stations)) < setting.missing
    stations = _observed(InterpolateOnSphere(latitude, longitude, FIELDS), truth, steps, where, std, gaps, rng)
    hours = np.arange(1, DAY + 1)
    track = satellite_track(setting, network, DAY * day + hours)
    lost = np.repeat(rng.uniform(size=DAY // WINDOW) < setting.outage, WINDOW)
    gaps = (rng.uniform(size=(DAY, 1, setting.points)) < setting.clouds) | lost[:, None, None]
    height = np.full((1, 1), setting.satellite_error)
    satellite = _observed(InterpolateOnSphere(latitude, longitude, FIELDS[2:]), truth, hours, track, height, gaps, rng)
    return stations, satellite


def _observed(
    operator: Any, truth: Any, steps: np.ndarray, where: np.ndarray, std: np.ndarray, gaps: np.ndarray, rng: Any
) -> Observations:
    rows = jax.tree.map(lambda field: jnp.asarray(field)[steps], truth)
    exact = np.asarray(_equivalents(operator, rows, jnp.asarray(where)))
    values = np.where(gaps, np.nan, exact + std * rng.normal(size=exact.shape)).astype(exact.dtype)
    return Observations(
        values, steps, operator, Diagonal(std=jnp.asarray(std, exact.dtype)), where=jnp.asarray(where, exact.dtype)
    )


@jax.jit
def _equivalents(operator: Any, rows: Any, where: Any) -> Array:
    return jax.vmap(operator)(rows, where)
