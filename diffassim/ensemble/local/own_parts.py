"""Local analyses in parts on several processes, each of which searches for the points of its own devices only."""

from __future__ import annotations

import itertools
import json
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from diffassim.core import processes
from diffassim.core.exchange import plan_exchange, stacked_exchanges
from diffassim.core.layout import Layout
from diffassim.core.sharding import placed
from diffassim.ensemble.local.parts import Parts, cuts_for, moves, renumbered, slots_of, widths_for
from diffassim.ensemble.local.search import LARGEST, within_reach

__all__ = ["partition_own"]

SAMPLED = 4096  # points, spread over all, whose observations say how many others have


def partition_own(method: Any, shape: tuple[int, ...], sets: Any, values: int, layout: Layout) -> Parts | None:
    """Plan the analysis of all points, as `partition` does, by all processes together.

    A process searches for what lies near a sample of the points, from which the pieces are cut, and near the points of
    its own devices. Which observations these need is told to all, as ranges of numbers; the lists themselves stay where
    they were made.

    Args:
        method: `DomainFilter`.
        shape: of the grid's axes.
        sets: different sets of (places, whether observed) of a record.
        values: observed values of one time.
        layout: of the ensemble, on several processes.

    Returns:
        `Parts`, its arrays on the devices, with a leading axis of sets where there are several; None where a search
        does not pay, or its result would not fit in memory.
    """
    if not sets:
        return None
    sets = [(places, seen & np.isfinite(places).all(axis=1)) for places, seen in sets]
    with jax.ensure_compile_time_eval():
        points = np.asarray(method.grid.points(shape))
        plan = _planned(method, shape, sets, points, layout)
        if plan is None:
            return None
        cuts, moving = plan
        own = {k: points[cuts[k] : cuts[k + 1]] for k in layout.own}
        lists = [
            {k: _near(method, shape, piece, *each) for k, piece in own.items()} for each in sets
        ]  # by set and device
        width = _largest(max(near.shape[1] for near_of in lists for near in near_of.values()), 1)
        return _parts(lists, (cuts, moving), values, _agreed_widths(lists, values), width, layout, len(points))


