"""Every choice there is, for small cases and to judge other searches by."""

from __future__ import annotations

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from diffassim.core.checks import count_of
from diffassim.core.errors import ConfigurationError
from diffassim.core.pytree import Pytree, static
from diffassim.diagnostics.placement.prospects import Prospects

__all__ = ["Exhaustive"]


class Exhaustive(Pytree):
    """Compare all sets of so many candidates.

    Args:
        most: sets that may be compared (static).

    Raises:
        ConfigurationError: if there are more.

    Example:
        >>> import diffassim as da
        >>> prior = da.gaussian.Gaussian(jnp.zeros(3), jnp.diag(jnp.array([1.0, 3.0, 2.0])))
        >>> found = da.diagnostics.place_sensors(
        ...     prior, lambda x: x, da.covariances.Diagonal(std=1.0), 2, method=Exhaustive()
        ... )
        >>> found.chosen.tolist(), bool(found.bound == found.reduction)
        ([1, 2], True)
    """

    most: int = static(default=200_000)

    def __post_init__(self) -> None:
        self._set(most=count_of("Exhaustive: most", self.most, least=1))

    def search(self, prospects: Prospects, count: int) -> tuple[Int[Array, " count"], Any]:
        """Return the numbers of the best candidates, and what they take away: nothing exceeds it."""
        places = np.flatnonzero(np.asarray(prospects.possible))
        number = math.comb(places.size, count)
        if number > self.most:
            raise ConfigurationError(
                f"Exhaustive: there are {number} ways to choose {count} of {places.size} candidates, more than "
                f"most={self.most}; Relaxation bounds what is possible without trying all"
            )
        sets = jnp.asarray(np.array(list(itertools.combinations(places, count)), np.int32))
        found = _all(prospects, sets)
        best = jnp.argmax(found)
        return _in_order(prospects, sets[best]), found[best]


@jax.jit
def _all(prospects: Prospects, sets: Any) -> Any:
    return jax.lax.map(prospects.reduction, sets, batch_size=256)


def _in_order(prospects: Prospects, chosen: Any) -> Any:
    """Return a set with the most useful candidate first."""
    order = jnp.argsort(-prospects.gains()[chosen], stable=True)
    return chosen[order]
