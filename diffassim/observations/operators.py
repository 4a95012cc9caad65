"""Observation operators: differentiable maps from the model state to what an instrument would read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from diffassim.core.checks import check_indices
from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.core.partition import compilable
from diffassim.core.pytree import Pytree, static

__all__ = [
    "Compose",
    "Field",
    "Function",
    "Identity",
    "Linear",
    "Operator",
    "PlacesUnknownError",
    "Subsample",
    "Subset",
    "as_operator",
    "check_operator",
    "places_of_operator",
]


class PlacesUnknownError(ConfigurationError):
    """An operator cannot tell where its values are."""


class Operator(Pytree):
    """Observation operator y_hat = H(x, where).

    Tangent-linear and adjoint come from autodiff, so any differentiable function will do: subclass, or pass a plain
    function wherever an operator is expected. `where` holds run-time places (or whatever else changes from one
    observation time to the next) and is None for operators that do not need it.
    """

    def __call__(self, x: Any, where: Any = None) -> Any:
        """Return the observation equivalent of one state.

        Args:
            x: state, a pytree of arrays (no time axis).
            where: places of one observation time, or None.

        Returns:
            Array or pytree shaped like the observed values of one time.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define __call__(x, where)")

    def check(self, name: str, x: Any, where: Any = None) -> None:
        """Raise an error, naming `name`, if what is known of the operator does not fit a state; default: nothing does.

        Costs, filters and cycles call it where they are called by a user, with all places of a stream.

        Args:
            name: who asks.
            x: state, or its shapes.
            where: places of a stream with leading axes of time, or None.
        """

    def check_grid(self, name: str, grid: Any) -> None:
        """Raise an error, naming `name`, if the operator's places are in another unit than a local method's grid."""

    def value_places(self, points: Float[Array, "*grid D"], where: Any = None) -> Float[Array, "... D"]:
        """Return where the values are, given where the points of the grid are; local methods ask for it.

        Args:
            points: coordinates of the points, on the axes of the grid (the last ones of the state), then D coordinates.
            where: places of one observation time, or None.

        Returns:
            Coordinates, the axes of the values of one time that belong to the grid, then D.

        Raises:
            PlacesUnknownError: if a value has no place, or the operator does not know it.
        """
        raise PlacesUnknownError(f"where observations of the operator {type(self).__name__} are is not known")


class Identity(Operator):
    """H(x) = x: the whole state is observed.

    Example:
        >>> Identity()(jnp.arange(2.0)).tolist()
        [0.0, 1.0]
    """

    def __call__(self, x: Any, where: Any = None) -> Any:
        """Return x."""
        return x

    def value_places(self, points: Float[Array, "*grid D"], where: Any = None) -> Float[Array, "... D"]:
        """Return the points."""
        return points


class Field(Operator):
    """Pick one component of a pytree state by key or attribute name.

    Args:
        name: key of a dict state, or attribute name of a state object (static).

    Example:
        >>> float(Field("discharge")({"discharge": 2.0, "snow": 7.0}))
        2.0
    """

    name: str = static()

    def __call__(self, x: Any, where: Any = None) -> Any:
        """Return x[name] or x.name."""
        try:
            return x[self.name] if isinstance(x, dict) else getattr(x, self.name)
        except (KeyError, AttributeError):
            known = (
                sorted(x) if isinstance(x, dict) else sorted(vars(x)) if hasattr(x, "__dict__") else type(x).__name__
            )
            raise ConfigurationError(f"Field: the state has no component {self.name!r}; it has {known}") from None

    def value_places(self, points: Float[Array, "*grid D"], where: Any = None) -> Float[Array, "... D"]:
        """Return the points."""
        return points


class Subset(Operator):
    """Observe single components along the last axis: H(x) = x[..., indices].

    The indices are a run-time array. With `where` given, those places are used instead, so that every observation
    time may have its own.

    Args:
        indices: integers from 0 on, shape (m,); negative ones, often fill values, are refused.

    Raises:
        ShapeError: if an index lies outside the state (checked when the values are known).

    Example:
        >>> Subset(jnp.array([0, 2]))(jnp.arange(3.0)).tolist()
        [0.0, 2.0]
    """

    indices: Int[Array, " m"] | None = None

    def __call__(self, x: Float[Array, "... n"], where: Any = None) -> Float[Array, "... m"]:
        """Return the chosen components."""
        indices = self.indices if where is None else where
        if indices is None:
            raise ConfigurationError("Subset needs `indices`, or Observations needs `where`")
        check_indices("Subset", indices, jnp.shape(x)[-1])
        return jnp.take(x, jnp.asarray(indices), axis=-1)

    def check(self, name: str, x: Any, where: Any = None) -> None:
        """Raise `ShapeError` if an index lies outside of the state's last axis."""
        indices = self.indices if where is None else where
        shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(x)]
        if len(shapes) == 1 and shapes[0]:
            check_indices(f"{name}: Subset", indices, shapes[0][-1])

    def value_places(self, points: Float[Array, "*grid D"], where: Any = None) -> Float[Array, "... D"]:
        """Return the chosen points."""
        return jnp.moveaxis(self(jnp.moveaxis(points, -1, 0), where), 0, -1)


