"""What lies within reach of what, found outside of traced code by a search tree, once for a whole record."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.core.errors import ConfigurationError, concrete
from diffassim.ensemble.local.places import places_by_row
from diffassim.ensemble.local.tapers import Taper

__all__ = [
    "CHUNK",
    "FEW",
    "reach_of",
    "search_record",
    "search_sets",
    "sets_of_record",
    "values_at_a_time",
    "within_reach",
]

FEW = 128  # values of one time among which nothing is searched
SAMPLE = 32  # places for which all others are looked at, to see whether a search pays
CHUNK = 1 << 17  # places that are searched for at a time, so that what is found of all never exists beside distances
ROUND = 4  # numbers come in multiples of this many, so that other places seldom compile anew
LARGEST = 1 << 31  # bytes of numbers that may be kept for a record

Finder = Callable[[np.ndarray, np.ndarray], Any]


def search_record(
    method: Any, shape: tuple[int, ...], streams: tuple[Any, ...], rows: Any, real: Any, find: Finder
) -> Any:
    """Search for every set of places that a record has.

    Args:
        method: `LocalizedMethod` that knows taper, grid and given places.
        shape: of the grid's axes.
        streams: the record, a tuple of `Observations`.
        rows: for each stream, the rows of every time, shape (time, rows); None: all rows hold for one time.
        real: for each stream, False where a row is padding; None: none is.
        find: (places (m, D), whether observed (m,)) -> arrays of numbers, or None where it does not pay.

    Returns:
        Numbers with a leading axis of sets, and which set each time has, shape (time,); the second is None where one
        set holds for all, and the first has no such axis then. None in place of both where places or taper are traced
        or not known, or a search does not pay.
    """
    try:
        sets, which = sets_of_record(method, shape, streams, rows, real)
        return search_sets(sets, which, find)
    except ConfigurationError:  # a grid without a search: the analysis does without
        return None


def sets_of_record(method: Any, shape: tuple[int, ...], streams: tuple[Any, ...], rows: Any, real: Any) -> Any:
    """Return the different sets of (places, whether observed) of a record, and which of them each time has.

    Arguments as for `search_record`. There are none where they are not known, or a search does not pay.
    """
    if values_at_a_time(streams, rows) <= FEW or _reach(method.localization) is None:
        return [], []
    try:
        with jax.ensure_compile_time_eval():
            return _sets(method, shape, streams, rows, real)
    except ConfigurationError:  # places that are not known
        return [], []


def search_sets(sets: Any, which: Any, find: Finder) -> Any:
    """Search in different sets of places; see `search_record`.

    Args:
        sets: list of (places, whether observed).
        which: the set of each time, a list of numbers.
        find: as for `search_record`.

    Returns:
        As `search_record` does.

    Raises:
        ConfigurationError: if the grid has no search.
    """
    with jax.ensure_compile_time_eval():
        found = [find(places, seen & np.isfinite(places).all(axis=1)) for places, seen in sets]
    if not found or any(numbers is None for numbers in found):
        return None
    if len(found) * sum(part.nbytes for part in jax.tree.leaves(found[0])) > LARGEST:
        return None
    with jax.ensure_compile_time_eval():
        if len(found) == 1:
            return jax.tree.map(jnp.asarray, found[0]), None
        return jax.tree.map(lambda *parts: jnp.asarray(_stacked(parts)), *found), jnp.asarray(which, jnp.int32)


def within_reach(
    taper: Any, grid: Any, shape: tuple[int, ...], places: np.ndarray, others: np.ndarray, seen: np.ndarray,
    always: bool = False,
) -> np.ndarray | None:  # fmt: skip
    """Return for each place the numbers of the others at which a taper is not zero, in ascending order.

    Args:
        taper: `Taper` of a known radius.
        grid: `Grid` or `Sphere` that says what a distance is.
        shape: of a field's trailing axes.
        places: shape (q, D).
        others: shape (m, D).
        seen: which of the others count, shape (m,).
        always: search also where most of the others lie within reach of some place.

    Returns:
        Shape (q, count), filled up with m; None where most of the others lie within reach of some place.
    """
    from scipy.spatial import cKDTree  # here, because it takes a while to import

    reach, numbers = _reach(taper), np.flatnonzero(seen)
    if reach is None:
        return None

    def apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.asarray(_distance(grid, a, b, shape))

    if not len(numbers) or not len(places):
        return np.full((len(places), 1), len(others), np.int32)
    known, queries = others[numbers], places[np.linspace(0, len(places) - 1, min(len(places), SAMPLE)).astype(int)]
    wanted = int((apart(queries[:, None], known[None]) < reach).sum(axis=1).max()) + ROUND
    coordinates, lengths = grid.embedding(known, shape)
    tree = cKDTree(coordinates, boxsize=lengths)
    pieces = []
    for piece in np.array_split(places, -(-len(places) // CHUNK)):
        asked, near = grid.embedding(piece, shape)[0], None
        while near is None:
            if 2 * wanted > len(numbers) and not always:
                return None
            wanted = min(wanted, len(numbers))
            _, found = tree.query(asked, k=np.arange(1, wanted + 1))
            if wanted < len(numbers) and (apart(piece, known[found[:, -1]]) < reach).any():
                wanted *= 2
            else:
                near = apart(piece[:, None], known[found]) < reach
        count = int(near.sum(axis=1).max())
        chosen = np.where(near, numbers[found], len(others)).astype(np.int32)
        pieces.append(np.sort(chosen, axis=1)[:, : max(count, 1)])
    count = -(-max(piece.shape[1] for piece in pieces) // ROUND) * ROUND
    return np.concatenate(
        [np.pad(piece, ((0, 0), (0, count - piece.shape[1])), constant_values=len(others)) for piece in pieces]
    )


def values_at_a_time(streams: tuple[Any, ...], rows: Any) -> int:
    """Return how many values, padding included, one time of a record has; arguments as for `search_record`."""
    return sum(
        leaf[:1].size * (stream.steps.shape[0] if rows is None else rows[k].shape[1])
        for k, stream in enumerate(streams)
        for leaf in jax.tree.leaves(stream.values)
    )


@partial(jax.jit, static_argnums=3)
def _distance(grid: Any, a: Any, b: Any, shape: tuple[int, ...]) -> Any:
    return grid.distance(a, b, shape)


def _reach(taper: Any) -> float | None:
    """Return the distance from which on a taper is zero, None where it is not known or infinite."""
    radius = concrete(taper.radius) if isinstance(taper, Taper) else None
    if radius is None or radius.ndim or not np.isfinite(radius):
        return None
    return taper.reach * float(radius)


def reach_of(taper: Any) -> float:
    """Return the distance from which on a taper is zero; raise `ConfigurationError` where it is infinite or traced."""
    reach = _reach(taper)
    if reach is None:
        raise ConfigurationError(
            f"{type(taper).__name__}: an analysis in blocks needs a taper with one finite radius that is known outside "
            "of traced code"
        )
    return reach


def _sets(method: Any, shape: tuple[int, ...], streams: tuple[Any, ...], rows: Any, real: Any) -> Any:
    """Return the different sets of (places, observed) of a record, and which of them each time has."""
    if rows is None:
        rows = [np.arange(stream.steps.shape[0])[None] for stream in streams]
        real = [np.ones(own.shape, bool) for own in rows]
    rows, real = ([concrete(part) for part in parts] for parts in (rows, real))
    leaves: list[tuple[Any, ...]] = []  # places by row, masks by row, rows and whether they are real by time
    for k, (stream, own) in enumerate(zip(streams, method.given_places(streams), strict=True)):
        for places, mask in zip(
            places_by_row(stream, method.grid, shape, own), jax.tree.leaves(stream.mask), strict=True
        ):
            leaf = (concrete(places), _known_mask(mask), rows[k], real[k])
            if any(part is None for part in leaf):
                return [], []
            leaves.append(leaf)
    if all(len(places) == 1 for places, _, _, _ in leaves):
        everywhere = [np.repeat(at, own.shape[1], axis=0).reshape(-1, at.shape[-1]) for at, _, own, _ in leaves]
        ever = [(mask[own] & there[..., None]).any(axis=0).ravel() for _, mask, own, there in leaves]
        return [(np.concatenate(everywhere), np.concatenate(ever))], [0] * len(rows[0])
    sets: list[Any] = []
    numbers: dict[bytes, int] = {}
    which = []
    for time in range(len(rows[0])):
        places = np.concatenate([_rows_of(at, own[time]) for at, _, own, _ in leaves])
        seen = np.concatenate([(mask[own[time]] & there[time][:, None]).ravel() for _, mask, own, there in leaves])
        number = numbers.setdefault(places.tobytes(), len(sets))
        if number == len(sets):
            sets.append((places, np.zeros(len(places), bool)))
        sets[number][1][seen] = True
        which.append(number)
    return sets, which


def _rows_of(places: np.ndarray, rows: np.ndarray) -> np.ndarray:
    chosen = places[rows] if len(places) > 1 else np.repeat(places, len(rows), axis=0)
    return chosen.reshape(-1, places.shape[-1])


def _known_mask(mask: Any) -> np.ndarray:
    known = concrete(mask)
    return (np.ones(np.shape(mask), bool) if known is None else known).reshape(np.shape(mask)[0], -1)


def _stacked(parts: Any) -> np.ndarray:
    """Return arrays of numbers on one leading axis; the largest number of each stands for none."""
    widest = max(part.shape[1] for part in parts)
    fill = np.iinfo(np.int32).max
    return np.stack([np.pad(part, ((0, 0), (0, widest - part.shape[1])), constant_values=fill) for part in parts])
