"""What observations are to serve: the state at a later time, or a part of it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from diffassim.core.checks import count_of
from diffassim.core.pytree import Pytree, static
from diffassim.models.rollout import rollout
from diffassim.observations.operators import Identity, as_operator

__all__ = ["LaterState"]


class LaterState(Pytree):
    """The state after some steps of a model, or what an operator makes of it: the goal of targeted observations.

    Args:
        model: any model; its numbers may change without compiling anew.
        steps: how many (static).
        operator: a part of the state that matters, such as a region; default: all.

    Example:
        >>> from diffassim.models import FunctionModel
        >>> LaterState(FunctionModel(lambda x, t: 2 * x), 3)(jnp.ones(2)).tolist()
        [8.0, 8.0]
    """

    model: Any
    steps: int = static()
    operator: Any = Identity()

    def __post_init__(self) -> None:
        self._set(steps=count_of("LaterState: steps", self.steps), operator=as_operator(self.operator))

    def __call__(self, x: Any) -> Any:
        """Return what matters after the steps."""
        end = rollout(self.model, x, self.steps, at=jnp.array([self.steps])) if self.steps else None
        later = x if end is None else jax.tree.map(lambda leaf: leaf[0], end)
        return self.operator(later, None)
