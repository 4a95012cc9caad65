"""Thinning: no more than a few values in each cell of a grid."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from diffassim.core.errors import ShapeError, require_positive
from diffassim.core.pytree import static
from diffassim.observations.checks import Check, Subject, like, places_of
from diffassim.observations.flags import QCFlag

__all__ = ["Thinning"]


class Thinning(Check):
    """Flag 16: more than `count` values of one time in the same cell; the first ones in their order stay.

    Args:
        spacing: edge lengths of the cells, in the unit of the places, shape (D,).
        count: how many values a cell may keep at each time, a run-time integer.
        origin: a corner of a cell; default 0.
        places: as for `Domain` (static); one place for each value.

    Raises:
        ConfigurationError: if a length is not positive, or the count is.
    """

    spacing: Any
    count: Any = 1
    origin: Any = 0.0
    places: Any = static(default=None)
    flag: ClassVar[QCFlag] = QCFlag.THINNED

    def __post_init__(self) -> None:
        require_positive("Thinning.spacing", self.spacing)
        require_positive("Thinning.count", self.count)

    def fails(self, subject: Subject) -> Bool[Array, "time ..."]:
        """Return which values are too many."""
        where = places_of("Thinning", subject.stream, self.places)
        if where.shape[:-1] != subject.stream.values.shape:
            raise ShapeError(
                f"Thinning: places of shape {where.shape} do not give one to each value of shape "
                f"{subject.stream.values.shape}"
            )
        cells = jnp.floor((where - like(self.origin, where)) / like(self.spacing, where)).astype(jnp.int32)
        rows = where.shape[0]
        alive = subject.alive.reshape(rows, -1)
        return jax.vmap(self._too_many)(cells.reshape(rows, alive.shape[1], -1), alive).reshape(subject.alive.shape)

    def _too_many(self, cells: Any, alive: Any) -> Any:
        """Return the values of one time that have `count` others of their cell before them."""
        size = cells.shape[0]
        order = jnp.lexsort((*cells.T, ~alive))  # stable: within a cell, the order of the record
        ordered = cells[order]
        place = jnp.arange(size, dtype=jnp.int32)
        new = jnp.concatenate([jnp.ones(min(size, 1), bool), jnp.any(ordered[1:] != ordered[:-1], axis=1)])
        rank = place - jax.lax.cummax(jnp.where(new, place, 0))
        return alive & (jnp.zeros(size, jnp.int32).at[order].set(rank) >= jnp.asarray(self.count, jnp.int32))
