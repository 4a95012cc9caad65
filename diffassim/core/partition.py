"""Pytrees apart: what is an array, and what is not (functions, flags, names)."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffassim.core.errors import DataError
from diffassim.core.pytree import Pytree, static

__all__ = ["Compilable", "Rest", "compilable", "differentiable", "joined", "merged", "partition"]


class Rest(NamedTuple):
    """What of a pytree is no array; hashable, so that it can be part of a compiled program's key.

    Args:
        structure: of the whole pytree.
        leaves: by leaf what is no array, `ARRAY` where there is one.
    """

    structure: Any
    leaves: tuple[Any, ...]


class _Array:
    """Marks the leaves that are arrays."""

    def __repr__(self) -> str:
        return "ARRAY"


ARRAY = _Array()
_LEAF = jax.tree.structure(0)  # a function alone is no pytree: whoever takes one keeps it as it is


def partition(name: str, whole: Any) -> tuple[Any, Rest | None]:
    """Return a pytree with None where a leaf is no array, and these leaves; the second is None where all are arrays.

    Python numbers count as arrays, but for those in modules of Equinox, where they are settings (a dropout rate).

    Args:
        name: of the pytree, for the message.
        whole: pytree.

    Raises:
        DataError: if a leaf is neither an array of numbers nor hashable.

    Example:
        >>> arrays, rest = partition("it", {"w": 1.0, "activation": jnp.tanh})
        >>> arrays["activation"] is None, joined(arrays, rest)["activation"] is jnp.tanh
        (True, True)
    """
    settings = _settings(whole)
    leaves, structure = jax.tree.flatten(whole)
    kept: list[Any] = []
    for number, leaf in enumerate(leaves):
        kept.append(ARRAY if _is_array(leaf) and number not in settings else leaf)
    if all(leaf is ARRAY for leaf in kept):
        return whole, None
    for (path, leaf), found in zip(jax.tree_util.tree_leaves_with_path(whole), kept, strict=True):
        try:
            hash(found)
        except TypeError:
            raise DataError(
                f"{name}{jax.tree_util.keystr(path)} is {type(leaf).__name__}{_dtype(leaf)}: neither numbers nor "
                "something that can be compared"
            ) from None
    arrays = [leaf if found is ARRAY else None for leaf, found in zip(leaves, kept, strict=True)]
    return jax.tree.unflatten(structure, arrays), Rest(structure, tuple(kept))


def joined(arrays: Any, rest: Rest | None) -> Any:
    """Return the pytree of which `partition` made arrays and rest."""
    if rest is None:
        return arrays
    leaves = iter(jax.tree.leaves(arrays))
    return jax.tree.unflatten(rest.structure, [next(leaves) if leaf is ARRAY else leaf for leaf in rest.leaves])


class Compilable(Pytree):
    """A callable pytree whose leaves are all arrays, made of one that holds functions or flags among them.

    Args:
        arrays: its arrays.
        rest: what is no array (static).
    """

    arrays: Any
    rest: Rest = static()

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Call the pytree as it was given."""
        return self.whole(*inputs, **options)

    @property
    def whole(self) -> Any:
        """The pytree as it was given, for example a module of Equinox."""
        return joined(self.arrays, self.rest)


def compilable(name: str, given: Any) -> Any:
    """Return a callable pytree in a form that compiled functions take: as it is, or as a `Compilable`.

    Example:
        >>> bend = jax.tree_util.Partial(lambda f, x: f(x), jnp.tanh)
        >>> jax.jit(lambda net, x: net(x))(compilable("network", bend), 0.0).item()
        0.0
    """
    arrays, rest = partition(name, given)
    return given if rest is None or rest.structure == _LEAF else Compilable(arrays, rest)


def differentiable(arrays: Any) -> tuple[Any, Any]:
    """Return a pytree of floating-point arrays, with None for all others, and its complement.

    What a `Pytree` declares as `untrained` belongs to the complement.

    Example:
        >>> differentiable({"w": jnp.ones(()), "places": jnp.arange(3)})[0]["places"] is None
        True
    """
    flags = _moves(arrays)
    moving = jax.tree.map(lambda leaf, moves: leaf if moves else None, arrays, flags)
    still = jax.tree.map(lambda leaf, moves: None if moves else leaf, arrays, flags)
    return moving, still


def merged(moving: Any, still: Any) -> Any:
    """Return the pytree of which `differentiable` made moving and still."""
    return jax.tree.map(lambda a, b: b if a is None else a, moving, still, is_leaf=lambda leaf: leaf is None)


def _moves(arrays: Any) -> Any:
    """Return a pytree of flags: whether a leaf is a floating-point array that is not declared as untrained."""

    def of(node: Any) -> Any:
        names = _untrained(node)
        if not names:
            return _is_float(node)
        still = {name: jax.tree.map(lambda _: False, getattr(node, name)) for name in names}
        fields = [f.name for f in dataclasses.fields(node) if not f.metadata.get("static")]
        copy = object.__new__(type(node))
        copy.__dict__.update(node.__dict__)
        copy.__dict__.update({name: still[name] if name in still else _moves(getattr(node, name)) for name in fields})
        return copy

    return jax.tree.map(of, arrays, is_leaf=lambda node: bool(_untrained(node)))


def _untrained(node: Any) -> list[str]:
    if not isinstance(node, Pytree):
        return []
    return [f.name for f in dataclasses.fields(node) if f.metadata.get("untrained")]  # type: ignore[arg-type]


def _is_float(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.inexact)


def _is_array(leaf: Any) -> bool:
    if isinstance(leaf, bool | int | float | complex):
        return True
    if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        return True
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and getattr(dtype, "kind", "O") not in "OSUMm"


def _dtype(leaf: Any) -> str:
    return f" of {leaf.dtype}" if hasattr(leaf, "dtype") else ""


def _settings(whole: Any) -> set[int]:
    """Return the numbers of the leaves that are Python numbers in modules of Equinox."""
    equinox = sys.modules.get("equinox")  # there can be no module of it before it is imported
    if equinox is None:
        return set()
    found, number = set(), 0
    for node in jax.tree.leaves(whole, is_leaf=lambda node: isinstance(node, equinox.Module)):
        inside = jax.tree.leaves(node)
        if isinstance(node, equinox.Module):
            found |= {number + k for k, leaf in enumerate(inside) if isinstance(leaf, bool | int | float | complex)}
        number += len(inside)
    return found
