"""Local analyses in parts: every device analyses points of its own, and is sent the observations within their reach."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from diffassim.core.exchange import Exchange, plan_exchange, stacked_exchanges
from diffassim.core.layout import Layout
from diffassim.core.pytree import Pytree, static
from diffassim.core.sharding import placed

__all__ = [
    "Parts",
    "analyze_in_parts",
    "balanced_cuts",
    "cuts_for",
    "moves",
    "partition",
    "renumbered",
    "slots_of",
    "widths_for",
]

BASE = 4.0  # what a point costs beside its observations, in observations
GAIN = 0.8  # of the longest piece, below which points move to another device
CROWDED = 1.5  # times the mean, the points that a device may have at most


class Parts(Pytree):
    """Which points every device analyses, and what it is sent for them.

    Args:
        near: for every point of a device the places in its buffer of values, shape (devices * points, count); beyond
            its end where there are fewer.
        values: sends the observed values.
        points: sends the prior to who analyses it, and `back` the posterior to where it belongs; both None where every
            device keeps its points.
        back: see `points`.
        widths: numbers of observations for which an analysis is compiled (static): a block of points takes the least
            that will do.
    """

    near: Any
    values: Exchange
    points: Exchange | None = None
    back: Exchange | None = None
    widths: tuple[int, ...] = static(default=())


def balanced_cuts(counts: np.ndarray, devices: int) -> np.ndarray:
    """Return where a sequence of points is cut, so that all pieces have about the same work.

    Args:
        counts: observations within reach of each point.
        devices: number of pieces.

    Returns:
        devices + 1 ascending numbers from 0 to the number of points. No piece has more than `CROWDED` times the mean
        number of points, which bounds memory.

    Example:
        >>> balanced_cuts(np.array([100, 100, 0, 0, 0, 0, 0, 0]), 2).tolist()
        [0, 2, 8]
        >>> balanced_cuts(np.zeros(8), 4).tolist()
        [0, 2, 4, 6, 8]
    """
    points = len(counts)
    work = np.concatenate([[0.0], np.cumsum(counts + BASE)])
    cuts = np.searchsorted(work, work[-1] * np.arange(devices + 1) / devices)
    most = int(np.ceil(CROWDED * points / devices)) if devices > 2 else points
    for k in range(1, devices):  # neither too many here nor too many left for the others
        cuts[k] = np.clip(cuts[k], max(cuts[k - 1], points - (devices - k) * most), cuts[k - 1] + most)
    cuts[0], cuts[-1] = 0, points
    return cuts


def cuts_for(counts: np.ndarray, devices: int) -> tuple[np.ndarray, bool]:
    """Return where the points are cut, and whether some then belong to another device than with equal pieces.

    Args:
        counts: observations within reach of each point.
        devices: number of pieces.
    """
    points = len(counts)
    cuts, even = balanced_cuts(counts, devices), np.minimum(-(-points // devices) * np.arange(devices + 1), points)
    total = np.concatenate([[0.0], np.cumsum(counts + BASE)])
    moving = bool(np.diff(total[cuts]).max() < GAIN * np.diff(total[even]).max())
    return (cuts if moving else even), moving


def partition(nearest: np.ndarray, values: int, layout: Layout) -> Parts:
    """Plan the analysis of all points.

    Args:
        nearest: numbers of the observations within reach of each point, ascending, shape (points, count), or with a
            leading axis of sets; beyond the end where there are fewer.
        values: how many observed values there are.
        layout: of the ensemble.

    Returns:
        `Parts`, its arrays on the devices.
    """
    sets = nearest if nearest.ndim == 3 else nearest[None]
    devices, points = layout.devices, sets.shape[1]
    counts = (sets < values).sum(axis=2)
    per = -(-points // devices)
    cuts, moving = cuts_for(counts.max(axis=0), devices)
    most = int(np.diff(cuts).max())
    owned = -(-values // devices)
    plans = [_values_plan(near, values, cuts, most, owned) for near in sets]
    exchange, moved = stacked_exchanges([plan for plan, _ in plans])
    near = np.stack([renumbered(slots, move) for (_, slots), move in zip(plans, moved, strict=True)])
    there = back = None
    if moving:
        there, back = moves(cuts, per, most)
    if nearest.ndim == 2:
        near, exchange = near[0], jax.tree.map(lambda leaf: leaf[0], exchange)
    most_values = max(int(counts.max()), 1)
    widths = widths_for(most_values, float((counts <= -(-most_values // 4)).mean()))
    return Parts(
        _put(near, layout, nearest.ndim - 2), _put(exchange, layout, nearest.ndim - 2), _put(there, layout, 0),
        _put(back, layout, 0), widths,
    )  # fmt: skip


def analyze_in_parts(method: Any, parts: Parts | None, points: Any, columns: Any, rows: Any, shape: Any) -> Any:
    """Return the posterior columns, analysed by the devices that `parts` says.

    Args:
        method: `DomainFilter` with a layout.
        parts: from `partition`; None: every device has all observations.
        points: coordinates of all points, shape (points, D).
        columns: members at all points, leaves of shape (points, N, channels).
        rows: anomalies, innovations, places and masks of the values, on leading axes.
        shape: of the grid's axes.
    """
    layout = method.layout
    count, devices = points.shape[0], layout.devices
    filled = partial(jax.tree.map, partial(_filled_up, devices=devices))
    over, whole = PartitionSpec(layout.names), PartitionSpec()
    bare = method.replace(nearest=None, parts=None)

    def analyze(bare: Any, parts: Any, nearest: Any, points: Any, columns: Any, rows: Any) -> Any:
        if parts is None:
            return bare.analyzed(points, columns, nearest, rows, shape)
        names = layout.names
        buffer = parts.values.received(rows, names, devices)
        if parts.points is not None:
            points, columns = parts.points.received((points, columns), names, devices)
        found = bare.analyzed(points, columns, parts.near, buffer, shape, parts.widths)
        return found if parts.back is None else parts.back.received(found, names, devices)

    sent = whole if parts is None else over
    run = jax.shard_map(
        analyze, mesh=layout.mesh, in_specs=(whole, over, over, over, over, sent), out_specs=over, check_vma=False
    )
    nearest = filled(method.nearest) if parts is None else None  # given where it could not be planned with
    found = run(bare, parts, nearest, filled(points), filled(columns), rows if parts is None else filled(rows))
    return jax.tree.map(lambda leaf: leaf[:count], found)


def _values_plan(near: np.ndarray, values: int, cuts: np.ndarray, most: int, owned: int) -> tuple[Exchange, np.ndarray]:
    """Return the exchange of values for one set, and the places in the buffers, shape (devices * most, count)."""
    needed, pieces = [], [near[a:b] for a, b in itertools.pairwise(cuts)]
    for piece in pieces:
        numbers = np.unique(piece)
        needed.append(numbers[numbers < values])
    exchange, places = plan_exchange(needed, owned)
    found = [slots_of(piece, needed[k], places[k], values, most) for k, piece in enumerate(pieces)]
    return exchange, np.concatenate(found)


def slots_of(piece: np.ndarray, needed: np.ndarray, places: np.ndarray, values: int, most: int) -> np.ndarray:
    """Return for the points of a device where in its buffer their observations are, shape (most, count).

    Args:
        piece: numbers of the observations near each point.
        needed: those that occur in it, ascending.
        places: of these in the buffer.
        values: how many there are; larger numbers stand for none.
        most: points of a device, beyond whose own there are none.
    """
    none = np.iinfo(np.int32).max
    found = np.full((most, piece.shape[1]), none, np.int32)
    if len(needed):
        at = np.minimum(np.searchsorted(needed, piece), len(needed) - 1)
        found[: len(piece)] = np.where(piece < values, places[at], none)
    found.sort(axis=1)  # what stands for none comes last, also where somebody else searched
    return found


def renumbered(slots: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Return places in a buffer as they are in the one that holds those of several sets."""
    if not len(moved):
        return slots
    known = slots < len(moved)
    return np.where(known, moved[np.where(known, slots, 0)], slots).astype(np.int32)


