"""Parts of a pytree by their path: names of attributes, keys and indices, joined by dots."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import jax

from diffassim.core.errors import ConfigurationError
from diffassim.core.pytree import Pytree

__all__ = ["check_paths", "has_path", "path_text", "paths_of", "replace_at", "steps_to", "value_at"]

_SHOWN = 20  # paths that a message lists


def path_text(keys: Any) -> str:
    """Return the text of a path of JAX, `jax.tree_util.tree_leaves_with_path` and the like."""
    return ".".join(str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key)))) for key in keys)


def paths_of(tree: Any) -> list[str]:
    """Return the path of every leaf, its parts joined by dots.

    Example:
        >>> paths_of({"network": {"first": 0.0, "last": [0.0, 0.0]}})
        ['network.first', 'network.last.0', 'network.last.1']
    """
    return [path_text(keys) for keys, _ in jax.tree_util.tree_leaves_with_path(tree)]


def has_path(tree: Any, path: str) -> bool:
    """Return whether a path leads to a leaf, or to a part that holds some.

    Example:
        >>> has_path({"rain": [0.0, None]}, "rain.0"), has_path({"rain": [0.0, None]}, "rain.1")
        (True, False)
    """
    found = steps_to(tree, path)
    return found is not None and bool(jax.tree.leaves(found[-1][2]))


def value_at(tree: Any, path: str, name: str = "value_at") -> Any:
    """Return the leaf, or the part with all of its leaves, at a path.

    Args:
        tree: any pytree.
        path: as `paths_of` writes it, or the beginning of such a path.
        name: of who asks, for the message.

    Raises:
        ConfigurationError: if there is nothing at the path; the message lists the nearest ones.

    Example:
        >>> value_at({"network": {"last": [1.0, 2.0]}}, "network.last.1")
        2.0
    """
    check_paths(name, tree, (path,))
    found = steps_to(tree, path)
    assert found is not None
    return found[-1][2]


def replace_at(tree: Any, changes: Mapping[str, Any]) -> Any:
    """Return a copy of a pytree with other values at some paths.

    Objects of this package are built by their `replace`, so that they check and derive what depends on the new values;
    all other nodes (dictionaries, lists, modules of a library) are rebuilt by JAX.

    Args:
        tree: any pytree.
        changes: new value by path, a leaf or a part.

    Raises:
        ConfigurationError: if there is nothing at a path, or one path leads into another.

    Example:
        >>> replace_at({"rain": {"x1": 350.0, "x2": 0.0}}, {"rain.x1": 300.0})
        {'rain': {'x1': 300.0, 'x2': 0.0}}
    """
    check_paths("replace_at", tree, tuple(changes))
    return _replaced(tree, changes)


def check_paths(name: str, tree: Any, paths: tuple[str, ...]) -> None:
    """Raise `ConfigurationError`, naming `name`, unless all paths lead to leaves, and none of them into another."""
    for path in paths:
        if not isinstance(path, str):
            raise ConfigurationError(f"{name}: a path is a text like 'network.last.0', found {path!r}")
        if not has_path(tree, path):
            known = paths_of(tree)
            wanted = path.split(".")
            near = difflib.get_close_matches(path, known, n=5) or [
                other for other in known if set(wanted) & set(other.split("."))
            ]
            it_has = ", ".join((near or known)[:_SHOWN]) or "no numbers at all"
            raise ConfigurationError(f"{name}: {type(tree).__name__} has no parameter {path!r}; it has {it_has}")
        inside = [other for other in paths if other.startswith(f"{path}.")]
        if inside:
            raise ConfigurationError(f"{name}: {inside[0]!r} is a part of {path!r}; give one of them")


def steps_to(tree: Any, path: str) -> list[tuple[Any, str, Any]] | None:
    """Return the way to a part: each node, the name of the step that leads on from it, and where it leads.

    None if there is no such part. A key may hold dots itself; where two readings are possible, the longer key holds.

    Example:
        >>> [name for _, name, _ in steps_to({"a.b": [0.0]}, "a.b.0")]
        ['a.b', '0']
    """
    for name, child in sorted(_children(tree), key=lambda item: -len(item[0])):
        if path == name:
            return [(tree, name, child)]
        if path.startswith(f"{name}."):
            rest = steps_to(child, path[len(name) + 1 :])
            if rest is not None:
                return [(tree, name, child), *rest]
    return None


def _children(node: Any) -> list[tuple[str, Any]]:
    below = jax.tree_util.tree_leaves_with_path(node, is_leaf=lambda part: part is not node)
    return [(path_text(keys), child) for keys, child in below if keys]


def _replaced(node: Any, changes: Mapping[str, Any]) -> Any:
    """Return a node with changes below it, all of one child at once."""
    by_child: dict[str, dict[str, Any]] = {}
    for path, value in changes.items():
        found = steps_to(node, path)
        assert found is not None
        name = found[0][1]
        by_child.setdefault(name, {})[path[len(name) + 1 :]] = value
    fresh = {
        name: below[""] if "" in below else _replaced(child, below)
        for name, child in _children(node)
        if (below := by_child.get(name))
    }
    if isinstance(node, Pytree):
        return node.replace(**fresh)
    children, structure = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda part: part is not node)
    return jax.tree.unflatten(structure, [fresh.get(path_text(keys), child) for keys, child in children])
