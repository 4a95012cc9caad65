"""Neural networks as frozen pytrees: the one place where flax meets the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError
from diffassim.core.pytree import Pytree, static, untrained

__all__ = ["Network"]


class Network(Pytree):
    """A pure function with its weights: `network(x)` is `function(weights, x)`.

    The weights are leaves, so a network can sit in any model, operator or covariance and be differentiated, replaced
    and carried through scans like every other number; the architecture is static. Build it from a flax module.

    Args:
        function: (weights, *inputs) -> output (static).
        weights: pytree of arrays.
        fixed: arrays that are not trained, such as running statistics, which the function gets as `fixed=`; or None.

    Raises:
        ConfigurationError: if the function is none.

    Example:
        >>> from flax import nnx
        >>> Network.from_nnx(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))(jnp.ones(3, "float32")).shape
        (2,)
    """

    function: Callable[..., Any] = static()
    weights: Any = None
    fixed: Any = untrained(default=None)

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise ConfigurationError(
                f"Network: the function must be callable, found {type(self.function).__name__}; it is called as "
                "function(weights, *inputs)"
            )

    def __repr__(self) -> str:
        name = getattr(self.function, "name", None) or getattr(self.function, "__name__", type(self.function).__name__)
        return f"Network({name}, {tree.size(self.weights)} weights)"

    def __call__(self, *inputs: Any, key: Any = None) -> Any:
        """Apply the network; with a key as it is in training, random numbers (dropout) drawn from it."""
        options = {} if key is None else {"key": key}
        if self.fixed is not None:
            options["fixed"] = stop_gradient(self.fixed)
        return self.function(self.weights, *inputs, **options)

    def updated(self, *inputs: Any, key: Any = None) -> tuple[Any, Any]:
        """Apply a network with running statistics as it is in training: they come from the inputs, and are followed.

        Args:
            *inputs: a batch.
            key: random key, where the network draws.

        Returns:
            Output, and the statistics after this batch, for `network.replace(fixed=...)`.

        Raises:
            ConfigurationError: if the network has none.

        Example:
            >>> from flax import nnx
            >>> net = Network.from_nnx(nnx.BatchNorm(1, rngs=nnx.Rngs(0), momentum=0.5))
            >>> net.updated(jnp.array([[0.0], [2.0]], "float32"))[1]["mean"].tolist()
            [0.5]
        """
        if self.fixed is None or not hasattr(self.function, "updated"):
            raise ConfigurationError("Network.updated: the network has no running statistics; call it")
        return self.function.updated(self.weights, *inputs, fixed=stop_gradient(self.fixed), key=key)

    @classmethod
    def from_nnx(cls, module: Any, *, compute: Any = None, remat: bool = False) -> Network:
        """Freeze a `flax.nnx` module.

        Dropout is off, and batches are normalized by the running statistics, unless the call brings a key. Running
        statistics are `fixed`: a training follows them with `updated` and hands them on as its carry. (A module of
        Equinox is a pytree that can be called already, and stands wherever a network may stand.)

        Args:
            module: the module.
            compute: type in which it computes, such as `jax.numpy.bfloat16`, whatever the weights are; outputs come
                back in the type of the first input.
            remat: whether reverse mode computes the network again instead of storing what is inside it.

        Returns:
            The network; its weights are the module's state as a nested dict.

        Raises:
            ConfigurationError: if it is no such module, or holds other state that changes in a call; or `compute` is no
                type.
        """
        from flax import nnx

        if not isinstance(module, nnx.Module):
            raise ConfigurationError(
                f"Network.from_nnx: found {type(module).__name__}, expected a flax.nnx module; for flax.linen take "
                "from_linen(module, variables), for a function Network(function, weights)"
            )
        try:
            compute = None if compute is None else jnp.dtype(compute)
        except TypeError:
            raise ConfigurationError(f"Network.from_nnx: compute={compute!r} is no type, such as 'bfloat16'") from None
        copy = nnx.clone(module)
        copy.eval()
        definition, weights, statistics, rest = nnx.split(copy, nnx.Param, nnx.BatchStat, ...)
        kinds = {type(v).__name__ for _, v in nnx.to_flat_state(rest)} - {"RngKey", "RngCount"}
        if kinds:
            named = ", ".join(sorted(kinds))
            raise ConfigurationError(
                f"Network.from_nnx: the module holds state that changes when it is called ({named}); hand it in and "
                "out as an argument (see `memory` of LearnedAnalysis), or write a function of (weights, x)"
            )
        leaves, streams = jax.tree.flatten(rest)
        copy.train()
        training = nnx.split(copy, nnx.Param, nnx.BatchStat, ...)[0]
        kept = tuple(str(leaf.dtype) for leaf in leaves)
        apply = _ApplyNNX(type(module).__name__, definition, training, streams, kept, compute, remat)
        fixed = nnx.to_pure_dict(statistics) or None
        return cls(apply, nnx.to_pure_dict(weights), fixed)  # type: ignore[arg-type]

    @classmethod
    def from_linen(cls, module: Any, variables: Any, *, training: Mapping[str, Any] | None = None) -> Network:
        """Freeze a `flax.linen` module with its variables.

        Args:
            module: the module.
            variables: what `module.init` returned. Parameters are the weights, all other collections are `fixed`.
            training: arguments that it gets when the call brings a key, and in `updated`, such as {"train": True}.

        Returns:
            The network.

        Raises:
            ConfigurationError: if there are no parameters.
        """
        if not isinstance(variables, Mapping) or "params" not in variables:
            raise ConfigurationError("Network.from_linen: give the variables that module.init(...) returned")
        fixed = {name: each for name, each in variables.items() if name != "params"}
        apply = _ApplyLinen(type(module).__name__, module, tuple(sorted((training or {}).items())))
        return cls(apply, {"params": variables["params"]}, fixed or None)  # type: ignore[arg-type]


# Named tuples rather than closures: equal architectures compare equal, so they share one compiled program.
class _ApplyNNX(NamedTuple):
    name: str
    definition: Any
    training: Any
    streams: Any
    kinds: tuple[str, ...]
    compute: Any
    remat: bool

    def __call__(self, weights: Any, *inputs: Any, fixed: Any = None, key: Any = None) -> Any:
        run = jax.checkpoint(self._output) if self.remat else self._output
        return run(weights, fixed, key, *inputs)

    def updated(self, weights: Any, *inputs: Any, fixed: Any, key: Any = None) -> tuple[Any, Any]:
        run = jax.checkpoint(self._trained) if self.remat else self._trained
        return run(weights, fixed, key, *inputs)

    def _output(self, weights: Any, fixed: Any, key: Any, *inputs: Any) -> Any:
        return self._run(self.definition if key is None else self.training, weights, fixed, key, inputs)[0]

    def _trained(self, weights: Any, fixed: Any, key: Any, *inputs: Any) -> Any:
        from flax import nnx

        if self.kinds and key is None:
            raise ConfigurationError("Network.updated: the network draws random numbers (dropout); give a key")
        out, module = self._run(self.training, weights, fixed, key, inputs)
        after = nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))
        return out, jax.tree.map(lambda new, old: new.astype(old.dtype), after, fixed)

    def _run(self, definition: Any, weights: Any, fixed: Any, key: Any, inputs: Any) -> tuple[Any, Any]:
        from flax import nnx

        if self.compute is not None:
            result = _first_float(inputs)
            weights, inputs = _cast((weights, inputs), self.compute)
        parts = [nnx.State(jax.tree.map(nnx.Param, weights))]
        if fixed is not None:
            parts.append(nnx.State(jax.tree.map(nnx.BatchStat, fixed)))
        if self.kinds:
            root = jax.random.key(0) if key is None else key
            numbers = [
                jax.random.fold_in(root, k) if kind.startswith("key") else jnp.zeros((), kind)
                for k, kind in enumerate(self.kinds)
            ]
            parts.append(jax.tree.unflatten(self.streams, numbers))
        module = nnx.merge(definition, *parts)
        out = module(*inputs)
        return (out if self.compute is None else _cast(out, result)), module


def _first_float(inputs: Any) -> Any:
    return next((x.dtype for x in jax.tree.leaves(inputs) if jnp.issubdtype(x.dtype, jnp.floating)), None)


def _cast(x: Any, dtype: Any) -> Any:
    """Return x with its floating-point leaves in another type."""
    if dtype is None:
        return x
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, x)


class _ApplyLinen(NamedTuple):
    name: str
    module: Any
    training: tuple[tuple[str, Any], ...]

    def __call__(self, weights: Any, *inputs: Any, fixed: Any = None, key: Any = None) -> Any:
        if key is None:
            return self.module.apply({**weights, **(fixed or {})}, *inputs)
        return self.updated(weights, *inputs, fixed=fixed, key=key)[0]

    def updated(self, weights: Any, *inputs: Any, fixed: Any, key: Any = None) -> tuple[Any, Any]:
        streams = {} if key is None else {"dropout": key}
        variables, changing = {**weights, **(fixed or {})}, list(fixed or ())
        out, after = self.module.apply(variables, *inputs, rngs=streams, mutable=changing, **dict(self.training))
        return out, None if fixed is None else jax.tree.map(lambda old, new: new.astype(old.dtype), fixed, dict(after))
