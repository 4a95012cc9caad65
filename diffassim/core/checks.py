"""The gate: numbers that a user gives become arrays here, or are refused by name.

JAX casts, clamps and wraps without a word: a complex number loses its imaginary part, an index beyond the end reads the
last entry, a masked array is refused with the advice to use its fill values. Whatever takes numbers from a user passes
them through these functions first. What has one right meaning is converted (integers, lists, masked arrays, half
precision); everything else is an error that names the field. Traced values pass: nothing is known of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError, DataError, ShapeError, concrete

__all__ = [
    "arrays",
    "check_indices",
    "count_of",
    "forward_mode",
    "real_array",
    "real_state",
    "require_alike",
    "reverse_only",
    "second_derivatives",
    "start_step",
    "unused",
]

_HALF = 2  # bytes of a number that is too short to be computed with


def real_array(name: str, value: Any) -> Any:
    """Return numbers as an array of floating-point numbers, a NumPy array where they were none of JAX.

    Integers, booleans and lists are converted, half precision becomes single, and what a masked array hides becomes
    NaN, which is missing.

    Args:
        name: of the field, for the message.
        value: array, masked array, list or number; traced values as well.

    Returns:
        Array of the same shape.

    Raises:
        DataError: if the entries are complex, strings, dates or other objects.

    Example:
        >>> hidden = np.ma.masked_array([1, -9999], mask=[False, True])
        >>> real_array("values", hidden).tolist()
        [1.0, nan]
    """
    return _as_real(name, _numeric(name, value))


def arrays(name: str, state: Any) -> Any:
    """Return a pytree of arrays of JAX, of the types that were given; a list of numbers is one array.

    Raises:
        DataError: if a leaf holds strings or other objects, or values of a masked array are missing.
        ShapeError: if there is no leaf.

    Example:
        >>> arrays("x0", [1.0, 2.0]).shape
        (2,)
    """
    if _is_list_of_numbers(state):
        state = np.asarray(state)
    paths = [name + jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)]
    if not paths:
        raise ShapeError(f"{name} is empty: a state is a pytree with at least one array")
    leaves, structure = jax.tree.flatten(state)
    found = [jnp.asarray(_numeric(path, leaf, missing=False)) for path, leaf in zip(paths, leaves, strict=True)]
    return jax.tree.unflatten(structure, found)


def real_state(name: str, state: Any) -> Any:
    """Return a state as a pytree of arrays.

    A list of numbers is one array. Whole numbers become floating-point where the state holds nothing else; beside a
    field of floating-point numbers they are a counter or a mask, and stay what they are, like random keys.

    Args:
        name: of the field, for the message.
        state: pytree of arrays.

    Returns:
        The state, its leaves arrays of JAX.

    Raises:
        DataError: if a leaf is complex, holds strings or other objects, or values of a masked array are missing.
        ShapeError: if there is no leaf.

    Example:
        >>> real_state("x0", [1, 2]).dtype.kind, real_state("x0", {"x": 0.5, "days": 3})["days"].dtype.kind
        ('f', 'i')
    """
    state = arrays(name, state)
    leaves = jax.tree.leaves(state)
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if not _is_key(leaf) and _kind(leaf) == "c":
            raise DataError(_complex(name + jax.tree_util.keystr(path), leaf.dtype))
    converted = "f" if any(not _is_key(leaf) and _kind(leaf) == "f" for leaf in leaves) else "iu"
    return jax.tree.map(lambda x: x if _is_key(x) or _kind(x) not in converted else _as_real(name, x), state)


def check_indices(name: str, indices: Any, size: int) -> None:
    """Raise unless known indices are integers in [0, size).

    Args:
        name: of the field, for the message.
        indices: array of integers.
        size: of the axis they belong to.

    Raises:
        DataError: if they are no integers.
        ShapeError: if one is negative or beyond the end, where JAX would read another entry.

    Example:
        >>> check_indices("Subset", jnp.array([0, 4]), 5)
    """
    if indices is None or isinstance(indices, jax.core.Tracer):
        return
    known = np.asarray(indices)
    if known.dtype.kind not in "iu":
        raise DataError(f"{name}: indices must be integers, found {known.dtype}")
    wrong = known[(known < 0) | (known >= size)]
    if wrong.size:
        raise ShapeError(f"{name}: the index {wrong.flat[0]} lies outside of the state, 0 to {size - 1}")


def require_alike(name: str, found: Any, like: Any, what: str = "the state") -> None:
    """Raise `ShapeError` unless what a function of the user returned has structure and shapes of another pytree.

    JAX would spread a single number, or a column, over a state without a word.

    Args:
        name: what was returned by whom, for the message.
        found: pytree of arrays.
        like: pytree that it has to resemble.
        what: name of `like`.

    Example:
        >>> require_alike("the change", jnp.ones(3), jnp.zeros(3))
    """
    if not tree.same_shapes(found, like):
        text = tree.describe_shapes(found) if jax.tree.leaves(found) else repr(found)
        raise ShapeError(
            f"{name} has the shapes {text}, but {what} {tree.describe_shapes(like)}; it must be shaped like {what}"
        )


def start_step(name: str, start: Any) -> Any:
    """Return the number of a first step as an integer array; raise `ConfigurationError` unless it is a whole number.

    Example:
        >>> int(start_step("rollout", 3.0))
        3
    """
    if isinstance(start, jax.core.Tracer):
        return start.astype(jnp.int32)
    known = concrete(start)
    if known is None or known.ndim > 1 or known.dtype.kind == "b" or not np.all(np.isfinite(known)):
        raise ConfigurationError(f"{name}: start must be the number of a step, found {_shown(start)}")
    if np.any(known != np.round(known)) or np.any(np.abs(known) >= 2**31):
        raise ConfigurationError(
            f"{name}: start must be a whole number of model steps below 2^31, found {_shown(start)}"
        )
    with jax.ensure_compile_time_eval():
        return jnp.asarray(known.astype(np.int32))


def count_of(name: str, value: Any, least: int = 0) -> int:
    """Return a static count as an int; raise `ConfigurationError` unless it is a whole number of at least `least`.

    Example:
        >>> count_of("rollout: steps", np.int64(3))
        3
    """
    known = None if isinstance(value, str) else concrete(value)
    if known is None or known.ndim or known.dtype.kind == "b" or not np.isfinite(known) or known != np.round(known):
        raise ConfigurationError(f"{name} must be a whole number known outside of traced code, found {_shown(value)}")
    if known < least:
        raise ConfigurationError(f"{name} must be at least {least}, found {_shown(value)}")
    return int(known)


def unused() -> float:
    """Return what fills the entries of an account that no iteration has written: NaN.

    Under JAX's debugger for NaN it is infinity: the debugger stops at any NaN that leaves a compiled function, and
    could not be used to find that of a model. Switch it on before the first call (or `jax.clear_caches()`).
    """
    return float("inf") if jax.config.jax_debug_nans else float("nan")


@contextlib.contextmanager
def forward_mode(name: str, instead: str) -> Iterator[None]:
    """Turn JAX's complaint about a function without forward mode, or a callback, into a `ConfigurationError`.

    Args:
        name: who needs forward mode.
        instead: what does without.
    """
    try:
        yield
    except (TypeError, NotImplementedError, ValueError) as error:
        if _is_callback(error):
            raise ConfigurationError(
                f"{name} needs derivatives, but {_CALLBACK}. Ensemble methods do without"
            ) from None
        if not is_reverse_only(error):
            raise
        raise ConfigurationError(
            f"{name} needs forward-mode derivatives (tangents), but the model or an operator defines reverse mode only "
            f"(jax.custom_vjp). {instead}; or give the function a rule for tangents (jax.custom_jvp), or the solver's "
            "forward-mode adjoint"
        ) from None


@contextlib.contextmanager
def second_derivatives(name: str) -> Iterator[None]:
    """Turn JAX's complaint about the derivative of a callback into a `ConfigurationError` with advice.

    Args:
        name: what needs second derivatives.
    """
    try:
        yield
    except ValueError as error:
        if not _is_callback(error):
            raise
        raise ConfigurationError(f"{name} needs second derivatives, but {_CALLBACK}") from None


_CALLBACK = (
    "the model or an operator is called back from compiled code (jax.pure_callback), where its derivative is not known "
    "or has no derivative of its own (see da.models.ExternalModel)"
)


def reverse_only(function: Any, *arguments: Any) -> bool:
    """Return whether a function calls one that has a rule for reverse mode only (`jax.custom_vjp`).

    JAX itself says so only when it compiles, where no other way can be taken any more.

    Example:
        >>> twice = jax.custom_vjp(lambda x: 2 * x)
        >>> twice.defvjp(lambda x: (2 * x, None), lambda _, g: (2 * g,))
        >>> reverse_only(lambda x: jnp.sin(twice(x)), 1.0), reverse_only(jnp.sin, 1.0)
        (True, False)
    """
    pending = [jax.make_jaxpr(function)(*arguments).jaxpr]
    while pending:
        for equation in pending.pop().eqns:
            if equation.primitive.name.startswith("custom_vjp"):
                return True
            inner = jax.tree.leaves(list(equation.params.values()), is_leaf=lambda p: hasattr(p, "eqns"))
            pending.extend(getattr(p, "jaxpr", p) for p in inner if hasattr(p, "eqns"))
    return False


def is_reverse_only(error: Exception) -> bool:
    """Return whether JAX complains that a function has a rule for reverse mode only."""
    text = str(error)
    return ("custom_vjp" in text and "forward-mode" in text) or "custom_lin" in text  # the tangent of a reverse rule


def _is_callback(error: Exception) -> bool:
    return "Pure callbacks do not support" in str(error)


def _numeric(name: str, value: Any, missing: bool = True) -> Any:
    """Return an array of numbers or booleans; masked entries are NaN, or refused where nothing may be missing."""
    if isinstance(value, jax.Array):
        return value
    if isinstance(value, jax.ShapeDtypeStruct):
        return value
    if isinstance(value, np.ma.MaskedArray):
        hidden = np.ma.getmaskarray(value)
        if hidden.any() and not missing:
            raise DataError(
                f"{name} is a masked array in which {int(hidden.sum())} of {hidden.size} values are missing; fill them "
                "(not with the fill value), or restrict the state to where there is data"
            )
        data = np.asarray(value.data)
        if hidden.any():
            data = np.where(hidden, np.nan, _as_real(name, _numeric(name, data)))
        value = data
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):
        raise DataError(f"{name} must hold numbers, found {type(value).__name__} that is no regular array") from None
    if _kind(array) not in "biufc":
        raise DataError(f"{name} must hold numbers, found {_shown(value)} (dtype {array.dtype})")
    return array


def _complex(name: str, dtype: Any) -> str:
    return (
        f"{name} is complex ({dtype}), but errors and their covariances are those of real numbers; give real and "
        "imaginary part as two arrays, e.g. {'re': z.real, 'im': z.imag}"
    )


def _kind(array: Any) -> str:
    if jnp.issubdtype(array.dtype, jnp.floating):  # knows bfloat16, whose kind NumPy calls V
        return "f"
    return np.dtype(array.dtype).kind


def _as_real(name: str, array: Any) -> Any:
    """Return the array in a floating-point type of at least single precision."""
    if isinstance(array, jax.ShapeDtypeStruct):
        return array
    if _kind(array) == "c":
        raise DataError(_complex(name, array.dtype))
    if _kind(array) != "f":
        return array.astype(jnp.result_type(float))
    if array.dtype.itemsize <= _HALF:
        return array.astype(np.float32)
    if array.dtype.itemsize > 8:  # long double
        return array.astype(np.float64)
    return array


def _is_list_of_numbers(state: Any) -> bool:
    return (
        isinstance(state, list)
        and bool(state)
        and all(isinstance(entry, int | float | np.number) or _is_list_of_numbers(entry) for entry in state)
    )


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
