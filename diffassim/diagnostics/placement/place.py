"""Choose places of sensors, and say what they are worth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from diffassim.core.checks import count_of
from diffassim.core.errors import ConfigurationError, DataError, concrete
from diffassim.core.pytree import Pytree
from diffassim.diagnostics.placement.exchange import Exchange
from diffassim.diagnostics.placement.prospects import Prospects

__all__ = ["Placement", "place_sensors"]


class Placement(Pytree):
    """Chosen candidates; printed as a table.

    Args:
        chosen: their numbers, shape (sensors,).
        reductions: of the goal's variance, summed over its components, by the first one, two, ... of them.
        total: variance of the goal without them.
        bound: what no choice of as many can exceed; None where the search knows none.
    """

    chosen: Int[Array, " sensors"]
    reductions: Float[Array, " sensors"]
    total: Float[Array, ""]
    bound: Any = None

    @property
    def reduction(self) -> Float[Array, ""]:
        """What all of them take away."""
        return self.reductions[-1]

    def __str__(self) -> str:
        whole = float(self.total)
        lines = [f"{'sensors':>8s} {'candidate':>10s} {'variance left, percent':>23s}"]
        for k, (j, r) in enumerate(zip(np.asarray(self.chosen), np.asarray(self.reductions), strict=True)):
            lines.append(f"{k + 1:>8d} {j:>10d} {100 * (1 - r / whole):>23.2f}")
        if self.bound is not None:
            share = 100 * float(self.reduction / self.bound)
            lines.append(f"at least {share:.1f} percent of what any {self.chosen.size} candidates can take away")
        return "\n".join(lines)


def place_sensors(
    prior: Any,
    operator: Callable[..., Any],
    error: Any,
    count: int,
    *,
    goal: Callable[[Any], Any] | None = None,
    values: int = 1,
    method: Any = None,
) -> Placement:
    r"""Return where so many sensors take away most of the variance of a state, or of a forecast from it.

    Everything happens in the space of the prior's columns: k sensors among m candidates with an ensemble of N members
    cost about k m N^2 operations, whatever the size of the state.

    Args:
        prior: ensemble, a pytree with a leading axis of members; or a `Gaussian`. Of a solution,
            `posterior(cost, solution).draw(key, 100)` are members.
        operator: what all candidates would measure of a state; those that are not finite cannot be chosen.
        error: covariance of their errors, which must be independent.
        count: how many sensors (static).
        goal: what is to be known of a state, for instance `LaterState(model, 20)`; default: the state.
        values: numbers that each candidate measures, next to each other in the operator's value (static).
        method: `Exchange` (default), `Greedy`, `Relaxation` (with a bound), or `Exhaustive`.

    Returns:
        `Placement`; `print` it.

    Raises:
        ConfigurationError: if there are fewer candidates than sensors, or errors are correlated.
        DataError: if the goal is not finite, or has no variance.
        ShapeError: if the prior is no ensemble.

    Example:
        Two errors that are one: the second sensor is better placed elsewhere.

        >>> import diffassim as da
        >>> prior = da.gaussian.Gaussian(jnp.zeros(3), jnp.array([[2.0, 2.0, 0.0], [0.0, 0.0, 1.5]]))
        >>> found = place_sensors(prior, lambda x: x, da.covariances.Diagonal(std=1.0), 2)
        >>> found.chosen.tolist(), round(float(found.total - found.reduction), 3)  # 8/5 + 2.25/3.25
        ([0, 2], 2.292)

    Source: Bishop, Etherton and Majumdar (2001); Krause, Singh and Guestrin (2008).
    """
    count = count_of("place_sensors: count", count, least=1)
    prospects = Prospects.of(prior, operator, error, goal=goal, values=values)
    possible = int(np.sum(np.asarray(prospects.possible)))
    if count > possible:
        hidden = prospects.possible.size - possible
        raise ConfigurationError(
            f"place_sensors: {count} sensors for {possible} candidates"
            + (f" ({hidden} more are not finite and cannot be chosen)" if hidden else "")
            + "; ask for fewer, or offer more places"
        )
    total = concrete(prospects.total)
    if total is None or not np.isfinite(total) or total <= 0:
        raise DataError(f"place_sensors: the variance of the goal is {total}; it must be finite and positive")
    chosen, bound = (Exchange() if method is None else method).search(prospects, count)
    return Placement(chosen, _one_by_one(prospects, chosen), prospects.total, bound)


@jax.jit
def _one_by_one(prospects: Prospects, chosen: Any) -> Any:
    def step(C: Any, j: Any) -> Any:
        C = prospects.with_one(C, j)
        return C, prospects.total - jnp.sum(C * prospects.weight)

    return lax.scan(step, prospects.nothing, chosen)[1]
