"""Observations: values, mask, times, places, operator and error, all of them run-time arrays."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from diffassim.core import tree
from diffassim.core.errors import DataError, ShapeError, concrete
from diffassim.core.pytree import Pytree
from diffassim.observations.operators import Identity, as_operator

__all__ = ["Observations", "as_streams"]


class Observations(Pytree):
    r"""Observations \(y_i = H(x_{k_i}, w_i) + \varepsilon_i\), \(\varepsilon_i \sim N(0, R)\), of one stream.

    Every number is a run-time array: new values, times, places or masks of the same shape never compile anew. NaN
    means missing; missing entries are stored as zeros with `mask` False and have exactly no influence. Several kinds
    of observations are a tuple of `Observations`.

    Args:
        values: observed values with a leading time axis, shape (time, ...), or a pytree of such arrays.
        steps: model steps after the window start at which they are valid (0 is the window start itself), integers of
            shape (time,), in any order; repeated steps are allowed. With shape (window, time), as `split_windows`
            makes them, every array (R's as well) has a leading axis of windows, over which `cycle` or `vmap` runs.
        operator: observation operator H(x, where); a plain function will do. Default: the whole state.
        error: observation-error covariance R of one time, from `diffassim.covariances`.
        mask: True where observed, shaped like the values or broadcastable to them; None: wherever the value is finite.
        where: places (or other run-time arguments of H) with a leading time axis; None for operators without.
        loss: robust loss of the whitened departures, `Huber` or `VariationalQC`; None: Gaussian errors. It acts on
            each whitened component, so R should be uncorrelated.

    Raises:
        ShapeError: if leading axes do not agree.
        DataError: if a value is infinite, or a step is negative or not an integer.

    Example:
        >>> import diffassim as da
        >>> obs = da.Observations(np.array([[1.0, np.nan]]), steps=[0], error=da.covariances.Diagonal(std=1.0))
        >>> obs.mask.tolist(), int(obs.count())
        ([[True, False]], 1)
    """

    values: Any
    steps: Int[Array, " time"]
    operator: Any = Identity()
    error: Any = None
    mask: Any = None
    where: Any = None
    loss: Any = None

    def __post_init__(self) -> None:
        values = jax.tree.map(_as_float, self.values)
        with jax.ensure_compile_time_eval():
            steps = jnp.asarray(self.steps)
        if not jnp.issubdtype(steps.dtype, jnp.integer):
            known = concrete(steps)
            if known is None or np.any(known != np.round(known)):
                raise DataError(f"Observations: steps must be integers (model steps), found dtype {steps.dtype}")
        known = concrete(steps)
        if known is None:
            steps = steps.astype(jnp.int32)
        else:
            with jax.ensure_compile_time_eval():  # inside of jit as well, known steps stay known
                steps = jnp.asarray(known.astype(np.int32))
        if steps.ndim not in (1, 2):
            raise ShapeError(f"Observations: steps must have shape (time,) or (window, time), found {steps.shape}")
        if known is not None and known.size and known.min() < 0:
            raise DataError(f"Observations: step {known.min()} lies before the window start (step 0)")
        for name, given in (("values", values), ("where", self.where)):
            for leaf in jax.tree.leaves(given):
                if jnp.shape(leaf)[: steps.ndim] != steps.shape:
                    times = f"{steps.shape[0]} times" if steps.ndim == 1 else f"(windows, times) {steps.shape}"
                    raise ShapeError(
                        f"Observations: {name} has shape {jnp.shape(leaf)}, but steps has {times}; the first axis of "
                        "both is time"
                    )
        given = _broadcast_mask(self.mask, values)
        mask = jax.tree.map(_observed, values, given)
        for leaf in jax.tree.leaves(values):
            array = concrete(leaf)
            if array is not None and np.isinf(array).any():
                raise DataError(
                    f"Observations: values hold {np.isinf(array).sum()} infinite entries; use NaN for missing"
                )
        values = jax.tree.map(_filled, values, mask)
        if self.error is None:
            raise DataError("Observations: `error` is missing; give R, e.g. da.covariances.Diagonal(std=...)")
        first = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape[steps.ndim :], v.dtype), values)
        error = self.error if steps.ndim == 1 else _of_first_window(self.error, steps.shape[0])
        if hasattr(error, "check"):
            error.check("Observations.error", first)
        self._set(values=values, steps=steps, mask=mask, operator=as_operator(self.operator))

    def predict(self, states: Any) -> Any:
        """Return H(x_k) for states with a leading time axis, one state for each entry of `steps`."""
        if self.where is None:
            return jax.vmap(lambda x: self.operator(x))(states)
        return jax.vmap(lambda x, w: self.operator(x, w))(states, self.where)

    def innovation(self, states: Any, active: Any = None) -> Any:
        r"""Return the whitened, masked departures \(R^{-1/2}(y - H(x))\), zero where nothing was observed.

        With a robust loss they are transformed so that their squared norm is twice the loss.

        Args:
            states: states at `steps`, with a leading time axis.
            active: optional booleans of shape (time,): times that count.

        Returns:
            Pytree like `values`.

        Raises:
            ShapeError: if H returns something shaped unlike the values.
        """
        predicted = self.predict(states)
        self._check_prediction(predicted)
        mask = self.mask
        if active is not None:
            mask = jax.tree.map(lambda m: m & active.reshape((-1,) + (1,) * (m.ndim - 1)), mask)
        # Double where: a prediction that is not finite at a missing place must not reach the gradient.
        departure = jax.tree.map(
            lambda m, y, h: jnp.where(m, y - jnp.where(m, h, y), 0).astype(h.dtype), mask, self.values, predicted
        )
        whitened = self.error.masked(mask).whiten(departure)
        whitened = jax.tree.map(lambda m, r: jnp.where(m, r, 0), mask, whitened)
        return whitened if self.loss is None else jax.tree.map(self.loss, whitened)

    def count(self) -> Int[Array, ""]:
        """Return how many values are observed."""
        return sum((jnp.sum(m) for m in jax.tree.leaves(self.mask)), jnp.asarray(0))

    def _check_prediction(self, predicted: Any) -> None:
        if not tree.same_shapes(self.values, predicted):
            raise ShapeError(
                f"Observations: H(x) gives shape {tree.describe_shapes(predicted)} (with the time axis), but the "
                f"values have shape {tree.describe_shapes(self.values)}"
            )


def as_streams(observations: Any) -> tuple[Any, ...]:
    """Return observations as a tuple of streams, whether they are one `Observations` or a tuple of them."""
    return observations if isinstance(observations, tuple) else (observations,)


def _as_float(value: Any) -> Any:
    value = jnp.asarray(value)
    return value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(jnp.result_type(float))


def _of_first_window(error: Any, windows: int) -> Any:
    for leaf in jax.tree.leaves(error):
        if jnp.shape(leaf)[:1] != (windows,):
            raise ShapeError(
                f"Observations: error holds an array of shape {jnp.shape(leaf)}, but with {windows} windows all of its "
                "arrays need them as leading axis; set it before the record is split"
            )
    return jax.tree.map(lambda leaf: leaf[0], error)


# Known numbers are handled by NumPy: in JAX each of these operations would be a small program to compile.
def _broadcast(mask: Any, value: Any) -> Any:
    known = concrete(mask)
    if known is None:
        return jnp.broadcast_to(jnp.asarray(mask, bool), value.shape)
    return np.broadcast_to(known.astype(bool), value.shape)


def _observed(value: Any, mask: Any) -> Any:
    known, given = concrete(value), concrete(mask)
    return jnp.isfinite(value) & mask if known is None or given is None else jnp.asarray(np.isfinite(known) & given)


def _filled(value: Any, mask: Any) -> Any:
    known, observed = concrete(value), concrete(mask)
    if known is None or observed is None:
        return jnp.where(mask, value, 0)
    return jnp.asarray(np.where(observed, known, np.zeros((), known.dtype)))


def _broadcast_mask(mask: Any, values: Any) -> Any:
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
