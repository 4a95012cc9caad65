"""Named errors and the eager checks that raise them."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

__all__ = [
    "AssimilationError",
    "AssimilationWarning",
    "ConfigurationError",
    "DataError",
    "ShapeError",
    "concrete",
    "require_finite",
    "require_positive",
]


class AssimilationError(Exception):
    """Base of all errors that this package raises on purpose."""


class ShapeError(AssimilationError, ValueError):
    """Arrays, pytrees or sizes do not fit together."""


class ConfigurationError(AssimilationError, ValueError):
    """A setting is unknown, impossible or outside its range."""


class DataError(AssimilationError, ValueError):
    """A file or an array holds values that cannot be used."""


class AssimilationWarning(UserWarning):
    """A computation ended without reaching what it was asked for; the message says what to do."""


def concrete(value: Any) -> np.ndarray | None:
    """Return the value as a NumPy array, or None where it is traced (inside jit, grad or vmap) or not an array.

    Checks on values go through this function, so that they run for a user's plain call and are skipped in traced code.
    """
    if value is None or isinstance(value, jax.core.Tracer | jax.ShapeDtypeStruct):
        return None
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):
        return None
    return array if array.dtype.kind in "biuf" else None


def require_positive(name: str, value: Any, advice: str = "") -> None:
    """Raise `ConfigurationError` unless every known entry of `value` is finite and positive."""
    for leaf in jax.tree.leaves(value):
        array = concrete(leaf)
        if array is not None and not np.all(np.isfinite(array) & (array > 0)):
            worst = array[~(np.isfinite(array) & (array > 0))].flat[0] if array.ndim else array
            raise ConfigurationError(f"{name} must be finite and positive, but holds {worst}. {advice}".strip())


def require_finite(name: str, value: Any, advice: str = "") -> None:
    """Raise `DataError` unless every known entry of the pytree `value` is finite."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(value):
        array = concrete(leaf)
        if array is not None and array.dtype.kind == "f" and not np.all(np.isfinite(array)):
            bad = int(np.size(array) - np.isfinite(array).sum())
            place = name + jax.tree_util.keystr(path)
            raise DataError(f"{place} holds {bad} non-finite value(s) of {np.size(array)}. {advice}".strip())
