"""What `Observations` makes of its arguments: steps, masks, places and fractions, checked and completed."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.core import tree
from diffassim.core.checks import real_array
from diffassim.core.errors import ConfigurationError, DataError, ShapeError, concrete

__all__ = [
    "as_float",
    "broadcast_mask",
    "check_error",
    "checked_fraction",
    "checked_steps",
    "checked_where",
    "filled",
    "observed",
    "values_of",
    "without_bad_places",
]


def checked_steps(steps: Any) -> Any:
    """Return observation steps as int32, known ones known inside of jit as well."""
    if np.ma.is_masked(steps):
        raise DataError("Observations: steps is a masked array with missing entries; leave these rows out")
    if not isinstance(steps, jax.Array):
        if isinstance(steps, list | tuple) and not len(steps):
            steps = np.zeros(0, np.int32)
        elif isinstance(steps, list | tuple) and any(isinstance(entry, jax.Array) for entry in steps):
            steps = jnp.asarray(steps)
        else:
            steps = np.asarray(steps)
            if steps.dtype.kind not in "iuf":
                raise DataError(f"Observations: steps must be integers (model steps), found dtype {steps.dtype}")
    known = concrete(steps)
    if known is not None and known.size and not np.all(np.abs(known) < 2**31):
        raise DataError("Observations: steps must be finite and below 2^31")
    if not jnp.issubdtype(steps.dtype, jnp.integer) and (known is None or np.any(known != np.round(known))):
        raise DataError(f"Observations: steps must be integers (model steps), found dtype {steps.dtype}")
    if steps.ndim not in (1, 2):
        raise ShapeError(f"Observations: steps must have shape (time,) or (window, time), found {steps.shape}")
    if known is None:
        return steps.astype(jnp.int32)
    if known.size and known.min() < 0:
        raise DataError(f"Observations: step {known.min()} lies before the window start (step 0)")
    with jax.ensure_compile_time_eval():
        return jnp.asarray(known.astype(np.int32))


def without_bad_places(mask: Any, where: Any, steps: Any) -> tuple[Any, Any]:
    """Return the mask without values whose place is not finite, and places with zeros there: NaN poisons gradients."""
    for leaf in jax.tree.leaves(where):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            continue
        known = concrete(leaf)
        xp: Any = jnp if known is None else np
        finite = xp.isfinite(leaf if known is None else known)
        if known is not None and finite.all():
            continue

        def seen(m: Any, finite: Any = finite, xp: Any = xp) -> Any:
            shared = m.ndim if finite.shape[: m.ndim] == m.shape else steps.ndim
            found = finite.all(axis=tuple(range(shared, finite.ndim)))
            return m & jnp.asarray(found.reshape(found.shape + (1,) * (m.ndim - shared)))

        mask = jax.tree.map(seen, mask)

    def sound(leaf: Any) -> Any:
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            return leaf
        known = concrete(leaf)
        if known is None:
            return jnp.where(jnp.isfinite(leaf), leaf, 0)
        return jnp.asarray(np.where(np.isfinite(known), known, np.zeros((), known.dtype)))

    return mask, jax.tree.map(sound, where)


def checked_fraction(fraction: Any, steps: Any, values: Any) -> Any:
    """Return fractions as floating-point numbers in [0, 1)."""
    if fraction is None:
        return None
    if concrete(fraction) is None:
        fraction = as_float(fraction, "Observations: fraction")
    else:
        with jax.ensure_compile_time_eval():
            fraction = as_float(fraction, "Observations: fraction")
    shapes = {jnp.shape(steps)} | {jnp.shape(leaf) for leaf in jax.tree.leaves(values)[:1] if leaf is values}
    if fraction.shape not in shapes:
        raise ShapeError(
            f"Observations: fraction has shape {fraction.shape}; it needs that of steps, {jnp.shape(steps)}, or of the "
            "values if they are one array"
        )
    known = concrete(fraction)
    if known is not None and not np.all((known >= 0) & (known < 1)):
        wrong = known[~((known >= 0) & (known < 1))].flat[0]
        raise DataError(f"Observations: the fraction {wrong} lies outside of [0, 1); whole steps belong to `steps`")
    return fraction


def as_float(value: Any, name: str = "Observations: values") -> Any:
    """Return a value as an array of floating-point numbers of JAX."""
    return jnp.asarray(real_array(name, value))


def checked_where(where: Any) -> Any:
    """Return places as arrays: what a masked array hides is NaN, which is missing; complex numbers are refused."""

    def place(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) or not isinstance(leaf, np.ndarray | list | float | int):
            return leaf
        if np.ma.isMaskedArray(leaf) and leaf.dtype.kind in "iu" and not np.ma.is_masked(leaf):
            leaf = leaf.data
        whole = not np.ma.is_masked(leaf) and np.asarray(leaf).dtype.kind in "biuV"
        return leaf if whole else real_array("Observations: where", leaf)

    return jax.tree.map(place, where)


def values_of(values: Any) -> Any:
    """Return observed values as arrays; a list of numbers (or of lists of them) is one array."""
    if isinstance(values, list) and not any(jnp.ndim(leaf) for leaf in jax.tree.leaves(values)):
        return as_float(values)
    return jax.tree.map(as_float, values)


def check_error(error: Any, values: Any, mask: Any, steps: Any) -> None:
    """Raise, naming the cause, unless R can be the error covariance of the values; of every window, if there are some.

    Args:
        error: R.
        values: observed values, leading axis time, or windows and time.
        mask: where they are observed.
        steps: their steps, which show whether there are windows.
    """
    if not hasattr(error, "check_error"):
        raise ConfigurationError(
            f"Observations: error must be a covariance, found {type(error).__name__}; standard deviations are "
            "da.covariances.Diagonal(std=...)"
        )
    if steps.ndim == 1:
        error.check_error("Observations.error", values, mask)
        return
    _require_windows(error, steps.shape[0])
    known = [concrete(leaf) for leaf in jax.tree.leaves(error)]
    incomplete = any(leaf is not None and leaf.dtype.kind == "f" and np.isnan(leaf).any() for leaf in known)
    for window in range(steps.shape[0] if incomplete else 1):  # shapes are those of the first, missing errors are not
        parts = jax.tree.map(lambda leaf, w=window: leaf[w], (error, values, mask))
        parts[0].check_error("Observations.error", *parts[1:])


def _require_windows(error: Any, windows: int) -> None:
    for leaf in jax.tree.leaves(error):
        if jnp.shape(leaf)[:1] != (windows,):
            raise ShapeError(
                f"Observations: error holds an array of shape {jnp.shape(leaf)}, but with {windows} windows all of its "
                "arrays need them as leading axis; set it before the record is split"
            )


# Known numbers are handled by NumPy: in JAX each of these operations would be a small program to compile.
def _broadcast(mask: Any, value: Any) -> Any:
    known = concrete(mask)
    if known is None:
        return jnp.broadcast_to(jnp.asarray(mask, bool), value.shape)
    return np.broadcast_to(known.astype(bool), value.shape)


def observed(value: Any, mask: Any) -> Any:
    """Return where a value is finite and not masked."""
    known, given = concrete(value), concrete(mask)
    return jnp.isfinite(value) & mask if known is None or given is None else jnp.asarray(np.isfinite(known) & given)


def filled(value: Any, mask: Any) -> Any:
    """Return the value with zeros where nothing is observed."""
    known, observed = concrete(value), concrete(mask)
    if known is None or observed is None:
        return jnp.where(mask, value, 0)
    return jnp.asarray(np.where(observed, known, np.zeros((), known.dtype)))


def broadcast_mask(mask: Any, values: Any) -> Any:
    """Return a mask of the structure and shapes of the values."""
    if mask is None:
        return jax.tree.map(lambda v: np.ones(v.shape, bool), values)
    if jax.tree.structure(mask) != jax.tree.structure(values):
        mask = jax.tree.map(lambda v: mask, values)
    try:
        return jax.tree.map(_broadcast, mask, values)
    except ValueError as error:
        raise ShapeError(
            f"Observations: mask of shape {tree.describe_shapes(mask)} does not fit values of shape "
            f"{tree.describe_shapes(values)}"
        ) from error
