"""Frozen dataclasses that are JAX pytrees: the one kind of object this package is made of."""

from __future__ import annotations

import dataclasses
from typing import Any, Self, dataclass_transform

import jax

__all__ = ["Pytree", "static", "untrained"]


def static(**kwargs: Any) -> Any:
    """Declare a field of a `Pytree` as static: hashable, part of the compiled program's key, never differentiated.

    Sizes, flags and functions are static; every number that a user may want to change, sweep or differentiate
    is not.

    Args:
        **kwargs: passed on to `dataclasses.field` (`default`, `default_factory`, `init`, ...).

    Returns:
        The field descriptor.

    Example:
        >>> class Grid(Pytree):
        ...     spacing: float
        ...     size: int = static(default=40)
        >>> jax.tree.leaves(Grid(0.5))
        [0.5]
    """
    metadata = {**kwargs.pop("metadata", {}), "static": True}
    return dataclasses.field(metadata=metadata, **kwargs)


def untrained(**kwargs: Any) -> Any:
    """Declare a field of a `Pytree` whose numbers a training leaves alone, even one with weight decay.

    They are leaves like all others: in checkpoints, under `jax.grad`, in copies of another precision.

    Args:
        **kwargs: passed on to `dataclasses.field`.

    Returns:
        The field descriptor.

    Example:
        >>> class Scaled(Pytree):
        ...     weight: float
        ...     unit: float = untrained(default=1000.0)
        >>> jax.tree.leaves(Scaled(0.5))
        [0.5, 1000.0]
    """
    metadata = {**kwargs.pop("metadata", {}), "untrained": True}
    return dataclasses.field(metadata=metadata, **kwargs)


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(static, untrained, dataclasses.field))
class Pytree:
    """Base class: a subclass becomes a frozen dataclass registered as a pytree.

    Fields are leaves or subtrees unless they are declared with `static`. `replace` returns a changed copy. A
    constructor may check its arguments in `__post_init__`; the check runs when a user builds the object (or calls
    `replace`), never when JAX rebuilds it with placeholders, which is why this class exists beside
    `flax.struct.PyTreeNode`.

    Example:
        >>> class Point(Pytree):
        ...     x: float
        ...     y: float = 0.0
        >>> Point(1.0).replace(y=2.0)
        Point(x=1.0, y=2.0)
        >>> jax.tree.map(lambda leaf: 2 * leaf, Point(1.0, 3.0))
        Point(x=2.0, y=6.0)
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclasses.dataclass(frozen=True, eq=False, repr=False)(cls)
        fields = dataclasses.fields(cls)  # type: ignore[arg-type]
        data = tuple(f.name for f in fields if not f.metadata.get("static", False))
        meta = tuple(f.name for f in fields if f.metadata.get("static", False))
        keys = tuple(jax.tree_util.GetAttrKey(name) for name in data)

        def flatten(node: Any) -> tuple[list[Any], tuple[Any, ...]]:
            attributes = node.__dict__
            return [attributes[name] for name in data], tuple(attributes[name] for name in meta)

        def flatten_with_keys(node: Any) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
            children, static_values = flatten(node)
            return list(zip(keys, children, strict=True)), static_values

        def unflatten(static_values: tuple[Any, ...], children: Any) -> Any:
            node = object.__new__(cls)
            node.__dict__.update(zip(meta, static_values, strict=True))
            node.__dict__.update(zip(data, children, strict=True))
            return node

        jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)

    def __repr__(self) -> str:
        parts = [
            f"{field.name}={_shown(getattr(self, field.name, None))}"
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
            if field.repr
        ]
        return f"{type(self).__name__}({', '.join(parts)})"

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed (and checked again).

        Args:
            **changes: new values by field name.

        Returns:
            An object of the same class.

        Raises:
            TypeError: if a name is not a field of the class.
        """
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def _set(self, **values: Any) -> None:
        """Write normalized values from inside `__post_init__` (the object is frozen for everyone else)."""
        self.__dict__.update(values)


SHOWN = 12  # numbers of an array, entries of a container: beyond it, what it is rather than what it holds


def _shown(value: Any) -> str:
    """Return the text of a field: in full where it is short, the type and shape of an array where it is not.

    Example:
        >>> import numpy as np
        >>> _shown({"w": np.zeros((40, 3), "float32"), "n": 2})
        "{'w': float32[40, 3], 'n': 2}"
    """
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        small = getattr(value, "size", SHOWN + 1) <= SHOWN and not isinstance(value, jax.core.Tracer)
        return repr(value) if small else f"{value.dtype}{list(value.shape)}"
    if isinstance(value, dict):
        return "{" + _listed([f"{name!r}: {_shown(each)}" for name, each in list(value.items())[:SHOWN]], value) + "}"
    if type(value) in (list, tuple):
        inside = _listed([_shown(each) for each in value[:SHOWN]], value)
        if isinstance(value, list):
            return f"[{inside}]"
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    text = repr(value)
    return text if len(text) <= 400 or isinstance(value, Pytree) else f"{text[:60].splitlines()[0]}..."


def _listed(parts: list[str], whole: Any) -> str:
    return ", ".join([*parts, *([f"... {len(whole)} in all"] if len(whole) > len(parts) else [])])
