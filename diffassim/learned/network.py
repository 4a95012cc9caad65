"""Neural networks as frozen pytrees: the one place where flax meets the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

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

    def __call__(self, *inputs: Any, key: Any = None) -> Any:
        """Apply the network; with a key as it is in training, random numbers (dropout) drawn from it."""
        return self.function(self.weights, *inputs) if key is None else self.function(self.weights, *inputs, key=key)

    @classmethod
    def from_nnx(cls, module: Any, *, compute: Any = None, remat: bool = False) -> Network:
        """Freeze a `flax.nnx` module.

        Dropout is off unless the call brings a key. (A module of Equinox is a pytree that can be called already, and
        stands wherever a network may stand.)

        Args:
            module: a module without running statistics.
            compute: type in which it computes, such as `jax.numpy.bfloat16`, whatever the weights are; outputs come
                back in the type of the first input.
            remat: whether reverse mode computes the network again instead of storing what is inside it.

        Returns:
            The network; its weights are the module's state as a nested dict.

        Raises:
            ConfigurationError: if the module holds running statistics, or other state that changes in a call.
        """
        from flax import nnx

        copy = nnx.clone(module)
        copy.eval()
        definition, weights, rest = nnx.split(copy, nnx.Param, ...)
        kinds = {type(v).__name__ for _, v in nnx.to_flat_state(rest)} - {"RngKey", "RngCount"}
        if kinds:
            named = ", ".join(sorted(kinds))
            raise ConfigurationError(
                f"Network.from_nnx: the module holds state that changes when it is called ({named}); "
                "take layer or group normalization instead of batch statistics, or write a function of (weights, x)"
            )
        leaves, streams = jax.tree.flatten(rest)
        copy.train()
        training = nnx.split(copy, nnx.Param, ...)[0] if leaves else definition
        kept = tuple(str(leaf.dtype) for leaf in leaves)
        apply = _ApplyNNX(definition, training, streams, kept, compute, remat)
        return cls(apply, nnx.to_pure_dict(weights))  # type: ignore[arg-type]

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
    training: Any
    streams: Any
    kinds: tuple[str, ...]
    compute: Any
    remat: bool

    def __call__(self, weights: Any, *inputs: Any, key: Any = None) -> Any:
        run = jax.checkpoint(self._run) if self.remat else self._run
        return run(weights, key, *inputs)

    def _run(self, weights: Any, key: Any, *inputs: Any) -> Any:
        from flax import nnx

        if self.compute is not None:
            result = _first_float(inputs)
            weights, inputs = _cast((weights, inputs), self.compute)
        state = nnx.State(jax.tree.map(nnx.Param, weights))
        if not self.kinds:
            out = nnx.merge(self.definition, state)(*inputs)
        else:
            root = jax.random.key(0) if key is None else key
            numbers = [
                jax.random.fold_in(root, k) if kind.startswith("key") else jnp.zeros((), kind)
                for k, kind in enumerate(self.kinds)
            ]
            definition = self.definition if key is None else self.training
            out = nnx.merge(definition, state, jax.tree.unflatten(self.streams, numbers))(*inputs)
        return out if self.compute is None else _cast(out, result)


def _first_float(inputs: Any) -> Any:
    return next((x.dtype for x in jax.tree.leaves(inputs) if jnp.issubdtype(x.dtype, jnp.floating)), None)


def _cast(x: Any, dtype: Any) -> Any:
    """Return x with its floating-point leaves in another type."""
    if dtype is None:
        return x
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, x)


class _ApplyLinen(NamedTuple):
    module: Any

    def __call__(self, weights: Any, *inputs: Any) -> Any:
        return self.module.apply(weights, *inputs)
