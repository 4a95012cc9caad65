"""Models of other libraries: a function from state to state becomes a model with units and metadata."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from diffassim.core.errors import ConfigurationError
from diffassim.core.pytree import static
from diffassim.models.base import Model, Variable

__all__ = ["LibraryModel", "library_rules"]


class LibraryModel(Model):
    r"""A step function of a library, seen through the fields that observations and filters speak of.

    .. math:: x_{k+1} = D\big(f^m(E(x_k))\big)

    Libraries often step spectral coefficients without dimension, while observations, error covariances and local
    filters need fields on a grid, with units. E turns these fields into the library's state and D turns it back; units
    are converted there, and nowhere else. What E cannot represent (waves beyond a truncation) leaves the state with the
    first step. The functions see the promotion rules of JAX's defaults, whatever the caller has set, and the fields
    keep their precision.

    Functions are static: another function object compiles anew, so build them once. What should be changed or
    differentiated goes into `arguments`.

    Args:
        function: f, library state -> library state, or (state, arguments) -> state.
        dt: time that one step of the model takes (m steps of f), in `units`.
        metadata: pytree of `Variable` like the state.
        arguments: pytree that is passed to all three functions as their second argument; None: they take one argument.
        encode: E; None for the identity.
        decode: D; None for the identity.
        substeps: m (static).
        units: of the time (static).

    Raises:
        ConfigurationError: if `substeps` is not positive, or the metadata holds anything but `Variable`.

    Example:
        >>> celsius = Variable("temperature", (), "degC", "temperature")
        >>> cooling = LibraryModel(
        ...     lambda kelvin, rate: kelvin - rate * (kelvin - 280.0), dt=60.0, metadata=celsius, arguments=0.5,
        ...     encode=lambda x, _: x + 273.0, decode=lambda kelvin, _: kelvin - 273.0, substeps=2, units="s",
        ... )
        >>> float(cooling.step(jnp.array(47.0), 0)), cooling.variables().units
        (17.0, 'degC')
    """

    function: Callable[..., Any] = static()
    dt: Any = 1.0
    metadata: Any = static(default=Variable("x", ("space",), "1", "state"))
    arguments: Any = None
    encode: Callable[..., Any] | None = static(default=None)
    decode: Callable[..., Any] | None = static(default=None)
    substeps: int = static(default=1)
    units: str = static(default="1")

    def __post_init__(self) -> None:
        if self.substeps < 1:
            raise ConfigurationError(f"LibraryModel: substeps must be at least 1, found {self.substeps}")
        if isinstance(self.metadata, _Hashable):
            return
        leaves, structure = jax.tree.flatten(self.metadata, is_leaf=_is_variable)
        if not all(map(_is_variable, leaves)):
            raise ConfigurationError("LibraryModel: metadata must be a pytree of Variable, like the state")
        self._set(metadata=_Hashable((tuple(leaves), structure)))

    @property
    def time_units(self) -> str:  # type: ignore[override]
        """Unit of dt."""
        return self.units

    def step(self, x: Any, t: Any) -> Any:
        """Advance by dt."""
        more = () if self.arguments is None else (self.arguments,)
        with library_rules():
            state = x if self.encode is None else self.encode(x, *more)
            if self.substeps == 1:
                state = self.function(state, *more)
            else:
                state, _ = lax.scan(lambda s, _: (self.function(s, *more), None), state, None, length=self.substeps)
            following = state if self.decode is None else self.decode(state, *more)
        return jax.tree.map(lambda new, old: jnp.asarray(new, jnp.result_type(old)), following, x)

    def variables(self) -> Any:
        """Return the metadata of the state."""
        leaves, structure = self.metadata
        return jax.tree.unflatten(structure, leaves)


@contextlib.contextmanager
def library_rules() -> Iterator[None]:
    """Promote numbers and ranks inside as JAX does by default: what the code of libraries is written for."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


class _Hashable(tuple):  # type: ignore[type-arg]
    """Leaves and structure of the metadata, which may be a dictionary and then could not be static."""


def _is_variable(leaf: Any) -> bool:
    return isinstance(leaf, Variable)
