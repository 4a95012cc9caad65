"""A network in the place of a model."""

from __future__ import annotations

from typing import Any

import jax

from diffassim.core.checks import require_alike
from diffassim.core.partition import compilable
from diffassim.core.pytree import static
from diffassim.models.base import Model, Variable

__all__ = ["SurrogateModel"]


class SurrogateModel(Model):
    r"""A forward model whose step is a network, of the state itself or of its change.

    .. math:: x_{k+1} = x_k + s\, N(x_k)\quad\text{or}\quad x_{k+1} = N(x_k)

    It is a model like any other: costs, filters, routes of a training and adjoints take it as it is.

    Args:
        network: callable pytree, state -> state or change, of the state's structure and shapes.
        dt: time between two states.
        scale: s, brings the network's output to the size of a change.
        residual: whether the network gives the change (static).

    Raises:
        ShapeError: (at the first step) if the network's output is shaped unlike the state.

    Example:
        >>> import jax.numpy as jnp
        >>> from diffassim.learned import Network
        >>> decay = SurrogateModel(Network(lambda w, x: w * x, -0.5))
        >>> decay.step(jnp.array([8.0]), 0).tolist()
        [4.0]
    """

    network: Any
    dt: Any = 1.0
    scale: Any = 1.0
    residual: bool = static(default=True)

    def __post_init__(self) -> None:
        self._set(network=compilable("SurrogateModel: network", self.network))

    def variables(self) -> Any:
        """Variables: one array named x."""
        return Variable("x", ("space",), "1", "state")

    def step(self, x: Any, t: Any) -> Any:
        """Advance by one application of the network."""
        found = self.network(x)
        require_alike("SurrogateModel: the network's output", found, x)
        if not self.residual:
            return jax.tree.map(lambda new, old: new.astype(old.dtype), found, x)
        return jax.tree.map(lambda old, change: old + (self.scale * change).astype(old.dtype), x, found)