def moves(cuts: np.ndarray, per: int, most: int) -> tuple[Exchange, Exchange]:
    """Return the exchanges from equal pieces of `per` points to those between the cuts, and back."""
    devices, points = len(cuts) - 1, int(cuts[-1])
    pieces = [np.arange(a, b) for a, b in itertools.pairwise(cuts)]
    rows = np.concatenate([k * most + np.arange(len(piece)) for k, piece in enumerate(pieces)])
    own = [rows[min(k * per, points) : min((k + 1) * per, points)] for k in range(devices)]
    return plan_exchange(pieces, per, most)[0], plan_exchange(own, most, per)[0]


def widths_for(most: int, share: float) -> tuple[int, ...]:
    """Return the numbers of observations for which an analysis is compiled.

    Args:
        most: observations of a point.
        share: of the points that have no more than a quarter of them.
    """
    return (0, most) if share < 0.25 else (0, -(-most // 4), most)


def _filled_up(leaf: Any, devices: int) -> Any:
    missing = -leaf.shape[0] % devices
    return jnp.pad(leaf, [(0, missing)] + [(0, 0)] * (leaf.ndim - 1), mode="edge") if missing else leaf


def _put(x: Any, layout: Layout, axis: int) -> Any:
    place = NamedSharding(layout.mesh, PartitionSpec(*(None,) * axis, layout.names))
    with jax.ensure_compile_time_eval():
        return jax.tree.map(lambda leaf: placed(np.asarray(leaf), place), x)
