"""A greedy choice, improved by exchanging one sensor at a time."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

from diffassim.core.checks import count_of
from diffassim.core.pytree import Pytree, static
from diffassim.diagnostics.placement.greedy import Greedy
from diffassim.diagnostics.placement.prospects import Prospects

__all__ = ["Exchange", "exchanged"]

MARGIN = 1e3  # units of rounding by which an exchange must be better


class Exchange(Pytree):
    """Take each sensor out in turn, and put it where it helps most given the others, until none moves.

    Args:
        sweeps: most rounds over all sensors (static).

    Example:
        >>> import diffassim as da
        >>> prior = da.gaussian.Gaussian(jnp.zeros(3), jnp.diag(jnp.array([1.0, 3.0, 2.0])))
        >>> found = da.diagnostics.place_sensors(prior, lambda x: x, da.covariances.Diagonal(std=1.0), 2)
        >>> sorted(found.chosen.tolist())
        [1, 2]

    Source: Fedorov (1972), chapter 3.
    """

    sweeps: int = static(default=20)

    def __post_init__(self) -> None:
        self._set(sweeps=count_of("Exchange: sweeps", self.sweeps, least=1))

    def search(self, prospects: Prospects, count: int) -> tuple[Int[Array, " count"], Any]:
        """Return the numbers of the chosen candidates, and None: no bound is known."""
        start, _ = Greedy().search(prospects, count)
        return exchanged(prospects, start, self.sweeps), None


@jax.jit
def exchanged(prospects: Prospects, start: Any, sweeps: Any) -> Int[Array, " count"]:
    """Return a set from which no exchange of one sensor leads to a better one.

    Args:
        prospects: of the candidates.
        start: numbers of those to begin with.
        sweeps: most rounds.
    """
    count, margin = start.shape[0], MARGIN * jnp.finfo(prospects.weight.dtype).eps * prospects.total

    def move(i: Any, chosen: Any) -> Any:
        def other(shift: Any, C: Any) -> Any:
            return prospects.with_one(C, chosen[(i + shift) % count])

        C = lax.fori_loop(1, count, other, prospects.nothing)
        free = prospects.possible.at[chosen].set(False).at[chosen[i]].set(True)
        gains = jnp.where(free, prospects.gains(C), -jnp.inf)
        best = jnp.argmax(gains).astype(jnp.int32)
        return chosen.at[i].set(jnp.where(gains[best] > gains[chosen[i]] + margin, best, chosen[i]))

    def going(carry: Any) -> Any:
        return carry[1] & (carry[2] < sweeps)

    def sweep(carry: Any) -> Any:
        chosen = lax.fori_loop(0, count, move, carry[0])
        return chosen, jnp.any(chosen != carry[0]), carry[2] + 1

    return lax.while_loop(going, sweep, (start, jnp.asarray(True), jnp.zeros((), jnp.int32)))[0]
