"""The iterative ensemble Kalman smoother with a local analysis at every grid point."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffassim.core.checks import count_of
from diffassim.core.errors import ConfigurationError, concrete, require_finite
from diffassim.core.linalg import safe_sqrt
from diffassim.core.pytree import Pytree, static
from diffassim.ensemble.local.domain import from_columns, to_columns
from diffassim.ensemble.local.letkf import LETKF
from diffassim.ensemble.local.search import FEW, search_sets, within_reach
from diffassim.ensemble.smoothers.ienks import IEnKS, Search, sensitivities, updated
from diffassim.grids.grid import Grid
from diffassim.methods.departures import Departures, flat
from diffassim.methods.members import transformed

__all__ = ["LocalIEnKS"]


class LocalIEnKS(IEnKS):
    r"""An `IEnKS` with weights of its own at every grid point, from observations that count less with distance.

    With the taper \(\rho_g = \mathrm{diag}\, \rho(|r_g - r_j + k_j u|)\) of point g for observations at the places
    \(r_j\) and steps \(k_j\) of the window, every point minimizes

    .. math:: J_g(w) = \tfrac12 d^\top \rho_g d + \tfrac{N - 1}{2} |w|^2,\quad
              \bar x(g) = \bar x_f(g) + X_f(g)^\top w_g

    by Gauss-Newton, all points together: in each iteration the members of all local analyses are run through the
    window. A step that raises the cost of a point is halved there. What is at a point at the window start is seen
    elsewhere later on: with the velocity u, in units of distance a step, the domains move with the flow, without it
    they stay.

    With a taper that is one everywhere this is the `IEnKS`; over a window without dynamics the first iteration is that
    of the `LETKF`. Further ones take d from the trajectory of all local analyses together: each point corrects what the
    others have left, so that they end at a solution of their own also in linear cases.

    Args:
        inflation, rotation, tolerance, max_iterations, bundle, finite_size: as for `IEnKS`; `tolerance` is that of
            the root mean square over all points.
        localization: taper, for example `GaspariCohn(radius)`: a function of distance.
        grid: `Grid`, `Sphere` or `ProductGrid` of the state; default: a periodic line of unit spacing.
        places: coordinates of the observations, shape (m, D), or a tuple with one entry (or None) for each stream;
            None where the operator knows them.
        velocity: u, one number for each coordinate, or one for all.
        batch: grid points that are worked on together (static).
        nearest: numbers of the observations that may be used at each point, shape (points, count). By default those
            within reach of the taper are searched once, outside of traced code, if places, steps and radius are known
            there.

    Raises:
        ConfigurationError: if there is no localization, or as `IEnKS` does.

    Example:
        >>> import diffassim as da
        >>> y = da.Observations(jnp.full((2, 40), 8.0), [1, 2], error=da.covariances.Diagonal(std=1.0))
        >>> ensemble = 8 + jax.random.normal(jax.random.key(0), (7, 40))
        >>> method = LocalIEnKS(localization=da.ensemble.GaspariCohn(8.0), velocity=0.3)
        >>> _, x_a, info = method.analyze(None, da.models.Lorenz96(), ensemble, y, 0, 2, [0, 2])
        >>> bool(info.analysis_spread < info.background_spread), x_a.shape
        (True, (7, 2, 40))

    Source: Bocquet (2016), local analyses with static and with covariant local domains; otherwise as `IEnKS`.
    """

    localization: Any = None
    grid: Any = Grid()
    places: Any = None
    velocity: Any = 0.0
    batch: int = static(default=128)
    nearest: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_finite("LocalIEnKS: velocity", self.velocity)
        if not callable(self.localization):
            raise ConfigurationError(
                "LocalIEnKS: localization must be a taper like GaspariCohn(radius), found "
                f"{self.localization!r}; without one use IEnKS"
            )
        count_of("LocalIEnKS: batch", self.batch, least=1)

    @property
    def local(self) -> LETKF:
        """What knows taper, grid and places."""
        return LETKF(localization=self.localization, grid=self.grid, places=self.places, batch=self.batch)

    def check(self, ensemble: Any, observations: Any, steps: int) -> None:
        """Check what the window needs, and the places."""
        super().check(ensemble, observations, steps)
        self.local.check(ensemble, observations)

    def space(self, prior: Any, streams: tuple[Any, ...]) -> Any:
        """Return the space of the weights of all points."""
        local = self.local
        shape = local.grid_shape(prior)
        origin = self.origin(local.stream_places(streams, shape), _steps_of(streams))
        return _AtEveryPoint(self, self.grid.points(shape), origin, shape)

    def origin(self, places: Any, steps: Any) -> Any:
        """Return where at the window start is what is seen at these places and steps."""
        return places - jnp.asarray(self.velocity, places.dtype) * steps[:, None].astype(places.dtype)

    def prepared(self, ensemble: Any, windows: tuple[Any, ...]) -> tuple[Any, Any]:
        """Return the method that knows what lies within reach of each point in every window."""
        if self.nearest is not None:
            return self, None
        shape = self.local.grid_shape(ensemble)
        found = _search(self, shape, windows)
        return (self, None) if found is None else (self.replace(nearest=found[0]), found[1])

    def at(self, number: Any) -> Any:
        """Return the method for a window that has the set of places of this number."""
        return self.replace(nearest=self.nearest[number])


class _AtEveryPoint(Pytree):
    """The space of weights that every point has for itself; searches have a leading axis of points."""

    method: LocalIEnKS
    points: Any
    places: Any  # of the values, moved back to the window start
    shape: tuple[int, ...] = static()

    def start(self, prior: Any, dtype: Any) -> Search:
        """Return the searches at the prior."""
        one = Search.at_prior(len(jax.tree.leaves(prior)[0]), dtype)
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(self.points), *leaf.shape)), one)

    def members(self, prior: Any, w: Any, T: Any) -> Any:
        """Return the members with these weights of the mean and transforms of the anomalies at every point."""
        columns = jax.tree.map(lambda leaf: to_columns(leaf, self.method.grid.ndim), prior)
        moved = jax.vmap(transformed)(columns, w[:, None] + T)
        return jax.tree.map(from_columns, moved, prior)

    def updated(self, search: Search, departures: Departures) -> Search:
        """Return the searches after a step, from the departures of the members that they have tried together."""
        method = self.method

        def at_point(point: Any) -> Search:
            place, own, numbers = point
            S, d, there, seen = departures.S, departures.d, self.places, departures.observed
            if numbers is not None:
                S = S.at[:, numbers].get(mode="fill", fill_value=0)
                d, seen = (a.at[numbers].get(mode="fill", fill_value=0) for a in (d, seen))
                there = there.at[numbers].get(mode="clip")
            root = safe_sqrt(jnp.where(seen, method.local.taper(place[None], there, self.shape, d.dtype), 0))
            return updated(own, d * root, sensitivities(own, S, method.bundle) * root[None], method.finite_size)

        points = self.points, search, method.nearest
        local = jax.checkpoint(at_point)
        if len(self.points) <= method.batch:
            return jax.vmap(local)(points)
        return lax.map(local, points, batch_size=method.batch)

    def log_likelihood(self, departures: Departures, streams: tuple[Any, ...]) -> Any:
        """Return the sum of the log densities of the single values, as all methods with a taper do."""
        return self.method.local.log_likelihood(departures, streams)


def _steps_of(streams: tuple[Any, ...]) -> Any:
    """Return the time of every value in steps, in the order of the departures."""
    found = []
    for stream in streams:
        time = jnp.asarray(stream.steps)
        if stream.fraction is not None:
            fraction = jnp.asarray(stream.fraction)
            time = _aligned(time, fraction).astype(fraction.dtype) + fraction
        for leaf in jax.tree.leaves(stream.values):
            found.append(jnp.broadcast_to(_aligned(time, leaf), leaf.shape).ravel())
    return jnp.concatenate(found)


def _aligned(a: Any, like: Any) -> Any:
    """Return an array with axes added at its end, as many as another has."""
    return a.reshape(a.shape + (1,) * (jnp.ndim(like) - a.ndim))


def _search(method: LocalIEnKS, shape: tuple[int, ...], windows: tuple[Any, ...]) -> Any:
    """Return numbers of the values within reach of each point, and the set of each window; None where all are used."""
    size = sum(leaf[0].size for stream in windows for leaf in jax.tree.leaves(stream.values))
    if size <= FEW or any(concrete(leaf) is None for leaf in jax.tree.leaves((windows, method.velocity))):
        return None
    points = np.asarray(method.grid.points(shape))
    of_places = [(stream.operator, stream.where, stream.steps, stream.fraction) for stream in windows]
    decisive = [np.asarray(leaf) for leaf in jax.tree.leaves(of_places)]
    sets: list[Any] = []
    numbers: dict[tuple[bytes, ...], int] = {}
    which = []
    try:
        for k in range(len(windows[0].steps)):
            window = jax.tree.map(lambda leaf, k=k: leaf[k], windows)
            number = numbers.setdefault(tuple(leaf[k].tobytes() for leaf in decisive), len(sets))
            if number == len(sets):
                places = method.origin(method.local.stream_places(window, shape), _steps_of(window))
                sets.append((np.asarray(places), np.zeros(size, bool)))
            sets[number][1][np.asarray(flat([stream.mask for stream in window]))] = True
            which.append(number)

        def find(places: Any, seen: Any) -> Any:
            return within_reach(method.localization, method.grid, shape, points, places, seen)

        return search_sets(sets, which, find)
    except ConfigurationError:  # a grid without a search
        return None
