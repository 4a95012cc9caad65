"""Local analyses of observations that do not fit in memory: block of points after block of points."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError
from diffassim.core.layout import Layout
from diffassim.core.pytree import Pytree
from diffassim.covariances import Diagonal
from diffassim.ensemble.inflation import as_inflation
from diffassim.ensemble.local.domain import DomainFilter
from diffassim.ensemble.local.search import reach_of, within_reach
from diffassim.methods.account import AnalysisInfo, account
from diffassim.methods.departures import whitened_departures
from diffassim.methods.members import check_ensemble
from diffassim.methods.sequential import require_key
from diffassim.observations import Observations

__all__ = ["BlockPlan", "analyze_in_blocks", "is_binned", "plan_blocks"]

LISTED = 1 << 21  # numbers of observations near points that exist at a time
SAMPLE = 64  # points of the fullest block whose observations are counted beforehand
PIECE = 1 << 18  # points that are put into boxes together


class BlockPlan(NamedTuple):
    """Which points are analysed together.

    order, numbers of the points, box after box; edges, where each box begins, shape (boxes + 1,); boxes, of each store
    the boxes to read, by box; values, the most observations that are read for one box; near, about the most within
    reach of a point; piece, the points that are looked up together.
    """

    order: np.ndarray
    edges: np.ndarray
    boxes: tuple[Any, ...]
    values: int
    near: int
    piece: int


class _Sums(Pytree):
    """What `account` asks of departures, summed over blocks."""

    count: Any
    squares: Any

    def chi_square(self) -> Any:
        return self.squares / jnp.maximum(self.count, 1).astype(self.squares.dtype)


def analyze_in_blocks(method: DomainFilter, ensemble: Any, observations: Any, key: Any = None) -> tuple[Any, Any]:
    """Analyse one time with observations that stay on the disk but for those near a block of points.

    The result is that of `method.analyze` with all observations, up to the order of sums. Prior and posterior are in
    memory; of the observations, and all that is computed from them, only what belongs to one block. Not for
    derivatives: the loop over blocks is one of Python.

    Args:
        method: `LETKF`, `LETKFN`, `LNETF`, `LETPF` or another `DomainFilter`; its taper has a known, finite radius.
        ensemble: prior ensemble, a pytree with a leading member axis, N >= 2.
        observations: `diffassim.io.binned.BinnedObservations`, or a tuple of them, each with an operator of its own.
        key: random key; may be None where nothing is drawn.

    Returns:
        The posterior ensemble and `AnalysisInfo`.

    Raises:
        ConfigurationError: if the method has no such blocks, the ensemble lies in parts on several devices, or the
            observations were binned for another grid.
        ShapeError: if the ensemble does not have the axes of the grid.

    Example:
        >>> import diffassim as da
        >>> from diffassim.io.binned import Reports, bin_observations
        >>> chunks = (Reports(np.ones(5), np.random.default_rng(k).uniform(0, 40, (5, 1)), 1.0) for k in range(4))
        >>> y = bin_observations(chunks, "line.zarr", da.grids.Grid(), (40,), 20.0)
        >>> ensemble = jax.random.normal(jax.random.key(0), (8, 40))
        >>> posterior, info = analyze_in_blocks(da.LETKF(localization=da.ensemble.GaspariCohn(2.0)), ensemble, y)
        >>> posterior.shape, int(info.count)
        ((8, 40), 20)
    """
    name = type(method).__name__
    stores = _checked(method, ensemble, observations)
    ensemble = jax.tree.map(jnp.asarray, check_ensemble(name, ensemble))
    require_key(name, method.random, key)
    shape = method.grid_shape(ensemble)
    plan = plan_blocks(method, shape, stores)
    points = np.asarray(method.grid.points(shape))
    prior = _prior(method, key, ensemble)
    posterior = jax.tree.map(jnp.copy, prior)
    dtype = jax.tree.leaves(ensemble)[0].dtype
    account_for = _Account(stores)
    for box in range(len(plan.edges) - 1):
        boxes = [own[box] for own in plan.boxes]
        found = _block(method, stores, boxes, points[plan.order[plan.edges[box]]], dtype)
        if found is None:
            continue
        streams, places, seen = found
        rows, sums = _seen_by(method, prior, streams, jnp.asarray(places), account_for.new(boxes, streams))
        account_for.add(sums)
        numbers = plan.order[plan.edges[box] : plan.edges[box + 1]]
        for first in range(0, len(numbers), plan.piece):
            piece = numbers[first : first + plan.piece]
            nearest = _listed(method, shape, points[piece], places, seen, plan.piece)
            numbered = np.pad(piece, (0, plan.piece - len(piece)), constant_values=len(points)).astype(np.int32)
            at = jnp.asarray(points[np.minimum(numbered, len(points) - 1)])
            posterior = _with_analyzed(posterior, method, prior, numbered, at, nearest, rows, shape)
    for boxes in account_for.rest():  # near no point
        found = _block(method, stores, boxes, points[0], dtype)
        if found is not None:
            own = account_for.new(boxes, found[0])
            account_for.add(_seen_by(method, prior, found[0], jnp.asarray(found[1]), own)[1])
    sums = _Sums(jnp.asarray(account_for.count), jnp.asarray(account_for.squares, dtype))
    return _finished(method, key, ensemble, prior, posterior, sums, jnp.asarray(account_for.density, dtype))  # type: ignore[no-any-return]


def plan_blocks(method: DomainFilter, shape: tuple[int, ...], observations: Any) -> BlockPlan:
    """Return how `analyze_in_blocks` goes over the points of a grid.

    Args:
        method: a `DomainFilter` whose taper has a known, finite radius.
        shape: of the grid's axes.
        observations: `BinnedObservations`, or a tuple of them, with the same boxes.

    Raises:
        ConfigurationError: if a store was made for another grid, or two have other boxes.
    """
    name, stores = type(method).__name__, _as_stores(observations)
    cells = [store.cells_for(name, method.grid, shape) for store in stores]
    if any(other != cells[0] for other in cells):
        raise ConfigurationError(f"{name}: all binned observations need the same boxes; bin them with the same edge")
    points = np.asarray(method.grid.points(shape))
    box_of = np.concatenate(
        [
            cells[0].numbers(method.grid.embedding(points[first : first + PIECE], shape)[0])
            for first in range(0, len(points), PIECE)
        ]
    )
    order = np.argsort(box_of, kind="stable")
    occupied, edges = np.unique(box_of[order], return_index=True)
    straight = float(method.grid.straight(reach_of(method.localization)))
    boxes = tuple([cells[0].near(box, straight + store.slack) for box in occupied] for store in stores)
    sizes = [[_size(store, near) for near in own] for store, own in zip(stores, boxes, strict=True)]
    read = np.sum(sizes, axis=0)
    fullest = int(np.argmax(read))
    edges = np.append(edges, len(points))
    plan = BlockPlan(order, edges, boxes, int(read[fullest]), 0, 1)
    return _with_piece(plan, method, shape, stores, points, fullest)


def _with_piece(plan: BlockPlan, method: Any, shape: Any, stores: Any, points: np.ndarray, fullest: int) -> BlockPlan:
    """Return a plan that knows how many observations a point of the fullest block has."""
    numbers = plan.order[plan.edges[fullest] : plan.edges[fullest + 1]]
    sample = points[numbers[np.linspace(0, len(numbers) - 1, min(len(numbers), SAMPLE)).astype(int)]]
    parts = [store.read(boxes[fullest]) for store, boxes in zip(stores, plan.boxes, strict=True)]
    places = np.concatenate([part.places for part in parts])
    found = within_reach(
        method.localization, method.grid, shape, sample, places, np.ones(len(places), bool), always=True
    )
    assert found is not None
    near = int((found < len(places)).sum(axis=1).max(initial=0))
    most = int(np.diff(plan.edges).max())
    piece = min(max(1 << int(math.log2(max(LISTED // max(near, 1), 1))), method.batch), most)
    return plan._replace(near=near, piece=piece)


def _checked(method: Any, ensemble: Any, observations: Any) -> tuple[Any, ...]:
    name = type(method).__name__
    if not isinstance(method, DomainFilter):
        raise ConfigurationError(
            f"analyze_in_blocks: {name} does not analyse points on their own; use LETKF, LETKFN, LNETF, LETPF or "
            "LocalEnKF"
        )
    if Layout.of(ensemble) is not None or method.layout is not None:
        raise ConfigurationError(
            f"{name}: analyze_in_blocks takes an ensemble on one device; in parts, `analyze` takes observations that "
            "fit in memory"
        )
    if method.nearest is not None or method.places is not None:
        raise ConfigurationError(
            f"{name}: analyze_in_blocks finds places and what is near in the store; leave `nearest` and `places` out"
        )
    reach_of(method.localization)
    return _as_stores(observations)


def is_binned(observations: Any) -> bool:
    """Return whether observations stay on the disk: what `bin_observations` returns, or a tuple with such."""
    one = observations[0] if isinstance(observations, tuple | list) and observations else observations
    return hasattr(one, "cells_for")


def _as_stores(observations: Any) -> tuple[Any, ...]:
    stores = tuple(observations) if isinstance(observations, tuple | list) else (observations,)
    for store in stores:
        if not is_binned(store):
            raise ConfigurationError(
                f"analyze_in_blocks: observations must be BinnedObservations (bin_observations makes them), found "
                f"{type(store).__name__}"
            )
    if not stores:
        raise ConfigurationError("analyze_in_blocks: there is no store of observations")
    return stores


def _size(store: Any, boxes: np.ndarray) -> int:
    return int((store.starts[boxes + 1] - store.starts[boxes]).sum())


class _Account:
    """Sums over all observations, each of which is counted in the first block that reads it."""

    def __init__(self, stores: Any) -> None:
        self._stores = stores
        self._counted = [np.zeros(len(store.starts) - 1, bool) for store in stores]
        self.count, self.squares, self.density = 0, 0.0, 0.0

    def new(self, boxes: Any, streams: Any) -> jax.Array:
        """Return which observations of these boxes, filled up, have not been counted so far, and count them."""
        found = []
        for store, counted, own, stream in zip(self._stores, self._counted, boxes, streams, strict=True):
            fresh = np.repeat(~counted[own], store.starts[own + 1] - store.starts[own])
            counted[own] = True
            found.append(np.pad(fresh, (0, stream.values.size - len(fresh))))
        return jnp.asarray(np.concatenate(found))

    def add(self, sums: Any) -> None:
        """Add number, squares and log density of a block."""
        self.count += int(sums[0])
        self.squares += float(sums[1])
        self.density += float(sums[2])

    def rest(self) -> Iterator[list[np.ndarray]]:
        """Yield the boxes that no block has read, one at a time."""
        filled = [np.diff(store.starts) > 0 for store in self._stores]
        left = [~counted & there for counted, there in zip(self._counted, filled, strict=True)]
        for box in np.flatnonzero(np.any(left, axis=0)):
            yield [np.array([box] if there[box] else [], np.int64) for there in left]


def _block(method: Any, stores: Any, boxes: Any, somewhere: np.ndarray, dtype: Any) -> Any:
    """Return observations, filled up to one of a few sizes, where their values are, and which of them there are.

    None where there is none.
    """
    parts = [store.read(own) for store, own in zip(stores, boxes, strict=True)]
    if not sum(len(part.values) for part in parts):
        return None
    streams, places, seen = [], [], []
    for store, part in zip(stores, parts, strict=True):
        size = _rounded(len(part.values))
        extra = size - len(part.values)
        there = np.concatenate([part.places, np.broadcast_to(somewhere, (extra, len(somewhere)))])
        values = np.pad(part.values.astype(dtype), (0, extra), constant_values=np.nan)
        error = Diagonal(jnp.asarray(np.pad(part.std.astype(dtype), (0, extra), constant_values=1)))
        operator, where = store.operator_for(method.grid), jnp.asarray(there)[None]
        streams.append(Observations(jnp.asarray(values)[None], [0], operator, error, where=where))
        places.append(there)
        seen.append(np.arange(size) < len(part.values))
    return tuple(streams), np.concatenate(places), np.concatenate(seen)


def _listed(method: Any, shape: Any, points: np.ndarray, places: np.ndarray, seen: np.ndarray, rows: int) -> Any:
    """Return the numbers of what is near each point, filled up to a number of rows, and to one of a few widths."""
    nearest = within_reach(method.localization, method.grid, shape, points, places, seen, always=True)
    assert nearest is not None
    more = (0, rows - len(points)), (0, _rounded(nearest.shape[1]) - nearest.shape[1])
    return jnp.asarray(np.pad(nearest, more, constant_values=len(places)))


def _rounded(size: int) -> int:
    """Return the least of few sizes that is large enough: multiples of four, two to an octave."""
    if size <= 4:
        return 4
    octave = math.floor(math.log2(size - 1))
    half = int(2**octave * 1.5)
    return -(-(half if size <= half else 2 ** (octave + 1)) // 4) * 4


@jax.jit
def _prior(method: DomainFilter, key: Any, ensemble: Any) -> Any:
    return as_inflation(method.inflation).before(method.repaired(key, ensemble))


@jax.jit
def _seen_by(method: DomainFilter, prior: Any, streams: tuple[Any, ...], places: Any, own: Any) -> Any:
    """Return what an analysis takes of the observations of a block; and their number, squares and log density."""
    departures = whitened_departures(prior, streams, method.any_loss)
    mine = departures.replace(
        d=jnp.where(own, departures.d, 0), S=jnp.where(own, departures.S, 0), observed=departures.observed & own
    )
    edges = np.cumsum([0, *(stream.values.size for stream in streams)])
    counted = tuple(
        stream.replace(mask=stream.mask & own[a:b].reshape(stream.mask.shape))
        for stream, a, b in zip(streams, edges[:-1], edges[1:], strict=True)
    )
    squares = mine.chi_square() * mine.count.astype(mine.d.dtype)
    rows = departures.S.T, departures.d, places, departures.observed
    return rows, (mine.count, squares, method.log_likelihood(mine, counted))


@partial(jax.jit, static_argnames="shape", donate_argnums=0)
def _with_analyzed(
    posterior: Any, method: DomainFilter, prior: Any, numbers: Any, points: Any, nearest: Any, rows: Any,
    shape: tuple[int, ...],
) -> Any:  # fmt: skip
    """Return the posterior with the members at some points, in place."""
    ndim = method.grid.ndim

    def flat(leaf: Any) -> Any:
        split = leaf.ndim - ndim
        return leaf.reshape(leaf.shape[0], math.prod(leaf.shape[1:split]), math.prod(leaf.shape[split:]))

    def columns(leaf: Any) -> Any:
        return jnp.transpose(flat(leaf).at[..., numbers].get(mode="clip"), (2, 0, 1))

    def placed(leaf: Any, column: Any) -> Any:
        return flat(leaf).at[..., numbers].set(jnp.transpose(column, (1, 2, 0)), mode="drop").reshape(leaf.shape)

    found = method.analyzed(points, jax.tree.map(columns, prior), nearest, rows, shape)
    return jax.tree.map(placed, posterior, found)


@partial(jax.jit, donate_argnums=4)
def _finished(
    method: DomainFilter, key: Any, ensemble: Any, prior: Any, posterior: Any, sums: _Sums, density: Any
) -> tuple[Any, AnalysisInfo]:
    found = method.finished(key, prior, posterior)[0]
    posterior = tree.select(sums.count > 0, found, ensemble)
    return posterior, account(ensemble, prior, posterior, sums, density)  # type: ignore[arg-type]
