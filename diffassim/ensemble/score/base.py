"""What the score filter and the flow filter share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from diffassim.core import tree
from diffassim.core.checks import count_of
from diffassim.core.errors import require_positive
from diffassim.core.pytree import static
from diffassim.ensemble.base import EnsembleMethod
from diffassim.ensemble.score.reverse import geometric_levels
from diffassim.methods.departures import Departures, whitened_innovation

__all__ = ["TransportFilter"]


class TransportFilter(EnsembleMethod):
    """Base of the filters that carry members from noise to the posterior, the observations guiding every step.

    H is evaluated and linearized anew at every noise level, so that it may be nonlinear. The units of the noise are the
    spread of the prior.

    Args:
        inflation, rotation: as for `EnsembleMethod`.
        steps: noise levels (static).
        iterations: of the conjugate gradients with which each level solves for the influence of the observations
            (static). One is exact where every value sees one component and the prior has no covariances.
        largest: largest noise, in units of the prior's spread.
        batch: members that are carried together (static); None: all. Where states are large, few fit into the caches of
            a processor.

    Raises:
        ConfigurationError: if there are fewer than two levels or one iteration, the largest noise is not positive, or
            a batch has no member.
    """

    steps: int = static(default=16)
    iterations: int = static(default=10)
    largest: Any = 10.0
    batch: int | None = static(default=None, kw_only=True)

    by_departures: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        count_of(f"{name}: steps", self.steps, least=2)
        count_of(f"{name}: iterations", self.iterations, least=1)
        if self.batch is not None:
            count_of(f"{name}: batch", self.batch, least=1)
        require_positive(f"{name}: largest", self.largest, "10 leaves nothing of the prior to be seen.")

    def each(self, function: Callable[..., Any], *members: Any) -> Any:
        """Return what a function makes of every member, a batch of them at a time."""
        N = jax.tree.leaves(members)[0].shape[0]
        if self.batch is None or self.batch >= N:
            return jax.vmap(function)(*members)
        return lax.map(lambda one: function(*one), members, batch_size=self.batch if self.batch > 1 else None)

    def levels(self, signal: Any) -> Float[Array, " steps"]:
        """Return the noise levels, down to a quarter of the smallest spread that the posterior has.

        Args:
            signal: largest variance of what is observed, over that of its error.
        """
        return geometric_levels(jnp.asarray(self.largest, signal.dtype), 0.25 / jnp.sqrt(1 + signal), self.steps)

    def innovation(self, streams: tuple[Any, ...]) -> Callable[[Any], Float[Array, " m"]]:
        """Return the whitened innovation of a state that stands beside its companions."""
        whitened = whitened_innovation(streams)
        return lambda x: whitened(x[0])


def component_signal(departures: Departures) -> Float[Array, ""]:
    """Return the largest variance of an observed value over that of its error."""
    N = departures.S.shape[0]
    return jnp.max(jnp.sum(jnp.square(departures.S), axis=0), initial=0.0) / (N - 1)


def joint_signal(departures: Departures) -> Float[Array, ""]:
    """Return a bound of the largest variance of any combination of observed values over that of its error."""
    N = departures.S.shape[0]
    return tree.norm(departures.S @ departures.S.T) / (N - 1)
