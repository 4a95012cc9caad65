"""Where an array that lies in parts on many devices is not finite."""

from __future__ import annotations

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.core import processes
from diffassim.core.errors import DataError

__all__ = ["require_finite_parts"]


def require_finite_parts(name: str, tree: Any) -> None:
    """Raise in all processes if an array is not finite in one of them; every process looks at its own parts only.

    Args:
        name: of the pytree, for the message.
        tree: pytree of arrays, whole or in parts; every process has to call this.

    Raises:
        DataError: naming process, device, path and first index of what is not finite.

    Example:
        >>> require_finite_parts("state", {"x": jnp.ones(3)})
        >>> require_finite_parts("state", {"x": jnp.asarray([1.0, jnp.nan])})
        Traceback (most recent call last):
        ...
        diffassim.core.errors.DataError: state['x'][1] is nan on rank 0 (device 0): 1 of 2 values there are not finite
    """
    told = [json.loads(text) for text in processes.exchange("finite parts", json.dumps(_bad_parts(tree)))]
    for number, parts in enumerate(told):
        for path, index, value, device, bad, size in parts:
            place = f"[{', '.join(map(str, index))}]" if index else ""
            raise DataError(
                f"{name}{path}{place} is {value} on rank {number} (device {device}): {bad} of {size} values there are "
                "not finite"
            )


def _bad_parts(tree: Any) -> list[tuple[str, list[int], str, int, int, int]]:
    """Return path, first index, value and device of the parts on this process that are not finite."""
    found = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf)
        if not jnp.issubdtype(array.dtype, jnp.inexact):
            continue
        for shard in array.addressable_shards:
            bad = ~np.isfinite(np.asarray(shard.data).astype(np.result_type(shard.data.dtype, np.float32)))
            if bad.any():
                inside = np.unravel_index(int(np.argmax(bad)), bad.shape)
                index = [int(k) + (part.start or 0) for k, part in zip(inside, shard.index, strict=True)]
                value = str(np.asarray(shard.data)[inside])
                name = jax.tree_util.keystr(path)
                found.append((name, index, value, shard.device.id, int(bad.sum()), bad.size))
    return found
