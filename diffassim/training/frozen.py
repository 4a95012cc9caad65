"""Train chosen parts of a pytree, named by their paths, and leave the others as they are."""

from __future__ import annotations

import fnmatch
from typing import Any

import jax
import optax

from diffassim.core.errors import ConfigurationError
from diffassim.core.paths import path_text, paths_of

__all__ = ["paths_of", "training_only"]


def training_only(optimizer: optax.GradientTransformation, trainable: Any, *patterns: str) -> Any:
    """Return an optimizer that moves only the leaves whose path matches a pattern.

    Nothing is kept in memory for the others, and weight decay does not reach them.

    Args:
        optimizer: what moves the chosen leaves.
        trainable: pytree that is going to be trained.
        patterns: shell patterns of paths (`*` for any text), for example '*last*'; see `paths_of`.

    Returns:
        optax transformation for `fit`.

    Raises:
        ConfigurationError: if a pattern matches no leaf.

    Example:
        >>> import jax.numpy as jnp
        >>> w = {"first": jnp.ones(()), "last": jnp.ones(())}
        >>> chosen = training_only(optax.sgd(1.0), w, "last")
        >>> change, _ = chosen.update(w, chosen.init(w), w)
        >>> {name: float(leaf) for name, leaf in change.items()}
        {'first': 0.0, 'last': -1.0}
    """
    paths = paths_of(trainable)
    for pattern in patterns or ("(none)",):
        if not fnmatch.filter(paths, pattern):
            raise ConfigurationError(f"training_only: {pattern!r} matches no leaf; there are {', '.join(paths[:20])}")

    def label(path: Any, _: Any) -> str:
        return "trained" if any(fnmatch.fnmatchcase(path_text(path), p) for p in patterns) else "frozen"

    def labels(tree: Any) -> Any:
        return jax.tree_util.tree_map_with_path(label, tree)

    return optax.multi_transform({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)
