"""Neural networks as frozen pytrees: the one place where flax meets the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from diffassim.core.errors import ConfigurationError
from diffassim.core.pytree import Pytree, static

__all__ = ["Network"]


class Network(Pytree):
    """A pure function with its weights: `network(x)` is `function(weights, x)`.

    The weights are leaves, so a network can sit in any model, operator or covariance and be differentiated, replaced
    and carried through scans like every other number; the architecture is static. Build it from a flax module.

    Args:
        function: (weights, *inputs) -> output (static).
        weights: pytree of arrays.

    Example:
        >>> from flax import nnx
        >>> Network.from_nnx(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))(jnp.ones(3, "float32")).shape
        (2,)
    """

    function: Callable[..., Any] = static()
    weights: Any = None

    def __call__(self, *inputs: Any) -> Any:
        """Apply the network."""
        return self.function(self.weights, *inputs)

    @classmethod
    def from_nnx(cls, module: Any) -> Network:
        """Freeze a `flax.nnx` module.

        Args:
            module: a module without state that changes when it is called (no dropout, no running statistics).

        Returns:
            The network; its weights are the module's state as a nested dict.

        Raises:
            ConfigurationError: if the module holds random-number streams or batch statistics.
        """
        from flax import nnx

        definition, weights, rest = nnx.split(module, nnx.Param, ...)
        if jax.tree.leaves(rest):
            kinds = sorted({type(v).__name__ for _, v in nnx.to_flat_state(rest)})
            raise ConfigurationError(
                f"Network.from_nnx: the module holds state that changes when it is called ({', '.join(kinds)}); "
                "switch off dropout and batch statistics, or write a function of (weights, x)"
            )
        return cls(_ApplyNNX(definition), nnx.to_pure_dict(weights))  # type: ignore[arg-type]

    @classmethod
    def from_linen(cls, module: Any, variables: Any) -> Network:
        """Freeze a `flax.linen` module with its variables.

        Args:
            module: the module.
            variables: what `module.init` returned.

        Returns:
            The network.
        """
        return cls(_ApplyLinen(module), variables)  # type: ignore[arg-type]


# Named tuples rather than closures: equal architectures compare equal, so they share one compiled program.
class _ApplyNNX(NamedTuple):
    definition: Any

    def __call__(self, weights: Any, *inputs: Any) -> Any:
        from flax import nnx

        state = nnx.State(jax.tree.map(nnx.Param, weights))
        return nnx.merge(self.definition, state)(*inputs)


class _ApplyLinen(NamedTuple):
    module: Any

    def __call__(self, weights: Any, *inputs: Any) -> Any:
        return self.module.apply(weights, *inputs)
