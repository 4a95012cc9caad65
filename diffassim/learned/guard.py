"""A search from a learned place that is never behind the one from the given place."""

from __future__ import annotations

from typing import Any

import jax

from diffassim.variational.minimizers.multi_start import MultiStart
from diffassim.variational.minimizers.solution import Minimum

__all__ = ["search_from"]


def search_from(minimizer: Any, cost: Any, learned: Any, given: Any, unrolled: bool) -> Minimum:
    """Search from where something learned has led, and from the given start if there is one; the lower cost wins.

    Args:
        minimizer: what searches.
        cost: variational cost.
        learned: control vector.
        given: control vector of the classical search, or None to do without.
        unrolled: see `minimize`.

    Returns:
        The account of the winner, a `MultiStartMinimum` where there are two; `work` is that of both.
    """
    if given is None:
        return minimizer.search(cost, learned, unrolled=unrolled)
    starts = jax.tree.map(lambda leaf: leaf[None], learned)
    return MultiStart(minimizer, starts=starts).search(cost, given, unrolled=unrolled)
