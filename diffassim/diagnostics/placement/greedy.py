"""One candidate after the other, each the best that is left."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

from diffassim.core.pytree import Pytree
from diffassim.diagnostics.placement.prospects import Prospects

__all__ = ["Greedy"]


class Greedy(Pytree):
    """Choose the best candidate given those before, again and again: one pass over all candidates for each sensor.

    It is also the adaptive rule where sensors are placed one at a time: the covariance after an observation does not
    depend on its value. The loss against the best set is bounded where gains only fall (submodularity), as those of
    information do; those of variance need not, and `Exchange` repairs what is lost.

    Example:
        >>> import diffassim as da
        >>> prior = da.gaussian.Gaussian(jnp.zeros(3), jnp.diag(jnp.array([1.0, 3.0, 2.0])))
        >>> found = da.diagnostics.place_sensors(
        ...     prior, lambda x: x, da.covariances.Diagonal(std=1.0), 2, method=Greedy()
        ... )
        >>> found.chosen.tolist()
        [1, 2]

    Source: Nemhauser, Wolsey and Fisher (1978); Krause, Singh and Guestrin (2008).
    """

    def search(self, prospects: Prospects, count: int) -> tuple[Int[Array, " count"], Any]:
        """Return the numbers of the chosen candidates, and None: no bound is known."""
        return _greedy(prospects, count), None


@partial(jax.jit, static_argnums=1)
def _greedy(prospects: Prospects, count: int) -> Any:
    def step(carry: Any, _: Any) -> Any:
        C, free = carry
        j = jnp.argmax(jnp.where(free, prospects.gains(C), -jnp.inf)).astype(jnp.int32)
        return (prospects.with_one(C, j), free.at[j].set(False)), j

    return lax.scan(step, (prospects.nothing, prospects.possible), length=count)[1]
