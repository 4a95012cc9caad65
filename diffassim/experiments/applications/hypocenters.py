"""Where and when an earthquake was: a Gaussian inversion of arrival times with medium and station terms unknown too."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from diffassim.core.pytree import Pytree
from diffassim.covariances import Blocks, Diagonal
from diffassim.observations import Function, Huber, Observations
from diffassim.variational import GaussNewton, ThreeDVar, minimize

__all__ = ["Location", "Medium", "Setting", "grid_search", "locate", "travel_time"]

SHORTEST = 0.01  # km: the travel time has no derivative at distance zero


class Medium(NamedTuple):
    """Velocity that grows linearly with depth.

    Args:
        speed: at sea level, km/s.
        gradient: 1/s.
    """

    speed: Any
    gradient: Any


def travel_time(source: Float[Array, "... 3"], receiver: Float[Array, "... 3"], medium: Medium) -> Float[Array, ...]:
    r"""Return the travel time of the direct wave, an arc of a circle where velocity grows linearly with depth.

    .. math:: t = \frac1g \operatorname{arcosh}\Big(1 + \frac{g^2 d^2}{2\, v_s v_r}\Big)

    with the straight distance d and the velocities at both ends.

    Args:
        source: east, north and depth below sea level, km.
        receiver: likewise.
        medium: its gradient must not be zero.

    Example:
        >>> a, b = jnp.zeros(3), jnp.array([3.0, 4.0, 0.0])
        >>> float(travel_time(a, b, Medium(5.0, 1e-4)).round(4))  # nearly homogeneous: 5 km at 5 km/s
        1.0

    Source: Lay and Wallace (1995), section 3.1.
    """
    squared = jnp.sum(jnp.square(source - receiver), axis=-1) + SHORTEST**2
    at_source, at_receiver = (medium.speed + medium.gradient * place[..., 2] for place in (source, receiver))
    excess = jnp.square(medium.gradient) * squared / (2 * at_source * at_receiver)
    # arcosh(1 + x) without the loss of digits at small x.
    return jnp.log1p(excess + jnp.sqrt(excess * (2 + excess))) / medium.gradient


class Setting(Pytree):
    """What is known before an event is located.

    Args:
        event: number of each pick's event, shape (picks,).
        station: number of its station.
        time: of the pick, s after the event's first; NaN where it is not used.
        std: of its error, s.
        station_place: east, north, depth (minus elevation), km, shape (stations, 3).
        place: of the events, background, shape (events, 3).
        place_std: of its error.
        origin: time of the events, background, s after the first pick.
        origin_std: of its error, s, shape (events,).
        medium: background.
        medium_std: of its error.
        station_std: of the station terms, s.
        threshold: of the Huber norm, in standard deviations.
    """

    event: Any
    station: Any
    time: Any
    std: Any
    station_place: Any
    place: Any
    place_std: Any
    origin: Any
    origin_std: Any
    medium: Medium = Medium(5.0, 0.05)
    medium_std: Medium = Medium(0.6, 0.03)
    station_std: Any = 0.15
    threshold: Any = 2.0


class Location(NamedTuple):
    """Posterior of one event.

    Args:
        place: east, north, depth, km.
        covariance: of the place, shape (3, 3).
        origin: time, s after the first pick.
        medium: velocity and gradient.
        converged: whether the search did.
    """

    place: Any
    covariance: Any
    origin: Any
    medium: Medium
    converged: Any


@jax.jit
def locate(setting: Setting, event: Any) -> Location:
    """Return the location of an event, with all events, the medium and the station terms estimated together.

    3D-Var of the places and origin times of all events, the medium and the station terms; the error of a pick is
    Gaussian up to the threshold, and weighs in absolutely beyond. The covariance is the inverse of the Gauss-Newton
    Hessian, so that it includes what is not known of medium and stations.

    Args:
        setting: in which the located event has a wide prior, and others that of their catalog.
        event: its number.
    """
    s = setting
    background = {
        "place": s.place, "origin": s.origin, "medium": jnp.stack([s.medium.speed, s.medium.gradient]),
        "station": jnp.zeros(s.station_place.shape[0]),
    }  # fmt: skip
    B = Blocks(
        {
            "place": Diagonal(std=s.place_std), "origin": Diagonal(std=s.origin_std),
            "medium": Diagonal(std=jnp.stack([s.medium_std.speed, s.medium_std.gradient])),
            "station": Diagonal(std=s.station_std),
        }
    )  # fmt: skip
    y = Observations(
        s.time[None], [0], operator=Function(_arrivals, s), error=Diagonal(std=s.std), loss=Huber(s.threshold)
    )
    cost = ThreeDVar(background, B, y)
    solution = minimize(cost, GaussNewton())
    covariance = _covariance(cost, solution.control, event)
    x = solution.state
    return Location(x["place"][event], covariance, x["origin"][event], Medium(*x["medium"]), solution.converged)


def _arrivals(x: dict[str, Array], s: Setting) -> Array:
    """Return the picks of a state."""
    times = travel_time(x["place"][s.event], jnp.asarray(s.station_place)[s.station], Medium(*x["medium"]))
    return x["origin"][s.event] + times + x["station"][s.station]


def _covariance(cost: Any, control: Any, event: Any) -> Array:
    """Return the covariance of the place of an event from the Gauss-Newton Hessian, written out."""
    flat, unravel = ravel_pytree(control)
    J = jax.jacfwd(lambda v: ravel_pytree(cost.residuals(unravel(v)))[0])(flat)
    L = jax.jacfwd(lambda v: cost.state(unravel(v))["place"][event])(flat)
    factor = jax.scipy.linalg.cho_factor(J.T @ J)
    return L @ jax.scipy.linalg.cho_solve(factor, L.T)


def grid_search(
    time: np.ndarray, receiver: np.ndarray, center: np.ndarray, speed: float, half_width: float, step: float
) -> np.ndarray:
    """Return the place of least squares on a grid in a homogeneous medium, at sea level.

    Args:
        time: of the picks, shape (picks,).
        receiver: places of the stations, km, shape (picks, 3).
        center: of the grid, east and north.
        speed: of the medium, km/s.
        half_width: of the grid, km.
        step: between its points.

    Example:
        >>> stations = np.array([[0.0, 9.0, 0.0], [8.0, 0.0, 0.0], [-7.0, -5.0, 0.0], [3.0, -9.0, 0.0]])
        >>> times = np.hypot(stations[:, 0] - 1.0, stations[:, 1] - 2.0) / 5.0
        >>> grid_search(times, stations, np.zeros(2), 5.0, 4.0, 0.5).tolist()
        [1.0, 2.0]
    """
    axis = np.arange(-half_width, half_width + step / 2, step)
    east, north = np.meshgrid(center[0] + axis, center[1] + axis, indexing="ij")
    far = np.sqrt(
        (east[..., None] - receiver[:, 0]) ** 2 + (north[..., None] - receiver[:, 1]) ** 2 + receiver[:, 2] ** 2
    )
    left = time - far / speed
    misfit = np.sum((left - left.mean(axis=-1, keepdims=True)) ** 2, axis=-1)
    best = np.unravel_index(np.argmin(misfit), misfit.shape)
    return np.array([east[best], north[best]])
