"""Rows that devices need of each other, planned outside of traced code and sent inside of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffassim.core.pytree import Pytree, static

__all__ = ["Exchange", "plan_exchange", "stacked_exchanges"]


class Exchange(Pytree):
    """Which of its own rows every device sends to the one that stands some places after it.

    Devices hold equal numbers of rows of an array. What a device needs comes as a buffer: the rows of the device that
    stands `offsets[0]` before it, then those of the next, each filled up to a common length with zeros.

    Args:
        sent: for every offset the numbers of own rows, shape (device, count); beyond the end where there are fewer.
        offsets: how far they go (static); 0 is what a device keeps.
        order: places in the buffer in the order in which its rows are wanted, shape (device, count); None: as they
            come.
    """

    sent: tuple[Any, ...]
    offsets: tuple[int, ...] = static()
    order: Any = None

    @property
    def rows(self) -> int:
        """Rows that one device has afterwards."""
        parts = self.sent if self.order is None else (self.order,)
        return sum(int(part.shape[-1]) for part in parts)

    def received(self, x: Any, names: tuple[str, ...], devices: int) -> Any:
        """Return the buffer of this device, within `jax.shard_map`; `self` and x are its parts.

        Args:
            x: pytree of arrays with the own rows on the leading axis.
            names: of the mesh's axes over which the rows are split.
            devices: along these axes.
        """

        def of(leaf: Any) -> Any:
            parts = []
            for numbers, offset in zip(self.sent, self.offsets, strict=True):
                rows = leaf.at[numbers.reshape(-1)].get(mode="fill", fill_value=0)
                if offset:
                    rows = lax.ppermute(rows, names, [(i, (i + offset) % devices) for i in range(devices)])
                parts.append(rows)
            buffer = jnp.concatenate(parts) if parts else leaf[:0]
            if self.order is None:
                return buffer
            return buffer.at[self.order.reshape(-1)].get(mode="fill", fill_value=0)

        return jax.tree.map(of, x)


def plan_exchange(
    needed: Sequence[np.ndarray], owned: int, ordered: int | None = None
) -> tuple[Exchange, list[np.ndarray]]:
    """Plan what is sent so that every device has the rows that it needs.

    Args:
        needed: for every device the numbers of rows of the whole array, each once, in any order.
        owned: rows that a device has; device k has k * owned to (k + 1) * owned - 1.
        ordered: bring the rows into the order of `needed`, filled up with zeros to this many.

    Returns:
        The exchange, its numbers NumPy arrays, and for every device the places of the needed rows in its buffer.

    Example:
        >>> exchange, places = plan_exchange([np.array([0, 2]), np.array([2, 3])], owned=2)
        >>> exchange.offsets, [place.tolist() for place in places]
        ((0, 1), [[0, 2], [0, 1]])
    """
    devices = len(needed)
    lists: dict[int, list[np.ndarray]] = {}
    for to, numbers in enumerate(needed):
        offset = (to - numbers // owned) % devices
        for o in np.unique(offset):
            lists.setdefault(int(o), [np.zeros(0, np.int64)] * devices)[(to - int(o)) % devices] = numbers[offset == o]
    offsets = tuple(sorted(lists))
    longest = {o: max(len(rows) for rows in lists[o]) for o in offsets}
    starts = dict(zip(offsets, np.cumsum([0, *(longest[o] for o in offsets)])[:-1].tolist(), strict=True))
    places = []
    for to, numbers in enumerate(needed):
        offset, place = (to - numbers // owned) % devices, np.zeros(len(numbers), np.int32)
        for o in np.unique(offset):
            chosen = offset == o
            place[chosen] = starts[int(o)] + np.arange(chosen.sum())
        places.append(place)
    sent = [
        np.stack([_filled(rows - k * owned, longest[o], owned) for k, rows in enumerate(lists[o])]) for o in offsets
    ]
    if ordered is None:
        return Exchange(tuple(sent), offsets), places
    none = np.iinfo(np.int32).max
    return Exchange(tuple(sent), offsets, np.stack([_filled(place, ordered, none) for place in places])), places


def stacked_exchanges(exchanges: Sequence[Exchange]) -> tuple[Exchange, list[np.ndarray]]:
    """Return exchanges of several sets on a leading axis, and for each the new place of every place in its buffer."""
    offsets = tuple(sorted({o for exchange in exchanges for o in exchange.offsets}))
    parts = [dict(zip(exchange.offsets, exchange.sent, strict=True)) for exchange in exchanges]
    widths = {o: max(part[o].shape[1] for part in parts if o in part) for o in offsets}
    devices = next(iter(parts[0].values())).shape[0] if parts[0] else 1
    none = np.iinfo(np.int32).max
    sent, moved = [], [np.zeros(0, np.int32)] * len(parts)
    start = 0
    for o in offsets:
        rows = [part.get(o, np.zeros((devices, 0), np.int32)) for part in parts]
        sent.append(np.stack([np.pad(r, ((0, 0), (0, widths[o] - r.shape[1])), constant_values=none) for r in rows]))
        for k, r in enumerate(rows):
            moved[k] = np.concatenate([moved[k], start + np.arange(r.shape[1], dtype=np.int32)])
        start += widths[o]
    return Exchange(tuple(sent), offsets), moved


def _filled(rows: np.ndarray, length: int, beyond: int) -> np.ndarray:
    return np.pad(rows, (0, length - len(rows)), constant_values=beyond).astype(np.int32)
