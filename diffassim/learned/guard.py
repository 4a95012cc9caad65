"""A search from a learned place, and from others beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from diffassim.variational.minimizers.multi_start import MultiStart
from diffassim.variational.minimizers.solution import Minimum

__all__ = ["search_from"]


def search_from(minimizer: Any, cost: Any, learned: Any, others: Sequence[Any], unrolled: bool) -> Minimum:
    """Search from where something learned has led, and from other places if there are any; the lowest cost wins.

    Args:
        minimizer: what searches.
        cost: variational cost.
        learned: control vector.
        others: further control vectors, in parts with a leading axis, for example that of the classical search.
        unrolled: see `minimize`.

    Returns:
        The account of the winner, a `MultiStartMinimum` where there are several, in which search 0 is the one from the
        learned place; `work` is that of all.
    """
    if not others:
        return minimizer.search(cost, learned, unrolled=unrolled)
    starts = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *others)
    return MultiStart(minimizer, starts=starts).search(cost, learned, unrolled=unrolled)