def _agreed_widths(lists: list[dict[int, np.ndarray]], values: int) -> tuple[int, ...]:
    counts = np.concatenate([(near < values).sum(axis=1) for near_of in lists for near in near_of.values()])
    most = _largest(int(counts.max(initial=0)), 1)
    own = json.dumps([int((counts <= -(-most // 4)).sum()), len(counts)])
    told = [json.loads(text) for text in processes.exchange("observations near points", own)]
    return widths_for(most, sum(few for few, _ in told) / max(sum(all_of for _, all_of in told), 1))


def _planned(method: Any, shape: Any, sets: Any, points: np.ndarray, layout: Layout) -> tuple[np.ndarray, bool] | None:
    """Return where the points are cut, as the first process finds it, and whether some move."""
    stride = max(1, len(points) // SAMPLED)
    sample = points[::stride]
    found: list[Any] = [within_reach(method.localization, method.grid, shape, sample, *each) for each in sets]
    plan: list[Any] = []
    if all(near is not None for near in found):
        counts = np.max([(near < len(each[0])).sum(axis=1) for near, each in zip(found, sets, strict=True)], axis=0)
        bytes_of_one = 4 * int(counts.max(initial=1)) * -(-len(points) // layout.devices) * len(layout.own)
        if len(sets) * bytes_of_one <= LARGEST:
            cuts, moving = cuts_for(np.repeat(counts, stride)[: len(points)], layout.devices)
            plan = [cuts.tolist(), moving]
    agreed = json.loads(processes.exchange("the cuts between points", json.dumps(plan))[0])
    return (np.asarray(agreed[0]), bool(agreed[1])) if agreed else None


def _near(method: Any, shape: Any, piece: np.ndarray, places: np.ndarray, seen: np.ndarray) -> np.ndarray:
    found = within_reach(method.localization, method.grid, shape, piece, places, seen, always=True)
    assert found is not None
    return found


def _parts(
    lists: list[dict[int, np.ndarray]], plan: tuple[np.ndarray, bool], values: int, widths: tuple[int, ...], width: int,
    layout: Layout, points: int,
) -> Parts:  # fmt: skip
    cuts, moving = plan
    devices, most, per = layout.devices, int(np.diff(cuts).max()), -(-points // layout.devices)
    owned = -(-values // devices)
    exchanges, slots = [], []
    for near_of in lists:
        mine = {k: _numbers(near, values) for k, near in near_of.items()}
        needed = _told_to_all(mine, devices)
        exchange, places = plan_exchange(needed, owned)
        exchanges.append(exchange)
        slots.append({k: slots_of(near, mine[k], places[k], values, most) for k, near in near_of.items()})
    exchange, moved = stacked_exchanges(exchanges)
    none = np.iinfo(np.int32).max
    near = {
        k: np.stack(
            [
                np.pad(renumbered(own[k], move), ((0, 0), (0, width - own[k].shape[1])), constant_values=none)
                for own, move in zip(slots, moved, strict=True)
            ]
        )
        for k in slots[0]
    }
    there, back = moves(cuts, per, most) if moving else (None, None)
    if len(lists) == 1:
        near, exchange = {k: rows[0] for k, rows in near.items()}, jax.tree.map(lambda leaf: leaf[0], exchange)
    axis = int(len(lists) > 1)

    def put(x: Any, axis: int) -> Any:
        place = NamedSharding(layout.mesh, PartitionSpec(*(None,) * axis, layout.names))
        return jax.tree.map(lambda leaf: placed(np.asarray(leaf), place), x)

    return Parts(_own_rows(near, axis, most, layout), put(exchange, axis), put(there, 0), put(back, 0), widths)


def _own_rows(rows: dict[int, np.ndarray], axis: int, most: int, layout: Layout) -> Any:
    """Return an array in parts of which this process has made those of its own devices."""
    place = NamedSharding(layout.mesh, PartitionSpec(*(None,) * axis, layout.names))
    one = next(iter(rows.values()))
    shape = (*one.shape[:axis], layout.devices * most, *one.shape[axis + 1 :])
    return jax.make_array_from_callback(shape, place, lambda index: rows[(index[axis].start or 0) // most])


def _numbers(near: np.ndarray, values: int) -> np.ndarray:
    numbers = np.unique(near)
    return numbers[numbers < values]


def _told_to_all(mine: dict[int, np.ndarray], devices: int) -> list[np.ndarray]:
    """Return the numbers that each device needs, of all processes."""
    ranges = {k: _ranges(numbers) for k, numbers in mine.items()}
    length = _largest(max((len(found) for found in ranges.values()), default=0), 1)
    table = np.zeros((devices, length, 2), np.int32)
    for k, found in ranges.items():
        table[k, : len(found)] = found
    whole = np.asarray(multihost_utils.process_allgather(table)).max(axis=0)  # zeros where somebody else knows
    return [
        np.concatenate([np.arange(a, b) for a, b in itertools.chain([(0, 0)], rows)]).astype(np.int64) for rows in whole
    ]


def _ranges(numbers: np.ndarray) -> np.ndarray:
    """Return ascending numbers as ranges (first, last + 1), shape (count, 2)."""
    if not len(numbers):
        return np.zeros((0, 2), np.int32)
    begins = np.flatnonzero(np.diff(numbers, prepend=numbers[0] - 2) > 1)
    ends = np.append(begins[1:], len(numbers)) - 1
    return np.stack([numbers[begins], numbers[ends] + 1], axis=-1).astype(np.int32)


def _largest(number: int, least: int) -> int:
    """Return the largest of the numbers of all processes."""
    return max(least, *map(int, processes.exchange("the largest number", str(number))))