class Subsample(Operator):
    """Observe every k-th component along the last axis: H(x) = x[..., offset::every].

    Args:
        every: stride (static).
        offset: first observed component (static).

    Example:
        >>> Subsample(every=2)(jnp.arange(5.0)).tolist()
        [0.0, 2.0, 4.0]
    """

    every: int = static()
    offset: int = static(default=0)

    def __post_init__(self) -> None:
        if self.every < 1 or self.offset < 0:
            raise ConfigurationError(f"Subsample: every={self.every} must be >= 1 and offset={self.offset} >= 0")

    def __call__(self, x: Float[Array, "... n"], where: Any = None) -> Float[Array, "... m"]:
        """Return x[..., offset::every]."""
        return x[..., self.offset :: self.every]

    def value_places(self, points: Float[Array, "*grid D"], where: Any = None) -> Float[Array, "... D"]:
        """Return every k-th point of the last axis."""
        return points[..., self.offset :: self.every, :]


class Linear(Operator):
    """A matrix: H(x) = matrix x over the last axis.

    Args:
        matrix: shape (m, n).

    Raises:
        ShapeError: if the state's last axis is not n.

    Example:
        >>> Linear(jnp.ones((1, 3)))(jnp.arange(3.0)).tolist()
        [3.0]
    """

    matrix: Float[Array, "m n"]

    def __call__(self, x: Float[Array, "... n"], where: Any = None) -> Float[Array, "... m"]:
        """Return matrix @ x."""
        if x.shape[-1] != jnp.shape(self.matrix)[-1]:
            raise ShapeError(f"Linear: the matrix has shape {jnp.shape(self.matrix)}, the state {x.shape}")
        return jnp.einsum("mn,...n->...m", self.matrix, x)


class Function(Operator):
    """A plain function as operator; `arguments` (a pytree) holds what may change or be differentiated.

    The function itself is static: a new function object compiles anew.

    Args:
        function: called as function(x), with `arguments` and `where` appended where they are given.
        arguments: pytree of run-time numbers, for example network weights.

    Example:
        >>> float(Function(jnp.arctan)(jnp.asarray(0.0)))
        0.0
    """

    function: Callable[..., Any] = static()
    arguments: Any = None

    def __call__(self, x: Any, where: Any = None) -> Any:
        """Return function(x[, arguments][, where])."""
        extra = [value for value in (self.arguments, where) if value is not None]
        return self.function(x, *extra)


class Compose(Operator):
    """Operators applied one after the other, the first to the state: H(x) = H_k(... H_1(x)).

    Places (`where`) are given to the first operator, the one that knows the model grid.

    Args:
        *operators: operators or plain functions.

    Example:
        >>> Compose(Subsample(every=2), jnp.square)(jnp.arange(3.0)).tolist()
        [0.0, 4.0]
    """

    operators: tuple[Any, ...]

    def __init__(self, *operators: Any) -> None:
        if not operators:
            raise ConfigurationError("Compose needs at least one operator")
        self._set(operators=tuple(as_operator(operator) for operator in operators))

    def replace(self, **changes: Any) -> Compose:
        """Return a copy with other `operators`."""
        return Compose(*changes.pop("operators", self.operators), **changes)

    def check(self, name: str, x: Any, where: Any = None) -> None:
        """Check every operator against what the ones before it return."""
        for k, operator in enumerate(self.operators):
            check_operator(operator, name, x, where if k == 0 else None)
            if k + 1 == len(self.operators):
                return
            one = None if where is None else jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], where)
            try:
                x = jax.eval_shape(operator, x, one if k == 0 else None)
            except Exception:  # what it has to say, it says where it is applied
                return

    def check_grid(self, name: str, grid: Any) -> None:
        """Check the first operator, the one that knows the model grid."""
        first = self.operators[0]
        if isinstance(first, Operator):
            first.check_grid(name, grid)

    def __call__(self, x: Any, where: Any = None) -> Any:
        """Apply all operators in turn."""
        first, *rest = self.operators
        y = first(x, where)
        for operator in rest:
            y = operator(y)
        return y

    def value_places(self, points: Float[Array, "*grid D"], where: Any = None) -> Float[Array, "... D"]:
        """Return the places of the last operator's values, each operator taking those before it as its points."""
        first, *rest = self.operators
        points = places_of_operator(first, points, where)
        for operator in rest:
            points = places_of_operator(operator, points)
        return points


def places_of_operator(operator: Any, points: Any, where: Any = None) -> Any:
    """Return `operator.value_places(points, where)`; raise `PlacesUnknownError` where a callable has no such method."""
    if not hasattr(operator, "value_places"):
        raise PlacesUnknownError(f"where observations of the operator {type(operator).__name__} are is not known")
    return operator.value_places(points, where)


def as_operator(operator: Any) -> Any:
    """Return the operator itself, or a plain function wrapped as one.

    Args:
        operator: an `Operator`, any other callable pytree, or a plain function.

    Returns:
        An object that can be a pytree field and is called as H(x, where).

    Raises:
        ConfigurationError: if it is not callable.
    """
    if isinstance(operator, Operator):
        return operator
    if not callable(operator):
        raise ConfigurationError(f"an observation operator must be callable, found {type(operator).__name__}")
    leaves = jax.tree.leaves(operator)
    is_plain_function = len(leaves) == 1 and leaves[0] is operator
    if is_plain_function or isinstance(operator, np.ufunc):
        return Function(operator)
    return compilable("the observation operator", operator)


def check_operator(operator: Any, name: str, x: Any, where: Any = None) -> None:
    """Check an operator of the user's, which need not be an `Operator`, against a state (or its shapes)."""
    if isinstance(operator, Operator):
        operator.check(name, x, where)
